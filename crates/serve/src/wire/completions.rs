//! `/v1/completions`: OpenAI's older shape, which goes on with raw prompts; lm-eval's
//! `local-completions` reads log-likelihoods from it by `echo`.

use herd_codec::TokenId;
use herd_engine::softmax::LogProb;
use herd_engine::{PromptToken, Request};
use serde_json::{Map, Value, json};

use super::{Counts, Exchange, Head, Wire, event, finite, include_usage, spell};
use crate::answer::{Choice, Chosen, Ending, Part};
use crate::ask::{ANSWERS_MAX, Ask, sampling, stops};
use crate::fields::{EXTENSIONS, Field, Given, Kind, MODEL, SAMPLING, Shape, honoured, refused};
use crate::forms::{self, FORMS};
use crate::refusal::Refusal;
use crate::served::Served;

/// The fields.
pub static SHAPE: Shape = Shape {
    path: "/v1/completions",
    about: "go on with a text",
    prefix: "cmpl-",
    groups: &[SAMPLING, EXTENSIONS, FORMS, &FIELDS],
    required: &["model", "prompt"],
};

/// Tokens of an answer where a request does not say, as OpenAI has it.
const TOKENS: usize = 16;

static FIELDS: [Field; 9] = [
    MODEL,
    honoured("prompt", Kind::Any, "a text, a list of texts, token ids, or a list of lists of them"),
    honoured("max_tokens", Kind::Whole(0, 1 << 24), "tokens of an answer at most; 16 if not given"),
    honoured("logprobs", Kind::Whole(0, 20), "log-probabilities, and so many of the likeliest"),
    honoured("echo", Kind::Flag, "the prompt before the answer, with its log-probabilities"),
    honoured(
        "prompt_logprobs",
        Kind::Whole(0, 20),
        "log-probabilities of the prompt's tokens by their ids, and so many of the likeliest, as vLLM has it",
    ),
    honoured(
        "logprob_start_len",
        Kind::Whole(0, 1 << 24),
        "the place in the prompt from which on prompt_logprobs are wanted, under SGLang's name",
    ),
    honoured("best_of", Kind::Whole(1, 128), "answers of which the n likeliest are given"),
    refused("suffix", "the text behind a gap has no place in a prompt of this model"),
];

/// Reads a request.
pub fn read(mut given: Given, served: &Served, head: Head) -> Result<Exchange, Refusal> {
    served.check_name(given.text("model").unwrap_or_default())?;
    let prompts = prompts(given.take("prompt").unwrap_or_default(), served)?;
    let n = given.count("n").unwrap_or(1);
    let best_of = given.count("best_of").unwrap_or(n);
    let stream = given.flag("stream") == Some(true);
    if best_of < n || (best_of > n && stream) {
        let rule = if stream { "n where the answer is a stream" } else { "at least n" };
        let message = format!("best_of is {best_of} and n {n}: it must be {rule}");
        return Err(Refusal::field("best_of", message));
    }
    if prompts.len() * best_of > ANSWERS_MAX as usize {
        let message = format!(
            "{} prompts of {best_of} answers each are asked for, at most {ANSWERS_MAX} answers",
            prompts.len()
        );
        return Err(Refusal::field("prompt", message));
    }
    let log_probs = given.count("logprobs");
    let echo = given.flag("echo") == Some(true);
    let prompt_log_probs = given.count("prompt_logprobs");
    if prompt_log_probs.is_some() && stream {
        let message = "prompt_logprobs is not given where the answer is a stream";
        return Err(Refusal::field("prompt_logprobs", message));
    }
    let echo_from = (echo && log_probs.is_some()).then_some(0);
    let from = given.count("logprob_start_len").unwrap_or(0);
    let token_ids = given.flag("return_token_ids") == Some(true);
    let sampling = sampling(&given, served)?;
    let (stop, stop_tokens) = stops(&given, &served.text_stops);
    let wanted = forms::wanted(&mut given)?;
    let grammar = wanted.map(|(form, field)| served.forms.compile(form, &field)).transpose()?;
    let request = |prompt: &Vec<u32>| Request {
        max_tokens: Some(given.count("max_tokens").unwrap_or(TOKENS)),
        stop: stop.clone(),
        stop_tokens: stop_tokens.clone(),
        // Which of several answers is the likeliest, its log-probabilities say.
        log_probs: log_probs.max(prompt_log_probs).or((best_of > n).then_some(0)),
        prompt_log_probs: echo_from.or(prompt_log_probs.map(|_| from.min(prompt.len()))),
        grammar: grammar.clone(),
        ..Request::new(prompt.clone(), sampling.clone())
    };
    let requests: Vec<Request> = prompts.iter().map(request).collect();
    let by_token = log_probs.is_some() || best_of > n || token_ids;
    let wire = Completions {
        fingerprint: served.fingerprint(),
        model: served.name.clone(),
        head,
        seed: sampling.seed,
        usage: include_usage(&given)?,
        log_probs,
        prompt_log_probs,
        token_ids,
        echo,
        n,
        best_of,
        states: vec![State::default(); prompts.len() * best_of],
        prompts,
        counts: Counts::default(),
        warnings: std::mem::take(&mut given.warnings),
    };
    let ask = Ask { requests, n: best_of, calls: None, by_token, field: "prompt" };
    Ok(Exchange { ask, wire: Box::new(wire), stream })
}

