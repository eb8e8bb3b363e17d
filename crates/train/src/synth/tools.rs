//! Trajectories with tools (arXiv 2407.21783, section 4.3.5): a query, calls that are really made, and an answer that uses what came back.
//!
//! ```text
//! snippet, or an uploaded file -> query -> call -> output -> call -> output -> ... -> answer
//! ```
//!
//! An uploaded file lies beside each call. A trajectory over one is kept if a call of Python would have come to something else without it.
//! Who asks has seen how the file begins; who answers knows its name alone, as an assistant does.
//!
//! The writer need not know any format of calls: it writes a block of Python or a line `Calculator: ...`, and rows have them in Llama 3.1's roles.

use crate::error::TrainError;
use crate::rejection::{last_number, near};
use crate::synth::arithmetic::value;
use crate::synth::items::{Item, snippet};
use crate::synth::read::{fences, labelled};
use crate::synth::{Harvest, Shelf, said};
use crate::writer::desk::{Desk, Made, reject};
use crate::writer::prompts::Default;
use crate::writer::{between, within};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Settings of `tools`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolsConfig {
    /// Whether items are files that a user uploads: csv, tsv, txt, json, jsonl, py, html, xml, md, toml.
    pub uploads: bool,
    /// Bytes of an uploaded file at most.
    pub upload_bytes: usize,
    /// Bytes of a snippet, or of the first lines of a file, in whole lines.
    pub snippet_bytes: usize,
    /// Calls of a trajectory: the least and the most; two and more make it one of several steps.
    pub calls: [usize; 2],
    /// Seconds that a call may compute.
    pub seconds: f64,
    /// Bytes of an output that the writer sees.
    pub output_bytes: usize,
}

/// What the writer is asked.
pub(super) const PROMPTS: &[Default] = &[
    Default {
        step: "query",
        names: &["snippet", "calls"],
        text: "Here is a piece of text:\n\n{{ snippet }}\n\nInvent a question that it inspires, that has one definite answer, and that takes \
               {% if calls > 1 %}at least {{ calls }} calculations, each with the result of the one before{% else %}a calculation{% endif %}. State all \
               numbers that are needed. Write the question alone.",
    },
    Default {
        step: "act",
        names: &["query", "upload", "history", "least"],
        text: "Question: {{ query }}\n\n{% if upload %}The user has uploaded a file; your programs find it as `{{ upload }}` in their folder.\n\n{% endif %}\
               You have two tools. To run Python, write one ```python block that prints what you need. To work out a \
               term, write a line `Calculator: 3 * (4 + 5)`. Make one call at a time and wait for its output.\n\
               {% for step in history %}\nYou wrote:\n{{ step.call }}\nOutput:\n{{ step.output }}\n{% endfor %}\n\
               {% if history | length >= least %}When you know the answer, write a line `Answer: ...` in place of a call.{% else %}Make the next call.{% endif %}",
    },
    Default {
        step: "query_upload",
        names: &["upload", "head", "calls"],
        text: "A user has uploaded the file `{{ upload }}`, which begins like this:\n\n{{ head }}\n\nInvent a question about the whole file that has one \
               definite answer, and that takes {% if calls > 1 %}at least {{ calls }} programs, each with the result of the one before\
               {% else %}a program that reads it{% endif %}. Write the question alone.",
    },
    Default {
        step: "ask_upload",
        names: &["upload", "query"],
        text: "{{ query }}\n\n(uploaded file: {{ upload }})",
    },
];

impl ToolsConfig {
    pub(super) fn base() -> ToolsConfig {
        let (uploads, upload_bytes, snippet_bytes) = (false, 1 << 16, 800);
        let (calls, seconds, output_bytes) = ([1, 4], 5.0, 2000);
        ToolsConfig { uploads, upload_bytes, snippet_bytes, calls, seconds, output_bytes }
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        between("tools.upload_bytes", self.upload_bytes as u64, 1, 1 << 24)?;
        between("tools.snippet_bytes", self.snippet_bytes as u64, 16, 1 << 20)?;
        between("tools.output_bytes", self.output_bytes as u64, 1, 1 << 14)?;
        within("tools.seconds", self.seconds, 0.01, 3600.0)?;
        let [least, most] = self.calls;
        if 1 <= least && least <= most && most <= 100 {
            return Ok(());
        }
        let expected = "[least, most] of 1 to 100";
        Err(TrainError::no("tools.calls", format!("[{least}, {most}]"), expected))
    }
}

