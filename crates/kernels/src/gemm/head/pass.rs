//! One pass of the fused head: rows in pieces by all outputs, then dW by groups of outputs.

mod soft;

use super::super::Packed;
use super::super::activations::Kind;
use super::super::backward::lay::{Compiled, Place};
use super::super::backward::{Rows, lay_blocks};
use super::super::layout::GROUP;
use super::kernels::{Entry, G_ROW, LOGITS, Row, STRIP_GROUPS, TILE};
use super::{Head, HeadGrads};
use crate::Class;
use crate::cpu::{Cpu, Parts};
use crate::lanes::Plain;
use crate::soft_targets::Soft;
use half::bf16;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};

/// What all tasks of a pass share.
pub(super) struct Pass<'a> {
    pub x: &'a [f32],
    pub w: &'a Packed,
    pub ids: &'a [u32],
    pub weights: &'a [f32],
    pub blocks: &'a [Range<usize>],
    pub width: usize,
    /// Pairs of columns.
    pub pairs: usize,
    /// Pairs of tokens, each block's last one half empty if its length is odd.
    pub steps: usize,
    /// Groups of outputs whose rows of dW stay in the second cache.
    pub chunk: usize,
    pub dx: Option<Parts<f32>>,
    /// g for dW: `[group][step][16 outputs]`, two tokens a word.
    pub kept: Option<Parts<u32>>,
    /// The outputs that are no part of g.
    pub listed: Option<soft::Listed<'a>>,
}

impl Pass<'_> {
    pub fn groups(&self) -> usize {
        self.w.rows().div_ceil(GROUP)
    }
}

/// Tokens of one task, all of one block.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub tokens: Range<usize>,
    /// The step of dW that its first token begins.
    pub step: usize,
}

/// The working memory of one piece.
pub(super) struct Desk<'a> {
    /// Hidden states in tiles of `TILE`.
    pub x: &'a mut [u32],
    /// A tile's rows where some have no weight.
    pub copy: &'a mut [f32],
    /// Rows of `LOGITS`.
    pub logits: &'a mut [f32],
    /// Sixteen sums a row.
    pub sums: &'a mut [f32],
    /// Rows of g over a strip of outputs, `G_ROW` words apart.
    pub g: &'a mut [u32],
    /// W over a strip, laid across.
    pub panels: &'a mut [u32],
    pub rows: &'a mut [Row],
}

/// Bytes of a piece's hidden states and their gradients, at most: three quarters of a second cache.
const PIECE_BYTES: usize = 768 << 10;
/// Bytes of the rows of dW that are summed block after block, at most.
const CHUNK_BYTES: usize = 160 << 10;

/// Sizes of the working memory.
pub(super) struct Room {
    width: usize,
    groups: usize,
    /// Steps of dW.
    steps: usize,
    /// Most tokens of a piece, in whole tiles.
    piece_len: usize,
    pieces: usize,
}

impl Room {
    pub fn new(blocks: &[Range<usize>], vocab: usize, width: usize, threads: usize) -> Room {
        let tokens = blocks.last().map_or(0, |b| b.end);
        let most = tokens.div_ceil(threads).min(PIECE_BYTES / (6 * width)).max(TILE);
        let cut = |b: &Range<usize>| b.len().div_ceil(b.len().div_ceil(most).max(1));
        let piece_len = blocks.iter().map(cut).max().unwrap_or(0).next_multiple_of(TILE);
        Room {
            width,
            groups: vocab.div_ceil(GROUP),
            steps: blocks.iter().map(|b| b.len().div_ceil(2)).sum(),
            piece_len,
            pieces: blocks.iter().map(|b| b.len().div_ceil(piece_len.max(1))).sum(),
        }
    }

    fn pieces(&self, blocks: &[Range<usize>]) -> Vec<Piece> {
        let (mut pieces, mut step) = (Vec::with_capacity(self.pieces), 0);
        for block in blocks {
            for from in block.clone().step_by(self.piece_len.max(1)) {
                let tokens = from..block.end.min(from + self.piece_len);
                pieces.push(Piece { tokens, step: step + (from - block.start) / 2 });
            }
            step += block.len().div_ceil(2);
        }
        pieces
    }

    /// Words of the parts of a desk, in their order.
    fn desk(&self) -> [usize; 6] {
        let len = self.piece_len;
        [
            len * self.width.div_ceil(2),
            TILE * self.width,
            len * LOGITS,
            len * GROUP,
            len * G_ROW,
            self.width.div_ceil(GROUP) * GROUP * (STRIP_GROUPS * GROUP / 2),
        ]
        .map(|words| words.next_multiple_of(GROUP))
    }

    fn desk_words(&self) -> usize {
        self.desk().iter().sum()
    }

    fn kept_words(&self) -> usize {
        self.groups * self.steps * GROUP
    }

    fn panel_words(&self) -> usize {
        self.width.div_ceil(GROUP) * self.steps * GROUP
    }

