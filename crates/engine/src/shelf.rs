//! Pages of the cache on disk, found again after a restart.
//!
//! A page's file bears its name, which is a hash of the checkpoint, of all else that decides the numbers
//! and of the tokens up to its end ([`crate::pages::Name`]). In it stands a hash of its name and its
//! bytes: a file that was cut, edited or renamed is passed over with a line, and its page computed.
//! Files are written by a thread of their own, under another name, synced and renamed.
//!
//! A model has a folder, and in it each root (what decides the numbers of a page beside its tokens) one of its own,
//! which one engine has at a time. The model's folder is bounded: pages that were longest not wanted go first, those
//! of other roots too unless an engine has them.

use crate::pages::Name;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

/// What a file begins with; a hash and the page follow.
const MAGIC: [u8; 8] = *b"HERDPAG1";
const HEAD: usize = MAGIC.len() + 32;

/// Pages that may wait to be written: each is a copy in memory.
const WAITING: usize = 4;

/// Where pages are kept, and whose.
#[derive(Clone, Debug)]
pub struct ShelfSettings {
    /// The model's folder, which is made if it is not there.
    pub folder: PathBuf,
    /// Bytes of all pages in it at most, without those of other engines.
    pub bytes: u64,
    /// The hash of what decides the numbers beside what the engine knows: the checkpoint above all.
    pub identity: Name,
    /// Is told of what was passed over.
    pub log: fn(&str),
}

/// The folder, as far as this process knows it.
pub struct Shelf {
    settings: ShelfSettings,
    /// Where its own pages are, in the model's folder.
    own: PathBuf,
    /// Bytes of a page in all layers.
    page_bytes: usize,
    files: HashMap<Name, Kept>,
    bytes: u64,
    /// Counts what is wanted: the order does not hang on the system's clock.
    turn: u64,
    writer: Option<Writer>,
    /// Held while `own` is this engine's.
    _lock: File,
}

struct Kept {
    path: PathBuf,
    bytes: u64,
    /// The turn at which it was wanted last.
    wanted: u64,
}

struct Writer {
    pages: SyncSender<(PathBuf, Name, Vec<u8>)>,
    failures: Receiver<(Name, io::Error)>,
    thread: JoinHandle<()>,
}

impl Shelf {
    /// Opens the folder for pages of `page_bytes` bytes under this root; reads names, not pages.
    ///
    /// Errors: a folder that cannot be made or listed; `WouldBlock` where another engine has it.
    pub fn open(settings: ShelfSettings, root: &Name, page_bytes: usize) -> io::Result<Shelf> {
        let own = settings.folder.join(digits(&root[..8]));
        fs::create_dir_all(&own)?;
        let lock = lock(&own)?;
        let mut found = pages_in(&own)?;
        for entry in fs::read_dir(&settings.folder)? {
            let other = entry?.path();
            // Whoever comes to it later finds pages gone, and computes them.
            if other != own && other.is_dir() && self::lock(&other).is_ok() {
                found.extend(pages_in(&other)?);
            }
        }
        found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let (mut files, mut bytes, mut turn) = (HashMap::new(), 0, 0);
        for (_, path, name, len) in found {
            (bytes, turn) = (bytes + len, turn + 1);
            files.insert(name, Kept { path, bytes: len, wanted: turn });
        }
        let writer = None;
        let mut shelf =
            Shelf { settings, own, page_bytes, files, bytes, turn, writer, _lock: lock };
        shelf.writer = Some(shelf.start()?);
        shelf.make_room(0);
        Ok(shelf)
    }

    fn start(&self) -> io::Result<Writer> {
        let (pages, orders) = sync_channel::<(PathBuf, Name, Vec<u8>)>(WAITING);
        let (tell, failures) = channel();
        let work = move || {
            for (path, name, bytes) in orders {
                if let Err(error) = write(&path, &name, &bytes) {
                    let _ = tell.send((name, error)); // the shelf may be closing
                }
            }
        };
        let thread = thread::Builder::new().name("herd-shelf".into()).spawn(work)?;
        Ok(Writer { pages, failures, thread })
    }

    /// Pages of this kind that the folder holds at most.
    pub fn room(&self) -> usize {
        let pages = self.settings.bytes / (HEAD + self.page_bytes) as u64;
        usize::try_from(pages).unwrap_or(usize::MAX)
    }

    /// Files in the folder, and their bytes.
    pub fn kept(&self) -> (usize, u64) {
        (self.files.len(), self.bytes)
    }

    /// Whether a page is there, or about to be.
    pub fn has(&self, name: &Name) -> bool {
        self.files.contains_key(name)
    }

