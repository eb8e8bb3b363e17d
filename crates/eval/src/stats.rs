//! What may be concluded: intervals of means, and differences of pairs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The 97.5 % point of the normal distribution.
pub const Z: f64 = 1.96;

/// A mean of items, and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Its standard error.
    pub stderr: f64,
    /// The ends of its 95 % interval: 1.96 standard errors to each side.
    pub ci95: (f64, f64),
    /// Items.
    pub n: usize,
}

impl Mean {
    /// The ends of its interval; `None` where nothing is known of the spread, as of items that are all alike.
    pub fn interval(&self) -> Option<(f64, f64)> {
        (self.stderr > 0.0).then_some(self.ci95)
    }

    fn of(value: f64, stderr: f64, n: usize) -> Mean {
        Mean { value, stderr, ci95: (value - Z * stderr, value + Z * stderr), n }
    }
}

/// The mean of numbers, with the standard error of their spread: of shares the binomial one,
/// `sqrt(s (1 - s) / n)` (arXiv 2407.21783, section 5.1.1). With `clusters`, numbers of one cluster
/// count as one draw (arXiv 2411.00640, equation 4). Of a single cluster the terms add up to 0, which says nothing
/// of the spread: then each number counts for itself.
///
/// Panics if the lengths differ or there are none.
pub fn mean(numbers: &[f64], clusters: Option<&[String]>) -> Mean {
    assert!(!numbers.is_empty(), "mean: of nothing");
    let n = numbers.len() as f64;
    let value = numbers.iter().sum::<f64>() / n;
    let alone = || numbers.iter().map(|x| (x - value) * (x - value)).sum::<f64>();
    let squares = match clusters {
        None => alone(),
        Some(clusters) => {
            assert_eq!(clusters.len(), numbers.len(), "mean: a cluster for each");
            let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
            for (x, cluster) in numbers.iter().zip(clusters) {
                *sums.entry(cluster).or_default() += x - value;
            }
            match sums.len() {
                1 => alone(),
                _ => sums.values().map(|sum| sum * sum).sum(),
            }
        }
    };
    Mean::of(value, squares.sqrt() / n, numbers.len())
}

/// The mean of groups' means, each counting the same.
///
/// Panics if there are no groups.
pub fn mean_of_groups(groups: &[Mean]) -> Mean {
    let k = groups.len() as f64;
    assert!(k > 0.0, "mean: of no groups");
    let value = groups.iter().map(|group| group.value).sum::<f64>() / k;
    let variance: f64 = groups.iter().map(|group| group.stderr * group.stderr).sum();
    Mean::of(value, variance.sqrt() / k, groups.iter().map(|group| group.n).sum())
}

/// How two models differ on the same items.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The second's mean less the first's.
    pub difference: f64,
    /// Its standard error.
    pub stderr: f64,
    /// The ends of its 95 % interval.
    pub ci95: (f64, f64),
    /// How often models that do not differ would differ by so much; where no item differs from another, the sign test's.
    pub p: f64,
    /// The difference that so many items would show four times of five.
    pub detectable: f64,
    /// Items.
    pub n: usize,
}

/// The difference of pairs, each item's two numbers side by side, by Student's t of as many draws as there are
/// items, or clusters of them.
///
/// Panics if the lengths differ or there are none.
pub fn difference(first: &[f64], second: &[f64], clusters: Option<&[String]>) -> Difference {
    assert_eq!(first.len(), second.len(), "difference: pairs");
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| b - a).collect();
    let Mean { value, stderr, n, .. } = mean(&differences, clusters);
    let of = |of: &[String]| of.iter().collect::<BTreeSet<_>>().len();
    let draws = clusters.map_or(n, of);
    let alike = differences.iter().all(|d| *d == differences[0]);
    if draws < 2 || alike {
        // One draw says nothing of the spread; draws that are all alike are so many coins that fall the same way.
        let p = if value == 0.0 { 1.0 } else { all_one_way(draws) };
        return Difference { p, ..of_difference(Mean::of(value, stderr, n)) };
    }
    // Student's t of so few draws, as a normal deviate and back (Wallace 1959).
    let (draws, free) = (draws as f64, draws as f64 - 1.0);
    let part = (8.0 * free + 1.0) / (8.0 * free + 3.0);
    let stderr = stderr * (draws / free).sqrt();
    let half = (free * ((Z / part).powi(2) / free).exp_m1()).sqrt() * stderr;
    let normal = |t: f64| part * (free * (t * t / free).ln_1p()).sqrt();
    let p = if stderr > 0.0 { 2.0 * normal_tail(normal(value / stderr)) } else { 1.0 };
    let ci95 = (value - half, value + half);
    Difference { p, stderr, ci95, ..of_difference(Mean::of(value, stderr, n)) }
}

/// Whether numbers of this mean differ from one another by more than rounding.
fn spread(value: f64, stderr: f64) -> bool {
    stderr > 1e-12 * value.abs()
}

/// How often `draws` fair coins all fall the same way: the sign test of differences without any spread.
fn all_one_way(draws: usize) -> f64 {
    0.5f64.powi(draws.saturating_sub(1).min(2000) as i32)
}

fn of_difference(Mean { value, stderr, ci95, n }: Mean) -> Difference {
    let p = if spread(value, stderr) {
        2.0 * normal_tail((value / stderr).abs())
    } else if value == 0.0 {
        1.0
    } else {
        all_one_way(n)
    };
    Difference { difference: value, stderr, ci95, p, detectable: (Z + 0.841_621) * stderr, n }
}

/// The difference of means of groups, each counting the same.
///
/// Panics if there are no groups.
pub fn difference_of_groups(groups: &[Difference]) -> Difference {
    if let [one] = groups {
        return *one;
    }
    let mean = |d: &Difference| Mean::of(d.difference, d.stderr, d.n);
    of_difference(mean_of_groups(&groups.iter().map(mean).collect::<Vec<_>>()))
}

