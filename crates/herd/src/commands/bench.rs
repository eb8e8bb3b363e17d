//! `herd bench`: tokens a second, in llama-bench's terms.

use std::time::Instant;

use herd_engine::score::Scorer;
use herd_kernels::{Cpu, attention::KvFormat};
use herd_model::Config;
use herd_model::llama::Llama;
use serde_json::json;

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags};
use crate::{machine, run};
