//! The outputs that rows list: taken out of the walk, settled by their definition, added in f32.

use super::super::kernels::Row;
use super::{Pass, add_columns, weights_of};
use crate::cpu::{Cpu, Parts, for_rows};
use crate::soft_targets::{Settled, Soft, Unlisted};
use std::ops::Range;

/// Where the logits of the listed outputs of each row go while the walk passes them.
pub(in super::super) struct Listed<'a> {
    k: usize,
    ids: &'a [u32],
    logits: Parts<f32>,
}

impl<'a> Listed<'a> {
    pub fn new(soft: &Soft<'a>, logits: &mut [f32]) -> Listed<'a> {
        Listed { k: soft.listed(), ids: soft.ids, logits: Parts::new(logits) }
    }

    /// Keeps those of row t among `outputs`, whose logits these are, and leaves nothing of them behind.
    ///
    /// # Safety
    ///
    /// No other task has the row.
    pub unsafe fn take(&self, t: usize, outputs: Range<usize>, logits: &mut [f32]) {
        let ids = &self.ids[t * self.k..(t + 1) * self.k];
        let from = ids.partition_point(|id| (*id as usize) < outputs.start);
        for (j, id) in ids.iter().enumerate().skip(from) {
            let Some(at) =
                (*id as usize).checked_sub(outputs.start).filter(|at| *at < outputs.len())
            else {
                return;
            };
            let logit = std::mem::replace(&mut logits[at], f32::NEG_INFINITY);
            // SAFETY: the caller's contract.
            unsafe { self.logits.part(t * self.k + j, 1)[0] = logit };
        }
    }
}

/// What each row loses; the logits of its listed outputs become their gradients.
pub(super) fn settle(
    cpu: &Cpu,
    pass: &Pass<'_>,
    soft: &Soft<'_>,
    scale: f32,
    rows: &[Row],
    listed: &mut [f32],
) -> Vec<Settled> {
    let mut settled = vec![Settled::default(); rows.len()];
    if soft.listed() == 0 {
        return settled;
    }
    let parts = Parts::new(&mut settled);
    for_rows(cpu, listed, soft.listed(), |t, logits| {
        let Row { shift, logit, sum, .. } = rows[t];
        let of = match pass.weights[t] {
            0.0 => {
                logits.fill(0.0);
                Settled::default()
            }
            weight => {
                // The target's logit was read before the list took it.
                let others = Unlisted { shift: f64::from(shift), sum };
                soft.settle(t, (pass.ids[t], logit), weight * scale, logits, others)
            }
        };
        // SAFETY: row t is given to one task, and so is its number.
        unsafe { parts.part(t, 1)[0] = of };
    });
    settled
}

/// The gradients: those of the walk by each row's factor, and the listed outputs one by one.
pub(super) fn add(
    cpu: &Cpu,
    pass: &Pass<'_>,
    settled: &[Settled],
    listed: &[f32],
    desks: &mut [u32],
    dx: Option<&mut [f32]>,
    dw: Option<&mut [f32]>,
) {
    let Some(dx) = dx else { return };
    let ones = ones(pass, settled, listed);
    for_rows(cpu, dx, pass.width, |t, dx| {
        if pass.weights[t] == 0.0 {
            return dx.fill(0.0);
        }
        let factor = settled[t].factor as f32;
        dx.iter_mut().for_each(|dx| *dx *= factor);
        for one in ones.of(t) {
            for (dx, w) in dx.iter_mut().zip(weights_of(pass, one.id)) {
                *dx += one.slope * w;
            }
        }
    });
    if let Some(dw) = dw {
        add_columns(cpu, pass, desks, |t| settled[t].factor as f32, dw);
        add_ones(cpu, pass, ones.all, dw);
    }
}

/// The gradient of one logit.
#[derive(Clone, Copy)]
struct One {
    id: u32,
    t: u32,
    slope: f32,
}

/// Those of all rows, row after row.
struct Ones {
    all: Vec<One>,
    starts: Vec<usize>,
}

impl Ones {
    fn of(&self, t: usize) -> &[One] {
        &self.all[self.starts[t]..self.starts[t + 1]]
    }
}

fn ones(pass: &Pass<'_>, settled: &[Settled], listed: &[f32]) -> Ones {
    let of = pass.listed.as_ref().expect("soft targets have lists");
    let (mut all, mut starts) = (Vec::with_capacity(listed.len() + settled.len()), vec![0]);
    for (t, settled) in settled.iter().enumerate() {
        if pass.weights[t] != 0.0 {
            let at = t * of.k..(t + 1) * of.k;
            let slopes = of.ids[at.clone()].iter().zip(&listed[at]);
            all.extend(slopes.map(|(id, slope)| One { id: *id, t: t as u32, slope: *slope }));
            if settled.own != 0.0 {
                all.push(One { id: pass.ids[t], t: t as u32, slope: settled.own });
            }
        }
        starts.push(all.len());
    }
    Ones { all, starts }
}

/// dW += slope x, each output's rows in the order of tokens; outputs shared out.
fn add_ones(cpu: &Cpu, pass: &Pass<'_>, mut ones: Vec<One>, dw: &mut [f32]) {
    ones.sort_unstable_by_key(|one| (one.id, one.t));
    let outputs: Vec<&[One]> = ones.chunk_by(|a, b| a.id == b.id).collect();
    let (width, dw) = (pass.width, Parts::new(dw));
    cpu.pool.run_ranges(outputs.len(), 1, |a, b| {
        for ones in &outputs[a..b] {
            // SAFETY: each output is given to one task.
            let dw = unsafe { dw.part(ones[0].id as usize * width, width) };
            for one in *ones {
                let x = &pass.x[one.t as usize * width..][..width];
                dw.iter_mut().zip(x).for_each(|(dw, x)| *dw += one.slope * x);
            }
        }
    });
}
