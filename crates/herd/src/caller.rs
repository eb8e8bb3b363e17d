//! Asks a server over HTTP, again where that may help, a bounded number of times.

use std::thread;
use std::time::Duration;

use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

/// How long, how often and for how much is asked.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Times that a question is asked at most.
    pub attempts: usize,
    /// Before the second attempt; doubled before each further one.
    pub pause: Duration,
    /// Of one attempt.
    pub time: Duration,
    /// Of an answer.
    pub bytes_max: u64,
}

/// The way to a server.
pub struct Caller {
    agent: Agent,
    base_url: String,
    key: Option<String>,
    patience: Patience,
}

/// No attempt brought an answer.
#[derive(Debug)]
pub struct CallError {
    /// What was asked.
    pub url: String,
    /// What came in the end.
    pub what: String,
    /// Whether the server is there and will not answer this: asking again would not help.
    pub refused: bool,
}

/// Why an attempt gave no answer, and whether another may.
struct Fault {
    what: String,
    passes: bool,
    /// When the server wants to be asked again.
    after: Option<Duration>,
}

/// The longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Reads an answer by its status and its text. Errors: what it is instead of one.
pub type Read<'a, T> = dyn Fn(u16, &str) -> Result<T, String> + 'a;

impl Caller {
    /// A way to what lies below `base_url`; `key` goes along as a bearer's.
    pub fn new(base_url: &str, key: Option<String>, patience: Patience) -> Caller {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0) // a key goes to the address that was named, and nowhere else
            .timeout_connect(Some(patience.time.min(Duration::from_secs(30))))
            .timeout_global(Some(patience.time))
            .user_agent(concat!("herd/", env!("CARGO_PKG_VERSION")))
            .build();
        let base_url = base_url.trim_end_matches('/').to_owned();
        Caller { agent: agent.into(), base_url, key, patience }
    }

    /// What `read` finds in the answer to a body; `None` if `over` said so meanwhile.
    pub fn post<T>(
        &self,
        path: &str,
        body: &Value,
        read: &Read<'_, T>,
        over: &dyn Fn() -> bool,
    ) -> Result<Option<T>, CallError> {
        let (url, body) = (format!("{}/{path}", self.base_url), body.to_string());
        let send = || {
            let request = self.with_key(self.agent.post(&url));
            request.header("Content-Type", "application/json").send(&body)
        };
        self.insist(&url, &send, read, over)
    }

    /// What `read` finds at a path.
    pub fn get<T>(&self, path: &str, read: &Read<'_, T>) -> Result<T, CallError> {
        let url = format!("{}/{path}", self.base_url);
        let send = || self.with_key(self.agent.get(&url)).call();
        Ok(self.insist(&url, &send, read, &|| false)?.expect("nobody ended it"))
    }

    fn with_key<T>(&self, request: ureq::RequestBuilder<T>) -> ureq::RequestBuilder<T> {
        match &self.key {
            Some(key) => request.header("Authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    fn insist<T>(
        &self,
        url: &str,
        send: &dyn Fn() -> Result<Response<Body>, ureq::Error>,
        read: &Read<'_, T>,
        over: &dyn Fn() -> bool,
    ) -> Result<Option<T>, CallError> {
        let mut attempt = 0;
        loop {
            let Fault { what, passes, after } = match self.attempt(send, read) {
                Ok(got) => return Ok(Some(got)),
                Err(fault) => fault,
            };
            attempt += 1;
            if attempt >= self.patience.attempts || !passes {
                return Err(CallError { url: url.to_owned(), what, refused: !passes });
            }
            let doubled = 1u32.checked_shl(attempt as u32 - 1).unwrap_or(u32::MAX);
            let pause = self.patience.pause.saturating_mul(doubled);
            let mut left = pause.max(after.unwrap_or_default()).min(PAUSE_MAX);
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
        send: &dyn Fn() -> Result<Response<Body>, ureq::Error>,
        read: &Read<'_, T>,
    ) -> Result<T, Fault> {
        let bytes_max = self.patience.bytes_max;
        let network = |e: ureq::Error| match e {
            ureq::Error::BodyExceedsLimit(_) => {
                Fault { what: format!("more than {bytes_max} bytes"), passes: false, after: None }
            }
            other => Fault { what: other.to_string(), passes: true, after: None },
        };
        let response = send().map_err(network)?;
        let status = response.status().as_u16();
        let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let after = after.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
        let mut body = response.into_body();
        let text = body.with_config().limit(bytes_max).lossy_utf8(true).read_to_string();
        let text = text.map_err(network)?;
        read(status, &text).map_err(|why| match status {
            200 => {
                let why = if why.is_empty() { why } else { format!(" ({why})") };
                Fault { what: format!("no answer{why}: {}", excerpt(&text)), passes: true, after }
            }
            _ => {
                let passes = matches!(status, 408 | 409 | 425 | 429 | 500..);
                Fault { what: format!("status {status}: {}", excerpt(&text)), passes, after }
            }
        })
    }
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
    fn excerpts_are_short_and_on_one_line() {
        assert_eq!(excerpt("a\n\u{1b}b  c"), "a \u{1b}b c"); // printing makes it visible
        assert_eq!(excerpt(&"x ".repeat(1000)).chars().count(), 200);
    }
}
