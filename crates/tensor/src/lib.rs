//! Arrays, their operations, and the files that store them.

mod device;
pub mod files;
pub mod ops;
mod param;
mod recode;
mod tape;
mod tensor;
mod weight;

pub use device::Device;
pub use herd_kernels::attention::{KvFormat, KvShape, Sequence};
pub use herd_kernels::gemm::backward::blocks as blocks_of;
pub use herd_kernels::pool::allowed_threads;
pub use herd_kernels::rope::{Scaling, inverse_frequencies};
pub use herd_kernels::{Class, Format, blocks};
pub use param::{Gain, Lora, Param};
pub use recode::{Recoded, recode};
pub use tape::Tape;
pub use tensor::Tensor;
pub use weight::Weight;
