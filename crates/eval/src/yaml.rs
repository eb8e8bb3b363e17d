//! Pages of lm-evaluation-harness, where they are plain: settings and Jinja, no Python.
//!
//! What such a page can say and Herd cannot do is refused by its name; what moves no score is passed over.

use std::path::Path;

use serde_json::Value;
use serde_yaml_ng::{Mapping, Value as Yaml};

use crate::error::EvalError;
use crate::score::Scorer;
use crate::task::{Form, Shots, Task, Write};

/// Keys that move no score.
const PASSED_OVER: [&str; 6] = [
    "tag",
    "task_alias",
    "metadata",
    "should_decontaminate",
    "doc_to_decontamination_query",
    "unsafe_code",
];

/// Tokens of a written answer where a page does not say, as lm-evaluation-harness has it.
const TOKENS: usize = 256;

/// A page's keys, each taken out as it is read.
struct Page {
    keys: serde_json::Map<String, Value>,
}

/// Reads a page; paths of its rows are seen from `folder`, else they lie below the folder of data.
///
/// Errors: it is no YAML, or says what only lm-evaluation-harness can do; the key is named.
pub fn task(page: &str, of: &str, folder: &Path) -> Result<Task, EvalError> {
    let wrong = |what: String| EvalError::Task { task: of.to_owned(), what };
    let read: Mapping = serde_yaml_ng::from_str(page).map_err(|e| wrong(e.to_string()))?;
    let keys = plain(Yaml::Mapping(read), "the page").map_err(wrong)?;
    let Value::Object(keys) = keys else { return Err(wrong("it is no mapping".to_owned())) };
    let task = Page { keys }.task(folder).map_err(wrong)?;
    task.checked()
}

/// A value without tags. Errors: what it is instead.
fn plain(value: Yaml, at: &str) -> Result<Value, String> {
    Ok(match value {
        Yaml::Tagged(tagged) => {
            let tag = tagged.tag.to_string();
            return Err(format!("{at} is {tag}: pages that run Python cannot be read"));
        }
        Yaml::Sequence(list) => {
            list.into_iter().map(|one| plain(one, at)).collect::<Result<Value, String>>()?
        }
        Yaml::Mapping(map) => {
            let mut read = serde_json::Map::new();
            for (key, value) in map {
                let Yaml::String(key) = key else {
                    return Err(format!("{at} has a key that is no text"));
                };
                let value = plain(value, &key)?;
                read.insert(key, value);
            }
            Value::Object(read)
        }
        Yaml::Null => Value::Null,
        Yaml::Bool(yes) => yes.into(),
        Yaml::String(text) => text.into(),
        Yaml::Number(number) => {
            let whole = number.as_i64().map(Value::from);
            whole.or_else(|| number.as_f64().map(Value::from)).ok_or(format!("{at} is {number}"))?
        }
    })
}

impl Page {
    fn task(mut self, folder: &Path) -> Result<Task, String> {
        let name = self.text("task")?.ok_or("task is missing")?;
        let version = self.keys.get("metadata").and_then(|metadata| metadata["version"].as_f64());
        for key in PASSED_OVER {
            self.keys.remove(key);
        }
        let written = match self.text("output_type")?.as_deref() {
            None | Some("generate_until") => true,
            Some("multiple_choice") => false,
            Some(other) => {
                let known = "multiple_choice and generate_until";
                return Err(format!("output_type is {other:?}, read are {known}"));
            }
        };
        if self.take("repeats").is_some_and(|repeats| repeats != 1) {
            return Err("repeats is more than 1".to_owned());
        }
        let (files, shots) = self.rows(folder)?;
        let between = self.text("fewshot_delimiter")?.unwrap_or_else(|| "\n\n".to_owned());
        let task = Task {
            name,
            version: version.map_or(1, |version| version as u32),
            about: "a page of lm-evaluation-harness".to_owned(),
            citation: "lm-evaluation-harness".to_owned(),
            files,
            only: None,
            each: None,
            join: None,
            gather: None,
            scorer: if written { Scorer::Match } else { Scorer::Choice },
            metric: self.metric(written)?,
            description: self.text("description")?.unwrap_or_default(),
            delimiter: self.text("target_delimiter")?.unwrap_or_else(|| " ".to_owned()),
            between: between.clone(),
            shots,
            group: None,
            by_group: false,
            cluster: None,
            write: self.write(written, &between)?,
            form: vec![self.form(written)?],
        };
        match self.keys.keys().next() {
            None => Ok(task),
            Some(key) => Err(format!("{key} is none of the keys that are read")),
        }
    }

