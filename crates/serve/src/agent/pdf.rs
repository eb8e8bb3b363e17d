//! The words of a PDF, page by page: enough of ISO 32000 for texts that were not scanned.
//!
//! Objects are found by looking for `N G obj`, so that files with a broken table are read as well; streams are unpacked by
//! deflate, object streams included; words come from `Tj`, `TJ`, `'` and `"`, through `ToUnicode` where a font has one. Encrypted files,
//! other filters and the order of columns are beyond it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::ops::{Range, RangeInclusive};
use std::rc::Rc;

use super::documents::{DocumentError, UNPACKED_BYTES};

/// Objects of a file at most.
const OBJECTS_MAX: usize = 1 << 20;
/// Pages at most.
const PAGES_MAX: usize = 20_000;
/// Nesting of arrays and dictionaries at most, and of the tree of pages.
const DEPTH_MAX: usize = 64;

/// Meanings of codes that the fonts of a file have together at most: a map of all codes of two bytes has 65,536.
const MEANINGS_MAX: usize = 1 << 21;
/// Codes of one text that are read: each may stand for sixteen letters.
const TEXT_CODES: usize = 1 << 20;

/// A value of the file format; numbers are kept as they are needed.
#[derive(Clone, Debug, PartialEq)]
enum Thing {
    Number(f64),
    Name(String),
    Text(Vec<u8>),
    List(Vec<Thing>),
    Dictionary(BTreeMap<String, Thing>),
    Reference(u32),
    Word(String),
}

impl Thing {
    fn get(&self, key: &str) -> Option<&Thing> {
        match self {
            Thing::Dictionary(entries) => entries.get(key),
            _ => None,
        }
    }
}

/// An object: its value, and where its stream lies.
struct Object {
    value: Thing,
    stream: Option<Range<usize>>,
}

struct File<'a> {
    bytes: &'a [u8],
    objects: HashMap<u32, Object>,
    /// Bytes that may still be unpacked.
    left: Cell<usize>,
    /// Meanings of codes that fonts may still have.
    meanings: Cell<usize>,
    /// Fonts that were read, since pages share them.
    fonts: RefCell<HashMap<u32, Rc<Font>>>,
    /// Nodes of the tree of pages that were seen: it may be no tree.
    visits: Cell<usize>,
}

/// The words of each page.
///
/// Errors: no PDF, an encrypted one, one without pages, or one that unpacks to more than [`UNPACKED_BYTES`] or says more than
/// that on all its pages together, or whose fonts have more than [`MEANINGS_MAX`] meanings of codes.
pub(super) fn pages(bytes: &[u8]) -> Result<Vec<String>, DocumentError> {
    let damaged = |why: &str| DocumentError::Damaged { kind: "PDF", why: why.to_owned() };
    if !bytes[..bytes.len().min(1024)].windows(5).any(|window| window == b"%PDF-") {
        return Err(damaged("it does not begin as one"));
    }
    if find(bytes, b"/Encrypt", 0).is_some() {
        return Err(damaged("it is encrypted"));
    }
    let mut file = File {
        bytes,
        objects: HashMap::new(),
        left: Cell::new(UNPACKED_BYTES),
        meanings: Cell::new(MEANINGS_MAX),
        fonts: RefCell::default(),
        visits: Cell::new(0),
    };
    file.scan()?;
    file.unpack_objects()?;
    let mut pages = Vec::new();
    let root = file.objects.values().find(|o| is_type(&o.value, "Catalog"));
    if let Some(tree) = root.and_then(|root| root.value.get("Pages")) {
        file.walk(tree, None, 0, &mut pages);
    }
    if pages.is_empty() {
        return Err(damaged("it has no pages"));
    }
    let mut room = UNPACKED_BYTES;
    let one = |(page, resources): &(&Thing, Option<&Thing>)| {
        let words = file.words(page, *resources, room)?;
        room -= words.len();
        Ok(words)
    };
    pages.iter().map(one).collect()
}

fn is_type(value: &Thing, name: &str) -> bool {
    matches!(value.get("Type"), Some(Thing::Name(found)) if found == name)
}

