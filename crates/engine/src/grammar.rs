//! Answers of a given form: JSON Schema, a regular expression, a grammar, one of some texts.
//!
//! `llguidance` says which tokens may follow; the sampler chooses among these alone, so that an answer that ends by a stop
//! token has the form. Where it cannot say so within its limits the answer fails: no token is ever let through unchecked.

use herd_codec::{TokenId, TokenKind, Tokenizer};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{
    ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokRxInfo, TokTrie,
};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;

/// What an answer must look like.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// JSON that the schema admits. What the schema language has and this does not know is refused, never ignored.
    JsonSchema(Value),
    /// A JSON object of any kind.
    JsonObject,
    /// Text that the regular expression (Rust's syntax) matches from start to end.
    Regex(String),
    /// Text that the grammar derives, in the Lark dialect of `llguidance`.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Calls of these functions.
    Call {
        /// The functions.
        functions: Vec<Function>,
        /// Whether words may stand before the calls or instead of them: any text but a brace and a quotation mark behind
        /// it, by which JSON begins.
        words: bool,
        /// Whether more calls may follow the first, a semicolon or a line break between them.
        many: bool,
    },
}

/// How a call of a function is written: its arguments as JSON between two texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// What stands before the arguments.
    pub before: String,
    /// The schema of the arguments, which are an object.
    pub arguments: Value,
    /// What stands behind them.
    pub after: String,
}

/// Why a form is not one, or why an answer cannot be held to it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(String);

/// Makes grammars for one tokenizer.
pub struct Grammars {
    factory: ParserFactory,
    /// Stands in masks for every token that ends an answer.
    end: u32,
    /// Tokens that are no text.
    control: Arc<SimpleVob>,
}

/// A form that is ready to be followed; clones share what was compiled.
#[derive(Clone)]
pub struct Grammar {
    start: Matcher,
    end: u32,
    control: Arc<SimpleVob>,
    form: Arc<Form>,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grammar").field(&self.form).finish()
    }
}

/// One answer on its way through a form.
pub(crate) struct Walk {
    matcher: Matcher,
    mask: SimpleVob,
    end: u32,
    control: Arc<SimpleVob>,
}

impl Grammars {
    /// For a tokenizer and a model with logits for `vocab` tokens; takes some tenths of a second for 128,256.
    ///
    /// Panics if the vocabulary is empty.
    pub fn new(tokenizer: &Tokenizer, vocab: usize) -> Grammars {
        assert!(vocab > 0, "grammars: an empty vocabulary");
        // A place after the model's tokens, which no answer can hold.
        let end = vocab as u32;
        let words: Vec<Vec<u8>> = (0..=end).map(|id| word(tokenizer, TokenId(id))).collect();
        let trie = TokTrie::from(&TokRxInfo::new(end + 1, end), &words);
        let tokens = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&(tokens as _), InferenceCapabilities::default(), &slices)
                .expect("the slices are those of the library");
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        let mut control = SimpleVob::alloc(words.len());
        let marked = |word: &Vec<u8>| word.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER);
        for (id, _) in words.iter().enumerate().filter(|(_, word)| marked(word)) {
            control.set(id, true);
        }
        Grammars { factory, end, control: Arc::new(control) }
    }

    /// Makes a form ready.
    ///
    /// Errors: what cannot be compiled, with the reason and what it is about.
    pub fn compile(&self, form: Form) -> Result<Grammar, GrammarError> {
        let grammar = match &form {
            Form::JsonSchema(schema) => schema_grammar(schema.clone())?,
            Form::JsonObject => schema_grammar(json!({ "type": "object" }))?,
            Form::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Form::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
            Form::Choice(texts) => TopLevelGrammar::from_lark(choice(texts)?),
            Form::Call { functions, words, many } => {
                TopLevelGrammar::from_lark(calls(functions, *words, *many)?)
            }
        };
        let parser = self.factory.create_parser(grammar).map_err(told)?;
        let mut start = Matcher::new(Ok(parser));
        match start.get_error() {
            Some(error) => Err(GrammarError(error)),
            None => {
                // A form that no text has shows itself at its first token.
                start.compute_mask().map_err(told)?;
                let control = self.control.clone();
                Ok(Grammar { start, end: self.end, control, form: Arc::new(form) })
            }
        }
    }
}

/// A token's bytes as the trie wants them: marked if it is no text, so that no text reaches it.
///
/// No text holds the marker's byte, and none of a form needs a token as long as `LONGEST`.
fn word(tokenizer: &Tokenizer, id: TokenId) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    let text = match tokenizer.kind(id) {
        TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte => true,
        TokenKind::Control | TokenKind::Unknown | TokenKind::Unused => false,
    };
    if text && bytes.len() < LONGEST && bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
        return bytes.to_vec();
    }
    let name = format!("<|herd {id}|>");
    [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
}

