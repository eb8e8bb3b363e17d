//! The text of a JSON line and what is said of it, without keeping the other fields.

use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor};

use super::Labelled;
use crate::Fault;

/// The text under `field` of the object that `line` is, and its labels; the last one where a field
/// stands twice, as in Python.
pub(super) fn labelled(line: &[u8], field: &str) -> Result<Labelled, Fault> {
    let not_json = |e: serde_json::Error| Fault::NotJson { reason: e.to_string() };
    if let Err(e) = std::str::from_utf8(line) {
        return Err(Fault::NotUtf8 { at: e.valid_up_to() });
    }
    let mut reader = serde_json::Deserializer::from_slice(line);
    let found = Object { field }.deserialize(&mut reader).map_err(not_json)?;
    reader.end().map_err(not_json)?;
    let text = match found.text {
        Found::Text(text) => text,
        Found::Other => return Err(Fault::NotText { field: field.to_owned() }),
        Found::Nothing => return Err(Fault::NoField { field: field.to_owned() }),
    };
    let (language, domain) = (found.language.text(), found.domain.text());
    Ok(Labelled { text, language, domain })
}

/// The fields of a line that are kept.
#[derive(Default)]
struct Fields {
    text: Found,
    language: Found,
    domain: Found,
}

#[derive(Default)]
enum Found {
    Text(String),
    Other,
    #[default]
    Nothing,
}

impl Found {
    fn text(self) -> Option<String> {
        match self {
            Found::Text(text) => Some(text),
            Found::Other | Found::Nothing => None,
        }
    }
}

struct Object<'a> {
    field: &'a str,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Fields;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Fields, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut found = Fields::default();
        while let Some(key) = map.next_key_seed(Key { field: self.field })? {
            let place = match key {
                Wanted::Text => &mut found.text,
                Wanted::Language => &mut found.language,
                Wanted::Domain => &mut found.domain,
                Wanted::Nothing => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *place = map.next_value_seed(Text)?;
        }
        Ok(found)
    }
}

/// Which field a key stands for.
enum Wanted {
    Text,
    Language,
    Domain,
    Nothing,
}

struct Key<'a> {
    field: &'a str,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Wanted;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Wanted, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Wanted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Wanted, E> {
        Ok(match key {
            _ if key == self.field => Wanted::Text,
            "lang" | "language" => Wanted::Language,
            "domain" => Wanted::Domain,
            _ => Wanted::Nothing,
        })
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
            assert_eq!(labelled(line.as_bytes(), "text").unwrap().text, "a\"é\n", "{line}");
        }
        let line = br#"{"lang": "de", "domain": 5, "text": "a"}"#;
        let (text, language) = ("a".to_owned(), Some("de".to_owned()));
        assert_eq!(labelled(line, "text").unwrap(), Labelled { text, language, domain: None });
    }

    #[test]
    fn what_is_wrong_is_named() {
        let reason = |line: &[u8]| labelled(line, "text").unwrap_err().reason();
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
