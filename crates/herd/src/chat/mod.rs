//! The conversation at the terminal: what is typed, what has been said, how it is kept.

pub mod input;
pub mod reader;
pub mod session;
pub mod settings;
