//! Whether a benchmark was in what a model learnt from, and what that is worth (arXiv 2407.21783, section 5.1.4).
//!
//! ```text
//! covered(i)   tokens of example i that lie in an n-gram (n = 8) that the training shards hold somewhere in one document
//! ratio(i)     covered(i) / tokens(i);   contaminated: ratio(i) >= T
//! gain(T)      mean of all - mean of the clean = k / n (mean of the contaminated - mean of the clean), k of n contaminated
//! ```
//!
//! The n-grams of the benchmarks are kept as they are, the shards stream past them: memory is that of the benchmarks, and none
//! is taken for another. T is the one of greatest gain over its standard error, and significant if orders of the scores drawn at
//! random have so great a gain at any T less than one time in twenty.

use std::collections::HashMap;

use herd_codec::{TokenId, Tokenizer};
use herd_data::{Corpus, DataError};
use herd_engine::rng::uniform;
use serde::{Deserialize, Serialize};

use crate::item::{Ask, Item};
use crate::stats::Z;
use crate::task::Task;

/// The text of an item by which it is known: the question, and the right answer behind it where there is one.
pub fn text(task: &Task, item: &Item) -> String {
    match &item.ask {
        Ask::Choose { texts, choices, gold } => {
            let of = |all: &[String]| all[if all.len() == 1 { 0 } else { *gold }].clone();
            format!("{}{}{}", bare(&of(texts)), task.delimiter, of(choices))
        }
        Ask::Write { text, reference } => match reference.as_str() {
            Some(answer) => format!("{}{}{answer}", bare(text), task.delimiter),
            None => bare(text).to_owned(),
        },
    }
}

/// A question without the labels that pages put around it ("Question:", a last line "Answer:"): no corpus has them.
fn bare(text: &str) -> &str {
    let label = |word: &str| {
        let name = word.trim().strip_suffix(':').unwrap_or_default();
        (1..=10).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphabetic())
    };
    let mut text = text.trim();
    if let Some((first, rest)) = text.split_once(char::is_whitespace)
        && label(first)
    {
        text = rest.trim_start();
    }
    if let Some((rest, last)) = text.rsplit_once('\n')
        && label(last)
    {
        text = rest.trim_end();
    }
    text
}

/// The examples of benchmarks as ids, and which of their n-grams were seen.
pub struct Watch {
    n: usize,
    examples: Vec<Vec<u32>>,
    /// The n-grams, one behind the other, and whether each was seen.
    grams: Vec<u32>,
    seen: Vec<bool>,
    /// From the hash of an n-gram to the numbers of those that have it; nearly always one.
    by_hash: HashMap<u64, Vec<u32>>,
    /// A bit for each of some values of the hash: most n-grams of a corpus end here.
    sieve: Vec<u64>,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// Documents.
    pub documents: u64,
    /// Tokens.
    pub tokens: u64,
}

/// The factor of the rolling hash; odd, and with bits all over (the golden ratio as 0.64 bits).
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Tokens of a document that are read at once.
const PIECE: usize = 1 << 20;

impl Watch {
    /// Examples by their ids, and n-grams of `n` tokens.
    ///
    /// Panics if `n` is 0, or there are 2^32 n-grams.
    pub fn new(examples: Vec<Vec<u32>>, n: usize) -> Watch {
        assert!(n > 0, "contamination: n-grams of no tokens");
        let mut watch = Watch {
            n,
            examples: Vec::new(),
            grams: Vec::new(),
            seen: Vec::new(),
            by_hash: HashMap::new(),
            sieve: Vec::new(),
        };
        for gram in examples.iter().flat_map(|ids| ids.windows(n)) {
            let hash = gram.iter().fold(0u64, push);
            let same = watch.by_hash.entry(hash).or_default();
            let is = |number: &u32| &watch.grams[*number as usize * n..][..n] == gram;
            if !same.iter().any(is) {
                same.push(u32::try_from(watch.seen.len()).expect("fewer than 2^32 n-grams"));
                watch.grams.extend(gram);
                watch.seen.push(false);
            }
        }
        watch.examples = examples;
        // Sixteen bits for each: one n-gram of the corpus in sixteen is looked up in vain at most.
        watch.sieve = vec![0; (watch.seen.len() * 16).next_power_of_two().max(64) / 64];
        for hash in watch.by_hash.keys() {
            let (word, bit) = place(*hash, watch.sieve.len());
            watch.sieve[word] |= bit;
        }
        watch
    }