fn find(bytes: &[u8], what: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.windows(what.len()).position(|window| window == what).map(|at| from + at)
}

impl<'a> File<'a> {
    /// Finds `N G obj` wherever it stands; later ones count.
    fn scan(&mut self) -> Result<(), DocumentError> {
        let (mut at, mut spent) = (0, 0);
        while let Some(found) = find(self.bytes, b" obj", at) {
            // Values without an end, one inside the other, would be read again and again.
            if spent > 4 * self.bytes.len() + (1 << 20) {
                break;
            }
            at = found + 4;
            let head = &self.bytes[found.saturating_sub(20)..found];
            let mut words = head.rsplit(|byte| !byte.is_ascii_digit());
            let (Some(generation), Some(number)) = (words.next(), words.next()) else { continue };
            let number = std::str::from_utf8(number).ok().and_then(|n| n.parse::<u32>().ok());
            let (false, Some(number)) = (generation.is_empty(), number) else { continue };
            let mut reader = Reader { bytes: self.bytes, at };
            let value = reader.thing(0);
            spent += reader.at - at;
            let Some(value) = value else { continue };
            reader.space();
            let stream = self.bytes[reader.at..].starts_with(b"stream").then(|| {
                let start = reader.at + 6;
                let skip = match self.bytes.get(start..) {
                    Some([b'\r', b'\n', ..]) => 2,
                    Some([b'\n' | b'\r', ..]) => 1,
                    _ => 0,
                };
                let start = (start + skip).min(self.bytes.len());
                start..self.end_of(&value, start).max(start)
            });
            at = stream.as_ref().map_or(reader.at.max(at), |stream| stream.end);
            self.add(number, Object { value, stream })?;
        }
        Ok(())
    }

    fn add(&mut self, number: u32, object: Object) -> Result<(), DocumentError> {
        if self.objects.len() >= OBJECTS_MAX {
            return Err(DocumentError::TooLarge { most: UNPACKED_BYTES });
        }
        self.objects.insert(number, object);
        Ok(())
    }

    /// Where a stream ends: as its length says if `endstream` stands there, else where that stands next.
    fn end_of(&self, value: &Thing, start: usize) -> usize {
        if let Some(Thing::Number(length)) = value.get("Length")
            && let Some(end) = start.checked_add(*length as usize)
            && let Some(rest) = self.bytes.get(end..)
            && rest.trim_ascii_start().starts_with(b"endstream")
        {
            return end;
        }
        find(self.bytes, b"endstream", start).unwrap_or(self.bytes.len())
    }

    /// Objects that lie packed in streams of type ObjStm.
    fn unpack_objects(&mut self) -> Result<(), DocumentError> {
        let packed: Vec<u32> = self
            .objects
            .iter()
            .filter(|(_, o)| is_type(&o.value, "ObjStm"))
            .map(|(n, _)| *n)
            .collect();
        for number in packed {
            let object = &self.objects[&number];
            let (Some(Thing::Number(count)), Some(Thing::Number(first))) =
                (object.value.get("N"), object.value.get("First"))
            else {
                continue;
            };
            let (count, first) = (*count as usize, *first as usize);
            let bytes = self.stream(object)?;
            let (mut heads, mut spent) = (Reader { bytes: &bytes, at: 0 }, 0);
            for _ in 0..count.min(OBJECTS_MAX) {
                let (Some(Thing::Number(own)), Some(Thing::Number(at))) =
                    (heads.thing(0), heads.thing(0))
                else {
                    break;
                };
                let Some(at) = first.checked_add(at as usize).filter(|at| *at < bytes.len()) else {
                    break;
                };
                let mut reader = Reader { bytes: &bytes, at };
                let value = reader.thing(0);
                spent += reader.at - at;
                if spent > 4 * bytes.len() + (1 << 20) {
                    break;
                }
                if let Some(value) = value
                    && !self.objects.contains_key(&(own as u32))
                {
                    self.add(own as u32, Object { value, stream: None })?;
                }
            }
        }
        Ok(())
    }

