//! A Llama whose weights are trained: all of them, or additions of low rank beside frozen ones.

use super::{Llama, Loader, Parts};
use crate::checkpoint::Checkpoint;
use crate::names::{Part, all_parts};
use crate::{CheckpointError, Config, Head};
use herd_tensor::{Device, Format, Gain, Lora, Param, Tape, Weight};
use std::sync::Arc;

/// How weights are trained.
pub struct Training {
    /// Where operations are recorded.
    pub tape: Arc<Tape>,
    /// How products see the weights: BF16, or F32.
    pub format: Format,
    /// Whether a block's input alone is kept and the block runs again for its gradient.
    pub recompute: bool,
}

/// What a parameter is to its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Piece {
    /// The part itself.
    Whole,
    /// A of LoRA, [rank, inputs].
    LoraA,
    /// B of LoRA, [outputs, rank].
    LoraB,
}

/// A parameter and its name.
pub struct Named<'a> {
    /// The part of the model.
    pub part: Part,
    /// What it is to the part.
    pub piece: Piece,
    /// Its numbers.
    pub param: &'a Arc<Param>,
}

impl Llama {
    /// A Llama that is trained whole, from the numbers of its parts, row by row.
    ///
    /// Queries and keys have the order of Meta and GGUF, pairs (2i, 2i+1). `context` as for
    /// [`Llama::load`]. Panics if a part's numbers are not as many as its shape has.
    /// Errors: those of `numbers`.
    pub fn trainable<E>(
        config: &Config,
        device: &Device,
        context: usize,
        training: &Training,
        numbers: impl FnMut(Part) -> Result<Vec<f32>, E>,
    ) -> Result<Llama, E> {
        let mut parts = Trained { config, device, training, numbers };
        let llama = Llama::build(config, device, context, &mut parts)?;
        Ok(Llama { recompute: training.recompute, ..llama })
    }

    /// The frozen weights of a checkpoint under a head that scores, which is trained from these numbers; the checkpoint may have
    /// another head.
    ///
    /// Panics if the head's numbers are not as many as the model is wide. Errors: a part that cannot be read.
    pub fn scoring(
        checkpoint: &Checkpoint,
        device: &Device,
        context: usize,
        training: &Training,
        head: Vec<f32>,
    ) -> Result<Llama, CheckpointError> {
        let config = Config { head: Head::Score, ..checkpoint.config.clone() };
        let frozen = Loader { checkpoint, device };
        let mut parts = Scoring { frozen, training, head };
        let llama = Llama::build(&config, device, context, &mut parts)?;
        Ok(Llama { recompute: training.recompute, ..llama })
    }

    /// Freezes nothing more and puts a trained addition B A of this rank beside each target, which
    /// must be frozen. `numbers(part, piece, length)` gives A and B.
    ///
    /// Panics if a target has no matrix, or is trained already.
    pub fn add_lora(
        &mut self,
        training: &Training,
        targets: &[Part],
        rank: usize,
        alpha: f32,
        mut numbers: impl FnMut(Part, Piece, usize) -> Vec<f32>,
    ) {
        self.recompute = training.recompute;
        let (device, format) = (self.device.clone(), training.format);
        for &part in targets {
            let Some(weight) = self.weight_mut(part) else { panic!("{part:?} has no matrix") };
            assert!(weight.params().is_empty(), "{part:?} is trained already");
            let mut param = |piece, [rows, cols]: [usize; 2]| {
                let master = numbers(part, piece, rows * cols);
                let shape = [rows, cols];
                Weight::Trained(Param::matrix(&device, &training.tape, format, shape, master))
            };
            let a = param(Piece::LoraA, [rank, weight.cols()]);
            let b = param(Piece::LoraB, [weight.rows(), rank]);
            let (base, scale) = (weight.clone(), alpha / rank as f32);
            *weight = Weight::Lora(Arc::new(Lora { base, a, b, scale }));
        }
    }

    /// Puts a trained head that scores, of these D numbers, beside that of a language model.
    ///
    /// Panics if they are not as many, or it has one.
    pub fn add_score(&mut self, tape: &Arc<Tape>, numbers: Vec<f32>) {
        assert!(self.score.is_none(), "a second head that scores");
        let shape = [1, self.config.width];
        let head = Param::matrix(&self.device, tape, Format::F32, shape, numbers);
        self.score = Some(Weight::Trained(head));
    }

