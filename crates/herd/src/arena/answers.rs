//! Models that answer the prompts of an arena, one after another or side by side.
//!
//! What an answer draws depends on the seed, the prompt's name and the turn alone: whatever runs beside it, and however often it
//! was killed, the answers are the same.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use herd_codec::chat::{Message, Role};
use herd_data::Hash;
use herd_model::checkpoint::Checkpoint;
use herd_serve::arena::{Answer, Ballots, Contestant, Task};
use herd_tensor::Device;
use herd_train::config::ChatConfig;
use herd_train::writer::{AskConfig, Question, Said, SaidEnd, WriterConfig};
use herd_train::{TrainError, weights_hash};
use serde_json::json;

use crate::console::Console;
use crate::error::Error;
use crate::writer::{Source, Wanted, find, open};

/// A model as the flags name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What reports call it.
    pub name: String,
    /// A file, a folder, or a name in the store.
    pub model: String,
}

/// How all models answer.
pub struct Manner {
    /// Temperature and the like; `context` is the most, a model's own may be less.
    pub ask: AskConfig,
    /// How they chat.
    pub chat: ChatConfig,
    /// What answers are drawn by.
    pub seed: u64,
    /// Where they run.
    pub device: Device,
    /// Whether all are in memory at once.
    pub together: bool,
}

/// How many prompts are answered before another model has its turn, in answers under way.
const CHUNK: usize = 4;

impl Named {
    /// The model with all that decides its answers.
    ///
    /// Errors: it cannot be opened.
    pub fn contestant(&self, manner: &Manner) -> Result<Contestant, Error> {
        let checkpoint = self.checkpoint()?;
        let Manner { ask, chat, seed, device, .. } = manner;
        let settings = json!({
            "weights": weights_hash(&checkpoint)?.to_string(),
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "max_tokens": ask.max_tokens,
            "context": self.context(&checkpoint, ask),
            "chat_template": chat.template,
            "seed": seed,
            "class": device.class().name(),
        });
        Ok(Contestant { name: self.name.clone(), settings })
    }

    fn checkpoint(&self) -> Result<Checkpoint, Error> {
        Ok(Checkpoint::open(&find(Path::new(&self.model), Path::new("."))?)?)
    }

    fn context(&self, checkpoint: &Checkpoint, ask: &AskConfig) -> usize {
        ask.context.min(checkpoint.config.context)
    }

    fn load(&self, manner: &Manner, console: &Console) -> Result<Source, Error> {
        let context = self.context(&self.checkpoint()?, &manner.ask);
        let ask = AskConfig { context, ..manner.ask.clone() };
        let writer = WriterConfig { model: self.model.clone().into(), ..WriterConfig::base() };
        let wanted = Wanted {
            writer: &writer,
            ask: &ask,
            chat: &manner.chat,
            base: Path::new("."),
            device: &manner.device,
            offline: true,
        };
        open(&wanted, console)
    }
}

/// Answers what is missing, and what grows out of votes, until `stop`; or once, if `ends`.
///
/// Errors: a model that cannot be loaded or cannot read a prompt; the file.
pub fn answer(
    ballots: &Ballots,
    models: &[(i64, Named)],
    manner: &Manner,
    ends: bool,
    stop: &AtomicBool,
    console: &Console,
) -> Result<(), Error> {
    let mut loaded: Vec<Option<Source>> = models.iter().map(|_| None).collect();
    let chunk = if manner.together { manner.ask.parallel * CHUNK } else { usize::MAX >> 1 };
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        for (place, (id, named)) in models.iter().enumerate() {
            let tasks = ballots.missing(*id, chunk)?;
            if tasks.is_empty() || stop.load(Ordering::Relaxed) {
                continue;
            }
            idle = false;
            if !manner.together {
                loaded
                    .iter_mut()
                    .enumerate()
                    .filter(|(i, _)| *i != place)
                    .for_each(|(_, old)| *old = None);
            }
            let source = match &mut loaded[place] {
                Some(source) => source,
                empty => empty.insert(named.load(manner, console)?),
            };
            console.note(format!("{} answers {} prompts", named.name, tasks.len()));
            answer_all(ballots, *id, source, tasks, manner, stop)?;
        }
        if idle && ends {
            return Ok(());
        }
        if idle {
            ballots.wait(Duration::from_millis(500));
        }
    }
    Ok(())
}

/// An answer in the making.
struct Open {
    task: Task,
    said: Vec<String>,
    ended: Option<&'static str>,
}

/// Answers tasks turn by turn; each is kept when its last turn is there.
fn answer_all(
    ballots: &Ballots,
    model: i64,
    source: &mut Source,
    tasks: Vec<Task>,
    manner: &Manner,
    stop: &AtomicBool,
) -> Result<(), Error> {
    let mut open: Vec<Open> =
        tasks.into_iter().map(|task| Open { task, said: Vec::new(), ended: None }).collect();
    while !open.is_empty() && !stop.load(Ordering::Relaxed) {
        let questions: Vec<Question> = open.iter().map(|one| one.question(manner)).collect();
        source.answer(&questions, stop, &mut |i, said: Vec<Said>| {
            let one = &mut open[i];
            one.hear(said);
            let Some(ended) = one.ended else { return Ok(()) };
            let seed = manner.seed;
            let answer = Answer { said: one.said.clone(), ended: ended.to_owned(), seed };
            let kept = ballots.put(model, one.task.id, &answer);
            kept.map_err(|error| TrainError::Writer { source: Box::new(error) })
        })?;
        open.retain(|one| one.ended.is_none());
    }
    Ok(())
}

impl Open {
    fn question(&self, manner: &Manner) -> Question {
        let prompt = &self.task.prompt;
        let role = |name: &str| match name {
            "system" => Role::System,
            "assistant" => Role::Assistant,
            _ => Role::User,
        };
        let before =
            prompt.messages.iter().map(|turn| Message::new(role(&turn.role), &*turn.content));
        let own = self.said.iter().zip(&prompt.turns).flat_map(|(said, next)| {
            [Message::new(Role::Assistant, &**said), Message::new(Role::User, &**next)]
        });
        let AskConfig { temperature, top_p, max_tokens, .. } = manner.ask;
        let drawn = format!("{} {} {}", manner.seed, prompt.name, self.said.len());
        Question {
            messages: before.chain(own).collect(),
            n: 1,
            temperature,
            top_p,
            max_tokens,
            stop: Vec::new(),
            seed: Hash::of(drawn.as_bytes()).word() >> 11,
        }
    }

    /// Takes the answer to a turn; the last one ends it, and so does one that never came.
    fn hear(&mut self, mut said: Vec<Said>) {
        let Said { text, end } = said.remove(0);
        self.said.push(text.trim().to_owned());
        let last = self.said.len() > self.task.prompt.turns.len();
        self.ended = match end {
            SaidEnd::Stop => last.then_some("stop"),
            SaidEnd::Length => last.then_some("length"),
            SaidEnd::TooLong => Some("too_long"),
            SaidEnd::Failed => Some("failed"),
        };
    }
}
