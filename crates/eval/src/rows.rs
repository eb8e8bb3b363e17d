//! The rows of a task: where they lie, and what becomes of them before they are asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use herd_data::read::{InputFile, objects};
use serde_json::Value;

use crate::error::EvalError;
use crate::task::{Each, Gather, Row, Task};
use crate::template::value;

impl Task {
    /// The task's rows, in their order.
    ///
    /// Errors: none of its files is there; one cannot be read, or is damaged; a row of which cannot be said
    /// whether it is asked.
    pub fn rows(&self, data: &Path) -> Result<Vec<Row>, EvalError> {
        let mut rows = self.read(data, &self.files)?;
        if let Some(join) = &self.join {
            self.join(&mut rows, self.read(data, &join.files)?, &join.by)?;
        }
        if let Some(gather) = &self.gather {
            rows = self.gather(rows, gather)?;
        }
        let rows = rows.into_iter();
        let Some(only) = &self.only else { return Ok(rows.collect()) };
        let asked = |row: Row| match value::<bool>(only, &row.fields) {
            Ok(true) => Some(Ok(row)),
            Ok(false) => None,
            Err(what) => Some(Err(self.row_error(&row, what))),
        };
        rows.filter_map(asked).collect()
    }

    /// Gives rows the fields that others have, where these have none of the name.
    fn join(&self, rows: &mut [Row], others: Vec<Row>, by: &str) -> Result<(), EvalError> {
        let mut known: BTreeMap<String, Value> = BTreeMap::new();
        for other in others {
            let key = other.fields.get(by).map(Value::to_string);
            let Some(key) = key else {
                return Err(self.row_error(&other, format!("it has no {by}")));
            };
            if known.insert(key.clone(), other.fields.clone()).is_some() {
                return Err(self.row_error(&other, format!("{by} {key} was there before")));
            }
        }
        for row in rows {
            let other = row.fields.get(by).and_then(|key| known.get(&key.to_string()));
            let Some(Value::Object(other)) = other else {
                let what = format!("no row of {} has its {by}", self.name);
                return Err(self.row_error(row, what));
            };
            if let Value::Object(fields) = &mut row.fields {
                for (name, value) in other {
                    fields.entry(name).or_insert_with(|| value.clone());
                }
            }
        }
        Ok(())
    }

    /// The rows with those that are one made one, where the first of them stands.
    fn gather(&self, rows: Vec<Row>, Gather { by, list }: &Gather) -> Result<Vec<Row>, EvalError> {
        let mut known: BTreeMap<String, usize> = BTreeMap::new();
        let mut all: Vec<Row> = Vec::new();
        for mut row in rows {
            let field = |name: &str| row.fields.get(name).cloned();
            let (Some(key), Some(own)) = (field(by), field(list)) else {
                return Err(self.row_error(&row, format!("it has no {by} or no {list}")));
            };
            let at = *known.entry(key.to_string()).or_insert(all.len());
            match all.get_mut(at).and_then(|first| first.fields[list].as_array_mut()) {
                Some(others) => others.push(own),
                None => {
                    row.fields[list] = Value::Array(vec![own]);
                    all.push(row);
                }
            }
        }
        Ok(all)
    }

    /// The rows that examples come from; `None` where these are the task's own.
    pub fn shot_rows(&self, data: &Path) -> Result<Option<Vec<Row>>, EvalError> {
        if !self.shots.row.is_empty() {
            let rows = self.shots.row.iter().zip(1..);
            let own = |(fields, number): (&Value, u64)| {
                let path = PathBuf::from(format!("{}.toml", self.name));
                Row { path, number, fields: fields.clone() }
            };
            return Ok(Some(rows.map(own).collect()));
        }
        let files = &self.shots.files;
        if files.is_empty() { Ok(None) } else { self.read(data, files).map(Some) }
    }

    fn read(&self, data: &Path, files: &[String]) -> Result<Vec<Row>, EvalError> {
        let found = files.iter().map(|pattern| find(data, pattern)).find(|found| !found.is_empty());
        let Some(found) = found else {
            let (task, files) = (self.name.clone(), files.to_vec());
            return Err(EvalError::NoRows { task, files, folder: data.to_owned() });
        };
        let mut rows = Vec::new();
        for path in found {
            let mut number = 0;
            for record in objects(&InputFile::new(&path)?)? {
                let (record, fields) = record?;
                let within = match &self.each {
                    None => Ok(vec![fields]),
                    Some(each) => within(fields, each),
                };
                let wrong = |what| {
                    let fields = Value::Null;
                    self.row_error(&Row { path: path.clone(), number: record, fields }, what)
                };
                for mut fields in within.map_err(wrong)? {
                    number = if self.each.is_some() { number + 1 } else { record };
                    if let Some(fields) = fields.as_object_mut() {
                        fields.entry("file").or_insert_with(|| stem(&path).into());
                    }
                    rows.push(Row { path: path.clone(), number, fields });
                }
            }
        }
        Ok(rows)
    }
}

