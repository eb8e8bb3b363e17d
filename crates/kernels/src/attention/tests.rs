//! Attention against its definition, and the same bits in any company.

use super::*;
use crate::Class;
use crate::sample::noise;

struct Case {
    heads: usize,
    shape: KvShape,
    lengths: Vec<usize>,
    /// One a sequence: [length, H or G, K].
    q: Vec<Vec<f32>>,
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
}

impl Case {
    fn new(shape: KvShape, heads: usize, lengths: &[usize]) -> Case {
        let of = |seed: u64, h: usize| -> Vec<Vec<f32>> {
            let numbers = |(i, &n): (usize, &usize)| {
                noise(seed + i as u64, n * h * shape.head_dim).iter().map(|x| x * 2.0).collect()
            };
            lengths.iter().enumerate().map(numbers).collect()
        };
        let g = shape.kv_heads;
        Case { heads, shape, lengths: lengths.into(), q: of(1, heads), k: of(50, g), v: of(90, g) }
    }

    /// Runs the sequences in the given pieces (sequence, rows), all pieces of a call packed.
    fn run(&self, cpu: &Cpu, calls: &[Vec<(usize, usize)>]) -> Vec<Vec<f32>> {
        self.run_with(cpu, calls, true).0
    }

    /// Outputs, and row statistics if asked for, of each sequence.
    fn run_with(
        &self,
        cpu: &Cpu,
        calls: &[Vec<(usize, usize)>],
        with_lse: bool,
    ) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let (shape, width) = (self.shape, self.heads * self.shape.head_dim);
        let kv_width = shape.kv_heads * shape.head_dim;
        let pages_of = |n: &usize| n.div_ceil(shape.page_len);
        let total: usize = self.lengths.iter().map(pages_of).sum();
        // Pages in falling order, and NaN where nothing was written.
        let mut cache = vec![0xff; total * shape.page_bytes()];
        let mut next = total as u32;
        let tables: Vec<Vec<u32>> = self
            .lengths
            .iter()
            .map(|n| {
                let take = |_| {
                    next -= 1;
                    next
                };
                (0..pages_of(n)).map(take).collect()
            })
            .collect();
        let mut past = vec![0; self.lengths.len()];
        let mut outs: Vec<Vec<f32>> = vec![Vec::new(); self.lengths.len()];
        let mut lses = outs.clone();
        for call in calls {
            let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
            let mut sequences = Vec::new();
            let mut row = 0;
            for &(s, rows) in call {
                let (from, to) = (past[s], past[s] + rows);
                q.extend_from_slice(&self.q[s][from * width..to * width]);
                k.extend_from_slice(&self.k[s][from * kv_width..to * kv_width]);
                v.extend_from_slice(&self.v[s][from * kv_width..to * kv_width]);
                sequences.push(Sequence { row, rows, past: from, pages: &tables[s] });
                row += rows;
            }
            store(cpu, &mut cache, shape, &k, &v, &sequences);
            let mut out = vec![f32::NAN; q.len()];
            let mut lse = vec![f32::NAN; row * self.heads];
            let asked = with_lse.then_some(&mut lse[..]);
            attention(cpu, &mut out, &q, &cache, shape, self.heads, 0.25, &sequences, asked);
            for (sequence, &(s, rows)) in sequences.iter().zip(call) {
                outs[s].extend_from_slice(&out[sequence.row * width..][..rows * width]);
                let from = sequence.row * self.heads;
                lses[s].extend_from_slice(&lse[from..from + rows * self.heads]);
                past[s] += rows;
            }
        }
        (outs, lses)
    }

    /// The definition, in f64: outputs and row statistics.
    fn naive(&self, s: usize) -> (Vec<f64>, Vec<f64>) {
        let (dim, g_count) = (self.shape.head_dim, self.shape.kv_heads);
        let kept = |x: f32| match self.shape.format {
            KvFormat::F32 => f64::from(x),
            KvFormat::F16 => half::f16::from_f32(x).to_f64(),
            KvFormat::I16 | KvFormat::I8 => f64::from(x),
        };
        let (mut out, mut lse) = (Vec::new(), Vec::new());
        for t in 0..self.lengths[s] {
            for h in 0..self.heads {
                let g = h / (self.heads / g_count);
                let q = &self.q[s][(t * self.heads + h) * dim..][..dim];
                let at = |j: usize| (j * g_count + g) * dim;
                let score = |j: usize| {
                    let k = &self.k[s][at(j)..at(j) + dim];
                    q.iter().zip(k).map(|(q, k)| f64::from(*q) * kept(*k)).sum::<f64>() * 0.25
                };
                let scores: Vec<f64> = (0..=t).map(score).collect();
                let m = scores.iter().fold(f64::MIN, |a, &b| a.max(b));
                let sum: f64 = scores.iter().map(|s| (s - m).exp()).sum();
                lse.push(m + sum.ln());
                for d in 0..dim {
                    let value = |j: usize| (scores[j] - m).exp() * kept(self.v[s][at(j) + d]);
                    out.push((0..=t).map(value).sum::<f64>() / sum);
                }
            }
        }
        (out, lse)
    }
}

