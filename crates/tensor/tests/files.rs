//! Files recorded by the reference packages read equal, and what Herd writes reads back equal.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use herd_kernels::Format;
use herd_tensor::files::{
    Archive, Array, DType, FileError, GgufWriter, Kind, Metadata, PthWriter, SafetensorsWriter,
    ShardAxis, ShardedWriter, TensorInfo, Value,
};
use serde_json::Value as Json;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/files").join(name)
}

fn expected() -> serde_json::Map<String, Json> {
    serde_json::from_slice(&fs::read(testdata("expected.json")).unwrap()).unwrap()
}

fn rule(name: &str) -> ShardAxis {
    match name {
        "tok_embeddings.weight" | "wq.weight" => ShardAxis::Rows,
        "wo.weight" => ShardAxis::Columns,
        _ => ShardAxis::Replicated,
    }
}

fn open(name: &str) -> Archive {
    Archive::open_ranks(testdata(name), rule).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_unknown(info: &TensorInfo) -> bool {
    matches!(info.dtype, DType::Ggml(_))
}

#[test]
fn every_recorded_tensor_reads_equal() {
    for (file, recorded) in expected() {
        let archive = open(&file);
        let rows = recorded["tensors"].as_array().unwrap();
        assert_eq!(archive.tensors().len(), rows.len(), "{file}");
        for row in rows {
            let name = row["name"].as_str().unwrap();
            let info = archive.tensor(name).unwrap();
            let shape: Vec<usize> = serde_json::from_value(row["shape"].clone()).unwrap();
            if is_unknown(info) {
                let error = archive.bytes(info).unwrap_err();
                assert!(error.to_string().ends_with(
                    "tensor IQ2_XXS.weight is stored as ggml type 16 (IQ2_XXS), which herd does not read"
                ));
                continue;
            }
            assert_eq!(info.shape, shape, "{file} {name}");
            assert_eq!(info.dtype.to_string(), row["dtype"].as_str().unwrap(), "{file} {name}");
            assert_eq!(
                hex(&archive.bytes(info).unwrap()),
                row["hex"].as_str().unwrap(),
                "{file} {name}"
            );
        }
    }
}

#[test]
fn recorded_metadata_reads_equal() {
    for (file, recorded) in expected() {
        let archive = open(&file);
        for (key, value) in recorded["metadata"].as_object().unwrap() {
            let metadata = archive.metadata();
            match value {
                Json::Bool(x) => assert_eq!(metadata.get::<bool>(key).unwrap(), *x),
                Json::String(x) => assert_eq!(metadata.get::<&str>(key).unwrap(), x),
                Json::Number(x) if x.is_f64() => {
                    assert_eq!(metadata.get::<f64>(key).unwrap(), x.as_f64().unwrap());
                }
                Json::Number(x) => {
                    assert_eq!(metadata.get::<i64>(key).unwrap(), x.as_i64().unwrap())
                }
                Json::Array(items) => match metadata.value(key).unwrap() {
                    Value::Array(array) => assert_eq!(array.len(), items.len(), "{file} {key}"),
                    other => panic!("{file} {key}: {other:?}"),
                },
                other => panic!("{file} {key}: {other:?}"),
            }
        }
    }
}

#[test]
fn gguf_arrays_and_types_read_as_written() {
    let archive = open("small.gguf");
    assert_eq!(archive.kind(), Kind::Gguf);
    let metadata = archive.metadata();
    assert_eq!(metadata.get::<&[String]>("test.strings").unwrap(), ["a", "", "ﬀ"]);
    assert_eq!(metadata.get::<Vec<i64>>("test.ints").unwrap(), [1, -2, 3]);
    assert_eq!(metadata.get::<&[f32]>("test.floats").unwrap(), [0.5, 0.25]);
    assert_eq!(metadata.value("test.bools"), Some(&Value::Array(Array::Bool(vec![true, false]))));
    assert_eq!(metadata.value("test.uint8"), Some(&Value::U8(200)));
    assert_eq!(metadata.iter().next().unwrap().0, "general.architecture");
}

#[test]
fn version_2_reads_like_3_and_others_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.gguf");
    let mut bytes = fs::read(testdata("small.gguf")).unwrap();
    let mut at_version = |version: u8| {
        bytes[4] = version;
        fs::write(&path, &bytes).unwrap();
        Archive::open(&path)
    };
    assert_eq!(at_version(2).unwrap().tensors(), open("small.gguf").tensors());
    assert!(matches!(at_version(1), Err(FileError::Unsupported { .. })));
    assert!(
        at_version(4).unwrap_err().to_string().ends_with("the gguf version is 4, expected 2 or 3")
    );
}

