//! Coarse operations, one file each: the formula, its shapes, and the choice of the device.
//!
//! Letters: T tokens (packed), D width, H heads, G key/value heads, K head width, F feed-forward.

mod adamw;
mod add;
mod attention;
mod distill;
mod embed;
mod linear;
mod loss;
mod recompute;
mod rms_norm;
mod rope;
mod swiglu;

pub use adamw::{AdamW, Moments, adamw, gradient_square};
pub use attention::{Branching, Documents, Keys, KvCache, attention};
pub use distill::{Likeliest, Taught, Teacher, distill, likeliest};
pub use embed::embed;
pub use linear::{linear, linears, linears_back_bytes};
pub use loss::{Loss, Targets, cross_entropy, fused_head_bytes};
pub use recompute::recompute;
pub use rms_norm::rms_norm;
pub use rope::{Positions, rope};
pub use swiglu::swiglu;
