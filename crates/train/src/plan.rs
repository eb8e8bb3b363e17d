//! What a run takes of memory and disk, by part, told before any of it is taken.
//!
//! Tensors are counted by playing a micro-batch through the same rule by which a device lends
//! buffers (the smallest that is large enough, else a new one for the largest too small), in the
//! order in which the model's page takes and gives them. So the count is that of the run.

use crate::config::{Precision, RunConfig};
use crate::rollout;
use crate::schedule::{self, Size};
use herd_engine::{Limits, plan as engine};
use herd_model::{Checkpoint, Config};
use herd_tensor::ops::linears_back_bytes;
use herd_tensor::{Format, KvFormat};
use std::path::PathBuf;
use std::sync::OnceLock;
use weights::{Sizes, beside_frozen, of_checkpoint, whole};

mod round;
mod sample;
mod teacher;
mod weights;

pub use round::{Stage, round};
pub use sample::{Model, SamplePlan, Sampling};

/// Bytes by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// f32 masters.
    pub masters: u64,
    /// The weights as products read them.
    pub weights: u64,
    /// Sums of gradients.
    pub gradients: u64,
    /// The optimiser's two moments.
    pub moments: u64,
    /// Tensors of a micro-batch, kept and passing.
    pub activations: u64,
    /// What kernels lay beside them.
    pub scratch: u64,
    /// What gives and judges answers, of stages that learn from their own.
    pub answers: u64,
    /// The batch, the tokenizer, the program.
    pub rest: u64,
    /// The teacher of `distill` and what it takes: beside all else where it is live, else what it takes more, before.
    pub teacher: u64,
    /// A checkpoint on the disk.
    pub checkpoint: u64,
    /// All that the run keeps on the disk at once, the shards left out.
    pub disk: u64,
}

