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

use crate::caller::{CallError, Caller, Patience};
use crate::error::Error;

/// The other end.
pub struct Endpoint {
    /// The name of its model.
    pub model: String,
    caller: Caller,
    parallel: usize,
}

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
        let patience = Patience {
            attempts: config.attempts,
            pause: Duration::from_millis(config.pause_ms),
            time: Duration::from_secs(config.seconds),
            bytes_max: config.bytes_max,
        };
        let key = config.key_env.as_ref().map(key).transpose()?;
        Ok(Endpoint {
            model: config.model.display().to_string(),
            caller: Caller::new(base_url, key, patience),
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
        let read = |status: u16, text: &str| {
            let said = match status {
                200 => completion(text),
                400 | 413 | 422 if is_too_long(text) => {
                    Some(Said { text: String::new(), end: SaidEnd::TooLong })
                }
                _ => None,
            };
            said.ok_or_else(String::new)
        };
        self.caller.post("chat/completions", &body, &read, over).map_err(failed)
    }

    /// The vector of a text; `None` if it was told to stop meanwhile. Errors: no attempt brought one.
    pub fn embed(&self, text: &str, stop: &AtomicBool) -> Result<Option<Vec<f32>>, Error> {
        let body = json!({ "model": self.model, "input": text });
        let read = |status: u16, text: &str| {
            let found = if status == 200 { vector(text) } else { None };
            found.ok_or_else(String::new)
        };
        let over = || stop.load(Ordering::Relaxed);
        self.caller.post("embeddings", &body, &read, &over).map_err(failed)
    }
}

fn failed(error: CallError) -> Error {
    Error::Endpoint { url: error.url, what: error.what }
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
    }
}