fn shape(format: KvFormat, page_len: usize, kv_heads: usize, head_dim: usize) -> KvShape {
    KvShape { format, page_len, kv_heads, head_dim }
}

#[test]
fn attention_agrees_with_its_definition() {
    for class in Class::available() {
        let cpu = Cpu::new(class, 2);
        for (format, g, r, dim) in [
            (KvFormat::F32, 2, 3, 64),
            (KvFormat::F16, 1, 4, 32),
            (KvFormat::F32, 3, 1, 6),
            (KvFormat::F16, 2, 2, 18),
            (KvFormat::F32, 1, 8, 128),
            (KvFormat::F32, 1, 13, 16),
            (KvFormat::I16, 3, 3, 64),
            (KvFormat::I16, 2, 1, 7),
            (KvFormat::I16, 1, 4, 128),
            (KvFormat::I16, 1, 8, 16),
            (KvFormat::I16, 1, 13, 18),
            (KvFormat::I8, 3, 3, 64),
            (KvFormat::I8, 2, 1, 7),
            (KvFormat::I8, 1, 4, 128),
            (KvFormat::I8, 1, 8, 16),
            (KvFormat::I8, 1, 13, 18),
        ] {
            let case = Case::new(shape(format, 32, g, dim), g * r, &[1, 270, 17]);
            let calls = [vec![(0, 1), (1, 270), (2, 17)]];
            let (got, lse) = case.run_with(&cpu, &calls, true);
            assert_eq!(got, case.run_with(&cpu, &calls, false).0, "{class}: lse changes a bit");
            for s in 0..3 {
                let (want, want_lse) = case.naive(s);
                let (got, want) = (got[s].iter().chain(&lse[s]), want.iter().chain(&want_lse));
                for (got, want) in got.zip(want) {
                    // Scores of up to K/2 with K roundings; weights and values of size 2.
                    let rounded = dim as f64 * f64::from(f32::EPSILON) * 16.0;
                    let tolerance = rounded + codes_off(format, dim);
                    let off = (f64::from(*got) - want).abs();
                    assert!(off <= tolerance, "{class} {g} {r} {dim}: off by {off}");
                }
            }
        }
    }
}

