//! The tokenizer of a run, and the files that go into its checkpoints.

use herd_codec::Tokenizer;
use herd_data::Ends;
use herd_model::GenerationDefaults;
use std::sync::Arc;

/// The tokenizer of a run.
#[derive(Clone)]
pub struct Words {
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Its files, by name: `tokenizer.json` and what lies beside it.
    pub files: Vec<(String, Vec<u8>)>,
    /// Special ids, for `generation_config.json`.
    pub generation: GenerationDefaults,
    /// What begins and ends a document.
    pub ends: Ends,
}
