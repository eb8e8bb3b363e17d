//! Converting there and back loses nothing but what is named; quantising keeps close.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::fs;
use std::path::Path;

use common::{RECORDED, recorded};
use herd_model::convert::{Job, keep, write};
use herd_model::names::{Part, Style, all_parts};
use herd_model::recipe::Recipe;
use herd_model::{Checkpoint, CheckpointError, Config, GenerationDefaults, RopeScaling};
use herd_tensor::files::{Archive, Array, DType, FileError, Metadata, Value};
use herd_tensor::{Class, Device, Format};

fn device() -> Device {
    Device::cpu(Class::Portable, 2)
}

fn run(
    from: &Checkpoint,
    out: &Path,
    style: Style,
    plan: &dyn Fn(Part) -> Format,
) -> Result<Vec<String>, CheckpointError> {
    let job = Job { out, style, plan, metadata: &Metadata::default(), files: &[], adapter: None };
    write(&device(), from, &job, &mut |_, _| {})
}

/// `from` in another style, formats kept.
fn convert(from: &Checkpoint, out: &Path, style: Style) -> (Checkpoint, Vec<String>) {
    let lost = run(from, out, style, &keep(from, style, None)).unwrap();
    (Checkpoint::open(out).unwrap(), lost)
}

fn assert_same_parts(a: &Checkpoint, b: &Checkpoint) {
    for part in all_parts(&a.config) {
        assert!(a.part(part).unwrap() == b.part(part).unwrap(), "{part:?}");
    }
}

#[test]
fn recorded_folders_come_back_from_gguf_and_meta() {
    for name in RECORDED {
        let folder = tempfile::tempdir().unwrap();
        let hf = Checkpoint::open(recorded(name)).unwrap();
        for style in [Style::Gguf, Style::Meta] {
            let there = folder.path().join(format!("{style:?}"));
            if let Err(refused) = run(&hf, &there, style, &keep(&hf, style, None)) {
                let scaled = hf.config.rope_scaling != RopeScaling::None;
                assert!(matches!(refused, CheckpointError::Config { .. }) && scaled, "{refused}");
                assert!(refused.hint().is_some());
                assert!(!there.exists(), "{name}");
                continue;
            }
            let (middle, back) =
                (Checkpoint::open(&there).unwrap(), folder.path().join(format!("{style:?}-hf")));
            assert_same_parts(&hf, &middle);
            // The recorded stretches are of 64 positions, which GGUF's divisors do not tell.
            if let RopeScaling::Divisors(_) = middle.config.rope_scaling {
                assert!(run(&middle, &back, Style::Hf, &keep(&middle, Style::Hf, None)).is_err());
                continue;
            }
            let (back, _) = convert(&middle, &back, Style::Hf);
            let context =
                if style == Style::Meta { back.config.context } else { hf.config.context };
            assert_eq!(back.config, Config { context, ..hf.config.clone() }, "{name} {style:?}");
            for info in hf.archive().tensors() {
                let own = back.archive().tensor(&info.name).unwrap();
                assert_eq!(own, info);
                let bytes = |c: &Checkpoint| c.archive().bytes(info).unwrap().into_owned();
                assert!(bytes(&back) == bytes(&hf), "{name} {}", info.name);
            }
            if style == Style::Gguf {
                assert_eq!(back.generation, hf.generation);
            }
        }
    }
}

/// A model of rows of 256, in GGUF, untied unless said.
fn wide(folder: &Path, tied: bool) -> Checkpoint {
    let config = Config { width: 256, head_dim: 64, ffn_width: 512, tied, ..common::config() };
    common::write_hf(folder, &config, &common::tensors(&config, Style::Hf));
    Checkpoint::open(folder).unwrap()
}

/// Bits of a code, or of a float's fraction.
fn bits(format: Format) -> i32 {
    match format {
        Format::F32 => 24,
        Format::F16 => 11,
        Format::BF16 | Format::Q8_0 => 8,
        Format::Q6_K => 6,
        Format::Q5_0 | Format::Q5_1 | Format::Q5_K => 5,
        Format::Q4_0 | Format::Q4_1 | Format::Q4_K | Format::IQ4_NL => 4,
        Format::Q3_K => 3,
        Format::Q2_K => 2,
    }
}

#[test]
fn every_recipe_keeps_close_to_the_parent() {
    let folder = tempfile::tempdir().unwrap();
    let parent = wide(folder.path(), false);
    for (name, recipe) in Recipe::all() {
        let out = folder.path().join(name).with_extension("gguf");
        let plan = |part| recipe.format(part, &parent.config);
        let lost = run(&parent, &out, Style::Gguf, &plan).unwrap();
        let child = Checkpoint::open(&out).unwrap();
        let metadata = child.archive().metadata();
        assert_eq!(metadata.get::<u32>("general.file_type").unwrap(), recipe.file_type());
        let said = lost.iter().any(|line| line.contains("rounded from F32 to"));
        // The numbers have 16 bits: bf16 rounds them.
        assert_eq!(said, !matches!(recipe, Recipe::F32), "{lost:?}");
        for part in all_parts(&parent.config) {
            let (own, stored) = (parent.part(part).unwrap().unpack(), child.part(part).unwrap());
            assert_eq!(stored.format, plan(part));
            let square = |x: f32| f64::from(x) * f64::from(x);
            let pairs = own.iter().zip(stored.unpack());
            let error: f64 = pairs.map(|(a, b)| square(a - b)).sum();
            let norm: f64 = own.iter().map(|x| square(*x)).sum();
            // Uniform numbers in 2^b equal steps are off by 2^-b of their norm; IQ4_NL's steps are
            // not equal, and scales are rounded.
            let most = 1.5 * f64::powi(2.0, -bits(stored.format));
            assert!(
                error.sqrt() <= most * norm.sqrt(),
                "{name} {part:?}: {}",
                (error / norm).sqrt()
            );
        }
    }
}

