//! Forms that answers are held to: which one a request asks for, and compiling it, with the last few kept.
//!
//! Compiling takes its time, so requests that may ask for a form are read beside the thread of all
//! connections (`named`), and never on the thread that computes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use herd_codec::Tokenizer;
use herd_codec::chat::{ChatFormat, ToolDefinition};
use herd_engine::{Form, Function, Grammar, GrammarError, Grammars};
use serde_json::{Map, Value};

use crate::fields::{Field, Given, Kind, honoured, shorten};
use crate::refusal::Refusal;
use crate::served::Served;

/// Fields that ask for a form, under the names of llama-server and vLLM.
pub const FORMS: &[Field] = &[
    honoured("json_schema", Kind::Object, "the answer is JSON of this schema"),
    honoured("grammar", Kind::Text, "the answer is a text of this grammar, in Lark's form"),
    honoured("guided_json", Kind::Any, "the same as json_schema, as an object or a text"),
    honoured("guided_regex", Kind::Text, "the answer is a text that this expression matches whole"),
    honoured("guided_choice", Kind::Texts, "the answer is one of these texts"),
    honoured("guided_grammar", Kind::Text, "the same as grammar"),
    honoured(
        "structured_outputs",
        Kind::Object,
        "one of json, regex, choice, grammar, json_object",
    ),
];

/// Makes and keeps the compiled forms of one model.
pub struct Forms {
    tokenizer: Arc<Tokenizer>,
    vocab: usize,
    /// Made at first use: some tenths of a second.
    grammars: OnceLock<Grammars>,
    /// The last forms, by what they say; the latest is the last.
    kept: Mutex<VecDeque<(String, Grammar)>>,
}

/// Forms that are kept.
const KEPT: usize = 16;
/// Bytes of a form that is kept.
const KEPT_BYTES: usize = 64 << 10;

impl fmt::Debug for Forms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forms").finish_non_exhaustive()
    }
}

impl Forms {
    /// Forms for a model with logits for `vocab` tokens.
    pub fn new(tokenizer: Arc<Tokenizer>, vocab: usize) -> Forms {
        Forms { tokenizer, vocab, grammars: OnceLock::new(), kept: Mutex::default() }
    }

    /// The form made ready; `field` is named where it cannot be.
    pub fn compile(&self, form: Form, field: &str) -> Result<Grammar, Refusal> {
        self.try_compile(form).map_err(|error| uncompilable(field, &error))
    }

    fn try_compile(&self, form: Form) -> Result<Grammar, GrammarError> {
        // By what is written, not by equality: objects of another order are equal, their answers are not.
        let key = format!("{form:?}");
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, grammar)) = lock().iter().find(|(kept, _)| *kept == key) {
            return Ok(grammar.clone());
        }
        let grammars = self.grammars.get_or_init(|| Grammars::new(&self.tokenizer, self.vocab));
        let grammar = grammars.compile(form)?;
        if key.len() <= KEPT_BYTES {
            let mut kept = lock();
            kept.push_back((key, grammar.clone()));
            if kept.len() > KEPT {
                kept.pop_front();
            }
        }
        Ok(grammar)
    }
}

fn uncompilable(field: &str, error: &GrammarError) -> Refusal {
    let code = Some("invalid_form");
    Refusal { code, ..Refusal::field(field, format!("{field} is no form: {error}")) }
}

/// Whether a request may ask for a form.
pub fn named(given: &Given) -> bool {
    let names = FORMS.iter().map(|field| field.name);
    names.chain(["response_format", "tools"]).any(|name| given.value(name).is_some())
}

/// The form that the answer's text shall have, and the field that asks for it.
pub fn wanted(given: &mut Given) -> Result<Option<(Form, String)>, Refusal> {
    let mut wanted: Option<(Form, String)> = None;
    let format = given.take("response_format").map(|value| response_format(value, given));
    let mut found: Vec<(Form, String)> = format.transpose()?.flatten().into_iter().collect();
    for Field { name, .. } in FORMS {
        let Some(value) = given.take(name) else { continue };
        if *name == "structured_outputs" {
            found.extend(structured(value)?);
            continue;
        }
        let kind = match *name {
            "json_schema" => "json",
            "grammar" => "grammar",
            name => name.strip_prefix("guided_").unwrap_or(name),
        };
        found.push((form(kind, name, value)?, (*name).to_owned()));
    }
    for (form, field) in found {
        if let Some((_, first)) = &wanted {
            let message = format!("{field} and {first} both ask for a form: give one");
            return Err(Refusal::field(field, message));
        }
        wanted = Some((form, field));
    }
    Ok(wanted)
}

