//! Search over the user's files: pieces with their places, ranked by words (BM25) and by vectors where a model gives them.

use std::collections::HashMap;
use std::sync::Arc;

use herd_codec::chat::ToolCall;
use serde_json::json;

use super::AgentError;
use super::documents::{self, DocumentError};
use super::tools::{Given, Ran, Tool, text_of};

/// Gives the vector of a text.
pub type Embed = Box<dyn Fn(&str) -> Result<Vec<f32>, AgentError> + Send + Sync>;

/// Characters of a piece: some 250 tokens, so that five fit beside a question.
const PIECE_CHARS: usize = 1000;
/// Characters that a piece shares with the one before it, so that no sentence is cut for both.
const OVERLAP_CHARS: usize = 150;
/// Pieces of an index at most.
const PIECES_MAX: usize = 200_000;
/// Pieces that an answer shows.
const SHOWN: usize = 5;
/// BM25: how soon another occurrence of a word counts less, and how much length counts.
const K1: f64 = 1.2;
const B: f64 = 0.75;
/// Reciprocal rank fusion: 1 / (60 + rank), as its authors have it (Cormack et al., 2009).
const FUSION: f64 = 60.0;

/// A piece of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The file's name.
    pub file: String,
    /// Where in it: `page 3`, `sheet Sales`, and lines.
    pub place: String,
    /// What stands there.
    pub text: String,
}

/// Pieces of files, ready to be searched.
#[derive(Default)]
pub struct Index {
    pieces: Vec<Piece>,
    /// Files that were taken in.
    files: usize,
    /// For each word, the pieces that hold it and how often.
    words: HashMap<String, Vec<(u32, u32)>>,
    /// Words of each piece.
    lengths: Vec<u32>,
    vectors: Vec<Vec<f32>>,
}

impl Index {
    /// Takes a document in. Errors: a file that cannot be read; an index that is full.
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), DocumentError> {
        for part in documents::read(name, bytes)? {
            for (lines, text) in pieces(&part.text) {
                if self.pieces.len() == PIECES_MAX {
                    return Err(DocumentError::TooLarge { most: PIECES_MAX * PIECE_CHARS });
                }
                let place = match part.place.is_empty() {
                    true => lines,
                    false => format!("{}, {lines}", part.place),
                };
                self.push(Piece { file: name.to_owned(), place, text });
            }
        }
        Ok(())
    }

    fn push(&mut self, piece: Piece) {
        let number = self.pieces.len() as u32;
        let mut counts: HashMap<String, u32> = HashMap::new();
        let mut length = 0;
        for word in words(&piece.file).chain(words(&piece.text)) {
            *counts.entry(word).or_default() += 1;
            length += 1;
        }
        for (word, count) in counts {
            self.words.entry(word).or_default().push((number, count));
        }
        self.lengths.push(length);
        self.pieces.push(piece);
    }

    /// Takes the vector of every piece. Errors: a text has none.
    pub fn embed(&mut self, embed: &Embed) -> Result<(), AgentError> {
        let vectors: Result<_, _> = self.pieces.iter().map(|piece| embed(&piece.text)).collect();
        self.vectors = vectors?;
        Ok(())
    }

    /// How many pieces there are.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The best pieces for a question, the best first; `vector` is the question's, where the index has vectors. Equal ones come in
    /// the order in which they were added.
    pub fn find(&self, question: &str, vector: Option<&[f32]>, most: usize) -> Vec<&Piece> {
        let by_words = ranked(&self.by_words(question));
        let by_vector = match vector {
            Some(vector) if self.vectors.len() == self.pieces.len() => {
                let score = |(i, x): (usize, &Vec<f32>)| (i as u32, cosine(x, vector));
                ranked(&self.vectors.iter().enumerate().map(score).collect::<Vec<_>>())
            }
            _ => Vec::new(),
        };
        let mut scores: HashMap<u32, f64> = HashMap::new();
        for ranking in [&by_words, &by_vector] {
            for (rank, piece) in ranking.iter().take(100).enumerate() {
                *scores.entry(*piece).or_default() += 1.0 / (FUSION + rank as f64 + 1.0);
            }
        }
        let best = ranked(&scores.into_iter().collect::<Vec<_>>());
        best.into_iter().take(most).map(|i| &self.pieces[i as usize]).collect()
    }

    /// BM25: sum over words of idf * f (k1 + 1) / (f + k1 (1 - b + b length / mean)).
    fn by_words(&self, question: &str) -> Vec<(u32, f64)> {
        let n = self.pieces.len() as f64;
        let mean = self.lengths.iter().map(|&l| f64::from(l)).sum::<f64>() / n.max(1.0);
        let mut scores: HashMap<u32, f64> = HashMap::new();
        let mut asked: Vec<String> = words(question).collect();
        asked.sort_unstable();
        asked.dedup();
        for word in asked {
            let Some(found) = self.words.get(&word) else { continue };
            let holding = found.len() as f64;
            let idf = (1.0 + (n - holding + 0.5) / (holding + 0.5)).ln();
            for &(piece, count) in found {
                let (f, length) = (f64::from(count), f64::from(self.lengths[piece as usize]));
                let weight = f * (K1 + 1.0) / (f + K1 * (1.0 - B + B * length / mean));
                *scores.entry(piece).or_default() += idf * weight;
            }
        }
        scores.into_iter().collect()
    }
}

