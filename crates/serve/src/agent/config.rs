//! Tools that a file of settings names: servers of the Model Context Protocol, and addresses that are asked with a text.
//!
//! ```toml
//! [mcp.files]
//! command = ["mcp-server-filesystem", "notes"]
//! [mcp.remote]
//! url = "https://example.com/mcp"
//! key_env = "REMOTE_KEY"                   # sent as `Authorization: Bearer ..`
//! [http.brave]
//! about = "Searches the web"
//! url = "https://api.search.brave.com/res/v1/web/search?count=5&q={query}"
//! headers = { X-Subscription-Token = "{key}" }
//! key_env = "BRAVE_KEY"
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use herd_codec::chat::ToolCall;
use serde::Deserialize;
use serde_json::{Value, json};

use super::AgentError;
use super::mcp::Place;
use super::run::Rule;
use super::tools::{Ran, Tool, text_of};

/// What is sent to an address.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The address.
    pub url: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// The body of a POST of JSON; without one it is a GET.
    pub body: Option<String>,
    /// Bytes of the answer at most.
    pub bytes_max: usize,
    /// How long it may take.
    pub patience: Duration,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The status of HTTP.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body; what is not UTF-8 becomes U+FFFD.
    pub body: String,
}

/// Goes online; only the program itself can, and hands this down.
pub type Fetch = Arc<dyn Fn(&Sent) -> Result<Fetched, String> + Send + Sync>;

/// Looks up a variable of the environment.
pub type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A file of tools.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Servers of the Model Context Protocol.
    #[serde(default)]
    pub mcp: BTreeMap<String, McpServer>,
    /// Addresses that are asked with a text.
    #[serde(default)]
    pub http: BTreeMap<String, HttpTool>,
}

/// A server of the Model Context Protocol: a command or a URL.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpServer {
    /// The program and its arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// Variables of its environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Its address.
    pub url: Option<String>,
    /// The variable that holds its key.
    pub key_env: Option<String>,
}

/// An address that is asked by GET.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTool {
    /// What the model is told.
    pub about: String,
    /// The address; `{query}` stands for the text, escaped, and `{key}` for the key.
    pub url: String,
    /// Headers; `{key}` stands for the key.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The variable that holds the key.
    pub key_env: Option<String>,
}

impl Config {
    /// Reads a file's text. Errors: it is no TOML, or has an unknown key.
    pub fn read(text: &str) -> Result<Config, AgentError> {
        toml::from_str(text).map_err(|error| AgentError::Value {
            what: "the file of tools",
            got: error.message().to_owned(),
            expected: "tables [mcp.NAME] and [http.NAME]".to_owned(),
        })
    }