    pub fn words(&self, tokens: usize) -> usize {
        // Desks first, then in their place the scaled rows of dW.
        let rows = (tokens * self.width).next_multiple_of(GROUP) + self.panel_words();
        self.kept_words() + rows.max(self.pieces * self.desk_words()) + GROUP
    }
}

impl<'a> Desk<'a> {
    fn new(room: &Room, words: &'a mut [u32], rows: &'a mut [Row]) -> Desk<'a> {
        let [x, copy, logits, sums, g, _] = room.desk();
        let (x, words) = words.split_at_mut(x);
        let (copy, words) = words.split_at_mut(copy);
        let (logits, words) = words.split_at_mut(logits);
        let (sums, words) = words.split_at_mut(sums);
        let (g, panels) = words.split_at_mut(g);
        let tiles = rows.len().div_ceil(TILE) * TILE;
        Desk {
            x: &mut x[..tiles * room.width.div_ceil(2)],
            copy: bytemuck::cast_slice_mut(copy),
            logits: bytemuck::cast_slice_mut(logits),
            sums: bytemuck::cast_slice_mut(sums),
            g,
            panels,
            rows,
        }
    }
}

/// The nats of at most `ROWS` tokens, and their gradients.
pub(super) fn run(
    cpu: &Cpu,
    nats: &mut [f32],
    head: &Head<'_>,
    taught: Option<Taught<'_>>,
    grads: Option<HeadGrads<'_>>,
) {
    let (width, tokens) = (head.w.cols(), nats.len());
    let room = Room::new(head.blocks, head.w.rows(), width, cpu.pool.threads());
    let mut scratch = cpu.scratch();
    let words = room.words(tokens);
    if scratch.len() < words {
        scratch.resize(words, 0);
    }
    let line = scratch.as_ptr().align_offset(64);
    let (kept, desks) = scratch[line..].split_at_mut(room.kept_words());
    let (mut dx, dw) = grads.map_or((None, None), |grads| (Some(grads.dx), grads.dw));
    let mut listed = taught.as_ref().map_or(Vec::new(), |taught| vec![0.0; taught.soft.ids.len()]);
    let pass = Pass {
        x: head.x,
        w: head.w,
        ids: head.targets.ids,
        weights: head.targets.weights,
        blocks: head.blocks,
        width,
        pairs: width.div_ceil(2),
        steps: room.steps,
        chunk: (CHUNK_BYTES / (4 * GROUP * width)).clamp(1, 8),
        dx: dx.as_deref_mut().map(Parts::new),
        kept: dw.is_some().then(|| Parts::new(kept)),
        listed: taught.as_ref().map(|taught| soft::Listed::new(taught.soft, &mut listed)),
    };
    let mut rows = vec![Row::default(); tokens];
    walk(cpu, &pass, &room, desks, &mut rows);
    if let Some(Taught { soft, kl }) = taught {
        let settled = soft::settle(cpu, &pass, soft, head.targets.scale, &rows, &mut listed);
        for (t, settled) in settled.iter().enumerate() {
            (nats[t], kl[t]) = (settled.nats, settled.kl);
        }
        return soft::add(cpu, &pass, &settled, &listed, desks, dx, dw);
    }
    let scale = |t: usize| match pass.weights[t] {
        0.0 => 0.0,
        weight => (f64::from(weight * head.targets.scale) / rows[t].sum) as f32,
    };
    for (t, (nats, row)) in nats.iter_mut().zip(&rows).enumerate() {
        let log_sum = f64::from(row.shift) + crate::math::ln(row.sum);
        let live = pass.weights[t] != 0.0;
        *nats = if live { (log_sum - f64::from(row.logit)) as f32 } else { 0.0 };
    }
    let Some(dx) = dx else { return };
    crate::cpu::for_rows(cpu, dx, width, |t, dx| {
        finish_dx(dx, &pass, &rows[t], pass.ids[t], scale(t));
    });
    if let Some(dw) = dw {
        put_targets(&pass, &rows);
        add_columns(cpu, &pass, desks, scale, dw);
    }
}

/// All pieces by all outputs.
fn walk(cpu: &Cpu, pass: &Pass<'_>, room: &Room, desks: &mut [u32], rows: &mut [Row]) {
    let pieces = room.pieces(pass.blocks);
    let (desks, rows) = (Parts::new(desks), Parts::new(rows));
    cpu.pool.run(pieces.len(), |i| {
        let (piece, words) = (&pieces[i], room.desk_words());
        // SAFETY: each piece has its own desk and rows; `Cpu` checked the class.
        unsafe {
            let rows = rows.part(piece.tokens.start, piece.tokens.len());
            let mut desk = Desk::new(room, desks.part(i * words, words), rows);
            match cpu.lanes() {
                Class::Portable => Plain::piece(pass, piece, &mut desk),
                #[cfg(target_arch = "x86_64")]
                Class::Avx2 => Avx2::piece(pass, piece, &mut desk),
                #[cfg(target_arch = "x86_64")]
                Class::Avx512 | Class::Amx => Avx512::piece(pass, piece, &mut desk),
                #[cfg(not(target_arch = "x86_64"))]
                Class::Avx2 | Class::Avx512 | Class::Amx => unreachable!("checked by Cpu::new"),
            }
        }
    });
}

