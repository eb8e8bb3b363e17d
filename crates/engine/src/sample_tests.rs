//! Tests of the samplers: against a naive twin, and against the distribution they define.

use proptest::prelude::*;

use super::*;

/// The definition, one full sort a step: kept ids with their probabilities, by id. `None` where a
/// sum falls so near a border that the order of additions decides.
fn naive(s: &Sampling, logits: &[f32], history: &[u32]) -> Option<Vec<(u32, f64)>> {
    let mut row: Vec<f32> = logits.to_vec();
    for &(id, bias) in &s.logit_bias {
        row[id as usize] += bias;
    }
    let seen = &history[history.len().saturating_sub(s.repeat_last_n)..];
    for (id, x) in row.iter_mut().enumerate() {
        let count = seen.iter().filter(|&&t| t as usize == id).count() as f32;
        if count > 0.0 {
            *x = if *x > 0.0 { *x / s.repetition_penalty } else { *x * s.repetition_penalty };
            *x -= s.presence_penalty + count * s.frequency_penalty;
        }
    }
    let first = s.temperature_at == TemperatureAt::First;
    let t = f64::from(s.temperature);
    let mut kept: Vec<(u32, f64)> = (0..).zip(row.iter().map(|&x| f64::from(x))).collect();
    kept.retain(|c| c.1 > f64::NEG_INFINITY);
    kept.iter_mut().for_each(|c| c.1 /= if first { t } else { 1.0 });
    kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    kept.truncate(s.top_k.unwrap_or(usize::MAX));
    if s.typical_p < 1.0 {
        let p = probabilities(&kept);
        let entropy: f64 = p.iter().map(|&(_, p)| if p > 0.0 { -p * p.ln() } else { 0.0 }).sum();
        let distance = |i: usize| (-p[i].1.max(f64::MIN_POSITIVE).ln() - entropy).abs();
        let mut order: Vec<usize> = (0..kept.len()).collect();
        order.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)));
        for pair in order.windows(2) {
            let near = distance(pair[1]) - distance(pair[0]) < 1e-9;
            if near && kept[pair[0]].1 != kept[pair[1]].1 {
                return None;
            }
        }
        order.sort_by(|&a, &b| {
            let by_distance = distance(a).total_cmp(&distance(b));
            if kept[a].1 == kept[b].1 { kept[a].0.cmp(&kept[b].0) } else { by_distance }
        });
        let n = prefix_of_mass(order.iter().map(|&i| p[i].1), f64::from(s.typical_p))?;
        kept = order[..n].iter().map(|&i| kept[i]).collect();
    }
    kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if s.top_p < 1.0 {
        let n = prefix_of_mass(probabilities(&kept).iter().map(|c| c.1), f64::from(s.top_p))?;
        kept.truncate(n);
    }
    let p = probabilities(&kept);
    let bar = f64::from(s.min_p) * p[0].1;
    if p.iter().any(|c| s.min_p > 0.0 && (c.1 - bar).abs() < 1e-9 && c.1 != p[0].1) {
        return None;
    }
    kept = (0..kept.len()).filter(|&i| p[i].1 >= bar).map(|i| kept[i]).collect();
    kept.iter_mut().for_each(|c| c.1 /= if first { 1.0 } else { t });
    kept.sort_by_key(|c| c.0);
    Some(probabilities(&kept))
}

fn probabilities(logits: &[(u32, f64)]) -> Vec<(u32, f64)> {
    let max = logits.iter().map(|c| c.1).fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits.iter().map(|c| (c.1 - max).exp()).sum();
    logits.iter().map(|&(id, x)| (id, (x - max).exp() / total)).collect()
}

/// How many stay when one is dropped once the sum before it exceeds `mass`.
fn prefix_of_mass(p: impl Iterator<Item = f64>, mass: f64) -> Option<usize> {
    let mut before = 0.0;
    let mut n = 0;
    for p in p {
        if (before - mass).abs() < 1e-9 {
            return None;
        }
        if before > mass {
            break;
        }
        before += p;
        n += 1;
    }
    Some(n)
}

/// The tokens that the fast sampler would draw from, with probabilities, by id.
fn fast(s: &Sampling, logits: &[f32], history: &[u32]) -> Vec<(u32, f64)> {
    let mut sampler = Sampler::new();
    sampler.choose(s, logits, history, 0).unwrap();
    let total: f64 = sampler.kept.iter().map(|c| c.weight).sum();
    sampler.kept.iter().map(|c| (c.id, c.weight / total)).collect()
}

