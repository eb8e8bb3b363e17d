//! The language of tasks' templates: Jinja, over the fields of a row.

use std::sync::Arc;

use fancy_regex::Regex;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior};

/// Steps of a template's run at most: a loop without an end is an error.
const FUEL: u64 = 1_000_000;

/// The environment of all templates: strict, bounded, with Python's methods of texts and a few
/// functions of our own.
///
/// `index(list, x)` is the place of `x`; `letter(i)` is A, B, ...; `turned(list, n)` moves all by n
/// places; `fields(names)` are fields by names that are no variables'; `x | sub(pattern, by)` replaces
/// all matches of a regular expression; `x | json` is JSON in lines, as Python's `json.dumps` with an indent of four
/// writes it. `place(choices, target)`, `digits(text)` and
/// `rendered(template)` are what pages of lm-evaluation-harness become. `agreement(texts)` is how well people agree
/// on an answer, as QuAC counts it.
pub fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_keep_trailing_newline(true);
    environment.set_unknown_method_callback(method);
    environment.add_function("index", index);
    environment.add_function("letter", letter);
    environment.add_function("turned", turned);
    environment.add_function("agreement", |all: Vec<String>| crate::score::agreement(&all));
    environment.add_function("place", place);
    environment.add_function("digits", digits);
    environment.add_filter("int", int);
    environment.add_filter("sub", sub);
    environment.add_filter("regex_replace", sub);
    environment.add_filter("json", json);
    environment
}

/// Python's methods: of lists `index` as well.
fn method(state: &State<'_, '_>, of: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (of.kind(), name, args) {
        (ValueKind::Seq | ValueKind::Iterable, "index", [wanted]) => {
            index(of.clone(), wanted.clone()).map(Value::from)
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, of, name, args),
    }
}

fn wrong(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

fn index(list: Value, wanted: Value) -> Result<usize, Error> {
    let place = list.try_iter()?.position(|value| value == wanted);
    place.ok_or_else(|| wrong(format!("{wanted} is not in {list}")))
}

/// The place that a target names: a number, else one of the choices.
fn place(choices: Value, target: Value) -> Result<usize, Error> {
    match target.kind() {
        ValueKind::Number => usize::try_from(target),
        _ => index(choices, target),
    }
}

/// A whole number, or a text or number that says one; nothing else becomes one.
fn int(value: Value) -> Result<i64, Error> {
    if value.kind() == ValueKind::Bool {
        return Ok(i64::from(value.is_true()));
    }
    let text = value.to_string();
    let whole = text.trim();
    let whole = whole.strip_suffix(".0").unwrap_or(whole);
    whole.parse().map_err(|_| wrong(format!("{text:?} is no whole number")))
}

/// A text of digits as the number that it says.
fn digits(value: Value) -> Value {
    let text = value.to_string();
    let number = text.trim().parse::<u32>().ok();
    number.filter(|_| value.as_str().is_some()).map_or(value, Value::from)
}

fn letter(at: usize) -> Result<String, Error> {
    let letter = u8::try_from(at).ok().filter(|&at| at < 26).map(|at| char::from(b'A' + at));
    letter.map(String::from).ok_or_else(|| wrong(format!("{at} has no letter")))
}

/// A list turned by `by` places: what stood first stands there.
fn turned(list: Value, by: usize) -> Result<Value, Error> {
    let mut all: Vec<Value> = list.try_iter()?.collect();
    let places = all.len().max(1);
    all.rotate_right(by % places);
    Ok(all.into())
}

/// The environment of a row: `fields(names)` are those that are no names of variables.
fn of_row(row: &serde_json::Value) -> Environment<'static> {
    let mut environment = environment();
    let fields = Arc::new(row.clone());
    let own = Arc::clone(&fields);
    environment
        .add_function("rendered", move |template: String| render(&template, &own).map_err(wrong));
    environment.add_function("fields", move |names: Vec<String>| {
        let one = |name: &String| {
            let found = fields.get(name).map(Value::from_serialize);
            found.ok_or_else(|| wrong(format!("there is no field {name:?}")))
        };
        names.iter().map(one).collect::<Result<Vec<Value>, Error>>()
    });
    environment
}

