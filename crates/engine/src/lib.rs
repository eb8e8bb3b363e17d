//! Runs many requests on one model.

pub mod rng;
pub mod sample;
pub mod softmax;
pub mod stop;
