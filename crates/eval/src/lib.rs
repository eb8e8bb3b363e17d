//! Measures a model: a benchmark is a page, each answer a receipt, each score has its interval.
//!
//! ```text
//! rows --task--> items --ids--> queries --model--> answers --scorer--> receipts --count--> results
//! ```
//!
//! | module | duty |
//! |---|---|
//! | [`task`] | what a benchmark asks, as a page of settings and templates |
//! | `rows` | where its rows lie, and what becomes of them before they are asked |
//! | [`catalogue`] | the pages that come with Herd |
//! | [`robust`] | a task in other words, to see what its score hangs on |
//! | [`yaml`] | plain pages of lm-evaluation-harness |
//! | [`template`] | the language of their templates |
//! | [`item`] | rows to questions, with their examples |
//! | [`query`] | questions to token ids |
//! | [`local`] | a model of this machine that answers |
//! | [`remote`] | what an endpoint is asked, and what its answers say |
//! | [`score`] | answers to numbers |
//! | [`suite`] | the loop over items: receipts, taken up where it was stopped |
//! | [`results`] | receipts to scores |
//! | [`view`] | receipts to look at |
//! | [`stats`] | intervals, and differences of pairs |
//! | [`beside`] | models side by side: tables and pictures |
//! | [`arena`] | votes between pairs of answers: wins, ratings, judges |
//! | [`contamination`] | which items the training shards hold, and what that is worth |
//! | [`right`] | how likely right answers are, for forecasts |

pub mod arena;
pub mod beside;
pub mod catalogue;
pub mod contamination;
mod error;
pub mod item;
pub mod local;
pub mod query;
pub mod remote;
pub mod results;
pub mod right;
pub mod robust;
mod rows;
pub mod score;
pub mod stats;
pub mod suite;
pub mod task;
pub mod template;
pub mod view;
pub mod yaml;

pub use error::EvalError;
pub use task::Task;