    /// The same of texts, cut as the shards were: text alone, without the ids that begin and end documents.
    pub fn of_texts(tokenizer: &Tokenizer, texts: &[String], n: usize) -> Watch {
        let ids =
            |text: &String| tokenizer.encode(text).into_iter().map(|TokenId(id)| id).collect();
        Watch::new(texts.iter().map(ids).collect(), n)
    }

    /// Notes the n-grams of a run of ids that lie in one document.
    pub fn see(&mut self, ids: &[u32]) {
        if ids.len() < self.n {
            return;
        }
        // hash = sum of (id + 1) FACTOR^(places from the end), so that what leaves is one product.
        let first = (1..self.n).fold(1u64, |power, _| power.wrapping_mul(FACTOR));
        let mut hash = ids[..self.n - 1].iter().fold(0u64, push);
        for end in self.n..=ids.len() {
            hash = push(hash, &ids[end - 1]);
            let (word, bit) = place(hash, self.sieve.len());
            if self.sieve[word] & bit != 0 {
                self.look_up(hash, &ids[end - self.n..end]);
            }
            // The oldest id has the greatest power, and leaves before the next one comes.
            let leaves = u64::from(ids[end - self.n]) + 1;
            hash = hash.wrapping_sub(leaves.wrapping_mul(first));
        }
    }

    fn look_up(&mut self, hash: u64, gram: &[u32]) {
        for number in self.by_hash.get(&hash).into_iter().flatten() {
            let at = *number as usize;
            if &self.grams[at * self.n..][..self.n] == gram {
                self.seen[at] = true;
            }
        }
    }

    /// Streams all that there is to train on past the examples; `tell` hears how many tokens are done.
    ///
    /// Errors: a shard cannot be read, or holds what is no token.
    pub fn read(&mut self, corpus: &Corpus, tell: &mut dyn FnMut(u64)) -> Result<Read, DataError> {
        let (mut read, mut ids) = (Read::default(), Vec::new());
        for source in corpus.sources() {
            let documents = &source.train;
            for document in 0..documents.counts().documents {
                let tokens = documents.tokens(document);
                let mut from = 0;
                while from < tokens {
                    let to = tokens.min(from + PIECE);
                    ids.clear();
                    // An n-gram that goes on in the next piece begins in it again.
                    documents.read(document, from.saturating_sub(self.n - 1)..to, &mut ids)?;
                    self.see(&ids);
                    from = to;
                }
                read.documents += 1;
                read.tokens += tokens as u64;
                tell(read.tokens);
            }
        }
        Ok(read)
    }

    /// Of each example the share of its tokens that lie in an n-gram that was seen.
    pub fn ratios(&self) -> Vec<f64> {
        let ratio = |ids: &Vec<u32>| {
            let mut covered = vec![false; ids.len()];
            for (at, gram) in ids.windows(self.n).enumerate() {
                if self.was_seen(gram) {
                    covered[at..at + self.n].fill(true);
                }
            }
            covered.iter().filter(|c| **c).count() as f64 / ids.len().max(1) as f64
        };
        self.examples.iter().map(ratio).collect()
    }

    fn was_seen(&self, gram: &[u32]) -> bool {
        let same = self.by_hash.get(&gram.iter().fold(0, push)).into_iter().flatten();
        let mut same = same.map(|number| *number as usize);
        same.any(|at| &self.grams[at * self.n..][..self.n] == gram && self.seen[at])
    }

    /// Whether each example has fewer tokens than an n-gram: nothing can be said of it.
    pub fn shorts(&self) -> Vec<bool> {
        self.examples.iter().map(|ids| ids.len() < self.n).collect()
    }
}

