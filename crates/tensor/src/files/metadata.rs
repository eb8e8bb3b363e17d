//! What a file says about its model besides tensors: an ordered map of typed values.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::FileError;

/// A metadata value. GGUF has all of these; safetensors has strings; a pickle has strings and the
/// widest numbers.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A GGUF array: values of one type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// An ordered map from keys to values, read through typed getters.
///
/// ```
/// use herd_tensor::files::{Metadata, Value};
/// let mut metadata = Metadata::default();
/// metadata.insert("llama.block_count", Value::U32(30));
/// let layers: usize = metadata.get("llama.block_count").unwrap();
/// let rope: Option<f32> = metadata.find("llama.rope.freq_base").unwrap();
/// assert_eq!((layers, rope), (30, None));
/// assert!(metadata.get::<&str>("llama.block_count").is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    path: PathBuf,
    entries: IndexMap<String, Value>,
}

impl Metadata {
    /// An empty map whose errors name `path`.
    pub(super) fn of(path: &Path) -> Metadata {
        Metadata { path: path.to_owned(), entries: IndexMap::new() }
    }

    /// Sets `key`: in its old place if it is there, else at the end. Returns the old value.
    pub fn insert(&mut self, key: impl Into<String>, value: Value) -> Option<Value> {
        self.entries.insert(key.into(), value)
    }

    /// Removes `key` and keeps the order of the rest.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.entries.shift_remove(key)
    }

    /// Adds a key that must be new.
    pub(super) fn insert_new(&mut self, key: String, value: Value) -> Result<(), FileError> {
        match self.entries.contains_key(&key) {
            true => Err(FileError::Duplicate { path: self.path.clone(), name: key }),
            false => {
                self.entries.insert(key, value);
                Ok(())
            }
        }
    }

    /// The raw value.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// Every key and value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value as a `T`: whole numbers of any width that fit, floats of either width, strings,
    /// arrays. Errors: the key is absent, or the value is no `T`.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, FileError> {
        self.find(key)?.ok_or_else(|| self.wrong(key, T::EXPECTED, "absent".to_owned()))
    }

    /// The same, with `None` for an absent key.
    pub fn find<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, FileError> {
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        match T::from_value(value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.wrong(key, T::EXPECTED, value.brief())),
        }
    }

    fn wrong(&self, key: &str, expected: &'static str, got: String) -> FileError {
        FileError::Key { path: self.path.clone(), key: key.to_owned(), expected, got }
    }
}

/// A Rust type that a metadata value can be read as.
pub trait FromValue<'a>: Sized {
    /// What the error says was expected.
    const EXPECTED: &'static str;
    /// The value as this type, or `None`.
    fn from_value(value: &'a Value) -> Option<Self>;
}

impl Value {
    /// The value if it is a whole number of any width.
    fn whole(&self) -> Option<i128> {
        match *self {
            Value::U8(x) => Some(x.into()),
            Value::I8(x) => Some(x.into()),
            Value::U16(x) => Some(x.into()),
            Value::I16(x) => Some(x.into()),
            Value::U32(x) => Some(x.into()),
            Value::I32(x) => Some(x.into()),
            Value::U64(x) => Some(x.into()),
            Value::I64(x) => Some(x.into()),
            Value::F32(_) | Value::F64(_) | Value::Bool(_) => None,
            Value::String(_) | Value::Array(_) => None,
        }
    }

    /// The value in a few words, for an error or a listing.
    pub fn brief(&self) -> String {
        match self {
            Value::String(text) => {
                let head: String = text.chars().take(40).collect();
                let dots = if head.len() < text.len() { "..." } else { "" };
                format!("the string {head:?}{dots}")
            }
            Value::Array(array) => format!("an array of {} {}", array.len(), array.kind()),
            Value::Bool(x) => x.to_string(),
            Value::F32(x) => format!("the float {x}"),
            Value::F64(x) => format!("the float {x}"),
            number => number.whole().map_or_else(String::new, |x| x.to_string()),
        }
    }
}

macro_rules! each_array {
    ($array:expr, $items:ident => $body:expr) => {
        match $array {
            Array::U8($items) => $body,
            Array::I8($items) => $body,
            Array::U16($items) => $body,
            Array::I16($items) => $body,
            Array::U32($items) => $body,
            Array::I32($items) => $body,
            Array::F32($items) => $body,
            Array::Bool($items) => $body,
            Array::String($items) => $body,
            Array::Array($items) => $body,
            Array::U64($items) => $body,
            Array::I64($items) => $body,
            Array::F64($items) => $body,
        }
    };
}

