//! Forms that answers are held to: which one a request asks for, and compiling it, with the last few kept.
//!
//! Compiling takes its time, so requests that may ask for a form are read beside the thread of all
//! connections (`named`), and never on the thread that computes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use herd_codec::Tokenizer;
use herd_engine::{Form, Grammar, GrammarError, Grammars};
use serde_json::{Map, Value};

use crate::fields::{Field, Given, Kind, honoured, shorten};
use crate::refusal::Refusal;

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

    pub(crate) fn try_compile(&self, form: Form) -> Result<Grammar, GrammarError> {
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

/// What cannot be compiled, by the field that asks for it.
pub(crate) fn uncompilable(field: &str, error: &GrammarError) -> Refusal {
    let code = Some("invalid_form");
    Refusal { code, ..Refusal::field(field, format!("{field} is no form: {error}")) }
}

/// Whether a request may ask for a form.
pub fn named(given: &Given) -> bool {
    let names = FORMS.iter().map(|field| field.name);
    let others = ["response_format", "text", "format", "output_config", "tools"];
    names.chain(others).any(|name| given.value(name).is_some())
}

/// The form that an answer's text shall have, and the field that asks for it.
pub type Wanted = (Form, String);

/// What a chat or a completion wants.
pub fn wanted(given: &mut Given) -> Result<Option<Wanted>, Refusal> {
    let mut wanted: Option<Wanted> = None;
    let format = given.take("response_format").map(|value| response_format(value, given));
    let mut found: Vec<Wanted> = format.transpose()?.flatten().into_iter().collect();
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

/// OpenAI's field of chats.
fn response_format(value: Value, given: &mut Given) -> Result<Option<Wanted>, Refusal> {
    format_of("response_format", Depth::Nested, value, &mut given.warnings)
}

/// Where a format of type `json_schema` has its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Beside the type, as `/v1/responses` has it.
    Flat,
    /// In an object under `json_schema`, as chats have it.
    Nested,
}

/// OpenAI's format, `text`, `json_object` or `json_schema`, that stands in the field `name`.
pub fn format_of(
    name: &str,
    depth: Depth,
    value: Value,
    warnings: &mut Vec<String>,
) -> Result<Option<Wanted>, Refusal> {
    let mut map = object(name, value)?;
    let kind = map.remove("type");
    let form = match kind.as_ref().and_then(Value::as_str) {
        Some("text") => None,
        Some("json_object") => match map.remove("schema") {
            // llama-server's way.
            Some(schema) => Some((Form::JsonSchema(schema), format!("{name}.schema"))),
            None => Some((Form::JsonObject, name.to_owned())),
        },
        Some("json_schema") => match depth {
            Depth::Flat => return json_schema(name, map, warnings).map(Some),
            Depth::Nested => {
                let field = format!("{name}.json_schema");
                let inner = map.remove("json_schema").ok_or_else(|| missing(&field))?;
                Some(json_schema(&field, object(&field, inner)?, warnings)?)
            }
        },
        _ => {
            let kind = shorten(&kind.unwrap_or_default());
            let message =
                format!("{name}.type is {kind}, taken are text, json_object, json_schema");
            return Err(Refusal::field(format!("{name}.type"), message));
        }
    };
    nothing_left(name, &map)?;
    Ok(form)
}

/// ollama's field: nothing, `"json"`, or a schema.
pub fn ollamas(value: Option<Value>) -> Result<Option<Wanted>, Refusal> {
    const NAME: &str = "format";
    match value {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) if text == "json" => {
            Ok(Some((Form::JsonObject, NAME.to_owned())))
        }
        Some(schema @ Value::Object(_)) => Ok(Some((Form::JsonSchema(schema), NAME.to_owned()))),
        Some(other) => {
            let message = format!("{NAME} is {}, expected \"json\" or a schema", shorten(&other));
            Err(Refusal::field(NAME, message))
        }
    }
}

fn json_schema(
    field: &str,
    mut map: Map<String, Value>,
    warnings: &mut Vec<String>,
) -> Result<Wanted, Refusal> {
    let at = format!("{field}.schema");
    let schema = map.remove("schema").ok_or_else(|| missing(&at))?;
    // Every form is strict, and a name says nothing to a model that does not see it.
    map.remove("strict");
    map.remove("name");
    if map.remove("description").is_some_and(|text| !text.is_null()) {
        let why = "the model is held to the schema, and does not see it";
        warnings.push(format!("{field}.description changes nothing: {why}"));
    }
    nothing_left(field, &map)?;
    Ok((Form::JsonSchema(schema), at))
}

/// vLLM's newer field, an object with one of several keys.
fn structured(value: Value) -> Result<Vec<Wanted>, Refusal> {
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
    fn a_format_is_the_same_in_every_shape() {
        let schema = json!({ "enum": [1] });
        let form = Form::JsonSchema(schema.clone());
        let mut warnings = Vec::new();
        let flat = json!({ "type": "json_schema", "name": "x", "strict": true, "schema": schema });
        let got = format_of("text.format", Depth::Flat, flat, &mut warnings).unwrap();
        assert_eq!(got, Some((form.clone(), "text.format.schema".into())));
        let nested =
            json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
        let got = format_of("f", Depth::Nested, nested, &mut warnings).unwrap();
        assert_eq!(got, Some((form.clone(), "f.json_schema.schema".into())));
        assert_eq!(ollamas(Some(schema)).unwrap(), Some((form, "format".into())));
        assert_eq!(
            ollamas(Some(json!("json"))).unwrap(),
            Some((Form::JsonObject, "format".into()))
        );
        assert_eq!(ollamas(Some(json!(""))).unwrap(), None);
        assert!(ollamas(Some(json!("xml"))).unwrap_err().message.contains("expected \"json\""));
        let odd = json!({ "type": "json_schema", "schema": {}, "more": 1 });
        let refusal = format_of("text.format", Depth::Flat, odd, &mut warnings).unwrap_err();
        assert_eq!(refusal.field.as_deref(), Some("text.format.more"));
        assert!(warnings.is_empty());
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
