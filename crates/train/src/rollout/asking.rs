//! The prompts of a run: those it learns from and those held out, and in which order they come.

use crate::config::{Long, RunConfig};
use crate::error::TrainError;
use crate::rejection::prompts::{self, Prompt, Prompts};
use crate::words::Words;
use herd_data::Hash;
use herd_engine::rng::uniform;
use std::collections::BTreeMap;

/// A prompt, and its ids.
pub(super) struct Asking {
    pub prompt: Prompt,
    pub ids: Vec<u32>,
}

/// All prompts.
pub(super) struct Askings {
    /// Those that are learnt from.
    pub train: Vec<Asking>,
    /// Those that are not.
    pub held: Vec<Asking>,
    /// Rows left out, by the reason.
    pub dropped: BTreeMap<String, u64>,
    /// The hash of all files.
    pub hash: Hash,
    seed: u64,
}

/// Streams of what is drawn beside tokens.
const HELD: u64 = u64::MAX;
const ORDER: u64 = 1 << 32;

impl Askings {
    /// Reads and renders all prompts of a run.
    ///
    /// Errors: input that cannot be read or asks nothing, a prompt that leaves no room for an answer where such are
    /// refused, or nothing to learn from.
    pub fn open(config: &RunConfig, words: &Words) -> Result<Askings, TrainError> {
        let (input, scores) = (&config.data.input, config.score.as_deref().unwrap_or_default());
        let chat = config.chat.as_ref().expect("stages over prompts have one");
        let spoken = words.chat.as_ref().expect("stages over prompts have one");
        let mut read = Prompts::open(input, chat, scores)?;
        let most = config.rollout.as_ref().map_or(0, |rollout| rollout.max_tokens);
        let places = config.batch.seq_len + 1;
        let (mut train, mut held) = (Vec::new(), Vec::new());
        while let Some(prompt) = read.next()? {
            let ids = match prompt.render(spoken, &words.tokenizer, None) {
                Ok(ids) => ids,
                Err(fault) if chat.skip_bad => {
                    read.drop(fault.reason());
                    continue;
                }
                Err(fault) => {
                    let Prompt { file, row, .. } = prompt;
                    let error = format!("row {row} of {file}: {fault}");
                    return Err(TrainError::Sample { error });
                }
            };
            let tokens = ids.len() + most;
            match config.data.long {
                _ if tokens <= places => {
                    // By its words, so that a question that comes twice is on one side.
                    let word = Hash::of(prompt.id.as_bytes()).word();
                    let side = match uniform(word, HELD, 0) < config.data.validation_share {
                        true => &mut held,
                        false => &mut train,
                    };
                    side.push(Asking { prompt, ids });
                }
                Long::Refuse => {
                    let (path, row) = (prompt.file.into(), prompt.row);
                    let (others, whole) = (0, true);
                    return Err(TrainError::Long { path, row, tokens, places, others, whole });
                }
                Long::Drop | Long::Shorten | Long::Split => read.drop("too_long"),
            }
        }
        if train.is_empty() {
            return Err(TrainError::no("data.input", "no prompt to learn from", "at least one"));
        }
        let hash = prompts::hash(input)?;
        Ok(Askings { train, held, dropped: read.dropped, hash, seed: config.seed })
    }

    /// The prompts at some places of the endless order: all of them, each time in another order.
    pub fn at(&self, first: u64, count: usize) -> Vec<usize> {
        let n = self.train.len() as u64;
        let mut orders: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        let mut one = |place: u64| {
            let epoch = place / n;
            let order = orders.entry(epoch).or_insert_with(|| self.order(epoch));
            order[(place % n) as usize]
        };
        (first..first + count as u64).map(&mut one).collect()
    }

    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.train.len()).collect();
        let key = |i: &usize| uniform(self.seed, ORDER + epoch, *i as u64);
        order.sort_by(|a, b| key(a).total_cmp(&key(b)));
        order
    }
}
