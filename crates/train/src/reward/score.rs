//! A reward model at work: numbers for answers, the same however many are asked for at once.

use crate::error::TrainError;
use crate::words::Words;
use herd_codec::chat::{Dialogue, Message};
use herd_data::Hash;
use herd_data::dialogue::Encoder;
use herd_model::llama::Llama;
use herd_model::{Checkpoint, Head};
use herd_tensor::Device;
use herd_tensor::ops::{Branching, Documents};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A reward model and the words it was taught.
///
/// ```text
/// let model = RewardModel::open(path, words, &device)?;    words: those of a run, with their chat format
/// model.score(&prompt, &answers)?                          a reward for each answer
/// model.score_ids(&[Asked { prompt, answers }])?           the same of ids, many prompts at once
/// ```
pub struct RewardModel {
    model: Llama,
    words: Words,
}

/// Answers to a prompt, as ids; an answer ends with its end token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// What was said before, up to where the answer begins.
    pub prompt: Vec<u32>,
    /// The answers.
    pub answers: Vec<Vec<u32>>,
}

/// Tokens that pass through the model at once, unless one prompt and one answer have more; changes no bit.
pub(crate) const TOKENS: usize = 2048;

impl RewardModel {
    /// Opens a checkpoint with the head of a reward model; `words` are its tokenizer and chat format.
    ///
    /// Errors: it cannot be read, or has another head.
    pub fn open(path: &Path, words: Words, device: &Device) -> Result<RewardModel, TrainError> {
        let checkpoint = Checkpoint::open_any(path)?.expect_head(Head::Score)?;
        let model = Llama::load(&checkpoint, device, checkpoint.config.context)?;
        Ok(RewardModel { model, words })
    }

    /// The hash of all that its rewards depend on; `weights` is that of its weights.
    pub fn hash(&self, weights: Hash) -> Hash {
        let (shape, manners) = (self.model.config(), self.words.manners());
        Hash::of(format!("{weights} {shape:?} {manners}").as_bytes())
    }

    /// Tokens of prompt and answer at most.
    pub fn context(&self) -> usize {
        self.model.config().context
    }

    /// The rewards of some answers to a prompt, in their order.
    ///
    /// Errors: those of [`ask`](RewardModel::ask) and [`score_ids`](RewardModel::score_ids).
    pub fn score(&self, prompt: &Dialogue, answers: &[Message]) -> Result<Vec<f64>, TrainError> {
        let rewards = self.score_ids(&[self.ask(prompt, answers)?])?;
        Ok(rewards.into_iter().flatten().collect())
    }

    /// Answers to a prompt as the ids that training would give them.
    ///
    /// Errors: the words have no chat format, or it cannot say a message.
    pub fn ask(&self, prompt: &Dialogue, answers: &[Message]) -> Result<Asked, TrainError> {
        let fails = |error: String| TrainError::Score { error };
        let Some(chat) = &self.words.chat else {
            return Err(fails("the model has no chat format".into()));
        };
        let (tokenizer, options) = (&*self.words.tokenizer, chat.options());
        let encoder = Encoder { format: &chat.format, tokenizer, options };
        let said = encoder.answers(prompt, answers).map_err(|fault| fails(fault.to_string()))?;
        let ids = |ids: Vec<herd_codec::TokenId>| ids.into_iter().map(|id| id.0).collect();
        Ok(Asked { prompt: ids(said.0), answers: said.1.into_iter().map(ids).collect() })
    }

