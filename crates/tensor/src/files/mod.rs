//! The files that store arrays: safetensors, GGUF and PyTorch, read through one [`Archive`].
//!
//! Files are hostile until read: each count, length and offset is held against the bytes that are
//! there before anything is allocated, and nothing in a file is ever executed. `docs/files.md`
//! says what is read, written and refused.

mod archive;
mod cursor;
mod dtype;
mod error;
mod folder;
pub mod gguf;
mod metadata;
mod new_folder;
mod pending;
pub mod pth;
pub mod safetensors;

pub use archive::{Archive, Kind, ShardAxis};
pub use dtype::{DType, TensorInfo};
pub use error::FileError;
pub use gguf::GgufWriter;
pub use metadata::{Array, FromValue, Metadata, Value};
pub use new_folder::NewFolder;
pub use pth::PthWriter;
pub use safetensors::{SafetensorsWriter, ShardedWriter};
