//! The tokenizer of a run, and the files that go into its checkpoints.

use herd_codec::Tokenizer;
use herd_codec::chat::{ChatFormat, Date, RenderOptions};
use herd_data::dialogue::{Compare, Lessons, Shape};
use herd_data::{Ends, Hash};
use herd_model::GenerationDefaults;
use std::sync::Arc;

/// How dialogues are rendered.
#[derive(Clone)]
pub struct Chat {
    /// The format.
    pub format: ChatFormat,
    /// The day, if formats are to name one.
    pub today: Option<Date>,
    /// The shape of the rows; told by their keys where nothing is said.
    pub shape: Option<Shape>,
    /// Where answers are compared: which, and what of them counts.
    pub compare: Option<Compare>,
}

impl Chat {
    /// How rows become lessons in it.
    pub fn lessons(&self) -> Lessons {
        let (format, options) = (self.format.clone(), self.options());
        Lessons { shape: self.shape, format, options, compare: self.compare }
    }

    /// The same as options of a rendering.
    pub fn options(&self) -> RenderOptions {
        RenderOptions { today: self.today, ..RenderOptions::CLOSED }
    }
}

/// The hash of what decides which ids a dialogue becomes, and which of them end an answer.
pub(crate) fn manners(tokenizer: &Tokenizer, chat: Option<&Chat>, stops: &[u32]) -> Hash {
    let (words, lessons) = (Hash::of_tokenizer(tokenizer), chat.map(Chat::lessons));
    Hash::of(format!("{words} {lessons:?} {stops:?}").as_bytes())
}

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
    /// How dialogues are rendered, where it learns from them; they bring ends of their own.
    pub chat: Option<Chat>,
}

impl Words {
    /// The hash of all that answers depend on beside a model.
    pub fn manners(&self) -> Hash {
        manners(&self.tokenizer, self.chat.as_ref(), &self.generation.eos_token_ids)
    }
}
