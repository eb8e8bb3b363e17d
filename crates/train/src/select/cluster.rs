//! Duplicates in meaning: vectors in clusters, and in each the best rows that are not too close to a better one.
//!
//! With unit vectors e, a row falls if it has a better one j in its cluster with e_i . e_j >= `cosine_max`; better is greater
//! quality x difficulty, then more intentions, then first in the input.

use crate::error::TrainError;
use crate::select::Entry;
use crate::writer::{between, within};
use herd_engine::rng::uniform;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::PathBuf;

/// Settings of deduplication.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DedupConfig {
    /// A checkpoint whose last hidden states are averaged over a dialogue; of an endpoint the name of its model.
    pub model: PathBuf,
    /// The address of an endpoint that gives vectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The variable of the environment that holds the endpoint's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
    /// Tokens of a dialogue that a checkpoint reads at most.
    pub tokens_max: usize,
    /// Clusters; 0 takes the root of the number of rows.
    pub clusters: usize,
    /// Rounds of k-means at most.
    pub rounds: usize,
    /// Rows as close as this are duplicates.
    pub cosine_max: f64,
    /// Whether the mean of all vectors is taken off, where they are more than two: those of a language model mostly point one way.
    pub centre: bool,
}

impl DedupConfig {
    pub(super) fn base() -> DedupConfig {
        DedupConfig {
            model: PathBuf::new(),
            base_url: None,
            key_env: None,
            tokens_max: 512,
            clusters: 0,
            rounds: 20,
            cosine_max: 0.9,
            centre: true,
        }
    }

    pub(super) fn check(&self) -> Result<(), TrainError> {
        if self.model.as_os_str().is_empty() {
            return Err(TrainError::no("dedup.model", "\"\"", "a checkpoint that gives vectors"));
        }
        if let Some(url) = &self.base_url
            && !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
        {
            return Err(TrainError::no("dedup.base_url", url, "an address of http or https"));
        }
        between("dedup.tokens_max", self.tokens_max as u64, 2, 1 << 20)?;
        between("dedup.clusters", self.clusters as u64, 0, 1 << 20)?;
        between("dedup.rounds", self.rounds as u64, 0, 10_000)?;
        within("dedup.cosine_max", self.cosine_max, -1.0, 1.0)
    }
}

/// Rows whose mean says nothing: without it two point away from each other, whatever they are.
const PAIR: usize = 2;

