//! Keys: who may come in, what each may do, and how much of it.
//!
//! A key is known by its hash alone. Requests and tokens run out of buckets that fill again through the minute; an
//! answer is let in while there are tokens left, and what it takes beyond them is a debt that the next ones wait for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use herd_engine::Request;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::kept::Kept;
use crate::refusal::Refusal;

/// The keys of a server; none lets everybody in.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Arc<Key>>);

/// A key.
pub struct Key {
    /// What it is called where it must be named: never the key itself.
    pub name: String,
    hash: [u8; 32],
    /// Who it is to the engine, which lets tenants take turns; 0 is nobody's key.
    tenant: u32,
    rules: Rules,
    meter: Mutex<Meter>,
    /// Answers in hand.
    running: AtomicUsize,
    /// What it did so far.
    pub usage: Usage,
}

/// What a key did so far.
#[derive(Debug, Default)]
pub struct Usage {
    /// Requests that were let in.
    pub requests: AtomicU64,
    /// Requests that were sent away for a limit.
    pub limited: AtomicU64,
    /// Tokens of prompts.
    pub prompt_tokens: AtomicU64,
    /// Tokens of answers.
    pub answer_tokens: AtomicU64,
}

/// A file of keys: `[keys.NAME]` tables.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    keys: BTreeMap<String, Rules>,
}

/// What a key is and may do; what is not said is not limited.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    /// Taken out once it is hashed.
    key: Option<String>,
    sha256: Option<String>,
    requests_per_minute: Option<u32>,
    tokens_per_minute: Option<u32>,
    parallel: Option<usize>,
    #[serde(default)]
    priority: i32,
    models: Option<Vec<String>>,
    #[serde(default)]
    admin: bool,
}

