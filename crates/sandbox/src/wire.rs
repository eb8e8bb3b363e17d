//! What the caller and the keeper tell each other: frames of a kind, a length and bytes.
//!
//! Numbers are 64 bits, little end first. The keeper is our own program, but everything that reads
//! is bounded as if it were not.

use std::time::Duration;

use crate::error::Wall;
use crate::program::{Ended, Found, Limits};

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To the keeper: a [`Request`], the first frame.
    Request,
    /// To the keeper: bytes for standard input.
    Input,
    /// To the keeper: send SIGINT to the program.
    Interrupt,
    /// To the keeper: give this file.
    Fetch,
    /// To the keeper: list the files of the folder.
    List,
    /// Back: all walls stand.
    Ready,
    /// Back: bytes of standard output.
    Stdout,
    /// Back: bytes of standard error.
    Stderr,
    /// Back: a name and what was found under it.
    File,
    /// Back: names of files.
    Names,
    /// Back: a [`Report`], the last frame.
    Ended,
    /// Back: a wall that does not stand, and why.
    NoWall,
    /// Back: the program is not there.
    NotFound,
    /// Back: what cannot be done of what was asked for, and why.
    Refused,
}

const KINDS: [Kind; 14] = [
    Kind::Request,
    Kind::Input,
    Kind::Interrupt,
    Kind::Fetch,
    Kind::List,
    Kind::Ready,
    Kind::Stdout,
    Kind::Stderr,
    Kind::File,
    Kind::Names,
    Kind::Ended,
    Kind::NoWall,
    Kind::NotFound,
    Kind::Refused,
];

/// What the keeper is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Program and arguments; none asks only whether the walls stand.
    pub command: Vec<String>,
    pub stdin: Vec<u8>,
    /// Whether more input follows, and the wall time is the caller's affair.
    pub open: bool,
    pub environment: Vec<(String, String)>,
    pub files: Vec<(String, Vec<u8>)>,
    pub collect: Vec<String>,
    /// Folders of the machine to be seen beside `/usr`, read-only.
    pub readable: Vec<String>,
    pub limits: Limits,
}

/// How it ended and what it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub ended: Ended,
    pub wall: Duration,
    pub cpu: Duration,
    /// Bytes of each stream that the keeper dropped.
    pub dropped: [u64; 2],
}

/// A frame as bytes.
pub fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind as u8];
    put_bytes(&mut out, body);
    out
}

/// Takes the first frame off `inbox`; nothing if it is not whole yet.
///
/// Errors say what no frame can be, with a body of at most `most` bytes.
pub fn take_frame(inbox: &mut Vec<u8>, most: u64) -> Result<Option<(Kind, Vec<u8>)>, String> {
    let Some((head, body)) = inbox.split_at_checked(9) else { return Ok(None) };
    let kind = *KINDS.get(head[0] as usize).ok_or_else(|| format!("kind {}", head[0]))?;
    let length = Reader(&head[1..]).number()?;
    if length > most {
        return Err(format!("a frame of {length} bytes"));
    }
    let length = length as usize;
    let Some(body) = body.get(..length) else { return Ok(None) };
    let body = body.to_vec();
    inbox.drain(..9 + length);
    Ok(Some((kind, body)))
}

