//! Lists, structs and numbers of Parquet files come as JSON; files that contradict themselves, or claim what would not
//! fit into memory, are told.

#![allow(clippy::unwrap_used)] // helpers beside the tests panic as the tests do

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::testdata;
use herd_data::dialogue::{Strength, comparison};
use herd_data::read::{InputFile, objects};
use herd_data::{DataError, Fault};
use parquet::data_type::{
    ByteArray, ByteArrayType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, Int32Type,
    Int64Type,
};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;
use peak_alloc::PeakAlloc;
use serde_json::{Value, json};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Tests that share a process take turns, so that each measures its own memory.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

type Levels<'a> = (&'a [i16], &'a [i16]);

/// A column of a row group: its values and their definition and repetition levels.
enum Column<'a> {
    Texts(Vec<ByteArray>, Levels<'a>),
    Ints(&'a [i32], Levels<'a>),
    Longs(&'a [i64], Levels<'a>),
    Floats(&'a [f64], Levels<'a>),
    Fixed(&'a [u8], Levels<'a>),
}

fn texts<'a>(texts: &[&str], levels: Levels<'a>) -> Column<'a> {
    Column::Texts(texts.iter().map(|text| ByteArray::from(*text)).collect(), levels)
}

impl Column<'_> {
    fn write(&self, column: &mut SerializedColumnWriter<'_>) {
        let some = |(def, rep): Levels<'_>| {
            ((!def.is_empty()).then(|| def.to_vec()), (!rep.is_empty()).then(|| rep.to_vec()))
        };
        macro_rules! write {
            ($type:ty, $values:expr, $levels:expr) => {{
                let (def, rep) = some(*$levels);
                let writer = column.typed::<$type>();
                writer.write_batch($values, def.as_deref(), rep.as_deref()).unwrap();
            }};
        }
        match self {
            Column::Texts(values, levels) => write!(ByteArrayType, values, levels),
            Column::Ints(values, levels) => write!(Int32Type, values, levels),
            Column::Longs(values, levels) => write!(Int64Type, values, levels),
            Column::Floats(values, levels) => write!(DoubleType, values, levels),
            Column::Fixed(value, levels) => {
                let value = FixedLenByteArray::from(value.to_vec());
                write!(FixedLenByteArrayType, &[value], levels);
            }
        }
    }
}

