//! The fields of requests: tables by shape, and reading a body by them.
//!
//! Each field of a published schema is honoured, takes some values alone, is passed over with a
//! warning, or is refused. Nothing else decides: parsing, the OpenAPI text, docs/serving.md and
//! the tests all come from these tables.

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

use crate::refusal::Refusal;
use crate::strict::Strict;

/// A field of a request.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Which values it has.
    pub kind: Kind,
    /// What becomes of it.
    pub fate: Fate,
    /// What it says, or why it is not heard.
    pub about: &'static str,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It does what it says.
    Honoured,
    /// It may be there with these values, as JSON; all others are refused.
    Only(&'static [&'static str]),
    /// It changes nothing, and the answer's `warnings` say so.
    Warned,
    /// A request that has it is refused.
    Refused,
}

/// The values of a field; `null` is the same as no field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// True or false.
    Flag,
    /// A whole number from here to there.
    Whole(i64, i64),
    /// A number from here to there.
    Number(f64, f64),
    /// A text.
    Text,
    /// A text or a list of texts.
    Texts,
    /// A list of whole numbers from 0 up.
    Wholes,
    /// A list.
    List,
    /// An object.
    Object,
    /// Any value: its reader looks.
    Any,
}

/// A kind of request: its path, and its fields in groups.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The path it is sent to.
    pub path: &'static str,
    /// What it does, in a few words.
    pub about: &'static str,
    /// What names of its answers begin with.
    pub prefix: &'static str,
    /// Its fields.
    pub groups: &'static [&'static [Field]],
    /// Fields that must be there.
    pub required: &'static [&'static str],
}

/// A field that does what it says.
pub const fn honoured(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { name, kind, fate: Fate::Honoured, about }
}

/// A field of which some values alone are taken.
pub const fn only(
    name: &'static str,
    values: &'static [&'static str],
    about: &'static str,
) -> Field {
    Field { name, kind: Kind::Any, fate: Fate::Only(values), about }
}

/// A field that changes nothing.
pub const fn warned(name: &'static str, about: &'static str) -> Field {
    Field { name, kind: Kind::Any, fate: Fate::Warned, about }
}

/// A field that is refused.
pub const fn refused(name: &'static str, about: &'static str) -> Field {
    Field { name, kind: Kind::Any, fate: Fate::Refused, about }
}

/// The model, by its name.
pub const MODEL: Field = honoured("model", Kind::Text, "the model's name; another's is refused");

/// How tokens are chosen, under OpenAI's names.
pub const SAMPLING: &[Field] = &[
    honoured("temperature", Kind::Number(0.0, 1e6), "divides the logits; 0 takes the likeliest"),
    honoured("top_p", Kind::Number(0.0, 1.0), "keeps the likeliest tokens that hold this mass"),
    honoured("presence_penalty", Kind::Number(-2.0, 2.0), "taken from logits of tokens seen"),
    honoured("frequency_penalty", Kind::Number(-2.0, 2.0), "the same for each time it was seen"),
    honoured("logit_bias", Kind::Object, "added to the logits of these token ids"),
    honoured("seed", Kind::Whole(i64::MIN, i64::MAX), "key of the random numbers"),
    honoured("stop", Kind::Texts, "texts that end the answer"),
    honoured("n", Kind::Whole(1, 128), "answers to each prompt"),
    honoured("stream", Kind::Flag, "the answer as it comes"),
    honoured("stream_options", Kind::Object, "include_usage: the usage in a last chunk"),
    warned("user", "no account of users is kept"),
];

