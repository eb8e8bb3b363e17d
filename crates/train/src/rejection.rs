//! Rejection sampling (arXiv 2407.21783, section 4.2.2): K answers to a prompt, and the best of them by score.
//!
//! ```text
//! rows -> Prompt -> K requests: policy, system prompt, temperature and stream of each     one prompt, its pages shared
//!      -> tokens and their nats -> scores -> SampleRow                                    prompt by prompt on the disk
//!      -> the best of K for sft, pairs for dpo and reward
//! ```
//!
//! What answer i to a prompt draws depends on the seed, the prompt, its row and i alone, never on what
//! runs beside it: a file that was killed is taken up behind its last whole prompt, and ends the same.

mod answer;
mod config;
mod export;
mod file;
pub(crate) mod prompts;
pub(crate) mod score;
mod script;
pub(crate) mod spoken;
mod summary;

pub use answer::ends_with;
pub(crate) use answer::{last_number, near};
pub use config::{
    Against, BestConfig, Draw, LongPrompt, PairsConfig, RejectionConfig, SampleConfig, Share,
    Temperature, Unfinished,
};
pub use file::SampleRow;
pub(crate) use file::{Rows, begin, beside};
pub use prompts::{answered, asked, hash as hash_input, lengths};
pub(crate) use score::field_text;
pub use score::{Form, Judge, ScoreConfig};
pub(crate) use summary::least;
pub use summary::{Summary, Work, best_of};

use crate::error::TrainError;
use crate::reward::RewardModel;
use crate::words::{Chat, manners};
use file::{Place, Samples};
use herd_codec::Tokenizer;
use herd_codec::chat::Dialogue;
use herd_data::Hash;
use herd_engine::rng::uniform;
use herd_engine::sample::Sampling;
use herd_engine::{Engine, Event, Finish, Limits, Request, RequestId, What};
use herd_model::llama::Llama;
use herd_tensor::KvFormat;
use prompts::{Prompt, Prompts};
use score::{Answer, Asked, Judges, Scores, total};
use spoken::Spoken;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A checkpoint that answers.
pub struct Policy {
    /// Its path, as the settings say it.
    pub path: String,
    /// The hash of its weights.
    pub hash: Hash,
    /// The model.
    pub model: Arc<Llama>,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// How it chats.
    pub chat: Chat,
    /// Tokens that end an answer.
    pub stops: Vec<u32>,
    /// Answers under way at once; its cache is of f32, as the trainer's.
    pub limits: Limits,
}

/// Limits of answers whose cache is of f32, as the trainer's.
pub fn limits(context: usize, parallel: usize) -> Limits {
    // Small pages: what lies behind the last whole page of a prompt is computed for each answer.
    Limits { context, parallel, batch: 512, page_len: 16, kv: KvFormat::F32, positions: None }
}

/// What sampling needs from outside.
pub struct Inputs<'a> {
    /// The settings.
    pub config: &'a RejectionConfig,
    /// The folder that their paths are relative to.
    pub base: &'a Path,
    /// The file of samples.
    pub out: &'a Path,
    /// Those of the settings, in their order.
    pub policies: Vec<Policy>,
    /// The reward models of the settings, in their order, each with what [`RewardModel::hash`] makes of its weights.
    pub rewards: Vec<(Hash, Arc<RewardModel>)>,
    /// Set from outside to end; answers of prompts that are not whole are sampled again.
    pub stop: &'a AtomicBool,
}

/// Streams of what is drawn beside tokens; answers have those from 0 on.
const TEMPERATURES: u64 = u64::MAX;
const SYSTEMS: u64 = u64::MAX - 1;

