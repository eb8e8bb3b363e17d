//! Which document comes next: sources by weight, documents of a source in shuffled order, epoch
//! after epoch.
//!
//! With weights w and n_s tokens taken of source s since its phase began, the next document is of
//! the source with the least n_s / w_s, the first of equals. So after every document the shares of
//! the sources are as near to the weights as documents allow. Document i of epoch e of a source is
//! `permute(i)` under the key (seed, name of the source, e): any place of the order is computed
//! from its number alone, and adding a source moves no document of another.

use serde::{Deserialize, Serialize};

use crate::shuffle::{join, permute};
use crate::{DataError, Hash};

/// A part of a mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixSource {
    /// A source of the corpus.
    pub name: String,
    /// Its share of the tokens, relative to those of the others; not below 0.
    pub weight: f64,
    /// How often its documents may come at most; the last epoch may be a part of one. No limit
    /// where nothing is said.
    #[serde(default)]
    pub epochs_max: Option<f64>,
}

/// Sources with weights; those not named are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture {
    /// The parts.
    pub sources: Vec<MixSource>,
}

/// A mixture, and when it begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Tokens drawn before it; 0 for the first phase.
    pub from_tokens: u64,
    /// What is drawn from then on.
    pub mixture: Mixture,
}

impl Mixture {
    /// Each source by its tokens, once.
    pub fn natural(corpus: &crate::Corpus) -> Mixture {
        let some = corpus.sources().iter().filter(|source| source.train.counts().tokens > 0);
        let part = |source: &crate::corpus::CorpusSource| MixSource {
            name: source.name.clone(),
            weight: source.train.counts().tokens as f64,
            epochs_max: Some(1.0),
        };
        Mixture { sources: some.map(part).collect() }
    }
}

/// A source as the mixer sees it.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    pub name: String,
    pub documents: u64,
}

/// A document that has been drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draw {
    pub source: u32,
    pub epoch: u32,
    pub document: u64,
}

/// How far the order has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MixState {
    phase: usize,
    /// Tokens drawn in all.
    tokens: u64,
    /// Tokens drawn of each source since the phase began.
    taken: Vec<u64>,
    /// Documents drawn of each source in all.
    drawn: Vec<u64>,
}

impl MixState {
    /// Whether it has the shape of one of the same sources and phases.
    pub fn fits(&self, fresh: &MixState) -> bool {
        self.taken.len() == fresh.taken.len() && self.drawn.len() == fresh.drawn.len()
    }
}

/// The order of documents.
#[derive(Debug)]
pub(crate) struct Mixer {
    sizes: Vec<Size>,
    keys: Vec<u64>,
    phases: Vec<Weights>,
    pub state: MixState,
}

#[derive(Debug)]
struct Weights {
    from_tokens: u64,
    /// For each source: its weight, 0 where it is left out.
    weights: Vec<u64>,
    /// For each source: documents that may be drawn in all.
    documents_max: Vec<u64>,
}

/// The largest weight of a mixture as a whole number; the others are in proportion.
const WEIGHT_ONE: f64 = (1u64 << 40) as f64;

impl Mixer {
    /// Errors: no phase, phases out of order, a name that is no source or given twice, a weight or
    /// number of epochs that is negative or not finite, a source with a weight and no documents,
    /// no weight at all.
    pub fn new(sizes: Vec<Size>, phases: &[Phase], seed: u64) -> Result<Mixer, DataError> {
        if phases.first().is_none_or(|phase| phase.from_tokens != 0) {
            let got = phases.first().map_or("missing".into(), |p| p.from_tokens.to_string());
            return Err(setting("the start of the first phase", got, "0"));
        }
        if let Some(pair) = phases.windows(2).find(|w| w[0].from_tokens >= w[1].from_tokens) {
            let expected = format!("more than {}", pair[0].from_tokens);
            return Err(setting(
                "the start of a phase",
                pair[1].from_tokens.to_string(),
                &expected,
            ));
        }
        let keys = sizes.iter().map(|s| join(seed, Hash::of(s.name.as_bytes()).word())).collect();
        let phases = phases.iter().map(|phase| weights(phase, &sizes)).collect::<Result<_, _>>()?;
        let state = MixState {
            taken: vec![0; sizes.len()],
            drawn: vec![0; sizes.len()],
            ..MixState::default()
        };
        Ok(Mixer { sizes, keys, phases, state })
    }