/// How tokens are chosen, where OpenAI has no name.
pub const EXTENSIONS: &[Field] = &[
    honoured("top_k", Kind::Whole(-1, 1 << 24), "keeps the likeliest tokens; 0 and -1 keep all"),
    honoured("min_p", Kind::Number(0.0, 1.0), "drops what is less likely than this share"),
    honoured("typical_p", Kind::Number(1e-6, 1.0), "keeps tokens of about the expected surprise"),
    honoured("repetition_penalty", Kind::Number(1e-3, 1e3), "divides the logits of tokens seen"),
    honoured("repeat_last_n", Kind::Whole(-1, 1 << 24), "tokens that count as seen; -1 for all"),
    honoured("stop_token_ids", Kind::Wholes, "tokens that end the answer"),
    honoured("ignore_eos", Kind::Flag, "goes on where the model would end"),
    honoured("return_token_ids", Kind::Flag, "token_ids and prompt_token_ids with the answer"),
];

impl Shape {
    /// All fields.
    pub fn fields(&self) -> impl Iterator<Item = &'static Field> + use<> {
        self.groups.iter().flat_map(|group| group.iter())
    }

    fn find(&self, name: &str) -> Option<&'static Field> {
        self.fields().find(|field| field.name == name)
    }

    /// Reads a body by this table.
    pub fn read(&'static self, body: &[u8]) -> Result<Given, Refusal> {
        let Strict(value) = serde_json::from_slice(body)
            .map_err(|e| Refusal::new(400, format!("the body is no JSON: {e}")))?;
        let Value::Object(map) = value else {
            return Err(Refusal::new(400, "the body is no JSON object"));
        };
        self.check(map)
    }

    /// Reads an object by this table.
    pub fn check(&'static self, mut map: Map<String, Value>) -> Result<Given, Refusal> {
        map.retain(|_, value| !value.is_null());
        let mut warnings = Vec::new();
        for (name, value) in &map {
            let field = self.find(name).ok_or_else(|| self.unknown(name))?;
            field.check(value, &mut warnings)?;
        }
        if let Some(name) = self.required.iter().find(|name| !map.contains_key(**name)) {
            return Err(Refusal::field(*name, format!("{name} is missing")));
        }
        Ok(Given { shape: self, map, warnings })
    }

    fn unknown(&self, name: &str) -> Refusal {
        let nearest = herd_model::nearest(name, self.fields().map(|field| field.name));
        let hint = nearest.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        // Names are shown as JSON has them: no control character leaves that way.
        let shown: String = name.chars().take(80).collect();
        let message = format!("{} has no field {shown:?}{hint}", self.path);
        Refusal { code: Some("unknown_field"), ..Refusal::field(shown, message) }
    }

    /// The schema of OpenAPI.
    pub fn schema(&self) -> Value {
        let property = |field: &Field| {
            let must = self.required.contains(&field.name);
            let schema = match field.fate {
                Fate::Honoured => field.kind.schema(),
                Fate::Only(values) => {
                    let values = values.iter().map(|v| serde_json::from_str::<Value>(v));
                    let values = values.map(|v| v.expect("tables hold JSON"));
                    json!({ "enum": values.collect::<Value>() })
                }
                Fate::Warned => json!({}),
                Fate::Refused => json!({ "type": "null" }),
            };
            let mut schema = if must { schema } else { or_null(schema) };
            let fate = match field.fate {
                Fate::Honoured | Fate::Only(_) => "",
                Fate::Warned => "passed over with a warning: ",
                Fate::Refused => "refused: ",
            };
            schema["description"] = Value::String(format!("{fate}{}", field.about));
            (field.name.to_owned(), schema)
        };
        let properties: Map<String, Value> = self.fields().map(property).collect();
        json!({
            "type": "object",
            "properties": properties,
            "required": self.required,
            "additionalProperties": false,
        })
    }
}

/// A schema that lets null in as well, which is the same as no field.
fn or_null(mut schema: Value) -> Value {
    let null = || Value::from("null");
    if let Some(kind) = schema.get_mut("type").filter(|kind| **kind != null()) {
        *kind = Value::Array(vec![kind.take(), null()]);
    }
    if let Some(any) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        any.push(json!({ "type": "null" }));
    }
    if let Some(values) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        values.push(Value::Null);
    }
    schema
}