/// Why keys cannot be used. The keys themselves are never in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is no file of keys.
    #[error("no file of keys: {0}")]
    Toml(String),
    /// A key's table is wrong.
    #[error("key {name:?}: {what}")]
    Key {
        /// The key's name.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// What is wrong with a key of no characters.
const EMPTY: &str = "the key is empty";

#[derive(Debug)]
struct Meter {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

/// Priorities that a key may have.
const PRIORITIES: std::ops::RangeInclusive<i32> = -100..=100;

/// What is left of a minute's share; filled evenly through the minute.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    most: f64,
    level: f64,
    at: Instant,
}

/// Who asks: a key, or nobody in particular.
#[derive(Clone, Debug, Default)]
pub struct Caller(pub Option<Arc<Key>>);

/// Answers of a key that are in hand; dropping it gives their places back.
#[derive(Debug, Default)]
pub struct Pass {
    caller: Caller,
    answers: usize,
}

impl Keys {
    /// Whether everybody may come in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All keys.
    pub fn list(&self) -> &[Arc<Key>] {
        &self.0
    }

    /// Adds a key that may do everything.
    ///
    /// Errors: an empty one, or white space alone: whoever names no key would have it.
    pub fn add(&mut self, name: String, key: &str) -> Result<(), KeyError> {
        if key.trim().is_empty() {
            return Err(KeyError::Key { name, what: EMPTY });
        }
        let rules = Rules { admin: true, ..Rules::default() };
        self.push(name, Sha256::digest(key).into(), rules);
        Ok(())
    }

    /// Adds the keys of a file.
    ///
    /// Errors: no TOML of this kind, or a table with neither a key nor a hash, with an empty key, or with a limit of nothing.
    pub fn add_file(&mut self, text: &str) -> Result<(), KeyError> {
        // The parser's message shows lines of the file, which may hold keys: its first line does not.
        let file: KeyFile = toml::from_str(text).map_err(|e: toml::de::Error| {
            KeyError::Toml(e.message().lines().next().unwrap_or_default().to_owned())
        })?;
        for (name, mut rules) in file.keys {
            let wrong = |what| KeyError::Key { name: name.clone(), what };
            if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
                return Err(wrong("a name has 1 to 64 characters, none a control character"));
            }
            let hash = match (rules.key.take(), rules.sha256.take()) {
                (Some(key), None) if key.trim().is_empty() => return Err(wrong(EMPTY)),
                (Some(key), None) => Sha256::digest(key).into(),
                (None, Some(text)) => {
                    unhex(&text).ok_or_else(|| wrong("sha256 has 64 hexadecimal digits"))?
                }
                _ => return Err(wrong("it needs either key or sha256")),
            };
            if same(&hash, &Sha256::digest("").into()) {
                return Err(wrong(EMPTY));
            }
            let nothing = [rules.requests_per_minute, rules.tokens_per_minute].contains(&Some(0));
            if nothing || rules.parallel == Some(0) {
                return Err(wrong("a limit is at least 1"));
            }
            if self.0.iter().any(|known| known.hash == hash || known.name == name) {
                return Err(wrong("its key or its name is another's as well"));
            }
            if !PRIORITIES.contains(&rules.priority) {
                return Err(wrong("a priority is between -100 and 100"));
            }
            self.push(name, hash, rules);
        }
        Ok(())
    }

    fn push(&mut self, name: String, hash: [u8; 32], rules: Rules) {
        let tenant = self.0.len() as u32 + 1;
        self.0.push(Arc::new(Key { tenant, ..Key::new(name, hash, rules) }));
    }

    /// The key of this name.
    pub fn named(&self, name: &str) -> Option<Arc<Key>> {
        self.0.iter().find(|key| key.name == name).map(Arc::clone)
    }

    /// The key that somebody gives. All are compared, so that time tells nothing.
    pub fn find(&self, given: &str) -> Option<Arc<Key>> {
        let hash: [u8; 32] = Sha256::digest(given).into();
        let mut found = None;
        for key in &self.0 {
            if same(&key.hash, &hash) {
                found = Some(key);
            }
        }
        found.map(Arc::clone)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Key {
    fn new(name: String, hash: [u8; 32], rules: Rules) -> Key {
        let bucket = |most: Option<u32>| most.map(|most| Bucket::full(most.into()));
        let meter = Meter {
            requests: bucket(rules.requests_per_minute),
            tokens: bucket(rules.tokens_per_minute),
        };
        let (meter, running, usage) = (Mutex::new(meter), AtomicUsize::new(0), Usage::default());
        Key { name, hash, tenant: 0, rules, meter, running, usage }
    }

    /// Takes a request out of the minute's share, at `now`.
    fn begin(&self, now: Instant) -> Result<(), Refusal> {
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = meter.tokens.as_mut().map_or(0.0, |bucket| bucket.wait(now, 1.0));
        let requests = meter.requests.as_mut().map_or(0.0, |bucket| bucket.wait(now, 1.0));
        for (wait, what, most) in [
            (requests, "requests", self.rules.requests_per_minute),
            (tokens, "tokens", self.rules.tokens_per_minute),
        ] {
            if wait > 0.0 {
                self.usage.limited.fetch_add(1, Relaxed);
                let most = most.unwrap_or_default();
                let message =
                    format!("key {:?} has its {most} {what} of this minute behind it", self.name);
                return Err(limited(message, wait.ceil() as u64));
            }
        }
        if let Some(bucket) = &mut meter.requests {
            bucket.level -= 1.0;
        }
        self.usage.requests.fetch_add(1, Relaxed);
        Ok(())
    }

    /// What is left, in OpenAI's headers.
    pub fn tell(&self, headers: &mut HeaderMap) {
        let now = Instant::now();
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let Meter { requests, tokens } = &mut *meter;
        for (bucket, names) in [(requests, REQUESTS), (tokens, TOKENS)] {
            let Some(bucket) = bucket else { continue };
            bucket.fill(now);
            let left = bucket.level.max(0.0).floor();
            let full = (bucket.most - bucket.level) / bucket.most * 60.0;
            let values = [bucket.most.to_string(), left.to_string(), format!("{full:.3}s")];
            for (name, value) in names.into_iter().zip(values) {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    headers.insert(name, value);
                }
            }
        }
    }
}

const REQUESTS: [&str; 3] =
    ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
const TOKENS: [&str; 3] =
    ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];

impl Caller {
    /// The name of the key.
    pub fn name(&self) -> Option<&str> {
        self.0.as_ref().map(|key| key.name.as_str())
    }

    /// Kept answers as the key sees them.
    pub fn kept(&self, kept: &Kept) -> Kept {
        self.name().map_or_else(|| kept.clone(), |name| kept.of(name))
    }

    /// Counts a request against the limits of the minute.
    pub fn begin(&self) -> Result<(), Refusal> {
        self.0.as_ref().map_or(Ok(()), |key| key.begin(Instant::now()))
    }

    /// Whether the model of this name may be used.
    pub fn may_use(&self, model: &str) -> bool {
        let models = self.0.as_ref().and_then(|key| key.rules.models.as_ref());
        models.is_none_or(|models| models.iter().any(|known| known == model))
    }

    /// Errors: a key that may not use this model.
    pub fn check_model(&self, model: &str) -> Result<(), Refusal> {
        match self.may_use(model) {
            true => Ok(()),
            false => Err(Refusal {
                code: Some("model_not_allowed"),
                status: 403,
                ..Refusal::field(
                    "model",
                    format!(
                        "key {:?} may not use model {model:?}",
                        self.name().unwrap_or_default()
                    ),
                )
            }),
        }
    }