    /// The next document; `tokens` gives the length of one. None when every source has come as
    /// often as it may.
    pub fn next(&mut self, tokens: impl Fn(&Draw) -> u64) -> Option<Draw> {
        let state = &mut self.state;
        let due = |at: usize| self.phases.get(at).is_some_and(|p| p.from_tokens <= state.tokens);
        if due(state.phase + 1) {
            while self.phases.get(state.phase + 1).is_some_and(|p| p.from_tokens <= state.tokens) {
                state.phase += 1;
            }
            state.taken.fill(0);
        }
        let Weights { weights, documents_max, .. } = &self.phases[state.phase];
        let open = |s: &usize| weights[*s] > 0 && state.drawn[*s] < documents_max[*s];
        let source = (0..weights.len()).filter(open).min_by(|&a, &b| {
            let share = |x: usize, y: usize| u128::from(state.taken[x]) * u128::from(weights[y]);
            share(a, b).cmp(&share(b, a)) // min_by gives the first of equals
        })?;
        let n = self.sizes[source].documents;
        let (epoch, i) = (state.drawn[source] / n, state.drawn[source] % n);
        let document = permute(i, n, join(self.keys[source], epoch));
        let epoch = u32::try_from(epoch).expect("nobody trains for 2^32 epochs");
        let draw = Draw { source: source as u32, epoch, document };
        let tokens = tokens(&draw);
        state.drawn[source] += 1;
        state.taken[source] += tokens;
        state.tokens += tokens;
        Some(draw)
    }
}

fn weights(phase: &Phase, sizes: &[Size]) -> Result<Weights, DataError> {
    let parts = &phase.mixture.sources;
    let largest = parts.iter().map(|part| part.weight).fold(0.0, f64::max);
    let mut weights = vec![0; sizes.len()];
    let mut documents_max = vec![0; sizes.len()];
    let mut seen = vec![false; sizes.len()];
    for MixSource { name, weight, epochs_max } in parts {
        let Some(source) = sizes.iter().position(|size| size.name == *name) else {
            let names: Vec<&str> = sizes.iter().map(|size| size.name.as_str()).collect();
            let expected = format!("one of {}", names.join(", "));
            return Err(setting("a source of the mixture", name.clone(), &expected));
        };
        if std::mem::replace(&mut seen[source], true) {
            return Err(setting("a source of the mixture", format!("{name} twice"), "once"));
        }
        if !(weight.is_finite() && *weight >= 0.0) {
            let what = format!("the weight of {name}");
            return Err(setting(&what, weight.to_string(), "a number not below 0"));
        }
        let documents = sizes[source].documents;
        if *weight > 0.0 && documents == 0 {
            let what = format!("the number of documents of {name}");
            return Err(setting(&what, "0".into(), "some, since it has a weight"));
        }
        let epochs = epochs_max.unwrap_or(f64::INFINITY);
        if epochs.is_nan() || epochs < 0.0 {
            let what = format!("the epochs of {name}");
            return Err(setting(&what, epochs.to_string(), "a number not below 0"));
        }
        if *weight > 0.0 {
            weights[source] = ((weight / largest * WEIGHT_ONE).round() as u64).max(1);
            documents_max[source] = (documents as f64 * epochs) as u64; // as saturates
        }
    }
    if weights.iter().all(|&weight| weight == 0) {
        return Err(setting("the sum of the weights", "0".into(), "more"));
    }
    Ok(Weights { from_tokens: phase.from_tokens, weights, documents_max })
}

