//! What the tests of stages share: recorded models, and runs that must not move a bit.

#![allow(dead_code)] // each test takes some of it
#![allow(clippy::unwrap_used)] // helpers of tests too

use std::path::{Path, PathBuf};
use std::sync::Arc;

use herd_model::Checkpoint;
use herd_model::llama::{Llama, Training};
use herd_tensor::{Class, Device, Format, Tape};

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