impl Array {
    /// How many values it has.
    pub fn len(&self) -> usize {
        each_array!(self, items => items.len())
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of its values, in GGUF's words.
    pub fn kind(&self) -> &'static str {
        match self {
            Array::U8(_) => "u8",
            Array::I8(_) => "i8",
            Array::U16(_) => "u16",
            Array::I16(_) => "i16",
            Array::U32(_) => "u32",
            Array::I32(_) => "i32",
            Array::F32(_) => "f32",
            Array::Bool(_) => "bool",
            Array::String(_) => "string",
            Array::Array(_) => "array",
            Array::U64(_) => "u64",
            Array::I64(_) => "i64",
            Array::F64(_) => "f64",
        }
    }
}

macro_rules! whole_from_value {
    ($($whole:ident $expected:literal)*) => {
        $(impl FromValue<'_> for $whole {
            const EXPECTED: &'static str = $expected;
            fn from_value(value: &Value) -> Option<Self> {
                value.whole()?.try_into().ok()
            }
        })*
    };
}
whole_from_value! {
    u32 "a whole number below 2^32"
    i32 "a whole number between -2^31 and 2^31"
    u64 "a whole number of at least 0"
    i64 "a whole number"
    usize "a whole number of at least 0"
}

impl FromValue<'_> for f64 {
    const EXPECTED: &'static str = "a float";
    fn from_value(value: &Value) -> Option<f64> {
        match value {
            Value::F32(x) => Some(f64::from(*x)),
            Value::F64(x) => Some(*x),
            _ => None,
        }
    }
}

impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "a float";
    fn from_value(value: &Value) -> Option<f32> {
        f64::from_value(value).map(|x| x as f32)
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "true or false";
    fn from_value(value: &Value) -> Option<bool> {
        match value {
            Value::Bool(x) => Some(*x),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";
    fn from_value(value: &'a Value) -> Option<&'a str> {
        match value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a [String] {
    const EXPECTED: &'static str = "an array of strings";
    fn from_value(value: &'a Value) -> Option<&'a [String]> {
        match value {
            Value::Array(Array::String(items)) => Some(items),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a [f32] {
    const EXPECTED: &'static str = "an array of f32";
    fn from_value(value: &'a Value) -> Option<&'a [f32]> {
        match value {
            Value::Array(Array::F32(items)) => Some(items),
            _ => None,
        }
    }
}

/// An array of whole numbers of any width.
impl FromValue<'_> for Vec<i64> {
    const EXPECTED: &'static str = "an array of whole numbers";
    fn from_value(value: &Value) -> Option<Vec<i64>> {
        fn widen<T: Copy + TryInto<i64>>(items: &[T]) -> Option<Vec<i64>> {
            items.iter().map(|x| (*x).try_into().ok()).collect()
        }
        let Value::Array(array) = value else { return None };
        match array {
            Array::U8(items) => widen(items),
            Array::I8(items) => widen(items),
            Array::U16(items) => widen(items),
            Array::I16(items) => widen(items),
            Array::U32(items) => widen(items),
            Array::I32(items) => widen(items),
            Array::U64(items) => widen(items),
            Array::I64(items) => widen(items),
            Array::F32(_) | Array::F64(_) | Array::Bool(_) => None,
            Array::String(_) | Array::Array(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_cross_widths_only_when_they_fit() {
        let mut metadata = Metadata::of(Path::new("a.gguf"));
        metadata.insert("n", Value::U64(1 << 40));
        metadata.insert("i", Value::I32(-1));
        metadata.insert("x", Value::F32(0.5));
        assert_eq!(metadata.get::<usize>("n").unwrap(), 1 << 40);
        assert_eq!(metadata.get::<f64>("x").unwrap(), 0.5);
        let wrong = |e: FileError| e.to_string();
        assert_eq!(
            wrong(metadata.get::<u32>("n").unwrap_err()),
            "a.gguf: metadata key n is 1099511627776, expected a whole number below 2^32"
        );
        assert_eq!(
            wrong(metadata.get::<u64>("i").unwrap_err()),
            "a.gguf: metadata key i is -1, expected a whole number of at least 0"
        );
        assert_eq!(
            wrong(metadata.get::<&str>("missing").unwrap_err()),
            "a.gguf: metadata key missing is absent, expected a string"
        );
        assert_eq!(
            wrong(metadata.find::<bool>("x").unwrap_err()),
            "a.gguf: metadata key x is the float 0.5, expected true or false"
        );
    }
}