fn push(hash: u64, id: &u32) -> u64 {
    hash.wrapping_mul(FACTOR).wrapping_add(u64::from(*id) + 1)
}

/// The word and bit of a hash in a sieve of so many words, a power of two.
fn place(hash: u64, words: usize) -> (usize, u64) {
    // The upper bits of a product depend on all of the hash.
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(FACTOR);
    ((mixed >> 32) as usize & (words - 1), 1 << (mixed >> 58))
}

/// What a model gains by what it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // their names in the file say it
pub struct Gain {
    pub all: f64,
    pub clean: f64,
    pub contaminated: f64,
    /// `all - clean`.
    pub gain: f64,
    pub stderr: f64,
    pub ci95: (f64, f64),
}

/// Thresholds that are chosen from.
pub const THRESHOLDS: [f64; 10] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

/// Examples that there must be on either side at least, for an estimate.
const LEAST: usize = 10;

/// What a model gains at a threshold; `None` with fewer than ten examples on either side.
///
/// Panics if there are not as many scores as ratios.
pub fn gain(ratios: &[f64], scores: &[f64], threshold: f64) -> Option<Gain> {
    assert_eq!(ratios.len(), scores.len(), "gain: a score for each ratio");
    let [mut dirty, mut clean] = [Sum::default(); 2];
    for (ratio, score) in ratios.iter().zip(scores) {
        if is_contaminated(*ratio, threshold) { &mut dirty } else { &mut clean }.add(*score);
    }
    of_sums(&dirty, &clean)
}

/// Whether so great a share makes an example one that was seen.
pub fn is_contaminated(ratio: f64, threshold: f64) -> bool {
    ratio >= threshold
}

/// Number, sum and sum of squares.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    n: usize,
    sum: f64,
    squares: f64,
}

impl Sum {
    fn add(&mut self, x: f64) {
        self.n += 1;
        self.sum += x;
        self.squares += x * x;
    }

    fn mean(&self) -> f64 {
        self.sum / self.n as f64
    }

    /// The variance of the mean.
    fn variance(&self) -> f64 {
        let n = self.n as f64;
        (self.squares / n - self.mean() * self.mean()).max(0.0) / n
    }
}

fn of_sums(dirty: &Sum, clean: &Sum) -> Option<Gain> {
    if dirty.n < LEAST || clean.n < LEAST {
        return None;
    }
    let n = (dirty.n + clean.n) as f64;
    let share = dirty.n as f64 / n;
    let stderr = share * (dirty.variance() + clean.variance()).sqrt();
    let all = (dirty.sum + clean.sum) / n;
    let gain = all - clean.mean();
    let ci95 = (gain - Z * stderr, gain + Z * stderr);
    Some(Gain { all, clean: clean.mean(), contaminated: dirty.mean(), gain, stderr, ci95 })
}

/// A threshold, and how it came about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// T.
    pub threshold: f64,
    /// How often orders of the scores at random have a gain as great at any threshold.
    pub p: f64,
}

/// Orders that are drawn.
const ORDERS: u64 = 999;

/// The threshold at which the gain of any of some models is greatest over its standard error; `None` where no threshold has
/// ten examples on either side.
///
/// Panics if a model has not as many scores as there are ratios.
pub fn choose(ratios: &[f64], models: &[Vec<f64>], seed: u64) -> Option<Chosen> {
    choose_by(ratios, models, seed, ORDERS)
}

fn choose_by(ratios: &[f64], models: &[Vec<f64>], seed: u64, orders: u64) -> Option<Chosen> {
    let mut by_ratio: Vec<usize> = (0..ratios.len()).collect();
    by_ratio.sort_by(|a, b| ratios[*b].total_cmp(&ratios[*a]));
    // Of each threshold how many of them, the dirtiest first, are contaminated.
    let cuts = THRESHOLDS.map(|t| by_ratio.partition_point(|at| is_contaminated(ratios[*at], t)));
    let (threshold, greatest) = greatest(&by_ratio, &cuts, models)?;
    let mut as_great = 0;
    let mut order = by_ratio.clone();
    for number in 0..orders {
        for at in (1..order.len()).rev() {
            let other = (uniform(seed, number, at as u64) * (at + 1) as f64) as usize;
            order.swap(at, other);
        }
        as_great += u64::from(self::greatest(&order, &cuts, models)?.1 >= greatest);
    }
    Some(Chosen { threshold, p: (1 + as_great) as f64 / (1 + orders) as f64 })
}

