//! PyTorch's `torch.save` files: a zip of one pickle and the storages it refers to.
//!
//! Nested dicts and lists become dotted names (`model.norm.weight`); numbers and strings in dicts
//! become metadata. Layout: `NAME/data.pkl`, `NAME/data/KEY` for each storage, `NAME/byteorder`.

mod globals;
mod pickle;
mod write;
mod zip;

use std::collections::HashMap;
use std::path::Path;

pub use write::PthWriter;

use self::pickle::{Id, Object, Pickle};
use self::zip::Entry;
use super::archive::{Contents, Place, Span};
use super::{FileError, Metadata, TensorInfo, Value};

/// As in PyTorch.
const AXES_MAX: usize = 64;
/// Dicts in dicts, lists in lists; a circle ends here too.
const NESTING_MAX: usize = 16;
/// What a name costs besides its letters, and how much of that a byte of pickle may buy. Together
/// they keep a pickle that repeats itself from growing as it is spread out: a leaf of a few bytes
/// (a repeated reference) is rare, a tensor takes a hundred.
const LEAF_COST: usize = 64;
const COST_PER_BYTE: usize = 8;
const COST_FREE: usize = 1 << 16;

/// Reads the pickle and checks the place of every tensor.
pub(super) fn read(path: &Path, bytes: &[u8], file: usize) -> Result<Contents, FileError> {
    let entries = zip::entries(path, bytes)?;
    let pickled = entries.iter().find(|entry| {
        entry.name.strip_suffix("/data.pkl").is_some_and(|folder| !folder.contains('/'))
    });
    let Some(pickled) = pickled else {
        let hint = "expected what torch.save writes";
        return Err(FileError::unsupported(path, "a zip without a data.pkl", hint));
    };
    let folder = pickled.name.strip_suffix("data.pkl").expect("the entry was found by its suffix");
    let by_name: HashMap<&str, &Entry> = entries
        .iter()
        .filter_map(|entry| Some((entry.name.strip_prefix(folder)?, entry)))
        .collect();
    if let Some(order) = by_name.get("byteorder")
        && &bytes[order.start..order.end] != b"little"
    {
        let hint = "save it anew on a little-endian machine";
        return Err(FileError::unsupported(path, "a big-endian torch file", hint));
    }
    let text = &bytes[pickled.start..pickled.end];
    let pickle = pickle::load(path, text)?;
    let mut walk = Walk {
        path,
        file,
        pickle: &pickle,
        entries: by_name,
        cost: 0,
        cost_max: text.len() * COST_PER_BYTE + COST_FREE,
        contents: Contents { tensors: Vec::new(), metadata: Metadata::of(path) },
    };
    walk.visit(pickle.root, "", NESTING_MAX)?;
    Ok(walk.contents)
}