    /// The trained parameters, in the order of the model.
    pub fn params(&self) -> Vec<Named<'_>> {
        let mut named = Vec::new();
        let beside = (self.config.head == Head::Language).then_some(Part::Score);
        for part in all_parts(&self.config).into_iter().chain(beside) {
            match self.weight(part) {
                Some(Weight::Packed(_)) => {}
                Some(Weight::Trained(param)) => {
                    named.push(Named { part, piece: Piece::Whole, param });
                }
                Some(Weight::Lora(lora)) => {
                    for (piece, weight) in [(Piece::LoraA, &lora.a), (Piece::LoraB, &lora.b)] {
                        let params = weight.params().into_iter();
                        named.extend(params.map(|param| Named { part, piece, param }));
                    }
                }
                None => {
                    let param = self.gain(part).and_then(Gain::param);
                    named.extend(param.map(|param| Named { part, piece: Piece::Whole, param }));
                }
            }
        }
        named
    }

    fn weight(&self, part: Part) -> Option<&Weight> {
        Some(match part {
            Part::TokEmbd => &self.tok_embd,
            Part::Output => self.output.as_ref()?,
            Part::Score => self.score.as_ref()?,
            Part::Q(l) => &self.blocks[l].q,
            Part::K(l) => &self.blocks[l].k,
            Part::V(l) => &self.blocks[l].v,
            Part::O(l) => &self.blocks[l].o,
            Part::Gate(l) => &self.blocks[l].gate,
            Part::Up(l) => &self.blocks[l].up,
            Part::Down(l) => &self.blocks[l].down,
            Part::OutputNorm | Part::AttnNorm(_) | Part::FfnNorm(_) | Part::RopeFreqs => {
                return None;
            }
        })
    }

    pub(super) fn weight_mut(&mut self, part: Part) -> Option<&mut Weight> {
        Some(match part {
            Part::TokEmbd => &mut self.tok_embd,
            Part::Output => self.output.as_mut()?,
            Part::Score => self.score.as_mut()?,
            Part::Q(l) => &mut self.blocks[l].q,
            Part::K(l) => &mut self.blocks[l].k,
            Part::V(l) => &mut self.blocks[l].v,
            Part::O(l) => &mut self.blocks[l].o,
            Part::Gate(l) => &mut self.blocks[l].gate,
            Part::Up(l) => &mut self.blocks[l].up,
            Part::Down(l) => &mut self.blocks[l].down,
            Part::OutputNorm | Part::AttnNorm(_) | Part::FfnNorm(_) | Part::RopeFreqs => {
                return None;
            }
        })
    }

    fn gain(&self, part: Part) -> Option<&Gain> {
        match part {
            Part::OutputNorm => Some(&self.output_norm.w),
            Part::AttnNorm(l) => Some(&self.blocks[l].attn_norm.w),
            Part::FfnNorm(l) => Some(&self.blocks[l].ffn_norm.w),
            Part::TokEmbd | Part::Output | Part::Score | Part::RopeFreqs => None,
            Part::Q(_) | Part::K(_) | Part::V(_) | Part::O(_) => None,
            Part::Gate(_) | Part::Up(_) | Part::Down(_) => None,
        }
    }
}

/// Frozen parts, and a head that scores.
struct Scoring<'a> {
    frozen: Loader<'a>,
    training: &'a Training,
    head: Vec<f32>,
}

impl Parts for Scoring<'_> {
    type Error = CheckpointError;

    fn weight(&mut self, part: Part) -> Result<Weight, CheckpointError> {
        if part != Part::Score {
            return self.frozen.weight(part);
        }
        let (device, tape) = (self.frozen.device, &self.training.tape);
        let (head, width) = (std::mem::take(&mut self.head), self.frozen.checkpoint.config.width);
        Ok(Weight::Trained(Param::matrix(device, tape, Format::F32, [1, width], head)))
    }

    fn gain(&mut self, part: Part) -> Result<Gain, CheckpointError> {
        self.frozen.gain(part)
    }
}

/// Parts that are all trained.
struct Trained<'a, F> {
    config: &'a Config,
    device: &'a Device,
    training: &'a Training,
    numbers: F,
}

impl<E, F: FnMut(Part) -> Result<Vec<f32>, E>> Parts for Trained<'_, F> {
    type Error = E;

    fn weight(&mut self, part: Part) -> Result<Weight, E> {
        let shape = part.shape(self.config);
        let Training { tape, format, .. } = self.training;
        let master = (self.numbers)(part)?;
        let shape = [shape[0], shape[1]];
        // One row of the whole model costs nothing, and all of a reward passes through it.
        let format = if part == Part::Score { Format::F32 } else { *format };
        Ok(Weight::Trained(Param::matrix(self.device, tape, format, shape, master)))
    }

    fn gain(&mut self, part: Part) -> Result<Gain, E> {
        let Training { tape, format, .. } = self.training;
        Ok(Gain::Trained(Param::vector(self.device, tape, *format, (self.numbers)(part)?)))
    }
}
