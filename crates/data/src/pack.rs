//! Documents to rows of fixed length.
//!
//! A document with its begin- and end-of-text tokens, d_0 ... d_n, is n predictions: from
//! d_0 ... d_i to d_{i+1}. A row holds `seq_len` predictions (so it is made of pieces of
//! `seq_len + 1` tokens where one document fills it): inputs d_i, targets d_{i+1}. A target never
//! belongs to another document than its input, so none has to be masked. Each token but the first
//! of its document is a target exactly once per epoch; where a document goes on in another row,
//! only what came before in the first row is out of sight.
//!
//! | policy | rows | long documents | padding |
//! |---|---|---|---|
//! | `Cut` | filled to the last place | go on in the next row | the last row alone |
//! | `Whole` | best fit among 64 open ones | split into full rows and a rest, shortened, or left out | the rest |

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

/// How documents fill rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// One behind the other; a document that meets the end of a row goes on in the next.
    Cut,
    /// Each in one row, where it fits one.
    Whole(LongDocuments),
}

/// What becomes of documents that are longer than a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LongDocuments {
    /// They fill rows of their own; the rest is packed like a document.
    Split,
    /// Their beginning fills a row; the rest is left out, and counted. They are dropped where none of
    /// what is left would count.
    Shorten,
    /// They are left out, and counted.
    Drop,
}

/// The tokens that begin and end a document; none where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ends {
    /// In front of every document.
    pub bos: Option<u32>,
    /// Behind every document.
    pub eos: Option<u32>,
}

impl Ends {
    /// How many tokens they are.
    pub fn count(&self) -> u64 {
        u64::from(self.bos.is_some()) + u64::from(self.eos.is_some())
    }
}

/// What packing did with the documents drawn so far. Tokens count begin and end tokens in.
///
/// `tokens` = `kept` + `unpredicted` + `shortened` + those of `dropped` + those still waiting for
/// their row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Documents drawn.
    pub documents: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Tokens that were targets in a row.
    pub kept: u64,
    /// Of those, the ones in another row than the begin of their document, part of whose context
    /// is out of sight.
    pub cut: u64,
    /// First tokens of documents: nothing predicts them.
    pub unpredicted: u64,
    /// Places of rows that hold nothing.
    pub padded: u64,
    /// Tokens behind the row's end of documents that were shortened.
    #[serde(default)]
    pub shortened: u64,
    /// Documents left out, by reason.
    pub dropped: BTreeMap<String, Dropped>,
    /// Targets of each source, in the order of the corpus.
    pub kept_by_source: Vec<u64>,
}

/// Documents left out for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// How many.
    pub documents: u64,
    /// Their tokens.
    pub tokens: u64,
}

/// A part of a document: predictions `from..from + len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Piece {
    pub source: u32,
    pub epoch: u32,
    pub document: u64,
    pub from: u64,
    pub len: u64,
}

impl Piece {
    /// The first `len` predictions, and the others.
    fn split(self, len: u64) -> (Piece, Option<Piece>) {
        assert!(len > 0, "split: nothing is to be taken");
        let rest = Piece { from: self.from + len, len: self.len.saturating_sub(len), ..self };
        (Piece { len: self.len.min(len), ..self }, (rest.len > 0).then_some(rest))
    }

    fn goes_on_as(&self, next: &Piece) -> bool {
        let document = |piece: &Piece| (piece.source, piece.epoch, piece.document);
        document(self) == document(next) && self.from + self.len == next.from
    }
}

/// Pieces that share a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Row {
    pub pieces: Vec<Piece>,
}

impl Row {
    fn filled(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len).sum()
    }

    fn push(&mut self, piece: Piece) {
        match self.pieces.last_mut() {
            Some(last) if last.goes_on_as(&piece) => last.len += piece.len,
            _ => self.pieces.push(piece),
        }
    }
}

/// Rows that are open at once under [`Policy::Whole`].
const OPEN_ROWS: usize = 64;

/// Rows being filled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Packer {
    /// To be placed before any other document.
    queue: VecDeque<Piece>,
    /// Under `Cut` at most one.
    open: Vec<Row>,
}

impl Packer {
    /// Takes back what stands in rows that are not full, for rows of another length.
    pub fn reopen(&mut self) {
        let pieces: Vec<Piece> = self.open.drain(..).flat_map(|row| row.pieces).collect();
        for piece in pieces.into_iter().rev() {
            self.queue.push_front(piece);
        }
    }