impl Request {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_list(&mut out, &self.command, |out, text| put_bytes(out, text.as_bytes()));
        put_bytes(&mut out, &self.stdin);
        put_number(&mut out, self.open.into());
        put_list(&mut out, &self.environment, |out, (name, value)| {
            put_bytes(out, name.as_bytes());
            put_bytes(out, value.as_bytes());
        });
        put_list(&mut out, &self.files, |out, (name, bytes)| {
            put_bytes(out, name.as_bytes());
            put_bytes(out, bytes);
        });
        put_list(&mut out, &self.collect, |out, text| put_bytes(out, text.as_bytes()));
        put_list(&mut out, &self.readable, |out, text| put_bytes(out, text.as_bytes()));
        let l = &self.limits;
        put_time(&mut out, l.wall);
        put_time(&mut out, l.cpu);
        for n in [l.memory_bytes, l.processes.into(), l.disk_bytes, l.files.into(), l.output_bytes]
        {
            put_number(&mut out, n);
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Request, String> {
        let mut r = Reader(bytes);
        let request = Request {
            command: r.list(Reader::text)?,
            stdin: r.bytes()?.to_vec(),
            open: r.number()? == 1,
            environment: r.list(|r| Ok((r.text()?, r.text()?)))?,
            files: r.list(|r| Ok((r.text()?, r.bytes()?.to_vec())))?,
            collect: r.list(Reader::text)?,
            readable: r.list(Reader::text)?,
            limits: Limits {
                wall: r.time()?,
                cpu: r.time()?,
                memory_bytes: r.number()?,
                processes: r.number()? as u32,
                disk_bytes: r.number()?,
                files: r.number()? as u32,
                output_bytes: r.number()?,
            },
        };
        r.end(request)
    }
}

impl Report {
    pub fn encode(&self) -> Vec<u8> {
        let (kind, value) = match self.ended {
            Ended::Exited(code) => (0, code),
            Ended::Signalled(signal) => (1, signal),
            Ended::WallTime => (2, 0),
            Ended::CpuTime => (3, 0),
            Ended::Memory => (4, 0),
        };
        let mut out = Vec::new();
        put_number(&mut out, kind);
        put_number(&mut out, value as u64);
        put_time(&mut out, self.wall);
        put_time(&mut out, self.cpu);
        self.dropped.iter().for_each(|n| put_number(&mut out, *n));
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Report, String> {
        let mut r = Reader(bytes);
        let (kind, value) = (r.number()?, r.number()? as i32);
        let ended = match kind {
            0 => Ended::Exited(value),
            1 => Ended::Signalled(value),
            2 => Ended::WallTime,
            3 => Ended::CpuTime,
            4 => Ended::Memory,
            other => return Err(format!("an end of kind {other}")),
        };
        let report =
            Report { ended, wall: r.time()?, cpu: r.time()?, dropped: [r.number()?, r.number()?] };
        r.end(report)
    }
}

/// A name and what was found under it.
pub fn encode_file(name: &str, found: &Found) -> Vec<u8> {
    let (kind, bytes): (u64, &[u8]) = match found {
        Found::Bytes(bytes) => (0, bytes),
        Found::Missing => (1, &[]),
        Found::NotAFile => (2, &[]),
        Found::TooLarge => (3, &[]),
    };
    let mut out = Vec::with_capacity(bytes.len() + name.len() + 24);
    put_bytes(&mut out, name.as_bytes());
    put_number(&mut out, kind);
    put_bytes(&mut out, bytes);
    out
}

/// The inverse of [`encode_file`].
pub fn decode_file(bytes: &[u8]) -> Result<(String, Found), String> {
    let mut r = Reader(bytes);
    let (name, kind, bytes) = (r.text()?, r.number()?, r.bytes()?);
    let found = match kind {
        0 => Found::Bytes(bytes.to_vec()),
        1 => Found::Missing,
        2 => Found::NotAFile,
        3 => Found::TooLarge,
        other => return Err(format!("a file of kind {other}")),
    };
    r.end((name, found))
}

/// Names with the sizes of their files.
pub fn encode_names(names: &[(String, u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    put_list(&mut out, names, |out, (name, size)| {
        put_bytes(out, name.as_bytes());
        put_number(out, *size);
    });
    out
}

/// The inverse of [`encode_names`].
pub fn decode_names(bytes: &[u8]) -> Result<Vec<(String, u64)>, String> {
    let mut r = Reader(bytes);
    let names = r.list(|r| Ok((r.text()?, r.number()?)))?;
    r.end(names)
}

/// A wall that does not stand, and why.
pub fn encode_wall(wall: Wall, detail: &str) -> Vec<u8> {
    let place = Wall::ALL.iter().position(|w| *w == wall).expect("ALL holds every wall");
    let mut out = Vec::new();
    put_number(&mut out, place as u64);
    put_bytes(&mut out, detail.as_bytes());
    out
}

/// The inverse of [`encode_wall`].
pub fn decode_wall(bytes: &[u8]) -> Result<(Wall, String), String> {
    let mut r = Reader(bytes);
    let place = r.number()?;
    let wall = *Wall::ALL.get(place as usize).ok_or_else(|| format!("wall {place}"))?;
    let detail = r.text()?;
    r.end((wall, detail))
}

fn put_number(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(&n.to_le_bytes());
}

fn put_time(out: &mut Vec<u8>, time: Duration) {
    put_number(out, u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_list<T>(out: &mut Vec<u8>, items: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    put_number(out, items.len() as u64);
    items.iter().for_each(|item| put(out, item));
}

/// Bytes not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], String> {
        let n = usize::try_from(n).map_err(|_| format!("a field of {n} bytes"))?;
        let (head, rest) = self.0.split_at_checked(n).ok_or("a frame that is cut off")?;
        self.0 = rest;
        Ok(head)
    }

    fn number(&mut self) -> Result<u64, String> {
        let bytes = self.take(8)?.try_into().expect("eight bytes were taken");
        Ok(u64::from_le_bytes(bytes))
    }

    fn time(&mut self) -> Result<Duration, String> {
        self.number().map(Duration::from_micros)
    }

    fn bytes(&mut self) -> Result<&'a [u8], String> {
        let length = self.number()?;
        self.take(length)
    }

    fn text(&mut self) -> Result<String, String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| "a text that is not UTF-8".to_owned())
    }

