//! The loop: a turn of the model, its calls, approval, results back, the next turn; within limits.

use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use herd_codec::chat::{Dialogue, Message, Role, ToolCall};

use super::AgentError;
use super::event::{Event, Reason, ToolResult};
use super::tools::Ran;
use super::voice::Turn;

/// Asks the model for one turn: the dialogue, tokens at most, and who hears text as it becomes certain.
pub type Speak<'a> =
    dyn FnMut(&Dialogue, usize, &mut dyn FnMut(&str)) -> Result<Turn, AgentError> + 'a;

/// Whether a tool may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Without asking.
    Always,
    /// If somebody says yes.
    Ask,
    /// Not at all; the model is told.
    Never,
}

/// How much one question may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Turns of the model.
    pub steps: usize,
    /// Time, looked at between steps.
    pub wall: Duration,
    /// Tokens that the model writes in all.
    pub tokens: usize,
    /// Bytes of a result; the rest is cut, and the model is told.
    pub result_bytes: usize,
    /// Calls of one turn.
    pub calls: usize,
    /// The same call may fail so often in a row.
    pub failures: usize,
}

impl Limits {
    /// Enough for a plan of a few steps.
    pub const USUAL: Limits = Limits {
        steps: 16,
        wall: Duration::from_secs(600),
        tokens: 16_384,
        result_bytes: 16 << 10,
        calls: 16,
        failures: 3,
    };
}

/// All that the loop works with.
pub struct Agent<'a> {
    /// The model.
    pub speak: &'a mut Speak<'a>,
    /// Runs a call that may run. Calls of different tools run side by side.
    pub hands: &'a (dyn Fn(&ToolCall) -> Ran + Sync),
    /// The tool that a call means, by its own name.
    pub tool: &'a dyn Fn(&str) -> String,
    /// Whether a tool may run.
    pub rule: &'a dyn Fn(&str) -> Rule,
    /// Asks somebody about a call.
    pub approve: &'a mut dyn FnMut(&ToolCall) -> bool,
    /// Hears what happens.
    pub tell: &'a mut dyn FnMut(Event),
    /// How much it may take.
    pub limits: Limits,
    /// Ends it from elsewhere.
    pub stop: &'a AtomicBool,
    /// Calls that were made in this dialogue: ids go on from here.
    pub calls: usize,
}

/// What is kept between steps.
struct Course {
    since: Instant,
    prompt_tokens: usize,
    completion_tokens: usize,
    /// How often in a row a call has failed, by name and arguments.
    failures: HashMap<String, usize>,
}

/// Answers the last message of the dialogue, which grows by turns and results; says why it is over. Whatever ends it, every
/// call in the dialogue has a result, so that it can go on.
pub fn run(agent: &mut Agent<'_>, dialogue: &mut Dialogue) -> Reason {
    let mut course = Course {
        since: Instant::now(),
        prompt_tokens: 0,
        completion_tokens: 0,
        failures: HashMap::new(),
    };
    let reason = match go(agent, dialogue, &mut course) {
        Ok(reason) => reason,
        Err(error) => Reason::Error(error.to_string()),
    };
    let Course { prompt_tokens, completion_tokens, .. } = course;
    (agent.tell)(Event::End { reason: reason.clone(), prompt_tokens, completion_tokens });
    reason
}

fn go(
    agent: &mut Agent<'_>,
    dialogue: &mut Dialogue,
    course: &mut Course,
) -> Result<Reason, AgentError> {
    for step in 1.. {
        if agent.stop.load(Ordering::Relaxed) {
            return Ok(Reason::Cancelled);
        }
        let turn = ask(agent, dialogue, course)?;
        let (cut, cancelled) = (turn.cut, turn.cancelled);
        let calls = turn.message.tool_calls.clone();
        dialogue.messages.push(turn.message.clone());
        (agent.tell)(Event::Turn(turn));
        if calls.is_empty() {
            return Ok(match (cancelled, cut) {
                (true, _) => Reason::Cancelled,
                (false, true) => Reason::Length,
                (false, false) => Reason::Stop,
            });
        }
        calls.iter().for_each(|call| (agent.tell)(Event::Call(call.clone())));
        if let Some(limit) = spent(agent, course, step, &calls) {
            let why = format!("not run: {limit}");
            for call in &calls {
                give(agent, dialogue, call, Ran::failed(why.clone()), 0.0);
            }
            return Ok(Reason::Limit(limit));
        }
        let results = results(agent, &calls);
        let mut tired = None;
        for (call, (ran, seconds)) in calls.iter().zip(results) {
            let key = format!("{} {}", call.name, call.arguments_json());
            let failures = course.failures.entry(key).or_default();
            *failures = if ran.ok { 0 } else { *failures + 1 };
            if *failures >= agent.limits.failures {
                tired = Some(format!("the same call of {} failed {failures} times", call.name));
            }
            give(agent, dialogue, call, ran, seconds);
        }
        if let Some(limit) = tired {
            return Ok(Reason::Limit(limit));
        }
    }
    unreachable!("the limit of steps ends the loop")
}