pub(super) fn work(desk: &mut Desk<'_>, shelf: &Shelf<'_>, item: &Item) -> Made<Harvest> {
    let config = shelf.config.tools.as_ref().expect("the settings of its kind");
    let [least, most] = config.calls;
    let upload = item.value.as_str().map(|name| Upload { name, text: &item.text });
    let (query, asked) = query(desk, config, item, upload)?;
    desk.passed("query");
    let mut messages = vec![said("user", &asked)];
    let (mut history, mut last) = (Vec::new(), String::new());
    let mut reads = upload.is_none();
    let name = upload.map(|upload| upload.name);
    let program = if name == Some("main.py") { "call.py" } else { "main.py" };
    let answer = loop {
        let with = json!({ "query": query, "upload": name, "history": history, "least": least });
        let text = desk.say("act", with)?;
        let what = |text: &str| json!({ "query": query, "history": history, "said": text });
        let (call, message, output) = match read(&text) {
            Act::Answer(_) if history.len() < least => {
                return reject("act", "too_few_calls", what(&text));
            }
            Act::Answer(answer) => break answer,
            Act::Nothing => return reject("act", "no_call", what(&text)),
            Act::Python(_) | Act::Term(_) if history.len() == most => {
                return reject("act", "too_many_calls", what(&text));
            }
            Act::Python(code) => {
                let output = python(desk, program, &code, upload)?;
                reads = reads || output != python(desk, program, &code, None)?;
                (format!("```python\n{code}```"), call("code_interpreter", "code", &code), output)
            }
            Act::Term(term) => {
                let output = value(&term).map(|value| value.to_string());
                (format!("{TERM}{term}"), call("calculator", "expression", &term), output)
            }
        };
        let Some(output) = output else { return reject("call", "failed", what(&text)) };
        let output = cut(output.trim(), config.output_bytes);
        if output.is_empty() {
            return reject("call", "no_output", what(&text));
        }
        desk.passed("call");
        messages.extend([message, json!({ "role": "tool", "content": output })]);
        last = output.to_owned();
        history.push(json!({ "call": call, "output": output }));
    };
    if !reads {
        let what = json!({ "query": query, "history": history, "said": answer });
        return reject("answer", "ignores_upload", what);
    }
    if !uses(&answer, &last) {
        return reject(
            "answer",
            "ignores_output",
            json!({ "query": query, "history": history, "said": answer }),
        );
    }
    desk.passed("answer");
    messages.push(said("assistant", &answer));
    let told = if history.len() > 1 { "multi_step" } else { "single_step" };
    let counts = |step: &Value| step["call"].as_str().is_some_and(|call| call.starts_with(TERM));
    let mut system = ENVIRONMENT.to_owned();
    if history.iter().any(counts) {
        system += &calculator();
    }
    messages.insert(0, said("system", &system));
    let row = json!({ "messages": messages });
    Ok(Harvest { rows: vec![row], told: vec![told], ..Harvest::default() })
}

/// A file that lies beside calls.
#[derive(Clone, Copy)]
struct Upload<'a> {
    name: &'a str,
    text: &'a str,
}

/// A question, and how a user says it.
fn query(
    desk: &mut Desk<'_>,
    config: &ToolsConfig,
    item: &Item,
    upload: Option<Upload<'_>>,
) -> Made<(String, String)> {
    let calls = config.calls[0];
    let Some(Upload { name, text }) = upload else {
        let snippet = snippet(&item.text, config.snippet_bytes, desk.draw("snippet"));
        let query = desk.say("query", json!({ "snippet": snippet, "calls": calls }))?;
        return Ok((query.clone(), query));
    };
    let head = snippet(text, config.snippet_bytes, 0);
    let with = json!({ "upload": name, "head": head, "calls": calls });
    let query = desk.say("query_upload", with)?;
    let with = json!({ "upload": name, "query": query });
    let asked = desk.room.prompts.render("ask_upload", &with)?;
    Ok((query, asked))
}

