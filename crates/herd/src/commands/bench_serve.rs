//! `herd bench serve`: what a server gives under load: tokens a second, time to the first token,
//! time between tokens. Any server with OpenAI's `/v1/completions` can be measured.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::Agent;

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::flags::range;

/// Flags of `herd bench serve`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Where the server is, like http://127.0.0.1:8080
    #[arg(long)]
    url: String,
    /// Requests at once
    #[arg(long, value_delimiter = ',', default_value = "1,8,32", value_name = "N,..")]
    #[arg(value_parser = range(1, 4096))]
    concurrency: Vec<usize>,
    /// Requests in all for each of these [default: 4 times as many as at once]
    #[arg(long, value_name = "N", value_parser = range(1, 1 << 20))]
    requests: Option<usize>,
    /// Words of a prompt, each of about a token and none alike
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = range(1, 1 << 20))]
    prompt_words: usize,
    /// Of these, words that all prompts begin with
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = range(0, 1 << 20))]
    shared_words: usize,
    /// Tokens of an answer
    #[arg(short = 'n', long, default_value_t = 64, value_name = "N", value_parser = range(1, 1 << 20))]
    max_tokens: usize,
    /// The model to ask for [default: the first that the server lists]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The server's key
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Send OpenAI's fields alone: answers end where the model ends them
    #[arg(long)]
    strict: bool,
}

/// A server that others than this command measure, and how it is asked.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// Where it is.
    pub url: &'a str,
    /// The name of its model; the first that it lists where nothing is said.
    pub model: Option<&'a str>,
    /// Its key.
    pub key: Option<String>,
    /// Whether OpenAI's fields alone are sent.
    pub strict: bool,
    /// Requests at once.
    pub concurrency: &'a [usize],
    /// Words of a prompt.
    pub prompt_words: usize,
    /// Tokens of an answer.
    pub max_tokens: usize,
}

impl Asked<'_> {
    /// The flags that say the same.
    pub fn flags(&self) -> Flags {
        Flags {
            url: self.url.to_owned(),
            concurrency: self.concurrency.to_vec(),
            requests: None,
            prompt_words: self.prompt_words,
            shared_words: 0,
            max_tokens: self.max_tokens,
            model: self.model.map(str::to_owned),
            api_key: self.key.clone(),
            strict: self.strict,
        }
    }
}

/// What one request got.
struct Sample {
    first: Duration,
    last: Duration,
    /// Between the pieces of text that followed.
    gaps: Vec<Duration>,
    prompt_tokens: usize,
    tokens: usize,
}

/// The server under load.
struct Load<'a> {
    flags: &'a Flags,
    agent: Agent,
    url: String,
    model: String,
    /// What no run before had: a server may remember prompts.
    run: u64,
}

/// Measures each concurrency in turn, after one request that does not count.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let rows = rows(flags, console)?;
    if console.json {
        console.print_json(&rows)?;
    } else {
        print(console, &rows)?;
    }
    let failed = rows.iter().any(|row| row["failed"] != 0);
    Ok(if failed { Verdict::No } else { Verdict::Done })
}

/// What is printed of each concurrency.
///
/// Errors: the server cannot be reached, or answers nothing.
pub fn rows(flags: &Flags, console: &Console) -> Result<Vec<Value>, Error> {
    let load = reach(flags)?;
    load.ask(1 << 40)?;
    let mut rows = Vec::new();
    let mut seed = 0;
    for &at_once in &flags.concurrency {
        let requests = flags.requests.unwrap_or(4 * at_once).max(at_once);
        console.note(format!("{requests} requests, {at_once} at once"));
        rows.push(load.measure(at_once, requests, seed));
        seed += requests;
    }
    Ok(rows)
}

/// Finds out whether a server answers and has a model, without measuring it.
///
/// Errors: the server cannot be reached, or lists none.
pub fn check(flags: &Flags) -> Result<(), Error> {
    let load = reach(flags)?;
    match (&flags.model, load.first_model()) {
        (Some(_), Err(Error::Answer { .. })) => Ok(()), // it need not list what was named
        (_, listed) => listed.map(drop),
    }
}

