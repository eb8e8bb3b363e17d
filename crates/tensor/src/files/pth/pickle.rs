//! A pickle reader that builds data and runs nothing: what a pickle may call is on the list in
//! `globals.rs`, and any other name is an error.
//!
//! Protocols 2 to 5. Objects live in one arena and refer to each other by number, so that shared
//! and circular ones cost nothing. Source: CPython's `pickletools`.

use std::collections::HashMap;
use std::path::Path;

use super::super::cursor::Cursor;
use super::super::{DType, FileError};
use super::globals::{Global, allowed};

/// An object's number in the arena.
pub(super) type Id = u32;

/// A Python object. Strings are borrowed from the file.
#[derive(Debug)]
pub(super) enum Object<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(&'a str),
    Bytes,
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage { dtype: DType, key: &'a str, items: usize },
    Tensor { storage: Id, offset: usize, shape: Id, strides: Id },
}

/// The arena, and the object that the pickle stands for.
pub(super) struct Pickle<'a> {
    pub objects: Vec<Object<'a>>,
    pub root: Id,
}

/// More than any checkpoint has: a tensor takes about 14, so this is 70,000 tensors. At 40 bytes an
/// object, the arena never takes more than 63 MB, its growing included.
const OBJECTS_MAX: usize = 1 << 20;
/// `torch.save` never has more than about 2,000 on the stack.
const STACK_MAX: usize = 1 << 16;

const NONE: Id = 0;
const FALSE: Id = 1;
const TRUE: Id = 2;

