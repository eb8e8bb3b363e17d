//! The bytes of a run's weights: all trained, or additions beside frozen ones.

use crate::adapter;
use crate::config::{LoraConfig, RunConfig};
use herd_model::names::{Part, all_parts};
use herd_model::{Checkpoint, Config, Head};
use herd_tensor::{Format, Weight};
use std::path::Path;

/// Trained numbers, bytes of weights as products read them, and numbers of an embedding that is the
/// head as well: it has sums for both uses.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub params: u64,
    pub weights: u64,
    pub looked_up: u64,
}

pub(super) fn whole(shape: &Config, format: Format) -> Sizes {
    let weights = all_parts(shape).into_iter().map(|part| part_bytes(shape, part, format)).sum();
    let looked_up = if shape.tied && shape.head == Head::Language {
        (shape.vocab * shape.width) as u64
    } else {
        0
    };
    Sizes { params: shape.params(), weights, looked_up }
}

/// Those of a checkpoint; one that cannot be opened is refused by those who load it.
pub(super) fn of_checkpoint(path: &Path, format: Format) -> Option<Sizes> {
    Some(whole(&Checkpoint::open(path).ok()?.config, format))
}

/// LoRA trains its additions alone; the base lies in memory as its checkpoint stores it.
pub(super) fn beside_frozen(
    run: &RunConfig,
    lora: &LoraConfig,
    shape: &Config,
    format: Format,
) -> Sizes {
    let base = run.model.init.as_ref().and_then(|path| Checkpoint::open(path).ok());
    let stored = |part| base.as_ref().and_then(|base| base.format(part).ok()).unwrap_or(format);
    let frozen: u64 =
        all_parts(shape).into_iter().map(|part| part_bytes(shape, part, stored(part))).sum();
    // Settings that are out of bounds are refused by those who load the model.
    let targets = adapter::parts(lora, shape).unwrap_or_default();
    let added = |part: &Part| lora.rank * part.shape(shape).iter().sum::<usize>();
    let head = if shape.head == Head::Score { shape.width } else { 0 };
    let params = (targets.iter().map(added).sum::<usize>() + head) as u64;
    Sizes { params, weights: frozen + 4 * params, looked_up: 0 }
}

pub(super) fn part_bytes(shape: &Config, part: Part, format: Format) -> u64 {
    match part.shape(shape)[..] {
        [rows, cols] => Weight::bytes_of(format, rows, cols) as u64,
        ref gains => gains.iter().product::<usize>() as u64 * 4,
    }
}
