//! What was said: messages, tool calls and tool definitions, in the JSON shape of OpenAI's API.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The one who sets the rules.
    System,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
    /// A tool's result; Llama 3 writes this role as `ipython`.
    #[serde(alias = "ipython")]
    Tool,
}

impl Role {
    /// The name in JSON and in most templates.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// A piece of content. Blocks are encoded one by one, as Meta's code does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Block {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// The place of an image; its pixels travel beside the text.
    Image {
        /// Where the pixels are: a path or a data URL. Renderers do not look.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        url: Option<String>,
    },
}

/// What ends an assistant's message: the whole turn, or one step of it before a tool answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndOf {
    /// `<|eot_id|>`: the floor is free.
    #[default]
    Turn,
    /// `<|eom_id|>`: the assistant goes on after the tool's result.
    Message,
}

/// One call of a tool by the assistant.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Ties the result to the call; no format of the family writes it.
    pub id: Option<String>,
    /// The tool's name; `brave_search`, `wolfram_alpha`, `photogen` and `code_interpreter` are
    /// built in.
    pub name: String,
    /// Arguments by name, in the order given.
    pub arguments: Map<String, Value>,
}

/// One message of a dialogue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; in JSON a string, null, or a list of blocks.
    #[serde(default, deserialize_with = "content_in", serialize_with = "content_out")]
    pub content: Vec<Block>,
    /// Calls that the assistant makes.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "calls_in")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The speaker's or tool's name; no native format writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How an assistant's message ends (Herd's own key, `"turn"` if absent).
    #[serde(default, skip_serializing_if = "is_turn")]
    pub end: EndOf,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: Role, text: impl Into<String>) -> Message {
        let content = vec![Block::Text { text: text.into() }];
        let (tool_calls, tool_call_id, name) = (Vec::new(), None, None);
        Message { role, content, tool_calls, tool_call_id, name, end: EndOf::Turn }
    }

    /// All text of the content, one block after the other.
    pub fn text(&self) -> String {
        let texts = self.content.iter().map(|block| match block {
            Block::Text { text } => text.as_str(),
            Block::Image { .. } => "",
        });
        texts.collect()
    }

    /// Whether the content holds an image.
    pub fn has_image(&self) -> bool {
        self.content.iter().any(|block| matches!(block, Block::Image { .. }))
    }
}

/// A tool offered to the model: a JSON object kept as given, in its order.
///
/// Either OpenAI's `{"type":"function","function":{"name",..}}` or the inner object alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ToolDefinition(Map<String, Value>);

impl ToolDefinition {
    /// The object as given.
    pub fn json(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The tool's name.
    pub fn name(&self) -> &str {
        let function = self.0.get("function").and_then(Value::as_object).unwrap_or(&self.0);
        function.get("name").and_then(Value::as_str).expect("checked when it was read")
    }
}

impl<'de> Deserialize<'de> for ToolDefinition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Map::deserialize(deserializer)?;
        let function = json.get("function").and_then(Value::as_object).unwrap_or(&json);
        if !function.get("name").is_some_and(Value::is_string) {
            return Err(serde::de::Error::custom("a tool definition has no name"));
        }
        Ok(ToolDefinition(json))
    }
}

/// A dialogue and the tools it may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dialogue {
    /// The messages in order.
    pub messages: Vec<Message>,
    /// Tools defined by the caller; an empty list is no list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolDefinition>,
    /// Built-in tools of Llama 3.1 by name; `Some` turns its ipython mode on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builtin_tools: Option<Vec<String>>,
}

impl From<Vec<Message>> for Dialogue {
    fn from(messages: Vec<Message>) -> Dialogue {
        Dialogue { messages, tools: Vec::new(), builtin_tools: None }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireCall {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", default)]
    kind: WireKind,
    function: WireFunction,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WireKind {
    #[default]
    Function,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireFunction {
    name: String,
    arguments: Value,
}

impl Serialize for ToolCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let arguments =
            serde_json::to_string(&self.arguments).map_err(serde::ser::Error::custom)?;
        let function =
            WireFunction { name: self.name.clone(), arguments: Value::String(arguments) };
        WireCall { id: self.id.clone(), kind: WireKind::Function, function }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ToolCall {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let WireCall { id, kind: WireKind::Function, function } =
            WireCall::deserialize(deserializer)?;
        let arguments = match function.arguments {
            Value::Object(arguments) => arguments,
            Value::String(json) => serde_json::from_str(&json).map_err(|error| {
                serde::de::Error::custom(format!("arguments of {}: {error}", function.name))
            })?,
            other => {
                let name = function.name;
                let message = format!("arguments of {name} are {other}, not an object");
                return Err(serde::de::Error::custom(message));
            }
        };
        Ok(ToolCall { id, name: function.name, arguments })
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireContent {
    Text(String),
    Blocks(Vec<Block>),
}

fn content_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Block>, D::Error> {
    Ok(match Option::<WireContent>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(WireContent::Text(text)) => vec![Block::Text { text }],
        Some(WireContent::Blocks(blocks)) => blocks,
    })
}

fn content_out<S: Serializer>(content: &[Block], serializer: S) -> Result<S::Ok, S::Error> {
    match content {
        [] => serializer.serialize_none(),
        [Block::Text { text }] => serializer.serialize_str(text),
        blocks => blocks.serialize(serializer),
    }
}

fn calls_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ToolCall>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn is_turn(end: &EndOf) -> bool {
    *end == EndOf::Turn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openai_json_reads_and_writes_back() {
        let json = r#"{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"b\":1,\"a\":[2.5]}"}}]}"#;
        let message: Message = serde_json::from_str(json).unwrap();
        assert_eq!(message.tool_calls[0].arguments.keys().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(serde_json::to_string(&message).unwrap(), json);
    }

    #[test]
    fn arguments_may_be_an_object_and_nothing_else_but_text() {
        let with = |arguments: &str| {
            let json = format!(r#"{{"function":{{"name":"f","arguments":{arguments}}}}}"#);
            serde_json::from_str::<ToolCall>(&json)
        };
        assert_eq!(with(r#"{"x":1}"#).unwrap().arguments["x"], 1);
        assert!(with("3").unwrap_err().to_string().contains("3, not an object"));
        assert!(with(r#""[1]""#).is_err());
    }

    #[test]
    fn unknown_roles_keys_and_nameless_tools_are_errors() {
        assert!(serde_json::from_str::<Message>(r#"{"role":"root","content":"x"}"#).is_err());
        assert!(serde_json::from_str::<Message>(r#"{"role":"user","contents":"x"}"#).is_err());
        assert!(serde_json::from_str::<ToolDefinition>(r#"{"type":"function"}"#).is_err());
        let tool: Message = serde_json::from_str(r#"{"role":"ipython","content":"x"}"#).unwrap();
        assert_eq!(tool.role, Role::Tool);
    }
}
