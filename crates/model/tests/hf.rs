//! Hugging Face's config files: published shapes read, rewritten, and wrong ones refused.

use herd_model::hf::{ConfigFile, GenerationFile};
use herd_model::presets::*;
use herd_model::{Config, ConfigError, GenerationDefaults, Head, RopeScaling, Yarn};
use serde_json::{Map, Value, json};

const LLAMA31: &str = include_str!("../../../testdata/config/llama-3.1-8b-instruct.json");
const LLAMA32: &str = include_str!("../../../testdata/config/llama-3.2-1b.json");
const LLAMA32_V5: &str = include_str!("../../../testdata/config/llama-3.2-1b-transformers5.json");
const LLAMA2: &str = include_str!("../../../testdata/config/llama-2-7b.json");
const CODE_LLAMA: &str = include_str!("../../../testdata/config/code-llama-7b.json");
const SMOLLM2: &str = include_str!("../../../testdata/config/smollm2-135m-instruct.json");
const YARN: &str = include_str!("../../../testdata/config/yarn-llama-2-7b-64k.json");
const GENERATION: &str =
    include_str!("../../../testdata/config/llama-3.1-8b-instruct.generation.json");

fn yarn_llama2() -> Config {
    let rope_scaling = RopeScaling::Yarn(Yarn::new(16.0, 4096));
    Config { context: 65_536, rope_scaling, ..LLAMA2_7B }
}

fn published() -> [(&'static str, Config); 7] {
    [
        (LLAMA31, LLAMA3_1_8B),
        (LLAMA32, LLAMA3_2_1B),
        (LLAMA32_V5, LLAMA3_2_1B),
        (LLAMA2, LLAMA2_7B),
        (CODE_LLAMA, CODE_LLAMA_7B),
        (SMOLLM2, SMOLLM2_135M),
        (YARN, yarn_llama2()),
    ]
}

fn map(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).expect("the fixture is an object")
}

/// The Llama 3.1 file with one key changed; null removes nothing but reads as absent.
fn changed(key: &str, value: Value) -> String {
    let mut map = map(LLAMA31);
    map.insert(key.into(), value);
    Value::Object(map).to_string()
}

#[test]
fn published_configs_give_the_presets() {
    for (text, expected) in published() {
        assert_eq!(ConfigFile::read(text).unwrap().config, expected, "{text}");
    }
}

#[test]
fn rewriting_an_unchanged_file_keeps_every_byte() {
    for (text, _) in published() {
        assert_eq!(ConfigFile::read(text).unwrap().write().unwrap(), text);
    }
    assert_eq!(GenerationFile::read(GENERATION).unwrap().write(), GENERATION);
}

#[test]
fn rewriting_a_changed_file_keeps_unknown_keys() {
    for (text, _) in published() {
        let mut file = ConfigFile::read(text).unwrap();
        file.config.vocab += 64;
        file.config.rope_scaling = SCALED_8;
        file.generation.eos_token_ids = vec![7, 8];
        file.dtype = Some("float32".into());
        let read = ConfigFile::read(&file.write().unwrap()).unwrap();
        assert_eq!((&read.config, &read.generation), (&file.config, &file.generation));
        assert_eq!(read.dtype, file.dtype);
        let written = map(&file.write().unwrap());
        for (key, value) in map(text) {
            let known = ["vocab_size", "rope_scaling", "rope_parameters", "eos_token_id"];
            if !known.contains(&key.as_str()) && !key.ends_with("dtype") {
                let same = written.get(&key) == Some(&value) || key == "rope_theta";
                assert!(same || value.is_null(), "{key}: {value}");
            }
        }
    }
}

#[test]
fn an_unchanged_scaling_keeps_its_spelling() {
    for (text, key) in [(YARN, "rope_scaling"), (LLAMA32_V5, "rope_parameters")] {
        let mut file = ConfigFile::read(text).unwrap();
        file.config.vocab += 64;
        let written = file.write().unwrap();
        assert_eq!(map(&written).get(key), map(text).get(key));
        assert_eq!(ConfigFile::read(&written).unwrap().config, file.config);
    }
}

