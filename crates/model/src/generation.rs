//! What a checkpoint says about generation: its special ids and the sampling it recommends.

/// Ids and sampling that a checkpoint recommends. `None` and empty mean that it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Sample rather than take the likeliest token.
    pub do_sample: Option<bool>,
    /// Divides the logits; 0 means greedy.
    pub temperature: Option<f32>,
    /// Mass of the nucleus.
    pub top_p: Option<f32>,
    /// Tokens kept; 0 keeps all. transformers takes 50 where a file is silent, Herd keeps all.
    pub top_k: Option<u32>,
    /// Tokens below this share of the likeliest are dropped.
    pub min_p: Option<f32>,
    /// Divides the positive and multiplies the negative logits of tokens already seen.
    pub repetition_penalty: Option<f32>,
    /// Beginning of the text.
    pub bos_token_id: Option<u32>,
    /// Ids that end the answer.
    pub eos_token_ids: Vec<u32>,
    /// Filler.
    pub pad_token_id: Option<u32>,
}

impl GenerationDefaults {
    /// These values, and `fallback`'s where these say nothing.
    pub fn or(self, fallback: GenerationDefaults) -> GenerationDefaults {
        GenerationDefaults {
            do_sample: self.do_sample.or(fallback.do_sample),
            temperature: self.temperature.or(fallback.temperature),
            top_p: self.top_p.or(fallback.top_p),
            top_k: self.top_k.or(fallback.top_k),
            min_p: self.min_p.or(fallback.min_p),
            repetition_penalty: self.repetition_penalty.or(fallback.repetition_penalty),
            bos_token_id: self.bos_token_id.or(fallback.bos_token_id),
            eos_token_ids: match self.eos_token_ids.is_empty() {
                true => fallback.eos_token_ids,
                false => self.eos_token_ids,
            },
            pad_token_id: self.pad_token_id.or(fallback.pad_token_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_config_wins_over_config() {
        let own = GenerationDefaults { eos_token_ids: vec![1, 2], ..Default::default() };
        let fallback = GenerationDefaults {
            eos_token_ids: vec![3],
            bos_token_id: Some(7),
            ..Default::default()
        };
        let both = own.or(fallback);
        assert_eq!((both.eos_token_ids, both.bos_token_id), (vec![1, 2], Some(7)));
    }
}