impl Field {
    fn check(&self, value: &Value, warnings: &mut Vec<String>) -> Result<(), Refusal> {
        let wrong = |message: String| Err(Refusal::field(self.name, message));
        let name = self.name;
        match self.fate {
            Fate::Honoured => match self.kind.check(value) {
                Ok(()) => Ok(()),
                Err(expected) => {
                    wrong(format!("{name} is {}, expected {expected}", shorten(value)))
                }
            },
            Fate::Only(values) => {
                let same =
                    |text: &&str| serde_json::from_str::<Value>(text).is_ok_and(|v| v == *value);
                match values.iter().any(same) {
                    true => Ok(()),
                    false => wrong(format!(
                        "{name} is {}, taken are {}: {}",
                        shorten(value),
                        values.join(", "),
                        self.about
                    )),
                }
            }
            Fate::Warned => {
                warnings.push(format!("{name} changes nothing: {}", self.about));
                Ok(())
            }
            Fate::Refused => wrong(format!("{name} is not supported: {}", self.about)),
        }
    }
}

/// A value as JSON, cut where it is long.
pub fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

impl Kind {
    /// What was expected, if `value` is something else.
    fn check(self, value: &Value) -> Result<(), String> {
        let whole = |value: &Value, range: RangeInclusive<i64>| {
            // 1.0 is a whole number: JSON does not tell them apart.
            let number = value.as_i64().or_else(|| value.as_f64().and_then(exactly));
            number.is_some_and(|n| range.contains(&n))
        };
        let (good, expected) = match self {
            Kind::Flag => (value.is_boolean(), "true or false".to_owned()),
            Kind::Whole(least, most) => {
                (whole(value, least..=most), format!("a whole number from {least} to {most}"))
            }
            Kind::Number(least, most) => {
                let good = value.as_f64().is_some_and(|x| (least..=most).contains(&x));
                (good, format!("a number from {least} to {most}"))
            }
            Kind::Text => (value.is_string(), "a text".to_owned()),
            Kind::Texts => {
                let texts = |list: &Vec<Value>| list.iter().all(Value::is_string);
                let good = value.is_string() || value.as_array().is_some_and(texts);
                (good, "a text or a list of texts".to_owned())
            }
            Kind::Wholes => {
                let ids = |list: &Vec<Value>| list.iter().all(|id| whole(id, 0..=u32::MAX.into()));
                (value.as_array().is_some_and(ids), "a list of token ids".to_owned())
            }
            Kind::List => (value.is_array(), "a list".to_owned()),
            Kind::Object => (value.is_object(), "an object".to_owned()),
            Kind::Any => (true, String::new()),
        };
        if good { Ok(()) } else { Err(expected) }
    }

    fn schema(self) -> Value {
        match self {
            Kind::Flag => json!({ "type": "boolean" }),
            Kind::Whole(least, most) => {
                json!({ "type": "integer", "minimum": least, "maximum": most })
            }
            Kind::Number(least, most) => {
                json!({ "type": "number", "minimum": least, "maximum": most })
            }
            Kind::Text => json!({ "type": "string" }),
            Kind::Texts => json!({
                "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }]
            }),
            Kind::Wholes => {
                json!({ "type": "array", "items": { "type": "integer", "minimum": 0 } })
            }
            Kind::List => json!({ "type": "array", "items": {} }),
            Kind::Object => json!({ "type": "object" }),
            Kind::Any => json!({}),
        }
    }
}

fn exactly(x: f64) -> Option<i64> {
    (x.fract() == 0.0 && x.abs() < (1i64 << 53) as f64).then_some(x as i64)
}

/// The fields of a request, checked by their table.
#[derive(Clone, Debug)]
pub struct Given {
    shape: &'static Shape,
    map: Map<String, Value>,
    /// What was passed over.
    pub warnings: Vec<String>,
}