fn sub(text: String, pattern: String, by: String) -> Result<String, Error> {
    let regex = Regex::new(&pattern).map_err(|e| wrong(e.to_string()))?;
    let replaced = regex.try_replacen(&text, 0, by.as_str()).map_err(|e| wrong(e.to_string()))?;
    Ok(replaced.into_owned())
}

fn json(value: Value) -> Result<String, Error> {
    let mut bytes = Vec::new();
    let lines = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut bytes, lines);
    serde::Serialize::serialize(&value, &mut writer).map_err(|e| wrong(e.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|e| wrong(e.to_string()))?;
    let mut ascii = String::new();
    for c in text.chars() {
        match c {
            '\0'..='~' => ascii.push(c),
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|u| ascii += &format!("\\u{u:04x}")),
        }
    }
    Ok(ascii)
}

/// A text with the fields of a row in it.
pub fn render(template: &str, row: &serde_json::Value) -> Result<String, String> {
    of_row(row).render_str(template, row).map_err(|e| e.to_string())
}

/// What an expression gives over the fields of a row.
pub fn value<T: serde::de::DeserializeOwned>(
    expression: &str,
    row: &serde_json::Value,
) -> Result<T, String> {
    let environment = of_row(row);
    let compiled = environment.compile_expression(expression).map_err(|e| e.to_string())?;
    let found = compiled.eval(row).map_err(|e| e.to_string())?;
    let read = serde_json::to_value(&found).and_then(serde_json::from_value);
    read.map_err(|e| format!("{expression}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_become_texts_numbers_and_lists() {
        let row = json!({ "q": " why? ", "labels": ["A", "B"], "key": "B", "n": "1" });
        assert_eq!(render("Q: {{q.strip()}}\n", &row).unwrap(), "Q: why?\n");
        assert_eq!(value::<usize>("index(labels, key)", &row).unwrap(), 1);
        assert_eq!(value::<usize>("n | int", &row).unwrap(), 1);
        assert_eq!(value::<Vec<String>>("labels", &row).unwrap(), ["A", "B"]);
        assert_eq!(
            render("{{ letter(2) }}{{ 'a[b]c' | sub('\\\\[.*?\\\\]', '') }}", &row).unwrap(),
            "Cac"
        );
        let row = json!({ "a b": "x", "c": ["p", "q", "r"] });
        let turned = "turned(c, 4) + fields(['a b']) + [c.index('q')]";
        assert_eq!(
            value::<serde_json::Value>(turned, &row).unwrap(),
            json!(["r", "p", "q", "x", 1])
        );
        assert!(value::<serde_json::Value>("fields(['d'])", &row).unwrap_err().contains("\"d\""));
    }

    #[test]
    fn json_is_as_python_writes_it() {
        let row = json!({ "f": { "name": "é😀", "of": [], "more": [1.5, true] } });
        let wanted = "{\n    \"name\": \"\\u00e9\\ud83d\\ude00!\",\n    \"of\": [],\n    \"more\": [\n        1.5,\n        true\n    ]\n}";
        assert_eq!(render("{{ dict(f, name=f.name ~ '!') | json }}", &row).unwrap(), wanted);
    }

    #[test]
    fn what_is_not_there_is_said() {
        let row = json!({ "q": "x" });
        assert!(render("{{ question }}", &row).is_err());
        assert!(value::<usize>("index([1, 2], 3)", &row).unwrap_err().contains("is not in"));
        assert!(value::<usize>("q", &row).is_err());
        for odd in [json!(null), json!(1.9), json!("nan"), json!("x"), json!([1])] {
            let error = value::<i64>("q | int", &json!({ "q": odd })).unwrap_err();
            assert!(error.contains("is no whole number"), "{error}");
        }
        assert!(
            render(
                "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}",
                &row
            )
            .is_err()
        );
    }
}
