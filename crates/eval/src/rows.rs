//! The rows of a task: where they lie, and what becomes of them before they are asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use herd_data::read::{InputFile, objects};
use serde_json::Value;

use crate::error::EvalError;
use crate::task::{Row, Task};
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
            for record in objects(&InputFile::new(&path)?)? {
                let (number, mut fields) = record?;
                if let Some(fields) = fields.as_object_mut() {
                    fields.entry("file").or_insert_with(|| stem(&path).into());
                }
                rows.push(Row { path: path.clone(), number, fields });
            }
        }
        Ok(rows)
    }
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

    #[test]
    fn names_match_patterns() {
        assert!(matches("test*", "test.jsonl.zst") && matches("a*b*c", "axxbyyc"));
        assert!(!matches("test", "test.jsonl") && !matches("a*b", "ac") && matches("*", ""));
    }
}
