//! A row of a Parquet file as JSON: lists and structs put together from the levels of their columns.
//!
//! A *definition level* says how much of a column's path is there, a *repetition level* which list of it goes on
//! (arXiv 2304.05028, section 3.1). With d the definition level at which a node is there and e that of its first column
//!
//! ```text
//! e < d   it is null        a list: e = d   it is empty        e > d   it has items, one more
//!                                                               while the next repetition level is its own
//! ```
//!
//! All columns below a node must say the same of it.

use std::cmp::Ordering;
use std::ops::Range;

use parquet::basic::{ConvertedType, Repetition};
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Number, Value};

use super::columns::{Column, Entry, PLACES_MAX, Scalar, Table, is_readable};
use crate::{DataError, Fault};

/// How deep structs and lists may lie in each other; JSON is read no deeper either.
const DEPTH_MAX: usize = 32;

/// What stands at a place of a row.
struct Node {
    /// The definition level at which it is there.
    def: i16,
    /// The columns below it.
    columns: Range<usize>,
    what: What,
}

enum What {
    Value,
    Struct(Vec<(String, Node)>),
    /// Items that repeat at this level; those of a map are its keys and values.
    List {
        rep: i16,
        item: Box<Node>,
        map: bool,
    },
}

/// The shape of a row.
pub(super) struct Layout {
    fields: Vec<(String, Node)>,
}

/// The levels at which something is there, and how deep it lies.
#[derive(Clone, Copy, Default)]
struct Place {
    def: i16,
    rep: i16,
    depth: usize,
}

/// What goes through a schema: the column that comes next, and those that can be read.
struct Walk<'a> {
    table: &'a Table,
    next: usize,
    readable: Vec<usize>,
}

impl Layout {
    /// That of a file, and the numbers of its columns; what cannot be read is no part of it.
    ///
    /// Errors: it lies too deep.
    pub(super) fn of(table: &Table) -> Result<(Layout, Vec<usize>), DataError> {
        let mut walk = Walk { table, next: 0, readable: Vec::new() };
        let fields = walk.fields(table.schema().root_schema().get_fields(), Place::default())?;
        Ok((Layout { fields }, walk.readable))
    }

    /// The row that is ready, which is taken; or the fault that is in it.
    ///
    /// Errors: its columns contradict each other.
    pub(super) fn row(
        &self,
        table: &mut Table,
        bytes_max: u64,
    ) -> Result<Result<Map<String, Value>, Fault>, DataError> {
        // A dictionary lets a short file have a long row: this looks before it is built.
        let bytes: u64 = table.columns.iter().flat_map(Column::row).map(Entry::bytes).sum();
        let fault = match () {
            () if bytes > bytes_max => Some(Fault::TooLong { limit: bytes_max }),
            () if table.columns.iter().any(|column| column.row().len() > PLACES_MAX) => {
                Some(Fault::TooMany { limit: PLACES_MAX })
            }
            () => None,
        };
        if let Some(fault) = fault {
            table.columns.iter_mut().for_each(Column::pass);
            return Ok(Err(fault));
        }
        let mut reading = Reading { table, fault: None };
        let row = reading.fields(&self.fields)?;
        let fault = reading.fault.take();
        match table.columns.iter().any(|column| column.has_lists() && !column.ready.is_empty()) {
            true => Err(table.fault("a row has more values than its lists")),
            false => Ok(fault.map_or(Ok(row), Err)),
        }
    }
}