/// One turn of the model; its calls get ids.
fn ask(
    agent: &mut Agent<'_>,
    dialogue: &Dialogue,
    course: &mut Course,
) -> Result<Turn, AgentError> {
    let room = agent.limits.tokens.saturating_sub(course.completion_tokens).max(1);
    let tell = &mut *agent.tell;
    let mut turn = (agent.speak)(dialogue, room, &mut |text| tell(Event::Text(text.to_owned())))?;
    course.prompt_tokens += turn.prompt.len();
    course.completion_tokens += turn.answer.len();
    for call in &mut turn.message.tool_calls {
        agent.calls += 1;
        call.id = Some(format!("call_{}", agent.calls));
    }
    Ok(turn)
}

/// The limit that leaves no room for these calls.
fn spent(agent: &Agent<'_>, course: &Course, step: usize, calls: &[ToolCall]) -> Option<String> {
    let limits = &agent.limits;
    if step >= limits.steps {
        return Some(format!("{} steps are all that were allowed", limits.steps));
    }
    if course.since.elapsed() >= limits.wall {
        return Some(format!("{} seconds are over", limits.wall.as_secs()));
    }
    if course.completion_tokens >= limits.tokens {
        return Some(format!("{} tokens are all that were allowed", limits.tokens));
    }
    let many = calls.len() > limits.calls;
    many.then(|| format!("{} calls at once, at most {}", calls.len(), limits.calls))
}

/// What came of each call, and the seconds that it took.
fn results(agent: &mut Agent<'_>, calls: &[ToolCall]) -> Vec<(Ran, f64)> {
    let mut results: Vec<Option<(Ran, f64)>> = vec![None; calls.len()];
    // Calls of one tool run in their order, since a tool may remember.
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for (i, call) in calls.iter().enumerate() {
        let tool = (agent.tool)(&call.name);
        if let Some(refusal) = refusal(agent, call, &tool) {
            results[i] = Some((Ran::failed(refusal), 0.0));
            continue;
        }
        match groups.iter_mut().find(|(name, _)| *name == tool) {
            Some((_, places)) => places.push(i),
            None => groups.push((tool, vec![i])),
        }
    }
    let (hands, stop) = (agent.hands, agent.stop);
    let run_group = |places: &[usize]| -> Vec<(usize, (Ran, f64))> {
        places.iter().map(|&i| (i, run_one(hands, stop, &calls[i]))).collect()
    };
    let done = match &groups[..] {
        [(_, places)] => run_group(places),
        groups => thread::scope(|scope| {
            let spawn = |(_, places): &(String, Vec<usize>)| {
                let (places, run_group) = (places.clone(), &run_group);
                scope.spawn(move || run_group(&places))
            };
            let threads: Vec<_> = groups.iter().map(spawn).collect();
            let ends = threads.into_iter().map(|t| t.join().expect("panics are caught inside"));
            ends.flatten().collect()
        }),
    };
    for (i, result) in done {
        results[i] = Some(result);
    }
    results.into_iter().map(|result| result.expect("each call was refused or run")).collect()
}

fn run_one(
    hands: &(dyn Fn(&ToolCall) -> Ran + Sync),
    stop: &AtomicBool,
    call: &ToolCall,
) -> (Ran, f64) {
    let since = Instant::now();
    let ran = match stop.load(Ordering::Relaxed) {
        true => Ran::failed("not run: cancelled"),
        false => panic::catch_unwind(AssertUnwindSafe(|| hands(call)))
            .unwrap_or_else(|_| Ran::failed("a fault of this program ended the call")),
    };
    (ran, since.elapsed().as_secs_f64())
}

/// Why a call may not run.
fn refusal(agent: &mut Agent<'_>, call: &ToolCall, tool: &str) -> Option<String> {
    match (agent.rule)(tool) {
        Rule::Always => None,
        Rule::Never => Some(format!("not run: the tool {} is not allowed", call.name)),
        Rule::Ask => {
            (agent.tell)(Event::Ask(call.id.clone().unwrap_or_default()));
            (!(agent.approve)(call)).then(|| "not run: the user said no".to_owned())
        }
    }
}

/// Tells everybody what came of a call.
fn give(agent: &mut Agent<'_>, dialogue: &mut Dialogue, call: &ToolCall, ran: Ran, seconds: f64) {
    let Ran { ok, text, files } = ran;
    let text = cut(text, agent.limits.result_bytes);
    let mut message = Message::new(Role::Tool, text.clone());
    (message.tool_call_id, message.name) = (call.id.clone(), Some(call.name.clone()));
    dialogue.messages.push(message);
    let id = call.id.clone().unwrap_or_default();
    (agent.tell)(Event::Result(ToolResult { id, ok, text, files, seconds }));
}

/// The first `most` bytes of a text, with a note if there are more.
pub fn cut(mut text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let all = text.len();
    text.truncate(text.floor_char_boundary(most));
    text += &format!("\n[cut: {most} of {all} bytes]");
    text
}