    /// Where the server of this name is. Errors: there is none; it has neither or both of a command and a URL; its key is not there.
    pub fn place(
        &self,
        name: &str,
        fetch: &Fetch,
        variable: Variable<'_>,
    ) -> Result<Place, AgentError> {
        let failed = |why: String| AgentError::Tool { name: format!("mcp:{name}"), why };
        let server = self.mcp.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.mcp.keys().map(String::as_str).collect();
            failed(format!("the file of tools has no [mcp.{name}]; it has {known:?}"))
        })?;
        match (&server.url, server.command.is_empty()) {
            (None, false) => Ok(Place::Program {
                command: server.command.clone(),
                environment: server.env.clone().into_iter().collect(),
            }),
            (Some(url), true) => {
                let key = key(server.key_env.as_deref(), variable).map_err(failed)?;
                let bearer = |key| ("Authorization".to_owned(), format!("Bearer {key}"));
                let headers = key.map(bearer).into_iter().collect();
                Ok(Place::Address { url: url.clone(), headers, fetch: Arc::clone(fetch) })
            }
            _ => Err(failed("either `command` or `url` is wanted".to_owned())),
        }
    }

    /// The tool `[http.NAME]`. It asks before it runs, unless a rule says otherwise: it goes online.
    ///
    /// Errors: there is none of that name; its URL lacks `{query}`; its key is not there.
    pub fn http(
        &self,
        name: &str,
        fetch: &Fetch,
        variable: Variable<'_>,
    ) -> Result<Tool, AgentError> {
        let failed = |why: String| AgentError::Tool { name: format!("http:{name}"), why };
        let known = || failed(format!("the file of tools has no [http.{name}]"));
        let HttpTool { about, url, headers, key_env } = self.http.get(name).ok_or_else(known)?;
        if !url.contains("{query}") {
            return Err(failed("its url lacks {query}".to_owned()));
        }
        let key = key(key_env.as_deref(), variable).map_err(failed)?.unwrap_or_default();
        let headers: Vec<(String, String)> =
            headers.iter().map(|(n, value)| (n.clone(), value.replace("{key}", &key))).collect();
        let (url, fetch) = (url.replace("{key}", &escaped(&key)), Arc::clone(fetch));
        let hand = move |call: &ToolCall| {
            let Some(query) = text_of(call, "query") else {
                return Ran::failed("no query was given");
            };
            let sent = Sent {
                url: url.replace("{query}", &escaped(&query)),
                headers: headers.clone(),
                body: None,
                bytes_max: 4 << 20,
                patience: Duration::from_secs(60),
            };
            match fetch(&sent) {
                Ok(Fetched { status: 200, body, .. }) => Ran::done(shorter(body)),
                Ok(Fetched { status, .. }) => Ran::failed(format!("it answered {status}")),
                Err(why) => Ran::failed(why),
            }
        };
        let schema = json!({
            "type": "object",
            "properties": {"query": {"type": "string"}},
            "required": ["query"],
        });
        Ok(Tool { rule: Rule::Ask, ..Tool::new(name, about, schema, Box::new(hand)) })
    }
}

fn key(name: Option<&str>, variable: Variable<'_>) -> Result<Option<String>, String> {
    let missing = |name: &str| format!("the variable {name} holds no key");
    name.map(|name| variable(name).filter(|key| !key.is_empty()).ok_or_else(|| missing(name)))
        .transpose()
}

/// A text inside a URL: all but letters, digits and `-._~` as `%XX`.
fn escaped(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// JSON without its white space, pages of HTML without their tags.
fn shorter(body: String) -> String {
    if let Ok(value) = serde_json::from_str::<Value>(&body) {
        return value.to_string();
    }
    match body.trim_start().starts_with('<') {
        true => super::xml::html_text(&body),
        false => body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch() -> Fetch {
        Arc::new(|sent: &Sent| {
            let body =
                format!("{{ \"url\": {:?},\n \"headers\": {:?} }}", sent.url, sent.headers[0].1);
            Ok(Fetched { status: 200, headers: vec![], body })
        })
    }

    #[test]
    fn an_address_is_asked_with_the_text_and_the_key() {
        let config = Config::read(
            "[http.web]\nabout = 'x'\nurl = 'https://example.com/?q={query}'\n\
             headers = { T = '{key}' }\nkey_env = 'K'\n",
        )
        .unwrap();
        let tool = config.http("web", &fetch(), &|_| Some("secret".to_owned())).unwrap();
        assert_eq!(tool.rule, Rule::Ask);
        let arguments = [("query".to_owned(), json!("a b&c=\u{e9}"))].into_iter().collect();
        let ran = (tool.hand)(&ToolCall { id: None, name: "web".into(), arguments });
        assert_eq!(
            ran.text,
            r#"{"url":"https://example.com/?q=a%20b%26c%3D%C3%A9","headers":"secret"}"#
        );
        assert!(config.http("web", &fetch(), &|_| None).is_err());
        assert!(config.http("other", &fetch(), &|_| None).is_err());
    }

    #[test]
    fn files_of_tools_with_faults_are_refused() {
        for text in ["[mcp.a]\nurls = 'x'", "[http.a]\nurl = 'x'", "mcp = 3", "["] {
            assert!(Config::read(text).is_err(), "{text}");
        }
        let config = Config::read("[mcp.a]\n[mcp.b]\nurl='x'\nkey_env='K'").unwrap();
        for name in ["a", "b", "c"] {
            assert!(config.place(name, &fetch(), &|_| None).is_err(), "{name}");
        }
    }
}