/// Prompts as ids.
pub fn prompts(value: Value, served: &Served) -> Result<Vec<Vec<u32>>, Refusal> {
    let wrong = || {
        let message = "prompt is no text, list of texts, list of token ids or list of such lists";
        Refusal::field("prompt", message)
    };
    let ids = |list: &Vec<Value>| {
        let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong);
        list.iter().map(id).collect::<Result<Vec<u32>, Refusal>>()
    };
    let prompts = match &value {
        Value::String(text) => vec![served.prompt(text)],
        Value::Array(list) if list.first().is_some_and(Value::is_number) => vec![ids(list)?],
        Value::Array(list) => {
            let one = |value: &Value| match value {
                Value::String(text) => Ok(served.prompt(text)),
                Value::Array(list) => ids(list),
                _ => Err(wrong()),
            };
            list.iter().map(one).collect::<Result<_, _>>()?
        }
        _ => return Err(wrong()),
    };
    match prompts.is_empty() {
        true => Err(Refusal::field("prompt", "prompt is an empty list")),
        false => Ok(prompts),
    }
}

/// Writes answers.
struct Completions {
    fingerprint: String,
    model: String,
    head: Head,
    seed: u64,
    usage: bool,
    log_probs: Option<usize>,
    prompt_log_probs: Option<usize>,
    token_ids: bool,
    echo: bool,
    n: usize,
    best_of: usize,
    prompts: Vec<Vec<u32>>,
    /// Where the stream of each answer is.
    states: Vec<State>,
    counts: Counts,
    warnings: Vec<String>,
}

/// Where the stream of an answer is.
#[derive(Clone, Default)]
struct State {
    /// Whether a chunk went out.
    begun: bool,
    /// Tokens of the prompt that wait for the first chunk.
    read: Vec<PromptToken>,
    /// Characters so far.
    characters: usize,
}

impl Completions {
    fn object(&self, choices: Value) -> Value {
        json!({
            "id": self.head.id,
            "object": "text_completion",
            "created": self.head.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        })
    }

    /// What OpenAI's shape has no place for, put beside it.
    fn beside(&self, answer: &mut Value) {
        answer["seed"] = self.seed.into();
        if !self.warnings.is_empty() {
            answer["warnings"] = self.warnings.iter().cloned().collect();
        }
    }

    /// The prompt's text, where it is echoed; the token that begins it is none of it.
    fn echoed(&self, prompt: usize, served: &Served) -> String {
        let ids = if self.echo { &self.prompts[prompt][..] } else { &[] };
        let begun = ids.first().is_some_and(|&id| begins(id, served));
        let ids: Vec<_> = ids[usize::from(begun)..].iter().map(|&id| TokenId(id)).collect();
        served.tokenizer.decode_lossy(&ids)
    }