/// OpenAI's field: `text`, `json_object`, or `json_schema`.
fn response_format(value: Value, given: &mut Given) -> Result<Option<(Form, String)>, Refusal> {
    const NAME: &str = "response_format";
    let mut map = object(NAME, value)?;
    let kind = map.remove("type");
    let form = match kind.as_ref().and_then(Value::as_str) {
        Some("text") => None,
        Some("json_object") => match map.remove("schema") {
            // llama-server's way.
            Some(schema) => Some((Form::JsonSchema(schema), format!("{NAME}.schema"))),
            None => Some((Form::JsonObject, NAME.to_owned())),
        },
        Some("json_schema") => {
            let field = format!("{NAME}.json_schema");
            let inner = map.remove("json_schema").ok_or_else(|| missing(&field))?;
            Some(json_schema(&field, object(&field, inner)?, given)?)
        }
        _ => {
            let kind = shorten(&kind.unwrap_or_default());
            let message =
                format!("{NAME}.type is {kind}, taken are text, json_object, json_schema");
            return Err(Refusal::field(format!("{NAME}.type"), message));
        }
    };
    nothing_left(NAME, &map)?;
    Ok(form)
}

fn json_schema(
    field: &str,
    mut map: Map<String, Value>,
    given: &mut Given,
) -> Result<(Form, String), Refusal> {
    let at = format!("{field}.schema");
    let schema = map.remove("schema").ok_or_else(|| missing(&at))?;
    // Every form is strict, and a name says nothing to a model that does not see it.
    map.remove("strict");
    map.remove("name");
    if map.remove("description").is_some_and(|text| !text.is_null()) {
        let why = "the model is held to the schema, and does not see it";
        given.warnings.push(format!("{field}.description changes nothing: {why}"));
    }
    nothing_left(field, &map)?;
    Ok((Form::JsonSchema(schema), at))
}

/// vLLM's newer field, an object with one of several keys.
fn structured(value: Value) -> Result<Vec<(Form, String)>, Refusal> {
    const NAME: &str = "structured_outputs";
    let map = object(NAME, value)?;
    let one = |(key, value): (String, Value)| {
        let field = format!("{NAME}.{key}");
        Ok((form(&key, &field, value)?, field))
    };
    map.into_iter().filter(|(_, value)| !value.is_null()).map(one).collect()
}

fn form(kind: &str, field: &str, value: Value) -> Result<Form, Refusal> {
    let wrong = |value: &Value, expected: &str| {
        Refusal::field(field, format!("{field} is {}, expected {expected}", shorten(value)))
    };
    match (kind, value) {
        ("json", Value::String(text)) => match serde_json::from_str(&text) {
            Ok(schema) => Ok(Form::JsonSchema(schema)),
            Err(error) => Err(Refusal::field(field, format!("{field} is no JSON: {error}"))),
        },
        ("json", schema @ Value::Object(_)) => Ok(Form::JsonSchema(schema)),
        ("json", other) => Err(wrong(&other, "a schema")),
        ("json_object", Value::Bool(true)) => Ok(Form::JsonObject),
        ("json_object", other) => Err(wrong(&other, "true")),
        ("regex", Value::String(text)) => Ok(Form::Regex(text)),
        ("regex", other) => Err(wrong(&other, "a regular expression")),
        ("grammar", Value::String(text)) => Ok(Form::Lark(text)),
        ("grammar", other) => Err(wrong(&other, "a grammar")),
        ("choice", Value::String(text)) => Ok(Form::Choice(vec![text])),
        ("choice", Value::Array(list)) => {
            let text = |v: &Value| v.as_str().map(str::to_owned).ok_or_else(|| wrong(v, "a text"));
            Ok(Form::Choice(list.iter().map(text).collect::<Result<_, _>>()?))
        }
        ("choice", other) => Err(wrong(&other, "a list of texts")),
        _ => Err(Refusal::field(field, format!("{field} is not a field"))),
    }
}

fn object(field: &str, value: Value) -> Result<Map<String, Value>, Refusal> {
    match value {
        Value::Object(map) => Ok(map),
        other => {
            let message = format!("{field} is {}, expected an object", shorten(&other));
            Err(Refusal::field(field, message))
        }
    }
}

fn missing(field: &str) -> Refusal {
    Refusal::field(field, format!("{field} is missing"))
}

fn nothing_left(field: &str, map: &Map<String, Value>) -> Result<(), Refusal> {
    match map.keys().next() {
        None => Ok(()),
        Some(key) => Err(Refusal::field(
            format!("{field}.{}", key.chars().take(80).collect::<String>()),
            format!("{field} has no field {}", shorten(&Value::from(key.as_str()))),
        )),
    }
}

/// Which calls an answer is to hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Choice {
    /// None.
    None,
    /// Those that the model makes.
    #[default]
    Auto,
    /// One, of any function.
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
    /// Whether an answer may make one call at most; a forced call is one anyway.
    pub single: bool,
}

impl Offer {
    /// Functions that the model sees; none where none may be called.
    pub fn shown(&self) -> &[ToolDefinition] {
        if self.choice == Choice::None { &[] } else { &self.tools }
    }

    /// The form of an answer that must be a call, or whose calls are strict. `schema` is the name of a
    /// function's schema in the request's shape.
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
        let mut functions = Vec::new();
        for (i, tool) in self.tools.iter().enumerate() {
            if matches!(&self.choice, Choice::One(name) if name != tool.name()) {
                continue;
            }
            let held = forced || self.strict.contains(&i);
            functions.push(function(i, tool, held, format, schema)?);
        }
        match (functions.is_empty(), &self.choice) {
            (true, Choice::One(name)) => {
                let message = format!("tool_choice names {name:?}, which is not among tools");
                Err(Refusal::field("tool_choice", message))
            }
            _ => Ok(Some(Form::Call { functions, words: !forced })),
        }
    }
}