/// Pieces by falling score, equal ones by number.
fn ranked(scores: &[(u32, f64)]) -> Vec<u32> {
    let mut scores = scores.to_vec();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scores.into_iter().map(|(piece, _)| piece).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-30)
}

/// Words in small letters; an English plural is found by its singular and the other way round.
fn words(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| {
        let word = word.to_lowercase();
        match word.strip_suffix('s').filter(|stem| stem.len() > 2 && !stem.ends_with('s')) {
            Some(stem) => stem.to_owned(),
            None => word,
        }
    })
}

/// A text in pieces that end where lines end, if they can, with the lines where each stands.
fn pieces(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let (mut start, mut line) = (0, 1);
    loop {
        let rest = &text[start..];
        let most = rest.char_indices().nth(PIECE_CHARS).map_or(rest.len(), |(at, _)| at);
        let end = match most == rest.len() {
            true => most,
            // Not in the first half: pieces would get small where lines are long.
            false => rest[..most].rfind('\n').filter(|at| *at > most / 2).map_or(most, |at| at + 1),
        };
        let piece = &rest[..end];
        let last = line + piece.trim_end().matches('\n').count();
        if !piece.trim().is_empty() {
            let lines = match line == last {
                true => format!("line {line}"),
                false => format!("lines {line}-{last}"),
            };
            out.push((lines, piece.trim_end().to_owned()));
        }
        if end == rest.len() {
            return out;
        }
        let back = piece.char_indices().rev().nth(OVERLAP_CHARS).map_or(0, |(at, _)| at);
        let next = piece[back..].find('\n').map_or(end, |at| back + at + 1).max(1);
        line += rest[..next].matches('\n').count();
        start += next;
    }
}

/// An index of these files, with vectors where `embed` gives them; and a line for each file that cannot be read.
///
/// Errors: a text has no vector.
pub fn index(files: &[Given], embed: Option<&Embed>) -> Result<(Index, Vec<String>), AgentError> {
    let (mut index, mut left_out) = (Index::default(), Vec::new());
    for (name, bytes) in files {
        match index.add(name, bytes) {
            Ok(()) => index.files += 1,
            Err(error) => left_out.push(format!("{name}: {error}")),
        }
    }
    if let Some(embed) = embed {
        index.embed(embed)?;
    }
    Ok((index, left_out))
}

