//! Hostile files get a typed error: never a panic, a hang, or more memory than the file explains.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use herd_tensor::files::{Archive, FileError};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// One test at a time: memory is counted for the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// What reading may take beyond the size of the file.
const SLACK_BYTES: usize = 1 << 20;
/// What a byte of file may cost: a pickled object or a string takes more than its bytes.
const FACTOR: usize = 8;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

/// Opens a file and reads every tensor of it, and checks the memory that took.
fn read_all(path: &Path) -> Result<(), FileError> {
    let file_bytes = fs::metadata(path).unwrap().len() as usize;
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let result = Archive::open(path).and_then(|archive| {
        for info in archive.tensors() {
            let bytes = archive.bytes(info)?;
            assert_eq!(Some(bytes.len()), info.bytes());
        }
        Ok(())
    });
    let taken = MEMORY.peak_usage().saturating_sub(before);
    let most = file_bytes * FACTOR + SLACK_BYTES;
    assert!(taken <= most, "{}: {file_bytes} bytes took {taken}", path.display());
    result
}

#[test]
fn every_evil_file_gets_its_error() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let expected = fs::read(testdata("hostile/expected.json")).unwrap();
    let expected: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&expected).unwrap();
    assert!(expected.len() > 100);
    for (name, message) in expected {
        let error = match read_all(&testdata("hostile").join(&name)) {
            Err(error) => error.to_string(),
            Ok(()) => panic!("{name} was read"),
        };
        assert!(error.contains(message.as_str().unwrap()), "{name}: {error}");
        assert!(!error.ends_with('.') && error.len() < 600, "{name}: {error}");
    }
}

const RECORDED: [&str; 6] =
    ["small.gguf", "aligned.gguf", "small.safetensors", "small.pth", "protocol5.pth", "nested.pt"];

#[test]
fn every_truncation_is_an_error() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let folder = tempfile::tempdir().unwrap();
    for name in RECORDED {
        let whole = fs::read(testdata("files").join(name)).unwrap();
        let path = folder.path().join(name);
        read_all(&testdata("files").join(name)).map_or_else(only_unread_types, |()| ());
        fs::write(&path, &whole).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        for length in (0..whole.len()).rev() {
            file.set_len(length as u64).unwrap();
            // GGUF pads the last tensor; without its padding the file is whole.
            let padding = name.ends_with(".gguf") && whole[length..].iter().all(|byte| *byte == 0);
            match read_all(&path) {
                Err(error) => assert!(!error.to_string().is_empty()),
                Ok(()) => assert!(padding, "{name} of {length} bytes was read"),
            }
        }
    }
}

fn only_unread_types(error: FileError) {
    assert!(matches!(error, FileError::UnknownType { .. }), "{error}");
}

#[test]
fn flipped_bits_and_spliced_bytes_never_panic() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(1);
    for name in RECORDED {
        let whole = fs::read(testdata("files").join(name)).unwrap();
        let path = folder.path().join(name);
        for _ in 0..4000 {
            let mut bytes = whole.clone();
            for _ in 0..=random.below(3) {
                mutate(&mut bytes, &mut random);
            }
            fs::write(&path, &bytes).unwrap();
            let _ = read_all(&path);
            // ext4 waits for the disk when a file is written over, not when it is written anew.
            fs::remove_file(&path).unwrap();
        }
    }
}

/// One change of the kinds that break parsers. Half of them fall where the structure is: the start,
/// and for a zip the end.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    let at = match random.below(4) {
        0 => random.below(length.min(256)),
        1 => length - 1 - random.below(length.min(1024)),
        _ => random.below(length),
    };
    match random.below(7) {
        0 | 1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes[at] = random.next() as u8,
        3 => {
            let edge = [0, 1, 0x7f, 0x80, 0xff][random.below(5)];
            let run = random.below(9);
            bytes[at..].iter_mut().take(run).for_each(|byte| *byte = edge);
        }
        4 => {
            let end = (at + random.below(64)).min(length);
            bytes.drain(at..end);
        }
        5 => {
            let from = random.below(length);
            let piece = bytes[from..(from + random.below(64)).min(length)].to_vec();
            bytes.splice(at..at, piece);
        }
        _ => {
            let from = random.below(length);
            let piece = bytes[from..(from + random.below(64)).min(length)].to_vec();
            let end = (at + piece.len()).min(length);
            bytes[at..end].copy_from_slice(&piece[..end - at]);
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}