/// What a writer does next.
enum Act {
    Python(String),
    Term(String),
    Answer(String),
    Nothing,
}

fn read(text: &str) -> Act {
    const LABELS: [&str; 2] = ["Calculator", "Answer"];
    if let Some(code) = fences(text).into_iter().next() {
        return Act::Python(code);
    }
    if let Some(term) = labelled(text, "Calculator", &LABELS) {
        return Act::Term(
            term.lines().next().unwrap_or_default().trim_matches('`').trim().to_owned(),
        );
    }
    labelled(text, "Answer", &LABELS).map_or(Act::Nothing, Act::Answer)
}

/// What a program prints; `None` if it fails. Beside it lies the file that is given.
fn python(
    desk: &mut Desk<'_>,
    program: &str,
    code: &str,
    given: Option<Upload<'_>>,
) -> Made<Option<String>> {
    let given = given.map(|upload| (upload.name, upload.text));
    let command = ["python3", "-I", "-u", "-B", "-S", program];
    let ran = desk.run_over(&command, &[(program, code)], given.as_slice())?;
    Ok(ran.succeeded().then_some(ran.stdout))
}

/// An assistant's message that calls a tool, and goes on behind its output.
fn call(name: &str, argument: &str, text: &str) -> Value {
    let arguments = json!({ argument: text }).to_string();
    let function = json!({ "name": name, "arguments": arguments });
    let calls = json!([{ "type": "function", "function": function }]);
    json!({ "role": "assistant", "content": null, "tool_calls": calls, "end": "message" })
}

/// How a call of the calculator begins in the writer's words.
const TERM: &str = "Calculator: ";

/// What turns Llama 3.1's interpreter on. It stands in a message: Meta's own format has no other place.
const ENVIRONMENT: &str = "Environment: ipython";

/// What a system message says of the calculator besides.
fn calculator() -> String {
    let expression = json!({ "type": "string", "description": "a term such as 3 * (4 + 5)" });
    let parameters = json!({ "type": "object", "properties": { "expression": expression }, "required": ["expression"] });
    let function = json!({ "name": "calculator", "description": "Works out a term.", "parameters": parameters });
    let definition = json!({ "type": "function", "function": function });
    format!(
        "\n\nYou can call a function. Answer with `{{\"name\": NAME, \"parameters\": {{NAME: VALUE}}}}` alone to do so.\n\n{definition}"
    )
}

fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// Whether an answer holds the last number of an output, or the output where that has none. Decimals may be rounded.
fn uses(answer: &str, output: &str) -> bool {
    let Some(wanted) = last_number(output) else {
        return answer.to_lowercase().contains(&output.to_lowercase());
    };
    let splits = |c: char| !(c.is_ascii_digit() || matches!(c, '.' | ',' | '-'));
    let parts = answer.split(splits).filter_map(|part| {
        let decimals = part.trim_end_matches('.').split_once('.').map_or(0, |(_, d)| d.len());
        last_number(part.trim_end_matches(['.', ','])).map(|number| (number, decimals))
    });
    parts.into_iter().any(|(number, decimals)| {
        let rounded = decimals > 0
            && (number - wanted).abs() <= 0.5001 * 10f64.powi(-(decimals.min(300) as i32));
        near(number, wanted) || rounded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_uses_an_output_if_it_holds_its_number() {
        for (answer, output, wanted) in [
            ("It is 1,020 coins.", "1020", true),
            ("About 3.33.", "3.3333333", true),
            ("About 3.34.", "3.3333333", false),
            ("Nothing", "7", false),
            ("It is a Tuesday", "tuesday", true),
            ("-5.", "x = -5", true),
        ] {
            assert_eq!(uses(answer, output), wanted, "{answer} of {output}");
        }
    }
}
