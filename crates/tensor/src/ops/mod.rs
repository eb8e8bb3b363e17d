//! Coarse operations, one file each: the formula, its shapes, and the choice of the device.
//!
//! Letters: T tokens (packed), D width, H heads, G key/value heads, K head width, F feed-forward.

mod add;
mod attention;
mod embed;
mod linear;
mod rms_norm;
mod rope;
mod swiglu;

pub use attention::{KvCache, attention};
pub use embed::embed;
pub use linear::{linear, linears};
pub use rms_norm::rms_norm;
pub use rope::{Positions, rope};
pub use swiglu::swiglu;