impl Walk<'_> {
    /// The fields of a group whose place has these levels.
    fn fields(&mut self, types: &[TypePtr], at: Place) -> Result<Vec<(String, Node)>, DataError> {
        let mut fields = Vec::new();
        for field in types {
            if let Some(node) = self.field(field, at)? {
                fields.push((field.name().to_owned(), node));
            }
        }
        Ok(fields)
    }

    /// A field that may be absent, or repeat without being called a list.
    fn field(&mut self, field: &Type, at: Place) -> Result<Option<Node>, DataError> {
        if at.depth == DEPTH_MAX {
            let reason = format!("{:?} lies deeper than {DEPTH_MAX} others", field.name());
            return Err(self.table.fault(&reason));
        }
        let at = Place { depth: at.depth + 1, ..at };
        match repetition(field) {
            Repetition::REQUIRED => self.value(field, at),
            Repetition::OPTIONAL => self.value(field, Place { def: at.def + 1, ..at }),
            Repetition::REPEATED => self.list(at, false, |walk, at| walk.value(field, at)),
        }
    }

    /// What a field is where it is there.
    fn value(&mut self, field: &Type, at: Place) -> Result<Option<Node>, DataError> {
        let first = self.readable.len();
        if field.is_primitive() {
            let number = self.next;
            self.next += 1;
            if !is_readable(&self.table.schema().column(number)) {
                return Ok(None);
            }
            self.readable.push(number);
            return Ok(Some(Node { def: at.def, columns: first..first + 1, what: What::Value }));
        }
        if let Some(repeated) = repeated(field) {
            let map = kind(field) == ConvertedType::MAP;
            return self.list(at, map, |walk, at| match only_item(field, repeated) {
                Some(item) if !map => walk.field(item, at),
                Some(_) | None => walk.value(repeated, at),
            });
        }
        let what = What::Struct(self.fields(field.get_fields(), at)?);
        let columns = first..self.readable.len();
        Ok((!columns.is_empty()).then_some(Node { def: at.def, columns, what }))
    }

    /// A list that is there at a place.
    fn list(
        &mut self,
        at: Place,
        map: bool,
        item: impl FnOnce(&mut Self, Place) -> Result<Option<Node>, DataError>,
    ) -> Result<Option<Node>, DataError> {
        let below = Place { def: at.def + 1, rep: at.rep + 1, ..at };
        let listed = |item: Node| Node {
            def: at.def,
            columns: item.columns.clone(),
            what: What::List { rep: below.rep, item: Box::new(item), map },
        };
        Ok(item(self, below)?.map(listed))
    }
}

/// How often a field may be there; a broken file may not say it.
fn repetition(field: &Type) -> Repetition {
    let info = field.get_basic_info();
    if info.has_repetition() { info.repetition() } else { Repetition::REQUIRED }
}

fn kind(field: &Type) -> ConvertedType {
    match field.get_basic_info().converted_type() {
        ConvertedType::MAP_KEY_VALUE => ConvertedType::MAP, // as old files have it
        kind => kind,
    }
}

/// What repeats in a group that is called a list or a map.
fn repeated(field: &Type) -> Option<&Type> {
    let called = matches!(kind(field), ConvertedType::LIST | ConvertedType::MAP);
    match field.get_fields() {
        [one] if called && repetition(one) == Repetition::REPEATED => Some(one),
        _ => None,
    }
}

/// The item within what repeats in a list, unless that is an item itself: so old files have it, by the
/// rules of the format's page on logical types.
fn only_item<'a>(list: &Type, repeated: &'a Type) -> Option<&'a Type> {
    let old = [String::from("array"), format!("{}_tuple", list.name())];
    if repeated.is_primitive() || old.iter().any(|name| name == repeated.name()) {
        return None;
    }
    match repeated.get_fields() {
        [one] if repetition(one) != Repetition::REPEATED => Some(one),
        _ => None,
    }
}

/// A row on its way out of its columns.
struct Reading<'a> {
    table: &'a mut Table,
    /// The first thing in it that JSON cannot say.
    fault: Option<Fault>,
}