    /// A stream as it is meant. Errors: more than may be unpacked. Filters that are not known give nothing.
    fn stream(&self, object: &Object) -> Result<Vec<u8>, DocumentError> {
        let Some(range) = object.stream.clone() else { return Ok(Vec::new()) };
        let raw = self.bytes.get(range).unwrap_or_default();
        let filter = match object.value.get("Filter").map(|filter| self.resolve(filter)) {
            None => None,
            Some(Thing::Name(name)) => Some(name.as_str()),
            Some(Thing::List(names)) => match &names[..] {
                [] => None,
                [Thing::Name(name)] => Some(name.as_str()),
                _ => return Ok(Vec::new()),
            },
            Some(_) => return Ok(Vec::new()),
        };
        let mut out = Vec::new();
        let left = self.left.get();
        match filter {
            None => out.extend_from_slice(&raw[..raw.len().min(left + 1)]),
            Some("FlateDecode") => {
                // What was unpacked before a fault is kept: texts of damaged files are still read.
                let _ =
                    flate2::read::ZlibDecoder::new(raw).take(left as u64 + 1).read_to_end(&mut out);
            }
            Some(_) => {}
        }
        if out.len() > left {
            return Err(DocumentError::TooLarge { most: UNPACKED_BYTES });
        }
        self.left.set(left - out.len());
        Ok(out)
    }

    fn resolve<'b>(&'b self, thing: &'b Thing) -> &'b Thing {
        match thing {
            Thing::Reference(number) => self.objects.get(number).map_or(thing, |o| &o.value),
            thing => thing,
        }
    }

    /// The pages below a node, with the resources that they inherit.
    fn walk<'b>(
        &'b self,
        node: &'b Thing,
        resources: Option<&'b Thing>,
        depth: usize,
        pages: &mut Vec<(&'b Thing, Option<&'b Thing>)>,
    ) {
        let node = self.resolve(node);
        self.visits.set(self.visits.get() + 1);
        if depth > DEPTH_MAX || pages.len() >= PAGES_MAX || self.visits.get() > 4 * PAGES_MAX {
            return;
        }
        let resources = node.get("Resources").map(|own| self.resolve(own)).or(resources);
        match node.get("Kids").map(|kids| self.resolve(kids)) {
            Some(Thing::List(kids)) => {
                kids.iter().for_each(|kid| self.walk(kid, resources, depth + 1, pages));
            }
            _ if is_type(node, "Page") => pages.push((node, resources)),
            _ => {}
        }
    }

    /// What a page says, in `room` bytes at most.
    fn words(
        &self,
        page: &Thing,
        resources: Option<&Thing>,
        room: usize,
    ) -> Result<String, DocumentError> {
        let mut contents = Vec::new();
        let parts = match page.get("Contents") {
            Some(Thing::List(parts)) => &parts[..],
            Some(part) => std::slice::from_ref(part),
            None => &[],
        };
        for part in parts {
            let all: Vec<&Thing> = match (part, self.resolve(part)) {
                (_, Thing::List(parts)) => parts.iter().collect(),
                (part, _) => vec![part],
            };
            for part in all {
                if let Thing::Reference(number) = part
                    && let Some(object) = self.objects.get(number)
                {
                    contents.extend(self.stream(object)?);
                    contents.push(b'\n');
                }
            }
        }
        let mut fonts = HashMap::new();
        let named = resources.and_then(|r| r.get("Font")).map(|fonts| self.resolve(fonts));
        if let Some(Thing::Dictionary(named)) = named {
            for (name, font) in named {
                fonts.insert(name.as_str(), self.font_of(font)?);
            }
        }
        shown(&contents, &fonts, room)
    }

    fn font_of(&self, font: &Thing) -> Result<Rc<Font>, DocumentError> {
        let Thing::Reference(number) = font else { return Ok(Rc::new(self.font(font)?)) };
        if let Some(known) = self.fonts.borrow().get(number) {
            return Ok(Rc::clone(known));
        }
        let read = Rc::new(self.font(self.resolve(font))?);
        self.fonts.borrow_mut().insert(*number, Rc::clone(&read));
        Ok(read)
    }

    fn font(&self, font: &Thing) -> Result<Font, DocumentError> {
        let wide = matches!(font.get("Subtype"), Some(Thing::Name(name)) if name == "Type0");
        let mut codes = HashMap::new();
        if let Some(Thing::Reference(number)) = font.get("ToUnicode")
            && let Some(object) = self.objects.get(number)
        {
            codes = unicode(&self.stream(object)?, &self.meanings)?;
        }
        Ok(Font { wide, codes })
    }
}

