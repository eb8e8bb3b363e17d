//! Arithmetic over slices: every fast kernel stands beside its naive definition.

pub mod activation;
pub mod attention;
pub mod attention_backward;
pub mod blocks;
pub mod buffer;
pub mod class;
pub mod convert;
pub mod cpu;
pub mod cross_entropy;
mod dispatch;
pub mod embed;
pub mod format;
pub mod gemm;
mod lanes;
pub mod map;
pub mod math;
pub mod naive;
pub mod norm;
pub mod optimiser;
pub mod pool;
pub mod probe;
pub mod rope;
#[cfg(test)]
mod sample;
pub mod soft_targets;
pub mod softmax;
mod tiles;
pub mod top_k;

pub use class::Class;
pub use cpu::Cpu;
pub use format::Format;
pub use map::Mapped;
