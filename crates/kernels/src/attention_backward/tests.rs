//! The gradient of attention against its definition, central differences and its own bits.

use super::*;
use crate::naive;
use crate::sample::noise;

/// A packed batch, with its result in f64 rounded once.
struct Case {
    shape: HeadShape,
    scale: f32,
    documents: Vec<Range<usize>>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
    out: Vec<f32>,
    lse: Vec<f32>,
}

#[derive(Clone, Debug, PartialEq)]
struct Grads {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl Case {
    /// Documents of these lengths, `gap` rows before each.
    fn new(seed: u64, shape: HeadShape, lengths: &[usize], gap: usize) -> Case {
        let mut end = 0;
        let mut next = |len: &usize| {
            end += gap + len;
            end - len..end
        };
        let documents: Vec<_> = lengths.iter().map(&mut next).collect();
        let rows = end;
        let of = |seed: u64, heads: usize| -> Vec<f32> {
            noise(seed, rows * heads * shape.head_dim).iter().map(|x| 1.5 * x).collect()
        };
        let (q, dout) = (of(4 * seed, shape.heads), of(4 * seed + 1, shape.heads));
        let (k, v) = (of(4 * seed + 2, shape.kv_heads), of(4 * seed + 3, shape.kv_heads));
        let (out, lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; rows * shape.heads]);
        let scale = 1.3 / (shape.head_dim as f32).sqrt();
        let mut case = Case { shape, scale, documents, q, k, v, dout, out, lse };
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let (out, lse) = case.forward(&wide(&case.q), &wide(&case.k), &wide(&case.v));
        for (i, lse) in lse.into_iter().enumerate().filter(|x| x.1.is_finite()) {
            case.lse[i] = lse as f32;
            for at in i * shape.head_dim..(i + 1) * shape.head_dim {
                case.out[at] = out[at] as f32;
            }
        }
        case
    }

    /// Attention and the logarithms of its sums, in f64; NaN where no document is.
    fn forward(&self, q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let HeadShape { heads, kv_heads, head_dim: dim } = self.shape;
        let (mut out, mut lse) = (vec![0.0; q.len()], vec![f64::NAN; self.lse.len()]);
        for document in &self.documents {
            for (t, h) in document.clone().flat_map(|t| (0..heads).map(move |h| (t, h))) {
                let (i, g) = (t * heads + h, h / (heads / kv_heads));
                let score = |j: usize| {
                    let k = &k[(j * kv_heads + g) * dim..][..dim];
                    let dot = q[i * dim..][..dim].iter().zip(k).map(|(q, k)| q * k).sum::<f64>();
                    dot * f64::from(self.scale)
                };
                let seen = document.start..t + 1;
                lse[i] = seen.clone().map(|j| score(j).exp()).sum::<f64>().ln();
                for j in seen {
                    let p = (score(j) - lse[i]).exp();
                    for c in 0..dim {
                        out[i * dim + c] += p * v[(j * kv_heads + g) * dim + c];
                    }
                }
            }
        }
        (out, lse)
    }

    fn saved(&self) -> Attended<'_> {
        Attended { q: &self.q, k: &self.k, v: &self.v, out: &self.out, lse: &self.lse }
    }

    fn run(&self, cpu: &Cpu, precision: Precision) -> Grads {
        self.run_with(cpu, precision, self.saved())
    }

    fn run_with(&self, cpu: &Cpu, precision: Precision, saved: Attended<'_>) -> Grads {
        let none = |n: usize| vec![f32::NAN; n];
        let mut g =
            Grads { dq: none(self.q.len()), dk: none(self.k.len()), dv: none(self.v.len()) };
        let grads = AttentionGrads { dq: &mut g.dq, dk: &mut g.dk, dv: &mut g.dv };
        let (shape, scale, documents) = (self.shape, self.scale, &self.documents);
        attention_backward(cpu, grads, &self.dout, saved, shape, scale, precision, documents);
        g
    }

    fn naive(&self, precision: Precision) -> Grads {
        let none = |n: usize| vec![0.0; n];
        let mut g =
            Grads { dq: none(self.q.len()), dk: none(self.k.len()), dv: none(self.v.len()) };
        let grads = AttentionGrads { dq: &mut g.dq, dk: &mut g.dk, dv: &mut g.dv };
        let (saved, shape, scale) = (self.saved(), self.shape, self.scale);
        naive::attention_backward(
            grads,
            &self.dout,
            saved,
            shape,
            scale,
            precision,
            &self.documents,
        );
        g
    }

    /// Central differences of sum(dout out) by every number of q, k and v.
    fn slopes(&self) -> [Vec<f64>; 3] {
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let mut inputs = [wide(&self.q), wide(&self.k), wide(&self.v)];
        let dout = wide(&self.dout);
        let mut slopes = inputs.clone();
        for which in 0..3 {
            for i in 0..inputs[which].len() {
                let x = inputs[which][i];
                let [above, below] = [1e-4, -1e-4].map(|step| {
                    inputs[which][i] = x + step;
                    let (out, _) = self.forward(&inputs[0], &inputs[1], &inputs[2]);
                    out.iter().zip(&dout).map(|(out, dout)| out * dout).sum::<f64>()
                });
                inputs[which][i] = x;
                slopes[which][i] = (above - below) / 2e-4;
            }
        }
        slopes
    }
}

