//! The HTTP door: requests in the shapes of other people's servers, answered by one engine.
//!
//! A request is read by the table of its shape (`fields`), becomes one inner form (`ask`), waits
//! for the thread that computes (`host`), and what comes back (`answer`) is written in its shape
//! again (`wire`). `door` keeps connections; docs/serving.md tells the whole.

pub mod about;
pub mod answer;
pub mod ask;
pub mod door;
pub mod fields;
pub mod forms;
mod hall;
pub mod host;
pub mod kept;
mod patience;
pub mod refusal;
pub mod served;
pub mod wire;

pub use door::{Door, DoorError, Inside, Settings};
pub use host::Host;
pub use served::Served;