/// How a font's codes are read.
struct Font {
    /// Whether a code has two bytes.
    wide: bool,
    /// What codes mean; others are Latin-1 where a code has one byte, and nothing else.
    codes: HashMap<u32, String>,
}

impl Font {
    fn text(&self, bytes: &[u8]) -> String {
        let known = |code: u32| self.codes.get(&code).cloned();
        if self.wide {
            let codes = bytes
                .chunks_exact(2)
                .take(TEXT_CODES)
                .map(|c| u32::from(c[0]) << 8 | u32::from(c[1]));
            return codes.filter_map(known).collect();
        }
        let one = |byte: &u8| known(u32::from(*byte)).unwrap_or_else(|| latin(*byte).to_string());
        bytes.iter().take(TEXT_CODES).map(one).collect()
    }
}

/// WinAnsiEncoding, as far as it differs from Latin-1 in what prose uses.
fn latin(byte: u8) -> char {
    match byte {
        0x80 => '\u{20ac}',
        0x85 => '\u{2026}',
        0x91 => '\u{2018}',
        0x92 => '\u{2019}',
        0x93 => '\u{201c}',
        0x94 => '\u{201d}',
        0x95 => '\u{2022}',
        0x96 => '\u{2013}',
        0x97 => '\u{2014}',
        byte => char::from(byte),
    }
}

/// `bfchar` and `bfrange` of a map from codes to Unicode; each meaning, new or not, takes one of `left`.
fn unicode(bytes: &[u8], left: &Cell<usize>) -> Result<HashMap<u32, String>, DocumentError> {
    let mut reader = Reader { bytes, at: 0 };
    let (mut codes, mut stack) = (HashMap::new(), Vec::new());
    let spend = |meanings: usize| {
        let rest = left.get().checked_sub(meanings);
        left.set(rest.ok_or(DocumentError::TooLarge { most: UNPACKED_BYTES })?);
        Ok::<(), DocumentError>(())
    };
    while let Some(thing) = reader.thing(0) {
        match thing {
            Thing::Word(word) => {
                if word == "endbfchar" {
                    for pair in stack.chunks_exact(2) {
                        if let [Thing::Text(from), Thing::Text(to)] = pair {
                            spend(1)?;
                            codes.insert(code(from), meaning(to));
                        }
                    }
                } else if word == "endbfrange" {
                    for range in stack.chunks_exact(3) {
                        let [Thing::Text(from), Thing::Text(to), target] = range else { continue };
                        let from = code(from);
                        let to = code(to).min(from.saturating_add(0xffff));
                        spend((u64::from(to) + 1).saturating_sub(u64::from(from)) as usize)?;
                        add_range(&mut codes, from..=to, target);
                    }
                }
                stack.clear();
            }
            thing if stack.len() < 1 << 16 => stack.push(thing),
            _ => {}
        }
    }
    Ok(codes)
}

/// The codes of a range: each has its own text of a list, or the letters follow one another.
fn add_range(codes: &mut HashMap<u32, String>, range: RangeInclusive<u32>, target: &Thing) {
    for (i, own) in range.enumerate() {
        match target {
            Thing::List(list) => {
                if let Some(Thing::Text(one)) = list.get(i) {
                    codes.insert(own, meaning(one));
                }
            }
            Thing::Text(first) => {
                let c = char::from_u32(code(first).saturating_add(i as u32));
                codes.extend(c.map(|c| (own, c.to_string())));
            }
            _ => return,
        }
    }
}

fn code(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |n, b| n << 8 | u32::from(*b))
}

/// What a code stands for: sixteen units of UTF-16 at most.
fn meaning(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).take(16).map(|c| u16::from(c[0]) << 8 | u16::from(c[1]));
    String::from_utf16_lossy(&units.collect::<Vec<u16>>())
}