/// Runs a pickle's opcodes to its end.
pub(super) fn load<'a>(path: &'a Path, bytes: &'a [u8]) -> Result<Pickle<'a>, FileError> {
    let mut machine = Machine {
        cursor: Cursor::new(path, bytes),
        objects: vec![Object::None, Object::Bool(false), Object::Bool(true)],
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    loop {
        let opcode = machine.cursor.u8("the pickle")?;
        if opcode == b'.' {
            let root = machine.pop()?;
            return Ok(Pickle { objects: machine.objects, root });
        }
        machine.step(opcode)?;
    }
}

struct Machine<'a> {
    cursor: Cursor<'a>,
    objects: Vec<Object<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Carries out one opcode. The names are CPython's.
    fn step(&mut self, opcode: u8) -> Result<(), FileError> {
        const WHAT: &str = "the pickle";
        match opcode {
            0x80 => self.protocol()?,                                   // PROTO
            0x95 => drop(self.cursor.u64(WHAT)?),                       // FRAME
            b'(' => self.mark()?,                                       // MARK
            b'0' => self.pop_or_mark()?,                                // POP
            b'1' => drop(self.pop_to_mark()?),                          // POP_MARK
            b'2' => self.push(self.top()?)?,                            // DUP
            b'N' => self.push(NONE)?,                                   // NONE
            0x88 => self.push(TRUE)?,                                   // NEWTRUE
            0x89 => self.push(FALSE)?,                                  // NEWFALSE
            b'J' => self.int(|c| c.i32(WHAT).map(i64::from))?,          // BININT
            b'K' => self.int(|c| c.u8(WHAT).map(i64::from))?,           // BININT1
            b'M' => self.int(|c| c.u16(WHAT).map(i64::from))?,          // BININT2
            0x8a => self.long()?,                                       // LONG1
            b'G' => self.float()?,                                      // BINFLOAT
            0x8c => self.text(|c| c.u8(WHAT).map(u64::from))?,          // SHORT_BINUNICODE
            b'X' => self.text(|c| c.u32(WHAT).map(u64::from))?,         // BINUNICODE
            0x8d => self.text(|c| c.u64(WHAT))?,                        // BINUNICODE8
            b'C' | b'U' => self.bytes(|c| c.u8(WHAT).map(u64::from))?, // SHORT_BINBYTES, _BINSTRING
            b'B' | b'T' => self.bytes(|c| c.u32(WHAT).map(u64::from))?, // BINBYTES, BINSTRING
            0x8e => self.bytes(|c| c.u64(WHAT))?,                      // BINBYTES8
            b')' => self.make(Object::Tuple(Vec::new()))?,             // EMPTY_TUPLE
            b']' => self.make(Object::List(Vec::new()))?,              // EMPTY_LIST
            b'}' => self.make(Object::Dict(Vec::new()))?,              // EMPTY_DICT
            0x85 => self.tuple(1)?,                                    // TUPLE1
            0x86 => self.tuple(2)?,                                    // TUPLE2
            0x87 => self.tuple(3)?,                                    // TUPLE3
            b't' => self.collect(Object::Tuple)?,                      // TUPLE
            b'l' => self.collect(Object::List)?,                       // LIST
            b'd' => self.dict()?,                                      // DICT
            b'a' => self.append()?,                                    // APPEND
            b'e' => self.appends()?,                                   // APPENDS
            b's' => self.set_item()?,                                  // SETITEM
            b'u' => self.set_items()?,                                 // SETITEMS
            b'q' => self.put(|c| c.u8(WHAT).map(u32::from))?,          // BINPUT
            b'r' => self.put(|c| c.u32(WHAT))?,                        // LONG_BINPUT
            0x94 => self.memoize()?,                                   // MEMOIZE
            b'h' => self.get(|c| c.u8(WHAT).map(u32::from))?,          // BINGET
            b'j' => self.get(|c| c.u32(WHAT))?,                        // LONG_BINGET
            b'c' => self.global()?,                                    // GLOBAL
            0x93 => self.stack_global()?,                              // STACK_GLOBAL
            b'R' | 0x81 => self.reduce()?,                             // REDUCE, NEWOBJ
            b'b' => self.build()?,                                     // BUILD
            b'Q' => self.persistent_id()?,                             // BINPERSID
            other => {
                let what = format!("a pickle opcode (at byte {})", self.cursor.position() - 1);
                return Err(self.wrong(&what, "one that tensors need", format!("{other:#04x}")));
            }
        }
        Ok(())
    }

    fn protocol(&mut self) -> Result<(), FileError> {
        match self.cursor.u8("the pickle protocol")? {
            2..=5 => Ok(()),
            other => Err(self.wrong("the pickle protocol", "2 to 5", other)),
        }
    }

    fn mark(&mut self) -> Result<(), FileError> {
        self.check_limit("the number of pickle marks", self.marks.len(), STACK_MAX)?;
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn push(&mut self, id: Id) -> Result<(), FileError> {
        self.check_limit("the depth of the pickle stack", self.stack.len(), STACK_MAX)?;
        self.stack.push(id);
        Ok(())
    }

    fn make(&mut self, object: Object<'a>) -> Result<(), FileError> {
        self.check_limit("the number of pickled objects", self.objects.len(), OBJECTS_MAX)?;
        self.objects.push(object);
        self.push((self.objects.len() - 1) as Id)
    }

    fn top(&self) -> Result<Id, FileError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack[floor..].last() {
            Some(id) => Ok(*id),
            None => Err(self.wrong("the pickle stack", "an object", "nothing")),
        }
    }

    fn pop(&mut self) -> Result<Id, FileError> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn pop_or_mark(&mut self) -> Result<(), FileError> {
        match self.marks.last() {
            Some(mark) if *mark == self.stack.len() => drop(self.marks.pop()),
            _ => drop(self.pop()?),
        }
        Ok(())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, FileError> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.wrong("the pickle stack", "a mark", "none")),
        }
    }

    fn int(
        &mut self,
        read: impl Fn(&mut Cursor<'a>) -> Result<i64, FileError>,
    ) -> Result<(), FileError> {
        let value = read(&mut self.cursor)?;
        self.make(Object::Int(value))
    }

    /// Whole numbers of up to 8 bytes; nothing in a checkpoint needs more.
    fn long(&mut self) -> Result<(), FileError> {
        let length = self.cursor.u8("a pickled number")?;
        let bytes = self.cursor.take(length.into(), "a pickled number")?;
        if bytes.len() > 8 {
            return Err(self.wrong("the length of a pickled number", "at most 8 bytes", length));
        }
        let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [sign; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.make(Object::Int(i64::from_le_bytes(wide)))
    }

    /// Floats alone are stored with the highest byte first.
    fn float(&mut self) -> Result<(), FileError> {
        let bits = self.cursor.u64("a pickled float")?.swap_bytes();
        self.make(Object::Float(f64::from_bits(bits)))
    }

    fn text(
        &mut self,
        length: impl Fn(&mut Cursor<'a>) -> Result<u64, FileError>,
    ) -> Result<(), FileError> {
        let length = length(&mut self.cursor)?;
        let bytes = self.cursor.take(length, "a pickled string")?;
        match str::from_utf8(bytes) {
            Ok(text) => self.make(Object::Str(text)),
            Err(_) => {
                let got = bytes[..bytes.len().min(40)].escape_ascii().to_string();
                Err(self.wrong("a pickled string", "utf-8", got))
            }
        }
    }

    fn bytes(
        &mut self,
        length: impl Fn(&mut Cursor<'a>) -> Result<u64, FileError>,
    ) -> Result<(), FileError> {
        let length = length(&mut self.cursor)?;
        self.cursor.take(length, "pickled bytes")?;
        self.make(Object::Bytes)
    }

    fn tuple(&mut self, count: usize) -> Result<(), FileError> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.make(Object::Tuple(items))
    }

    fn collect(&mut self, object: fn(Vec<Id>) -> Object<'a>) -> Result<(), FileError> {
        let items = self.pop_to_mark()?;
        self.make(object(items))
    }

    fn dict(&mut self) -> Result<(), FileError> {
        let items = self.pop_to_mark()?;
        self.make(Object::Dict(Vec::new()))?;
        self.extend_dict(&items)
    }

    fn append(&mut self) -> Result<(), FileError> {
        let item = self.pop()?;
        self.extend_list(vec![item])
    }

    fn appends(&mut self) -> Result<(), FileError> {
        let items = self.pop_to_mark()?;
        self.extend_list(items)
    }

    fn extend_list(&mut self, items: Vec<Id>) -> Result<(), FileError> {
        let list = self.top()?;
        match &mut self.objects[list as usize] {
            Object::List(list) => {
                list.extend(items);
                Ok(())
            }
            _ => Err(self.wrong_object("what is appended to", "a list", list)),
        }
    }

    fn set_item(&mut self) -> Result<(), FileError> {
        let value = self.pop()?;
        let key = self.pop()?;
        self.extend_dict(&[key, value])
    }

    fn set_items(&mut self) -> Result<(), FileError> {
        let items = self.pop_to_mark()?;
        self.extend_dict(&items)
    }

    fn extend_dict(&mut self, items: &[Id]) -> Result<(), FileError> {
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err(self.wrong("the items of a pickled dict", "pairs", items.len()));
        };
        let dict = self.top()?;
        match &mut self.objects[dict as usize] {
            Object::Dict(dict) => {
                dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                Ok(())
            }
            _ => Err(self.wrong_object("what items are set in", "a dict", dict)),
        }
    }

    fn put(
        &mut self,
        slot: impl Fn(&mut Cursor<'a>) -> Result<u32, FileError>,
    ) -> Result<(), FileError> {
        let slot = slot(&mut self.cursor)?;
        self.check_limit("the size of the pickle memo", self.memo.len(), OBJECTS_MAX)?;
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn memoize(&mut self) -> Result<(), FileError> {
        let slot = self.memo.len() as u32;
        self.put(|_| Ok(slot))
    }

    fn get(
        &mut self,
        slot: impl Fn(&mut Cursor<'a>) -> Result<u32, FileError>,
    ) -> Result<(), FileError> {
        let slot = slot(&mut self.cursor)?;
        match self.memo.get(&slot) {
            Some(id) => self.push(*id),
            None => Err(self.wrong("a pickle memo slot", "one that was filled", slot)),
        }
    }

    /// `module name`, each ended by a line feed.
    fn global(&mut self) -> Result<(), FileError> {
        let module = self.line()?;
        let name = self.line()?;
        self.named(module, name)
    }

    fn line(&mut self) -> Result<&'a str, FileError> {
        const LINE_MAX: usize = 256;
        let start = self.cursor.position();
        let rest = self.cursor.rest();
        let end = rest.iter().take(LINE_MAX).position(|byte| *byte == b'\n');
        let text = end.and_then(|end| str::from_utf8(&rest[..end]).ok());
        let Some(text) = text else {
            let what = format!("a python name (at byte {start})");
            return Err(self.wrong(&what, "a line of text", "not one"));
        };
        self.cursor.take(text.len() as u64 + 1, "a python name")?;
        Ok(text)
    }

    fn stack_global(&mut self) -> Result<(), FileError> {
        let name = self.pop()?;
        let module = self.pop()?;
        match (&self.objects[module as usize], &self.objects[name as usize]) {
            (Object::Str(module), Object::Str(name)) => self.named(module, name),
            _ => Err(self.wrong_object("a python name", "two strings", name)),
        }
    }

    fn named(&mut self, module: &str, name: &str) -> Result<(), FileError> {
        match allowed(module, name) {
            Some(global) => self.make(Object::Global(global)),
            None => Err(FileError::Forbidden {
                path: self.cursor.path.to_owned(),
                name: format!("{module}.{name}").chars().take(200).collect(),
            }),
        }
    }

    /// Applies a global to its arguments: the one place where a pickle would run code.
    fn reduce(&mut self) -> Result<(), FileError> {
        let arguments = self.pop()?;
        let callee = self.pop()?;
        let Object::Global(global) = self.objects[callee as usize] else {
            return Err(self.wrong_object("what a pickle calls", "a python name", callee));
        };
        let Object::Tuple(items) = &self.objects[arguments as usize] else {
            return Err(self.wrong_object("the arguments of a call", "a tuple", arguments));
        };
        match (global, &items[..]) {
            (Global::OrderedDict, []) => self.make(Object::Dict(Vec::new())),
            (Global::RebuildTensor, [storage, offset, shape, strides, ..]) => {
                let (storage, shape, strides) = (*storage, *shape, *strides);
                let Object::Int(offset) = self.objects[*offset as usize] else {
                    return Err(self.wrong_object("a storage offset", "a number", *offset));
                };
                let Ok(offset) = usize::try_from(offset) else {
                    return Err(self.wrong("a storage offset", "at least 0", offset));
                };
                self.make(Object::Tensor { storage, offset, shape, strides })
            }
            (Global::RebuildParameter, [tensor, ..]) => self.push(*tensor),
            (Global::Size, [axes]) => self.push(*axes),
            (Global::Device, _) => self.push(NONE),
            (other, items) => {
                let what = format!("the number of arguments of {other:?}");
                Err(self.wrong(&what, "another", items.len()))
            }
        }
    }

    /// An OrderedDict may carry attributes (`_metadata`); they say nothing about tensors.
    fn build(&mut self) -> Result<(), FileError> {
        self.pop()?;
        let target = self.top()?;
        match self.objects[target as usize] {
            Object::Dict(_) => Ok(()),
            _ => Err(self.wrong_object("what a pickle builds on", "a dict", target)),
        }
    }

    /// `('storage', type, key, location, items)`.
    fn persistent_id(&mut self) -> Result<(), FileError> {
        let id = self.pop()?;
        let object = |id: &Id| &self.objects[*id as usize];
        let storage = match object(&id) {
            Object::Tuple(items) => match &items[..] {
                [tag, kind, key, _location, items] => {
                    match (object(tag), object(kind), object(key), object(items)) {
                        (
                            Object::Str("storage"),
                            Object::Global(Global::Storage(dtype)),
                            Object::Str(key),
                            Object::Int(items),
                        ) => usize::try_from(*items).ok().map(|items| (*dtype, *key, items)),
                        _ => None,
                    }
                }
                _ => None,
            },
            _ => None,
        };
        match storage {
            Some((dtype, key, items)) => self.make(Object::Storage { dtype, key, items }),
            None => Err(self.wrong_object("a persistent id", "that of a storage", id)),
        }
    }

    fn check_limit(&self, what: &str, held: usize, most: usize) -> Result<(), FileError> {
        match held < most {
            true => Ok(()),
            false => Err(self.wrong(what, format!("at most {most}"), "more")),
        }
    }

    fn wrong(&self, what: &str, expected: impl ToString, got: impl ToString) -> FileError {
        FileError::field(self.cursor.path, what, expected, got)
    }

    fn wrong_object(&self, what: &str, expected: &str, got: Id) -> FileError {
        let got = self.objects[got as usize].kind();
        self.wrong(what, expected, got)
    }
}

impl Object<'_> {
    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Object::None => "None",
            Object::Bool(_) => "a bool",
            Object::Int(_) => "a number",
            Object::Float(_) => "a float",
            Object::Str(_) => "a string",
            Object::Bytes => "bytes",
            Object::List(_) => "a list",
            Object::Tuple(_) => "a tuple",
            Object::Dict(_) => "a dict",
            Object::Global(_) => "a python name",
            Object::Storage { .. } => "a storage",
            Object::Tensor { .. } => "a tensor",
        }
    }
}

