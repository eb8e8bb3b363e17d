//! The stages that change weights.

pub mod adapter;
pub mod anneal;
pub mod average;
pub mod config;
mod error;
mod export;
pub mod extend_context;
mod init;
pub mod metrics;
pub mod needle;
pub mod optimizer;
pub mod plan;
pub mod presets;
pub mod pretrain;
pub mod report;
pub mod runs;
mod sample;
pub mod schedule;
pub mod sft;
pub mod spikes;
pub mod state;
pub mod step;
pub mod tensorboard;
pub mod trainer;
pub mod validate;
mod words;

pub use config::RunConfig;
pub use error::TrainError;
pub use export::export;
pub use init::{lora as first_lora, numbers as first_numbers};
pub use optimizer::{Optimizer, OptimizerConfig};
pub use pretrain::pretrain;
pub use sft::sft;
pub use step::{Micro, Sums, accumulate};
pub use trainer::{Event, Inputs, Trainer, network};
pub use words::{Chat, Words};