    /// Whether models may be loaded and unloaded, and all keys' figures be seen.
    pub fn is_admin(&self) -> bool {
        self.0.as_ref().is_none_or(|key| key.rules.admin)
    }

    /// Errors: a key that may not do what an administrator may.
    pub fn check_admin(&self) -> Result<(), Refusal> {
        match self.is_admin() {
            true => Ok(()),
            false => Err(Refusal::new(
                403,
                format!("key {:?} is no administrator's", self.name().unwrap_or_default()),
            )),
        }
    }

    /// Says on a request whose it is and how urgent: tenants of one priority take turns.
    pub fn sign(&self, request: &mut Request) {
        let signed = self.0.as_ref().map(|key| (key.tenant, key.rules.priority));
        (request.tenant, request.priority) = signed.unwrap_or_default();
    }

    /// The same for a row of a batch, which waits behind all who wait for an answer at priority 0 or above.
    pub fn sign_row(&self, request: &mut Request) {
        self.sign(request);
        request.priority = request.priority.min(0) - 1;
    }

    /// Takes places for so many answers at once. A request of more answers than the key may have is let in where nothing of the
    /// key runs, since it would never be otherwise: texts to embed are answers too.
    pub fn run(&self, answers: usize) -> Result<Pass, Refusal> {
        let pass = |answers| Pass { caller: self.clone(), answers };
        let Some((key, most)) = self.0.as_ref().and_then(|key| Some((key, key.rules.parallel?)))
        else {
            return Ok(pass(0));
        };
        let room = |now: usize| (now == 0 || now + answers <= most).then_some(now + answers);
        match key.running.fetch_update(Relaxed, Relaxed, room) {
            Ok(_) => Ok(pass(answers)),
            Err(now) => {
                key.usage.limited.fetch_add(1, Relaxed);
                let message = format!(
                    "key {:?} may have {most} answers at once: {now} run, {answers} are asked for",
                    key.name
                );
                Err(limited(message, 1))
            }
        }
    }
}

/// The door puts it among a request's extensions.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

impl Pass {
    /// The same without a limit, but counted.
    pub fn unlimited(caller: Caller) -> Pass {
        Pass { caller, answers: 0 }
    }

    /// Counts tokens of prompts.
    pub fn read(&self, tokens: usize) {
        let Some(key) = &self.caller.0 else { return };
        key.usage.prompt_tokens.fetch_add(tokens as u64, Relaxed);
        self.charge(tokens);
    }

    /// Counts tokens of answers.
    pub fn wrote(&self, tokens: usize) {
        let Some(key) = &self.caller.0 else { return };
        key.usage.answer_tokens.fetch_add(tokens as u64, Relaxed);
        self.charge(tokens);
    }

    fn charge(&self, tokens: usize) {
        let Some(key) = &self.caller.0 else { return };
        let mut meter = key.meter.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = &mut meter.tokens {
            bucket.level -= tokens as f64;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(key) = &self.caller.0 {
            key.running.fetch_sub(self.answers, Relaxed);
        }
    }
}

impl Bucket {
    fn full(most: f64) -> Bucket {
        Bucket { most, level: most, at: Instant::now() }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.level = (self.level + self.most * passed.as_secs_f64() / 60.0).min(self.most);
        self.at = self.at.max(now);
    }

