//! SentencePiece's `tokenizer.model`: the protobuf of Llama 1 and 2.

use super::build::{AlphabetPart, MergeOrder, Parts};
use super::chars::{Prefix, VISIBLE_SPACE};
use super::steps::Splitter;
use super::{AddedToken, Specials, TokenId, TokenKind, Tokenizer};
use crate::CodecError;
use crate::error::shorten;

/// A piece as the file has it.
struct Piece {
    text: String,
    score: f32,
    kind: TokenKind,
}

/// What a `tokenizer.model` holds, as far as it matters here.
struct Model {
    pieces: Vec<Piece>,
    /// TrainerSpec.model_type; 2 is BPE.
    model_type: u64,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    unk: i64,
    bos: i64,
    eos: i64,
    pad: i64,
}

impl Tokenizer {
    /// Reads a SentencePiece BPE model.
    ///
    /// Errors if the protobuf is broken, the model is not BPE, or its normaliser is one that
    /// Llama does not use.
    pub fn from_sentencepiece(file: &[u8]) -> Result<Self, CodecError> {
        let model = read_model(file)?;
        let unsupported = |field: &str, got: &dyn ToString| {
            Err(CodecError::Unsupported { field: field.to_owned(), got: got.to_string() })
        };
        if model.model_type != 2 {
            return unsupported("trainer_spec.model_type", &model.model_type);
        }
        if model.remove_extra_whitespaces {
            return unsupported("normalizer_spec.remove_extra_whitespaces", &true);
        }
        let pieces = model.pieces.iter().map(|piece| (piece.text.as_str(), piece.kind));
        let tokens = tokens(pieces)?;
        let id = |id: i64| {
            u32::try_from(id).ok().filter(|&id| (id as usize) < tokens.len()).map(TokenId)
        };
        let added = added(&model.pieces);
        let named = Specials::by_name(|name| {
            model.pieces.iter().position(|p| p.text == name).map(|at| TokenId(at as u32))
        });
        let specials = Specials {
            unk: id(model.unk),
            bos: id(model.bos),
            eos: id(model.eos),
            pad: id(model.pad),
            ..named
        };
        let prefix = if model.add_dummy_prefix { Prefix::Always } else { Prefix::Never };
        Parts {
            alphabet: AlphabetPart::Chars { prefix, fuse_unk: true },
            order: MergeOrder::Score(model.pieces.iter().map(|piece| piece.score).collect()),
            whole_pieces: false,
            splitter: Splitter::Whole,
            nfc: false,
            added,
            add_bos: specials.bos.is_some(),
            add_eos: false,
            specials,
            tokens,
        }
        .build()
    }
}

/// Control and user-defined pieces. Code Llama's infilling pieces ("▁<PRE>") are control tokens
/// whatever the file says of them: plain text must not produce them.
fn added(pieces: &[Piece]) -> Vec<AddedToken> {
    let numbered = (0..).map(TokenId).zip(pieces);
    numbered
        .filter(|(_, p)| matches!(p.kind, TokenKind::Control | TokenKind::UserDefined))
        .map(|(id, piece)| AddedToken {
            id,
            text: piece.text.clone(),
            special: piece.kind == TokenKind::Control,
            lstrip: false,
            rstrip: false,
            normalized: false,
        })
        .collect()
}

/// Pieces as the bytes they decode to.
///
/// Errors if a byte piece is not `<0x00>` to `<0xFF>`, or a text piece has a plain space, which
/// no text could ever match.
pub(super) fn tokens<'p>(
    pieces: impl Iterator<Item = (&'p str, TokenKind)>,
) -> Result<Vec<(Vec<u8>, TokenKind)>, CodecError> {
    let wrong = |id: usize, expected, text: &str| CodecError::Field {
        field: format!("piece {id}"),
        expected,
        got: shorten(text),
    };
    let mut tokens = Vec::new();
    for (id, (text, kind)) in pieces.enumerate() {
        let bytes = match kind {
            TokenKind::Byte => {
                let byte = byte_piece(text).ok_or_else(|| wrong(id, "<0x00> to <0xFF>", text))?;
                vec![byte]
            }
            TokenKind::Normal if text.contains(' ') => {
                return Err(wrong(id, "a text without plain spaces", text));
            }
            TokenKind::Normal | TokenKind::UserDefined => {
                text.replace(VISIBLE_SPACE, " ").into_bytes()
            }
            TokenKind::Unknown | TokenKind::Control | TokenKind::Unused => text.as_bytes().to_vec(),
        };
        tokens.push((bytes, kind));
    }
    Ok(tokens)
}

