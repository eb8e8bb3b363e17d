//! Whether functions are called as they should be: the syntax trees of the Berkeley Function-Calling
//! Leaderboard, for Python's functions, with answers in the form of Llama 3.1.
//!
//! The rules are those of its checker (bfcl-eval 2026.3.23), with what is odd in them: an answer is read as Python
//! reads a literal, so that JSON's `true` is none, unless a semicolon stands in it; a value of another type than the
//! function's counts if a right one has that type as well.

use serde::Deserialize;
use serde_json::Value;

use super::{Worth, share};

pub mod api_bank;
mod literal;
pub mod nexus;

use literal::Literal;

/// What a row says: the functions, and the calls that are right.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    category: Category,
    function: Vec<Function>,
    #[serde(default)]
    ground_truth: Vec<serde_json::Map<String, Value>>,
}

/// How calls are compared.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Category {
    /// One call of one function, or of one among several.
    Simple,
    Multiple,
    /// Several calls, in any order.
    Parallel,
    /// No call, or any.
    Irrelevance,
    Relevance,
}

#[derive(Debug, Deserialize)]
struct Function {
    name: String,
    parameters: Parameters,
}

#[derive(Debug, Deserialize)]
struct Parameters {
    properties: serde_json::Map<String, Value>,
    #[serde(default)]
    required: Vec<String>,
}

/// A type of Python, as `type(x)` tells it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    None,
    Bool,
    Int,
    Float,
    Str,
    List,
    Tuple,
    Dict,
}

/// The type that a function's description names.
fn kind(name: &str) -> Result<Kind, String> {
    Ok(match name {
        "string" | "any" => Kind::Str,
        "integer" => Kind::Int,
        "float" => Kind::Float,
        "boolean" => Kind::Bool,
        "array" | "tuple" => Kind::List,
        "dict" => Kind::Dict,
        other => return Err(format!("a parameter has the type {other:?}")),
    })
}

/// A parameter's type, and that of its items.
fn kinds(parameter: &Value) -> Result<(Kind, Option<Kind>), String> {
    let name = |value: &Value| {
        let name = value["type"].as_str();
        name.map(str::to_owned).ok_or_else(|| format!("a parameter has no type: {value}"))
    };
    let own = kind(&name(parameter)?)?;
    let items = if own == Kind::List { Some(kind(&name(&parameter["items"])?)?) } else { None };
    Ok((own, items))
}

impl Wanted {
    /// Reads an object of these fields. Errors: it is none; a type that the checker does not know.
    pub fn read(reference: &Value) -> Result<Wanted, String> {
        let wanted: Wanted =
            serde_json::from_value(reference.clone()).map_err(|e| e.to_string())?;
        let calls = wanted.ground_truth.len();
        let (least, most) = match wanted.category {
            Category::Simple | Category::Multiple => (1, 1),
            Category::Parallel => (1, usize::MAX),
            Category::Irrelevance | Category::Relevance => return Ok(wanted),
        };
        if !(least..=most).contains(&calls) {
            return Err(format!("{calls} right calls"));
        }
        for truth in &wanted.ground_truth {
            let Some((name, right)) = truth.iter().next() else {
                return Err("a right call is empty".to_owned());
            };
            let function = wanted.function(name)?;
            let right = right.as_object().ok_or_else(|| format!("{name} has no parameters"))?;
            for (parameter, values) in right {
                if !values.is_array() {
                    return Err(format!("the right values of {parameter} are {values}, no list"));
                }
                function
                    .parameters
                    .properties
                    .get(parameter)
                    .map_or(Ok(()), |p| kinds(p).map(|_| ()))?;
            }
        }
        Ok(wanted)
    }

    fn function(&self, name: &str) -> Result<&Function, String> {
        let found = match self.category {
            Category::Simple => self.function.first(),
            _ => self.function.iter().find(|function| function.name == name),
        };
        found.ok_or_else(|| format!("{name} is called, but not described"))
    }

    /// Whether the calls of an answer are right.
    fn holds(&self, answer: &str) -> bool {
        let calls = decoded(answer);
        match self.category {
            Category::Irrelevance => calls.is_none_or(|calls| calls.is_empty()),
            Category::Relevance => calls.is_some_and(|calls| !calls.is_empty()),
            Category::Simple | Category::Multiple | Category::Parallel => {
                calls.is_some_and(|calls| self.all(&calls))
            }
        }
    }