/// The tool `search` over these indexes. Each ranks its own pieces, and their rankings take turns: to fuse rankings that have
/// no piece in common by rank is that. `embed` gives the vector of a question.
pub fn tool(indexes: Vec<Arc<Index>>, embed: Option<Embed>) -> Tool {
    let count = |count: fn(&Index) -> usize| indexes.iter().map(|i| count(i)).sum::<usize>();
    let about = format!(
        "Searches the user's files ({} files, {} pieces) and gives the best places, each with its file, to be cited as [1], [2].",
        count(|index| index.files),
        count(Index::len)
    );
    let schema = json!({
        "type": "object",
        "properties": {"query": {"type": "string", "description": "What to look for"}},
        "required": ["query"],
    });
    let hand = move |call: &ToolCall| {
        let Some(query) = text_of(call, "query") else {
            return Ran::failed("no query was given");
        };
        let vector = match embed.as_ref().map(|embed| embed(&query)).transpose() {
            Ok(vector) => vector,
            Err(error) => return Ran::failed(error.to_string()),
        };
        let find = |index: &Arc<Index>| -> Vec<(usize, Piece)> {
            let found = index.find(&query, vector.as_deref(), SHOWN);
            found.into_iter().cloned().enumerate().collect()
        };
        let mut found: Vec<(usize, Piece)> = indexes.iter().flat_map(find).collect();
        found.sort_by_key(|(rank, _)| *rank);
        if found.is_empty() {
            return Ran::done("nothing was found");
        }
        let show = |(i, (_, piece)): (usize, &(usize, Piece))| {
            format!("[{}] {}, {}\n{}", i + 1, piece.file, piece.place, piece.text)
        };
        Ran::done(found.iter().take(SHOWN).enumerate().map(show).collect::<Vec<_>>().join("\n\n"))
    };
    Tool::new("search", &about, schema, Box::new(hand))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_text_and_overlap() {
        let text: String = (1..=200).map(|i| format!("line number {i} of a file\n")).collect();
        let all = pieces(&text);
        assert!(all.len() > 4);
        for i in 1..=200 {
            let line = format!("line number {i} of");
            assert!(all.iter().any(|(_, piece)| piece.contains(&line)), "{i}");
        }
        for (place, piece) in &all {
            let first = place.trim_start_matches("lines ").split('-').next().unwrap();
            assert!(piece.starts_with(&format!("line number {first} ")), "{place}: {piece:.30}");
            assert!(piece.chars().count() <= PIECE_CHARS);
        }
        let unbroken = "x".repeat(10 * PIECE_CHARS);
        assert_eq!(pieces(&unbroken).len(), 10);
        assert_eq!(pieces(""), []);
    }

    #[test]
    fn rare_words_count_more_and_places_are_told() {
        let mut index = Index::default();
        index.add("a.txt", b"the cat sat on the mat").unwrap();
        index.add("b.txt", b"the dog chased the cats\n\nthe heron stood still").unwrap();
        index
            .add("c.html", b"<h1>Herons</h1><script>cat()</script><p>of the river &amp; lake")
            .unwrap();
        let found = index.find("where is the heron", None, 2);
        assert_eq!(found[0].file, "c.html");
        assert_eq!(found[0].text, "Herons\nof the river & lake");
        assert_eq!((found[1].file.as_str(), found[1].place.as_str()), ("b.txt", "lines 1-3"));
        assert!(index.find("zebra", None, 2).is_empty());
    }

    #[test]
    fn vectors_find_what_words_do_not() {
        let mut index = Index::default();
        index.add("a.txt", b"automobiles").unwrap();
        index.add("b.txt", b"bananas").unwrap();
        let embed: Embed = Box::new(|text: &str| {
            Ok(if text.contains("auto") || text.contains("car") {
                vec![1.0, 0.1]
            } else {
                vec![0.0, 1.0]
            })
        });
        index.embed(&embed).unwrap();
        let vector = embed("car").unwrap();
        assert_eq!(index.find("car", Some(&vector), 1)[0].file, "a.txt");
    }

    #[test]
    fn two_indexes_take_turns() {
        let one = |name: &str, text: &[u8]| {
            Arc::new(index(&[(name.to_owned(), text.to_vec())], None).unwrap().0)
        };
        let tool = tool(vec![one("a.txt", b"cows and calves"), one("b.txt", b"cows")], None);
        let arguments = [("query".to_owned(), json!("cows"))].into_iter().collect();
        let ran = (tool.hand)(&ToolCall { id: None, name: "search".into(), arguments });
        assert_eq!(ran.text, "[1] a.txt, line 1\ncows and calves\n\n[2] b.txt, line 1\ncows");
    }
}