/// The byte of `<0x41>`.
pub(super) fn byte_piece(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let hexadecimal = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hexadecimal.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// A field of a protobuf message: a number, or bytes with their offset in the file.
enum Value<'f> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(Reader<'f>),
}

/// A message, or what is left of it.
#[derive(Clone, Copy)]
struct Reader<'f> {
    bytes: &'f [u8],
    /// Offset of `bytes` in the file.
    at: usize,
}

impl<'f> Reader<'f> {
    fn broken(&self, reason: &'static str) -> CodecError {
        CodecError::Protobuf { at: self.at, reason }
    }

    fn take(&mut self, count: usize) -> Result<Reader<'f>, CodecError> {
        if count > self.bytes.len() {
            return Err(self.broken("a field is longer than what is left"));
        }
        let (head, rest) = self.bytes.split_at(count);
        let taken = Reader { bytes: head, at: self.at };
        (self.bytes, self.at) = (rest, self.at + count);
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?.bytes[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.broken("a number has more than ten bytes"))
    }

    /// The next field: its number and value.
    fn field(&mut self) -> Result<Option<(u64, Value<'f>)>, CodecError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let count = self.varint()?;
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                Value::Bytes(self.take(count)?)
            }
            5 => {
                let four = self.take(4)?.bytes;
                Value::Fixed32(u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            }
            _ => return Err(self.broken("a field is of an unknown wire type")),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn text(&self) -> Result<String, CodecError> {
        let text = std::str::from_utf8(self.bytes);
        text.map(str::to_owned).map_err(|_| self.broken("a piece is not UTF-8"))
    }
}

fn read_model(file: &[u8]) -> Result<Model, CodecError> {
    let mut reader = Reader { bytes: file, at: 0 };
    // Defaults of sentencepiece_model.proto.
    let mut model = Model {
        pieces: Vec::new(),
        model_type: 1,
        add_dummy_prefix: true,
        remove_extra_whitespaces: true,
        unk: 0,
        bos: 1,
        eos: 2,
        pad: -1,
    };
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Value::Bytes(message)) => model.pieces.push(read_piece(message)?),
            (2, Value::Bytes(message)) => read_trainer(message, &mut model)?,
            (3, Value::Bytes(message)) => read_normalizer(message, &mut model)?,
            _ => {} // Self-test data and later additions do not change the ids.
        }
    }
    if model.pieces.is_empty() {
        return Err(reader.broken("there are no pieces"));
    }
    Ok(model)
}

fn read_piece(mut message: Reader<'_>) -> Result<Piece, CodecError> {
    let start = message;
    let mut piece = Piece { text: String::new(), score: 0.0, kind: TokenKind::Normal };
    while let Some((number, value)) = message.field()? {
        match (number, value) {
            (1, Value::Bytes(text)) => piece.text = text.text()?,
            (2, Value::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Value::Varint(kind)) => {
                piece.kind = match kind {
                    1 => TokenKind::Normal,
                    2 => TokenKind::Unknown,
                    3 => TokenKind::Control,
                    4 => TokenKind::UserDefined,
                    5 => TokenKind::Unused,
                    6 => TokenKind::Byte,
                    _ => return Err(start.broken("a piece is of an unknown type")),
                }
            }
            _ => {}
        }
    }
    if piece.text.is_empty() || piece.score.is_nan() {
        return Err(start.broken("a piece has no text or no score"));
    }
    if ["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"].contains(&piece.text.as_str()) {
        piece.kind = TokenKind::Control;
    }
    Ok(piece)
}

fn read_trainer(mut message: Reader<'_>, model: &mut Model) -> Result<(), CodecError> {
    while let Some((number, value)) = message.field()? {
        let Value::Varint(value) = value else { continue };
        match number {
            3 => model.model_type = value,
            40 => model.unk = value as i64,
            41 => model.bos = value as i64,
            42 => model.eos = value as i64,
            43 => model.pad = value as i64,
            _ => {}
        }
    }
    Ok(())
}

fn read_normalizer(mut message: Reader<'_>, model: &mut Model) -> Result<(), CodecError> {
    while let Some((number, value)) = message.field()? {
        match (number, value) {
            (2, Value::Bytes(map)) if !map.bytes.is_empty() => {
                return Err(
                    map.broken("the normaliser rewrites characters, which Llama's does not")
                );
            }
            (3, Value::Varint(value)) => model.add_dummy_prefix = value != 0,
            (4, Value::Varint(value)) => model.remove_extra_whitespaces = value != 0,
            _ => {}
        }
    }
    Ok(())
}
