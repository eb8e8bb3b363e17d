//! Whether functions are called as in NexusRaven's benchmark: what its notebook does by running Python, here by reading calls.
//!
//! A call and the right one are made with functions that write down what they are given, by the names of their parameters; what is
//! written must be the same, in the same order. A call within a call is made first, and is worth `None`. A call that
//! cannot be made ends an answer, and what was made before counts.

use std::sync::LazyLock;

use fancy_regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use super::literal::{Literal, Parameter, Step, signature, steps};
use crate::score::text::pattern;
use crate::score::{Worth, share};

/// The calls that are right, and the functions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Python: `f(a, b=1); g(f(2))`.
    calls: String,
    /// First lines of their definitions: `f(a: str, b: int = 0)`.
    functions: Vec<String>,
    /// Whether what is nothing (`None`, `False`, 0, an empty text or list) counts as not given.
    #[serde(default)]
    skip_empty: bool,
}

/// A function's name and parameters.
type Function = (String, Vec<Parameter>);
/// Calls: names, and what was given.
type Made = Vec<(String, Literal)>;

impl Wanted {
    /// Reads an object of these fields. Errors: it is none; definitions or calls that cannot be read or made.
    pub fn read(reference: &Value) -> Result<Wanted, String> {
        let wanted: Wanted =
            serde_json::from_value(reference.clone()).map_err(|e| e.to_string())?;
        let functions = wanted.functions()?;
        let made = steps(&wanted.calls).map(|steps| wanted.made(&steps, &functions));
        match made {
            Some((made, true)) if !made.is_empty() => Ok(wanted),
            _ => Err(format!("the right calls cannot be made: {:?}", wanted.calls)),
        }
    }

    fn functions(&self) -> Result<Vec<Function>, String> {
        let read = |line: &String| {
            signature(line)
                .ok_or_else(|| format!("a function's first line cannot be read: {line:?}"))
        };
        self.functions.iter().map(read).collect()
    }

    /// What functions write down, up to what Python cannot do; and whether it comes to the end.
    fn made(&self, steps: &[Step], functions: &[Function]) -> (Made, bool) {
        let mut made = Vec::new();
        for step in steps {
            let (Step::Name(name) | Step::Call(name, _)) = step;
            let function = functions.iter().rev().find(|(own, _)| own == name);
            let Some((_, parameters)) = function else { return (made, false) };
            let Step::Call(_, given) = step else { continue };
            let Some(bound) = self.bound(parameters, given) else { return (made, false) };
            made.push((name.clone(), bound));
        }
        (made, true)
    }

    /// What is given, by the names of parameters; nothing where Python takes it for no call.
    fn bound(
        &self,
        parameters: &[Parameter],
        given: &[(Option<String>, Literal)],
    ) -> Option<Literal> {
        let mut values: Vec<Option<Literal>> = vec![None; parameters.len()];
        for (place, (name, value)) in given.iter().enumerate() {
            let at = match name {
                None => place,
                Some(name) => parameters.iter().position(|own| own.name == *name)?,
            };
            if values.get(at)?.is_some() {
                return None;
            }
            values[at] = Some(value.clone());
        }
        let mut all = Vec::new();
        for (parameter, value) in parameters.iter().zip(values) {
            let value = value.or_else(|| parameter.default.clone())?;
            if !(self.skip_empty && empty(&value)) {
                all.push((Literal::Str(parameter.name.clone()), value));
            }
        }
        Some(Literal::Dict(all))
    }
}

/// Whether Python takes it for false.
fn empty(value: &Literal) -> bool {
    match value {
        Literal::None => true,
        Literal::Bool(b) => !b,
        Literal::Int(n) => *n == 0,
        Literal::Float(x) => *x == 0.0,
        Literal::Str(text) => text.is_empty(),
        Literal::List(all) | Literal::Tuple(all) => all.is_empty(),
        Literal::Dict(all) => all.is_empty(),
    }
}

/// What an answer begins with, else nothing of it is run.
static CALL: LazyLock<Regex> = LazyLock::new(|| pattern(r"\A\w+\(.*\)"));

/// The score of an answer.
pub fn score(reference: &Value, answer: &str) -> Result<Worth, String> {
    let wanted = Wanted::read(reference)?;
    let functions = wanted.functions()?;
    let answer = answer.trim();
    let run =
        |text: &str| steps(text).map_or_else(Vec::new, |steps| wanted.made(&steps, &functions).0);
    let made = if CALL.is_match(answer).unwrap_or(false) { run(answer) } else { Vec::new() };
    let right = run(&wanted.calls);
    let same = |a: &(String, Literal), b: &(String, Literal)| a.0 == b.0 && a.1.same(&b.1);
    let holds = made.len() == right.len() && made.iter().zip(&right).all(|(a, b)| same(a, b));
    Ok(Worth::of([("accuracy", share(holds))], answer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn holds(calls: &str, answer: &str) -> bool {
        let functions = json!([
            "get_place() -> str",
            "find(kind: list, place: Dict[str, int], miles: int = 50)",
            "def sort(places, by: str = 'x', up=True):",
        ]);
        let reference = json!({ "calls": calls, "functions": functions, "skip_empty": true });
        score(&reference, answer).unwrap().scores["accuracy"] == 1.0
    }

    #[test]
    fn calls_are_right_by_what_functions_are_given_in_their_order() {
        let right = "sort(find(['bar'], get_place()), up=False)";
        for good in [
            "sort(find(['bar'], get_place()), up=False)",
            " sort(up=False, places=find(place=get_place(), kind=[\"bar\"], miles=50.0), by='x')\n",
            "get_place(); find(['bar'], None); sort([], 'x', 0); nothing(1)",
        ] {
            assert!(holds(right, good), "{good}");
        }
        for bad in [
            "sort(get_place(), find(['bar']))",
            "sort(find(['bar'], get_place()))",
            "sort(find(['bar'], get_place()), up=False) and more",
            "sort(find(['bar'], get_place()), up=False",
            "sort(\nfind(['bar'], get_place()), up=False)",
            "x = get_place(); sort(find(['bar'], x), up=False)",
            "Sure: sort()",
            "find(['bar'], kind=['bar'], place=1)",
            "other(sort(find(['bar'], get_place()), up=False))",
            "sort(find(['bar'], get_place()), up=False); sort(up=1, up=2)",
            "",
        ] {
            assert!(!holds(right, bad), "{bad}");
        }
    }

    #[test]
    fn a_row_whose_calls_cannot_be_made_is_refused() {
        let read = |calls: &str, function: &str| {
            Wanted::read(&json!({ "calls": calls, "functions": [function] })).is_err()
        };
        assert!(!read("f(1)", "f(a)") && !read("f(-1, b={'x': [1,]})", "f(a, b=None)"));
        assert!(read("f()", "f(a)") && read("g(1)", "f(a)") && read("f(1", "f(a)"));
        assert!(read("", "f(a)") && read("f(1)", "f(a") && read("f(1)", "f(a b)"));
        assert!(read("f(x)", "f(a)") && read("f(a=1, 2)", "f(a, b)") && read("f(1) + 1", "f(a)"));
    }
}