/// The threshold of the greatest gain over its standard error, and that.
fn greatest(order: &[usize], cuts: &[usize], models: &[Vec<f64>]) -> Option<(f64, f64)> {
    let mut best: Option<(f64, f64)> = None;
    for scores in models {
        assert_eq!(order.len(), scores.len(), "choose: a score for each ratio");
        let mut whole = Sum::default();
        order.iter().for_each(|at| whole.add(scores[*at]));
        let (mut dirty, mut read) = (Sum::default(), 0);
        // Cuts ascend with falling thresholds.
        for (threshold, cut) in THRESHOLDS.iter().zip(cuts).rev() {
            order[read..*cut].iter().for_each(|at| dirty.add(scores[*at]));
            read = *cut;
            let clean = Sum {
                n: whole.n - dirty.n,
                sum: whole.sum - dirty.sum,
                squares: whole.squares - dirty.squares,
            };
            let Some(Gain { gain, stderr, .. }) = of_sums(&dirty, &clean) else { continue };
            // Scores that are alike on each side differ beyond doubt: z is infinite.
            let z = if gain == 0.0 { 0.0 } else { gain / stderr };
            if best.is_none_or(|(_, most)| z > most) {
                best = Some((*threshold, z));
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids below 5,000 at (seed, stream).
    fn ids(stream: u64, n: usize) -> Vec<u32> {
        (0..n).map(|at| (uniform(3, stream, at as u64) * 5000.0) as u32).collect()
    }

    #[test]
    fn an_item_is_known_by_its_question_and_answer_without_the_pages_labels() {
        let task = crate::catalogue::find("arc_easy").unwrap();
        let ask = Ask::Choose {
            texts: vec!["Question: Which is hot: ice or fire?\nAnswer:".to_owned()],
            choices: vec!["ice".to_owned(), "fire".to_owned()],
            gold: 1,
        };
        let item = Item {
            number: 0,
            row: 1,
            group: None,
            cluster: None,
            description: String::new(),
            shots: vec![],
            ask,
        };
        assert_eq!(text(&task, &item), "Which is hot: ice or fire? fire");
        assert_eq!(bare("Note that: it is\nso"), "Note that: it is\nso");
        assert_eq!(bare("Question:"), "Question:");
    }

    #[test]
    fn what_was_planted_is_found_wherever_it_lies_and_nothing_else() {
        let examples: Vec<Vec<u32>> = (0..1000).map(|i| ids(i, 12 + i as usize % 60)).collect();
        let mut watch = Watch::new(examples.clone(), 8);
        for (i, example) in examples.iter().enumerate() {
            let mut document = ids(10_000 + i as u64, 400);
            // Every third whole, every other third half of it; the rest is not there.
            let kept = [example.len(), example.len() / 2, 0][i % 3];
            let at = i * 7 % 390;
            document.splice(at..at, example[..kept].iter().copied());
            watch.see(&document);
        }
        for (i, (ratio, example)) in watch.ratios().into_iter().zip(&examples).enumerate() {
            let half = example.len() / 2;
            let expected = [1.0, half as f64 / example.len() as f64, 0.0][i % 3];
            let expected = if i % 3 == 1 && half < 8 { 0.0 } else { expected };
            assert_eq!(ratio, expected, "{i}");
        }
    }

    #[test]
    fn n_grams_end_with_their_document_and_short_examples_are_counted() {
        let mut watch = Watch::new(vec![(0..10).collect(), vec![1, 2], vec![]], 8);
        watch.see(&[0, 1, 2, 3]);
        watch.see(&[4, 5, 6, 7, 8, 9]);
        assert_eq!((watch.ratios(), watch.shorts()), (vec![0.0; 3], vec![false, true, true]));
        watch.see(&(1..9).collect::<Vec<_>>());
        assert_eq!(watch.ratios(), [0.8, 0.0, 0.0]);
    }

    #[test]
    fn n_grams_of_one_hash_are_told_apart() {
        // Hashes are of 64 bits: two n-grams under one key are made by hand.
        let mut watch = Watch::new(vec![vec![1, 2], vec![3, 4]], 2);
        let hashes: Vec<u64> = [[1, 2], [3, 4]].map(|gram| gram.iter().fold(0, push)).to_vec();
        let other = watch.by_hash.remove(&hashes[1]).unwrap();
        watch.by_hash.get_mut(&hashes[0]).unwrap().extend(other);
        watch.see(&[1, 2]);
        assert_eq!(watch.seen, [true, false]);
    }

    /// Scores of some models: right one time in two, and of contaminated examples by so much oftener.
    fn scores(draw: u64, ratios: &[f64], from: f64, by: f64, models: u64) -> Vec<Vec<f64>> {
        let of = |model: u64| {
            let right = |(i, ratio): (usize, &f64)| {
                let share = 0.5 + if *ratio >= from { by } else { 0.0 };
                f64::from(u8::from(uniform(11, draw * 8 + model, i as u64) < share))
            };
            ratios.iter().enumerate().map(right).collect()
        };
        (0..models).map(of).collect()
    }

    #[test]
    fn benchmarks_without_gain_are_flagged_one_time_in_twenty() {
        let ratios: Vec<f64> =
            (0..300).map(|i| (uniform(5, 0, i) * 1.4 - 0.2).clamp(0.0, 1.0)).collect();
        let flagged = (0..600).filter(|draw| {
            let models = scores(*draw, &ratios, 0.5, 0.0, 3);
            choose_by(&ratios, &models, *draw, 199).unwrap().p < 0.05
        });
        // 5 % of 600 is 30, with a standard deviation of 5.3; p is a multiple of 1 / 200, so 4.5 % can be below it.
        let flagged = flagged.count();
        assert!((16..=44).contains(&flagged), "{flagged}");
    }

    #[test]
    fn a_planted_gain_is_found_at_its_threshold_and_the_clean_score_is_that_of_the_clean() {
        let ratios: Vec<f64> = (0..2000).map(|i| uniform(6, 0, i)).collect();
        let models = scores(1, &ratios, 0.6, 0.4, 2);
        let chosen = choose(&ratios, &models, 1).unwrap();
        assert!((chosen.threshold - 0.6).abs() < 0.11 && chosen.p < 0.01, "{chosen:?}");
        let found = gain(&ratios, &models[0], 0.6).unwrap();
        let clean: Vec<f64> =
            ratios.iter().zip(&models[0]).filter(|(r, _)| **r < 0.6).map(|(_, s)| *s).collect();
        assert_eq!(found.clean, clean.iter().sum::<f64>() / clean.len() as f64);
        // 40 % of the examples, 40 points oftener.
        assert!(found.ci95.0 < 0.16 && 0.16 < found.ci95.1, "{found:?}");
        assert!(gain(&ratios, &models[0], 1.5).is_none());
    }

    #[test]
    fn nine_of_ten_and_more_intervals_hold_the_gain() {
        let ratios: Vec<f64> = (0..400).map(|i| uniform(7, 0, i)).collect();
        let dirty = ratios.iter().filter(|ratio| **ratio >= 0.5).count() as f64;
        let truth = 0.2 * dirty / 400.0;
        let held = (0..600).filter(|draw| {
            let models = scores(5000 + draw, &ratios, 0.5, 0.2, 1);
            let (low, high) = gain(&ratios, &models[0], 0.5).unwrap().ci95;
            low <= truth && truth <= high
        });
        // 95 % of 600 is 570, with a standard deviation of 5.3.
        let held = held.count();
        assert!((554..=586).contains(&held), "{held}");
    }
}