fn reach(flags: &Flags) -> Result<Load<'_>, Error> {
    let agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(10)))
        // A connection for each request: servers differ in when they close one that waits.
        .max_idle_connections(0)
        .build();
    let url = flags.url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
    let run = RandomState::new().build_hasher().finish();
    let mut load = Load { flags, agent: agent.into(), url, model: String::new(), run };
    load.model = match &flags.model {
        Some(name) => name.clone(),
        None => load.first_model()?,
    };
    Ok(load)
}

impl Load<'_> {
    fn first_model(&self) -> Result<String, Error> {
        let url = format!("{}/v1/models", self.url);
        let mut response =
            self.with_key(self.agent.get(&url)).call().map_err(|e| network(&url, e))?;
        let text = response.body_mut().read_to_string().map_err(|e| network(&url, e))?;
        let list: Option<Value> = serde_json::from_str(&text).ok();
        let name = list.and_then(|list| list["data"][0]["id"].as_str().map(str::to_owned));
        name.ok_or(Error::Answer { url, what: "no list of models".to_owned() })
    }

    fn with_key<T>(&self, request: ureq::RequestBuilder<T>) -> ureq::RequestBuilder<T> {
        match &self.flags.api_key {
            Some(key) => request.header("Authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    /// Request `i` of all; what it got.
    fn ask(&self, i: usize) -> Result<Sample, Error> {
        let url = format!("{}/v1/completions", self.url);
        let mut body = json!({
            "model": self.model,
            "prompt": prompt(self.run.wrapping_add(i as u64), self.flags),
            "max_tokens": self.flags.max_tokens,
            "temperature": 0,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        if !self.flags.strict {
            body["ignore_eos"] = true.into();
        }
        let started = Instant::now();
        let request = self.with_key(self.agent.post(&url)).content_type("application/json");
        let mut response = request.send(body.to_string()).map_err(|e| network(&url, e))?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(Error::Status { url, status });
        }
        let mut lines = BufReader::new(response.body_mut().as_reader());
        let mut line = String::new();
        let (mut times, mut usage) = (Vec::new(), Value::Null);
        loop {
            line.clear();
            let read = lines.read_line(&mut line);
            let now = started.elapsed();
            if read.map_err(|e| network(&url, e.into()))? == 0 {
                break;
            }
            // Chunks are not parsed, so that the one who measures takes little of the machine.
            if line.contains("\"usage\":{") {
                let value = line.strip_prefix("data: ").and_then(|t| serde_json::from_str(t).ok());
                usage = value.map_or(usage, |chunk: Value| chunk["usage"].clone());
            }
            if line.contains("\"text\":\"") && !line.contains("\"text\":\"\"") {
                times.push(now);
            }
        }
        let Some(&first) = times.first() else {
            return Err(Error::Answer { url, what: "an answer without text".to_owned() });
        };
        let count = |name: &str| usage[name].as_u64().map(|n| n as usize);
        Ok(Sample {
            first,
            last: times[times.len() - 1],
            gaps: times.windows(2).map(|pair| pair[1] - pair[0]).collect(),
            prompt_tokens: count("prompt_tokens").unwrap_or(0),
            // A server that does not count gives a token with each chunk.
            tokens: count("completion_tokens").unwrap_or(times.len()),
        })
    }

    fn measure(&self, at_once: usize, requests: usize, seed: usize) -> Value {
        let next = AtomicUsize::new(0);
        let started = Instant::now();
        let work = || {
            let mut samples = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= requests {
                    return samples;
                }
                samples.push(self.ask(seed + i));
            }
        };
        let samples: Vec<Result<Sample, Error>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
            let joined = threads.into_iter().map(|t| t.join().expect("a client does not panic"));
            joined.flatten().collect()
        });
        let seconds = started.elapsed().as_secs_f64();
        let failures: Vec<String> =
            samples.iter().filter_map(|s| s.as_ref().err().map(Error::line)).collect();
        let good: Vec<&Sample> = samples.iter().flatten().collect();
        let sum = |of: fn(&Sample) -> usize| good.iter().map(|s| of(s)).sum::<usize>();
        let (prompt, tokens) = (sum(|s| s.prompt_tokens), sum(|s| s.tokens));
        json!({
            "concurrency": at_once,
            "requests": requests,
            "failed": failures.len(),
            "failure": failures.first(),
            "seconds": seconds,
            "prompt_tokens": prompt,
            "tokens": tokens,
            "tok_s": tokens as f64 / seconds,
            "total_tok_s": (prompt + tokens) as f64 / seconds,
            "ttft_ms": percentiles(good.iter().map(|s| s.first).collect()),
            "output_tok_s": median(good.iter().filter_map(|s| s.speed()).collect()),
            "inter_token_ms": percentiles(good.iter().flat_map(|s| s.gaps.clone()).collect()),
        })
    }
}

