//! An endpoint of OpenAI's kind: `POST BASE_URL/chat/completions`, many questions side by side, asked again where that may help;
//! and `POST BASE_URL/embeddings`.
//!
//! Each answer is a request of its own with a seed of its own: many servers take no notice of `n`.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use herd_train::TrainError;
use herd_train::writer::{Question, Said, SaidEnd, Tell, WriterConfig};
use serde_json::{Value, json};
use ureq::Agent;

use crate::error::Error;

/// The other end.
pub struct Endpoint {
    /// The name of its model.
    pub model: String,
    agent: Agent,
    base_url: String,
    key: Option<String>,
    attempts: usize,
    pause: Duration,
    bytes_max: u64,
    parallel: usize,
}

/// Why an attempt gave no answer, and whether another may.
struct Fault {
    what: String,
    passes: bool,
}

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(60);

impl Endpoint {
    /// Errors: the variable that should hold the key is not there.
    pub fn new(base_url: &str, config: &WriterConfig, parallel: usize) -> Result<Endpoint, Error> {
        let key = |name: &String| match std::env::var(name) {
            Ok(key) if !key.is_empty() => Ok(key),
            Ok(_) | Err(_) => {
                let expected = "a variable of the environment that holds a key".to_owned();
                Err(Error::Value { what: "writer.key_env", got: name.clone(), expected })
            }
        };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0) // a key goes to the address that was named, and nowhere else
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_global(Some(Duration::from_secs(config.seconds)))
            .user_agent(concat!("herd/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Endpoint {
            model: config.model.display().to_string(),
            agent: agent.into(),
            base_url: base_url.trim_end_matches('/').to_owned(),
            key: config.key_env.as_ref().map(key).transpose()?,
            attempts: config.attempts,
            pause: Duration::from_millis(config.pause_ms),
            bytes_max: config.bytes_max,
            parallel,
        })
    }

    /// Answers all questions; see `herd_train::writer::Writer`.
    ///
    /// Errors: no attempt at an answer brought one, and those of `tell`. Questions that were whole by then are told.
    pub fn answer(
        &self,
        questions: &[Question],
        stop: &AtomicBool,
        tell: &mut Tell<'_>,
    ) -> Result<(), TrainError> {
        let wanted = questions.iter().enumerate();
        let jobs: Vec<(usize, usize)> =
            wanted.flat_map(|(i, question)| (0..question.n).map(move |k| (i, k))).collect();
        let (next, ends) = (AtomicUsize::new(0), AtomicBool::new(false));
        let over = || stop.load(Ordering::Relaxed) || ends.load(Ordering::Relaxed);
        let mut open: Vec<Vec<Option<Said>>> =
            questions.iter().map(|question| vec![None; question.n]).collect();
        thread::scope(|scope| {
            let (send, receive) = mpsc::channel();
            for _ in 0..self.parallel.min(jobs.len()) {
                let (send, jobs, next, over) = (send.clone(), &jobs, &next, &over);
                scope.spawn(move || {
                    while let Some(&(i, k)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if over() {
                            return;
                        }
                        let said = self.try_answer(&questions[i], k, over);
                        if let Some(said) = said.transpose()
                            && send.send((i, k, said)).is_err()
                        {
                            return;
                        }
                    }
                });
            }
            drop(send);
            let mut failed = None;
            for (i, k, said) in receive {
                let told = match said {
                    Ok(said) => {
                        open[i][k] = Some(said);
                        match open[i].iter().cloned().collect::<Option<Vec<Said>>>() {
                            Some(whole) => tell(i, whole),
                            None => Ok(()),
                        }
                    }
                    Err(error) => Err(TrainError::Writer { source: Box::new(error) }),
                };
                if let Err(error) = told {
                    ends.store(true, Ordering::Relaxed); // those under way are still heard
                    failed.get_or_insert(error);
                }
            }
            failed.map_or(Ok(()), Err)
        })
    }

    /// One answer; `None` if it was told to stop meanwhile.
    fn try_answer(
        &self,
        question: &Question,
        k: usize,
        over: &dyn Fn() -> bool,
    ) -> Result<Option<Said>, Error> {
        let mut body = json!({
            "model": self.model,
            "messages": question.messages,
            "temperature": question.temperature,
            "top_p": question.top_p,
            "max_tokens": question.max_tokens,
            "seed": question.seed.wrapping_add(k as u64) & ((1 << 53) - 1),
        });
        if !question.stop.is_empty() {
            body["stop"] = json!(question.stop);
        }
        let read = |status: u16, text: &str| match status {
            200 => completion(text),
            400 | 413 | 422 if is_too_long(text) => {
                Some(Said { text: String::new(), end: SaidEnd::TooLong })
            }
            _ => None,
        };
        self.post("chat/completions", &body, &read, over)
    }

    /// The vector of a text; `None` if it was told to stop meanwhile. Errors: no attempt brought one.
    pub fn embed(&self, text: &str, stop: &AtomicBool) -> Result<Option<Vec<f32>>, Error> {
        let body = json!({ "model": self.model, "input": text });
        let read = |status: u16, text: &str| if status == 200 { vector(text) } else { None };
        self.post("embeddings", &body, &read, &|| stop.load(Ordering::Relaxed))
    }

    /// What `read` finds in the answer to a body, tried again where that may help.
    fn post<T>(
        &self,
        path: &str,
        body: &Value,
        read: &dyn Fn(u16, &str) -> Option<T>,
        over: &dyn Fn() -> bool,
    ) -> Result<Option<T>, Error> {
        let (url, body) = (format!("{}/{path}", self.base_url), body.to_string());
        let mut attempt = 0;
        loop {
            let fault = match self.attempt(&url, &body, read) {
                Ok(got) => return Ok(Some(got)),
                Err(fault) => fault,
            };
            attempt += 1;
            if attempt >= self.attempts || !fault.passes {
                return Err(Error::Endpoint { url, what: fault.what });
            }
            let doubled = 1u32.checked_shl(attempt as u32 - 1).unwrap_or(u32::MAX);
            let mut left = self.pause.saturating_mul(doubled).min(PAUSE_MAX);
            while left > Duration::ZERO {
                if over() {
                    return Ok(None);
                }
                let now = left.min(Duration::from_millis(100));
                thread::sleep(now);
                left -= now;
            }
        }
    }

    fn attempt<T>(
        &self,
        url: &str,
        body: &str,
        read: &dyn Fn(u16, &str) -> Option<T>,
    ) -> Result<T, Fault> {
        let mut request = self.agent.post(url).header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let network = |e: ureq::Error| match e {
            ureq::Error::BodyExceedsLimit(_) => {
                Fault { what: format!("more than {} bytes", self.bytes_max), passes: false }
            }
            other => Fault { what: other.to_string(), passes: true },
        };
        let response = request.send(body).map_err(network)?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let text = body.with_config().limit(self.bytes_max).lossy_utf8(true).read_to_string();
        let text = text.map_err(network)?;
        read(status, &text).ok_or_else(|| match status {
            200 => Fault { what: format!("no answer: {}", excerpt(&text)), passes: true },
            _ => {
                let passes = matches!(status, 408 | 409 | 425 | 429 | 500..);
                Fault { what: format!("status {status}: {}", excerpt(&text)), passes }
            }
        })
    }
}

