//! The calls of an answer: the server's tools run, at once or when a person says so; all others wait for a person who gives
//! their result.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use herd_codec::chat::{ToolCall, ToolDefinition};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep_until};

use super::store::Key;
use super::turn::{Order, Writer, until};
use super::{Page, papers};
use crate::agent::AgentError;
use crate::agent::benches::{Benches, Whose};
use crate::agent::run::{Limits, Rule, cut};
use crate::agent::tools::{Given, Ran, Tools};
use crate::hall::{Hall, aside};
use crate::refusal::Refusal;

/// What one answer may take: as for `herd agent`.
const LIMITS: Limits = Limits::USUAL;
/// How long a call waits for a person.
const DECISION: Duration = Duration::from_secs(3600);

/// The server's tools as a conversation has them.
#[derive(Clone, Default)]
pub struct Hands {
    tools: Option<Arc<Tools>>,
    /// Those that are switched off.
    off: Vec<String>,
}

impl Hands {
    /// Whether a conversation of these settings has tools to which its files go.
    pub fn want_files(hall: &Hall, settings: &Map<String, Value>) -> bool {
        let off = names_off(settings);
        let reads = |name: &&str| matches!(*name, "python" | "search");
        let on = |benches: &Arc<Benches>| {
            let names = benches.sample().names();
            names.iter().any(|name| reads(name) && !off.iter().any(|off| off == name))
        };
        hall.settings.tools.as_ref().is_some_and(on)
    }

    /// The tools of a conversation with these files. Errors: they cannot be had.
    pub async fn of(
        hall: &Hall,
        key: &Key,
        settings: &Map<String, Value>,
        files: Vec<Given>,
    ) -> Result<Hands, Refusal> {
        let Some(benches) = hall.settings.tools.clone() else { return Ok(Hands::default()) };
        let whose = Whose::Chat(key.chat);
        let made = aside(false, move || benches.of(&whose, &files).map_err(refused)).await?;
        Ok(Hands { tools: Some(made), off: names_off(settings) })
    }

    /// What the model is told of.
    pub fn shown(&self) -> Vec<ToolDefinition> {
        let mut all = self.tools.as_ref().map_or_else(Vec::new, |tools| tools.definitions());
        all.retain(|tool| !self.off.iter().any(|off| off == tool.name()));
        all
    }

    /// The tool that a name means, if the server is to run it.
    fn find(&self, name: &str) -> Option<(Arc<Tools>, String)> {
        let tools = self.tools.as_ref()?;
        let own = tools.find(name)?.name().to_owned();
        (!self.off.contains(&own)).then(|| (Arc::clone(tools), own))
    }
}

/// Why tools cannot be had, as a refusal.
pub fn refused(error: AgentError) -> Refusal {
    let status = if matches!(error, AgentError::Value { .. }) { 400 } else { 503 };
    Refusal::new(status, error.to_string())
}

