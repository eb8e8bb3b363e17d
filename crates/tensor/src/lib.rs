//! Arrays, their operations, and the files that store them.

pub mod files;
