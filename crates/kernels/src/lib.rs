//! Arithmetic over slices: every fast kernel stands beside its naive definition.

pub mod blocks;
pub mod buffer;
pub mod class;
pub mod cpu;
pub mod format;
pub mod gemm;
mod lanes;
pub mod pool;

pub use class::Class;
pub use cpu::Cpu;
pub use format::Format;