    fn list<T>(&mut self, get: impl Fn(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        let n = self.number()?;
        (0..n).map(|_| get(self)).collect() // grows as items are read, whatever `n` claims
    }

    fn end<T>(&self, value: T) -> Result<T, String> {
        match self.0.len() {
            0 => Ok(value),
            n => Err(format!("{n} bytes too many")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            command: vec!["sh".into(), "-c".into(), "true".into()],
            stdin: b"in".to_vec(),
            open: true,
            environment: vec![("A".into(), "b".into())],
            files: vec![("f".into(), vec![0, 1, 2])],
            collect: vec!["out".into()],
            readable: vec!["/opt".into()],
            limits: Limits::USUAL,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(Request::decode(&request().encode()), Ok(request()));
        let report = Report {
            ended: Ended::Exited(-1),
            wall: Duration::from_micros(5),
            cpu: Duration::ZERO,
            dropped: [7, 8],
        };
        assert_eq!(Report::decode(&report.encode()), Ok(report));
        for found in [Found::Bytes(vec![9]), Found::Missing, Found::NotAFile, Found::TooLarge] {
            assert_eq!(decode_file(&encode_file("n", &found)), Ok(("n".to_owned(), found)));
        }
        for wall in Wall::ALL {
            assert_eq!(decode_wall(&encode_wall(wall, "x")), Ok((wall, "x".to_owned())));
        }
        for (place, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
    }

    #[test]
    fn frames_come_off_one_by_one() {
        let mut inbox = frame(Kind::Stdout, b"abc");
        inbox.extend(frame(Kind::Ready, b""));
        let last = inbox.pop().unwrap();
        assert_eq!(take_frame(&mut inbox, 3), Ok(Some((Kind::Stdout, b"abc".to_vec()))));
        assert_eq!(take_frame(&mut inbox, 3), Ok(None));
        inbox.push(last);
        assert_eq!(take_frame(&mut inbox, 3), Ok(Some((Kind::Ready, vec![]))));
    }

    #[test]
    fn cut_and_lying_bytes_are_refused() {
        let whole = request().encode();
        for n in 0..whole.len() {
            assert!(Request::decode(&whole[..n]).is_err(), "{n} bytes");
        }
        let mut lying = vec![0xff; 8];
        assert!(Request::decode(&lying).is_err());
        lying.insert(0, Kind::Stdout as u8);
        assert!(take_frame(&mut lying, 3).is_err());
        assert!(take_frame(&mut vec![99; 9], 3).is_err());
        assert!(take_frame(&mut frame(Kind::Stdout, b"four"), 3).is_err());
    }
}
