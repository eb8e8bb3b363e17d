//! The HTTP door: requests in the shapes of other people's servers, answered by one engine.
//!
//! A request is read by the table of its shape (`fields`), becomes one inner form (`ask`), waits
//! for the thread that computes (`host`), and what comes back (`answer`) is written in its shape
//! again (`wire`). `door` keeps connections; docs/serving.md tells the whole.

pub mod about;
pub mod agent;
pub mod answer;
pub mod arena;
pub mod ask;
pub mod batches;
mod bodies;
mod course;
pub mod db;
pub mod door;
pub mod fields;
pub mod files;
pub mod forms;
mod hall;
pub mod host;
pub mod kept;
pub mod keys;
mod mcp;
pub mod offer;
mod openapi;
mod page;
mod patience;
pub mod refusal;
pub mod roster;
pub mod served;
mod strict;
pub mod tls;
pub mod wire;

pub use door::{Door, DoorError, Inside, LogFormat, Settings};
pub use host::Host;
pub use roster::Roster;
pub use served::Served;