fn settings() -> impl Strategy<Value = Sampling> {
    let truncation = (
        prop::option::of(1usize..60),
        prop_oneof![Just(1.0f32), 0.05f32..1.0],
        prop_oneof![Just(1.0f32), 0.0f32..1.0],
        prop_oneof![Just(0.0f32), 0.0f32..1.0],
    );
    let penalties = (
        prop_oneof![Just(1.0f32), 0.5f32..2.0],
        prop_oneof![Just(0.0f32), -1.0f32..1.0],
        prop_oneof![Just(0.0f32), -1.0f32..1.0],
        0usize..12,
    );
    let bias =
        prop::collection::vec((0u32..50, prop_oneof![Just(f32::NEG_INFINITY), -2.0f32..2.0]), 0..3);
    (truncation, penalties, bias, 0.1f32..3.0, any::<bool>(), any::<u64>()).prop_map(
        |((top_k, typical_p, top_p, min_p), (r, p, f, n), logit_bias, temperature, first, seed)| {
            Sampling {
                temperature,
                temperature_at: if first { TemperatureAt::First } else { TemperatureAt::Last },
                top_k,
                typical_p,
                top_p,
                min_p,
                repetition_penalty: r,
                presence_penalty: p,
                frequency_penalty: f,
                repeat_last_n: n,
                logit_bias,
                seed,
                stream: 0,
            }
        },
    )
}

/// Coarse logits have many equals, fine ones none.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    let coarse = (-6i32..6).prop_map(|x| x as f32 / 2.0);
    let fine = -8.0f32..8.0;
    prop_oneof![prop::collection::vec(coarse, 50..400), prop::collection::vec(fine, 50..400)]
}

proptest! {
    #[test]
    fn what_is_kept_agrees_with_the_definition(
        s in settings(),
        logits in rows(),
        history in prop::collection::vec(0u32..50, 0..20),
    ) {
        s.check(logits.len()).unwrap();
        if let Some(wanted) = naive(&s, &logits, &history) {
            let got = fast(&s, &logits, &history);
            let ids = |list: &[(u32, f64)]| list.iter().map(|c| c.0).collect::<Vec<_>>();
            prop_assert_eq!(ids(&got), ids(&wanted));
            for (got, wanted) in got.iter().zip(&wanted) {
                prop_assert!((got.1 - wanted.1).abs() < 1e-9, "{:?} {:?}", got, wanted);
            }
        }
    }

    #[test]
    fn the_likeliest_n_are_the_head_of_a_full_sort(logits in rows(), n in 0usize..500) {
        let mut wanted: Vec<u32> = (0..logits.len() as u32).collect();
        wanted.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        wanted.truncate(n);
        let mut out = vec![];
        Sampler::new().top_log_probs(&logits, n, &mut out);
        prop_assert_eq!(out.iter().map(|c| c.id).collect::<Vec<_>>(), wanted);
        for c in out {
            prop_assert_eq!(c.log_prob, crate::softmax::log_prob(&logits, c.id));
        }
    }
}

/// Draws 40,000 tokens and compares their counts with the definition.
fn chi_squared(s: &Sampling, logits: &[f32]) -> (f64, usize) {
    let wanted = naive(s, logits, &[]).unwrap();
    let n = 40_000;
    let mut counts = vec![0.0; logits.len()];
    let mut sampler = Sampler::new();
    for position in 0..n {
        counts[sampler.choose(s, logits, &[], position).unwrap() as usize] += 1.0;
    }
    let drawn_outside: f64 =
        counts.iter().sum::<f64>() - wanted.iter().map(|&(id, _)| counts[id as usize]).sum::<f64>();
    assert_eq!(drawn_outside, 0.0, "a token was drawn that the definition drops");
    let of = |&(id, p): &(u32, f64)| {
        let expected = p * n as f64;
        (counts[id as usize] - expected).powi(2) / expected
    };
    (wanted.iter().map(of).sum(), wanted.len() - 1)
}

#[test]
fn draws_follow_the_distribution_that_the_settings_define() {
    let logits: Vec<f32> = (0..24).map(|i| ((i * 7) % 24) as f32 * 0.15).collect();
    let hot = Sampling { temperature: 1.3, seed: 5, ..Sampling::GREEDY };
    let cases = [
        hot.clone(),
        Sampling { temperature: 0.6, ..hot.clone() },
        Sampling { top_k: Some(7), ..hot.clone() },
        Sampling { top_p: 0.8, ..hot.clone() },
        Sampling { typical_p: 0.7, ..hot.clone() },
        Sampling { min_p: 0.3, ..hot.clone() },
        Sampling { seed: 6, ..Sampling::LLAMA },
        Sampling { logit_bias: vec![(3, 1.0), (4, f32::NEG_INFINITY)], ..hot },
    ];
    for s in cases {
        let (chi2, freedom) = chi_squared(&s, &logits);
        let f = freedom as f64;
        let bound = f + 4.0 * (2.0 * f).sqrt() + 4.0; // about p = 1e-4; seeds are fixed
        assert!(chi2 < bound, "chi-squared {chi2} with {freedom} degrees of freedom, {s:?}");
    }
}

