//! Configuration files: `config.json`, `generation_config.json` and `params.json`.

use herd_model::hf::{ConfigFile, GenerationFile};
use herd_model::meta::{self, Known};

use super::json;
use super::memory::{Allowance, within};

const READING: Allowance = Allowance { factor: 64, fixed: 1 << 20 };

/// Published files; the last two are a generation config and Meta's params.
const SOUND: [&str; 8] = [
    include_str!("../../testdata/config/llama-3.1-8b-instruct.json"),
    include_str!("../../testdata/config/llama-3.2-1b-transformers5.json"),
    include_str!("../../testdata/config/yarn-llama-2-7b-64k.json"),
    include_str!("../../testdata/config/code-llama-7b.json"),
    include_str!("../../testdata/config/smollm2-135m-instruct.json"),
    include_str!("../../testdata/config/llama-2-7b.json"),
    include_str!("../../testdata/config/llama-3.1-8b-instruct.generation.json"),
    r#"{"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 1024,
        "ffn_dim_multiplier": 1.3, "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": true}"#,
];

/// What is read is written, and reads as the same again.
pub fn hf_config(data: &[u8]) {
    let text = json::text(data, &SOUND);
    let text = String::from_utf8_lossy(&text);
    within(READING, text.len(), || {
        if let Ok(file) = ConfigFile::read(&text) {
            file.config.validate().expect("what is read is valid");
            let written = file.write().expect("what is read can be written");
            let again = ConfigFile::read(&written).expect("what is written can be read");
            assert_eq!(again.config, file.config);
            assert_eq!(again.generation, file.generation);
            let _ = meta::write(&file.config);
            let _ = herd_model::gguf::write(&file.config);
        }
        if let Ok(file) = GenerationFile::read(&text) {
            let again = GenerationFile::read(&file.write()).expect("what is written can be read");
            assert_eq!(again.defaults, file.defaults);
        }
        let known = Known { vocab: Some(128_256), context: None, tied: false };
        if let Ok(config) = meta::read(&text, known) {
            config.validate().expect("what is read is valid");
            let _ = meta::write(&config);
        }
    });
}