impl Given {
    /// A field's value as JSON.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// A field's value taken out.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name)
    }

    /// Puts a field in.
    pub fn put(&mut self, name: &str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    /// A flag.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.value(name).and_then(Value::as_bool)
    }

    /// A whole number.
    pub fn whole(&self, name: &str) -> Option<i64> {
        self.value(name).and_then(|v| v.as_i64().or_else(|| v.as_f64().and_then(exactly)))
    }

    /// A count; the table keeps it from being below 0.
    pub fn count(&self, name: &str) -> Option<usize> {
        self.whole(name).and_then(|n| usize::try_from(n).ok())
    }

    /// A number.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.value(name).and_then(Value::as_f64)
    }

    /// A text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.value(name).and_then(Value::as_str)
    }

    /// A text or a list of texts, as a list.
    pub fn texts(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(list)) => {
                list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// A list of whole numbers.
    pub fn wholes(&self, name: &str) -> Vec<i64> {
        let list = self.value(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_i64).collect()
    }

    /// An object.
    pub fn object(&self, name: &str) -> Option<&Map<String, Value>> {
        self.value(name).and_then(Value::as_object)
    }

    /// An object of which only these keys are known.
    pub fn object_of(&self, name: &str, keys: &[&str]) -> Result<Map<String, Value>, Refusal> {
        let object = self.object(name).cloned().unwrap_or_default();
        match object.keys().find(|key| !keys.contains(&key.as_str())) {
            None => Ok(object),
            Some(key) => {
                let near = herd_model::nearest(key, keys.iter().copied());
                let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                let path = self.shape.path;
                Err(Refusal::field(
                    format!("{name}.{key}"),
                    format!("{name} of {path} has no field {key:?}{hint}"),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        path: "/test",
        about: "a test",
        prefix: "",
        groups: &[
            SAMPLING,
            &[only("store", &["false"], "nothing is kept"), refused("audio", "there is no voice")],
        ],
        required: &["temperature"],
    };

    fn read(body: &str) -> Result<Given, Refusal> {
        static IT: Shape = SHAPE;
        IT.read(body.as_bytes())
    }

    #[test]
    fn every_field_is_honoured_refused_or_warned_of() {
        let given =
            read(r#"{"temperature": 1, "seed": 3.0, "user": "me", "store": false, "stop": null}"#);
        let given = given.unwrap();
        assert_eq!((given.number("temperature"), given.whole("seed")), (Some(1.0), Some(3)));
        assert_eq!(given.warnings, ["user changes nothing: no account of users is kept"]);
        for (body, field, words) in [
            (r#"{"temperature": "x"}"#, "temperature", "expected a number from 0"),
            (r#"{"temperature": 1, "tempreature": 1}"#, "tempreature", "did you mean temperature?"),
            (r#"{"temperature": 1, "store": true}"#, "store", "taken are false"),
            (r#"{"temperature": 1, "audio": {}}"#, "audio", "there is no voice"),
            (r#"{"temperature": 1, "seed": 1.5}"#, "seed", "a whole number"),
            (r#"{"temperature": 1, "stop": ["a", 2]}"#, "stop", "list of texts"),
            (r#"{}"#, "temperature", "missing"),
        ] {
            let refusal = read(body).unwrap_err();
            assert_eq!((refusal.status, refusal.field.as_deref()), (400, Some(field)), "{body}");
            assert!(refusal.message.contains(words), "{}", refusal.message);
        }
        assert!(read("[").unwrap_err().message.contains("no JSON"));
        assert!(read("[]").unwrap_err().message.contains("no JSON object"));
    }

    #[test]
    fn no_name_stands_twice_in_a_table() {
        for shape in crate::wire::SHAPES {
            let mut names: Vec<&str> = shape.fields().map(|field| field.name).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "{}", shape.path);
            assert!(shape.required.iter().all(|name| names.contains(name)), "{}", shape.path);
        }
    }
}