impl Grads {
    fn all(&self) -> [&[f32]; 3] {
        [&self.dq, &self.dk, &self.dv]
    }
}

fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> HeadShape {
    HeadShape { heads, kv_heads, head_dim }
}

/// |got - want| over |want| as vectors, and over 0.3 a number (its terms) where a gradient is all rounding.
fn distance(got: &[f32], want: &[f32]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut got.iter().zip(want).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let floor = 0.3 * (want.len() as f64).sqrt();
    off / (norm(&mut want.iter().map(|x| f64::from(*x))) + floor)
}

#[test]
fn gradients_agree_with_their_definition_in_every_class() {
    let cases: [(HeadShape, &[usize], usize); 9] = [
        (shape(1, 1, 8), &[1], 0),
        (shape(2, 2, 16), &[1, 2, 1, 33], 1),
        (shape(4, 2, 48), &[97, 15, 160], 0),
        (shape(3, 1, 64), &[300], 2),
        (shape(4, 1, 20), &[95, 1, 96, 49], 0),
        (shape(8, 1, 32), &[17, 48, 50], 3),
        (shape(2, 1, 9), &[64, 100], 0),
        (shape(2, 2, 80), &[130], 0),
        (shape(2, 1, 128), &[113, 7], 5),
    ];
    for (i, (shape, lengths, gap)) in cases.into_iter().enumerate() {
        let case = Case::new(i as u64, shape, lengths, gap);
        for precision in [Precision::F32, Precision::Bf16] {
            let want = case.naive(precision);
            // A score is a sum of K terms, a gradient one of up to 300: roundings of either sign.
            // In bf16 one weight in a thousand rounds the other way, by one part in 256.
            let tolerance = match precision {
                Precision::F32 => 4e-6,
                Precision::Bf16 => 5e-4,
            };
            for class in Class::available() {
                let got = case.run(&Cpu::new(class, 2), precision);
                for (name, (got, want)) in
                    ["dq", "dk", "dv"].iter().zip(got.all().into_iter().zip(want.all()))
                {
                    let off = distance(got, want);
                    assert!(off <= tolerance, "{class} {precision:?} {shape:?} {name}: {off:.1e}");
                }
            }
        }
    }
}

#[test]
fn every_length_agrees_with_the_definition() {
    let cpu = Cpu::new(Class::best(), 2);
    for len in (1..40).chain([47, 48, 49, 95, 96, 97, 144, 191, 192, 193, 287, 288, 289]) {
        let case = Case::new(len as u64, shape(2, 1, 16), &[len], 0);
        for (precision, tolerance) in [(Precision::F32, 4e-6), (Precision::Bf16, 2e-3)] {
            let (got, want) = (case.run(&cpu, precision), case.naive(precision));
            for (got, want) in got.all().into_iter().zip(want.all()) {
                let off = distance(got, want);
                assert!(off <= tolerance, "{precision:?} {len}: {off:.1e}");
            }
        }
    }
}

/// Whether gradients are the slopes: each within 2e-5, some 100 times f32's rounding here.
fn are_slopes(got: &Grads, slopes: &[Vec<f64>; 3]) -> bool {
    got.all().into_iter().zip(slopes).all(|(got, slopes)| {
        got.iter().zip(slopes).all(|(got, slope)| (f64::from(*got) - slope).abs() <= 2e-5)
    })
}

fn small() -> Case {
    Case::new(7, shape(4, 2, 6), &[5, 1, 9], 1)
}

#[test]
fn gradients_are_the_slopes_of_attention() {
    let case = small();
    let slopes = case.slopes();
    for class in Class::available() {
        assert!(are_slopes(&case.run(&Cpu::new(class, 2), Precision::F32), &slopes), "{class}");
    }
    assert!(are_slopes(&case.naive(Precision::F32), &slopes));
}