/// The rows that lie in a record.
fn within(record: Value, each: &Each) -> Result<Vec<Value>, String> {
    let mut all = vec![record];
    for (name, level) in each.lists.iter().zip(1..) {
        let before = each.before.as_ref().filter(|_| level == each.lists.len());
        let mut inner = Vec::new();
        for mut outer in all {
            let list = outer.as_object_mut().and_then(|fields| fields.remove(name));
            match list {
                None => inner.push(outer),
                Some(Value::Array(list)) => elements(&outer, &list, name, before, &mut inner)?,
                Some(other) => return Err(format!("{name} is {other}, no list")),
            }
        }
        all = inner;
    }
    Ok(all)
}

/// The elements of a list as rows, with the fields of what holds it.
fn elements(
    outer: &Value,
    list: &[Value],
    name: &str,
    before: Option<&String>,
    rows: &mut Vec<Value>,
) -> Result<(), String> {
    for (at, element) in list.iter().enumerate() {
        let (Value::Object(mut fields), Value::Object(own)) = (outer.clone(), element) else {
            return Err(format!("{name} has {element}, no object"));
        };
        fields.extend(own.clone());
        if let Some(before) = before {
            fields.insert(before.clone(), Value::Array(list[..at].to_vec()));
        }
        rows.push(Value::Object(fields));
    }
    Ok(())
}

/// A file's name before its first dot.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// The files below `folder` that a pattern names, in the order of their names.
fn find(folder: &Path, pattern: &str) -> Vec<PathBuf> {
    if Path::new(pattern).is_absolute() {
        return vec![PathBuf::from(pattern)].into_iter().filter(|path| path.is_file()).collect();
    }
    let mut found = vec![folder.to_owned()];
    for part in pattern.split('/') {
        let entries = |folder: &PathBuf| {
            let mut names: Vec<_> = std::fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| {
                    path.file_name().is_some_and(|name| matches(part, &name.to_string_lossy()))
                })
                .collect();
            names.sort();
            names
        };
        found = found.iter().flat_map(entries).collect();
    }
    found.retain(|path| path.is_file());
    found
}

/// Whether a name is what the pattern says, `*` standing for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len())
                .filter(|&at| rest.is_char_boundary(at))
                .any(|at| matches(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn task(more: &str) -> Task {
        let page = format!(
            "name = \"t\"\nversion = 1\nabout = \"\"\ncitation = \"\"\nfiles = [\"t*\"]\nscorer = \"f1\"\nmetric = \"f1\"\nwrite = {{ until = [], max_tokens = 1 }}\n{more}\n[[form]]\nhas = [\"q\"]\nreference = \"a\"\n"
        );
        Task::parse(&page, "t").unwrap()
    }

    fn rows(more: &str, text: &str) -> Result<Vec<Row>, EvalError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("t.json"), text).unwrap();
        task(more).rows(folder.path())
    }

    #[test]
    fn rows_that_lie_in_lists_have_the_fields_around_them_and_what_stands_before() {
        let each = "each = { lists = [\"data\", \"turns\"], before = \"past\" }";
        let text = r#"{"data": [{"id": 1, "turns": [{"q": "a"}, {"q": "b", "id": 2}]}], "v": 3}"#;
        let lines = format!("{text}\n{{\"q\": \"c\"}}\n");
        let made = rows(each, &lines).unwrap();
        let of = |i: usize| (made[i].number, made[i].fields.clone());
        assert_eq!(of(0), (1, json!({ "v": 3, "id": 1, "q": "a", "past": [], "file": "t" })));
        let past = json!([{ "q": "a" }]);
        assert_eq!(of(1), (2, json!({ "v": 3, "id": 2, "q": "b", "past": past, "file": "t" })));
        assert_eq!(of(2), (3, json!({ "q": "c", "file": "t" })));
        let error = rows(each, r#"{"data": 1}"#).unwrap_err().to_string();
        assert!(error.contains("row 1") && error.contains("no list"), "{error}");
        assert!(rows(each, r#"{"data": [[]]}"#).unwrap_err().to_string().contains("no object"));
    }

    #[test]
    fn rows_of_one_question_are_one() {
        let gather = "gather = { by = \"id\", list = \"a\" }";
        let text = r#"[{"id": 1, "a": "x", "q": 1}, {"id": 2, "a": "y"}, {"id": 1, "a": "z"}]"#;
        let made = rows(gather, text).unwrap();
        assert_eq!(made.len(), 2);
        assert_eq!(made[0].fields, json!({ "id": 1, "a": ["x", "z"], "q": 1, "file": "t" }));
        assert_eq!(made[1].fields["a"], json!(["y"]));
        assert!(rows(gather, r#"[{"id": 1}]"#).unwrap_err().to_string().contains("no a"));
    }

    #[test]
    fn names_match_patterns() {
        assert!(matches("test*", "test.jsonl.zst") && matches("a*b*c", "axxbyyc"));
        assert!(!matches("test", "test.jsonl") && !matches("a*b", "ac") && matches("*", ""));
    }
}
