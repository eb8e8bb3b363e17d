//! Which splitter a file asks for, and patterns without hand-written code.

use fancy_regex::{Regex, RegexBuilder};

use super::split::{self, GPT2, LLAMA3, QWEN2};
use super::unicode::{Class, class_at};
use crate::CodecError;
use crate::error::shorten;

/// How a text is cut into pieces before merging.
#[derive(Debug, Clone)]
pub(super) enum Splitter {
    Llama3,
    Qwen2,
    Gpt2,
    Gpt2SingleDigits,
    /// At each space after a word: SentencePiece, where this changes no id.
    SpacesThenWord,
    /// Not at all.
    Whole,
    Steps(Steps),
}

/// What becomes of the text a pattern matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// A piece of its own.
    Isolated,
    /// One piece with neighbouring matches.
    Contiguous,
    /// The end of the piece before.
    WithPrevious,
    /// The start of the piece after.
    WithNext,
}

/// One pass over the pieces of the pass before.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Pattern {
        regex: Box<Regex>,
        behaviour: Behaviour,
    },
    /// Runs of numbers, or each number, apart from the rest.
    Digits {
        single: bool,
    },
    Llama3,
    Qwen2,
    Gpt2,
}

/// Passes in order.
#[derive(Debug, Clone)]
pub(super) struct Steps(Vec<Step>);

/// Steps of backtracking in one match; a text that needs more makes the pattern give up.
const BACKTRACK_MAX: usize = 1_000_000;
/// Largest compiled automaton of one pattern.
const REGEX_BYTES_MAX: usize = 1 << 23;
/// Longest pattern and deepest nesting: published ones have 800 bytes and three levels, and the
/// engine's parser descends once for each level.
const PATTERN_BYTES_MAX: usize = 8192;
const PATTERN_DEPTH_MAX: usize = 50;
/// Most passes; published files have six.
pub(super) const STEPS_MAX: usize = 16;

impl Step {
    /// A pass with a pattern; those with hand-written code are known by their text.
    ///
    /// Errors if the pattern is too long or deep, or the engine refuses it.
    pub(super) fn pattern(pattern: &str, behaviour: Behaviour) -> Result<Self, CodecError> {
        match pattern {
            LLAMA3 if behaviour == Behaviour::Isolated => return Ok(Self::Llama3),
            QWEN2 if behaviour == Behaviour::Isolated => return Ok(Self::Qwen2),
            GPT2 if behaviour == Behaviour::Isolated => return Ok(Self::Gpt2),
            _ => {}
        }
        check_size("a split pattern's length in bytes", pattern.len(), PATTERN_BYTES_MAX)?;
        check_size("a split pattern's nesting", nesting(pattern), PATTERN_DEPTH_MAX)?;
        let regex = RegexBuilder::new(pattern)
            .backtrack_limit(BACKTRACK_MAX)
            .delegate_size_limit(REGEX_BYTES_MAX)
            .delegate_dfa_size_limit(REGEX_BYTES_MAX)
            .build()
            .map_err(|error| CodecError::Pattern {
                pattern: shorten(pattern),
                reason: error.to_string(),
            })?;
        Ok(Self::Pattern { regex: Box::new(regex), behaviour })
    }
}

impl Splitter {
    /// The splitter for passes as a file lists them; known ones run as hand-written code.
    pub(super) fn of(steps: Vec<Step>) -> Self {
        match &steps[..] {
            [] => Self::Whole,
            [Step::Llama3] => Self::Llama3,
            [Step::Qwen2] => Self::Qwen2,
            [Step::Gpt2] => Self::Gpt2,
            [Step::Digits { single: true }, Step::Gpt2] => Self::Gpt2SingleDigits,
            _ => Self::Steps(Steps(steps)),
        }
    }