#[test]
fn the_order_of_temperature_changes_the_nucleus() {
    let logits = [3.0, 2.0, 1.0, 0.0];
    let last = Sampling { temperature: 10.0, top_p: 0.7, ..Sampling::GREEDY };
    let first = Sampling { temperature_at: TemperatureAt::First, ..last.clone() };
    assert_eq!(fast(&last, &logits, &[]).len(), 2);
    assert_eq!(fast(&first, &logits, &[]).len(), 3);
}

#[test]
fn temperature_zero_takes_the_smallest_id_of_equals() {
    let mut sampler = Sampler::new();
    let logits = [1.0, 4.0, -2.0, 4.0];
    assert_eq!(sampler.choose(&Sampling::GREEDY, &logits, &[], 9), Ok(1));
    let forbids = Sampling { logit_bias: vec![(1, f32::NEG_INFINITY)], ..Sampling::GREEDY };
    assert_eq!(sampler.choose(&forbids, &logits, &[], 9), Ok(3));
    let penalised = Sampling { presence_penalty: 5.0, ..Sampling::GREEDY };
    assert_eq!(sampler.choose(&penalised, &logits, &[1, 3], 9), Ok(0));
}

#[test]
fn a_choice_does_not_depend_on_what_was_chosen_before() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 131) % 997) as f32 * 0.01).collect();
    let s = Sampling { frequency_penalty: 0.5, seed: 3, ..Sampling::LLAMA };
    let mut used = Sampler::new();
    for position in 0..50 {
        used.choose(&s, &logits, &[1, 2, 3], position).unwrap();
    }
    let again = used.choose(&s, &logits, &[5, 5], 7);
    assert_eq!(again, Sampler::new().choose(&s, &logits, &[5, 5], 7));
}

#[test]
fn extreme_settings_still_choose_a_token() {
    let logits = [-3e38, 3e38, 3.4e38, f32::NEG_INFINITY, 3.4e38];
    for temperature in [1e-38, 1e-3, 1.0, 1e38] {
        for temperature_at in [TemperatureAt::First, TemperatureAt::Last] {
            for (top_p, typical_p) in [(0.0, 1.0), (0.5, 1.0), (1.0, 1e-9), (0.999_999_94, 0.5)] {
                let s =
                    Sampling { temperature, temperature_at, top_p, typical_p, ..Sampling::GREEDY };
                s.check(5).unwrap();
                let id = Sampler::new().choose(&s, &logits, &[], 1).unwrap();
                assert_ne!(id, 3, "{s:?}");
            }
        }
    }
}

#[test]
fn broken_rows_and_settings_are_named() {
    let mut sampler = Sampler::new();
    let mut choose = |row: &[f32]| sampler.choose(&Sampling::GREEDY, row, &[], 0).unwrap_err();
    assert_eq!(choose(&[0.0, f32::NAN]).to_string(), "the logit of token 1 is NaN");
    assert_eq!(choose(&[f32::INFINITY]).to_string(), "the logit of token 0 is inf");
    assert_eq!(choose(&[f32::NEG_INFINITY; 2]), SampleError::NoToken);
    assert_eq!(choose(&[]), SampleError::NoToken);
    let refused = |s: Sampling| s.check(10).unwrap_err().to_string();
    let g = Sampling::GREEDY;
    assert_eq!(
        refused(Sampling { temperature: -1.0, ..g.clone() }),
        "temperature is -1, it must be a number from 0 up"
    );
    assert_eq!(
        refused(Sampling { top_p: f32::NAN, ..g.clone() }),
        "top_p is NaN, it must be between 0 and 1"
    );
    assert_eq!(
        refused(Sampling { logit_bias: vec![(10, 0.0)], ..g.clone() }),
        "logit_bias names token 10, the vocabulary has 10"
    );
    assert!(refused(Sampling { top_k: Some(0), ..g.clone() }).contains("top_k is 0"));
    assert!(refused(Sampling { repetition_penalty: 0.0, ..g }).contains("repetition_penalty is 0"));
}