#[test]
fn foreign_kinds_are_refused_with_a_hint() {
    for (name, what) in [
        ("big_endian.gguf", "is a big-endian gguf"),
        ("legacy.pth", "is a torch file from before the zip format"),
    ] {
        let error = Archive::open(testdata(name)).unwrap_err();
        assert!(error.to_string().ends_with(what), "{error}");
        assert!(error.hint().is_some());
    }
    let error = Archive::open(testdata("expected.json")).unwrap_err();
    assert!(matches!(error, FileError::Json { .. }), "{error}");
}

#[test]
fn ranks_need_a_rule_that_fits() {
    let error = Archive::open(testdata("ranks")).unwrap_err();
    assert!(matches!(error, FileError::Ranks { ranks: 2, .. }), "{error}");
    let error = Archive::open_ranks(testdata("ranks"), |_| ShardAxis::Columns).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("tensor norm.weight: the number of axes is 1, expected at least 2")
    );
    let error = Archive::open_ranks(testdata("ranks"), |_| ShardAxis::Rows);
    assert_eq!(error.unwrap().tensor("wo.weight").unwrap().shape, [8, 3]);
}

/// Each tensor of `archive` in `to` has the same bytes.
fn assert_equal(archive: &Archive, to: &Path, tensors: &[TensorInfo]) {
    let back = Archive::open(to).unwrap();
    assert_eq!(back.tensors(), tensors);
    for info in tensors {
        assert_eq!(back.bytes(info).unwrap(), archive.bytes(info).unwrap(), "{}", info.name);
    }
}

/// The tensors of `archive` that `fits` picks.
fn picked(archive: &Archive, fits: impl Fn(&TensorInfo) -> bool) -> Vec<TensorInfo> {
    archive.tensors().iter().filter(|info| fits(info)).cloned().collect()
}

#[test]
fn gguf_written_is_gguf_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    for name in ["small.gguf", "aligned.gguf"] {
        let archive = open(name);
        let tensors = picked(&archive, |info| !is_unknown(info));
        let mut writer = GgufWriter::create(&path, archive.metadata(), &tensors).unwrap();
        for info in &tensors {
            writer.write_tensor(&info.name, &archive.bytes(info).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        assert_equal(&archive, &path, &tensors);
        let back = Archive::open(&path).unwrap();
        assert!(back.metadata().iter().eq(archive.metadata().iter()));
    }
}

#[test]
fn nested_gguf_arrays_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let mut metadata = Metadata::default();
    let inner = vec![Array::U16(vec![1]), Array::String(vec!["x".into()]), Array::F64(vec![])];
    metadata.insert("nested", Value::Array(Array::Array(inner)));
    GgufWriter::create(&path, &metadata, &[]).unwrap().finish().unwrap();
    assert!(Archive::open(&path).unwrap().metadata().iter().eq(metadata.iter()));
}

