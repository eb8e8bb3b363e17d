//! Llama as pages of mathematics.

pub mod checkpoint;
pub mod config;
pub mod convert;
pub mod error;
pub mod generation;
pub mod gguf;
pub mod hf;
mod json;
pub mod llama;
pub mod meta;
pub mod names;
mod nearest;
pub mod presets;
pub mod recipe;
pub mod save;

pub use checkpoint::{Checkpoint, Stored};
pub use config::{Config, Head, RopeScaling, Yarn};
pub use error::{CheckpointError, ConfigError};
pub use generation::GenerationDefaults;
pub use nearest::nearest;