// What the limit on objects counts on.
const _: () = assert!(size_of::<Object<'_>>() <= 40);

#[cfg(test)]
mod tests {
    use super::*;

    fn error(pickle: &[u8]) -> String {
        match load(Path::new("a.pth"), pickle) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{} was read", pickle.escape_ascii()),
        }
    }

    #[test]
    fn numbers_of_every_width_keep_their_sign() {
        for (pickle, expected) in [
            (&b"K\xff."[..], 255),
            (b"M\xff\xff.", 65535),
            (b"J\xfe\xff\xff\xff.", -2),
            (b"\x8a\0.", 0),
            (b"\x8a\x01\x80.", -128),
            (b"\x8a\x02\xff\0.", 255),
            (b"\x8a\x05\0\0\0\0\x01.", 1 << 32),
        ] {
            let pickle = load(Path::new("a.pth"), pickle).unwrap();
            assert!(
                matches!(pickle.objects[pickle.root as usize], Object::Int(x) if x == expected)
            );
        }
    }

    #[test]
    fn the_arena_is_limited() {
        let pickle = b")0".repeat(OBJECTS_MAX + 1);
        assert_eq!(
            error(&pickle),
            format!("a.pth: the number of pickled objects is more, expected at most {OBJECTS_MAX}")
        );
    }

    #[test]
    fn a_call_off_the_list_is_refused_by_name() {
        let pickle = b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.";
        assert_eq!(
            error(pickle),
            "a.pth asks for the python object os.system, which is not on the list"
        );
    }
}
