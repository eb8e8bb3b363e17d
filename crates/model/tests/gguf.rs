//! GGUF metadata: a published file's keys read, every preset written and read, wrong ones refused.

use herd_model::gguf::{self, Tensors, Value, scaling_of_divisors};
use herd_model::presets::*;
use herd_model::{Config, ConfigError, RopeScaling, Yarn};

const TIED: Tensors = Tensors { vocab: None, has_output: false, rope_freqs: None };

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

/// The keys of SmolLM2-135M-Instruct.Q4_1.gguf that describe the model.
fn smollm2() -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", text("llama")),
        ("llama.block_count", Value::Unsigned(30)),
        ("llama.context_length", Value::Unsigned(8192)),
        ("llama.embedding_length", Value::Unsigned(576)),
        ("llama.feed_forward_length", Value::Unsigned(1536)),
        ("llama.attention.head_count", Value::Unsigned(9)),
        ("llama.attention.head_count_kv", Value::Unsigned(3)),
        ("llama.rope.freq_base", Value::Float(100_000.0)),
        ("llama.attention.layer_norm_rms_epsilon", Value::Float(f64::from(1e-5f32))),
        ("llama.vocab_size", Value::Unsigned(49_152)),
        ("llama.rope.dimension_count", Value::Unsigned(64)),
        ("tokenizer.ggml.bos_token_id", Value::Unsigned(1)),
        ("tokenizer.ggml.eos_token_id", Value::Unsigned(2)),
        ("tokenizer.ggml.padding_token_id", Value::Unsigned(2)),
    ]
}

fn read(keys: &[(&str, Value)], tensors: &Tensors) -> Result<Config, ConfigError> {
    let find = |key: &str| keys.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone());
    gguf::read(find, tensors)
}