/// The words that a page's content shows: a line where the place moves down, a space where a gap is wide.
///
/// Errors: more than `room` bytes of them.
fn shown(
    contents: &[u8],
    fonts: &HashMap<&str, Rc<Font>>,
    room: usize,
) -> Result<String, DocumentError> {
    let plain = Font { wide: false, codes: HashMap::new() };
    let (mut out, mut font) = (String::new(), &plain);
    let mut stack: Vec<Thing> = Vec::new();
    let mut reader = Reader { bytes: contents, at: 0 };
    let line = |out: &mut String| {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
    };
    while let Some(thing) = reader.thing(0) {
        let Thing::Word(word) = thing else {
            if stack.len() < 1024 {
                stack.push(thing);
            }
            continue;
        };
        match (word.as_str(), &stack[..]) {
            ("Tf", [.., Thing::Name(name), _]) => {
                font = fonts.get(name.as_str()).map_or(&plain, |font| &**font);
            }
            ("Tj", [.., Thing::Text(text)]) => out += &font.text(text),
            ("'" | "\"", [.., Thing::Text(text)]) => {
                line(&mut out);
                out += &font.text(text);
            }
            ("TJ", [.., Thing::List(parts)]) => {
                for part in parts {
                    if out.len() > room {
                        break;
                    }
                    match part {
                        Thing::Text(text) => out += &font.text(text),
                        // A fifth of the letter's height: the gap of a word.
                        Thing::Number(gap) if *gap < -200.0 && !out.ends_with(' ') => out.push(' '),
                        _ => {}
                    }
                }
            }
            ("Td" | "TD", [.., Thing::Number(_), Thing::Number(down)]) => match *down == 0.0 {
                true if !out.ends_with([' ', '\n']) && !out.is_empty() => out.push(' '),
                true => {}
                false => line(&mut out),
            },
            ("T*" | "Tm" | "ET", _) => line(&mut out),
            ("BI", _) => reader.at = find(contents, b"EI", reader.at).unwrap_or(contents.len()),
            _ => {}
        }
        if out.len() > room {
            return Err(DocumentError::TooLarge { most: UNPACKED_BYTES });
        }
        stack.clear();
    }
    Ok(out)
}

/// Reads values one after the other.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