/// What codes of 16 bits may add: half a unit in each entry of key and query, of length up to
/// sqrt(4 K); half a unit of 2 / 4,095 in values; half a unit in each of 256 weights.
fn codes_off(format: KvFormat, dim: usize) -> f64 {
    match format {
        KvFormat::F32 | KvFormat::F16 => 0.0,
        // Half a unit of 2 / 127 in each number of a key, met by queries of length up to sqrt(4 K); in values half a unit.
        KvFormat::I8 => {
            let dim = dim as f64;
            let score = 0.25 * (4.0 * dim).sqrt() * 0.5 * (2.0 / 127.0) * dim.sqrt();
            2.0 * 2.0 * score + 1.0 / 127.0
        }
        KvFormat::I16 => {
            let dim = dim as f64;
            let unit = (4.0 * dim).sqrt() / 46_000.0;
            let score =
                0.25 * 2.0 * (4.0 * dim).sqrt() * 0.5 * unit.max(2.0 / 32_767.0) * dim.sqrt();
            // A score that is off moves each weight by as much, of values of size 2.
            2.0 * 2.0 * score + 1.0 / 4095.0 + 256.0 * 0.5 * 2.0 / 32_767.0
        }
    }
}

#[test]
fn nan_in_a_key_or_value_reaches_those_who_see_it_and_no_other() {
    for class in Class::available() {
        for format in [KvFormat::F32, KvFormat::F16, KvFormat::I16, KvFormat::I8] {
            for poison in [f32::NAN, f32::INFINITY] {
                let mut case = Case::new(shape(format, 16, 1, 16), 3, &[300]);
                let clean = case.run(&Cpu::new(class, 1), &[vec![(0, 300)]]);
                case.k[0][270 * 16 + 3] = poison;
                case.v[0][280 * 16 + 5] = poison;
                let got = case.run(&Cpu::new(class, 1), &[vec![(0, 300)]]);
                let rows = |t: usize| 48 * t..48 * (t + 1);
                assert_eq!(
                    got[0][..rows(269).end],
                    clean[0][..rows(269).end],
                    "{class} {format:?}"
                );
                let seen = &got[0][rows(285)];
                assert!(seen[..48].iter().any(|x| !x.is_finite()), "{class} {format:?} {poison}");
            }
        }
    }
}

#[test]
fn zero_vectors_give_even_weights_and_zero_values() {
    for class in Class::available() {
        for format in [KvFormat::F32, KvFormat::F16, KvFormat::I16, KvFormat::I8] {
            let mut case = Case::new(shape(format, 16, 1, 16), 3, &[20]);
            case.q[0].fill(0.0);
            case.v[0][..16].fill(0.0);
            let (got, lse) = case.run_with(&Cpu::new(class, 1), &[vec![(0, 20)]], true);
            assert!(got[0][..48].iter().all(|&x| x == 0.0), "{class} {format:?}");
            let twenty = 20.0f32.ln();
            assert!((lse[0][3 * 19] - twenty).abs() < 1e-6, "{class} {format:?}: {}", lse[0][57]);
        }
    }
}

#[test]
fn chunks_pages_threads_and_company_change_no_bit() {
    for class in Class::available() {
        for (format, r) in [
            (KvFormat::F16, 3),
            (KvFormat::F32, 4),
            (KvFormat::F16, 1),
            (KvFormat::I16, 1),
            (KvFormat::I16, 3),
            (KvFormat::I16, 5),
            (KvFormat::I8, 1),
            (KvFormat::I8, 3),
        ] {
            let lengths = [600, 70];
            let bits = |page_len, threads, calls: &[Vec<(usize, usize)>]| {
                let case = Case::new(shape(format, page_len, 2, 32), 2 * r, &lengths);
                let out = case.run(&Cpu::new(class, threads), calls);
                out.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            let whole = bits(64, 1, &[vec![(0, 600)], vec![(1, 70)]]);
            let single: Vec<Vec<(usize, usize)>> =
                (0..600).map(|_| vec![(0, 1)]).chain((0..70).map(|_| vec![(1, 1)])).collect();
            let mixed = [
                vec![(0, 255), (1, 1)],
                vec![(1, 12), (0, 2)],
                vec![(0, 342)],
                vec![(1, 57), (0, 1)],
            ];
            assert_eq!(bits(16, 2, &single), whole, "{class} one row at a time");
            assert_eq!(bits(256, 2, &mixed), whole, "{class} mixed");
        }
    }
}
