//! The event files, byte for byte what TensorBoard's own protocol buffers give.

use herd_train::tensorboard::EventWriter;

/// The events of `testdata/record_tensorboard.py`.
#[test]
fn events_are_the_bytes_that_tensorboard_would_write() {
    let expected =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/tensorboard/events.tfevents");
    let expected = std::fs::read(expected).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::create(folder.path(), 1_700_000_000.25, 81).unwrap();
    let path = writer.path().to_owned();
    let first = [("train/loss", 10.1), ("train/lr", 0.0003)];
    writer.scalars(1_700_000_001.5, 81, &first).unwrap();
    let second = [("train/loss", f64::NAN), ("train/grad_norm", 0.0)];
    writer.scalars(1_700_000_002.5, 1 << 40, &second).unwrap();
    let text = format!("Once upon a time\n\u{e9}t\u{e9} {}", "x".repeat(200));
    writer.text(1_700_000_003.5, 300, "sample", &text).unwrap();
    let got = std::fs::read(path).unwrap();
    let parts = got.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!((got.len(), parts), (expected.len(), None), "length, first byte that differs");
}