    /// The next row of `seq_len` predictions; the last ones may not be full. None when `draw` gives
    /// no more documents and no piece is left.
    pub fn next_row(
        &mut self,
        policy: Policy,
        seq_len: u64,
        ledger: &mut Ledger,
        mut draw: impl FnMut(&mut Ledger) -> Option<Piece>,
    ) -> Option<Row> {
        loop {
            let piece = self.queue.pop_front().or_else(|| draw(ledger));
            let full = match (piece, policy) {
                (None, _) if self.open.is_empty() => return None,
                (None, _) => Some(self.open.remove(0)),
                (Some(piece), Policy::Cut) => self.append(piece, seq_len),
                (Some(piece), Policy::Whole(LongDocuments::Drop))
                    if piece.len > seq_len && piece.from == 0 =>
                {
                    ledger.drop_documents("too_long", piece.len);
                    None
                }
                (Some(piece), Policy::Whole(LongDocuments::Shorten)) if piece.len > seq_len => {
                    ledger.shortened += piece.len - seq_len;
                    self.fit(Piece { len: seq_len, ..piece }, seq_len)
                }
                (Some(piece), Policy::Whole(_)) => self.fit(piece, seq_len),
            };
            if let Some(row) = full {
                ledger.keep(&row, seq_len);
                return Some(row);
            }
        }
    }

    /// `Cut`: as much as fits the open row, the rest in front of the queue.
    fn append(&mut self, piece: Piece, seq_len: u64) -> Option<Row> {
        let mut row = self.open.pop().unwrap_or_default();
        let (now, later) = piece.split(seq_len - row.filled());
        row.push(now);
        later.into_iter().for_each(|piece| self.queue.push_front(piece));
        self.close_if_full(row, seq_len)
    }

    /// `Whole`: the open row with the least room that has enough, the oldest of equals.
    fn fit(&mut self, piece: Piece, seq_len: u64) -> Option<Row> {
        if piece.len >= seq_len {
            let (now, later) = piece.split(seq_len);
            later.into_iter().for_each(|piece| self.queue.push_front(piece));
            return Some(Row { pieces: vec![now] });
        }
        let fits = |row: &&(usize, u64)| row.1 + piece.len <= seq_len;
        let filled: Vec<(usize, u64)> = self.open.iter().map(Row::filled).enumerate().collect();
        // Of equals, max_by_key gives the last: the rows are looked at from the newest.
        if let Some(&(at, _)) = filled.iter().rev().filter(fits).max_by_key(|row| row.1) {
            self.open[at].push(piece);
            let full = self.open[at].filled() == seq_len;
            return full.then(|| self.open.remove(at));
        }
        let fullest = filled.iter().rev().max_by_key(|row| row.1).map(|row| row.0);
        let closed = fullest.filter(|_| filled.len() >= OPEN_ROWS).map(|at| self.open.remove(at));
        self.open.push(Row { pieces: vec![piece] });
        closed
    }

    fn close_if_full(&mut self, row: Row, seq_len: u64) -> Option<Row> {
        if row.filled() == seq_len {
            return Some(row);
        }
        self.open.push(row);
        None
    }
}

impl Ledger {
    /// A document of `tokens` tokens, its ends counted in, was drawn.
    pub(crate) fn draw(&mut self, tokens: u64) {
        self.documents += 1;
        self.tokens += tokens;
        if tokens < 2 {
            let dropped = self.dropped.entry("too_short".to_owned()).or_default();
            dropped.documents += 1;
            dropped.tokens += tokens;
        } else {
            self.unpredicted += 1;
        }
    }

    /// A document of `predictions` was drawn and is left out; its first token with it.
    pub(crate) fn drop_documents(&mut self, reason: &str, predictions: u64) {
        let dropped = self.dropped.entry(reason.to_owned()).or_default();
        dropped.documents += 1;
        dropped.tokens += predictions + 1;
        self.unpredicted -= 1;
    }

    fn keep(&mut self, row: &Row, seq_len: u64) {
        for piece in &row.pieces {
            self.kept += piece.len;
            if piece.from > 0 {
                self.cut += piece.len;
            }
            let source = piece.source as usize;
            if self.kept_by_source.len() <= source {
                self.kept_by_source.resize(source + 1, 0);
            }
            self.kept_by_source[source] += piece.len;
        }
        self.padded += seq_len - row.filled();
    }
}