/// Drops duplicates; the clusters that were looked through.
///
/// Errors: vectors of several lengths, as a broken endpoint gives them.
pub(super) fn dedup(
    config: &DedupConfig,
    seed: u64,
    entries: &mut [Entry],
) -> Result<u64, TrainError> {
    let mut alive: Vec<usize> = (0..entries.len()).collect();
    alive.retain(|i| entries[*i].dropped.is_none() && !entries[*i].vector.is_empty());
    let mut vectors: Vec<Vec<f64>> =
        alive.iter().map(|i| entries[*i].vector.iter().map(|x| f64::from(*x)).collect()).collect();
    let Some(width) = vectors.first().map(Vec::len) else { return Ok(0) };
    if let Some(other) = vectors.iter().map(Vec::len).find(|len| *len != width) {
        let value = format!("vectors of {width} and of {other} numbers");
        return Err(TrainError::no("dedup.model", value, "one length"));
    }
    if config.centre && vectors.len() > PAIR {
        centre(&mut vectors);
    }
    vectors.iter_mut().for_each(|vector| unit(vector));
    let wanted = match config.clusters {
        0 if alive.len() <= PAIR => 1, // two clusters would hold one row each
        0 => (alive.len() as f64).sqrt().ceil() as usize,
        n => n,
    };
    let places = k_means(&vectors, wanted.clamp(1, alive.len()), config.rounds, seed);
    let clusters = places.iter().max().map_or(0, |last| last + 1);
    for cluster in 0..clusters {
        let mut rows: Vec<usize> = (0..alive.len()).filter(|i| places[*i] == cluster).collect();
        let worth = |i: &usize| {
            let entry = &entries[alive[*i]];
            let difficulty = f64::from(entry.marks.difficulty.unwrap_or(1));
            (entry.quality * difficulty, entry.marks.intentions.len())
        };
        rows.sort_by(|a, b| {
            let (a, b) = (worth(a), worth(b));
            b.0.total_cmp(&a.0).then(b.1.cmp(&a.1))
        });
        let mut kept: Vec<usize> = Vec::new();
        for i in rows {
            let vector = |i: usize| &entries[alive[i]].vector;
            // What is the same is so wherever the mean lies: of copies alone nothing is left to be compared.
            let near = |j: &usize| match vector(i) == vector(*j) {
                true => (1.0, *j),
                false => (dot(&vectors[i], &vectors[*j]), *j),
            };
            let closest = kept.iter().map(near).max_by(|a, b| a.0.total_cmp(&b.0));
            match closest.filter(|(cosine, _)| *cosine >= config.cosine_max) {
                Some((cosine, j)) => {
                    let what = json!({ "of": entries[alive[j]].id, "cosine": cosine });
                    entries[alive[i]].drop("duplicate", what);
                }
                None => kept.push(i),
            }
        }
    }
    Ok(clusters as u64)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Takes off the mean of all.
fn centre(vectors: &mut [Vec<f64>]) {
    let mut mean = vec![0.0; vectors.first().map_or(0, Vec::len)];
    for vector in vectors.iter() {
        mean.iter_mut().zip(vector).for_each(|(m, x)| *m += x);
    }
    let count = vectors.len() as f64;
    for vector in vectors {
        vector.iter_mut().zip(&mean).for_each(|(x, m)| *x -= m / count);
    }
}

/// Length 1; nothing stays nothing.
fn unit(vector: &mut [f64]) {
    let length = dot(vector, vector).sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
}

/// The cluster of each unit vector, numbered as they first appear. Seeded by k-means++; ties go to the lower number.
fn k_means(vectors: &[Vec<f64>], k: usize, rounds: usize, seed: u64) -> Vec<usize> {
    let mut centres = first(vectors, k, seed);
    let mut places = assign(vectors, &centres);
    for _ in 0..rounds {
        for (c, centre) in centres.iter_mut().enumerate() {
            let mut sum = vec![0.0; centre.len()];
            for (vector, _) in vectors.iter().zip(&places).filter(|(_, place)| **place == c) {
                sum.iter_mut().zip(vector).for_each(|(s, x)| *s += x);
            }
            unit(&mut sum);
            if sum.iter().any(|x| *x != 0.0) {
                *centre = sum; // one that nobody is near stays where it is
            }
        }
        let next = assign(vectors, &centres);
        if next == places {
            break;
        }
        places = next;
    }
    let mut names: Vec<usize> = Vec::new();
    let number = |place: usize| match names.iter().position(|name| *name == place) {
        Some(at) => at,
        None => {
            names.push(place);
            names.len() - 1
        }
    };
    places.into_iter().map(number).collect()
}

fn assign(vectors: &[Vec<f64>], centres: &[Vec<f64>]) -> Vec<usize> {
    let nearest = |vector: &Vec<f64>| {
        let mut best = (f64::NEG_INFINITY, 0);
        for (c, centre) in centres.iter().enumerate() {
            let cosine = dot(vector, centre);
            if cosine > best.0 {
                best = (cosine, c);
            }
        }
        best.1
    };
    vectors.iter().map(nearest).collect()
}

/// First centres: each drawn with a chance that grows with its distance from those before.
fn first(vectors: &[Vec<f64>], k: usize, seed: u64) -> Vec<Vec<f64>> {
    let drawn = |n: u64| uniform(seed, 0, n);
    let mut centres = vec![vectors[(drawn(0) * vectors.len() as f64) as usize].clone()];
    let mut far: Vec<f64> = vec![f64::INFINITY; vectors.len()];
    while centres.len() < k {
        let last = &centres[centres.len() - 1];
        for (far, vector) in far.iter_mut().zip(vectors) {
            *far = far.min((1.0 - dot(vector, last)).max(0.0));
        }
        let total: f64 = far.iter().sum();
        if total <= 0.0 {
            break; // all stand on a centre
        }
        let mut left = drawn(centres.len() as u64) * total;
        let at = far.iter().position(|far| {
            left -= far;
            left < 0.0 && *far > 0.0
        });
        let at = at.or_else(|| far.iter().rposition(|far| *far > 0.0));
        centres.push(vectors[at.expect("their sum is more than nothing")].clone());
    }
    centres
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::judge::Marks;

    fn entry(id: &str, vector: &[f32], quality: f64, difficulty: u32) -> Entry {
        let marks = Marks { difficulty: Some(difficulty), ..Marks::default() };
        let (id, vector) = (id.to_owned(), vector.to_vec());
        Entry { id, marks, reward: None, vector, quality, dropped: None }
    }

    #[test]
    fn of_rows_that_are_close_the_best_stays() {
        let config = DedupConfig { clusters: 2, centre: false, ..DedupConfig::base() };
        let mut entries = vec![
            entry("a", &[1.0, 0.01], 0.5, 1),
            entry("b", &[1.0, 0.0], 0.5, 2),
            entry("c", &[0.0, 1.0], 0.1, 1),
            entry("d", &[0.0, 2.0], 0.1, 1),
            entry("e", &[-1.0, 0.0], 0.1, 1),
            entry("f", &[0.0, 0.0], 0.1, 1),
        ];
        dedup(&config, 3, &mut entries).unwrap();
        let fallen: Vec<&str> =
            entries.iter().filter(|e| e.dropped.is_some()).map(|e| e.id.as_str()).collect();
        assert_eq!(fallen, ["a", "d"]);
        assert_eq!(entries[0].dropped.as_ref().unwrap().1["of"], "b");
        let mut entries = [entry("a", &[1.0], 0.5, 1), entry("b", &[1.0, 0.0], 0.5, 1)];
        let error = dedup(&config, 3, &mut entries).unwrap_err().to_string();
        assert!(error.contains("of 1 and of 2"), "{error}");
    }

    #[test]
    fn copies_fall_whatever_the_mean_of_all_is() {
        let fallen = |vectors: &[[f32; 2]]| {
            let mut entries: Vec<Entry> =
                vectors.iter().map(|vector| entry("a", vector, 0.5, 1)).collect();
            dedup(&DedupConfig::base(), 3, &mut entries).unwrap();
            entries.iter().filter(|entry| entry.dropped.is_some()).count()
        };
        for n in 2..=5 {
            assert_eq!(fallen(&vec![[0.3, 0.4]; n]), n - 1, "{n} copies alone");
        }
        assert_eq!(fallen(&[[1.0, 0.0], [1.0, 0.01]]), 1);
        assert_eq!(fallen(&[[1.0, 0.0], [0.0, 1.0]]), 0);
        // Without their mean the first two are alike and the others are not.
        assert_eq!(fallen(&[[9.0, 1.0], [9.0, 1.01], [9.0, -2.0], [8.0, 0.0]]), 1);
    }

    #[test]
    fn clusters_are_found_and_are_the_same_each_time() {
        let group = |x: f64, y: f64| {
            (0..20).map(move |i| vec![x + 0.01 * f64::from(i), y - 0.01 * f64::from(i)])
        };
        let mut vectors: Vec<Vec<f64>> =
            group(1.0, 0.0).chain(group(-1.0, 0.2)).chain(group(0.0, 1.0)).collect();
        vectors.iter_mut().for_each(|vector| unit(vector));
        for seed in 0..5 {
            let places = k_means(&vectors, 3, 50, seed);
            assert_eq!(places, k_means(&vectors, 3, 50, seed));
            assert!(places.chunks(20).all(|group| group.iter().all(|p| *p == group[0])), "{seed}");
        }
        let same = vec![vec![1.0, 0.0]; 4];
        assert_eq!(k_means(&same, 3, 5, 1), [0; 4]);
    }
}