/// Bytes of a token that is left out of forms.
const LONGEST: usize = 128;

/// Spaces between the parts of JSON: none, one, or a line and what indents the next, as llama.cpp has it. A model that would
/// write spaces for ever is held to the form's next part.
const SPACES: &str = r"[ ]|\n[ \t]{0,20}";

fn schema_grammar(schema: Value) -> Result<TopLevelGrammar, GrammarError> {
    Ok(TopLevelGrammar::from_json_schema(spaced(schema)?))
}

/// A schema with the spaces that JSON may have here.
fn spaced(mut schema: Value) -> Result<Value, GrammarError> {
    match &mut schema {
        Value::Object(map) => {
            if map.contains_key("x-guidance") {
                return Err(GrammarError("`x-guidance` is not part of a schema here".into()));
            }
            map.insert("x-guidance".into(), json!({ "whitespace_pattern": SPACES }));
        }
        Value::Bool(_) => {}
        other => return Err(GrammarError(format!("a schema is an object, not {other}"))),
    }
    Ok(schema)
}

/// In words a brace stands only where what follows it shows that it begins no JSON.
const WORDS: &str = r#"words: (PLAIN | BRACE)*
PLAIN: /[^{]+/
BRACE: /\{+[ \t\r\n]*[^{" \t\r\n]/
"#;

fn calls(functions: &[Function], words: bool, many: bool) -> Result<String, GrammarError> {
    if functions.is_empty() {
        return Err(GrammarError("there is nothing to call".into()));
    }
    let mut lark = match words {
        true => format!("start: words calls?\n{WORDS}"),
        false => "start: calls\n".to_owned(),
    };
    lark += match many {
        true => "calls: call (NEXT call)*\nNEXT: /;[ ]?|\\n/\n",
        false => "calls: call\n",
    };
    let names: Vec<String> = (0..functions.len()).map(|i| format!("call_{i}")).collect();
    lark += &format!("call: {}\n", names.join(" | "));
    for (name, Function { before, arguments, after }) in names.iter().zip(functions) {
        let Value::Object(mut schema) = spaced(arguments.clone())? else {
            return Err(GrammarError(format!("a function takes an object, not {arguments}")));
        };
        match schema.get("type").and_then(Value::as_str) {
            Some("object") => {}
            None if !schema.contains_key("type") => {
                drop(schema.insert("type".into(), "object".into()))
            }
            Some(_) | None => {
                let kind = &schema["type"];
                return Err(GrammarError(format!("a function takes an object, not {kind}")));
            }
        }
        let (before, after) = (quoted(before), quoted(after));
        lark += &format!("{name}: {before} %json {} {after}\n", Value::Object(schema));
    }
    Ok(lark)
}

/// A text as a literal of Lark; none for an empty one.
fn quoted(text: &str) -> String {
    if text.is_empty() { String::new() } else { Value::from(text).to_string() }
}

fn choice(texts: &[String]) -> Result<String, GrammarError> {
    if texts.is_empty() {
        return Err(GrammarError("there is nothing to choose from".into()));
    }
    let texts: Vec<String> =
        texts.iter().map(|text| Value::from(text.as_str()).to_string()).collect();
    Ok(format!("start: {}", texts.join(" | ")))
}

fn told(error: impl fmt::Display) -> GrammarError {
    GrammarError(format!("{error:#}"))
}

impl Grammar {
    /// The form.
    pub fn form(&self) -> &Form {
        &self.form
    }

    pub(crate) fn walk(&self) -> Walk {
        let (matcher, control) = (self.start.clone(), self.control.clone());
        Walk { matcher, mask: SimpleVob::new(), end: self.end, control }
    }
}

impl Walk {
    /// Bit `id` of word `id / 32`: whether token `id` may come next, those of `stops` if the text may end here.
    pub(crate) fn allowed(&mut self, stops: &[u32]) -> Result<&[u32], GrammarError> {
        self.mask = self.matcher.compute_mask().map_err(told)?;
        let ends = self.mask.is_allowed(self.end);
        self.mask.sub(&self.control);
        for &stop in stops {
            self.mask.set(stop as usize, ends);
        }
        Ok(self.mask.as_slice())
    }

    /// Goes on by a token that was allowed and ends nothing; whether the form is complete and allows nothing more.
    pub(crate) fn go_on(&mut self, id: u32) -> Result<bool, GrammarError> {
        self.matcher.consume_token(id).map_err(told)?;
        Ok(self.matcher.is_stopped())
    }
}