    /// A page's bytes, if they are there and whole.
    pub fn read(&mut self, name: &Name) -> Option<Vec<u8>> {
        self.files.contains_key(name).then_some(())?;
        let path = self.path(name);
        match read(&path, name, self.page_bytes) {
            Ok(bytes) => {
                self.turn += 1;
                if let Some(kept) = self.files.get_mut(name) {
                    kept.wanted = self.turn;
                }
                // For the next process; a folder that cannot be written still gives pages.
                let now = SystemTime::now();
                let _ = File::options().append(true).open(&path).and_then(|f| f.set_modified(now));
                Some(bytes)
            }
            // It may still be in the writer's hands.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                (self.settings.log)(&format!(
                    "prefix cache: {} passed over: {error}",
                    path.display()
                ));
                self.drop_file(name);
                None
            }
        }
    }

    /// Takes a page to be written; false if too many wait, or the folder takes none any more.
    ///
    /// `wait` waits for room among those. After a page could not be written none is taken.
    pub fn write(&mut self, name: Name, bytes: Vec<u8>, wait: bool) -> bool {
        assert_eq!(bytes.len(), self.page_bytes, "a page of another size");
        let (path, size) = (self.path(&name), (HEAD + self.page_bytes) as u64);
        let Some(writer) = self.writer.as_ref().filter(|_| size <= self.settings.bytes) else {
            return false;
        };
        if let Ok((failed, error)) = writer.failures.try_recv() {
            self.fail(&failed, &error);
            return false;
        }
        let taken = match wait {
            true => writer.pages.send((path.clone(), name, bytes)).is_ok(),
            false => writer.pages.try_send((path.clone(), name, bytes)).is_ok(),
        };
        if taken {
            self.make_room(size);
            self.turn += 1;
            self.files.insert(name, Kept { path, bytes: size, wanted: self.turn });
            self.bytes += size;
        }
        taken
    }

    fn fail(&mut self, name: &Name, error: &io::Error) {
        (self.settings.log)(&format!("prefix cache: no more pages are written: {error}"));
        self.drop_file(name);
        self.writer = None;
    }

    /// Deletes what was longest not wanted until so many bytes more have room.
    fn make_room(&mut self, more: u64) {
        while self.bytes + more > self.settings.bytes {
            let oldest = self.files.iter().min_by_key(|(_, kept)| kept.wanted);
            let Some(name) = oldest.map(|(name, _)| *name) else { return };
            self.drop_file(&name);
        }
    }

    fn drop_file(&mut self, name: &Name) {
        if let Some(kept) = self.files.remove(name) {
            self.bytes -= kept.bytes;
            let _ = fs::remove_file(kept.path); // it may not be written yet, or be gone
        }
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.own.join(digits(name) + ".page")
    }
}

impl Drop for Shelf {
    /// Waits until all that was taken is written.
    fn drop(&mut self) {
        if let Some(Writer { pages, failures, thread }) = self.writer.take() {
            drop(pages);
            let _ = thread.join(); // a panic there has been printed
            if let Some((name, error)) = failures.into_iter().next() {
                self.fail(&name, &error);
            }
        }
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes a folder for as long as the file is open.
fn lock(folder: &Path) -> io::Result<File> {
    let file = File::create(folder.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let what = format!("{} is another engine's", folder.display());
            Err(io::Error::new(io::ErrorKind::WouldBlock, what))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The pages of a folder that nobody else has: when each was wanted, its path, its name and its bytes. What a kill
/// left behind goes.
fn pages_in(folder: &Path) -> io::Result<Vec<(SystemTime, PathBuf, Name, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if let Some(name) = name_of(&path) {
            let data = entry.metadata()?;
            let wanted = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push((wanted, path, name, data.len()));
        } else if path.extension().is_some_and(|ending| ending == "part") {
            let _ = fs::remove_file(&path); // it is in nobody's way
        }
    }
    Ok(found)
}

/// The name that a file bears.
fn name_of(path: &Path) -> Option<Name> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".page")?;
    let mut name = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in name.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(name)
}

fn sum(name: &Name, bytes: &[u8]) -> Name {
    Sha256::new().chain_update(name).chain_update(bytes).finalize().into()
}

fn write(path: &Path, name: &Name, bytes: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = File::create(&part)?;
    file.write_all(&MAGIC)?;
    file.write_all(&sum(name, bytes))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&part, path)
}