/// The difference of two means of different items, the second's less the first's.
pub fn apart(first: Mean, second: Mean) -> Difference {
    let stderr = first.stderr.hypot(second.stderr);
    let n = first.n.min(second.n);
    of_difference(Mean::of(second.value - first.value, stderr, n))
}

/// The share of a normal distribution beyond `z` >= 0 standard deviations.
fn normal_tail(z: f64) -> f64 {
    // Near zero the series of the distribution, far out the continued fraction of Mills' ratio.
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if z < 3.0 {
        let (mut term, mut sum, mut k) = (z, z, 1.0);
        while term.abs() > 1e-17 * sum.abs() {
            k += 2.0;
            term *= z * z / k;
            sum += term;
        }
        return 0.5 - density * sum;
    }
    let ratio = (1..=60).rev().fold(z, |below, k| z + f64::from(k) / below);
    density / ratio
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_the_papers_interval() {
        // HumanEval, 164 problems, 72.6 %: +- 6.8 points.
        let right = 119;
        let numbers: Vec<f64> = (0..164).map(|i| f64::from(u8::from(i < right))).collect();
        let mean = mean(&numbers, None);
        assert!((Z * mean.stderr - 0.068).abs() < 5e-4 && mean.n == 164);
    }

    #[test]
    fn items_that_stand_and_fall_together_say_less() {
        let numbers = [1.0, 1.0, 0.0, 0.0];
        let passages = ["a", "a", "b", "b"].map(str::to_owned);
        let (alone, together) = (mean(&numbers, None), mean(&numbers, Some(&passages)));
        assert_eq!(alone.value, together.value);
        assert!((together.stderr / alone.stderr - 2.0f64.sqrt()).abs() < 1e-12);
        let own: Vec<String> = (0..4).map(|i| i.to_string()).collect();
        assert_eq!(mean(&numbers, Some(&own)), alone);
    }

    #[test]
    fn one_cluster_alone_has_the_interval_of_its_items() {
        let numbers = [1.0, 0.0, 1.0, 0.0, 1.0];
        let one = vec!["a".to_owned(); 5];
        assert_eq!(mean(&numbers, Some(&one)), mean(&numbers, None));
        assert!(mean(&numbers, Some(&one)).stderr > 0.2);
    }

    #[test]
    fn a_few_items_that_all_say_one_thing_prove_little() {
        let p = |n: usize, clusters: Option<&[String]>| {
            difference(&vec![0.0; n], &vec![1.0; n], clusters).p
        };
        assert_eq!((p(1, None), p(2, None), p(6, None)), (1.0, 0.5, 1.0 / 32.0));
        assert!(p(5000, None) < 1e-300);
        // Six items of two dialogues are two draws.
        let two: Vec<String> = (0..6).map(|i| (i % 2).to_string()).collect();
        assert_eq!(p(6, Some(&two)), 0.5);
        assert_eq!(difference(&[1.0], &[1.0], None).p, 1.0);
        assert_eq!(difference(&[0.0; 3], &[0.1; 3], None).p, 0.25); // whose mean is not 0.1 to the last bit
    }

    #[test]
    fn tails_are_those_of_tables() {
        for (z, tail) in [
            (0.0, 0.5),
            (1.0, 0.158_655_253_931_457),
            (1.96, 0.024_997_895_148_22),
            (3.5, 2.326_290_790_355_25e-4),
            (6.0, 9.865_876_450_377e-10),
        ] {
            assert!((normal_tail(z) / tail - 1.0).abs() < 1e-9, "{z}");
        }
    }

    #[test]
    fn means_of_different_items_are_less_sure_than_pairs() {
        let (a, b) = ([1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]);
        let (first, second) = (mean(&a, None), mean(&b, None));
        let apart = apart(first, second);
        assert_eq!(apart.difference, -0.25);
        let squares = first.stderr * first.stderr + second.stderr * second.stderr;
        assert!((apart.stderr * apart.stderr - squares).abs() < 1e-15);
        assert!(apart.stderr > difference(&a, &b, None).stderr);
    }

    #[test]
    fn few_draws_are_judged_as_few() {
        let passages = |of: &[usize]| of.iter().map(usize::to_string).collect::<Vec<_>>();
        let (a, b) = ([0.0; 6], [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]);
        let one = difference(&a, &b, Some(&passages(&[0; 6])));
        assert_eq!(one.p, 1.0);
        assert_eq!(difference(&a, &[1.0; 6], None).p, 1.0 / 32.0);
        // The mean is 2 / 3, the deviation sqrt(4 / 15): t = 3.1623, and by tables p = 0.0250 at five degrees.
        let some = difference(&a, &b, None);
        assert!((some.difference / some.stderr - 3.162_28).abs() < 1e-4, "{some:?}");
        assert!((some.p - 0.0250).abs() < 6e-4, "{some:?}");
        let half = (some.ci95.1 - some.ci95.0) / 2.0 / some.stderr;
        assert!((half / 2.5706 - 1.0).abs() < 0.006, "{half}");
    }

    #[test]
    fn models_that_do_not_differ_are_flagged_one_time_in_twenty() {
        let mut state = 1u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut flagged = 0;
        for _ in 0..4000 {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            for _ in 0..200 {
                let hard = uniform();
                a.push(f64::from(u8::from(uniform() > hard)));
                b.push(f64::from(u8::from(uniform() > hard)));
            }
            flagged += usize::from(difference(&a, &b, None).p < 0.05);
        }
        // 5 % of 4,000 is 200, with a standard deviation of 14.
        assert!((158..=242).contains(&flagged), "{flagged}");
    }
}
