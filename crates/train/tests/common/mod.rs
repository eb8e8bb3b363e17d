//! What the tests of stages share: recorded models, and runs that must not move a bit.

#![allow(dead_code)] // each test takes some of it
#![allow(clippy::unwrap_used)] // helpers of tests too

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use herd_model::Checkpoint;
use herd_model::llama::{Llama, Training};
use herd_model::names::{Style, name};
use herd_tensor::{Class, Device, Format, Tape};
use herd_train::Micro;

pub fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

/// A recorded model, ready to be trained, and its tape.
pub fn load(name: &str, device: Device, format: Format, recompute: bool) -> (Llama, Arc<Tape>) {
    let checkpoint = Checkpoint::open(testdata("models").join(name)).unwrap();
    let tape = Arc::new(Tape::default());
    let training = Training { tape: Arc::clone(&tape), format, recompute };
    let numbers = |part| checkpoint.part(part).map(|stored| stored.unpack());
    let model = Llama::trainable(&checkpoint.config, &device, 64, &training, numbers).unwrap();
    (model, tape)
}

/// Relatively, of numbers below 1 absolutely.
pub fn near(got: f64, want: f64, tolerance: f64, what: &str) {
    let error = (got - want).abs() / want.abs().max(1.0);
    assert!(error <= tolerance, "{what}: {got} against {want}, {error:e} of it");
}

/// The bits of all weights.
pub fn bits_of(model: &Llama) -> Vec<u64> {
    let bits = |weights: &[f32]| weights.iter().map(|w| u64::from(w.to_bits())).collect::<Vec<_>>();
    model.params().into_iter().flat_map(|p| p.param.with_master(bits)).collect()
}

/// What `trained` gives on a device, in a format, recomputing or not, so many rows at a time, is the same for any number of
/// threads and rows, recomputing or not, in every class.
pub fn expect_same_bits<T: PartialEq>(
    name: &str,
    trained: impl Fn(Device, Format, bool, usize) -> Vec<T>,
) {
    for class in Class::available() {
        for format in [Format::F32, Format::BF16] {
            let want = trained(Device::cpu(class, 1), format, false, 3);
            for (threads, recompute, each) in
                [(1, false, 1), (1, false, 2), (2, false, 3), (1, true, 3), (2, true, 1)]
            {
                let got = trained(Device::cpu(class, threads), format, recompute, each);
                let what = format!("{threads} threads, {recompute}, {each} rows at a time");
                assert!(got == want, "{name} in {class}, {}: {what}", format.name());
            }
        }
    }
}

/// The gradient of each tensor has the norm that was recorded.
pub fn expect_gradient(model: &Llama, norms: &BTreeMap<String, f64>, what: &str) {
    for p in model.params() {
        let name = name(p.part, Style::Hf).unwrap();
        let square = |g: &[f32]| g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
        let (got, want) = (p.param.with_gradient(square).sqrt(), norms[&name]);
        assert!((got / want - 1.0).abs() < 2e-5, "{what} {name}: {got}, {want}");
    }
}

/// Answers one behind the other, each behind its prompt, as many in a row as fit.
#[derive(Default)]
pub struct Rows {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    positions: Vec<u32>,
    documents: Vec<Range<usize>>,
    /// The places whose targets are the tokens of each answer.
    answers: Vec<Range<usize>>,
}

impl Rows {
    /// Places of a row; every answer fits.
    const LEN: usize = 32;

    /// Of prompts and answers.
    pub fn of<'a>(texts: impl Iterator<Item = (&'a [u32], &'a [u32])>) -> Rows {
        let mut rows = Rows::default();
        for (prompt, ids) in texts {
            let text = [prompt, ids].concat();
            let len = text.len() - 1;
            if rows.tokens.len() % Rows::LEN + len > Rows::LEN {
                rows.pad();
            }
            let start = rows.tokens.len();
            rows.tokens.extend(&text[..len]);
            rows.targets.extend(&text[1..]);
            rows.weights.extend((1..text.len()).map(|t| f32::from(u8::from(t >= prompt.len()))));
            rows.positions.extend(0..len as u32);
            rows.documents.push(start..start + len);
            rows.answers.push(start + len - ids.len()..start + len);
        }
        rows.pad();
        rows
    }

    fn pad(&mut self) {
        let (here, end) = (self.tokens.len(), self.tokens.len().next_multiple_of(Rows::LEN));
        if here < end {
            self.documents.push(here..end);
        }
        self.tokens.resize(end, 0);
        self.targets.resize(end, 0);
        self.weights.resize(end, 0.0);
        self.positions.extend(0..(end - here) as u32);
    }

    /// Gives `f` micro-batches of `each` rows, and the numbers and places of their answers.
    pub fn each(&self, each: usize, mut f: impl FnMut(&Micro<'_>, Vec<(usize, Range<usize>)>)) {
        let end = self.tokens.len();
        for first in (0..end).step_by(each * Rows::LEN) {
            let at = first..(first + each * Rows::LEN).min(end);
            let here = |d: &Range<usize>| d.start - at.start..d.end - at.start;
            let documents: Vec<_> =
                self.documents.iter().filter(|d| at.contains(&d.start)).map(here).collect();
            let micro = Micro {
                tokens: &self.tokens[at.clone()],
                targets: &self.targets[at.clone()],
                weights: &self.weights[at.clone()],
                positions: &self.positions[at.clone()],
                documents: &documents,
                seq_len: Rows::LEN,
            };
            let inside = self.answers.iter().enumerate().filter(|(_, d)| at.contains(&d.start));
            f(&micro, inside.map(|(i, place)| (i, here(place))).collect());
        }
    }
}
