//! Arrays, their operations, and the files that store them.

pub mod files;

/// How weights are stored, and how they are packed and unpacked: for the storeys above, which do
/// not see the kernels.
pub use herd_kernels::{Format, blocks};
