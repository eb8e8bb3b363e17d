//! Arithmetic over slices: every fast kernel stands beside its naive definition.

pub mod blocks;
pub mod class;
pub mod format;

pub use class::Class;
pub use format::Format;