/// The vector in an answer; `None` if it is none, or a number in it is not finite.
fn vector(text: &str) -> Option<Vec<f32>> {
    let value: Value = serde_json::from_str(text).ok()?;
    let numbers = value.get("data")?.as_array()?.first()?.get("embedding")?.as_array()?;
    let number = |x: &Value| x.as_f64().map(|x| x as f32).filter(|x| x.is_finite());
    numbers.iter().map(number).collect()
}

/// The answer in a completion; `None` if it is none.
fn completion(text: &str) -> Option<Said> {
    let value: Value = serde_json::from_str(text).ok()?;
    let choice = value.get("choices")?.as_array()?.first()?;
    let message = choice.get("message")?.as_object()?;
    let end = match choice.get("finish_reason").and_then(Value::as_str) {
        Some("stop" | "eos" | "stop_sequence") | None => SaidEnd::Stop,
        Some("length" | "max_tokens") => SaidEnd::Length,
        Some(_) => SaidEnd::Failed, // filtered, or calls of tools that nobody offered
    };
    match message.get("content") {
        Some(Value::String(text)) => Some(Said { text: text.clone(), end }),
        Some(Value::Null) | None => Some(Said { text: String::new(), end: SaidEnd::Failed }),
        Some(_) => None,
    }
}

/// Whether a refusal says that the question is too long for the model.
fn is_too_long(text: &str) -> bool {
    let lower = text.to_lowercase();
    ["context_length", "context length", "maximum context", "context size", "too long"]
        .iter()
        .any(|words| lower.contains(words))
}

/// The first words of what the other end said.
fn excerpt(text: &str) -> String {
    let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_are_read_and_junk_is_none() {
        let whole = |message: &str, end: &str| {
            completion(&format!(r#"{{"choices":[{{"message":{message},"finish_reason":{end}}}]}}"#))
        };
        let said = |text: &str, end| Some(Said { text: text.to_owned(), end });
        assert_eq!(whole(r#"{"content":"a"}"#, r#""stop""#), said("a", SaidEnd::Stop));
        assert_eq!(whole(r#"{"content":"a"}"#, "null"), said("a", SaidEnd::Stop));
        assert_eq!(whole(r#"{"content":"a"}"#, r#""length""#), said("a", SaidEnd::Length));
        assert_eq!(whole(r#"{"content":null}"#, r#""tool_calls""#), said("", SaidEnd::Failed));
        assert_eq!(whole(r#"{"content":[1]}"#, r#""stop""#), None);
        for junk in ["", "{", "[]", r#"{"choices":[]}"#, r#"{"choices":[{"text":"a"}]}"#, "7"] {
            assert_eq!(completion(junk), None, "{junk}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(completion(&deep), None);
        let data = |x: &str| vector(&format!(r#"{{"data":[{{"embedding":{x}}}]}}"#));
        assert_eq!(data("[1, -0.5]"), Some(vec![1.0, -0.5]));
        assert_eq!((data("[1e300]"), data(r#"["1"]"#), vector("{}")), (None, None, None));
        assert_eq!(excerpt("a\n\u{1b}b  c"), "a \u{1b}b c"); // printing makes it visible
    }
}
