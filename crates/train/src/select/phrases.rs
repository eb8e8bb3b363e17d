//! Over-used phrases: those that are listed and those that are found, each in no more than a share of the rows that stay.
//!
//! Of n rows, m have a phrase; so many of them stay, the best first, that m' <= s (n - m + m').

use crate::error::TrainError;
use crate::select::rows::Reader;
use crate::select::{Entry, Summary};
use crate::writer::{between, within};
use herd_data::Hash;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Settings of phrases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhrasesConfig {
    /// Phrases that are over-used anywhere.
    pub list: Vec<String>,
    /// The share of rows that may have one.
    pub share_max: f64,
    /// Words of phrases that are looked for; 0 looks for none.
    pub find_words: usize,
    /// What is in a greater share of rows than this is over-used.
    pub find_share: f64,
}

impl PhrasesConfig {
    pub(super) fn base() -> PhrasesConfig {
        let list = [
            "I'm sorry",
            "I apologize",
            "As an AI",
            "I hope this helps",
            "Certainly!",
            "Great question",
        ];
        let list = list.map(str::to_owned).to_vec();
        PhrasesConfig { list, share_max: 0.02, find_words: 5, find_share: 0.05 }
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        within("phrases.share_max", self.share_max, 0.0, 1.0)?;
        within("phrases.find_share", self.find_share, 0.0, 1.0)?;
        between("phrases.find_words", self.find_words as u64, 0, 100)?;
        match self.list.iter().find(|phrase| words(phrase).is_empty()) {
            Some(phrase) => {
                Err(TrainError::no("phrases.list", format!("{phrase:?}"), "phrases of words"))
            }
            None => Ok(()),
        }
    }
}

/// Words in small letters, without marks around them.
fn words(text: &str) -> Vec<String> {
    let plain = |word: &str| {
        let word = word.trim_matches(|c: char| !c.is_alphanumeric());
        word.replace('\u{2019}', "'").to_lowercase()
    };
    text.split_whitespace().map(plain).filter(|word| !word.is_empty()).collect()
}

/// Drops rows until no phrase is over-used.
pub(super) fn balance(
    config: &PhrasesConfig,
    seed: u64,
    entries: &mut [Entry],
    reader: &mut Reader,
    summary: &mut Summary,
) -> Result<(), TrainError> {
    let listed: Vec<Vec<String>> = config.list.iter().map(|phrase| words(phrase)).collect();
    let mut rows: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let (mut counts, mut texts): (HashMap<u64, u32>, Vec<Vec<String>>) =
        (HashMap::new(), Vec::new());
    for (i, row) in reader.enumerate() {
        let row = row?;
        if entries[i].dropped.is_some() {
            texts.push(Vec::new());
            continue;
        }
        let said: Vec<String> = row.answers().flat_map(|answer| words(&answer)).collect();
        for (phrase, name) in listed.iter().zip(&config.list) {
            if said.windows(phrase.len()).any(|window| window == phrase) {
                rows.entry(name.clone()).or_default().push(i);
            }
        }
        for hash in grams(&said, config.find_words).map(|(hash, _)| hash).collect::<HashSet<_>>() {
            *counts.entry(hash).or_default() += 1;
        }
        texts.push(said);
    }
    let alive = entries.iter().filter(|entry| entry.dropped.is_none()).count();
    let over = |count: u32| count > 1 && f64::from(count) > config.find_share * alive as f64;
    for (i, said) in texts.iter().enumerate() {
        let mut seen = HashSet::new();
        for (hash, gram) in grams(said, config.find_words) {
            if over(counts[&hash]) && seen.insert(hash) {
                rows.entry(gram.join(" ")).or_default().push(i);
            }
        }
    }
    once(&mut rows);
    cut(config, seed, entries, &rows, summary);
    Ok(())
}

/// Each row of a phrase once: it may stand in the list twice, or be found as well.
fn once(rows: &mut BTreeMap<String, Vec<usize>>) {
    for having in rows.values_mut() {
        having.sort_unstable();
        having.dedup();
    }
}

