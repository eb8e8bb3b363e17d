//! The tools that a model may call, by name, and the rule of each.

use std::collections::BTreeMap;

use herd_codec::chat::{ToolCall, ToolDefinition};
use herd_sandbox::{Limits, Sandbox};
use serde_json::{Value, json};

use super::event::FileOut;
use super::run::Rule;
use super::wording::own_name;
use super::{AgentError, calc, python};

/// What came of running a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Ran {
    /// Whether it did what was asked.
    pub ok: bool,
    /// What it says.
    pub text: String,
    /// Files that it wrote.
    pub files: Vec<FileOut>,
}

impl Ran {
    /// It did what was asked, and says this.
    pub fn done(text: impl Into<String>) -> Ran {
        Ran { ok: true, text: text.into(), files: Vec::new() }
    }

    /// It did not, for this reason.
    pub fn failed(text: impl Into<String>) -> Ran {
        Ran { ok: false, text: text.into(), files: Vec::new() }
    }
}

/// What runs a call.
pub type Hand = Box<dyn Fn(&ToolCall) -> Ran + Send + Sync>;

/// A tool.
pub struct Tool {
    /// What the model is told of it.
    pub definition: ToolDefinition,
    /// Whether it may run, where nothing else is said.
    pub rule: Rule,
    /// Runs a call; calls of one tool come one after the other.
    pub hand: Hand,
}

impl Tool {
    /// A tool of this name, purpose and JSON Schema of arguments.
    pub fn new(name: &str, description: &str, parameters: Value, hand: Hand) -> Tool {
        let function = json!({"name": name, "description": description, "parameters": parameters});
        let definition = json!({"type": "function", "function": function});
        let definition = serde_json::from_value(definition).expect("it has a name");
        Tool { definition, rule: Rule::Always, hand }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.definition.name()
    }
}

/// The schema of one text.
pub fn one_text(name: &str, description: &str) -> Value {
    json!({
        "type": "object",
        "properties": {name: {"type": "string", "description": description}},
        "required": [name],
    })
}

/// The text of an argument: the one of that name, else the first there is.
pub fn text_of(call: &ToolCall, name: &str) -> Option<String> {
    match call.arguments.get(name).or_else(|| call.arguments.values().next())? {
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Tools, and whether each may run.
#[derive(Default)]
pub struct Tools {
    all: Vec<Tool>,
    rules: BTreeMap<String, Rule>,
    otherwise: Option<Rule>,
}

/// A file that is given to tools: its name and what it holds.
pub type Given = (String, Vec<u8>);

impl Tools {
    /// No tools.
    pub fn none() -> Tools {
        Tools::default()
    }

    /// Adds a tool. Errors: there is one of that name.
    pub fn add(&mut self, tool: Tool) -> Result<(), AgentError> {
        if self.find(tool.name()).is_some() {
            let why = "there are two of that name".to_owned();
            return Err(AgentError::Tool { name: tool.name().to_owned(), why });
        }
        self.all.push(tool);
        Ok(())
    }

    /// Adds the calculator.
    pub fn add_calc(&mut self) -> Result<(), AgentError> {
        let hand = |call: &ToolCall| match text_of(call, "query") {
            None => Ran::failed("no query was given"),
            Some(query) => match calc::answer(&query) {
                Ok(answer) => Ran::done(answer),
                Err(error) => Ran::failed(format!("cannot calculate it: {error}")),
            },
        };
        let about = "Calculates exactly: arithmetic of any size, roots, logarithms, trigonometry, units, equations, \
                     derivatives. Examples: 2^100; sqrt(2) to 50 digits; 60 mph in km/h; solve x^2 = x + 1; \
                     derivative of x^2 sin(x).";
        let schema = one_text("query", "What to calculate");
        self.add(Tool::new("calc", about, schema, Box::new(hand)))
    }

    /// Adds Python behind the sandbox's walls, with these files in its folder.
    pub fn add_python(&mut self, sandbox: Sandbox, files: Vec<Given>) -> Result<(), AgentError> {
        self.add(python::tool(sandbox, files))
    }

    /// Says whether tools may run: `always`, `ask` or `never` for all, `TOOL=..` for one.
    ///
    /// Errors: another word; a tool that is not there.
    pub fn allow(&mut self, text: &str) -> Result<(), AgentError> {
        let rule = |word: &str| match word {
            "always" => Ok(Rule::Always),
            "ask" => Ok(Rule::Ask),
            "never" => Ok(Rule::Never),
            _ => Err(AgentError::Value {
                what: "--approve",
                got: text.to_owned(),
                expected: "always, ask, never, or TOOL= and one of them".to_owned(),
            }),
        };
        match text.split_once('=') {
            None => self.otherwise = Some(rule(text)?),
            Some((name, word)) => {
                let rule = rule(word)?;
                let tool = self.find(name).ok_or_else(|| AgentError::Value {
                    what: "the tool of --approve",
                    got: name.to_owned(),
                    expected: format!("one of {}", self.names().join(", ")),
                })?;
                let name = tool.name().to_owned();
                self.rules.insert(name, rule);
            }
        }
        Ok(())
    }

    /// The rule of a tool, by its own name: what was said of it, else of all, else its own.
    pub fn rule(&self, own: &str) -> Rule {
        let said = self.rules.get(own).copied().or(self.otherwise);
        said.or(self.find(own).map(|tool| tool.rule)).unwrap_or(Rule::Always)
    }

    /// The own name of the tool that a name means.
    pub fn own(&self, name: &str) -> String {
        self.find(name).map_or(name, Tool::name).to_owned()
    }

    /// The names.
    pub fn names(&self) -> Vec<&str> {
        self.all.iter().map(Tool::name).collect()
    }

    /// What the model is told.
    pub fn definitions(&self) -> Vec<ToolDefinition> {
        self.all.iter().map(|tool| tool.definition.clone()).collect()
    }

    /// The tool that a name means, Llama's names of built-in tools included.
    pub fn find(&self, name: &str) -> Option<&Tool> {
        let named = |name: &str| self.all.iter().find(|tool| tool.name() == name);
        named(name).or_else(|| named(own_name(name)))
    }

    /// Runs a call.
    pub fn run(&self, call: &ToolCall) -> Ran {
        match self.find(&call.name) {
            Some(tool) => (tool.hand)(call),
            None => {
                let names = self.names().join(", ");
                Ran::failed(format!("there is no tool {:?}; there are {names}", call.name))
            }
        }
    }
}

/// The limits that a model's Python runs in: a call may take half a minute.
pub fn python_limits() -> Limits {
    let wall = std::time::Duration::from_secs(30);
    let cpu = std::time::Duration::from_secs(600);
    Limits { wall, cpu, ..Limits::USUAL }
}