#[test]
fn safetensors_written_is_safetensors_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let archive = open("small.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &[("a", "b\"")], archive.tensors()).unwrap();
    for info in archive.tensors() {
        writer.write_tensor(&info.name, &archive.bytes(info).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    assert_equal(&archive, &path, archive.tensors());
    assert_eq!(Archive::open(&path).unwrap().metadata().get::<&str>("a").unwrap(), "b\"");
    let header_bytes = u64::from_le_bytes(fs::read(&path).unwrap()[..8].try_into().unwrap());
    assert_eq!(header_bytes % 8, 0);
}

#[test]
fn shards_of_every_size_come_back_and_are_not_written_over() {
    let archive = open("small.safetensors");
    for shard_bytes_max in [0, 1, 100, 200, 1000, usize::MAX] {
        let folder = tempfile::tempdir().unwrap();
        let create = || ShardedWriter::create(folder.path(), archive.tensors(), shard_bytes_max);
        let mut writer = create().unwrap();
        for info in archive.tensors() {
            writer.write_tensor(&info.name, &archive.bytes(info).unwrap()).unwrap();
        }
        assert!(Archive::open(folder.path()).is_err(), "nothing is visible yet");
        writer.finish().unwrap();
        assert_equal(&archive, folder.path(), archive.tensors());
        let files = fs::read_dir(folder.path()).unwrap().count();
        match files {
            1 => assert!(folder.path().join("model.safetensors").exists()),
            _ => assert!(matches!(create(), Err(FileError::Exists { .. }))),
        }
    }
}

#[test]
fn pth_written_is_pth_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("consolidated.00.pth");
    let archive = open("small.pth");
    let mut writer = PthWriter::create(&path, archive.tensors()).unwrap();
    for info in archive.tensors() {
        writer.write_tensor(&info.name, &archive.bytes(info).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    assert_equal(&archive, &path, archive.tensors());
    assert_equal(&archive, folder.path(), archive.tensors());
}

#[test]
fn writers_refuse_what_was_not_announced_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let info = |name: &str, dtype| TensorInfo { name: name.into(), shape: vec![2, 2], dtype };
    let (a, b) = (info("a", DType::I8), info("b", DType::I8));
    let start = |tensors: &[TensorInfo]| GgufWriter::create(&path, &Metadata::default(), tensors);

    assert!(start(&[a.clone(), a.clone()]).is_err());
    assert!(start(&[info("a", DType::Bool)]).is_err());
    assert!(start(&[info("a", DType::Format(Format::Q4_0))]).is_err());
    assert!(start(&[info(&"n".repeat(64), DType::I8)]).is_err());
    for (name, length) in [("b", 4), ("a", 5)] {
        let mut writer = start(&[a.clone(), b.clone()]).unwrap();
        assert!(writer.write_tensor(name, &vec![0; length]).is_err());
    }
    let mut writer = start(&[a, b]).unwrap();
    writer.write_tensor("a", &[0; 4]).unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.ends_with("tensor b: it is missing, expected written"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let missing = folder.path().join("no/such/folder.gguf");
    assert!(GgufWriter::create(&missing, &Metadata::default(), &[]).is_err());
}

#[test]
fn an_index_may_name_only_what_its_shards_hold() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        fs::copy(testdata("sharded").join(name), folder.path().join(name)).unwrap();
    }
    let index = folder.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(testdata("sharded/model.safetensors.index.json")).unwrap();
    fs::write(&index, text.replace("layer.2.w", "layer.3.w")).unwrap();
    let error = Archive::open(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("model-00002-of-00002.safetensors has no tensor layer.3.w"), "{error}");
    fs::write(&index, text.replace("00002-of", "00003-of")).unwrap();
    assert!(matches!(Archive::open(&index), Err(FileError::Io { .. })));
    fs::write(&index, text).unwrap();
    assert_eq!(Archive::open(&index).unwrap().tensors().len(), 4);
}

#[test]
fn a_split_gguf_opens_by_any_part_and_must_be_whole() {
    let folder = tempfile::tempdir().unwrap();
    let part = |i: usize| folder.path().join(format!("m-{i:05}-of-00002.gguf"));
    for i in [1, 2] {
        let mut metadata = Metadata::default();
        metadata.insert("split.no", Value::U16(i as u16 - 1));
        metadata.insert("split.count", Value::U16(2));
        metadata.insert("split.tensors.count", Value::I32(2));
        let info = TensorInfo { name: format!("t{i}"), shape: vec![3], dtype: DType::I8 };
        let mut writer = GgufWriter::create(part(i), &metadata, &[info]).unwrap();
        writer.write_tensor(&format!("t{i}"), &[i as u8; 3]).unwrap();
        writer.finish().unwrap();
    }
    for path in [part(1), part(2), folder.path().to_owned()] {
        let archive = Archive::open(path).unwrap();
        for i in [1, 2] {
            let info = archive.tensor(&format!("t{i}")).unwrap();
            assert_eq!(*archive.bytes(info).unwrap(), [i as u8; 3]);
        }
    }
    fs::copy(part(1), folder.path().join("alone.gguf")).unwrap();
    let error = Archive::open(folder.path().join("alone.gguf")).unwrap_err().to_string();
    assert!(error.ends_with("the number of parts is 1, expected 2"), "{error}");
    fs::remove_file(part(2)).unwrap();
    assert!(matches!(Archive::open(part(1)), Err(FileError::Io { .. })));
}
