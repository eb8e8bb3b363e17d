//! Arithmetic over slices: every fast kernel stands beside its naive definition.

pub mod class;
pub mod format;
pub mod map;

pub use class::Class;
pub use format::Format;
pub use map::Mapped;