#[test]
fn every_preset_and_scaling_survives_a_new_file() {
    let scalings = [
        RopeScaling::Linear { factor: 4.0 },
        RopeScaling::Dynamic { factor: 2.0, original_context: 8192 },
        RopeScaling::Yarn(Yarn {
            stated_attention_factor: Some(1.25),
            beta_fast: 16.0,
            beta_slow: 2.0,
            mscale: Some(1.0),
            mscale_all_dim: Some(0.5),
            truncate: false,
            ..Yarn::new(8.0, 4096)
        }),
    ];
    let scaled = scalings.map(|rope_scaling| Config { rope_scaling, ..LLAMA3_8B });
    for config in CARDS.iter().map(|card| card.config.clone()).chain(scaled) {
        let ids = GenerationDefaults { bos_token_id: Some(1), ..Default::default() };
        let file = ConfigFile::new(config, ids, Some("bfloat16".into()));
        let text = file.write().unwrap();
        let read = ConfigFile::read(&text).unwrap();
        assert_eq!((&read.config, &read.generation), (&file.config, &file.generation));
        assert!(!text.contains("0.00000999") && !text.contains("9.99"), "{text}");
    }
}

#[test]
fn divisors_are_written_where_they_follow_a_formula() {
    let divisors = |rope_scaling: RopeScaling| {
        let divisors = rope_scaling.divisors(500_000.0, 128).unwrap();
        Config { rope_scaling: RopeScaling::Divisors(divisors), ..LLAMA3_8B }
    };
    let write = |config| ConfigFile::new(config, GenerationDefaults::default(), None).write();
    let read = ConfigFile::read(&write(divisors(SCALED_8)).unwrap()).unwrap();
    assert_eq!(read.config.rope_scaling, SCALED_8);
    let mut free: Vec<f32> = (0..64).map(|i| 1.0 + i as f32).collect();
    free[3] = 9.0;
    let config = Config { rope_scaling: RopeScaling::Divisors(free), ..LLAMA3_8B };
    assert!(matches!(write(config), Err(ConfigError::Unsupported { .. })));
}

#[test]
fn ids_are_one_or_many_and_minus_one_is_none() {
    let ids = |text: &str| ConfigFile::read(text).unwrap().generation;
    assert_eq!(ids(LLAMA31).eos_token_ids, [128_001, 128_008, 128_009]);
    assert_eq!(ids(LLAMA32).eos_token_ids, [128_001]);
    assert_eq!(ids(&changed("eos_token_id", Value::Null)).eos_token_ids, [0u32; 0]);
    assert_eq!(ids(&changed("pad_token_id", json!(-1))).pad_token_id, None);
    assert_eq!(ids(SMOLLM2).pad_token_id, Some(2));
}

#[test]
fn generation_config_gives_sampling() {
    let defaults = GenerationFile::read(GENERATION).unwrap().defaults;
    let expected = GenerationDefaults {
        do_sample: Some(true),
        temperature: Some(0.6),
        top_p: Some(0.9),
        bos_token_id: Some(128_000),
        eos_token_ids: vec![128_001, 128_008, 128_009],
        ..Default::default()
    };
    assert_eq!(defaults, expected);
    let text = GenerationFile::new(expected.clone()).write();
    assert!(text.contains("\"temperature\": 0.6,"), "{text}");
    assert_eq!(GenerationFile::read(&text).unwrap().defaults, expected);
}