fn setting(what: &str, got: String, expected: &str) -> DataError {
    DataError::Setting { what: what.to_owned(), got, expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(documents: &[u64]) -> Vec<Size> {
        let size = |(i, &documents): (usize, &u64)| Size { name: format!("s{i}"), documents };
        documents.iter().enumerate().map(size).collect()
    }

    fn phase(from_tokens: u64, parts: &[(&str, f64, Option<f64>)]) -> Phase {
        let part = |&(name, weight, epochs_max): &(&str, f64, Option<f64>)| MixSource {
            name: name.to_owned(),
            weight,
            epochs_max,
        };
        Phase { from_tokens, mixture: Mixture { sources: parts.iter().map(part).collect() } }
    }

    /// Lengths from 1 to 100, a function of the document.
    fn length(draw: &Draw) -> u64 {
        1 + join(u64::from(draw.source), draw.document) % 100
    }

    #[test]
    fn shares_stay_within_a_document_of_the_weights() {
        let phases = [phase(0, &[("s0", 0.5, None), ("s1", 0.25, None), ("s2", 0.17, None)])];
        let mut mixer = Mixer::new(sizes(&[1000, 10, 300]), &phases, 1).unwrap();
        let mut taken = [0u64; 3];
        for i in 0..20_000 {
            let draw = mixer.next(length).unwrap();
            taken[draw.source as usize] += length(&draw);
            let total: u64 = taken.iter().sum();
            for (taken, weight) in taken.iter().zip([0.5, 0.25, 0.17]) {
                let wanted = total as f64 * weight / 0.92;
                assert!((*taken as f64 - wanted).abs() <= 200.0, "after {i}: {taken}, {wanted}");
            }
        }
    }

    #[test]
    fn an_epoch_has_every_document_once_and_the_next_another_order() {
        let mut mixer =
            Mixer::new(sizes(&[100]), &[phase(0, &[("s0", 1.0, Some(2.5))])], 3).unwrap();
        let all: Vec<Draw> = std::iter::from_fn(|| mixer.next(length)).collect();
        assert_eq!(all.len(), 250);
        let order = |epoch: u32| -> Vec<u64> {
            all.iter().filter(|d| d.epoch == epoch).map(|d| d.document).collect()
        };
        for epoch in 0..2 {
            let mut sorted = order(epoch);
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..100));
        }
        assert_ne!(order(0), order(1));
        let mut other = Mixer::new(sizes(&[100]), &[phase(0, &[("s0", 1.0, None)])], 4).unwrap();
        let other: Vec<u64> =
            (0..100).filter_map(|_| other.next(length)).map(|d| d.document).collect();
        assert_ne!(order(0), other);
    }

    #[test]
    fn a_source_that_is_used_up_leaves_its_place_to_the_others() {
        let parts = [("s0", 1.0, Some(1.0)), ("s1", 1.0, Some(3.0)), ("s2", 0.0, None)];
        let mut mixer = Mixer::new(sizes(&[10, 50, 5]), &[phase(0, &parts)], 1).unwrap();
        let all: Vec<Draw> = std::iter::from_fn(|| mixer.next(length)).collect();
        let count = |source| all.iter().filter(|d| d.source == source).count();
        assert_eq!((count(0), count(1), count(2)), (10, 150, 0));
    }

    #[test]
    fn the_mixture_changes_at_its_token_count_and_epochs_go_on() {
        let phases = [
            phase(0, &[("s0", 1.0, None)]),
            phase(1000, &[("s1", 1.0, None)]),
            phase(2000, &[("s0", 1.0, None), ("s1", 3.0, None)]),
        ];
        let mut mixer = Mixer::new(sizes(&[1000, 1000]), &phases, 1).unwrap();
        let (mut tokens, mut third, mut seen) = (0, [0u64; 2], std::collections::BTreeSet::new());
        while tokens < 20_000 {
            let draw = mixer.next(length).unwrap();
            assert!(seen.insert((draw.source, draw.epoch, draw.document)), "{draw:?} twice");
            match tokens {
                0..1000 => assert_eq!(draw.source, 0),
                1000..2000 => assert_eq!(draw.source, 1),
                _ => third[draw.source as usize] += length(&draw),
            }
            tokens += length(&draw);
        }
        assert!(third[1].abs_diff(3 * third[0]) <= 400, "{third:?}");
    }

    #[test]
    fn adding_a_source_moves_no_document_of_another() {
        let one = [phase(0, &[("s1", 1.0, None)])];
        let mut alone = Mixer::new(sizes(&[5, 40]), &one, 9).unwrap();
        let mut both =
            Mixer::new(sizes(&[5, 40]), &[phase(0, &[("s0", 1.0, None), ("s1", 1.0, None)])], 9)
                .unwrap();
        let alone: Vec<u64> =
            (0..60).filter_map(|_| alone.next(length)).map(|d| d.document).collect();
        let both = std::iter::from_fn(|| both.next(length)).filter(|d| d.source == 1);
        assert!(both.map(|d| d.document).take(60).eq(alone));
    }

    #[test]
    fn wrong_mixtures_are_refused_with_the_value() {
        let refused =
            |phases: &[Phase]| Mixer::new(sizes(&[3, 0]), phases, 0).unwrap_err().to_string();
        assert!(refused(&[]).contains("missing"));
        assert!(refused(&[phase(5, &[("s0", 1.0, None)])]).contains('5'));
        let good = phase(0, &[("s0", 1.0, None)]);
        assert!(refused(&[good.clone(), phase(0, &[("s0", 1.0, None)])]).contains("more than 0"));
        assert!(refused(&[phase(0, &[("web", 1.0, None)])]).contains("s0, s1"));
        assert!(refused(&[phase(0, &[("s0", 1.0, None), ("s0", 1.0, None)])]).contains("twice"));
        for weight in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(refused(&[phase(0, &[("s0", weight, None)])]).contains("weight of s0"));
        }
        assert!(refused(&[phase(0, &[("s1", 1.0, None)])]).contains("documents of s1"));
        assert!(refused(&[phase(0, &[("s0", 1.0, Some(f64::NAN))])]).contains("epochs"));
        assert!(refused(&[phase(0, &[("s0", 0.0, None)])]).contains("sum of the weights"));
        assert!(refused(&[phase(0, &[])]).contains("sum of the weights"));
    }
}
