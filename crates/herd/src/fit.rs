//! How well vocabularies fit a corpus: by source, by language, by domain.

use std::collections::BTreeMap;

use herd_codec::tokenizer::train::{Split, fold};
use herd_codec::{Compression, TokenId, TokenKind, Tokenizer};
use herd_data::read::Labelled;
use serde_json::{Value, json};

use crate::console::Console;
use crate::error::Error;
use crate::texts::Texts;

/// The measures of one part of a corpus, for each vocabulary in turn.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// One for each vocabulary.
    pub by_tokenizer: Vec<Compression>,
    /// Texts (files of plain text may count as several).
    pub texts: u64,
    /// Texts whose ids differ between the first vocabulary and the last.
    pub changed: u64,
}

/// The measures of a corpus.
#[derive(Clone, Debug, Default)]
pub struct Fit {
    /// All of it.
    pub all: Part,
    /// By the names of the files.
    pub sources: BTreeMap<String, Part>,
    /// By what records say of their language.
    pub languages: BTreeMap<String, Part>,
    /// By what records say of their domain.
    pub domains: BTreeMap<String, Part>,
    /// Whether an id of the last vocabulary occurs.
    used: Vec<bool>,
}

/// Encodes all texts with each of `tokenizers` on `threads` threads.
pub fn measure(texts: &Texts, tokenizers: &[&Tokenizer], threads: usize) -> Result<Fit, Error> {
    let splits: Vec<Split> = tokenizers.iter().map(|tokenizer| Split::of(tokenizer)).collect();
    // Where each of them cuts, all may.
    let last_cut = |text: &[u8]| {
        let cuts = splits.iter().map(|split| split.last_cut(text));
        cuts.reduce(|a, b| a.zip(b).map(|(a, b)| a.min(b))).flatten()
    };
    let parts = fold(
        threads,
        texts.chunks(last_cut),
        || (Fit::default(), vec![Vec::new(); tokenizers.len()]),
        |(fit, ids): &mut (Fit, Vec<Vec<TokenId>>), chunk| {
            let source = texts.source(&chunk);
            texts.each(chunk, |text| {
                fit.add(tokenizers, &text, source, ids);
                Ok(())
            })
        },
    )?;
    let mut fit = Fit::default();
    parts.into_iter().for_each(|(part, _)| fit.absorb(part));
    Ok(fit)
}

impl Fit {
    fn add(
        &mut self,
        tokenizers: &[&Tokenizer],
        text: &Labelled,
        source: &str,
        ids: &mut [Vec<TokenId>],
    ) {
        let mut part = Part { texts: 1, ..Part::default() };
        for (tokenizer, ids) in tokenizers.iter().zip(ids.iter_mut()) {
            let mut compression = Compression::default();
            compression.add(tokenizer, &text.text, ids);
            part.by_tokenizer.push(compression);
        }
        part.changed = u64::from(ids.first() != ids.last());
        for id in ids.last().into_iter().flatten() {
            let id = id.0 as usize;
            if id >= self.used.len() {
                self.used.resize(id + 1, false);
            }
            self.used[id] = true;
        }
        self.all.absorb(&part);
        take_into(&mut self.sources, source, &part);
        for (map, name) in
            [(&mut self.languages, &text.language), (&mut self.domains, &text.domain)]
        {
            if let Some(name) = name {
                take_into(map, name, &part);
            }
        }
    }

    /// Adds the measures of other texts.
    pub fn absorb(&mut self, other: Fit) {
        self.all.absorb(&other.all);
        let maps = [
            (&mut self.sources, other.sources),
            (&mut self.languages, other.languages),
            (&mut self.domains, other.domains),
        ];
        for (map, other) in maps {
            other.iter().for_each(|(name, part)| take_into(map, name, part));
        }
        self.used.resize(self.used.len().max(other.used.len()), false);
        self.used.iter_mut().zip(other.used).for_each(|(used, other)| *used |= other);
    }

    /// Text tokens of the last vocabulary that occur nowhere, of how many.
    pub fn unused(&self, tokenizer: &Tokenizer) -> (usize, usize) {
        let ids = (0..tokenizer.vocab_size() as u32).map(TokenId);
        let text: Vec<_> = ids.filter(|&id| tokenizer.kind(id) == TokenKind::Normal).collect();
        let used = |id: &&TokenId| self.used.get(id.0 as usize) == Some(&true);
        (text.len() - text.iter().filter(used).count(), text.len())
    }

    /// Sources, languages and domains with `json` of each; the last two where they are known.
    pub fn json(&self, json: fn(&Part) -> Value) -> Value {
        let map = |map: &BTreeMap<String, Part>| -> Value {
            map.iter().map(|(name, part)| (name.clone(), json(part))).collect()
        };
        let mut value = json!({ "all": json(&self.all), "sources": map(&self.sources) });
        for (name, parts) in [("languages", &self.languages), ("domains", &self.domains)] {
            if !parts.is_empty() {
                value[name] = map(parts);
            }
        }
        value
    }

    /// Prints a row for each source, language and domain, and for all.
    pub fn print(
        &self,
        console: &Console,
        head: &[&str],
        row: fn(&Part) -> Vec<String>,
    ) -> Result<(), Error> {
        let head = std::iter::once("").chain(head.iter().copied());
        let mut rows = vec![head.map(str::to_owned).collect::<Vec<_>>()];
        let mut push = |name: String, part: &Part| {
            rows.push(std::iter::once(name).chain(row(part)).collect());
        };
        for (kind, parts) in
            [("", &self.sources), ("language ", &self.languages), ("domain ", &self.domains)]
        {
            parts.iter().for_each(|(name, part)| push(format!("{kind}{name}"), part));
        }
        push("all".to_owned(), &self.all);
        console.print_table(&rows)
    }
}

impl Part {
    fn absorb(&mut self, other: &Self) {
        let length = self.by_tokenizer.len().max(other.by_tokenizer.len());
        self.by_tokenizer.resize(length, Compression::default());
        self.by_tokenizer.iter_mut().zip(&other.by_tokenizer).for_each(|(all, one)| *all += *one);
        self.texts += other.texts;
        self.changed += other.changed;
    }

    /// The measure under the first vocabulary.
    pub fn first(&self) -> Compression {
        self.by_tokenizer.first().copied().unwrap_or_default()
    }

    /// The measure under the last vocabulary.
    pub fn last(&self) -> Compression {
        self.by_tokenizer.last().copied().unwrap_or_default()
    }
}

fn take_into(map: &mut BTreeMap<String, Part>, name: &str, part: &Part) {
    match map.get_mut(name) {
        Some(all) => all.absorb(part),
        None => {
            map.insert(name.to_owned(), part.clone());
        }
    }
}