    fn all(&self, calls: &[Call]) -> bool {
        if calls.len() != self.ground_truth.len() {
            return false;
        }
        // Each right call takes the first that fits it, as the official checker does.
        let mut taken = vec![false; calls.len()];
        self.ground_truth.iter().all(|truth| {
            let fits = |at: &usize| !taken[*at] && self.fits(&calls[*at], truth);
            let found = (0..calls.len()).find(fits);
            found.inspect(|at| taken[*at] = true).is_some()
        })
    }

    fn fits(&self, call: &Call, truth: &serde_json::Map<String, Value>) -> bool {
        let Some((name, right)) = truth.iter().next() else { return false };
        let (Ok(function), Some(right)) = (self.function(name), right.as_object()) else {
            return false;
        };
        if call.name != Literal::Str(function.name.clone()) {
            return false;
        }
        let given = |name: &str| call.parameters.iter().any(|(key, _)| key.is(name));
        if !function.parameters.required.iter().all(|name| given(name)) {
            return false;
        }
        let good = call.parameters.iter().all(|(key, value)| {
            let Literal::Str(key) = key else { return false };
            let described = function.parameters.properties.get(key);
            match (described, right.get(key).and_then(Value::as_array)) {
                (Some(described), Some(right)) => kinds(described).is_ok_and(|(own, items)| {
                    let float = own == Kind::Float;
                    let right: Vec<Literal> = right.iter().map(Literal::of).collect();
                    let tuple = described["type"] == "tuple";
                    good_value(value.clone().converted(float, tuple), &right, own, items)
                }),
                _ => false,
            }
        });
        let optional =
            |values: &Value| values.as_array().is_some_and(|all| all.contains(&"".into()));
        good && right.iter().all(|(name, values)| given(name) || optional(values))
    }
}

/// The score of an answer.
pub fn score(reference: &Value, answer: &str) -> Result<Worth, String> {
    let holds = Wanted::read(reference)?.holds(answer);
    Ok(Worth::of([("accuracy", share(holds))], answer.trim()))
}

struct Call {
    name: Literal,
    parameters: Vec<(Literal, Literal)>,
}

/// The calls of an answer; nothing where it cannot be read as calls.
fn decoded(answer: &str) -> Option<Vec<Call>> {
    let text = answer.replace("<|python_tag|>", "");
    let all = if text.contains(';') {
        let json = |part: &str| serde_json::from_str::<Value>(part).ok().map(|v| Literal::of(&v));
        text.split(';').map(json).collect::<Option<Vec<_>>>()?
    } else {
        match literal::read(&text)? {
            one @ Literal::Dict(_) => vec![one],
            Literal::List(all) | Literal::Tuple(all) => all,
            _ => return None,
        }
    };
    let call = |one: Literal| match (one.get("name")?, one.get("parameters")?) {
        (Literal::List(_) | Literal::Dict(_), _) => None,
        (name, Literal::Dict(parameters)) => {
            Some(Call { name: name.clone(), parameters: parameters.clone() })
        }
        _ => None,
    };
    all.into_iter().map(call).collect()
}

/// Whether a value has a right type and is one of the right values.
fn good_value(value: Literal, right: &[Literal], own: Kind, items: Option<Kind>) -> bool {
    let Some(variable) = typed(&value, right, own, items) else { return false };
    if !variable {
        match (own, items, &value) {
            (Kind::Dict, _, Literal::Dict(value)) => return good_dict(value, right),
            (Kind::List, Some(Kind::Dict), Literal::List(value)) => {
                return good_dicts(value, right);
            }
            (Kind::Str, _, Literal::Str(value)) => {
                return right.iter().any(
                    |right| matches!(right, Literal::Str(right) if plain(right) == plain(value)),
                );
            }
            (Kind::List, _, Literal::List(value)) => return good_list(value, right),
            _ => {}
        }
    }
    right.iter().any(|right| right.same(&value))
}

/// Whether a value has a right type: then whether it stands for a variable, being of a type that only
/// the right values have.
fn typed(value: &Literal, right: &[Literal], own: Kind, items: Option<Kind>) -> Option<bool> {
    let of_right = right.iter().find(|right| !right.is("")).map(Literal::kind);
    let variable = of_right.is_some_and(|kind| kind != own);
    if value.kind() == own {
        let Some(items) = items else { return Some(variable) };
        let fits = |right: &Literal| match (right, value) {
            (Literal::List(right), Literal::List(values)) => {
                values.iter().all(|value| typed(value, right, items, None).is_some())
            }
            _ => true,
        };
        return right.iter().any(fits).then_some(variable);
    }
    (of_right == Some(value.kind())).then_some(true)
}