/// Samples and judges all prompts, then writes what is trained on; `None` if it was asked to stop.
///
/// `watch` is told after each prompt. Errors: the file was begun with other settings, is damaged, in use or somebody else's; input
/// that cannot be read; a judge that cannot be had; the disk.
pub fn sample(
    inputs: Inputs<'_>,
    watch: &mut dyn FnMut(&Summary),
) -> Result<Option<Summary>, TrainError> {
    let Inputs { config, base, out, policies, rewards, stop } = inputs;
    let input: Vec<PathBuf> = config.input.iter().map(|path| base.join(path)).collect();
    let hashes: Vec<String> = rewards.iter().map(|(hash, _)| hash.to_string()).collect();
    let mut file = Samples::take(out)?;
    let settings = told(config, &policies, &hashes, &input)?;
    begin(out, &["best.jsonl", "pairs.jsonl"], &input, &settings)?;
    let judges = Judges::open(&config.score, rewards.into_iter().map(|(_, model)| model))?;
    let mut summary = Summary::default();
    let places = file.resume(config.answers(), |rows| summary.add(rows))?;
    let prompts = Prompts::open(&input, &config.chat, &config.score)?;
    let mut run = Run { config, judges, prompts, places, desks: desks(policies), next_serial: 0 };
    let mut under_way: VecDeque<Question> = VecDeque::new();
    loop {
        while run.has_room(under_way.len()) {
            let Some(question) = run.ask()? else { break };
            under_way.push_back(question);
        }
        if under_way.is_empty() {
            break;
        }
        run.step(&mut under_way, &mut summary.work);
        while under_way.front().is_some_and(|question| question.left == 0) {
            let question = under_way.pop_front().expect("it was there");
            let rows = run.judge(question)?;
            file.write(&rows)?;
            summary.add(&rows);
            watch(&summary);
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
    }
    summary.dropped = run.prompts.dropped;
    let prompts = Prompts::open(&input, &config.chat, &config.score)?;
    export::write(config, out, prompts, &mut summary)?;
    Ok(Some(summary))
}

/// The settings, and what the file of samples depends on besides.
fn told(
    config: &RejectionConfig,
    policies: &[Policy],
    rewards: &[String],
    input: &[PathBuf],
) -> Result<String, TrainError> {
    let mut config = config.clone();
    config.sample.parallel = 1; // it changes no bit
    let class = policies.first().map_or("", |policy| policy.model.device().class().name());
    let hashes: Vec<String> = policies.iter().map(|policy| policy.hash.to_string()).collect();
    let manners: Vec<String> = policies.iter().map(Policy::manners).collect();
    let input = prompts::hash(input)?;
    let text = config.write();
    let begun = format!(
        "class = {class:?}\ninput = \"{input}\"\npolicies = {hashes:?}\nmanners = {manners:?}\n"
    );
    Ok(format!("{text}\n[begun]\n{begun}rewards = {rewards:?}\n"))
}

/// A policy and what it answers.
struct Desk {
    policy: Policy,
    engine: Engine,
    /// Whose answers these are: of a question, by its serial.
    takes: HashMap<RequestId, (u64, usize)>,
}

fn desks(policies: Vec<Policy>) -> Vec<Desk> {
    let desk = |policy: Policy| {
        let (model, words) = (Arc::clone(&policy.model), Arc::clone(&policy.tokenizer));
        let engine = Engine::new(model, Some(words), policy.limits);
        Desk { policy, engine, takes: HashMap::new() }
    };
    policies.into_iter().map(desk).collect()
}

/// A prompt under way.
struct Question {
    serial: u64,
    prompt: Prompt,
    seed: u64,
    takes: Vec<Take>,
    /// Answers that have not ended.
    left: usize,
}

/// An answer under way.
struct Take {
    policy: usize,
    system: Option<usize>,
    temperature: f32,
    prompt_tokens: usize,
    said: Spoken,
}

struct Run<'a> {
    config: &'a RejectionConfig,
    judges: Judges,
    prompts: Prompts,
    /// Prompts whose answers are in the file.
    places: VecDeque<Place>,
    desks: Vec<Desk>,
    next_serial: u64,
}

