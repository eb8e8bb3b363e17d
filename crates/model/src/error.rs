//! What can be wrong with a configuration, a preset name or a tensor name.

/// A configuration that Herd cannot use, with the key and value that offend.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not JSON, or not a JSON object.
    #[error("{file} is not a JSON object: {reason}")]
    Json {
        /// Name of the file, such as `config.json`.
        file: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// A key that the model cannot do without is absent.
    #[error("{file} has no {key}")]
    Missing {
        /// Name of the file or kind of metadata.
        file: &'static str,
        /// The key.
        key: String,
    },
    /// A value has the wrong type.
    #[error("{key} must be {expected}, it is {got}")]
    Type {
        /// The key.
        key: String,
        /// The type in words.
        expected: &'static str,
        /// The value, cut if long.
        got: String,
    },
    /// A value is out of bounds or contradicts another.
    #[error("{key} is {got}; it must be {expected}")]
    Value {
        /// The key or field.
        key: String,
        /// The value, cut if long.
        got: String,
        /// The rule that it breaks.
        expected: String,
    },
    /// The value asks for mathematics that is not Llama's.
    #[error("{key} = {got} is not supported")]
    Unsupported {
        /// The key.
        key: String,
        /// The value, cut if long.
        got: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// No preset or tensor has this name.
    #[error("no {what} is called {name:?}{}", suggest(.nearest.as_deref()))]
    Name {
        /// What was looked for: `preset`, `Hugging Face tensor`, ...
        what: &'static str,
        /// The name, cut if long.
        name: String,
        /// The most similar right name, if one is similar.
        nearest: Option<String>,
    },
}

impl ConfigError {
    /// What to do about the error, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ConfigError::Unsupported { hint, .. } => Some(hint),
            ConfigError::Json { .. }
            | ConfigError::Missing { .. }
            | ConfigError::Type { .. }
            | ConfigError::Value { .. }
            | ConfigError::Name { .. } => None,
        }
    }

    pub(crate) fn value(key: &str, got: impl ToString, expected: impl Into<String>) -> Self {
        ConfigError::Value {
            key: key.into(),
            got: cut(&got.to_string()),
            expected: expected.into(),
        }
    }

    pub(crate) fn kind(key: &str, expected: &'static str, got: impl ToString) -> Self {
        ConfigError::Type { key: key.into(), expected, got: cut(&got.to_string()) }
    }

    pub(crate) fn unsupported(key: &str, got: impl ToString, hint: &'static str) -> Self {
        ConfigError::Unsupported { key: key.into(), got: cut(&got.to_string()), hint }
    }

    pub(crate) fn missing(file: &'static str, key: &str) -> Self {
        ConfigError::Missing { file, key: key.into() }
    }
}

/// The text, shortened so that a hostile value does not fill the screen.
pub(crate) fn cut(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_string(),
    }
}

fn suggest(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean {name:?}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_value_and_cut_it() {
        let error = ConfigError::value("hidden_size", "9".repeat(500), "at most 7");
        let text = error.to_string();
        assert!(text.starts_with("hidden_size is 999") && text.len() < 130, "{text}");
        let error = ConfigError::Name {
            what: "preset",
            name: "lama".into(),
            nearest: Some("llama-7b".into()),
        };
        assert_eq!(error.to_string(), "no preset is called \"lama\"; did you mean \"llama-7b\"?");
    }
}