fn is_delimiter(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0 || b"()<>[]{}/%".contains(&byte)
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b'%' => {
                    let rest = &self.bytes[self.at..];
                    let end = rest.iter().position(|b| matches!(b, b'\n' | b'\r'));
                    self.at += end.unwrap_or(rest.len());
                }
                0 => self.at += 1,
                byte if byte.is_ascii_whitespace() => self.at += 1,
                _ => return,
            }
        }
    }

    fn thing(&mut self, depth: usize) -> Option<Thing> {
        self.space();
        if depth > DEPTH_MAX {
            return None;
        }
        match self.peek()? {
            b'/' => {
                self.at += 1;
                Some(Thing::Name(self.name()))
            }
            b'(' => Some(Thing::Text(self.string())),
            b'<' if self.bytes.get(self.at + 1) == Some(&b'<') => self.dictionary(depth),
            b'<' => Some(Thing::Text(self.hex())),
            b'[' => {
                self.at += 1;
                let mut items = Vec::new();
                loop {
                    self.space();
                    match self.peek() {
                        None => return None,
                        Some(b']') => {
                            self.at += 1;
                            return Some(Thing::List(items));
                        }
                        Some(_) => items.push(self.thing(depth + 1)?),
                    }
                }
            }
            b'0'..=b'9' | b'+' | b'-' | b'.' => Some(self.number()),
            byte if is_delimiter(byte) => {
                self.at += 1;
                Some(Thing::Word(char::from(byte).to_string()))
            }
            _ => Some(Thing::Word(self.name())),
        }
    }

    fn name(&mut self) -> String {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| is_delimiter(*byte)).unwrap_or(rest.len());
        self.at += end;
        String::from_utf8_lossy(&rest[..end]).into_owned()
    }

    fn number(&mut self) -> Thing {
        let word = self.name();
        let Ok(number) = word.parse::<f64>() else { return Thing::Word(word) };
        // `12 0 R` is one thing.
        let before = self.at;
        if word.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(target) = word.parse::<u32>()
        {
            self.space();
            let generation = self.name();
            self.space();
            if !generation.is_empty()
                && generation.bytes().all(|byte| byte.is_ascii_digit())
                && self.name() == "R"
            {
                return Thing::Reference(target);
            }
        }
        self.at = before;
        Thing::Number(number)
    }

    fn dictionary(&mut self, depth: usize) -> Option<Thing> {
        self.at += 2;
        let mut entries = BTreeMap::new();
        loop {
            self.space();
            match self.peek()? {
                b'>' => {
                    self.at = (self.at + 2).min(self.bytes.len());
                    return Some(Thing::Dictionary(entries));
                }
                b'/' => {
                    self.at += 1;
                    let key = self.name();
                    let value = self.thing(depth + 1)?;
                    entries.insert(key, value);
                }
                _ => return None,
            }
        }
    }

    fn string(&mut self) -> Vec<u8> {
        self.at += 1;
        let (mut out, mut depth) = (Vec::new(), 1);
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'(' => depth += 1,
                b')' => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                b'\\' => {
                    self.escape(&mut out);
                    continue;
                }
                _ => {}
            }
            out.push(byte);
        }
        out
    }

    fn escape(&mut self, out: &mut Vec<u8>) {
        let Some(byte) = self.peek() else { return };
        self.at += 1;
        match byte {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'\n' => {}
            b'0'..=b'7' => {
                let mut code = u32::from(byte - b'0');
                for _ in 0..2 {
                    let Some(next @ b'0'..=b'7') = self.peek() else { break };
                    code = code * 8 + u32::from(next - b'0');
                    self.at += 1;
                }
                out.push(code as u8);
            }
            other => out.push(other),
        }
    }

    fn hex(&mut self) -> Vec<u8> {
        self.at += 1;
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|byte| *byte == b'>').unwrap_or(rest.len());
        self.at = (self.at + end + 1).min(self.bytes.len());
        let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
        let digits: Vec<u8> = rest[..end].iter().filter_map(digit).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).unwrap_or(&0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOO_LARGE: DocumentError = DocumentError::TooLarge { most: UNPACKED_BYTES };

    #[test]
    fn a_range_of_codes_that_is_said_again_and_again_is_refused() {
        let range = "1 beginbfrange <0000><7fff><0041> endbfrange ";
        let left = Cell::new(MEANINGS_MAX);
        let codes = unicode(range.repeat(64).as_bytes(), &left).unwrap();
        assert_eq!((codes.len(), left.get()), (0x8000, 0));
        // The fonts of a file share what is left.
        assert_eq!(unicode(range.as_bytes(), &left).unwrap_err(), TOO_LARGE);
        let backwards = b"1 beginbfrange <ffffffff><fffffffe><0041> endbfrange ";
        assert!(unicode(backwards, &Cell::new(0)).unwrap().is_empty());
    }

    #[test]
    fn what_all_pages_say_together_is_bounded() {
        let letters = "3042".repeat(16);
        let (codes, shows) = (300_000, "A".repeat(300_000));
        let map = format!("1 beginbfchar <41> <{letters}> endbfchar");
        let pdf = |pages: usize| {
            format!(
                "%PDF-1.4\n1 0 obj <</Type /Catalog /Pages 2 0 R>> endobj\n\
                 2 0 obj <</Kids [{}] /Resources <</Font <</F 6 0 R>>>>>> endobj\n\
                 3 0 obj <</Type /Page /Contents 4 0 R>> endobj\n\
                 4 0 obj <</Length {}>> stream\n/F 9 Tf ({shows}) Tj\nendstream endobj\n\
                 5 0 obj <</Length {}>> stream\n{map}\nendstream endobj\n\
                 6 0 obj <</Type /Font /ToUnicode 5 0 R>> endobj\n",
                "3 0 R ".repeat(pages),
                shows.len() + 13,
                map.len()
            )
        };
        let said = pages(pdf(1).as_bytes()).unwrap();
        assert_eq!(said[0].len(), codes * 48);
        assert_eq!(pages(pdf(3).as_bytes()).unwrap_err(), TOO_LARGE);
    }
}