    /// Log-probabilities of a prompt as vLLM has them: for each token an object from ids, null where nothing is said.
    fn of_prompt(&self, prompt: usize, told: &[PromptToken], served: &Served) -> Value {
        let tokens = self.prompts[prompt].len();
        let mut list = vec![Value::Null; tokens];
        for (token, place) in told.iter().zip(&mut list[tokens - told.len()..]) {
            let Some((log_prob, top)) = &token.said else { continue };
            let mut map = Map::new();
            let wanted = top.iter().take(self.prompt_log_probs.unwrap_or(0)).enumerate();
            let all = wanted.map(|(i, top)| (top.id, top.log_prob, Some(i + 1)));
            let rank = top.first().is_some_and(|best| best.id == token.id).then_some(1);
            for (id, log_prob, rank) in all.chain([(token.id, *log_prob, rank)]) {
                map.entry(id.to_string()).or_insert_with(|| {
                    let spelt = spell(served.bytes(id));
                    json!({ "logprob": finite(log_prob), "rank": rank, "decoded_token": spelt })
                });
            }
            *place = Value::Object(map);
        }
        Value::Array(list)
    }

    fn finish(ending: &Ending) -> &'static str {
        match ending {
            Ending::Model | Ending::Text(_) | Ending::Calls => "stop",
            Ending::Length => "length",
        }
    }

    /// The answers to keep, likeliest first where there are more than are wanted.
    fn best(&self, choices: Vec<Choice>) -> Vec<(usize, Choice)> {
        let mut kept = Vec::new();
        let mut choices = choices.into_iter();
        for prompt in 0..self.prompts.len() {
            let mut own: Vec<Choice> = choices.by_ref().take(self.best_of).collect();
            if self.best_of > self.n {
                let mean = |choice: &Choice| {
                    let sum: f64 = choice.tokens.iter().filter_map(|t| t.token.log_prob).sum();
                    sum / choice.tokens.len().max(1) as f64
                };
                own.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
            }
            own.truncate(self.n);
            kept.extend(own.into_iter().map(|choice| (prompt, choice)));
        }
        kept
    }
}

/// Log-probabilities in four lists, as this shape has them.
#[derive(Default)]
struct Lists {
    /// How many of the likeliest are wanted.
    top: usize,
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
}

impl Lists {
    /// Adds a token whose text begins at `offset`, counted in characters.
    fn push(&mut self, id: u32, said: Option<(f64, &[LogProb])>, offset: usize, served: &Served) {
        self.tokens.push(spell(served.bytes(id)).into());
        self.token_logprobs.push(said.map(|(log_prob, _)| finite(log_prob)).into());
        let top = said.map(|(log_prob, top)| {
            let pair = |id: u32, p: f64| (spell(served.bytes(id)), finite(p).into());
            // The chosen one is always there; among equals of spelling the likelier stays.
            let mut map: Map<String, Value> = Map::new();
            let all = top
                .iter()
                .take(self.top)
                .map(|t| pair(t.id, t.log_prob))
                .chain([pair(id, log_prob)]);
            for (token, p) in all {
                map.entry(token).or_insert(p);
            }
            Value::Object(map)
        });
        self.top_logprobs.push(top.unwrap_or(Value::Null));
        self.text_offset.push(offset);
    }

    fn prompt(&mut self, tokens: &[PromptToken], served: &Served) {
        let mut offset = 0;
        for (i, token) in tokens.iter().enumerate() {
            let said = token.said.as_ref().map(|(log_prob, top)| (*log_prob, &top[..]));
            self.push(token.id, said, offset, served);
            if i > 0 || !begins(token.id, served) {
                offset += characters(served.bytes(token.id));
            }
        }
    }

    fn chosen(&mut self, tokens: &[Chosen], offset: usize, served: &Served) {
        let mut offset = offset;
        for Chosen { token, ends } in tokens {
            let said = token.log_prob.map(|log_prob| (log_prob, &token.top[..]));
            self.push(token.id, said, offset, served);
            if !ends {
                offset += characters(served.bytes(token.id));
            }
        }
    }