    /// A key's value; none is the same as null.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.keys.shift_remove(key).filter(|value| !value.is_null())
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(format!("{key} is {other}, expected a text")),
        }
    }

    /// Where the rows are, and the examples.
    fn rows(&mut self, folder: &Path) -> Result<(Vec<String>, Shots), String> {
        let path = self.text("dataset_path")?.ok_or("dataset_path is missing")?;
        let name = self.text("dataset_name")?;
        let mut kwargs = match self.take("dataset_kwargs") {
            None => serde_json::Map::new(),
            Some(Value::Object(kwargs)) => kwargs,
            Some(other) => return Err(format!("dataset_kwargs is {other}, expected a mapping")),
        };
        let files = self.take("data_files").or_else(|| kwargs.shift_remove("data_files"));
        kwargs.shift_remove("cache_dir");
        if let Some(key) = kwargs.keys().next() {
            return Err(format!("dataset_kwargs.{key} is none of the keys that are read"));
        }
        let splits = ["fewshot_split", "training_split", "validation_split", "test_split"];
        let [shots, train, validation, test] = splits.map(|key| self.text(key));
        let (shots, train, validation, test) = (shots?, train?, validation?, test?);
        let own = test.or_else(|| validation.clone()).ok_or("test_split is missing")?;
        let of = |split: &str| match &files {
            Some(files) => listed(files, split, folder),
            None => Ok(below(&path, name.as_deref(), split, folder)),
        };
        let number = self.take("num_fewshot");
        let number = number.map(|n| n.as_u64().ok_or(format!("num_fewshot is {n}"))).transpose()?;
        let first = match self.take("fewshot_config") {
            None => false,
            Some(config) if config == serde_json::json!({ "sampler": "first_n" }) => true,
            Some(config) if config == serde_json::json!({ "sampler": "default" }) => false,
            Some(other) => return Err(format!("fewshot_config is {other}, read is a sampler")),
        };
        let from = shots.or(train).or(validation).filter(|split| *split != own);
        let shots = Shots {
            number: number.unwrap_or(0) as usize,
            files: from.map(|split| of(&split)).transpose()?.unwrap_or_default(),
            row: Vec::new(),
            first,
            of_group: false,
            apart: false,
        };
        Ok((of(&own)?, shots))
    }

    /// The score that stands for the task: the first of `metric_list`.
    fn metric(&mut self, written: bool) -> Result<String, String> {
        let known = if written { &["exact_match"][..] } else { &["acc", "acc_norm"] };
        let list = match self.take("metric_list") {
            None => return Ok(known[0].to_owned()),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(format!("metric_list is {other}, expected a list")),
        };
        let mut named = Vec::new();
        for entry in list {
            let Value::Object(mut entry) = entry else {
                return Err(format!("metric_list has {entry}, expected a mapping"));
            };
            let metric = entry.shift_remove("metric").unwrap_or_default();
            let found = known.iter().find(|known| metric == **known);
            named.push(found.ok_or_else(|| {
                format!("metric {metric} of metric_list, read are {}", known.join(", "))
            })?);
            for (key, usual) in
                [("aggregation", Value::from("mean")), ("higher_is_better", true.into())]
            {
                if entry.shift_remove(key).is_some_and(|value| value != usual) {
                    return Err(format!("{key} of {metric} is not {usual}"));
                }
            }
            entry.retain(|_, value| *value != false);
            if let Some(key) = entry.keys().next() {
                return Err(format!("{key} of {metric} is none of the keys that are read"));
            }
        }
        named.first().map(|metric| (**metric).to_owned()).ok_or("metric_list is empty".to_owned())
    }

    /// `between` stands between examples, and ends an answer where nothing is said of it.
    fn write(&mut self, written: bool, between: &str) -> Result<Option<Write>, String> {
        let mut kwargs = match self.take("generation_kwargs") {
            None => serde_json::Map::new(),
            Some(Value::Object(kwargs)) if written => kwargs,
            Some(other) => return Err(format!("generation_kwargs is {other}")),
        };
        if !written {
            return Ok(None);
        }
        let until = match kwargs.shift_remove("until") {
            None => vec![between.to_owned()],
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(list)) => {
                let text = |one: &Value| one.as_str().map(str::to_owned);
                let texts: Option<Vec<String>> = list.iter().map(text).collect();
                texts.ok_or("until of generation_kwargs holds more than texts")?
            }
            Some(other) => return Err(format!("until of generation_kwargs is {other}")),
        };
        let most = kwargs
            .shift_remove("max_gen_toks")
            .map(|n| n.as_u64().ok_or_else(|| format!("max_gen_toks of generation_kwargs is {n}")));
        let greedy = |key: &str, value: &Value| match key {
            "do_sample" => *value == false,
            "temperature" => value.as_f64() == Some(0.0),
            _ => false,
        };
        if let Some((key, value)) = kwargs.iter().find(|(key, value)| !greedy(key, value)) {
            return Err(format!(
                "{key} of generation_kwargs is {value}: answers are the likeliest"
            ));
        }
        let max_tokens = most.transpose()?.map_or(TOKENS, |n| n as usize);
        Ok(Some(Write { until, max_tokens, take: None }))
    }

    fn form(&mut self, written: bool) -> Result<Form, String> {
        let text = self.text("doc_to_text")?.ok_or("doc_to_text is missing")?;
        let target = self.take("doc_to_target").ok_or("doc_to_target is missing")?;
        let choice = self.take("doc_to_choice");
        let mut form = Form {
            has: Vec::new(),
            text: template(&text),
            texts: None,
            choices: None,
            gold: None,
            shot: None,
            reference: None,
            asks: None,
            options: None,
        };
        if written {
            if choice.is_some() {
                return Err("doc_to_choice beside answers that are written".to_owned());
            }
            let Value::String(target) = target else {
                return Err(format!("doc_to_target is {target}, expected a text"));
            };
            form.shot = Some(template(&target));
            form.reference = Some(expression(&target));
            return Ok(form);
        }
        let choices = match choice.ok_or("doc_to_choice is missing")? {
            Value::Object(map) => {
                Value::Array(map.into_iter().map(|(_, value)| value).collect()).to_string()
            }
            Value::Array(list) => Value::Array(list).to_string(),
            Value::String(text) => match sole(&text) {
                Some(expression) => format!("({expression}) | map('string') | list"),
                None if is_name(&text) => format!("{text} | map('string') | list"),
                None => {
                    let want = "a list, a field or one {{expression}}";
                    return Err(format!("doc_to_choice is {text:?}, expected {want}"));
                }
            },
            other => return Err(format!("doc_to_choice is {other}")),
        };
        form.gold = Some(match target {
            Value::Number(number) => number.to_string(),
            // The text of a template may be a number's; a field is what it is.
            Value::String(text) if is_name(&text) => format!("place({choices}, {text})"),
            Value::String(text) => format!("place({choices}, digits({}))", expression(&text)),
            other => return Err(format!("doc_to_target is {other}")),
        });
        form.choices = Some(choices);
        Ok(form)
    }
}