/// A file of some row groups with this schema.
fn write(folder: &Path, schema: &str, groups: &[&[Column<'_>]]) -> PathBuf {
    let path = folder.join("a.parquet");
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let file = File::create(&path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    for columns in groups {
        let mut group = writer.next_row_group().unwrap();
        for column in *columns {
            let mut open = group.next_column().unwrap().unwrap();
            column.write(&mut open);
            open.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    path
}

fn rows(path: &Path) -> Vec<Result<Value, DataError>> {
    let rows = objects(&InputFile::new(path).unwrap()).unwrap();
    rows.map(|row| row.map(|(_, row)| row)).collect()
}

/// The rows of a file of one row group, which are all good.
fn good(schema: &str, columns: &[Column<'_>]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    rows(&write(folder.path(), schema, &[columns])).into_iter().map(Result::unwrap).collect()
}

#[test]
fn lists_and_structs_come_as_they_were_written() {
    let _alone = alone();
    let recorded = fs::read_to_string(testdata("parquet/nested.jsonl")).unwrap();
    let recorded: Vec<Value> =
        recorded.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for name in ["nested", "nested_item"] {
        let read = rows(&testdata(&format!("parquet/{name}.parquet")));
        assert_eq!(read.len(), recorded.len(), "{name}");
        for (row, expected) in read.into_iter().zip(&recorded) {
            assert_eq!(row.unwrap(), *expected, "{name}");
        }
    }
}

#[test]
fn old_ways_of_writing_lists_give_the_same() {
    let _alone = alone();
    // Two lists of numbers, of two and of none; a null; one of a null.
    let (def, rep) = (&[2, 2, 1, 0][..], &[0, 1, 0, 0][..]);
    for schema in [
        "message m { optional group a (LIST) { repeated int32 array; } }",
        "message m { optional group a (LIST) { repeated group list { required int32 item; } } }",
        "message m { optional group a (LIST) { repeated group bag { required int32 array_element; } } }",
    ] {
        let expected = [json!({"a": [1, 2]}), json!({"a": []}), json!({"a": null})];
        assert_eq!(good(schema, &[Column::Ints(&[1, 2], (def, rep))]), expected, "{schema}");
    }
    // A struct as the item, named so, or of several fields; a list that is not called one.
    for (schema, key) in [
        (
            "message m { optional group a (LIST) { repeated group array { required int32 x; } } }",
            "x",
        ),
        (
            "message m { optional group a (LIST) { repeated group a_tuple { required int32 y; } } }",
            "y",
        ),
        ("message m { optional group a { repeated group b { required int32 z; } } }", "z"),
    ] {
        let items = json!([{ key: 1 }, { key: 2 }]);
        let (items, none) = match key {
            "z" => (json!({ "b": items }), json!({ "b": [] })),
            _ => (items, json!([])),
        };
        let expected = [json!({ "a": items }), json!({ "a": none }), json!({ "a": null })];
        assert_eq!(good(schema, &[Column::Ints(&[1, 2], (def, rep))]), expected, "{schema}");
    }
    let schema = "message m { optional group a (LIST) { repeated group item {
        optional binary role (UTF8); required int32 n; } } }";
    let levels = ([2, 3, 0], [0, 1, 0]);
    let columns =
        [texts(&["r"], (&levels.0, &levels.1)), Column::Ints(&[1, 2], (&[2, 2, 0], &levels.1))];
    let expected =
        [json!({"a": [{"role": null, "n": 1}, {"role": "r", "n": 2}]}), json!({"a": null})];
    assert_eq!(good(schema, &columns), expected);
}

#[test]
fn preferences_come_from_columns_and_weak_ones_are_known() {
    let _alone = alone();
    let message = "repeated group list { optional group element {
        optional binary role (UTF8); optional binary content (UTF8); } }";
    let schema = format!(
        "message m {{ optional group chosen (LIST) {{ {message} }} optional group rejected (LIST) {{ {message} }}
         optional binary edited (UTF8); optional double strength; }}"
    );
    let (def, rep) = (&[4, 4, 4, 4][..], &[0, 1, 0, 1][..]);
    let roles = || texts(&["user", "assistant", "user", "assistant"], (def, rep));
    let said = |one: &'static str, two: &'static str| texts(&["q", one, "q", two], (def, rep));
    let columns = [
        roles(),
        said("a", "b"),
        roles(),
        said("c", "d"),
        texts(&["better"], (&[1, 0], &[])),
        Column::Floats(&[1.0], (&[0, 1], &[])),
    ];
    let read: Vec<_> =
        good(&schema, &columns).iter().map(|row| comparison(row, None).unwrap()).collect();
    let told = |n: usize| read[n].answers.iter().map(|a| a.text()).collect::<Vec<_>>();
    assert_eq!(
        (told(0), told(1)),
        (vec!["better".into(), "a".into(), "c".into()], vec!["b".into(), "d".into()])
    );
    assert_eq!(read[0].prompt.messages[0].text(), "q");
    assert_eq!((read[0].strength, read[1].strength), (None, Some(Strength::MarginallyBetter)));
}

#[test]
fn numbers_keep_their_kind_and_other_columns_are_left_out() {
    let _alone = alone();
    let schema = "message m { required int32 a; required int64 b (UINT_64); required double c;
        required group d { required fixed_len_byte_array(2) e; } required int32 f (DECIMAL(4, 2));
        required binary g; }";
    let none: Levels<'_> = (&[], &[]);
    let columns = |x: &'static [f64], text: &'static [u8]| {
        [
            Column::Ints(&[-1], none),
            Column::Longs(&[-1], none),
            Column::Floats(x, none),
            Column::Fixed(b"xy", none),
            Column::Ints(&[7], none),
            Column::Texts(vec![ByteArray::from(text.to_vec())], none),
        ]
    };
    let row = good(schema, &columns(&[0.5], b"g"));
    assert_eq!(row, [json!({"a": -1, "b": u64::MAX, "c": 0.5, "g": "g"})]);
    // What JSON cannot say is a fault of its row, and the next row is read.
    let folder = tempfile::tempdir().unwrap();
    let path = write(
        folder.path(),
        schema,
        &[&columns(&[f64::NAN], b"g"), &columns(&[1.0], b"g\xff"), &columns(&[2.0], b"")],
    );
    let fault = |row: &Result<Value, DataError>| match row {
        Err(DataError::Record { row, fault, .. }) => (*row, fault.clone()),
        other => panic!("{other:?}"),
    };
    let read = rows(&path);
    assert_eq!(fault(&read[0]), (1, Fault::NotJson { reason: "a number is NaN".into() }));
    assert_eq!(fault(&read[1]), (2, Fault::NotUtf8 { at: 1 }));
    assert_eq!((read.len(), &read[2].as_ref().unwrap()["c"]), (3, &json!(2.0)));
}

