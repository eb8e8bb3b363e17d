//! Averages of whole checkpoints, held against the formula, and what is refused.

#![allow(clippy::unwrap_used)] // helpers of tests too

use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use herd_model::checkpoint::Checkpoint;
use herd_tensor::files::{Archive, DType, ShardedWriter, TensorInfo};
use herd_tensor::{Format, blocks};
use herd_train::average::{AverageError, Job, Parent, average};
use sha2::{Digest, Sha256};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/llama3_gqa");

/// Writes the recorded model as `name`, in `format`, with `change` made to each tensor's numbers.
fn write(
    folder: &Path,
    name: &str,
    format: Format,
    change: impl Fn(&str, &mut Vec<f32>),
) -> PathBuf {
    let (path, archive) = (folder.join(name), Archive::open(MODEL).unwrap());
    fs::create_dir(&path).unwrap();
    fs::copy(Path::new(MODEL).join("config.json"), path.join("config.json")).unwrap();
    let info = |info: &TensorInfo| TensorInfo { dtype: DType::Format(format), ..info.clone() };
    let infos: Vec<TensorInfo> = archive.tensors().iter().map(info).collect();
    let mut writer = ShardedWriter::create(&path, &infos, usize::MAX).unwrap();
    for info in archive.tensors() {
        let mut x = numbers(&archive, &info.name);
        change(&info.name, &mut x);
        let mut bytes = vec![0; format.bytes(x.len()).unwrap()];
        match format {
            Format::F32 => bytes = x.iter().flat_map(|x| x.to_le_bytes()).collect(), // NaN too
            _ => blocks::quantise(format, &x, &mut bytes).unwrap(),
        }
        writer.write_tensor(&info.name, &bytes).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn numbers(archive: &Archive, name: &str) -> Vec<f32> {
    let info = archive.tensor(name).unwrap();
    let mut x = vec![0.0; info.elements().unwrap()];
    blocks::unpack(info.dtype.format().unwrap(), &archive.bytes(info).unwrap(), &mut x);
    x
}

fn scaled(by: f32) -> impl Fn(&str, &mut Vec<f32>) {
    move |_, x| x.iter_mut().enumerate().for_each(|(i, x)| *x *= by + (i % 7) as f32 / 64.0)
}

fn run(paths: &[&Path], weights: &[f64], out: &Path) -> Result<(), AverageError> {
    let parents: Vec<Parent<'_>> =
        paths.iter().zip(weights).map(|(path, weight)| Parent { path, weight: *weight }).collect();
    let files = [("tokenizer.json".to_owned(), b"{}".to_vec())];
    let (parents, files, tool) = (&parents[..], &files[..], "herd test");
    average(&Job { parents, out, files, tool }, &mut |_, _| {})
}

/// The number of a format that lies nearest, of two the one whose bits are even: by trying those
/// about it, since `half` does not see the low bits of an f64.
fn nearest(format: Format, x: f64) -> f32 {
    let about = |bits: u16, value: fn(u16) -> f32| {
        let around = [bits.saturating_sub(1), bits, bits + 1].map(|bits| (bits, value(bits)));
        let key = |(bits, value): &(u16, f32)| ((f64::from(*value) - x).abs(), bits & 1);
        // Beside zero lies a NaN.
        let numbers = around.into_iter().filter(|(_, value)| !value.is_nan());
        numbers.min_by(|a, b| key(a).partial_cmp(&key(b)).unwrap()).unwrap().1
    };
    match format {
        _ if x == 0.0 => 0.0,
        Format::F16 => about(f16::from_f64(x).to_bits(), |bits| f16::from_bits(bits).to_f32()),
        Format::BF16 => about(bf16::from_f64(x).to_bits(), |bits| bf16::from_bits(bits).to_f32()),
        _ => x as f32,
    }
}

#[test]
fn the_mean_is_the_formula_rounded_to_the_first_format() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(folder.path(), "a", Format::F32, |_, _| {});
    let b = write(folder.path(), "b", Format::BF16, scaled(0.5));
    let c = write(folder.path(), "c", Format::F16, scaled(-2.0));
    let orders: [[(&PathBuf, f64); 3]; 3] = [
        [(&a, 1.0), (&b, 1.0), (&c, 1.0)],
        [(&b, 2.0), (&c, 0.5), (&a, 1.0)],
        [(&c, 1.0), (&a, 0.0), (&b, 3.0)],
    ];
    for (i, order) in orders.iter().enumerate() {
        let out = folder.path().join(format!("mean-{i}"));
        let (paths, weights) = (order.map(|p| p.0.as_path()), order.map(|p| p.1));
        run(&paths, &weights, &out).unwrap();
        assert!(Checkpoint::open(&out).is_ok());
        let (mean, parents) =
            (Archive::open(&out).unwrap(), paths.map(|p| Archive::open(p).unwrap()));
        assert_eq!(mean.tensors(), parents[0].tensors(), "names, shapes, formats, order");
        for info in mean.tensors() {
            let got = numbers(&mean, &info.name);
            let parts = parents.each_ref().map(|parent| numbers(parent, &info.name));
            for (n, got) in got.iter().enumerate() {
                let sum: f64 = (0..3).map(|p| weights[p] * f64::from(parts[p][n])).sum();
                let exact = sum / weights.iter().sum::<f64>();
                let expected = nearest(info.dtype.format().unwrap(), exact);
                assert_eq!(*got, expected, "{} {n}", info.name);
            }
        }
    }
}

#[test]
fn the_mean_of_equals_is_their_bytes_and_says_where_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    for format in [Format::F32, Format::BF16, Format::F16] {
        let a = write(folder.path(), format.name(), format, scaled(1.0));
        let out = folder.path().join(format!("{}-mean", format.name()));
        run(&[&a, &a, &a], &[1.0; 3], &out).unwrap();
        let read = |folder: &Path, name: &str| fs::read(folder.join(name)).unwrap();
        for name in ["model.safetensors", "config.json"] {
            assert!(read(&a, name) == read(&out, name), "{name} of {format:?}");
        }
        assert_eq!(read(&out, "tokenizer.json"), b"{}");
        let said: serde_json::Value = serde_json::from_slice(&read(&out, "herd.json")).unwrap();
        let hash = Sha256::digest(read(&a, "model.safetensors"));
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(said["stage"], "average");
        assert_eq!(said["parents"][2]["name"], format.name());
        assert_eq!(said["parents"][2]["sha256"]["model.safetensors"], hash);
    }
}

