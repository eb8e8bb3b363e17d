//! The stages that change weights.

pub mod optimizer;
pub mod step;

pub use optimizer::{Optimizer, OptimizerConfig};
pub use step::{Micro, Sums, accumulate};