impl Run<'_> {
    /// Whether a desk will soon be idle, with so many questions under way: then other prompts fill the places of answers
    /// that have ended. A slow desk lets a fast one run ahead so far and no farther.
    fn has_room(&self, under_way: usize) -> bool {
        let parallel = |desk: &Desk| desk.policy.limits.parallel;
        let most = 8 * self.desks.iter().map(parallel).max().unwrap_or(1);
        under_way < most && self.desks.iter().any(|desk| desk.takes.len() < 2 * parallel(desk))
    }

    /// Asks the next prompt whose answers are not in the file yet.
    fn ask(&mut self) -> Result<Option<Question>, TrainError> {
        while let Some(prompt) = self.prompts.next()? {
            let here =
                Place { prompt: prompt.id.clone(), file: prompt.file.clone(), row: prompt.row };
            if self.places.front() == Some(&here) {
                self.places.pop_front();
                continue;
            }
            let Some((question, requests)) = self.question(prompt)? else { continue };
            if let Some(place) = self.places.front() {
                let what = format!("row {} stands where {} should", place.row, here.row);
                return Err(TrainError::Damaged { path: place.file.clone().into(), what });
            }
            for (take, request) in requests.into_iter().enumerate() {
                let desk = &mut self.desks[question.takes[take].policy];
                let id = desk.engine.submit(request).map_err(|e| refused(&question.prompt, e))?;
                desk.takes.insert(id, (question.serial, take));
            }
            return Ok(Some(question));
        }
        Ok(None)
    }

    /// A prompt and the requests for its answers; `None` if it leaves no room for them, or cannot be said.
    fn question(&mut self, prompt: Prompt) -> Result<Option<(Question, Vec<Request>)>, TrainError> {
        let sample = &self.config.sample;
        let seed = format!("{} {} {} {}", self.config.seed, prompt.id, prompt.file, prompt.row);
        let seed = Hash::of(seed.as_bytes()).word();
        let (mut takes, mut requests) = (Vec::new(), Vec::new());
        let mut rendered: BTreeMap<(usize, Option<usize>), Vec<u32>> = BTreeMap::new();
        for i in 0..self.config.answers() {
            let policy = i % self.desks.len();
            let system = draw_system(sample, seed, i);
            if let std::collections::btree_map::Entry::Vacant(place) =
                rendered.entry((policy, system))
            {
                let words = system.map(|system| sample.system[system].as_str());
                let ids = match self.desks[policy].policy.render(&prompt, words) {
                    Ok(ids) => ids,
                    Err(fault) if self.config.chat.skip_bad => {
                        self.prompts.drop(fault.reason());
                        return Ok(None);
                    }
                    Err(fault) => return Err(refused(&prompt, fault)),
                };
                if ids.len() + sample.max_tokens > sample.context {
                    return self.too_long(&prompt, ids.len()).map(|()| None);
                }
                place.insert(ids);
            }
            let ids = &rendered[&(policy, system)];
            let temperature = draw_temperature(sample, seed, i);
            let (top_p, stream) = (sample.top_p as f32, i as u64);
            let sampling = Sampling { temperature, top_p, seed, stream, ..Sampling::LLAMA };
            requests.push(Request {
                max_tokens: Some(sample.max_tokens),
                stop_tokens: self.desks[policy].policy.stops.clone(),
                nats: true,
                ..Request::new(ids.clone(), sampling)
            });
            takes.push(Take::new(policy, system, temperature, ids.len()));
        }
        let (serial, left) = (self.next_serial, takes.len());
        self.next_serial += 1;
        Ok(Some((Question { serial, prompt, seed, takes, left }, requests)))
    }

    fn too_long(&mut self, prompt: &Prompt, tokens: usize) -> Result<(), TrainError> {
        match self.config.sample.long {
            LongPrompt::Drop => {
                self.prompts.drop("too_long");
                Ok(())
            }
            LongPrompt::Refuse => {
                let SampleConfig { context, max_tokens, .. } = self.config.sample;
                let error = format!(
                    "{tokens} tokens and an answer of {max_tokens} exceed sample.context of {context}"
                );
                Err(refused(prompt, error))
            }
        }
    }

    /// One step of every engine, and what it gave to the questions.
    fn step(&mut self, questions: &mut VecDeque<Question>, work: &mut Work) {
        let mut events = Vec::new();
        for desk in &mut self.desks {
            desk.engine.step(&mut events);
            for event in events.drain(..) {
                let (serial, take) = desk.takes[&event.id];
                if matches!(event.what, What::End { .. }) {
                    desk.takes.remove(&event.id);
                }
                let question = questions.iter_mut().find(|question| question.serial == serial);
                question.expect("it waits for its answers").take(take, event, work);
            }
        }
    }

    /// The rows of a question whose answers have ended.
    fn judge(&self, question: Question) -> Result<Vec<SampleRow>, TrainError> {
        let asked = Asked { row: &question.prompt.value, dialogue: &question.prompt.dialogue };
        let kept = |take: &Take| take.system.filter(|_| self.config.sample.keep_system);
        let under = |take: &Take| {
            let system = kept(take).map(|system| self.config.sample.system[system].as_str());
            question.prompt.under(system)
        };
        // Those of one dialogue are judged side by side.
        let mut order: Vec<usize> = (0..question.takes.len()).collect();
        order.sort_by_key(|i| kept(&question.takes[*i]));
        let dialogues: Vec<Dialogue> = order.iter().map(|i| under(&question.takes[*i])).collect();
        let texts = order.iter().map(|i| question.takes[*i].said.text.as_str());
        let answers: Vec<Answer<'_>> =
            dialogues.iter().zip(texts).map(|(dialogue, text)| Answer { dialogue, text }).collect();
        let mut scores = vec![Scores::new(); order.len()];
        for (i, got) in order.iter().zip(self.judges.scores(&asked, &answers)?) {
            scores[*i] = got;
        }
        let takes = question.takes.iter().enumerate().zip(scores);
        let mut rows: Vec<SampleRow> =
            takes.map(|((i, take), scores)| self.row(&question, i, take, scores)).collect();
        let best = summary::ranked(&rows)[0];
        if best.rejected.is_none() {
            let best = best.sample;
            rows[best].chosen = true;
        }
        Ok(rows)
    }

    fn row(&self, question: &Question, i: usize, take: &Take, scores: Scores) -> SampleRow {
        let (config, policy) = (self.config, &self.desks[take.policy].policy);
        let said = &take.said;
        let total = total(&config.score, &scores);
        let finish = said.finish.as_ref().expect("it has ended");
        let logps = said.logps();
        SampleRow {
            prompt: question.prompt.id.clone(),
            file: question.prompt.file.clone(),
            row: question.prompt.row,
            sample: i,
            policy: policy.path.clone(),
            policy_hash: policy.hash.to_string(),
            seed: question.seed,
            stream: i as u64,
            temperature: take.temperature,
            system: take.system.map(|system| config.sample.system[system].clone()),
            prompt_tokens: take.prompt_tokens,
            ids: said.ids.clone(),
            text: said.text.clone(),
            logp: logps.iter().map(|logp| f64::from(*logp)).sum(),
            logps,
            finish: said.finish_name().to_owned(),
            rejected: rejected(config, finish, &said.text, &scores),
            scores,
            total,
            chosen: false,
        }
    }
}

