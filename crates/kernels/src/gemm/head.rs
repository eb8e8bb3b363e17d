//! The head and its loss in bf16, fused: logits live only in the second cache.
//!
//! ```text
//! p_tv = e^(x_t . w_v - m_t), s_t = sum_v p_tv, f_t = scale weight_t / s_t
//! g_tv = bf16(p_tv - [v = target_t] s_t)
//! dx_t = f_t sum_v g_tv w_v,    dW_v += sum_t g_tv bf16(f_t x_t)
//! ```
//!
//! The shift m_t is the greatest of a row's first logits, which are there before the others. A row
//! whose sum outgrows it begins again with the greatest of all; softmax is the same for any shift.
//! Letters: T tokens, D width, V vocabulary. Factors are laid as in `backward`.
//!
//! With soft targets (`soft_targets`) the outputs that a row lists are taken out of its g and its sum, and come back in
//! f32: few of a row, each with a gradient of its own.

mod kernels;
mod pass;

use super::Packed;
use super::backward::BLOCK_TOKENS;
use crate::cross_entropy::{Loss, Targets};
use crate::soft_targets::Soft;
use crate::{Class, Cpu, Format};
use pass::{Room, Taught};
use std::ops::Range;

/// What the loss is a function of.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// Hidden states, `[T, D]`.
    pub x: &'a [f32],
    /// The head, `[V, D]`.
    pub w: &'a Packed,
    /// What rows should have said; without z-loss.
    pub targets: Targets<'a>,
    /// The tokens `0..T` in pieces of at most `BLOCK_TOKENS`: dW sums each on its own.
    pub blocks: &'a [Range<usize>],
}

/// Where gradients go.
pub struct HeadGrads<'a> {
    /// `[T, D]`, replaced.
    pub dx: &'a mut [f32],
    /// `[V, D]`, added to; `None` if the head is not trained.
    pub dw: Option<&'a mut [f32]>,
}

/// Tokens whose g is kept at once, at most: dW is read and written once for as many. A block of the
/// vocabulary 32,000 takes 16 MB.
const ROWS: usize = 2 * BLOCK_TOKENS;

/// Whether [`head_loss`] computes this head: bf16 without the tile unit, which sums in other steps.
pub fn fuses(class: Class, format: Format, z_loss: f32) -> bool {
    let vectors = match class {
        Class::Portable | Class::Avx2 | Class::Avx512 => true,
        Class::Amx => false,
    };
    vectors && format == Format::BF16 && z_loss == 0.0
}

/// Words of working memory for `tokens` tokens by a head of `vocab` x `width`.
pub fn scratch_words(tokens: usize, vocab: usize, width: usize, threads: usize) -> usize {
    let tokens = tokens.min(ROWS);
    let blocks = super::backward::blocks(1, tokens);
    Room::new(&blocks, vocab, width, threads).words(tokens)
}

/// Writes the nats of each row (0 where its weight is 0) and the gradients of the scaled loss.
///
/// Products and sums as in the head of this page. A row's nats and dx depend on that row alone;
/// dW adds block after block, so cutting a batch at their borders changes no bit. NaN or infinity in
/// a row make it NaN. Panics if `fuses` says no, lengths disagree, or a target is not below V.
pub fn head_loss(
    cpu: &Cpu,
    nats: &mut [f32],
    head: &Head<'_>,
    mut grads: Option<HeadGrads<'_>>,
) -> Loss {
    check(cpu, nats, head, &grads);
    let width = head.w.cols();
    let mut loss = Loss { nats: 0.0, z: 0.0 };
    let mut rest = head.blocks;
    while let Some(first) = rest.first() {
        let fit = rest.iter().take_while(|b| b.end - first.start <= ROWS).count().max(1);
        let (now, later) = rest.split_at(fit);
        rest = later;
        let rows = first.start..now[fit - 1].end;
        let blocks: Vec<Range<usize>> =
            now.iter().map(|b| b.start - rows.start..b.end - rows.start).collect();
        let (ids, weights) = (&head.targets.ids[rows.clone()], &head.targets.weights[rows.clone()]);
        let part = Head {
            x: &head.x[rows.start * width..rows.end * width],
            w: head.w,
            targets: Targets { ids, weights, ..head.targets },
            blocks: &blocks,
        };
        let grads = grads.as_mut().map(|grads| HeadGrads {
            dx: &mut grads.dx[rows.start * width..rows.end * width],
            dw: grads.dw.as_deref_mut(),
        });
        pass::run(cpu, &mut nats[rows.clone()], &part, None, grads);
        for (nats, weight) in nats[rows.clone()].iter().zip(part.targets.weights) {
            loss.nats += f64::from(*weight) * f64::from(*nats);
        }
    }
    loss
}

/// The same with soft targets, for the tokens of one block: writes the nats of each row to its target and to the
/// teacher, not weighted (0 where the weight is 0), and the gradients of the scaled loss.
///
/// One block at a time, so that what is added to dW has one order. Panics as [`head_loss`] and
/// [`crate::soft_targets::soft_cross_entropy`] do, or if there is not one block.
pub fn soft_head_loss(
    cpu: &Cpu,
    [nats, kl]: [&mut [f32]; 2],
    head: &Head<'_>,
    soft: &Soft<'_>,
    grads: Option<HeadGrads<'_>>,
) {
    check(cpu, nats, head, &grads);
    soft.check(nats.len(), head.w.rows());
    assert_eq!(head.blocks.len(), 1, "soft_head_loss: {} blocks", head.blocks.len());
    assert_eq!(kl.len(), nats.len(), "soft_head_loss: nats and kl differ in length");
    pass::run(cpu, nats, head, Some(Taught { soft, kl }), grads);
}

fn check(cpu: &Cpu, nats: &[f32], head: &Head<'_>, grads: &Option<HeadGrads<'_>>) {
    let (tokens, vocab, width) = (nats.len(), head.w.rows(), head.w.cols());
    assert!(fuses(cpu.class, head.w.format(), head.targets.z_loss), "head_loss: not such a head");
    assert!(vocab > 0 && width > 0, "head_loss: a head of {vocab} x {width}");
    assert_eq!(head.x.len(), tokens * width, "head_loss: x is not {tokens} x {width}");
    assert_eq!(head.targets.ids.len(), tokens, "head_loss: ids and nats differ in length");
    assert_eq!(head.targets.weights.len(), tokens, "head_loss: not one weight a target");
    let mut end = 0;
    for block in head.blocks {
        assert_eq!(block.start, end, "head_loss: a block does not follow the one before");
        assert!(block.end >= end, "head_loss: a block ends before it begins");
        assert!(block.len() <= BLOCK_TOKENS, "head_loss: a block of {} tokens", block.len());
        end = block.end;
    }
    assert_eq!(end, tokens, "head_loss: blocks of {end} tokens, not {tokens}");
    for (t, id) in head.targets.ids.iter().enumerate() {
        assert!((*id as usize) < vocab, "head_loss: target {id} of row {t}, vocabulary {vocab}");
    }
    if let Some(HeadGrads { dx, dw }) = grads {
        assert_eq!(dx.len(), tokens * width, "head_loss: dx is not {tokens} x {width}");
        let right = dw.as_ref().is_none_or(|dw| dw.len() == vocab * width);
        assert!(right, "head_loss: dW is not {vocab} x {width}");
    }
}

#[cfg(test)]
mod tests;
