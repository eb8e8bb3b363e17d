//! Arithmetic over slices: every fast kernel stands beside its naive definition.

pub mod activation;
pub mod class;
pub mod convert;
mod dispatch;
pub mod embed;
pub mod format;
pub mod math;
pub mod naive;
pub mod norm;
pub mod rope;
#[cfg(test)]
mod sample;
pub mod softmax;
pub mod top_k;

pub use class::Class;
pub use format::Format;