fn function(
    i: usize,
    tool: &ToolDefinition,
    held: bool,
    format: &ChatFormat,
    schema: &str,
) -> Result<Function, Refusal> {
    let Some((before, after)) = format.call_frame(tool.name()) else {
        let message = format!(
            "a call of {:?} cannot be forced: this model's chat format writes none that a form can hold",
            tool.name()
        );
        return Err(Refusal::field(format!("tools[{i}]"), message));
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

fn parameters(tool: &ToolDefinition) -> Option<&Value> {
    let json = tool.json();
    let function = json.get("function").and_then(Value::as_object).unwrap_or(json);
    function.get("parameters").filter(|value| !value.is_null())
}

/// What an answer of a chat is held to: a call, or the form that is wanted. `schema` is the name of a
/// function's schema in the request's shape.
pub fn of_chat(
    served: &Served,
    offer: &Offer,
    wanted: Option<(Form, String)>,
    schema: &str,
) -> Result<Option<Grammar>, Refusal> {
    let calls = offer.form(served.chat()?, schema)?;
    match (calls, wanted) {
        // A forced call leaves no text that a form could hold.
        (Some(form @ Form::Call { words: false, .. }), _) => call(served, form, offer, schema),
        (_, Some((_, field))) if !offer.shown().is_empty() => {
            let message = format!(
                "{field} holds an answer's text, and tools may be called instead: \
                 set tool_choice to none or required"
            );
            Err(Refusal::field(field, message))
        }
        (Some(form), _) => call(served, form, offer, schema),
        (None, Some((form, field))) => served.forms.compile(form, &field).map(Some),
        (None, None) => Ok(None),
    }
}

/// Compiles calls; where that fails, the function whose schema alone fails too is named.
fn call(
    served: &Served,
    form: Form,
    offer: &Offer,
    schema: &str,
) -> Result<Option<Grammar>, Refusal> {
    let error = match served.forms.try_compile(form.clone()) {
        Ok(grammar) => return Ok(Some(grammar)),
        Err(error) => error,
    };
    let Form::Call { functions, .. } = form else { return Err(uncompilable("tools", &error)) };
    let named = |name: &str| match &offer.choice {
        Choice::One(one) => one == name,
        Choice::None | Choice::Auto | Choice::Any => true,
    };
    let places = (0..offer.tools.len()).filter(|&i| named(offer.tools[i].name()));
    for (i, function) in places.zip(functions) {
        let alone = Form::Call { functions: vec![function], words: false };
        if let Err(error) = served.forms.try_compile(alone) {
            return Err(uncompilable(&format!("tools[{i}].{schema}"), &error));
        }
    }
    Err(uncompilable("tools", &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn forms() -> Forms {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/tokenizer/small.json");
        let tokenizer = Tokenizer::from_tokenizer_json(&std::fs::read(path).unwrap()).unwrap();
        let vocab = tokenizer.vocab_size();
        Forms::new(Arc::new(tokenizer), vocab)
    }

    #[test]
    fn forms_are_kept_by_what_they_say_in_its_order_and_only_a_few() {
        let forms = forms();
        let schema = |text: &str| Form::JsonSchema(serde_json::from_str(text).unwrap());
        let (a, b) =
            (r#"{"properties": {"a": {}, "b": {}}}"#, r#"{"properties": {"b": {}, "a": {}}}"#);
        assert_eq!(schema(a), schema(b), "equal, and yet not the same form");
        for text in [a, b, a, b] {
            forms.compile(schema(text), "x").unwrap();
        }
        assert_eq!(forms.kept.lock().unwrap().len(), 2);
        for i in 0..40 {
            forms.compile(Form::Choice(vec![i.to_string()]), "x").unwrap();
        }
        assert_eq!(forms.kept.lock().unwrap().len(), KEPT);
        let long = forms.compile(Form::Choice(vec!["x".repeat(KEPT_BYTES)]), "x");
        assert!(long.is_ok() && forms.kept.lock().unwrap().len() == KEPT);
    }

    #[test]
    fn what_is_no_form_names_the_field_and_the_reason() {
        let refusal = forms().compile(Form::Regex("(".into()), "guided_regex").unwrap_err();
        assert_eq!((refusal.status, refusal.field.as_deref()), (400, Some("guided_regex")));
        assert!(refusal.message.starts_with("guided_regex is no form: "), "{}", refusal.message);
        for (kind, value) in [
            ("json", json!("{")),
            ("json", json!(3)),
            ("json_object", json!(false)),
            ("regex", json!(1)),
            ("grammar", json!([])),
            ("choice", json!([1])),
            ("choice", json!({})),
            ("other", json!("x")),
        ] {
            assert_eq!(form(kind, "f", value).unwrap_err().field.as_deref(), Some("f"), "{kind}");
        }
    }
}