    /// The splitter by the name that GGUF files give it in `tokenizer.ggml.pre`.
    ///
    /// Errors if the name is unknown: a wrong split would give wrong ids in silence.
    pub(super) fn named(pre: &str) -> Result<Self, CodecError> {
        let isolated = |patterns: &[&str]| -> Result<Self, CodecError> {
            let step = |pattern: &&str| Step::pattern(pattern, Behaviour::Isolated);
            Ok(Self::Steps(Steps(patterns.iter().map(step).collect::<Result<_, _>>()?)))
        };
        match pre {
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "falcon-h1" | "pixtral"
            | "midm-2.0" | "lfm2" | "dbrx" | "smaug-bpe" => Ok(Self::Llama3),
            "qwen2" | "deepseek-r1-qwen" | "stablelm2" => Ok(Self::Qwen2),
            "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "gigachat" | "mellum"
            | "a.x-4.0" => Ok(Self::Gpt2),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone"
            | "minerva-7b" => Ok(Self::Gpt2SingleDigits),
            "deepseek-llm" => isolated(&DEEPSEEK_LLM),
            "deepseek-coder" => isolated(&DEEPSEEK_CODER),
            "falcon" => isolated(&FALCON),
            "tekken" => isolated(&[TEKKEN]),
            "default" => isolated(&DEFAULT),
            _ => Err(CodecError::Unsupported {
                field: "tokenizer.ggml.pre".to_owned(),
                got: shorten(pre),
            }),
        }
    }

    /// The name in GGUF files, where there is one.
    pub(super) fn gguf_name(&self) -> Option<&'static str> {
        match self {
            Self::Llama3 => Some("llama-bpe"),
            Self::Qwen2 => Some("qwen2"),
            Self::Gpt2 => Some("gpt-2"),
            Self::Gpt2SingleDigits => Some("smollm"),
            Self::SpacesThenWord | Self::Whole => Some("default"),
            Self::Steps(steps) => {
                let names = ["deepseek-llm", "deepseek-coder", "falcon", "tekken", "default"];
                names.into_iter().find(|name| match Self::named(name) {
                    Ok(Self::Steps(named)) => named.same(steps),
                    _ => false,
                })
            }
        }
    }
}

impl Steps {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Step> {
        self.0.iter()
    }

    fn same(&self, other: &Self) -> bool {
        format!("{:?}", self.0) == format!("{:?}", other.0)
    }

    /// The ends of all pieces. Where a pattern gives up, its pass leaves the rest uncut.
    pub(super) fn ends(&self, text: &[u8]) -> Vec<usize> {
        let mut ends = Vec::new();
        self.cut(text, &mut ends);
        ends
    }

    /// [`ends`](Self::ends), or an error if a pattern gives up on `text`.
    pub(super) fn try_ends(&self, text: &[u8]) -> Result<Vec<usize>, CodecError> {
        let mut ends = Vec::new();
        match self.cut(text, &mut ends) {
            Some(error) => Err(error),
            None => Ok(ends),
        }
    }
}

/// A pass under way: pieces of valid text, and lone bytes that are no text.
type Pieces = Vec<(usize, usize)>;

impl Steps {
    /// Appends the ends of all pieces; gives the error of the last pass that gave up.
    fn cut(&self, text: &[u8], ends: &mut Vec<usize>) -> Option<CodecError> {
        let mut gave_up = None;
        let mut at = 0;
        for chunk in text.utf8_chunks() {
            let valid = chunk.valid();
            let mut pieces: Pieces = vec![(0, valid.len())];
            for step in &self.0 {
                let mut finer = Pieces::with_capacity(pieces.len() * 2);
                for &(from, to) in &pieces {
                    let error = step.cut(&valid[from..to], from, &mut finer).err();
                    gave_up = error.or(gave_up);
                }
                pieces = finer;
            }
            ends.extend(pieces.iter().map(|&(_, to)| at + to));
            at += valid.len();
            for _ in chunk.invalid() {
                at += 1;
                ends.push(at);
            }
        }
        gave_up
    }
}

