//! Named runs: each a whole config.

use crate::config::{
    BatchConfig, CheckpointConfig, DataConfig, Decay, Long, ModelConfig, OptimConfig, Packing,
    Precision, PrecisionConfig, Ramp, RunConfig, SampleConfig, SpikeConfig, SpikePolicy,
    ValidationConfig,
};
use crate::error::TrainError;
use herd_model::nearest;
use herd_model::presets::preset;
use std::collections::BTreeMap;

/// A run and its name.
type Named = (&'static str, fn() -> RunConfig);

/// Every preset.
const ALL: [Named; 6] =
    [("tiny", tiny), ("15m", m15), ("110m", m110), ("8b", b8), ("70b", b70), ("405b", b405)];

/// The run with this name.
///
/// Errors: there is none; the nearest is named.
pub fn named(name: &str) -> Result<RunConfig, TrainError> {
    let found = ALL.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, run)| run()).ok_or_else(|| TrainError::Preset {
        name: name.to_owned(),
        nearest: nearest(name, ALL.iter().map(|(known, _)| *known)).map(str::to_owned),
    })
}

/// One dial for small runs: `depth` layers, and the rest by rule.
///
/// Width is 64 a layer in heads of 64, SwiGLU 8/3 of it in whole 64s; 20 tokens a parameter; the
/// peak rate falls with the width as 3e-3 sqrt(256 / D) (choice; after nanochat's dial).
pub fn of_depth(depth: usize, vocab: usize) -> RunConfig {
    let width = 64 * depth;
    let mut run = tiny();
    run.model = ModelConfig {
        layers: depth,
        width,
        heads: depth,
        kv_heads: if depth.is_multiple_of(4) { depth / 2 } else { depth },
        ffn_width: (8 * width / 3).next_multiple_of(64),
        ..run.model
    };
    let layer = 2 * width * (width + run.model.kv_heads * 64) + 3 * width * run.model.ffn_width;
    let params = depth * layer + vocab * width;
    run.batch = BatchConfig { tokens: 16_384, seq_len: 512, micro_tokens: 4096, ramp: vec![] };
    run.optim.steps = (20 * params).div_ceil(run.batch.tokens) as u64;
    run.optim.warmup_steps = run.optim.steps / 20;
    run.optim.lr = 3e-3 * (256.0 / width as f64).sqrt();
    run.checkpoint.every = (run.optim.steps / 20).max(10);
    run.validation.every = run.checkpoint.every;
    run.samples.every = run.checkpoint.every;
    run
}

/// A minute on a laptop.
pub fn tiny() -> RunConfig {
    RunConfig {
        seed: 1,
        tokenizer: "tokenizer".into(),
        model: ModelConfig {
            init: None,
            init_rope_theta: None,
            layers: 4,
            width: 128,
            heads: 4,
            kv_heads: 2,
            ffn_width: 384,
            tied: true,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
            init_std: 0.02,
            lora: None,
        },
        data: DataConfig {
            shards: None,
            input: vec![],
            validation_share: 0.01,
            packing: Packing::Cut,
            long: Long::Split,
            document_mask: true,
            mix: BTreeMap::new(),
            changes: vec![],
            epochs_max: 100.0,
        },
        batch: BatchConfig { tokens: 4096, seq_len: 256, micro_tokens: 4096, ramp: vec![] },
        optim: OptimConfig {
            steps: 200,
            lr: 3e-3,
            min_lr_ratio: 0.1,
            warmup_steps: 20,
            decay: Decay::Cosine,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            max_grad_norm: 1.0,
        },
        precision: PrecisionConfig { weights: Precision::Bf16, recompute: false },
        checkpoint: CheckpointConfig { every: 20, keep_last: 2, keep_every: 0 },
        validation: ValidationConfig { every: 50, tokens: 65_536 },
        samples: SampleConfig {
            every: 50,
            tokens: 48,
            temperature: 0.8,
            prompts: vec![String::new()],
        },
        spikes: SpikeConfig {
            policy: SpikePolicy::Record,
            deviations: 6.0,
            window: 100,
            rewinds_max: 10,
        },
        average: None,
        context: None,
        chat: None,
        dpo: None,
        reward: None,
        distill: None,
        rollout: None,
        grpo: None,
        ppo: None,
        score: None,
    }
}

/// The shape of stories15M: 15.2M parameters with a vocabulary of 32,000.
pub fn m15() -> RunConfig {
    let mut run = tiny();
    run.model =
        ModelConfig { layers: 6, width: 288, heads: 6, kv_heads: 6, ffn_width: 768, ..run.model };
    run.batch = BatchConfig { tokens: 16_384, seq_len: 256, micro_tokens: 4096, ramp: vec![] };
    run.optim = OptimConfig { steps: 20_000, lr: 2e-3, warmup_steps: 500, ..run.optim };
    every(run, 500)
}

/// The shape of stories110M.
pub fn m110() -> RunConfig {
    let mut run = tiny();
    run.model = ModelConfig {
        layers: 12,
        width: 768,
        heads: 12,
        kv_heads: 12,
        ffn_width: 2048,
        ..run.model
    };
    run.batch = BatchConfig { tokens: 262_144, seq_len: 1024, micro_tokens: 4096, ramp: vec![] };
    run.optim = OptimConfig { steps: 20_000, lr: 6e-4, warmup_steps: 1000, ..run.optim };
    every(run, 500)
}

fn every(mut run: RunConfig, steps: u64) -> RunConfig {
    run.checkpoint.every = steps;
    run.validation.every = steps;
    run.samples.every = steps;
    run
}

/// Table 3 of arXiv 2407.21783, 8B.
pub fn b8() -> RunConfig {
    paper("llama-3.1-8b", 3e-4)
}

/// Table 3, 70B.
pub fn b70() -> RunConfig {
    paper("llama-3.1-70b", 1.5e-4)
}

/// Table 3, 405B.
pub fn b405() -> RunConfig {
    paper("llama-3.1-405b", 8e-5)
}

/// Section 3.4.1: 8,000 steps of warm-up, a cosine to 1 % over 1,200,000 steps, batches of 4M, 8M
/// and 16M tokens, rows of 4,096 and then 8,192.
fn paper(name: &str, lr: f64) -> RunConfig {
    const M: usize = 1 << 20;
    let shape = preset(name).expect("the preset is published");
    let mut run = tiny();
    run.model = ModelConfig {
        layers: shape.layers,
        width: shape.width,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        ffn_width: shape.ffn_width,
        tied: shape.tied,
        rope_theta: shape.rope_theta,
        norm_eps: f64::from(shape.norm_eps),
        ..run.model
    };
    let ramp = |from_tokens, tokens| Ramp { from_tokens, tokens, seq_len: 8192 };
    run.batch = BatchConfig {
        tokens: 4 * M,
        seq_len: 4096,
        micro_tokens: 8192,
        ramp: vec![ramp(252_000_000, 8 * M), ramp(2_870_000_000_000, 16 * M)],
    };
    run.optim =
        OptimConfig { steps: 1_200_000, lr, min_lr_ratio: 0.01, warmup_steps: 8000, ..run.optim };
    run.data.document_mask = true;
    run.data.epochs_max = 4.0;
    every(run, 1000)
}