const PAIRS: &str =
    "message m { optional group a (LIST) { repeated group list { optional group element {
    optional int32 x; optional int32 y; } } } }";

#[test]
fn columns_that_disagree_are_told() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    // An item of two fields, then: another length, a null item, an empty list, a null list in one of them.
    for (def, rep) in [
        (&[4, 4][..], &[0, 1][..]),
        (&[2][..], &[0][..]),
        (&[1][..], &[0][..]),
        (&[0][..], &[0][..]),
    ] {
        for flip in [false, true] {
            let values = vec![1; def.iter().filter(|def| **def == 4).count()];
            let whole = Column::Ints(&[1], (&[4], &[0]));
            let other = Column::Ints(&values, (def, rep));
            let columns = if flip { [other, whole] } else { [whole, other] };
            let read = rows(&write(folder.path(), PAIRS, &[&columns]));
            let [Err(error @ DataError::Parquet { .. })] = &read[..] else {
                panic!("{def:?}: {read:?}");
            };
            assert!(error.to_string().contains("disagree"), "{def:?}: {error}");
        }
    }
}

#[test]
fn a_short_file_with_a_long_row_takes_no_memory() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let list = |n: usize| {
        let mut rep = vec![1i16; n];
        rep[0] = 0;
        rep
    };
    let measured = |path: &Path| {
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let read = rows(path);
        (read, MEMORY.peak_usage() - before)
    };
    let schema = "message m { required binary pad; optional group a (LIST) {
        repeated group list { optional binary element (UTF8); } } }";
    let pad = |bytes: usize| {
        let mut seed = 3;
        let noise: Vec<u8> =
            (0..bytes).map(|_| b'a' + (common::next(&mut seed) % 26) as u8).collect();
        Column::Texts(vec![ByteArray::from(noise)], (&[], &[]))
    };
    // Some hundred bytes that claim twenty million items; a list longer than any; a gigabyte of one text.
    let (n, long, many) = (20_000_000, (1 << 20) + 1, 1000);
    let path =
        write(folder.path(), schema, &[&[pad(1), Column::Texts(vec![], (&vec![2; n], &list(n)))]]);
    let (read, most) = measured(&path);
    let [Err(DataError::Parquet { reason, .. })] = &read[..] else { panic!("{read:?}") };
    assert!(reason.contains("claims") && most < 16 << 20, "{reason}: {most}");

    let columns = [pad(100_000), Column::Texts(vec![], (&vec![2; long], &list(long)))];
    let (read, most) = measured(&write(folder.path(), schema, &[&columns]));
    let [Err(DataError::Record { fault: Fault::TooMany { .. }, .. })] = &read[..] else {
        panic!("{read:?}")
    };
    assert!(most < 100 << 20, "{most}");

    let text = ByteArray::from(vec![b'x'; 1 << 20]);
    let columns = [pad(1), Column::Texts(vec![text; many], (&vec![3; many], &list(many)))];
    let path = write(folder.path(), schema, &[&columns]);
    let (read, most) = measured(&path);
    let [Err(DataError::Record { fault: Fault::TooLong { .. }, .. })] = &read[..] else {
        panic!("{} rows", read.len())
    };
    let bytes = fs::metadata(&path).unwrap().len() as usize;
    assert!(bytes < 4 << 20 && most < 16 << 20, "{most} for a file of {bytes}");
}