impl Plan {
    /// Memory at the peak.
    pub fn peak(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// The parts of the peak and their names.
    pub fn parts(&self) -> [(&'static str, u64); 9] {
        [
            ("masters", self.masters),
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("moments", self.moments),
            ("activations", self.activations),
            ("scratch", self.scratch),
            ("answers", self.answers),
            ("rest", self.rest),
            ("teacher", self.teacher),
        ]
    }
}

/// The plan of a run of a network of this shape on so many threads.
pub fn plan(run: &RunConfig, shape: &Config, threads: usize) -> Plan {
    let format = match run.precision.weights {
        Precision::Bf16 => Format::BF16,
        Precision::F32 => Format::F32,
    };
    let Sizes { params, weights, looked_up } = match &run.model.lora {
        None => whole(shape, format),
        Some(lora) => beside_frozen(run, lora, shape, format),
    };
    // A value head is trained beside the model, and is no part of it.
    let values = if run.ppo.is_some() { shape.width as u64 } else { 0 };
    let stored = if format == Format::BF16 { 2 } else { 4 };
    let checkpoint = params * (stored + 12) + 12 * values;
    let kept = run.checkpoint.keep_last as u64 + 1;
    let forever = match run.checkpoint.keep_every {
        0 => 0,
        every => run.optim.steps / every,
    };
    let sizes = sizes(run);
    let most = |f: &dyn Fn(usize) -> u64| {
        sizes.iter().map(|size| f(size.seq_len)).max().unwrap_or_default()
    };
    // A reference has no gradient. Beside the policy it counts with it, else it is gone before the policy comes.
    let live = run.dpo.as_ref().is_some_and(|dpo| dpo.live);
    let kept_beside = run.rollout.is_some() && run.way().has_reference();
    let other = run.dpo.as_ref().and_then(|dpo| of_checkpoint(dpo.reference.as_ref()?, format));
    let (masters_beside, weights_beside) = match other {
        _ if !live && !kept_beside => (0, 0),
        Some(of) => (4 * of.params, of.weights),
        None => (4 * params, weights),
    };
    let mut plan = Plan {
        masters: 4 * params + masters_beside + 4 * values,
        weights: weights + weights_beside + 4 * values,
        gradients: 4 * (params + looked_up + values),
        moments: 8 * (params + values),
        activations: most(&|seq_len| activations(run, shape, seq_len)),
        scratch: most(&|seq_len| scratch(run, shape, seq_len, threads)),
        answers: answers(run, shape),
        rest: program() + HEAP + TOKEN * shape.vocab as u64 + batch(&sizes) + texts(run),
        teacher: 0,
        checkpoint,
        disk: checkpoint * (kept + forever),
    };
    if let Some(of) = other.filter(|_| !live) {
        let Plan { masters, weights, gradients, moments, .. } = plan;
        plan.teacher =
            (4 * of.params + of.weights).saturating_sub(masters + weights + gradients + moments);
    }
    match &run.distill {
        Some(distill) => teacher::beside(run, distill, shape, threads, plan),
        None => plan,
    }
}

/// What answers take: the engine's pages and tensors, and the reward models that judge.
fn answers(run: &RunConfig, shape: &Config) -> u64 {
    if run.rollout.is_none() {
        return 0;
    }
    let judges = run.score.iter().flatten().filter_map(|score| score.judge.model());
    let judge = |path: &PathBuf| {
        let limits = Limits { kv: KvFormat::F32, ..Limits::single(2048) };
        // One that cannot be opened is refused by those who load it.
        let plan = Checkpoint::open_any(path).and_then(|judge| engine::Plan::new(&judge, limits));
        plan.map_or(0, |plan| plan.peak() as u64)
    };
    let engine = engine::beside_weights(shape, rollout::limits(run, usize::MAX)) as u64;
    engine + judges.map(judge).sum::<u64>()
}

/// What a run could change to take less, from the cheapest on, and the plan that it would have.
///
/// One row at a time changes no bit and hardly the speed; recomputing changes no bit and costs a
/// third; bf16 for f32 changes numbers; shorter rows change what is learnt.
pub fn savings(run: &RunConfig, shape: &Config, threads: usize) -> Vec<(String, Plan)> {
    let mut changed = run.clone();
    let mut words = Vec::new();
    let mut savings = Vec::new();
    let mut try_next = |changed: &RunConfig, word: String| {
        words.push(word);
        savings.push((words.join(" "), plan(changed, shape, threads)));
    };
    if run.batch.micro_tokens > run.batch.seq_len {
        changed.batch.micro_tokens = run.batch.seq_len;
        try_next(&changed, format!("--set batch.micro_tokens={}", run.batch.seq_len));
    }
    if !run.precision.recompute {
        changed.precision.recompute = true;
        try_next(&changed, "--set precision.recompute=true".into());
    }
    if run.precision.weights == Precision::F32 {
        changed.precision.weights = Precision::Bf16;
        try_next(&changed, "--set precision.weights=bf16".into());
    }
    savings
}

/// Pages of the program and its libraries that a run touches: those that are touched by now, and `LATER`.
///
/// How many pages come with one that is touched depends on how the program's file lies in the system's cache, so that
/// 10 to 14 MB are in memory by now.
fn program() -> u64 {
    static NOW: OnceLock<u64> = OnceLock::new();
    *NOW.get_or_init(|| touched().unwrap_or(12_000_000)) + LATER
}

/// What a run touches of the program after its plan is made: 3.6 to 4.6 MB.
const LATER: u64 = 4_100_000;

/// Bytes of the program's file and its libraries that are in memory now; none where the system does not tell.
fn touched() -> Option<u64> {
    let program = std::env::current_exe().ok()?;
    let maps = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let (mut ours, mut bytes) = (false, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") if ours => bytes += words.next()?.parse::<u64>().ok()? * 1024,
            Some(word) if word.ends_with(':') => {}
            // The first line of a mapping ends with its file.
            _ => ours = line.ends_with(&*program.to_string_lossy()) || line.contains(".so"),
        }
    }
    (bytes > 0).then_some(bytes)
}

/// What is left when all else is taken from what a run holds: 2 to 5 MB over the runs of
/// `scripts/check-plan.py`, free in the allocator or read from files.
const HEAP: u64 = 2_700_000;

/// Freed after the run's own input was tokenized and kept by the allocator: 3 to 9 MB, by chance of
/// the threads.
const TEXTS: u64 = 6_300_000;

/// That, if it has any.
fn texts(run: &RunConfig) -> u64 {
    if run.data.input.is_empty() { 0 } else { TEXTS }
}

/// Bytes a token of the vocabulary takes in the tokenizer.
const TOKEN: u64 = 400;

fn sizes(run: &RunConfig) -> Vec<Size> {
    let first = schedule::size(&run.batch, 0);
    let ramp = run.batch.ramp.iter();
    let ramp = ramp.map(|r| Size { tokens: r.tokens, seq_len: r.seq_len });
    std::iter::once(first).chain(ramp).collect()
}

/// Batches: the one at hand and those read ahead, five numbers a token.
fn batch(sizes: &[Size]) -> u64 {
    4 * 20 * sizes.iter().map(|size| size.tokens as u64).max().unwrap_or_default()
}

/// Tokens that pass through the model at once.
fn micro_tokens(run: &RunConfig, seq_len: usize) -> usize {
    let size = sizes(run).into_iter().find(|size| size.seq_len == seq_len);
    let rows = size.map_or(1, |size| size.tokens / seq_len);
    (run.batch.micro_tokens / seq_len).clamp(1, rows.max(1)) * seq_len
}

/// Bytes of all buffers after micro-batches of rows of `seq_len` tokens: so many that no more are
/// taken, since a second one finds other buffers free than the first.
pub fn activations(run: &RunConfig, shape: &Config, seq_len: usize) -> u64 {
    let tokens = micro_tokens(run, seq_len);
    let fused = head_bytes(run, shape, tokens, 1).is_some();
    let head = match (&run.reward, &run.distill) {
        (Some(_), _) => Top::Scores,
        (None, Some(distill)) => Top::Taught { fused, cooled: distill.temperature != 1.0 },
        (None, None) if fused => Top::Fused,
        (None, None) => Top::Logits { again: run.dpo.is_some() || run.rollout.is_some() },
    };
    played(run, shape, seq_len, head, copies(run, tokens))
}

/// Rows that attention sees where answers share a prompt: of two, at most twice as many as there are. Of three it could be
/// three times, were all of them nothing beside their prompts.
fn copies(run: &RunConfig, tokens: usize) -> Option<usize> {
    run.reward.as_ref().map(|_| 2 * tokens)
}

fn played(
    run: &RunConfig,
    shape: &Config,
    seq_len: usize,
    head: Top,
    copies: Option<usize>,
) -> u64 {
    let tokens = micro_tokens(run, seq_len);
    let valued = run.ppo.is_some();
    let mut play = Play { buffers: Vec::new(), shape, tokens, head, valued, copies };
    let mut bytes = 0;
    loop {
        play.step(run.precision.recompute, seq_len);
        let taken: u64 = play.buffers.iter().map(|(len, _)| 4 * *len as u64).sum();
        if taken == bytes {
            return bytes;
        }
        bytes = taken;
    }
}

/// What kernels lay beside tensors: the factors of a product, or the sums of attention's heads,
/// which share one place; keys and values for attention; what each thread has for itself.
fn scratch(run: &RunConfig, shape: &Config, seq_len: usize, threads: usize) -> u64 {
    let Config { width, heads, kv_heads, head_dim, ffn_width, vocab, .. } = *shape;
    let tokens = micro_tokens(run, seq_len);
    let narrow = run.precision.weights == Precision::Bf16;
    let bytes = if narrow { 2 } else { 4 };
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let products: [(&[usize], usize); 4] = [
        (&[q, kv, kv], width),
        (&[width], q),
        (&[ffn_width, ffn_width], width),
        (&[width], ffn_width),
    ];
    let head = match (&run.reward, head_bytes(run, shape, tokens, threads)) {
        (Some(_), _) => laid(tokens, 1, width, 4),
        (None, Some(bytes)) => bytes as usize,
        (None, None) => laid(seq_len.min(HEAD_ROWS), vocab, width, bytes),
    };
    let laid = products.map(|(outputs, inputs)| {
        // Beside a frozen weight each product is on its own.
        let back = linears_back_bytes(format(run), outputs, inputs, seq_len);
        match back.filter(|_| run.model.lora.is_none()) {
            Some(back) => back.max(bytes * tokens * inputs),
            None => laid(tokens, outputs.iter().fold(0, |a, b| a.max(*b)), inputs, bytes),
        }
    });
    let (documents, rows) = (tokens / seq_len, copies(run, tokens).unwrap_or(tokens));
    // As in the kernel: where there are few of them, each query head has sums of its own.
    let apart = match heads > kv_heads && documents * kv_heads < 4 * threads {
        true => 2 * 4 * rows * heads * head_dim,
        false => 0,
    };
    let padded = head_dim.next_multiple_of(16);
    let keys = 2 * 4 * rows * kv_heads * padded;
    let shared = laid.into_iter().fold(head.max(apart), usize::max) + keys;
    (shared + threads * attention(seq_len, padded, narrow)) as u64
}

/// Rows of logits at once.
const HEAD_ROWS: usize = 256;

/// Bytes of the factors of y = x W^T (x alone), dx = dy W and dW = dy^T x, whichever has most.
/// Sums of more terms than 16 MB hold are cut, but not below 256 terms, nor beyond 1024.
fn laid(tokens: usize, outputs: usize, inputs: usize, bytes: usize) -> usize {
    const ROOM: usize = 16 << 20;
    const MOST: usize = 1024;
    let terms = (ROOM / bytes / (tokens + inputs) / 256 * 256).clamp(256, MOST);
    let y = tokens * inputs;
    let dx = (tokens + inputs) * outputs.min(terms);
    let dw = (outputs.min(ROOM / bytes / tokens.min(MOST)) + inputs) * tokens.min(MOST);
    bytes * y.max(dx).max(dw)
}

/// What a thread needs for a head of one document: its keys and values, sums of their gradients,
/// a span of queries, and scores of a block; little else when it goes forward.
fn attention(len: usize, padded: usize, narrow: bool) -> usize {
    const SPAN: usize = 3 * 96; // queries
    const SCORES: usize = 48 * 96;
    let (sums, scores) = ((4 * len + SPAN) * padded, 2 * SCORES);
    // A number in bf16 takes half a word; what is multiplied along rows lies there a second time.
    let words = match narrow {
        false => (2 * len + 4 * SPAN) * padded + sums + scores,
        true => (3 * len + 6 * SPAN) * padded / 2 + sums + scores + 3 * SCORES / 2,
    };
    4 * words
}

/// What the fused head takes of the scratch; `None` if its logits are a tensor.
fn head_bytes(run: &RunConfig, shape: &Config, tokens: usize, threads: usize) -> Option<u64> {
    herd_tensor::ops::fused_head_bytes(format(run), [tokens, shape.vocab, shape.width], threads)
}

/// How products see the weights.
fn format(run: &RunConfig) -> Format {
    match run.precision.weights {
        Precision::Bf16 => Format::BF16,
        Precision::F32 => Format::F32,
    }
}

/// A buffer that is lent.
type Lent = usize;

/// The device's buffers while a micro-batch passes: their lengths, and whether they are lent.
struct Play<'a> {
    buffers: Vec<(usize, bool)>,
    shape: &'a Config,
    tokens: usize,
    head: Top,
    /// Whether a value head reads what the head reads.
    valued: bool,
    /// Where documents branch: the rows that attention sees.
    copies: Option<usize>,
}