/// The tools that settings switch off.
fn names_off(settings: &Map<String, Value>) -> Vec<String> {
    let names = settings.get("tools_off").and_then(Value::as_array).into_iter().flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// A call that the model made.
pub struct Call {
    /// Its name in the conversation.
    pub id: String,
    /// What is called.
    pub call: ToolCall,
}

/// What calls have come to in an answer.
pub struct Course {
    since: Instant,
    /// For how long a person was waited for.
    waited: Duration,
    /// How often in a row a call has failed, by name and arguments.
    failures: HashMap<String, usize>,
}

impl Course {
    /// An answer that begins.
    pub fn new() -> Course {
        Course { since: Instant::now(), waited: Duration::ZERO, failures: HashMap::new() }
    }

    /// The limit that leaves no room for so many calls behind turn `step`, when `tokens` were written.
    fn spent(&self, step: usize, tokens: usize, calls: usize) -> Option<String> {
        if step >= LIMITS.steps {
            return Some(format!("{} steps are all that were allowed", LIMITS.steps));
        }
        if self.since.elapsed().saturating_sub(self.waited) >= LIMITS.wall {
            return Some(format!("{} seconds are over", LIMITS.wall.as_secs()));
        }
        if tokens >= LIMITS.tokens {
            return Some(format!("{} tokens are all that were allowed", LIMITS.tokens));
        }
        (calls > LIMITS.calls).then(|| format!("{calls} calls at once, at most {}", LIMITS.calls))
    }

    /// Counts a result; the limit that it meets.
    fn count(&mut self, call: &ToolCall, ok: bool) -> Option<String> {
        let key = format!("{} {}", call.name, call.arguments_json());
        let failures = self.failures.entry(key).or_default();
        *failures = if ok { 0 } else { *failures + 1 };
        let tired = *failures >= LIMITS.failures;
        tired.then(|| format!("the same call of {} failed {failures} times", call.name))
    }
}

/// Tokens that an answer may still write, where it has written so many.
pub fn tokens_left(written: usize) -> usize {
    LIMITS.tokens.saturating_sub(written).max(1)
}

/// How calls went.
pub enum Went {
    /// Each has a result.
    On,
    /// The answer was stopped.
    Cancelled,
    /// This limit ends the answer.
    Limit(String),
}

impl Writer {
    /// Brings about a result of each call of turn `step`, one after the other.
    pub async fn carry_out(&mut self, calls: &[Call], step: usize) -> Result<Went, Refusal> {
        if let Some(limit) = self.course.spent(step, self.counts.written(), calls.len()) {
            for call in calls {
                self.give(call, Ran::failed(format!("not run: {limit}")), 0.0).await;
            }
            return Ok(Went::Limit(limit));
        }
        let mut tired = None;
        for call in calls {
            let came = match self.hands.find(&call.call.name) {
                Some((tools, own)) => self.by_server(call, tools, &own).await?,
                None => self.by_person(call).await?,
            };
            let Some((ran, seconds)) = came else { return Ok(Went::Cancelled) };
            tired = tired.or(self.course.count(&call.call, ran.ok));
            self.give(call, ran, seconds).await;
        }
        Ok(tired.map_or(Went::On, Went::Limit))
    }

    /// Asks a person for the result of a call; nothing if the answer is stopped.
    async fn by_person(&mut self, call: &Call) -> Result<Option<(Ran, f64)>, Refusal> {
        self.tell(json!({ "type": "ask", "id": call.id, "wants": "result" }));
        let since = Instant::now();
        let Some(decided) = self.decision(call).await? else { return Ok(None) };
        let ran = match decided {
            Some(text) => Ran::done(text),
            None => Ran::failed("the user denied this call"),
        };
        Ok(Some((ran, since.elapsed().as_secs_f64())))
    }

    /// Runs a call by the rule of its tool; nothing if the answer is stopped.
    async fn by_server(
        &mut self,
        call: &Call,
        tools: Arc<Tools>,
        own: &str,
    ) -> Result<Option<(Ran, f64)>, Refusal> {
        match tools.rule(own) {
            Rule::Always => {}
            Rule::Never => {
                let why = format!("not run: the tool {} is not allowed", call.call.name);
                return Ok(Some((Ran::failed(why), 0.0)));
            }
            Rule::Ask => {
                self.tell(json!({ "type": "ask", "id": call.id }));
                match self.decision(call).await? {
                    None => return Ok(None),
                    Some(None) => {
                        return Ok(Some((Ran::failed("not run: the user said no"), 0.0)));
                    }
                    Some(Some(_)) => {}
                }
            }
        }
        // What is about to happen is written down first.
        self.save(false).await?;
        self.run(call, tools).await
    }

    /// Runs a call beside this thread. One that is stopped goes on without an ear, so its tools are given up.
    async fn run(&mut self, call: &Call, tools: Arc<Tools>) -> Result<Option<(Ran, f64)>, Refusal> {
        let Some(benches) = self.hall.settings.tools.clone() else { return Ok(None) };
        let (calls, asked) = (Arc::clone(&benches.calls), call.call.clone());
        let mut work = std::pin::pin!(async move {
            let permit = calls.acquire_owned().await;
            let run = move || {
                let _permit = permit; // given back when the call is over, stopped or not
                let since = Instant::now();
                (tools.run(&asked), since.elapsed().as_secs_f64())
            };
            tokio::task::spawn_blocking(run).await
        });
        loop {
            tokio::select! {
                came = &mut work => {
                    let fault = |_| (Ran::failed("a fault of this program ended the call"), 0.0);
                    return Ok(Some(came.unwrap_or_else(fault)));
                }
                order = self.orders.recv() => match order {
                    Some(Order::Stop) | None => {
                        benches.forget(&Whose::Chat(self.live.key.chat));
                        return Ok(None);
                    }
                    Some(Order::Decide { .. }) => {} // nothing was asked
                },
                () = until(self.unsaved) => self.save(false).await?,
            }
        }
    }

    /// Waits for what a person decides: the result that is given, or a denial; nothing if the answer is stopped.
    async fn decision(&mut self, asked: &Call) -> Result<Option<Option<String>>, Refusal> {
        let since = Instant::now();
        let decided = loop {
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Stop) | None => break None,
                    Some(Order::Decide { call, result }) if call == asked.id => break Some(result),
                    Some(Order::Decide { .. }) => {}
                },
                () = until(self.unsaved) => self.save(false).await?,
                // Nobody decides: the call is denied, and its place is another's.
                () = sleep_until(since + DECISION) => break Some(None),
            }
        };
        self.course.waited += since.elapsed();
        Ok(decided)
    }

    /// Tells what came of a call, and keeps the files that it wrote.
    async fn give(&mut self, call: &Call, ran: Ran, seconds: f64) {
        let Ran { ok, text, files } = ran;
        let text = match self.hands.find(&call.call.name) {
            Some(_) => cut(text, LIMITS.result_bytes),
            None => text, // a person's
        };
        let chat = self.live.key.chat;
        let files = match files.is_empty() {
            true => Vec::new(),
            false => keep(&self.hall.page, chat, files).await,
        };
        self.tell(json!({
            "type": "result", "id": call.id, "ok": ok, "text": text, "files": files,
            "seconds": seconds,
        }));
    }
}

/// Keeps files; what a result says of them.
async fn keep(page: &Page, chat: i64, files: Vec<crate::agent::FileOut>) -> Vec<Value> {
    let bare =
        |file: &crate::agent::FileOut| json!({ "name": file.name, "bytes": file.bytes.len() });
    let listed: Vec<Value> = files.iter().map(bare).collect();
    let kept = page.store.run(move |db| Ok(papers::written(db, chat, &files))).await;
    kept.unwrap_or(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> ToolCall {
        ToolCall { id: None, name: "f".into(), arguments: Map::new() }
    }

    #[test]
    fn each_limit_is_met_and_a_success_starts_the_count_of_failures_anew() {
        let mut course = Course::new();
        assert_eq!(course.spent(1, 0, 1), None);
        assert!(course.spent(LIMITS.steps, 0, 1).unwrap().contains("steps"));
        assert!(course.spent(1, LIMITS.tokens, 1).unwrap().contains("tokens"));
        assert!(course.spent(1, 0, LIMITS.calls + 1).unwrap().contains("calls at once"));
        let failed = [false, false, true, false, false].map(|ok| course.count(&call(), ok));
        assert!(failed.iter().all(Option::is_none));
        assert!(course.count(&call(), false).unwrap().contains("failed 3 times"));
    }
}