fn read(path: &Path, name: &Name, page_bytes: usize) -> io::Result<Vec<u8>> {
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut file = File::open(path)?;
    let (len, expected) = (file.metadata()?.len(), (HEAD + page_bytes) as u64);
    if len != expected {
        return Err(wrong(format!("it has {len} bytes, a page {expected}")));
    }
    let mut head = [0; HEAD];
    file.read_exact(&mut head)?;
    let mut bytes = vec![0; page_bytes];
    file.read_exact(&mut bytes)?;
    if head[..MAGIC.len()] != MAGIC || head[MAGIC.len()..] != sum(name, &bytes) {
        return Err(wrong("its bytes are not those that were written".into()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf(folder: &Path, pages: u64) -> Shelf {
        rooted(folder, &[0; 32], pages).unwrap()
    }

    fn rooted(folder: &Path, root: &Name, pages: u64) -> io::Result<Shelf> {
        let bytes = pages * (HEAD as u64 + 100);
        let log = |_: &str| {};
        let settings = ShelfSettings { folder: folder.into(), bytes, identity: [0; 32], log };
        Shelf::open(settings, root, 100)
    }

    #[test]
    fn pages_are_found_by_the_next_process_and_the_least_wanted_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = shelf(folder.path(), 3);
        for i in 0..3 {
            assert!(first.write([i; 32], vec![i; 100], true));
        }
        drop(first);
        let mut second = shelf(folder.path(), 3);
        assert_eq!(second.kept(), (3, 3 * (HEAD as u64 + 100)));
        assert_eq!(second.read(&[0; 32]), Some(vec![0; 100]));
        assert!(second.write([3; 32], vec![3; 100], true));
        drop(second);
        let mut third = shelf(folder.path(), 3);
        assert_eq!(third.read(&[1; 32]), None, "1 was longest not wanted");
        assert_eq!([0, 2, 3].map(|i| third.read(&[i; 32])), [0, 2, 3].map(|i| Some(vec![i; 100])));
        drop(third);
        assert_eq!(shelf(folder.path(), 1).kept().0, 1);
    }

    #[test]
    fn a_file_that_is_cut_edited_or_renamed_is_passed_over_at_every_byte() {
        let folder = tempfile::tempdir().unwrap();
        let mut one = shelf(folder.path(), 9);
        assert!(one.write([7; 32], vec![7; 100], true));
        let path = one.path(&[7; 32]);
        drop(one);
        let whole = fs::read(&path).unwrap();
        let mut hurt: Vec<Vec<u8>> = (0..whole.len()).map(|n| whole[..n].to_vec()).collect();
        hurt.push([&whole[..], &[0]].concat());
        for at in 0..whole.len() {
            let mut edited = whole.clone();
            edited[at] ^= 1;
            hurt.push(edited);
        }
        for bytes in hurt {
            fs::write(&path, &bytes).unwrap();
            let mut shelf = shelf(folder.path(), 9);
            assert_eq!(shelf.read(&[7; 32]), None, "{} bytes", bytes.len());
            assert!(!shelf.has(&[7; 32]), "it is not looked at twice");
        }
        let mut other = shelf(folder.path(), 9);
        fs::write(other.path(&[8; 32]), &whole).unwrap();
        other = {
            drop(other);
            shelf(folder.path(), 9)
        };
        assert_eq!(other.read(&[8; 32]), None, "another's bytes");
    }

    #[test]
    fn a_root_has_one_engine_and_the_second_harms_nothing_of_the_firsts() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = shelf(folder.path(), 3);
        fs::write(first.path(&[1; 32]).with_extension("part"), b"half").unwrap();
        let second = rooted(folder.path(), &[0; 32], 3).err().unwrap();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        let other = rooted(folder.path(), &[9; 32], 3).unwrap();
        assert!(first.path(&[1; 32]).with_extension("part").exists(), "the first may write it");
        assert!(first.write([1; 32], vec![1; 100], true));
        drop((first, other));
        assert_eq!(shelf(folder.path(), 3).read(&[1; 32]), Some(vec![1; 100]));
    }

    #[test]
    fn pages_of_other_roots_go_first_but_for_those_of_another_engine() {
        let folder = tempfile::tempdir().unwrap();
        let fill = |root: u8| {
            let mut shelf = rooted(folder.path(), &[root; 32], 3).unwrap();
            (0..3).for_each(|i| assert!(shelf.write([root + i; 32], vec![i; 100], true)));
            shelf
        };
        let kept = |root: u8| pages_in(&folder.path().join(digits(&[root; 8]))).unwrap().len();
        drop(fill(10));
        let held = fill(20);
        assert_eq!((kept(10), held.kept().0), (0, 3), "20 took the room of 10, which nobody has");
        drop(fill(30));
        drop(held); // all is written
        assert_eq!((kept(20), kept(30)), (3, 3), "20 was another engine's");
    }
}
