//! What a request offers to call, and the form of an answer that may or must call it.

use std::sync::Arc;

use herd_codec::chat::{ChatFormat, ToolDefinition};
use herd_engine::{Form, Function, Grammar, GrammarError};
use serde_json::{Map, Value, json};

use crate::fields::shorten;
use crate::forms::{Wanted, uncompilable};
use crate::refusal::Refusal;
use crate::served::Served;

/// Which calls an answer is to hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Choice {
    /// None.
    None,
    /// Those that the model makes.
    #[default]
    Auto,
    /// At least one, of any function.
    Any,
    /// One, of this function.
    One(String),
}

/// What a request offers to call, and how it is to be called.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    /// The functions.
    pub tools: Vec<ToolDefinition>,
    /// Those of which calls are held to their schema even where none is forced, by their place.
    pub strict: Vec<usize>,
    /// Whether one is to be called.
    pub choice: Choice,
    /// Whether an answer may make one call at most.
    pub single: bool,
}

impl Offer {
    /// Functions that the model sees; none where none may be called.
    pub fn shown(&self) -> &[ToolDefinition] {
        if self.choice == Choice::None { &[] } else { &self.tools }
    }

    /// The format whose calls an answer may hold, if any are offered.
    ///
    /// Errors: calls of the model's format cannot be read.
    pub fn calls(&self, served: &Served) -> Result<Option<Arc<ChatFormat>>, Refusal> {
        let Some(tool) = self.shown().first() else { return Ok(None) };
        served.check_calls(tool.name())?;
        served.chat().cloned().map(Arc::new).map(Some)
    }

    /// What an answer is held to: calls, the form that its text shall have, or either. `schema` is the name of a function's
    /// schema in the request's shape, for errors.
    pub fn grammar(
        &self,
        served: &Served,
        wanted: Option<Wanted>,
        schema: &str,
    ) -> Result<Option<Grammar>, Refusal> {
        let format = served.chat()?;
        let calls = self.form(format, schema)?;
        let (form, field) = match (calls, wanted) {
            // A forced call leaves no text that a form could hold.
            (Some(form @ Form::Call { words: false, .. }), _) => (form, "tools".to_owned()),
            (_, Some(wanted)) if !self.shown().is_empty() => self.either(wanted, format, schema)?,
            (Some(form), _) => (form, "tools".to_owned()),
            (None, Some(wanted)) => wanted,
            (None, None) => return Ok(None),
        };
        let compiled = served.forms.try_compile(form);
        compiled.map(Some).map_err(|error| self.blame(served, &field, schema, &error))
    }

    /// The form of an answer that must be calls, or whose calls are held to something.
    fn form(&self, format: &ChatFormat, schema: &str) -> Result<Option<Form>, Refusal> {
        let forced = match &self.choice {
            Choice::None => return Ok(None),
            Choice::Auto if self.tools.is_empty() => return Ok(None),
            Choice::Auto if self.strict.is_empty() && !self.single => return Ok(None),
            Choice::Auto => false,
            Choice::Any | Choice::One(_) => true,
        };
        if forced && self.tools.is_empty() {
            let message = "tool_choice asks for a call, and tools are not given";
            return Err(Refusal::field("tool_choice", message));
        }
        let named = |&i: &usize| !self.passed_over(i);
        let functions = (0..self.tools.len()).filter(named);
        let functions = functions.map(|i| self.function(i, format, schema));
        let functions = functions.collect::<Result<Vec<_>, _>>()?;
        match (functions.is_empty(), &self.choice) {
            (true, Choice::One(name)) => {
                let message = format!("tool_choice names {name:?}, which is not among tools");
                Err(Refusal::field("tool_choice", message))
            }
            (_, choice) => {
                let many = !self.single && !matches!(choice, Choice::One(_));
                Ok(Some(Form::Call { functions, words: !forced, many }))
            }
        }
    }

    /// Whether the choice is another function than `tools[i]`.
    fn passed_over(&self, i: usize) -> bool {
        matches!(&self.choice, Choice::One(name) if name != self.tools[i].name())
    }

    /// How a call of `tools[i]` is written; its arguments are any where nothing holds them.
    fn function(&self, i: usize, format: &ChatFormat, schema: &str) -> Result<Function, Refusal> {
        let tool = &self.tools[i];
        let Some((before, after)) = format.call_frame(tool.name()) else {
            let message = format!(
                "a call of {:?} cannot be forced: this model's chat format writes none that a form can hold",
                tool.name()
            );
            return Err(Refusal::field(format!("tools[{i}]"), message));
        };
        let held = match self.choice {
            Choice::None | Choice::Auto => self.strict.contains(&i),
            Choice::Any | Choice::One(_) => true,
        };
        let given = if held { parameters(tool) } else { None };
        let arguments = given.cloned().unwrap_or_else(|| Value::Object(Map::new()));
        if !arguments.is_object() {
            let field = format!("tools[{i}].{schema}");
            let message = format!("{field} is {}, expected a schema", shorten(&arguments));
            return Err(Refusal::field(field, message));
        }
        Ok(Function { before, arguments, after })
    }