#[test]
fn each_mutant_is_caught() {
    let case = small();
    let slopes = case.slopes();
    let cpu = Cpu::new(Class::best(), 1);
    let right = case.run(&cpu, Precision::F32);
    let caught = |name: &str, grads: &Grads| assert!(!are_slopes(grads, &slopes), "{name} lives");
    let all = |x: &[f32], factor: f32| x.iter().map(|x| x * factor).collect::<Vec<_>>();
    caught("the sign of dq", &Grads { dq: all(&right.dq, -1.0), ..right.clone() });
    caught("the sign of dv", &Grads { dv: all(&right.dv, -1.0), ..right.clone() });
    caught("dk without scale", &Grads { dk: all(&right.dk, 1.0 / case.scale), ..right.clone() });
    caught("dq without scale", &Grads { dq: all(&right.dq, 1.0 / case.scale), ..right.clone() });
    let mut lse = case.lse.clone();
    lse.rotate_right(4);
    caught(
        "lse of the row before",
        &case.run_with(&cpu, Precision::F32, Attended { lse: &lse, ..case.saved() }),
    );
    let none = vec![0.0; case.out.len()];
    caught("no D", &case.run_with(&cpu, Precision::F32, Attended { out: &none, ..case.saved() }));
    let mut heads = case.out.clone();
    heads.chunks_exact_mut(12).for_each(|pair| pair.rotate_left(6));
    caught(
        "D of another head",
        &case.run_with(&cpu, Precision::F32, Attended { out: &heads, ..case.saved() }),
    );
    let joined = Case { documents: vec![1..6, 7..8, 8..18], ..small() };
    caught("documents that see each other", &joined.run(&cpu, Precision::F32));
    let mut edge = right.clone();
    for (t, h) in case.documents.iter().cloned().flatten().flat_map(|t| (0..4).map(move |h| (t, h)))
    {
        let (i, g) = ((t * 4 + h) * 6, (t * 2 + h / 2) * 6);
        let score: f32 = (0..6).map(|c| case.q[i + c] * case.k[g + c]).sum();
        let p = (score * case.scale - case.lse[t * 4 + h]).exp();
        (0..6).for_each(|c| edge.dv[g + c] -= p * case.dout[i + c]);
    }
    caught("rows that do not see themselves", &edge);
}

#[test]
fn packing_and_threads_change_no_bit() {
    for class in Class::available() {
        for precision in [Precision::F32, Precision::Bf16] {
            let case = Case::new(3, shape(4, 2, 24), &[130, 1, 97, 60], 3);
            let packed = case.run(&Cpu::new(class, 1), precision);
            assert_eq!(case.run(&Cpu::new(class, 3), precision), packed, "{class} threads");
            let (wide, narrow) = (4 * 24, 2 * 24);
            for document in &case.documents {
                let part = |x: &[f32], width: usize| {
                    x[document.start * width..document.end * width].to_vec()
                };
                let alone = Case {
                    shape: case.shape,
                    scale: case.scale,
                    documents: vec![Range { start: 0, end: document.len() }],
                    q: part(&case.q, wide),
                    k: part(&case.k, narrow),
                    v: part(&case.v, narrow),
                    dout: part(&case.dout, wide),
                    out: part(&case.out, wide),
                    lse: part(&case.lse, 4),
                };
                let got = alone.run(&Cpu::new(class, 2), precision);
                let want = Grads {
                    dq: part(&packed.dq, wide),
                    dk: part(&packed.dk, narrow),
                    dv: part(&packed.dv, narrow),
                };
                assert_eq!(got, want, "{class} {document:?}");
            }
            let gap = &packed.dq[..3 * wide];
            assert!(gap.iter().all(|x| *x == 0.0), "rows of no document have no gradient");
        }
    }
}

#[test]
fn the_heads_of_a_group_add_in_order() {
    // Each head alone, then their sum: the bits of the group.
    for class in Class::available() {
        let cpu = Cpu::new(class, 2);
        let case = Case::new(5, shape(3, 1, 16), &[70], 0);
        let packed = case.run(&cpu, Precision::F32);
        let mut sum = vec![0.0f32; case.v.len()];
        for h in 0..3 {
            let part = |x: &[f32], width: usize| -> Vec<f32> {
                let head = |t: usize| x[(t * 3 + h) * width..][..width].to_vec();
                (0..70).flat_map(head).collect()
            };
            let alone = Case {
                shape: shape(1, 1, 16),
                scale: case.scale,
                documents: case.documents.clone(),
                q: part(&case.q, 16),
                k: case.k.clone(),
                v: case.v.clone(),
                dout: part(&case.dout, 16),
                out: part(&case.out, 16),
                lse: part(&case.lse, 1),
            };
            let got = alone.run(&cpu, Precision::F32);
            assert_eq!(part(&packed.dq, 16), got.dq, "{class}");
            sum.iter_mut().zip(got.dv).for_each(|(sum, dv)| *sum += dv);
        }
        assert_eq!(packed.dv, sum, "{class}");
    }
}

#[test]
#[should_panic(expected = "document 2..9 after row 3 of 8")]
fn documents_out_of_order_are_refused() {
    let mut case = Case::new(1, shape(1, 1, 4), &[3, 5], 0);
    case.documents[1] = 2..9;
    case.run(&Cpu::new(Class::Portable, 1), Precision::F32);
}