/// What a teacher says of the rows, and where their divergence from it goes.
pub(super) struct Taught<'a> {
    pub soft: &'a Soft<'a>,
    pub kl: &'a mut [f32],
}

/// The target's g: e^(logit - m) less the sum, rounded.
fn target_of(row: &Row) -> bf16 {
    let weight = f64::from(crate::math::exp::<false>(row.logit - row.shift));
    bf16::from_f32((weight - row.sum) as f32)
}

/// Puts the target's g in the place of its weight, and scales.
fn finish_dx(dx: &mut [f32], pass: &Pass<'_>, row: &Row, id: u32, scale: f32) {
    if scale == 0.0 {
        return dx.fill(0.0);
    }
    let more = target_of(row).to_f32() - row.weight;
    for (dx, w) in dx.iter_mut().zip(weights_of(pass, id)) {
        *dx = scale * (*dx + more * w);
    }
}

/// The weights of an output, in the order of columns.
fn weights_of<'a>(pass: &Pass<'a>, id: u32) -> impl Iterator<Item = f32> + use<'a> {
    let (group, lane) = (id as usize / GROUP, id as usize % GROUP);
    let words: &[u32] = bytemuck::cast_slice(pass.w.data.bytes());
    let words = &words[group * pass.pairs * GROUP..][..pass.pairs * GROUP];
    let pair = move |k: usize| words[k * GROUP + lane];
    (0..pass.width).map(move |k| f32::from_bits(pair(k / 2) >> (k % 2 * 16) << 16))
}

/// The same for dW.
fn put_targets(pass: &Pass<'_>, rows: &[Row]) {
    let kept = pass.kept.as_ref().expect("kept for dW");
    let mut from = 0;
    for block in pass.blocks {
        for t in block.clone().filter(|t| pass.weights[*t] != 0.0) {
            let (group, lane) = (pass.ids[t] as usize / GROUP, pass.ids[t] as usize % GROUP);
            let (step, half) = (from + (t - block.start) / 2, (t - block.start) % 2 * 16);
            let at = (group * pass.steps + step) * GROUP + lane;
            // SAFETY: no task runs.
            let word = unsafe { &mut kept.part(at, 1)[0] };
            let bits = u32::from(target_of(&rows[t]).to_bits());
            *word = *word & !(0xffff << half) | bits << half;
        }
        from += block.len().div_ceil(2);
    }
}

/// dW += g^T (scaled x), groups of outputs shared out.
fn add_columns(
    cpu: &Cpu,
    pass: &Pass<'_>,
    scratch: &mut [u32],
    scale: impl Fn(usize) -> f32 + Sync,
    dw: &mut [f32],
) {
    let (width, tokens) = (pass.width, pass.ids.len());
    let place = Place { kind: Kind::Pairs, rows: GROUP, steps: pass.steps };
    let (scaled, panels) = scratch.split_at_mut((tokens * width).next_multiple_of(GROUP));
    let scaled: &mut [f32] = bytemuck::cast_slice_mut(&mut scaled[..tokens * width]);
    crate::cpu::for_rows(cpu, scaled, width, |t, out| match scale(t) {
        0.0 => out.fill(0.0),
        scale => {
            let x = &pass.x[t * width..(t + 1) * width];
            out.iter_mut().zip(x).for_each(|(out, x)| *out = scale * x);
        }
    });
    let panels = &mut panels[..width.div_ceil(GROUP) * place.words()];
    lay_blocks(cpu, panels, pass.blocks, place, |out, at, col, block| {
        let x = Rows::F32(&scaled[block.start * width + col..block.end * width]);
        // SAFETY: `Cpu` checked the class.
        unsafe { by_compiled!(cpu, lay_saved(out, at, x, width, place)) }
    });
    let (groups, dw, panels) = (pass.groups(), Parts::new(dw), &*panels);
    // Four tasks a thread, so that they end together.
    let grain = groups.div_ceil(4 * cpu.pool.threads()).next_multiple_of(pass.chunk);
    cpu.pool.run(groups.div_ceil(grain), |task| {
        let groups = task * grain..groups.min((task + 1) * grain);
        // SAFETY: tasks write disjoint rows of dW; `Cpu` checked the class.
        unsafe {
            match cpu.lanes() {
                Class::Portable => Plain::columns(pass, groups, panels, dw.pointer()),
                #[cfg(target_arch = "x86_64")]
                Class::Avx2 => Avx2::columns(pass, groups, panels, dw.pointer()),
                #[cfg(target_arch = "x86_64")]
                Class::Avx512 | Class::Amx => Avx512::columns(pass, groups, panels, dw.pointer()),
                #[cfg(not(target_arch = "x86_64"))]
                Class::Avx2 | Class::Avx512 | Class::Amx => unreachable!("checked by Cpu::new"),
            }
        }
    });
}