/// The files of a split among `data_files`: a path, a list of them, or these by split.
fn listed(files: &Value, split: &str, folder: &Path) -> Result<Vec<String>, String> {
    let of = match files {
        Value::Object(splits) => {
            splits.get(split).ok_or_else(|| format!("data_files has no {split}"))?
        }
        all => all,
    };
    let one = |file: &Value| -> Result<String, String> {
        let file = file.as_str().ok_or_else(|| format!("data_files has {file}"))?;
        Ok(beside(file, folder))
    };
    match of {
        Value::Array(list) if list.len() == 1 => Ok(vec![one(&list[0])?]),
        Value::Array(list) => Err(format!("data_files has {} files for {split}", list.len())),
        file => Ok(vec![one(file)?]),
    }
}

/// A file beside the page, by its whole path; else it lies below the folder of data.
fn beside(file: &str, folder: &Path) -> String {
    let path = folder.join(file);
    let whole = path.canonicalize().ok().filter(|path| path.is_file());
    whole.map_or_else(|| file.to_owned(), |path| path.display().to_string())
}

/// Where the rows of a hub's data set may lie below the folder of data.
fn below(path: &str, name: Option<&str>, split: &str, folder: &Path) -> Vec<String> {
    let last = path.rsplit('/').next().unwrap_or(path);
    let own = folder.join(path);
    let mut found = Vec::new();
    if own.is_dir()
        && let Ok(entries) = own.read_dir()
    {
        let names = entries.flatten().map(|entry| entry.path());
        let fits = |path: &std::path::PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(split))
        };
        found.extend(names.filter(fits).map(|path| beside(&path.display().to_string(), folder)));
        found.sort();
    }
    for folder in [path, last] {
        found.extend(name.map(|name| format!("{folder}/{name}/{split}*")));
        found.push(format!("{folder}/{split}*"));
    }
    found
}