    /// The rewards of the answers to each prompt. A prompt passes once for all its answers. The same bits for
    /// any other prompts and answers beside it.
    ///
    /// Errors: an answer has no token, an id is outside the vocabulary, prompt and answer are longer than the
    /// model's context, or a reward is no finite number.
    pub fn score_ids(&self, asked: &[Asked]) -> Result<Vec<Vec<f64>>, TrainError> {
        asked.iter().try_for_each(|asked| self.check(asked))?;
        let pieces: Vec<Asked> = asked.iter().flat_map(Asked::pieces).collect();
        let rewards = self.score_pieces(&pieces);
        if let Some(bad) = rewards.iter().find(|reward| !reward.is_finite()) {
            return Err(TrainError::Score { error: format!("it is {bad}") });
        }
        let mut rewards = rewards.into_iter();
        Ok(asked.iter().map(|asked| rewards.by_ref().take(asked.answers.len()).collect()).collect())
    }

    /// The rewards of all answers, one after another.
    fn score_pieces(&self, pieces: &[Asked]) -> Vec<f64> {
        let (mut rewards, mut rest) = (Vec::new(), pieces);
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |asked: &&Asked| {
                tokens += asked.tokens();
                tokens <= TOKENS
            };
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rewards.extend(self.pass(now));
            rest = later;
        }
        rewards
    }

    /// The same answers, if the model can read them.
    ///
    /// Errors: those of [`score_ids`](RewardModel::score_ids).
    pub fn expect_fits(&self, asked: Asked) -> Result<Asked, TrainError> {
        self.check(&asked).map(|()| asked)
    }

    fn check(&self, asked: &Asked) -> Result<(), TrainError> {
        let fails = |error: String| Err(TrainError::Score { error });
        let (context, vocab) = (self.model.config().context, self.model.config().vocab);
        for answer in &asked.answers {
            let tokens = asked.prompt.len() + answer.len();
            if answer.is_empty() {
                return fails("an answer has no token".into());
            }
            if tokens > context {
                return fails(format!("{tokens} tokens where the model's context has {context}"));
            }
        }
        let mut ids = asked.prompt.iter().chain(asked.answers.iter().flatten());
        match ids.find(|id| **id as usize >= vocab) {
            Some(id) => fails(format!("token {id} in a vocabulary of {vocab}")),
            None => Ok(()),
        }
    }

    /// The rewards of some prompts' answers, in one pass, one after another.
    fn pass(&self, asked: &[Asked]) -> Vec<f64> {
        let (mut tokens, mut positions, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        let mut push = |ids: &[u32], position: usize| -> Range<usize> {
            let start = tokens.len();
            tokens.extend(ids);
            positions.extend((position..position + ids.len()).map(|p| p as u32));
            start..tokens.len()
        };
        let documents = asked.iter().filter(|asked| !asked.answers.is_empty()).map(|asked| {
            let stem = push(&asked.prompt, 0);
            let answers = asked.answers.iter();
            let branches: Vec<_> = answers.map(|answer| push(answer, stem.len())).collect();
            ends.extend(branches.iter().map(|branch| branch.end - 1));
            Branching { stem, branches }
        });
        let documents: Vec<Branching> = documents.collect();
        if ends.is_empty() {
            return Vec::new();
        }
        let shape = self.model.config();
        let documents = Documents::branching(&documents, shape.kv_heads, shape.head_dim);
        let x_td = self.model.forward_documents(&tokens, &positions, &Arc::new(documents));
        let scores = self.model.scores(&x_td.select(&ends));
        scores.data().iter().map(|reward| f64::from(*reward)).collect()
    }
}

impl Asked {
    /// The same in pieces of some answers each, as many as pass at once, behind the prompt.
    fn pieces(&self) -> Vec<Asked> {
        let mut pieces: Vec<Asked> = Vec::new();
        for answer in &self.answers {
            match pieces.last_mut().filter(|last| last.tokens() + answer.len() <= TOKENS) {
                Some(last) => last.answers.push(answer.clone()),
                None => pieces
                    .push(Asked { prompt: self.prompt.clone(), answers: vec![answer.clone()] }),
            }
        }
        pieces
    }

    fn tokens(&self) -> usize {
        self.prompt.len() + self.answers.iter().map(Vec::len).sum::<usize>()
    }
}