/// What a head takes beside the gradient of its input.
#[derive(Clone, Copy, PartialEq)]
enum Top {
    /// Nothing.
    Fused,
    /// Logits of some rows; `again`: it runs once over all rows before its gradient is known.
    Logits { again: bool },
    /// A number a row.
    Scores,
    /// Some rows of its input, for what a teacher says, and their gradient where both are at a temperature.
    Taught { fused: bool, cooled: bool },
}

/// What a block keeps for its gradient.
#[derive(Clone, Copy)]
struct Kept {
    x: Lent,
    normed: Lent,
    qkv: [Lent; 3],
    out: Lent,
    lse: Lent,
    h: Lent,
    normed_h: Lent,
    gate: Lent,
    up: Lent,
    product: Lent,
}

impl Kept {
    const NONE: Kept = Kept {
        x: 0,
        normed: 0,
        qkv: [0; 3],
        out: 0,
        lse: 0,
        h: 0,
        normed_h: 0,
        gate: 0,
        up: 0,
        product: 0,
    };
}

impl Play<'_> {
    /// As `Device::take`.
    fn take(&mut self, width: usize) -> Lent {
        self.take_len(self.tokens * width)
    }

    fn take_len(&mut self, len: usize) -> Lent {
        let free = |(i, b): (usize, &(usize, bool))| (!b.1).then_some((i, b.0));
        let fits = self.buffers.iter().enumerate().filter_map(free).filter(|(_, n)| *n >= len);
        if let Some((i, _)) = fits.min_by_key(|(_, n)| *n) {
            self.buffers[i].1 = true;
            return i;
        }
        let largest = self.buffers.iter().enumerate().filter_map(free).max_by_key(|(_, n)| *n);
        match largest {
            Some((i, _)) => self.buffers[i] = (len, true),
            None => self.buffers.push((len, true)),
        }
        largest.map_or(self.buffers.len() - 1, |(i, _)| i)
    }

    fn give<const N: usize>(&mut self, lent: [Lent; N]) {
        lent.into_iter().for_each(|i| self.buffers[i].1 = false);
    }

    /// One micro-batch, forward and back.
    fn step(&mut self, recompute: bool, seq_len: usize) {
        let d = self.shape.width;
        let mut x = self.take(d);
        let mut kept = Vec::new();
        for _ in 0..self.shape.layers {
            x = match recompute {
                true => {
                    let y = self.forward_paused();
                    kept.push(Kept { x, ..Kept::NONE });
                    y
                }
                false => {
                    let (block, y) = self.forward(x);
                    kept.push(block);
                    y
                }
            };
        }
        let normed = self.take(d);
        let (mut dy, last) = self.top(normed, seq_len);
        if let Some(dscores) = self.scores() {
            self.give([dscores]);
        }
        let dx = self.take(d);
        self.give([dy, x]);
        dy = dx;
        for block in kept.into_iter().rev() {
            let block = match recompute {
                false => block,
                true => {
                    let (again, y) = self.forward(block.x);
                    self.give([y]);
                    again
                }
            };
            self.backward(block, dy);
        }
        self.give([dy]);
        last.into_iter().flatten().for_each(|last| self.give([last]));
    }

    /// The gradient of what the head reads, and what is kept to the end.
    fn top(&mut self, normed: Lent, seq_len: usize) -> (Lent, [Option<Lent>; 2]) {
        let d = self.shape.width;
        match self.head {
            Top::Fused => {
                let scores = self.scores();
                (self.take(d), [Some(normed), scores])
            }
            Top::Taught { fused, cooled } => {
                let dy = self.take(d);
                let rows = seq_len.min(HEAD_ROWS);
                let x = self.take_len(rows * d);
                if !fused {
                    self.logits(rows);
                }
                let more = if cooled { Some(self.take_len(rows * d)) } else { None };
                if cooled && !fused {
                    self.logits(rows);
                }
                self.give([x]);
                more.into_iter().for_each(|more| self.give([more]));
                self.give([normed]);
                (dy, [None; 2])
            }
            Top::Logits { again } => {
                self.logits(if again { self.tokens } else { 0 });
                let scores = self.scores();
                let dy = self.take(d);
                self.logits(seq_len);
                (dy, [Some(normed), scores])
            }
            Top::Scores => {
                let (scores, dscores) = (self.take(1), self.take(1));
                let dy = self.take(d);
                self.give([dscores, normed]);
                (dy, [Some(scores), None])
            }
        }
    }

    /// A number a row, where a value head reads it.
    fn scores(&mut self) -> Option<Lent> {
        self.valued.then(|| self.take(1))
    }

    /// Logits of so many rows, some at a time.
    fn logits(&mut self, all: usize) {
        for rows in (0..all).step_by(HEAD_ROWS).map(|a| HEAD_ROWS.min(all - a)) {
            let logits = self.take_len(rows * self.shape.vocab);
            self.give([logits]);
        }
    }

    /// What attention gives, and the logarithms of its sums.
    fn attend(&mut self) -> (Lent, Lent) {
        let Config { heads, kv_heads, head_dim, .. } = *self.shape;
        let Some(rows) = self.copies else {
            let lse = self.take(heads);
            return (self.take(heads * head_dim), lse);
        };
        let qkv = [heads, kv_heads, kv_heads].map(|n| self.take_len(rows * n * head_dim));
        let all_lse = self.take_len(rows * heads);
        let all = self.take_len(rows * heads * head_dim);
        self.give(qkv);
        let out = self.take(heads * head_dim);
        self.give([all]);
        let lse = self.take(heads);
        self.give([all_lse]);
        (out, lse)
    }

    /// The gradients of queries, keys and values.
    fn attend_back(&mut self, kept: Kept, dout: Lent) -> [Lent; 3] {
        let Config { heads, kv_heads, head_dim, .. } = *self.shape;
        let widths = [heads, kv_heads, kv_heads].map(|n| n * head_dim);
        let Some(rows) = self.copies else {
            let dqkv = widths.map(|width| self.take(width));
            self.give([dout, kept.out, kept.lse]);
            self.give(kept.qkv);
            return dqkv;
        };
        let mut copies = Vec::new();
        let [q, k, v] = kept.qkv;
        for (of, width) in [q, k, v, kept.out].into_iter().zip([0, 1, 2, 0].map(|i| widths[i])) {
            copies.push(self.take_len(rows * width));
            self.give([of]);
        }
        copies.extend([heads * head_dim, heads].map(|width| self.take_len(rows * width)));
        let all = widths.map(|width| self.take_len(rows * width));
        copies.into_iter().for_each(|copy| self.give([copy]));
        let mut of = 0;
        let dqkv = widths.map(|width| {
            let sum = self.take(width);
            self.give([all[of]]);
            of += 1;
            sum
        });
        self.give([dout, kept.lse]);
        dqkv
    }

    /// The result of a block that keeps nothing: what it needs goes as soon as it was used.
    fn forward_paused(&mut self) -> Lent {
        let Config { width: d, heads, kv_heads, head_dim, ffn_width: f, .. } = *self.shape;
        let normed = self.take(d);
        let qkv = [heads, kv_heads, kv_heads].map(|n| self.take(n * head_dim));
        let (out, lse) = self.attend();
        self.give([lse]);
        let attended = self.take(d);
        self.give(qkv);
        self.give([out, normed]);
        let h = self.take(d);
        let normed_h = self.take(d);
        let (gate, up) = (self.take(f), self.take(f));
        let product = self.take(f);
        let fed = self.take(d);
        self.give([normed_h, gate, up, product, attended, fed]);
        h
    }

    /// What a block keeps, and its result.
    fn forward(&mut self, x: Lent) -> (Kept, Lent) {
        let Config { width: d, heads, kv_heads, head_dim, ffn_width: f, .. } = *self.shape;
        let normed = self.take(d);
        let qkv = [heads, kv_heads, kv_heads].map(|n| self.take(n * head_dim));
        let (out, lse) = self.attend();
        let attended = self.take(d);
        let h = self.take(d);
        let normed_h = self.take(d);
        let (gate, up) = (self.take(f), self.take(f));
        let product = self.take(f);
        let fed = self.take(d);
        let y = self.take(d);
        self.give([attended, fed]);
        (Kept { x, normed, qkv, out, lse, h, normed_h, gate, up, product }, y)
    }

    /// Gives all that the block kept; `dy` becomes the gradient of its input.
    fn backward(&mut self, kept: Kept, _dy: Lent) {
        let Config { width: d, heads, head_dim, ffn_width: f, .. } = *self.shape;
        let dproduct = self.take(f);
        self.give([kept.product]);
        let (dgate, dup) = (self.take(f), self.take(f));
        self.give([dproduct, kept.gate, kept.up]);
        let dnormed = self.take(d);
        self.give([dup, dgate, kept.normed_h]);
        let dh = self.take(d);
        self.give([dh, dnormed, kept.h]);
        let dout = self.take(heads * head_dim);
        let dqkv = self.attend_back(kept, dout);
        let dnormed = self.take(d);
        self.give(dqkv);
        self.give([kept.normed]);
        let dx = self.take(d);
        self.give([dx, dnormed, kept.x]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoraConfig;
    use crate::distill::{self, DistillConfig};
    use crate::dpo::{self, DpoConfig};
    use crate::ppo::PpoConfig;
    use crate::reward::{self, Prompt, RewardConfig};
    use crate::rollout::RolloutConfig;
    use crate::{Micro, Sums, accumulate, policy, presets};
    use herd_data::dialogue::Mark;
    use herd_model::llama::{Llama, Training};
    use herd_model::{Head, RopeScaling};
    use herd_tensor::{Class, Device, Tape};
    use std::convert::Infallible;
    use std::ops::Range;
    use std::sync::Arc;

    fn shape(layers: usize, width: usize, heads: usize, kv_heads: usize, ffn: usize) -> Config {
        Config {
            layers,
            width,
            heads,
            kv_heads,
            head_dim: width / heads,
            ffn_width: ffn,
            vocab: 300,
            norm_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: RopeScaling::None,
            context: 512,
            tied: true,
            head: Head::Language,
        }
    }

    #[test]
    fn a_lora_is_not_planned_as_if_all_were_trained() {
        let mut run = presets::tiny();
        let shape = shape(4, 64, 4, 4, 128);
        let all = plan(&run, &shape, 1);
        let targets = vec!["q".to_owned(), "down".to_owned()];
        run.model.lora = Some(LoraConfig { rank: 2, alpha: 4.0, targets });
        let some = plan(&run, &shape, 1);
        // Of each layer q, 64 by 64, and down, 64 by 128, with a rank of 2.
        assert_eq!(some.masters, 4 * 4 * 2 * (64 + 64 + 64 + 128));
        assert!(some.moments == 2 * some.masters && some.weights > all.weights);
    }

    #[test]
    fn the_count_of_tensors_is_that_of_the_run() {
        for (shape, seq_len, rows, recompute) in [
            (shape(1, 32, 4, 2, 64), 48, 1, false),
            (shape(3, 32, 4, 1, 96), 48, 3, false),
            (shape(4, 48, 6, 6, 96), 300, 2, false),
            (shape(4, 48, 6, 6, 96), 300, 2, true),
            (shape(2, 64, 2, 1, 512), 16, 2, true),
            (shape(5, 64, 2, 2, 40), 16, 2, false),
            (shape(3, 32, 2, 2, 768), 64, 8, false), // its second micro-batch takes more
        ] {
            let objectives =
                [(None, None), (Some(DpoConfig::LLAMA), None), (None, Some(RewardConfig::LLAMA))];
            let taught = |temperature| DistillConfig { temperature, k: 4, ..DistillConfig::USUAL };
            let plain = objectives.into_iter().map(|(dpo, reward)| (dpo, reward, None, None));
            let taught = [1.0, 2.0].map(|t| (None, None, Some(taught(t)), None));
            let valued = (None, None, None, Some(PpoConfig::USUAL));
            for (dpo, reward, distill, ppo) in plain.chain(taught).chain([valued]) {
                let mut run = presets::tiny();
                let n = rows * seq_len;
                (run.batch.tokens, run.batch.seq_len, run.batch.micro_tokens) = (n, seq_len, n);
                (run.precision.recompute, run.dpo, run.reward) = (recompute, dpo, reward);
                (run.distill, run.ppo) = (distill, ppo);
                run.rollout = run.ppo.as_ref().map(|_| RolloutConfig::USUAL);
                let head = if run.reward.is_some() { Head::Score } else { Head::Language };
                let shape = Config { head, ..shape.clone() };
                for format in [Format::BF16, Format::F32] {
                    run.precision.weights = match format == Format::F32 {
                        true => Precision::F32,
                        false => Precision::Bf16,
                    };
                    let planned = match run.reward {
                        // Rows of a prompt, which is seen twice, and two answers.
                        Some(_) => {
                            let copies = Some(rows * (seq_len + seq_len / 2));
                            played(&run, &shape, seq_len, Top::Scores, copies)
                        }
                        None => activations(&run, &shape, seq_len),
                    };
                    let taken = taken(&run, &shape, format);
                    assert_eq!(planned, taken, "{shape:?}, {recompute}, {:?}", run.dpo);
                }
            }
        }
    }

    /// A row whose first half is a prompt and whose quarters behind it are answers.
    fn halves(row: &Range<usize>) -> Prompt {
        let (half, mark) = (row.len() / 2, |weight| Mark::of_weight(weight).unwrap());
        let (stem, middle) = (row.start..row.start + half, row.start + half + half / 2);
        Prompt { answers: vec![(stem.end..middle, mark(1.0)), (middle..row.end, mark(2.0))], stem }
    }

    /// The bytes of buffers after three micro-batches of a run.
    fn taken(run: &RunConfig, shape: &Config, format: Format) -> u64 {
        let (n, seq_len, recompute) =
            (run.batch.tokens, run.batch.seq_len, run.precision.recompute);
        let device = Device::cpu(Class::best(), 1);
        let tape = Arc::new(Tape::default());
        let training = Training { tape: Arc::clone(&tape), format, recompute };
        let numbers = |part| Ok::<_, Infallible>(crate::first_numbers(shape, part, 0.02, 1));
        let Ok(mut model) = Llama::trainable(shape, &device, seq_len, &training, numbers);
        if run.ppo.is_some() {
            model.add_score(&tape, vec![0.5; shape.width]);
        }
        let ids: Vec<u32> = (0..n as u32).map(|i| i % 300).collect();
        let positions: Vec<u32> = (0..n).map(|t| (t % seq_len) as u32).collect();
        let documents: Vec<_> = (0..n).step_by(seq_len).map(|at| at..at + seq_len).collect();
        let prompts: Vec<Prompt> = documents.iter().map(halves).collect();
        let parts = prompts.iter().flat_map(|p| {
            std::iter::once(p.stem.clone()).chain(p.answers.iter().map(|(at, _)| at.clone()))
        });
        let documents = if run.reward.is_some() { parts.collect() } else { documents };
        let micro = Micro {
            tokens: &ids,
            targets: &ids,
            weights: &vec![1.0; n],
            positions: &positions,
            documents: &documents,
            seq_len,
        };
        for _ in 0..3 {
            if let Some(config) = &run.distill {
                let (said, sums) = (distill::silence(n, config.k), &mut distill::Sums::default());
                distill::accumulate(&model, &tape, &micro, said, config, 1.0, sums);
                continue;
            }
            if let Some(config) = &run.ppo {
                let mut sums = policy::Sums::default();
                policy::accumulate(&model, &tape, &micro, &[], &config.loss(), &mut sums);
                continue;
            }
            match (&run.dpo, &run.reward) {
                (None, None) => accumulate(&model, &tape, &micro, 1.0, &mut Sums::default()),
                (_, Some(config)) => {
                    let mut sums = reward::Sums::default();
                    let margin = config.margin;
                    reward::accumulate(&model, &tape, &micro, &prompts, margin, 1.0, &mut sums);
                }
                (Some(config), None) => {
                    let mut sums = dpo::Sums::default();
                    dpo::accumulate(&model, &tape, &micro, &[], config, 1.0, &mut sums);
                }
            }
        }
        device.buffer_bytes()
    }
}