/// A text as it is compared: in small letters, without spaces and some marks.
fn plain(text: &str) -> String {
    let kept: String = text.chars().filter(|c| !" ,./-_*^".contains(*c)).collect();
    kept.to_lowercase().replace('\'', "\"")
}

fn plain_item(item: &Literal) -> Literal {
    match item {
        Literal::Str(text) => Literal::Str(plain(text)),
        other => other.clone(),
    }
}

/// The items of a right value: those of a list, the characters of a text.
fn plain_items(right: &Literal) -> Option<Vec<Literal>> {
    match right {
        Literal::List(all) => Some(all.iter().map(plain_item).collect()),
        Literal::Str(text) => {
            Some(text.chars().map(|c| Literal::Str(plain(&c.to_string()))).collect())
        }
        _ => None,
    }
}

fn good_list(value: &[Literal], right: &[Literal]) -> bool {
    let value = Literal::List(value.iter().map(plain_item).collect());
    let all = right.iter().filter_map(plain_items);
    all.map(Literal::List).any(|right| right.same(&value))
}

fn good_dict(value: &[(Literal, Literal)], right: &[Literal]) -> bool {
    right.iter().any(|right| {
        let Literal::Dict(right) = right else { return false };
        let known = value.iter().all(|(key, value)| {
            let of = right.iter().find(|(own, _)| own.same(key));
            of.and_then(|(_, of)| plain_items(of))
                .is_some_and(|of| of.iter().any(|of| of.same(&plain_item(value))))
        });
        let whole = right.iter().all(|(key, of)| {
            let optional = match of {
                Literal::List(of) => of.iter().any(|of| of.is("")),
                Literal::Str(_) => true,
                _ => false,
            };
            optional || value.iter().any(|(own, _)| own.same(key))
        });
        known && whole
    })
}

fn good_dicts(value: &[Literal], right: &[Literal]) -> bool {
    right.iter().any(|right| {
        let right = match right {
            Literal::List(all) => &all[..],
            Literal::Str(text) if text.is_empty() => &[],
            _ => return false,
        };
        right.len() == value.len()
            && value.iter().zip(right).all(|(value, right)| match value {
                Literal::Dict(value) => good_dict(value, std::slice::from_ref(right)),
                _ => false,
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn holds(category: &str, answer: &str) -> bool {
        let number = json!({ "type": "integer" });
        let list = json!({ "type": "array", "items": { "type": "string" } });
        let properties = json!({ "n": number, "tags": list, "x": { "type": "float" } });
        let row = json!({
            "category": category,
            "function": [{ "name": "a.f", "parameters": { "type": "dict", "properties": properties, "required": ["n"] } }],
            "ground_truth": [{ "a.f": { "n": [5], "tags": [["New York"], ""], "x": ["", 2.0] } }],
        });
        score(&row, answer).unwrap().scores["accuracy"] == 1.0
    }

    #[test]
    fn calls_are_compared_as_the_leaderboard_does() {
        let call =
            |parameters: &str| format!("{{\"name\": \"a.f\", \"parameters\": {parameters}}}");
        for good in [
            "{\"n\": 5}",
            "{'n': 5, 'x': 2}",
            "{'n': 5, 'tags': ['new-york']}",
            "{'n': 5, 'tags': []}",
        ] {
            assert!(holds("simple", &call(good)), "{good}");
        }
        for bad in [
            "{\"n\": \"5\"}",
            "{'n': 5.0}",
            "{'n': 5, 'y': 1}",
            "{}",
            "{'n': 5, 'x': true}",
            "{'n': 5",
        ] {
            assert!(!holds("simple", &call(bad)), "{bad}");
        }
        assert!(holds("parallel", &format!("<|python_tag|>[{}]", call("{'n': 5}"))));
        assert!(!holds("simple", &format!("{}, {}", call("{'n': 5}"), call("{'n': 5}"))));
    }

    #[test]
    fn no_call_is_wanted_where_none_helps() {
        for (answer, call) in
            [("I cannot.", false), ("[]", false), ("{'name': 'a.f', 'parameters': {}}", true)]
        {
            assert_eq!(holds("irrelevance", answer), !call, "{answer}");
            assert_eq!(holds("relevance", answer), call, "{answer}");
        }
    }
}
