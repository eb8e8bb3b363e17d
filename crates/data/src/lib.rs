//! Raw documents to mixed, packed batches of tokens.
//!
//! ```text
//! files --read--> documents --tokenize--> shards --mix--> documents in order --pack--> batches
//! ```
//!
//! | module | duty |
//! |---|---|
//! | [`read`] | text, JSON lines and Parquet as documents |
//! | [`mod@tokenize`] | documents to shards, taken up where it was stopped |
//! | [`shard`], [`manifest`] | the files of tokens, and what was put into them |
//! | [`corpus`] | a folder of shards, opened and checked |
//! | [`mix`] | which document comes next, by weights and seed |
//! | [`pack`] | documents to rows, and what that keeps, cuts, pads and drops |
//! | [`load`] | rows to batches, from any point on |
//! | [`dialogue`] | rows of messages and of preferences, and the ids learnt from them |
//! | [`validation`] | the documents held out, in fixed order |
//! | [`disk`] | files that are there whole or not at all |

pub mod batch;
pub mod corpus;
pub mod dialogue;
pub mod disk;
mod error;
mod hash;
pub mod load;
pub mod manifest;
pub mod mix;
pub mod pack;
mod pipeline;
pub mod read;
pub mod shard;
mod shuffle;
pub mod tokenize;
pub mod validation;

pub use batch::{Batch, Span};
pub use corpus::{Check, Corpus, Documents};
pub use error::{DataError, Fault};
pub use hash::Hash;
pub use load::{Cursor, Loader, LoaderConfig, Ramp};
pub use manifest::Manifest;
pub use mix::{MixSource, Mixture, Phase};
pub use pack::{Ends, Ledger, LongDocuments, Policy};
pub use read::{Document, RowId};
pub use shard::{Counts, Vocabulary};
pub use tokenize::{Progress, TokenizeOptions, count, tokenize};
pub use validation::Validation;