/// All runs of so many words, each with its hash.
fn grams(said: &[String], n: usize) -> impl Iterator<Item = (u64, &[String])> {
    let n_or_one = n.max(1);
    let all = said.windows(n_or_one).filter(move |_| n > 0);
    all.map(|gram| (Hash::of(gram.join(" ").as_bytes()).word(), gram))
}

/// Drops the least of the rows of each phrase, again until no share is too great: rows that fall for one phrase raise the
/// shares of others.
fn cut(
    config: &PhrasesConfig,
    seed: u64,
    entries: &mut [Entry],
    rows: &BTreeMap<String, Vec<usize>>,
    summary: &mut Summary,
) {
    let before: BTreeMap<&String, usize> = rows.iter().map(|(p, rows)| (p, rows.len())).collect();
    loop {
        let mut fell = false;
        for (phrase, having) in rows {
            let alive = entries.iter().filter(|entry| entry.dropped.is_none()).count();
            let mut having: Vec<usize> =
                having.iter().copied().filter(|i| entries[*i].dropped.is_none()).collect();
            let others = (alive - having.len()) as f64;
            let stay = match config.share_max {
                1.0 => having.len(),
                share => (share * others / (1.0 - share) + 1e-9).floor() as usize,
            };
            if having.len() <= stay {
                continue;
            }
            // The best first; of equals those that a draw puts first, so that no part of the input is favoured.
            let drawn =
                |i: &usize| Hash::of(format!("{seed} {phrase} {}", entries[*i].id).as_bytes());
            having.sort_by(|a, b| {
                let (x, y) = (entries[*a].quality, entries[*b].quality);
                y.total_cmp(&x).then(drawn(a).cmp(&drawn(b)))
            });
            for i in having.drain(stay..) {
                entries[i].drop("phrase", phrase.as_str().into());
                fell = true;
            }
        }
        if !fell {
            break;
        }
    }
    for (phrase, having) in rows {
        let after = having.iter().filter(|i| entries[**i].dropped.is_none()).count();
        if after < before[phrase] {
            summary.phrases.push((phrase.clone(), before[phrase] as u64, after as u64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::judge::Marks;

    #[test]
    fn the_share_of_each_phrase_is_cut_and_the_best_rows_stay() {
        let entry = |i: usize| Entry {
            id: i.to_string(),
            marks: Marks::default(),
            reward: None,
            vector: Vec::new(),
            quality: i as f64 / 100.0,
            dropped: None,
        };
        let mut entries: Vec<Entry> = (0..100).map(entry).collect();
        let config = PhrasesConfig { share_max: 0.1, ..PhrasesConfig::base() };
        let rows = [("a", 0..50), ("b", 40..70)].map(|(p, rows)| (p.to_owned(), rows.collect()));
        let mut summary = Summary::default();
        cut(&config, 1, &mut entries, &BTreeMap::from(rows), &mut summary);
        let alive: Vec<usize> = (0..100).filter(|i| entries[*i].dropped.is_none()).collect();
        for range in [0..50, 40..70] {
            let having = alive.iter().filter(|i| range.contains(*i)).count();
            assert!(having * 10 <= alive.len(), "{having} of {}", alive.len());
        }
        assert!(alive.len() >= 30 && alive.contains(&99) && alive.contains(&69));
        assert_eq!(summary.phrases.len(), 2);
    }

    #[test]
    fn a_phrase_that_is_listed_twice_and_found_as_well_counts_once() {
        let mut rows: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        rows.insert("a".to_owned(), vec![0, 1, 2, 0, 1, 2, 2]);
        once(&mut rows);
        assert_eq!(rows["a"], [0, 1, 2]);
    }

    #[test]
    fn words_have_no_marks_and_grams_no_ends() {
        assert_eq!(words("I\u{2019}m sorry, **but** -- no!"), ["i'm", "sorry", "but", "no"]);
        let said = words("a b c d");
        assert_eq!(grams(&said, 3).count(), 2);
        assert_eq!((grams(&said, 0).count(), grams(&said, 9).count()), (0, 0));
    }
}
