//! What a teacher adds to the plan of a run.

use super::weights::part_bytes;
use super::*;
use crate::distill::DistillConfig;
use crate::teacher::file_bytes;
use herd_data::{Check, Corpus};
use herd_model::names::all_parts;
use std::path::PathBuf;

/// The same with a teacher: what it takes in memory, and of the disk what it says of every target.
pub(super) fn beside(
    run: &RunConfig,
    distill: &DistillConfig,
    shape: &Config,
    threads: usize,
    plan: Plan,
) -> Plan {
    // One that cannot be opened is refused by those who load it.
    let Ok(checkpoint) = Checkpoint::open(&distill.teacher) else { return plan };
    let of = &checkpoint.config;
    let stored = |part| checkpoint.format(part).unwrap_or(format(run));
    let weights: u64 =
        all_parts(of).into_iter().map(|part| part_bytes(of, part, stored(part))).sum();
    let seq_len = sizes(run).iter().map(|size| size.seq_len).max().unwrap_or_default();
    let tokens = micro_tokens(run, seq_len);
    let mut play = Play {
        buffers: Vec::new(),
        shape: of,
        tokens,
        head: Top::Fused,
        valued: false,
        copies: None,
    };
    play.read();
    let buffers: u64 = play.buffers.iter().map(|(len, _)| 4 * *len as u64).sum();
    let takes = weights + buffers + scratch(run, of, seq_len, threads);
    let lists = 2 * (8 * distill.k * sizes(run).iter().map(|s| s.tokens).max().unwrap_or(0)) as u64;
    if distill.live {
        return Plan { teacher: takes + lists, ..plan };
    }
    // Before the student is there, and gone when it comes.
    let Plan { masters, weights: own, gradients, moments, activations, scratch, .. } = plan;
    let later = masters + own + gradients + moments + activations + scratch;
    let disk = plan.disk + file_bytes(targets(run), distill.k, shape.vocab);
    Plan { teacher: takes.saturating_sub(later) + lists, disk, ..plan }
}

/// Targets that a teacher is asked of: those of the shards, or about one for four bytes of the input.
fn targets(run: &RunConfig) -> u64 {
    let shards = run.data.shards.as_ref().and_then(|path| Corpus::open(path, Check::Tables).ok());
    if let Some(corpus) = shards {
        let sides = corpus.sources().iter().flat_map(|s| [&s.train, &s.validation]);
        return sides.map(|side| side.counts().tokens).sum();
    }
    let bytes = |path: &PathBuf| {
        let packed = path.extension().is_some_and(|kind| kind == "zst" || kind == "gz");
        let len = std::fs::metadata(path).map_or(0, |file| file.len());
        if packed { PACKED * len } else { len }
    };
    run.data.input.iter().map(bytes).sum::<u64>() / BYTES_A_TOKEN
}

/// Bytes of text a token, about; of dialogues fewer are learnt.
const BYTES_A_TOKEN: u64 = 4;
/// Bytes of text in a byte of a file that is packed, about.
const PACKED: u64 = 3;

impl Play<'_> {
    /// One micro-batch that is read and not learnt from, and the logits of some of its rows.
    fn read(&mut self) {
        let mut x = self.take(self.shape.width);
        for _ in 0..self.shape.layers {
            let y = self.forward_paused();
            self.give([x]);
            x = y;
        }
        let normed = self.take(self.shape.width);
        self.give([x]);
        let asked = self.take(self.shape.width);
        self.give([normed]);
        let some = self.take_len(self.tokens.min(HEAD_ROWS) * self.shape.width);
        self.logits(self.tokens);
        self.give([asked, some]);
    }
}