    fn json(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }
}

/// Whether a token begins texts.
fn begins(id: u32, served: &Served) -> bool {
    served.tokenizer.specials().bos == Some(TokenId(id))
}

/// Characters that begin in these bytes.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
}

impl Wire for Completions {
    fn whole(&self, choices: Vec<Choice>, served: &Served) -> Value {
        let mut counts = Counts::default();
        for (i, choice) in choices.iter().enumerate() {
            counts.add(choice.usage, i.is_multiple_of(self.best_of));
        }
        let one = |(index, (prompt, choice)): (usize, (usize, Choice))| {
            let echoed = self.echoed(prompt, served);
            let mut said = json!({
                "index": index,
                "text": echoed.clone() + &choice.text,
                "logprobs": null,
                "finish_reason": choice.ending.as_ref().map(Completions::finish),
            });
            if let Some(top) = self.log_probs {
                let mut lists = Lists { top, ..Lists::default() };
                if self.echo {
                    lists.prompt(&choice.prompt, served);
                }
                lists.chosen(&choice.tokens, echoed.chars().count(), served);
                said["logprobs"] = lists.json();
            }
            if self.prompt_log_probs.is_some() {
                said["prompt_logprobs"] = self.of_prompt(prompt, &choice.prompt, served);
            }
            if self.token_ids {
                said["prompt_token_ids"] = self.prompts[prompt].iter().copied().collect();
                said["token_ids"] = choice.tokens.iter().map(|c| c.token.id).collect();
            }
            said
        };
        let choices = self.best(choices).into_iter().enumerate().map(one).collect();
        let mut answer = self.object(Value::Array(choices));
        answer["usage"] = counts.json();
        self.beside(&mut answer);
        answer
    }

    fn open(&mut self, _: &mut String) {}

    fn part(&mut self, answer: usize, part: Part, served: &Served, out: &mut String) {
        let (text, tokens, end) = match part {
            Part::Prompt(token) => return self.states[answer].read.push(token),
            Part::Call { .. } | Part::Embedding(_) => return, // this shape has none
            Part::Text { text, tokens } => (text, tokens, None),
            Part::End { ending, usage } => (String::new(), Vec::new(), Some((ending, usage))),
        };
        let prompt = answer / self.best_of;
        let mut lists = Lists { top: self.log_probs.unwrap_or(0), ..Lists::default() };
        let mut said = String::new();
        if !std::mem::replace(&mut self.states[answer].begun, true) {
            said = self.echoed(prompt, served);
            lists.prompt(&std::mem::take(&mut self.states[answer].read), served);
            self.states[answer].characters = said.chars().count();
        }
        lists.chosen(&tokens, self.states[answer].characters, served);
        self.states[answer].characters += text.chars().count();
        let mut choice = json!({
            "index": answer,
            "text": said + &text,
            "logprobs": null,
            "finish_reason": end.as_ref().map(|(ending, _)| Completions::finish(ending)),
        });
        if self.log_probs.is_some() && !lists.tokens.is_empty() {
            choice["logprobs"] = lists.json();
        }
        if self.token_ids {
            choice["token_ids"] = tokens.iter().map(|c| c.token.id).collect();
        }
        let Some((_, usage)) = end else { return event(out, &self.object(json!([choice]))) };
        self.counts.add(usage, answer.is_multiple_of(self.best_of));
        if self.token_ids {
            choice["prompt_token_ids"] = self.prompts[prompt].iter().copied().collect();
        }
        let mut chunk = self.object(json!([choice]));
        self.beside(&mut chunk);
        event(out, &chunk);
    }

    fn close(&mut self, out: &mut String) {
        if self.usage {
            let mut last = self.object(json!([]));
            last["usage"] = self.counts.json();
            event(out, &last);
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn broken(&mut self, refusal: &Refusal, out: &mut String) {
        event(out, &refusal.body(crate::refusal::Dialect::OpenAi));
    }
}