impl Step {
    /// Cuts `text`, which begins at `offset`, into pieces.
    fn cut(&self, text: &str, offset: usize, pieces: &mut Pieces) -> Result<(), CodecError> {
        let mut done = 0;
        match self {
            Self::Pattern { regex, behaviour } => {
                return cut_by_pattern(regex, *behaviour, text, offset, pieces);
            }
            Self::Digits { single } => {
                while done < text.len() {
                    let (class, mut end) = class_at(text.as_bytes(), done);
                    end += done;
                    while end < text.len() {
                        let (next, bytes) = class_at(text.as_bytes(), end);
                        let number = class == Class::Number;
                        if number != (next == Class::Number) || number && *single {
                            break;
                        }
                        end += bytes;
                    }
                    pieces.push((offset + done, offset + end));
                    done = end;
                }
            }
            Self::Llama3 => cut_by_hand(split::llama3::<3>, text, offset, pieces),
            Self::Qwen2 => cut_by_hand(split::llama3::<1>, text, offset, pieces),
            Self::Gpt2 => cut_by_hand(split::gpt2, text, offset, pieces),
        }
        Ok(())
    }
}

fn cut_by_hand(
    piece_end: impl Fn(&[u8], usize) -> usize,
    text: &str,
    offset: usize,
    pieces: &mut Pieces,
) {
    let mut done = 0;
    while done < text.len() {
        let end = piece_end(text.as_bytes(), done);
        pieces.push((offset + done, offset + end));
        done = end;
    }
}

/// Errors if `got` is over `limit`.
pub(super) fn check_size(what: &'static str, got: usize, limit: usize) -> Result<(), CodecError> {
    if got > limit { Err(CodecError::TooLarge { what, got, limit }) } else { Ok(()) }
}

/// How deep groups and classes of a pattern nest, at most; escapes are counted as if they nested.
fn nesting(pattern: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in pattern.bytes() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn cut_by_pattern(
    regex: &Regex,
    behaviour: Behaviour,
    text: &str,
    offset: usize,
    pieces: &mut Pieces,
) -> Result<(), CodecError> {
    // Gaps and matches in order, each with whether it matched.
    let mut parts: Vec<(usize, usize, bool)> = Vec::new();
    let (mut done, mut result) = (0, Ok(()));
    for found in regex.find_iter(text) {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                let (pattern, reason) = (shorten(regex.as_str()), error.to_string());
                result = Err(CodecError::Backtrack { pattern, reason });
                break;
            }
        };
        if found.start() > done {
            parts.push((done, found.start(), false));
        }
        if found.end() > found.start() {
            parts.push((found.start(), found.end(), true));
        }
        done = found.end();
    }
    if done < text.len() {
        parts.push((done, text.len(), false));
    }
    let mut before = None; // whether the part before matched
    for (from, to, matched) in parts {
        let joins = match behaviour {
            Behaviour::Isolated => false,
            Behaviour::Contiguous => before == Some(matched),
            Behaviour::WithPrevious => matched && before == Some(false),
            Behaviour::WithNext => !matched && before == Some(true),
        };
        match pieces.last_mut().filter(|_| joins) {
            Some(last) => last.1 = offset + to,
            None => pieces.push((offset + from, offset + to)),
        }
        before = Some(matched);
    }
    result
}

/// llama.cpp's own split for files that name none.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"];
/// The patterns of Falcon.
const FALCON: [&str; 3] = [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"];
/// The pattern of Mistral's Tekken vocabularies.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The patterns of DeepSeek LLM: letters of bicameral scripts, punctuation, Han and Hangul, numbers.
const DEEPSEEK_LLM: [&str; 6] = [
    r"[\r\n]",
    concat!(
        r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-",
        r"\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}",
        r"\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}",
        r"\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}",
        r"\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-",
        r"\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}",
        r"\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-",
        r"\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}",
        r"-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}",
        r"\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}",
        r"\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-",
        r"\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-",
        r"\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}",
        r"-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}",
        r"\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+",
    ),
    r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
    r"\s+$",
    r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+",
    r"\p{N}+",
];
/// The patterns of DeepSeek Coder.
const DEEPSEEK_CODER: [&str; 5] = [
    r"[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+",
    r"\p{N}",
];