/// Whether a text is a field's name.
fn is_name(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.chars().all(letter) && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// The expression that a text is, if it is nothing else.
fn sole(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}") && !inner.contains("{%"))
        .then_some(inner.trim())
}

/// A text as a template: a field's name stands for the field.
fn template(text: &str) -> String {
    if is_name(text) { format!("{{{{{text}}}}}") } else { text.to_owned() }
}

/// A text as an expression.
fn expression(text: &str) -> String {
    match sole(text) {
        Some(expression) => format!("({expression})"),
        None if is_name(text) => text.to_owned(),
        None => format!("rendered({})", Value::from(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::{Ask, Drawn, items};
    use crate::task::Row;
    use serde_json::json;

    const CHOICE: &str = r#"
task: pick
tag: [some]
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl, dev: dev.jsonl}}
fewshot_split: dev
test_split: test
num_fewshot: 0
output_type: multiple_choice
description: "About {{kind}}.\n\n"
doc_to_text: "Question: {{question}}\nAnswer:"
doc_to_target: "{{choices.label.index(answerKey)}}"
doc_to_choice: "{{choices.text}}"
metric_list:
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - metric: acc
metadata: {version: 2.0}
"#;

    const WRITTEN: &str = r#"
task: say
dataset_path: owner/set
dataset_name: main
training_split: train
test_split: test
doc_to_text: "Q: {{q}}\nA:"
doc_to_target: "so {{a}}"
generation_kwargs: {until: ["Q:"], do_sample: false, temperature: 0.0, max_gen_toks: 12}
metric_list: [{metric: exact_match}]
"#;

    fn read(page: &str) -> Result<Task, EvalError> {
        task(page, "page.yaml", Path::new("/nowhere"))
    }

    fn asked(task: &Task, fields: Value) -> Result<crate::item::Item, EvalError> {
        let rows = [Row { path: "t".into(), number: 1, fields }];
        let none = Drawn { number: 0, seed: 0 };
        Ok(items(task, &rows, None, none, None)?.swap_remove(0))
    }

    #[test]
    fn plain_pages_are_read() {
        let task = read(CHOICE).unwrap();
        assert_eq!((task.metric.as_str(), task.version), ("acc_norm", 2));
        assert_eq!(
            (&task.files, &task.shots.files),
            (&vec!["rows.jsonl".to_owned()], &vec!["dev.jsonl".to_owned()])
        );
        let choices = json!({ "text": ["x", "y"], "label": ["1", "2"] });
        let row = json!({ "kind": "k", "question": "why?", "choices": choices, "answerKey": "2" });
        let item = asked(&task, row).unwrap();
        assert_eq!(item.description, "About k.\n\n");
        let wanted = Ask::Choose {
            texts: vec!["Question: why?\nAnswer:".to_owned()],
            choices: vec!["x".to_owned(), "y".to_owned()],
            gold: 1,
        };
        assert_eq!(item.ask, wanted);

        let task = read(WRITTEN).unwrap();
        assert_eq!(
            task.files,
            ["owner/set/main/test*", "owner/set/test*", "set/main/test*", "set/test*"]
        );
        assert_eq!(
            task.write,
            Some(Write { until: vec!["Q:".to_owned()], max_tokens: 12, take: None })
        );
        let item = asked(&task, json!({ "q": "why", "a": 7 })).unwrap();
        let wanted = Ask::Write { text: "Q: why\nA:".to_owned(), reference: json!("so 7") };
        assert_eq!(item.ask, wanted);
    }

    #[test]
    fn targets_are_places_digits_or_choices() {
        let page = CHOICE
            .replace("\"{{choices.text}}\"", "[\"no\", \"yes\"]")
            .replace("\"{{choices.label.index(answerKey)}}\"", "label");
        let task = read(&page).unwrap();
        let gold =
            |label: Value| match asked(&task, json!({ "kind": 1, "question": 2, "label": label }))?
                .ask
            {
                Ask::Choose { gold, .. } => Ok::<usize, EvalError>(gold),
                Ask::Write { .. } => unreachable!(),
            };
        assert_eq!(gold(json!(1)).unwrap(), 1);
        assert_eq!(gold(json!("yes")).unwrap(), 1);
        assert!(
            gold(json!("maybe")).is_err() && gold(json!("0")).is_err() && gold(json!(2)).is_err()
        );
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let refused = |page: String, words: &str| {
            let error = read(&page).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("page.yaml"), "{error}");
        };
        let with = |line: &str| format!("{CHOICE}{line}\n");
        refused(with("process_docs: !function utils.process"), "process_docs is !function");
        refused(CHOICE.replace("[some]", "[!function a.b]"), "tag is !function");
        refused(with("include: other.yaml"), "include is none of the keys");
        refused(with("filter_list: []"), "filter_list is none of the keys");
        refused(CHOICE.replace("multiple_choice", "loglikelihood"), "output_type is");
        refused(CHOICE.replace("metric: acc\n", "metric: f1\n"), "metric \"f1\"");
        refused(CHOICE.replace("\"{{choices.text}}\"", "\"{{a}} {{b}}\""), "doc_to_choice");
        refused(CHOICE.replace("task: pick", "x: 1"), "task is missing");
        refused(WRITTEN.replace("0.0", "0.7"), "temperature of generation_kwargs");
        refused(WRITTEN.replace("exact_match", "exact_match, ignore_case: true"), "ignore_case");
        refused("[1, 2]".to_owned(), "");
        refused("a: [".to_owned(), "");
        // References that multiply are no way to fill the memory.
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let of = vec![format!("*a{}", i - 1); 9].join(", ");
            bomb += &format!("a{i}: &a{i} [{of}]\n");
        }
        refused(bomb, "");
    }
}