    /// JSON that is of the form, or else one call: both are alternatives of one schema, so that neither
    /// hinders the other.
    fn either(
        &self,
        (form, field): Wanted,
        format: &ChatFormat,
        schema: &str,
    ) -> Result<Wanted, Refusal> {
        let refuse = |what: &str| {
            let message = format!(
                "{field} holds an answer's text to {what}, and tools may be called instead: \
                 set tool_choice to none or required"
            );
            Refusal::field(field.clone(), message)
        };
        let text = match form {
            Form::JsonSchema(schema) => schema,
            Form::JsonObject => json!({ "type": "object" }),
            Form::Regex(_) | Form::Lark(_) | Form::Choice(_) | Form::Call { .. } => {
                return Err(refuse("a form that is not JSON"));
            }
        };
        let mut either = vec![moved(text, "#/anyOf/0")];
        for i in 0..self.tools.len() {
            let function = self.function(i, format, schema)?;
            let place = format!("#/anyOf/{}", i + 1);
            let call = call_schema(function, &place);
            either.push(call.ok_or_else(|| refuse("JSON, which calls of this model are not"))?);
        }
        Ok((Form::JsonSchema(json!({ "anyOf": either })), field))
    }

    /// What cannot be compiled: the function whose schema alone fails too, else `field`.
    fn blame(&self, served: &Served, field: &str, schema: &str, error: &GrammarError) -> Refusal {
        let format = served.format.as_ref();
        for i in (0..self.shown().len()).filter(|&i| !self.passed_over(i)) {
            let Some(Ok(function)) = format.map(|format| self.function(i, format, schema)) else {
                continue;
            };
            let alone = Form::Call { functions: vec![function], words: false, many: false };
            if let Err(error) = served.forms.try_compile(alone) {
                return uncompilable(&format!("tools[{i}].{schema}"), &error);
            }
        }
        uncompilable(field, error)
    }
}

fn parameters(tool: &ToolDefinition) -> Option<&Value> {
    let json = tool.json();
    let function = json.get("function").and_then(Value::as_object).unwrap_or(json);
    function.get("parameters").filter(|value| !value.is_null())
}

/// The schema of a call that is an object of JSON, at `place` of another; nothing for other calls.
fn call_schema(function: Function, place: &str) -> Option<Value> {
    let Function { before, mut arguments, after } = function;
    let example: Map<String, Value> = serde_json::from_str(&format!("{before}{{}}{after}")).ok()?;
    if let Some(map) = arguments.as_object_mut() {
        map.entry("type").or_insert_with(|| "object".into());
    }
    let property = |(name, value): (&String, &Value)| {
        let schema = match value {
            Value::Object(_) => moved(arguments.clone(), &format!("{place}/properties/{name}")),
            constant => json!({ "const": constant }),
        };
        (name.clone(), schema)
    };
    let properties: Map<String, Value> = example.iter().map(property).collect();
    let required: Vec<&String> = example.keys().collect();
    Some(json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    }))
}

/// A schema that stands at `place` of another from now on: what it says of itself follows it.
fn moved(mut schema: Value, place: &str) -> Value {
    follow(&mut schema, place);
    schema
}

fn follow(schema: &mut Value, place: &str) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(|value| follow(value, place)),
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "$ref" => {
                        let own =
                            text.strip_prefix('#').filter(|p| p.is_empty() || p.starts_with('/'));
                        if let Some(path) = own {
                            *text = format!("{place}{path}");
                        }
                    }
                    value => follow(value, place),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_follow_a_schema_that_moves() {
        let schema = json!({ "$defs": { "a": { "$ref": "#" } }, "items": [{ "$ref": "#/$defs/a" }, { "$ref": "http://x" }] });
        let at = moved(schema, "#/anyOf/2");
        assert_eq!(at["$defs"]["a"]["$ref"], "#/anyOf/2");
        assert_eq!(at["items"][0]["$ref"], "#/anyOf/2/$defs/a");
        assert_eq!(at["items"][1]["$ref"], "http://x");
    }

    #[test]
    fn a_call_in_json_is_a_schema_and_others_are_not() {
        let function = |before: &str, after: &str| Function {
            before: before.into(),
            arguments: json!({ "properties": { "x": { "$ref": "#" } } }),
            after: after.into(),
        };
        let call = call_schema(function("{\"name\": \"f\", \"parameters\": ", "}"), "#/anyOf/1");
        let call = call.unwrap();
        assert_eq!(call["properties"]["name"], json!({ "const": "f" }));
        assert_eq!(call["required"], json!(["name", "parameters"]));
        let arguments = &call["properties"]["parameters"];
        assert_eq!(arguments["type"], "object");
        assert_eq!(arguments["properties"]["x"]["$ref"], "#/anyOf/1/properties/parameters");
        assert!(call_schema(function("<function=f>", "</function>"), "#").is_none());
    }
}
