//! One text field of a JSON line, without keeping the others.

use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor};

use crate::Fault;

/// The text under `field` of the object that `line` is; the last one where it stands twice, as in
/// Python.
pub(super) fn text_field(line: &[u8], field: &str) -> Result<String, Fault> {
    let not_json = |e: serde_json::Error| Fault::NotJson { reason: e.to_string() };
    if let Err(e) = std::str::from_utf8(line) {
        return Err(Fault::NotUtf8 { at: e.valid_up_to() });
    }
    let mut reader = serde_json::Deserializer::from_slice(line);
    let found = Object { field }.deserialize(&mut reader).map_err(not_json)?;
    reader.end().map_err(not_json)?;
    match found {
        Found::Text(text) => Ok(text),
        Found::Other => Err(Fault::NotText { field: field.to_owned() }),
        Found::Nothing => Err(Fault::NoField { field: field.to_owned() }),
    }
}

enum Found {
    Text(String),
    Other,
    Nothing,
}

struct Object<'a> {
    field: &'a str,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Found;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found::Nothing;
        while let Some(wanted) = map.next_key_seed(Key { field: self.field })? {
            match wanted {
                true => found = map.next_value_seed(Text)?,
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// Whether a key is the wanted one.
struct Key<'a> {
    field: &'a str,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.field)
    }
}

/// A text, or that it is none.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Found;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Found, E> {
        Ok(Found::Text(text.to_owned()))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Found::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_found_among_others() {
        for line in [
            r#"{"text": "a\"é\n"}"#,
            r#"{"id": [1, {"text": 2}], "te\u0078t": "a\"\u00e9\n", "x": null} "#,
            r#"{"text": 1, "text": "a\"é\n"}"#,
        ] {
            assert_eq!(text_field(line.as_bytes(), "text").unwrap(), "a\"é\n", "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let reason = |line: &[u8]| text_field(line, "text").unwrap_err().reason();
        assert_eq!(reason(br#"{"id": "text"}"#), "no_field");
        for value in ["1", "-1", "0.5", "null", "true", "[\"a\"]", "{\"text\": \"a\"}"] {
            assert_eq!(reason(format!("{{\"text\": {value}}}").as_bytes()), "not_text");
        }
        for line in ["", "{", "[]", "\"text\"", "{\"text\": \"a\"} x", "{\"text\": \"a}", "nul"] {
            assert_eq!(reason(line.as_bytes()), "not_json", "{line}");
        }
        assert_eq!(reason(br#"{"text": "\ud800"}"#), "not_json");
        assert_eq!(reason(b"{\"text\": \"\xff\"}"), "not_utf8");
        let deep = |field: &str| {
            format!("{{\"{field}\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000))
        };
        assert_eq!(reason(deep("x").as_bytes()), "no_field");
        assert_eq!(reason(deep("text").as_bytes()), "not_text");
    }
}