/// Why an answer is never chosen.
fn rejected(
    config: &RejectionConfig,
    finish: &Finish,
    text: &str,
    scores: &Scores,
) -> Option<String> {
    let reason = match (finish, config.sample.unfinished) {
        (Finish::Failed(_) | Finish::Form(_) | Finish::Cancelled, _) => Some("failed"),
        (Finish::Length, Unfinished::Reject) => Some("length"),
        (Finish::Length, Unfinished::Keep) => None,
        (Finish::StopToken(_) | Finish::StopString(_) | Finish::Complete, _) => None,
    };
    let reason = reason.or(text.trim().is_empty().then_some("empty"));
    let reason = reason.or((scores.len() < config.score.len()).then_some("unread"));
    let lacks = |score: &&ScoreConfig| score.require.is_some_and(|r| scores[&score.name] < r);
    let lacking = || config.score.iter().find(lacks).map(|score| score.name.as_str());
    reason.or_else(lacking).map(str::to_owned)
}

fn refused(prompt: &Prompt, error: impl ToString) -> TrainError {
    let Prompt { file, row, .. } = prompt;
    TrainError::Sample { error: format!("row {row} of {file}: {}", error.to_string()) }
}

/// Which system prompt answer `i` draws.
fn draw_system(sample: &SampleConfig, seed: u64, i: usize) -> Option<usize> {
    let count = sample.system.len();
    (count > 0).then(|| (uniform(seed, SYSTEMS, i as u64) * count as f64) as usize)
}

/// Which temperature answer `i` draws.
fn draw_temperature(sample: &SampleConfig, seed: u64, i: usize) -> f32 {
    match sample.temperature {
        Temperature::Fixed(temperature) => temperature as f32,
        Temperature::Between([low, high]) => {
            let place = match sample.draw {
                Draw::Prompt => 0,
                Draw::Sample => i as u64,
            };
            (low + (high - low) * uniform(seed, TEMPERATURES, place)) as f32
        }
    }
}

impl Policy {
    /// The hash of all that its answers depend on beside its weights.
    fn manners(&self) -> String {
        let Policy { model, tokenizer, chat, stops, .. } = self;
        let text = format!("{:?} {}", model.config(), manners(tokenizer, Some(chat), stops));
        Hash::of(text.as_bytes()).to_string()
    }

    /// The ids of the prompt for an answer.
    fn render(&self, prompt: &Prompt, system: Option<&str>) -> Result<Vec<u32>, herd_data::Fault> {
        prompt.render(&self.chat, &self.tokenizer, system)
    }
}

impl Take {
    fn new(policy: usize, system: Option<usize>, temperature: f32, prompt_tokens: usize) -> Take {
        Take { policy, system, temperature, prompt_tokens, said: Spoken::default() }
    }
}

impl Question {
    /// Something happened to one of its answers.
    fn take(&mut self, take: usize, event: Event, work: &mut Work) {
        if let Some(usage) = self.takes[take].said.hear(event.what) {
            self.left -= 1;
            work.samples += 1;
            work.tokens += usage.generated as u64;
            work.prompt_tokens += usage.prompt as u64;
            work.cached += usage.cached as u64;
        }
    }
}