#[test]
fn what_does_not_belong_together_is_named_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(folder.path(), "good", Format::F32, |_, _| {});
    let last = "model.norm.weight";
    let nan = write(folder.path(), "nan", Format::F32, |name, x| {
        if name == last {
            x[3] = f32::NAN;
        }
    });
    let other = write(folder.path(), "other", Format::F32, |_, _| {});
    let config = fs::read_to_string(other.join("config.json")).unwrap();
    let theta = config.replace("\"rope_theta\": ", "\"rope_theta\": 9");
    assert_ne!(theta, config);
    fs::write(other.join("config.json"), theta).unwrap();
    let spoken = write(folder.path(), "spoken", Format::F32, |_, _| {});
    fs::write(spoken.join("tokenizer.json"), "{}").unwrap();
    let out = folder.path().join("mean");
    let refuse = |bad: &Path| run(&[&good, bad], &[1.0; 2], &out).unwrap_err();
    let error = refuse(&nan);
    let AverageError::NotFinite { path, tensor, index: 3, .. } = &error else { panic!("{error}") };
    assert_eq!((path.as_path(), tensor.as_str()), (nan.as_path(), last));
    let error = refuse(&other);
    assert!(matches!(&error, AverageError::Config { key, .. } if key == "rope_theta"), "{error}");
    let error = refuse(&spoken);
    assert!(matches!(error, AverageError::Tokenizer { file: "tokenizer.json", .. }), "{error}");
    assert!(matches!(refuse(&folder.path().join("none")), AverageError::Checkpoint(_)));
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 4, "the four models and nothing else");
    run(&[&good], &[1.0], &out).unwrap();
    assert!(matches!(refuse(&good), AverageError::File(_)), "nothing is overwritten");
}