/// SmolLM2's keys with some set anew.
fn with(changes: &[(&'static str, Value)]) -> Vec<(&'static str, Value)> {
    let mut keys = smollm2();
    keys.retain(|(key, _)| changes.iter().all(|(changed, _)| changed != key));
    keys.extend(changes.iter().cloned());
    keys
}

#[test]
fn a_published_file_gives_the_preset() {
    assert_eq!(read(&smollm2(), &TIED).unwrap(), SMOLLM2_135M);
    let list = Value::List(vec![Value::Signed(3); 30]);
    let keys = with(&[("llama.attention.head_count_kv", list)]);
    assert_eq!(read(&keys, &TIED).unwrap(), SMOLLM2_135M);
    let untied = Tensors { has_output: true, ..TIED };
    assert!(!read(&smollm2(), &untied).unwrap().tied);
}

#[test]
fn the_vocabulary_may_come_from_the_embedding() {
    let mut keys = smollm2();
    keys.retain(|(key, _)| *key != "llama.vocab_size");
    let rows = |vocab| Tensors { vocab, ..TIED };
    assert_eq!(read(&keys, &rows(Some(49_152))).unwrap(), SMOLLM2_135M);
    let message = read(&keys, &rows(None)).unwrap_err().to_string();
    assert_eq!(message, "GGUF metadata has no llama.vocab_size");
    let message = read(&smollm2(), &rows(Some(5))).unwrap_err().to_string();
    assert_eq!(message, "llama.vocab_size is 49152; it must be the rows of token_embd.weight, 5");
}

#[test]
fn generation_takes_every_end() {
    let keys = with(&[
        ("tokenizer.ggml.eot_token_id", Value::Unsigned(128_009)),
        ("tokenizer.ggml.eom_token_id", Value::Unsigned(2)),
        ("general.sampling.temp", Value::Float(0.5)),
    ]);
    let find = |key: &str| keys.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone());
    let defaults = gguf::read_generation(find).unwrap();
    assert_eq!(defaults.eos_token_ids, [2, 128_009]);
    assert_eq!((defaults.bos_token_id, defaults.pad_token_id), (Some(1), Some(2)));
    assert_eq!((defaults.temperature, defaults.do_sample), (Some(0.5), Some(true)));
}

#[test]
fn every_preset_and_scaling_survives_writing() {
    let mut free: Vec<f32> = (0..64).map(|i| 1.0 + i as f32).collect();
    free[3] = 9.0;
    let scalings = [
        RopeScaling::Linear { factor: 4.0 },
        RopeScaling::Divisors(free),
        RopeScaling::Yarn(Yarn::new(16.0, 4096)),
        RopeScaling::Yarn(Yarn { beta_fast: 16.0, beta_slow: 2.0, ..Yarn::new(8.0, 4096) }),
    ];
    let scaled = scalings.map(|rope_scaling| Config { rope_scaling, ..LLAMA3_8B });
    for config in CARDS.iter().map(|card| card.config.clone()).chain(scaled) {
        let written = gguf::write(&config).unwrap();
        let tensors = Tensors {
            vocab: Some(config.vocab),
            has_output: !config.tied,
            rope_freqs: written.rope_freqs,
        };
        assert_eq!(read(&written.metadata, &tensors).unwrap(), config);
    }
}

#[test]
fn yarn_keeps_its_attention_factor() {
    let yarn = Yarn { mscale: Some(1.0), mscale_all_dim: Some(0.5), ..Yarn::new(8.0, 4096) };
    let config = Config { rope_scaling: RopeScaling::Yarn(yarn), ..LLAMA3_8B };
    let written = gguf::write(&config).unwrap();
    let untied = Tensors { has_output: true, ..TIED };
    let RopeScaling::Yarn(read) = read(&written.metadata, &untied).unwrap().rope_scaling else {
        panic!("not YaRN");
    };
    // The key is an f32.
    assert!((read.attention_factor() - yarn.attention_factor()).abs() < 1e-7);
}

#[test]
fn scaling_without_a_key_in_gguf_is_refused() {
    for rope_scaling in [
        RopeScaling::Dynamic { factor: 2.0, original_context: 8192 },
        RopeScaling::Yarn(Yarn { truncate: false, ..Yarn::new(8.0, 4096) }),
    ] {
        let config = Config { rope_scaling, ..LLAMA3_8B };
        assert!(matches!(gguf::write(&config), Err(ConfigError::Unsupported { .. })));
    }
}

#[test]
fn divisors_are_recognised() {
    for (head_dim, theta, scaling) in [
        (128, 500_000.0, SCALED_8),
        (64, 500_000.0, SCALED_32),
        (32, 1_000.0, SCALED_8), // even the slowest frequency lies on the ramp
    ] {
        let mut divisors = scaling.divisors(theta, head_dim).unwrap();
        for d in &mut divisors {
            *d *= 1.0 + 1e-7;
        }
        assert_eq!(scaling_of_divisors(&divisors, theta, head_dim), scaling);
        divisors[head_dim / 4] *= 1.01;
        let free = RopeScaling::Divisors(divisors.clone());
        assert_eq!(scaling_of_divisors(&divisors, theta, head_dim), free);
    }
    assert_eq!(scaling_of_divisors(&[1.0; 64], 5e5, 128), RopeScaling::None);
    assert_eq!(scaling_of_divisors(&[4.0; 64], 5e5, 128), RopeScaling::Linear { factor: 4.0 });
    assert_eq!(scaling_of_divisors(&[], 5e5, 128), RopeScaling::Divisors(vec![]));
    assert_eq!(scaling_of_divisors(&[0.5], 5e5, 2), RopeScaling::Divisors(vec![0.5]));
}

#[test]
fn wrong_files_are_refused_with_the_key() {
    let varied = Value::List(vec![Value::Unsigned(3), Value::Unsigned(9)]);
    for (change, expected) in [
        (("general.architecture", text("mamba")), "general.architecture = mamba is not supported"),
        (("llama.block_count", text("x")), "llama.block_count must be a whole number"),
        (("llama.block_count", Value::Signed(-1)), "llama.block_count must be a whole number"),
        (("llama.block_count", Value::Unsigned(1 << 40)), "layers is 1099511627776; it must be"),
        (
            ("llama.embedding_length", Value::Unsigned(577)),
            "llama.embedding_length is 577; it must",
        ),
        (("llama.attention.head_count", Value::Unsigned(0)), "llama.embedding_length is 576; it m"),
        (("llama.attention.head_count_kv", varied.clone()), "llama.attention.head_count_kv = 3 in"),
        (("llama.feed_forward_length", varied), "llama.feed_forward_length = 3 in one layer and 9"),
        (("llama.feed_forward_length", Value::List(vec![])), "llama.feed_forward_length must be a"),
        (("llama.attention.value_length", Value::Unsigned(32)), "llama.attention.value_length = 3"),
        (("llama.rope.dimension_count", Value::Unsigned(32)), "llama.rope.dimension_count = 32 is"),
        (("llama.expert_count", Value::Unsigned(8)), "llama.expert_count = 8 is not supported"),
        (("llama.attention.sliding_window", Value::Unsigned(4096)), "llama.attention.sliding_win"),
        (("llama.attention.causal", Value::Bool(false)), "llama.attention.causal = false is not"),
        (("llama.rope.freq_base", text("big")), "llama.rope.freq_base must be a number"),
        (("llama.rope.freq_base", Value::Float(f64::NAN)), "rope_theta is NaN; it must be above 1"),
        (("llama.rope.scaling.type", text("longrope")), "llama.rope.scaling.type = longrope is no"),
        (("llama.rope.scaling.factor", Value::Float(-2.0)), "rope_scaling.factor is -2; it must"),
    ] {
        let message = read(&with(&[change]), &TIED).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
    for (key, _) in smollm2().into_iter().take(6) {
        let mut keys = smollm2();
        keys.retain(|(other, _)| *other != key);
        let message = read(&keys, &TIED).unwrap_err().to_string();
        assert_eq!(message, format!("GGUF metadata has no {key}"));
    }
    let twice = Tensors { rope_freqs: SCALED_8.divisors(1e5, 64), ..TIED };
    let linear = with(&[("llama.rope.scaling.factor", Value::Float(2.0))]);
    let message = read(&linear, &twice).unwrap_err().to_string();
    assert!(message.starts_with("rope_freqs.weight = present beside Linear"), "{message}");
    let short = Tensors { rope_freqs: Some(vec![1.0, 2.0]), ..TIED };
    let message = read(&smollm2(), &short).unwrap_err().to_string();
    assert_eq!(message, "length of rope_freqs is 2; it must be head_dim / 2 = 32");
}