impl Reading<'_> {
    fn fields(&mut self, fields: &[(String, Node)]) -> Result<Map<String, Value>, DataError> {
        let read = |(name, node): &(String, Node)| Ok((name.clone(), self.value(node)?));
        fields.iter().map(read).collect()
    }

    fn value(&mut self, node: &Node) -> Result<Value, DataError> {
        match &node.what {
            What::Value => {
                let value = self.take(node.columns.start)?.value;
                Ok(value.map_or(Value::Null, |value| self.json(value)))
            }
            What::Struct(fields) => match self.there(node)? {
                Ordering::Less => Ok(Value::Null),
                Ordering::Equal | Ordering::Greater => Ok(Value::Object(self.fields(fields)?)),
            },
            What::List { rep, item, map } => {
                let items = match self.there(node)? {
                    Ordering::Less => return Ok(Value::Null),
                    Ordering::Equal => Vec::new(),
                    Ordering::Greater => self.items(item, *rep)?,
                };
                Ok(if *map { self.object(items) } else { Value::Array(items) })
            }
        }
    }

    /// Whether a node is there, or has items; what is not, or has none, is taken.
    fn there(&mut self, node: &Node) -> Result<Ordering, DataError> {
        let list = matches!(node.what, What::List { .. });
        let mut said = None;
        for column in node.columns.clone() {
            let Some(entry) = self.table.columns[column].ready.front() else {
                return Err(self.table.fault("a row has fewer values than its lists"));
            };
            let there = match entry.def.cmp(&node.def) {
                Ordering::Greater if !list => Ordering::Equal,
                there => there,
            };
            if *said.get_or_insert(there) != there {
                return Err(self.table.fault("its columns disagree on what is null or empty"));
            }
        }
        let there = said.expect("a node has columns");
        if there == Ordering::Less || (list && there == Ordering::Equal) {
            for column in node.columns.clone() {
                self.take(column)?;
            }
        }
        Ok(there)
    }

    fn items(&mut self, item: &Node, rep: i16) -> Result<Vec<Value>, DataError> {
        let mut items = Vec::new();
        loop {
            items.push(self.value(item)?);
            let next = |column: usize| {
                self.table.columns[column].ready.front().map_or(0, |entry| entry.rep)
            };
            let first = next(item.columns.start);
            if first > rep || item.columns.clone().any(|column| next(column) != first) {
                return Err(self.table.fault("its columns disagree on the length of a list"));
            }
            if first < rep {
                return Ok(items);
            }
        }
    }

    /// A map: pairs of keys and values, of which later ones count as in JSON.
    fn object(&mut self, pairs: Vec<Value>) -> Value {
        let mut map = Map::new();
        for pair in pairs {
            let Value::Object(pair) = pair else { continue };
            let (fields, mut pair) = (pair.len(), pair.into_iter().map(|(_, value)| value));
            match (pair.next(), pair.next()) {
                (Some(Value::String(key)), Some(value)) => {
                    map.insert(key, value);
                }
                (key, _) => {
                    let reason =
                        format!("a map has {fields} columns, its key is {key:?}, not a text");
                    self.fault.get_or_insert(Fault::NotJson { reason });
                }
            }
        }
        Value::Object(map)
    }

    fn take(&mut self, column: usize) -> Result<Entry, DataError> {
        let entry = self.table.columns[column].ready.pop_front();
        entry.ok_or_else(|| self.table.fault("a row has fewer values than its lists"))
    }

    fn json(&mut self, value: Scalar) -> Value {
        match value {
            Scalar::Text(text) => match std::str::from_utf8(text.data()) {
                Ok(text) => Value::String(text.to_owned()),
                Err(e) => {
                    self.fault.get_or_insert(Fault::NotUtf8 { at: e.valid_up_to() });
                    Value::Null
                }
            },
            Scalar::Int(n) => Value::Number(n.into()),
            Scalar::Unsigned(n) => Value::Number(n.into()),
            Scalar::Bool(said) => Value::Bool(said),
            Scalar::Float(x) => match Number::from_f64(x) {
                Some(number) => Value::Number(number),
                None => {
                    self.fault.get_or_insert(Fault::NotJson { reason: format!("a number is {x}") });
                    Value::Null
                }
            },
        }
    }
}
