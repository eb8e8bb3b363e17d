//! A writer killed at any moment leaves the old file whole, and does not hinder the next one.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use herd_tensor::files::{Archive, DType, FileError, PthWriter, TensorInfo};

/// Tells the child where to write.
const PATH_VARIABLE: &str = "HERD_TEST_KILL_PATH";
const TENSORS: usize = 64;
const TENSOR_BYTES: usize = 1 << 16;

/// Writes a file whose every byte is `fill`.
fn write(path: &Path, fill: u8) -> Result<(), FileError> {
    let info = |i: usize| TensorInfo {
        name: format!("t{i}"),
        shape: vec![TENSOR_BYTES],
        dtype: DType::U8,
    };
    let tensors: Vec<TensorInfo> = (0..TENSORS).map(info).collect();
    let mut writer = PthWriter::create(path, &tensors)?;
    for info in &tensors {
        writer.write_tensor(&info.name, &vec![fill; TENSOR_BYTES])?;
    }
    writer.finish()
}

/// The one byte that fills the file.
fn fill(path: &Path) -> u8 {
    let archive = Archive::open(path).unwrap();
    assert_eq!(archive.tensors().len(), TENSORS);
    let first = archive.bytes(&archive.tensors()[0]).unwrap()[0];
    for info in archive.tensors() {
        assert!(archive.bytes(info).unwrap().iter().all(|byte| *byte == first));
    }
    first
}

/// Not a test by itself: the process that the test below kills.
#[test]
#[ignore = "run by a_killed_writer_leaves_a_whole_file"]
fn child_writes_for_ever() {
    let Some(path) = std::env::var_os(PATH_VARIABLE).map(PathBuf::from) else { return };
    for fill in (2..=255).cycle() {
        write(&path, fill).unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_a_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("consolidated.00.pth");
    for round in 0..12u64 {
        write(&path, 1).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child_writes_for_ever"])
            .env(PATH_VARIABLE, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(5 + 7 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(fill(&path) >= 1);
    }
    write(&path, 1).unwrap();
    assert_eq!(fill(&path), 1);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the part was taken over");
}