/// Goes through the unpickled object and notes its tensors and values by name.
struct Walk<'a> {
    path: &'a Path,
    file: usize,
    pickle: &'a Pickle<'a>,
    entries: HashMap<&'a str, &'a Entry>,
    cost: usize,
    cost_max: usize,
    contents: Contents,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, id: Id, name: &str, nesting: usize) -> Result<(), FileError> {
        let children: &mut dyn Iterator<Item = (Option<Id>, Id)> = match self.object(id) {
            Object::Dict(items) => &mut items.iter().map(|(key, value)| (Some(*key), *value)),
            Object::List(items) | Object::Tuple(items) => {
                &mut items.iter().map(|item| (None, *item))
            }
            Object::Tensor { storage, offset, shape, strides } => {
                let name = if name.is_empty() { "tensor" } else { name };
                return self.tensor(name, [*storage, *shape, *strides], *offset);
            }
            _ => return Ok(()),
        };
        if nesting == 0 {
            let expected = format!("at most {NESTING_MAX} deep");
            return Err(self.wrong("the nesting of dicts and lists", expected, "deeper"));
        }
        for (i, (key, child)) in children.enumerate() {
            self.spend(1)?;
            let value = self.scalar(child);
            if key.is_none() && value.is_some() {
                continue; // lists of numbers are of no use here
            }
            let own = key.map_or_else(|| Ok(i.to_string()), |key| self.key(key))?;
            let name = if name.is_empty() { own } else { format!("{name}.{own}") };
            self.spend(LEAF_COST + name.len())?;
            match value {
                Some(value) => self.contents.metadata.insert_new(name, value)?,
                None => self.visit(child, &name, nesting - 1)?,
            }
        }
        Ok(())
    }

    fn object(&self, id: Id) -> &'a Object<'a> {
        &self.pickle.objects[id as usize]
    }

    fn key(&self, id: Id) -> Result<String, FileError> {
        match self.object(id) {
            Object::Str(text) => Ok((*text).to_owned()),
            Object::Int(number) => Ok(number.to_string()),
            other => Err(self.wrong("a key", "a string or a number", other.kind())),
        }
    }

    fn scalar(&self, id: Id) -> Option<Value> {
        match self.object(id) {
            Object::Bool(x) => Some(Value::Bool(*x)),
            Object::Int(x) => Some(Value::I64(*x)),
            Object::Float(x) => Some(Value::F64(*x)),
            Object::Str(text) => Some(Value::String((*text).to_owned())),
            _ => None,
        }
    }

    fn spend(&mut self, cost: usize) -> Result<(), FileError> {
        self.cost += cost;
        match self.cost <= self.cost_max {
            true => Ok(()),
            false => Err(self.wrong("what the pickle spreads out to", "less", "too much")),
        }
    }

    fn tensor(
        &mut self,
        name: &str,
        [storage, shape, strides]: [Id; 3],
        offset: usize,
    ) -> Result<(), FileError> {
        let wrong = |what, expected: String, got: String| {
            Err(FileError::tensor(self.path, name, what, expected, got))
        };
        let Object::Storage { dtype, key, items } = *self.object(storage) else {
            let got = self.object(storage).kind();
            return wrong("its first part", "a storage".into(), got.into());
        };
        let (shape, strides) = (self.axes(name, shape)?, self.axes(name, strides)?);
        if shape.len() != strides.len() {
            return wrong(
                "the number of strides",
                shape.len().to_string(),
                strides.len().to_string(),
            );
        }
        let Some(entry) = self.entries.get(format!("data/{key}").as_str()) else {
            return wrong("its storage", "an entry of the zip".into(), format!("data/{key}"));
        };
        let item_bytes = dtype.item_bytes().expect("storages hold plain numbers");
        let stored = entry.end - entry.start;
        if items.checked_mul(item_bytes) != Some(stored) {
            return wrong(
                "its storage",
                format!("{items} numbers of {item_bytes} bytes"),
                format!("{stored} bytes"),
            );
        }
        let info = TensorInfo { name: name.to_owned(), shape, dtype };
        // A view may not be larger than its storage: reading a file never costs more than the file.
        if info.elements().is_none_or(|elements| elements > items) {
            return wrong(
                "the shape",
                format!("at most {items} numbers"),
                format!("{:?}", info.shape),
            );
        }
        let Some(end) = view_end(offset, &info.shape, &strides).filter(|end| *end <= items) else {
            let got = format!("offset {offset}, strides {strides:?}, shape {:?}", info.shape);
            return wrong("the view", format!("inside {items} numbers"), got);
        };
        let start = offset.min(end);
        let span = Span {
            file: self.file,
            start: entry.start + start * item_bytes,
            end: entry.start + end * item_bytes,
        };
        let place = match is_contiguous(&info.shape, &strides) {
            true => Place::Span(span),
            false => Place::View { span, shape: info.shape.clone(), strides, item_bytes },
        };
        self.contents.tensors.push((info, place));
        Ok(())
    }

    /// A tuple of lengths.
    fn axes(&self, name: &str, id: Id) -> Result<Vec<usize>, FileError> {
        let (Object::Tuple(items) | Object::List(items)) = self.object(id) else {
            let got = self.object(id).kind();
            return Err(FileError::tensor(self.path, name, "the shape", "a tuple", got));
        };
        if items.len() > AXES_MAX {
            let (expected, got) = (format!("at most {AXES_MAX}"), items.len());
            return Err(FileError::tensor(self.path, name, "the number of axes", expected, got));
        }
        let length = |item: &Id| match self.object(*item) {
            Object::Int(length) => usize::try_from(*length)
                .map_err(|_| FileError::tensor(self.path, name, "an axis", "at least 0", length)),
            other => Err(FileError::tensor(self.path, name, "an axis", "a number", other.kind())),
        };
        items.iter().map(length).collect()
    }

    fn wrong(&self, what: &str, expected: impl ToString, got: impl ToString) -> FileError {
        FileError::field(self.path, what, expected, got)
    }
}

/// One past the last number that a view touches, or `None` if that overflows.
fn view_end(offset: usize, shape: &[usize], strides: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    let mut last = offset;
    for (axis, stride) in shape.iter().zip(strides) {
        last = last.checked_add((axis - 1).checked_mul(*stride)?)?;
    }
    last.checked_add(1)
}

/// Whether the numbers lie row by row without gaps; strides of single axes do not matter.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    if shape.contains(&0) {
        return true;
    }
    let mut expected = 1;
    for (axis, stride) in shape.iter().zip(strides).rev() {
        if *axis != 1 && *stride != expected {
            return false;
        }
        expected *= axis;
    }
    true
}