    /// Seconds until there is so much.
    fn wait(&mut self, now: Instant, wanted: f64) -> f64 {
        self.fill(now);
        let missing = wanted - self.level;
        if missing > 0.0 { (missing * 60.0 / self.most).max(f64::MIN_POSITIVE) } else { 0.0 }
    }
}

fn limited(message: String, seconds: u64) -> Refusal {
    let wait = Duration::from_secs(seconds.clamp(1, 3600));
    Refusal {
        retry_after: Some(wait.as_secs()),
        code: Some("rate_limit_exceeded"),
        ..Refusal::new(429, message)
    }
}

/// Whether two hashes are equal, in a time that does not depend on them.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    // `black_box`: no compiler leaves the loop early.
    a.iter().zip(b).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b))) == 0
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<Keys, KeyError> {
        let mut keys = Keys::default();
        keys.add_file(text).map(|()| keys)
    }

    #[test]
    fn keys_are_found_by_themselves_or_their_hash() {
        let hash: String = Sha256::digest("two").iter().map(|byte| format!("{byte:02x}")).collect();
        let keys = keys(&format!("[keys.a]\nkey = 'one'\n[keys.b]\nsha256 = '{hash}'\n")).unwrap();
        assert_eq!(keys.find("one").unwrap().name, "a");
        assert_eq!(keys.find("two").unwrap().name, "b");
        assert!(keys.find("").is_none() && keys.find(&hash).is_none());
    }

    #[test]
    fn requests_bear_their_keys_tenant_and_priority_and_rows_of_batches_a_lower_one() {
        let text = "[keys.a]\nkey = 'one'\n[keys.b]\nkey = 'two'\npriority = 5\n[keys.c]\nkey = 'three'\npriority = -2";
        let mut keys = keys(text).unwrap();
        keys.add("d".to_owned(), "four").unwrap();
        let signed = |caller: &Caller, sign: fn(&Caller, &mut Request)| {
            let mut request = Request::embedding(vec![1]);
            sign(caller, &mut request);
            (request.tenant, request.priority)
        };
        let callers = ["one", "two", "three", "four", ""].map(|key| Caller(keys.find(key)));
        let users = callers.each_ref().map(|caller| signed(caller, Caller::sign));
        assert_eq!(users, [(1, 0), (2, 5), (3, -2), (4, 0), (0, 0)]);
        let rows = callers.each_ref().map(|caller| signed(caller, Caller::sign_row));
        assert_eq!(rows, [(1, -1), (2, -1), (3, -3), (4, -1), (0, -1)]);
    }

    #[test]
    fn a_wrong_file_is_named_without_what_it_holds() {
        for (text, words) in [
            ("[keys.a]\nkey = 'secret'\nadmim = true", "unknown field"),
            ("[keys.a]\n", "needs either key or sha256"),
            ("[keys.a]\nkey = ' '", "the key is empty"),
            ("[keys.a]\nsha256 = 'ab'", "64 hexadecimal digits"),
            ("[keys.a]\nkey = 'secret'\nparallel = 0", "at least 1"),
            ("[keys.a]\nkey = 'secret'\npriority = 101", "between -100 and 100"),
            ("[keys.a]\nkey = 'secret'\n[keys.b]\nkey = 'secret'", "another's"),
            ("keys = 3", "no file of keys"),
        ] {
            let error = keys(text).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn an_empty_key_is_nobodys() {
        let hash: String = Sha256::digest("").iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(keys(&format!("[keys.a]\nsha256 = '{hash}'")).is_err());
        for empty in ["", " "] {
            let error = Keys::default().add("key-1".to_owned(), empty).unwrap_err();
            assert_eq!(error.to_string(), "key \"key-1\": the key is empty");
        }
    }

    #[test]
    fn a_bucket_fills_through_the_minute_and_debts_are_waited_for() {
        let mut bucket = Bucket::full(60.0);
        let start = bucket.at;
        assert_eq!(bucket.wait(start, 1.0), 0.0);
        bucket.level -= 90.0;
        assert_eq!(bucket.wait(start, 1.0), 31.0);
        assert_eq!(bucket.wait(start + Duration::from_secs(31), 1.0), 0.0);
        assert_eq!(bucket.wait(start + Duration::from_secs(500), 60.0), 0.0);
        assert_eq!(bucket.level, 60.0);
    }

    #[test]
    fn requests_and_answers_at_once_have_their_limits() {
        let text = "[keys.a]\nkey = 'k'\nrequests_per_minute = 2\nparallel = 2\nmodels = ['m']";
        let caller = Caller(keys(text).unwrap().find("k"));
        assert!(caller.begin().is_ok() && caller.begin().is_ok());
        let refusal = caller.begin().unwrap_err();
        assert_eq!((refusal.status, refusal.code), (429, Some("rate_limit_exceeded")));
        assert!((29..=30).contains(&refusal.retry_after.unwrap()));
        let pass = caller.run(2).unwrap();
        assert_eq!(caller.run(1).unwrap_err().status, 429);
        drop(pass);
        // More than ever may run are let in alone.
        let pass = caller.run(10).unwrap();
        assert_eq!(caller.run(1).unwrap_err().status, 429);
        drop(pass);
        let pass = caller.run(1).unwrap();
        assert_eq!(caller.run(10).unwrap_err().status, 429);
        drop(pass);
        assert!(caller.may_use("m") && !caller.may_use("n") && !caller.is_admin());
        let mut headers = HeaderMap::new();
        caller.0.unwrap().tell(&mut headers);
        assert_eq!(headers["x-ratelimit-limit-requests"], "2");
        assert_eq!(headers["x-ratelimit-remaining-requests"], "0");
    }
}