#[test]
fn threads_do_not_change_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    let parent = wide(folder.path(), true);
    let plan = |part| Recipe::Q4_K_M.format(part, &parent.config);
    let bytes = |threads: usize| {
        let out = folder.path().join("a.gguf");
        let metadata = Metadata::default();
        let job = Job {
            out: &out,
            style: Style::Gguf,
            plan: &plan,
            metadata: &metadata,
            files: &[],
            adapter: None,
        };
        write(&Device::cpu(Class::Portable, threads), &parent, &job, &mut |_, _| {}).unwrap();
        fs::read(out).unwrap()
    };
    assert!(bytes(1) == bytes(3));
}

#[test]
fn a_bf16_model_comes_back_from_gguf_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let parent = wide(folder.path(), false);
    let [hf, gguf, back] = ["bf16", "a.gguf", "back"].map(|name| folder.path().join(name));
    run(&parent, &hf, Style::Hf, &keep(&parent, Style::Hf, Some(Format::BF16))).unwrap();
    let bf16 = Checkpoint::open(&hf).unwrap();
    assert!(fs::read_to_string(hf.join("config.json")).unwrap().contains("\"bfloat16\""));
    let (middle, lost) = convert(&bf16, &gguf, Style::Gguf);
    assert_eq!(lost, [""; 0]);
    assert_eq!(middle.format(Part::AttnNorm(0)).unwrap(), Format::F32);
    assert_eq!(middle.format(Part::Q(0)).unwrap(), Format::BF16);
    let (_, lost) = convert(&middle, &back, Style::Hf);
    assert_eq!(lost, [""; 0]);
    for name in ["model.safetensors", "config.json"] {
        assert!(fs::read(hf.join(name)).unwrap() == fs::read(back.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn blocks_become_floats_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let parent = wide(folder.path(), true);
    let [q4, hf, meta] = ["q4.gguf", "hf", "meta"].map(|name| folder.path().join(name));
    run(&parent, &q4, Style::Gguf, &|part| Recipe::Q4_K_M.format(part, &parent.config)).unwrap();
    let q4 = Checkpoint::open(&q4).unwrap();
    for (out, style) in [(&hf, Style::Hf), (&meta, Style::Meta)] {
        let (child, lost) = convert(&q4, out, style);
        assert!(child.config.tied);
        assert!(lost.iter().all(|line| !line.contains("rounded")), "{lost:?}");
        for part in all_parts(&parent.config) {
            assert_eq!(q4.part(part).unwrap().unpack(), child.part(part).unwrap().unpack());
        }
        let q4 = Checkpoint::open(q4.path()).unwrap().unpacked();
        assert!(q4.part(Part::Q(1)).unwrap() == child.part(Part::Q(1)).unwrap());
        assert_eq!(q4.format(Part::Q(1)).unwrap(), Format::F32);
    }
    // Meta's code asks for a head in the file.
    let archive = Archive::open(&meta).unwrap();
    assert!(archive.find("output.weight").is_some());
    let half = folder.path().join("half");
    let lost = run(&q4, &half, Style::Hf, &keep(&q4, Style::Hf, Some(Format::F16))).unwrap();
    assert!(lost.iter().any(|line| line.contains("rounded from Q4_K to F16")), "{lost:?}");
}

#[test]
fn what_has_no_place_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { context: 1234, ..common::config() };
    common::write_hf(folder.path(), &config, &common::tensors(&config, Style::Hf));
    let path = folder.path().join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replacen('{', "{\n  \"initializer_range\": 0.02, \"use_cache\": null,", 1);
    fs::write(&path, text).unwrap();
    let hf = Checkpoint::open(folder.path()).unwrap();
    let (_, lost) = convert(&hf, &folder.path().join("a.gguf"), Style::Gguf);
    assert_eq!(lost, ["GGUF has no place for these keys: initializer_range"]);
    let (_, lost) = convert(&hf, &folder.path().join("meta"), Style::Meta);
    assert_eq!(
        lost,
        [
            "params.json has no context: readers will take 8192 for 1234",
            "params.json has no special ids and no sampling",
            "params.json has no place for these keys: initializer_range",
        ]
    );
    let (again, lost) = convert(&hf, &folder.path().join("hf"), Style::Hf);
    assert_eq!(
        (lost, fs::read(again.folder().join("config.json")).unwrap()),
        (vec![], fs::read(path).unwrap())
    );

    let gguf = folder.path().join("b.gguf");
    let mut metadata = common::metadata(&config);
    metadata.insert("general.name", Value::String("Tiny".into()));
    metadata.insert("general.sampling.top_k", Value::U32(40));
    common::write_gguf(&gguf, &metadata, &common::tensors(&config, Style::Gguf));
    let gguf = Checkpoint::open(&gguf).unwrap();
    let (back, lost) = convert(&gguf, &folder.path().join("hf2"), Style::Hf);
    assert_eq!(lost, ["the folder has no place for these keys: general.name"]);
    assert_eq!(back.generation, GenerationDefaults { top_k: Some(40), ..Default::default() });
}

#[test]
fn the_callers_metadata_and_files_are_carried() {
    let folder = tempfile::tempdir().unwrap();
    let parent = wide(folder.path(), false);
    let mut metadata = Metadata::default();
    let tokens = Value::Array(Array::String(vec!["a".into()]));
    metadata.insert("tokenizer.ggml.tokens", tokens.clone());
    let files = [("tokenizer.json".to_owned(), b"{}".to_vec())];
    let plan = |part| Recipe::Q8_0.format(part, &parent.config);
    let mut steps = Vec::new();
    let out = folder.path().join("a.gguf");
    let job = Job {
        out: &out,
        style: Style::Gguf,
        plan: &plan,
        metadata: &metadata,
        files: &files,
        adapter: None,
    };
    write(&device(), &parent, &job, &mut |done, all| steps.push((done, all))).unwrap();
    assert_eq!((steps[0], steps.last()), ((0, 21), Some(&(21, 21))));
    let gguf = Checkpoint::open(&out).unwrap();
    let own = gguf.archive().metadata();
    assert_eq!(own.value("tokenizer.ggml.tokens"), Some(&tokens));
    assert_eq!(own.get::<u32>("general.file_type").unwrap(), 7);
    assert_eq!(own.get::<u32>("general.quantization_version").unwrap(), 2);

    // GGUF to GGUF: what the file said stays, the file type follows.
    let half = folder.path().join("b.gguf");
    run(&gguf, &half, Style::Gguf, &keep(&gguf, Style::Gguf, Some(Format::F16))).unwrap();
    let half = Checkpoint::open(&half).unwrap();
    assert_eq!(half.archive().metadata().value("tokenizer.ggml.tokens"), Some(&tokens));
    assert_eq!(half.archive().metadata().get::<u32>("general.file_type").unwrap(), 1);

    let out = folder.path().join("hf");
    let plan = keep(&parent, Style::Hf, None);
    let job = Job {
        out: &out,
        style: Style::Hf,
        plan: &plan,
        metadata: &metadata,
        files: &files,
        adapter: None,
    };
    write(&device(), &parent, &job, &mut |_, _| {}).unwrap();
    assert_eq!(fs::read(out.join("tokenizer.json")).unwrap(), b"{}");
}

#[test]
fn a_failed_job_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = common::config();
    let mut tensors = common::tensors(&config, Style::Hf);
    let last = tensors.last_mut().unwrap();
    last.bytes[40..44].copy_from_slice(&f32::NAN.to_le_bytes());
    common::write_hf(folder.path(), &config, &tensors);
    let parent = Checkpoint::open(folder.path()).unwrap();
    let before = fs::read_dir(folder.path()).unwrap().count();
    for (name, style) in [("a.gguf", Style::Gguf), ("hf", Style::Hf), ("meta", Style::Meta)] {
        let out = folder.path().join(name);
        let error = run(&parent, &out, style, &|_| Format::F16).unwrap_err();
        assert!(matches!(error, CheckpointError::Number { .. }), "{error}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.starts_with("number 10 is NaN"), "{cause}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before, "{name}");
    }
    // Rows of 32 are no blocks of 256, and folders hold no blocks.
    for (name, style) in [("a.gguf", Style::Gguf), ("hf", Style::Hf), ("meta", Style::Meta)] {
        let out = folder.path().join(name);
        let error = run(&parent, &out, style, &|_| Format::Q4_K).unwrap_err();
        assert!(matches!(error, CheckpointError::File(_)), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), before, "{name}");
    }
}

#[test]
fn a_folder_that_is_taken_is_refused_and_a_dead_writers_part_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let parent = wide(folder.path(), false);
    let out = folder.path().join("out");
    fs::create_dir_all(folder.path().join(".out.part/old")).unwrap();
    fs::create_dir(&out).unwrap();
    let (child, _) = convert(&parent, &out, Style::Hf);
    assert_same_parts(&parent, &child);
    let error = run(&parent, &out, Style::Hf, &keep(&parent, Style::Hf, None)).unwrap_err();
    assert!(matches!(error, CheckpointError::File(FileError::Exists { .. })), "{error}");
    assert!(!folder.path().join(".out.part").exists());
    assert_eq!(DType::Format(Format::F32), parent.archive().tensors()[0].dtype);
}