impl Sample {
    /// Tokens a second behind the first one.
    fn speed(&self) -> Option<f64> {
        let seconds = (self.last - self.first).as_secs_f64();
        (self.tokens > 1 && seconds > 0.0).then(|| (self.tokens - 1) as f64 / seconds)
    }
}

/// The middle of some numbers, by the nearest rank.
pub fn median(numbers: Vec<f64>) -> Option<f64> {
    percentile(numbers, 0.5)
}

/// The number below or at which this share of some numbers lies, by the nearest rank.
pub fn percentile(mut numbers: Vec<f64>, share: f64) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let rank = (share * numbers.len() as f64).ceil() as usize;
    numbers.get(rank.max(1) - 1).copied()
}

fn network(url: &str, source: ureq::Error) -> Error {
    Error::Network { url: url.to_owned(), source: Box::new(source) }
}

/// A prompt of words that no other prompt has behind the shared ones.
fn prompt(number: u64, flags: &Flags) -> String {
    const WORDS: [&str; 16] = [
        "time", "hand", "water", "light", "house", "night", "world", "place", "story", "river",
        "stone", "voice", "paper", "green", "horse", "road",
    ];
    let mut text = String::new();
    for place in 0..flags.prompt_words {
        let own = if place < flags.shared_words { 0 } else { number };
        let mut key = own.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ place as u64;
        key = (key ^ key >> 31).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        text += WORDS[(key >> 40) as usize % WORDS.len()];
        text.push(' ');
    }
    text
}

/// Milliseconds below which half, 95 and 99 in a hundred lie, by the nearest rank.
fn percentiles(times: Vec<Duration>) -> Value {
    let times: Vec<f64> = times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect();
    let at = |share: f64| percentile(times.clone(), share);
    json!({ "p50": at(0.5), "p95": at(0.95), "p99": at(0.99) })
}

fn print(console: &Console, rows: &[Value]) -> Result<(), Error> {
    let head =
        ["at once", "tok/s", "ttft p50", "p95", "p99", "between p50", "p95", "p99", "failed"];
    let mut table = vec![head.map(String::from).to_vec()];
    for row in rows {
        let number = |v: &Value| v.as_f64().map_or("-".into(), |x| format!("{x:.1}"));
        let mut cells = vec![row["concurrency"].to_string(), number(&row["tok_s"])];
        for times in ["ttft_ms", "inter_token_ms"] {
            cells.extend(["p50", "p95", "p99"].map(|name| number(&row[times][name])));
        }
        cells.push(row["failed"].to_string());
        table.push(cells);
    }
    console.print_table(&table)?;
    let failures = rows.iter().filter_map(|row| row["failure"].as_str());
    failures.for_each(|failure| console.note(failure));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let times = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentiles(times), json!({ "p50": 50.0, "p95": 95.0, "p99": 99.0 }));
        assert_eq!(percentiles(vec![Duration::from_millis(7)])["p99"], 7.0);
        assert_eq!(percentiles(Vec::new())["p50"], Value::Null);
        let many = (1..=40).map(f64::from).collect();
        assert_eq!(percentile(many, 0.95), Some(38.0)); // not the greatest
        assert_eq!(median(vec![3.0, 1.0, 2.0, 4.0]), Some(2.0));
    }
}
