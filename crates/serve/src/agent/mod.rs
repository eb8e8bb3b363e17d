//! Models that use tools: ask, run what is called, say what came of it, ask again.
//!
//! [`run`](run::run) is the loop, over closures for the model and for the tools, so that an engine, an endpoint and a
//! script drive the same one. [`voice`] is the model behind [`Host`](crate::Host); [`wording`] says to each chat format what
//! tools there are; [`tools`] are the tools, and [`benches`] those of each conversation; [`records`] keeps every step. docs/agents.md tells the whole.

pub mod benches;
pub mod calc;
pub mod config;
pub mod documents;
pub mod event;
pub mod functions;
pub mod mcp;
mod pdf;
mod python;
pub mod records;
pub mod run;
pub mod search;
pub mod tools;
pub mod voice;
pub mod wording;
mod xml;

pub use event::{Event, FileOut, Reason};
pub use run::{Agent, Limits, Rule, run};
pub use tools::{Ran, Tools};
pub use voice::{Turn, Voice};

/// Why an agent could not go on. What a tool fails with is no such error: the model is told.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The dialogue cannot be said to the model.
    #[error(transparent)]
    Chat(#[from] herd_codec::chat::ChatError),
    /// The engine refuses the prompt.
    #[error(transparent)]
    Request(#[from] herd_engine::RequestError),
    /// The model gave no answer.
    #[error("the model gave no answer: {0}")]
    Model(String),
    /// A list of tools, a rule or a file of tools is wrong.
    #[error("{what} is {got:?}, expected {expected}")]
    Value {
        /// What is wrong.
        what: &'static str,
        /// What it is.
        got: String,
        /// What it should be.
        expected: String,
    },
    /// A tool cannot be had.
    #[error("the tool {name}: {why}")]
    Tool {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// The record cannot be kept or read.
    #[error(transparent)]
    Db(#[from] crate::db::DbError),
    /// SQLite says so.
    #[error("the record: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A record holds no such run, or is damaged.
    #[error("the record: {0}")]
    Record(String),
}