#[test]
fn scaling_has_two_spellings_that_must_agree() {
    let scaling = |value| ConfigFile::read(&changed("rope_scaling", value)).map(|f| f.config);
    let linear = RopeScaling::Linear { factor: 2.0 };
    for value in [
        json!({"type": "linear", "factor": 2}),
        json!({"rope_type": "linear", "factor": 2.0}),
        json!({"type": "linear", "rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}),
    ] {
        assert_eq!(scaling(value).unwrap().rope_scaling, linear);
    }
    for value in [Value::Null, json!({}), json!({"rope_type": "default"})] {
        assert_eq!(scaling(value).unwrap().rope_scaling, RopeScaling::None);
    }
    let dynamic = scaling(json!({"type": "dynamic", "factor": 2.0})).unwrap().rope_scaling;
    assert_eq!(dynamic, RopeScaling::Dynamic { factor: 2.0, original_context: 131_072 });
    for wrong in [
        json!({"type": "yarn", "rope_type": "linear", "factor": 2.0}),
        json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
    ] {
        assert!(matches!(scaling(wrong), Err(ConfigError::Value { .. })));
    }
}

#[test]
fn yarn_takes_what_is_stated_and_the_paper_for_the_rest() {
    let yarn = |value| match ConfigFile::read(&changed("rope_scaling", value)) {
        Ok(ConfigFile { config: Config { rope_scaling: RopeScaling::Yarn(yarn), .. }, .. }) => yarn,
        other => panic!("{other:?}"),
    };
    let stretched = yarn(json!({"rope_type": "yarn", "original_max_position_embeddings": 8192}));
    assert_eq!(stretched, Yarn::new(16.0, 8192));
    let zeros = json!({"rope_type": "yarn", "factor": 4, "beta_fast": 0, "beta_slow": null});
    assert_eq!(yarn(zeros), Yarn::new(4.0, 131_072));
    let outer = {
        let mut map = map(LLAMA31);
        map.insert("original_max_position_embeddings".into(), json!(4096));
        map.insert("rope_scaling".into(), json!({"rope_type": "yarn", "factor": 2.0}));
        ConfigFile::read(&Value::Object(map).to_string()).unwrap().config.rope_scaling
    };
    assert_eq!(outer, RopeScaling::Yarn(Yarn::new(2.0, 4096)));
}

#[test]
fn other_mathematics_is_refused_with_the_value_and_a_hint() {
    for (key, value) in [
        ("model_type", json!("mistral")),
        ("architectures", json!(["LlamaForSequenceClassification"])),
        ("architectures", json!("LlamaForCausalLM")),
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("attention_bias", json!("false")),
        ("sliding_window", json!(4096)),
        ("partial_rotary_factor", json!(0.5)),
        ("quantization_config", json!({"bits": 4, "quant_method": "gptq"})),
        ("rope_interleaved", json!(true)),
        ("layer_types", json!(["full_attention", "sliding_attention"])),
        ("num_local_experts", json!(8)),
        ("final_logit_softcapping", json!(30.0)),
        ("residual_multiplier", json!(0.22)),
        ("rope_scaling.rope_type", json!("longrope")),
    ] {
        let text = match key {
            "rope_scaling.rope_type" => changed("rope_scaling", json!({"rope_type": value})),
            key => changed(key, value.clone()),
        };
        match ConfigFile::read(&text) {
            Err(error @ ConfigError::Unsupported { .. }) => {
                assert!(error.to_string().starts_with(&format!("{key} = ")), "{error}");
                assert!(error.hint().is_some());
            }
            other => panic!("{key}: {other:?}"),
        }
    }
    for (key, harmless) in [
        ("sliding_window", Value::Null),
        ("pretraining_tp", json!(2)),
        ("partial_rotary_factor", json!(1.0)),
        ("layer_types", json!(["full_attention"])),
        ("something_new", json!({"a": [1]})),
    ] {
        assert!(ConfigFile::read(&changed(key, harmless)).is_ok(), "{key}");
    }
}

#[test]
fn wrong_files_are_refused_with_the_key() {
    let deep = "[".repeat(100_000);
    for (text, expected) in [
        ("", "config.json is not a JSON object"),
        ("[]", "config.json is not a JSON object"),
        (deep.as_str(), "config.json is not a JSON object: recursion limit"),
        ("{}", "config.json has no model_type"),
        (r#"{"model_type":"llama"}"#, "config.json has no hidden_size"),
        (r#"{"model_type":7}"#, "model_type must be a text, it is 7"),
    ] {
        let message = ConfigFile::read(text).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
    for (key, value, expected) in [
        ("hidden_size", json!("4096"), "hidden_size must be a whole number of 0 or more"),
        ("hidden_size", json!(4096.5), "hidden_size must be"),
        ("hidden_size", json!(-1), "hidden_size must be"),
        ("hidden_size", json!(1e300), "hidden_size must be"),
        ("hidden_size", json!(u64::MAX), "hidden_size is 18446744073709551615; it must be"),
        ("hidden_size", json!(4095), "hidden_size is 4095; it must be a multiple of num_attention"),
        ("num_attention_heads", json!(0), "hidden_size is 4096; it must be a multiple of num_att"),
        ("num_key_value_heads", json!(5), "kv_heads is 5; it must be a divisor of heads = 32"),
        ("num_hidden_layers", json!(1_000_000_000), "layers is 1000000000; it must be from 1"),
        ("head_dim", json!(3), "head_dim is 3; it must be even"),
        ("vocab_size", Value::Null, "config.json has no vocab_size"),
        ("rms_norm_eps", json!(-1.0), "norm_eps is -1; it must be between 0 and 1"),
        ("rope_theta", json!(0), "rope_theta is 0; it must be above 1"),
        ("tie_word_embeddings", json!(1), "tie_word_embeddings must be true or false, it is 1"),
        ("eos_token_id", json!(["x"]), "eos_token_id must be a whole number"),
        ("eos_token_id", json!(1u64 << 40), "eos_token_id must be an id below 2^32"),
        ("rope_scaling", json!(8), "rope_scaling must be an object, it is 8"),
        ("rope_scaling", json!({"factor": 2.0}), "config.json has no rope_scaling.rope_type"),
        ("rope_scaling", json!({"type": "linear"}), "config.json has no rope_scaling.factor"),
        ("rope_scaling", json!({"type": "linear", "factor": 0.0}), "rope_scaling.factor is 0; it"),
        (
            "rope_scaling",
            json!({"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}),
            "config.json has no rope_scaling.original_max_position_embeddings",
        ),
    ] {
        let message = ConfigFile::read(&changed(key, value)).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
    for (text, expected) in [
        (r#"{"temperature": -1}"#, "temperature is -1; it must be from 0 to 1e4"),
        (r#"{"top_p": 1.5}"#, "top_p is 1.5; it must be from 0 to 1"),
        (r#"{"top_k": -5}"#, "top_k must be a whole number"),
        (r#"{"do_sample": "yes"}"#, "do_sample must be true or false"),
    ] {
        let message = GenerationFile::read(text).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn damaged_files_are_read_or_refused_but_never_panic() {
    let mut seed = 1u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let pieces = ["-", "9", "e99", "null", "[", "{}", "\"", "0", ".", "true", "1e-320", ""];
    for (text, _) in published() {
        for _ in 0..500 {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..=random(3) {
                let start = random(bytes.len());
                let end = (start + random(4)).min(bytes.len());
                bytes.splice(start..end, pieces[random(pieces.len())].bytes());
            }
            let text = String::from_utf8_lossy(&bytes);
            if let Ok(file) = ConfigFile::read(&text) {
                let again = ConfigFile::read(&file.write().unwrap()).unwrap();
                assert_eq!(again.config, file.config);
            }
            let _ = GenerationFile::read(&text).map(|file| file.write());
        }
    }
}

#[test]
fn a_model_of_one_label_is_a_reward_model_and_of_more_it_is_refused() {
    let labelled = |key: &str, value: Value| {
        let mut map = map(LLAMA31);
        map.insert("architectures".into(), json!(["LlamaForSequenceClassification"]));
        map.insert(key.into(), value);
        Value::Object(map).to_string()
    };
    let expected = Config { head: Head::Score, ..LLAMA3_1_8B };
    for (key, value) in [("id2label", json!({"0": "LABEL_0"})), ("num_labels", json!(1))] {
        let file = ConfigFile::read(&labelled(key, value)).unwrap();
        assert_eq!(file.config, expected);
        assert_eq!(
            file.write().unwrap(),
            ConfigFile::read(&file.write().unwrap()).unwrap().write().unwrap()
        );
    }
    for (key, value) in [
        ("id2label", json!({"0": "good", "1": "bad"})),
        ("num_labels", json!(2)),
        ("problem_type", json!("regression")), // silent: two
        ("id2label", json!("LABEL_0")),
    ] {
        let error = ConfigFile::read(&labelled(key, value)).unwrap_err();
        assert!(
            matches!(&error, ConfigError::Unsupported { key, .. } if key == "id2label"),
            "{error}"
        );
    }
    // Written anew, and in the place of a language model's file.
    for file in [
        ConfigFile::new(expected.clone(), GenerationDefaults::default(), None),
        ConfigFile { config: expected.clone(), ..ConfigFile::read(LLAMA31).unwrap() },
    ] {
        let written = file.write().unwrap();
        assert_eq!(ConfigFile::read(&written).unwrap().config, expected);
        assert_eq!(map(&written)["id2label"], json!({"0": "LABEL_0"}));
    }
    assert_eq!(expected.params(), LLAMA3_1_8B.params() - 128_256 * 4096 + 4096);
}
