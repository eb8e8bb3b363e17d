//! A file that is written beside its place and renamed into it when it is whole.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{FileError, TensorInfo};

/// A file under way, called `.NAME.part`. Dropped unfinished, it is removed; after a kill it stays
/// and the next writer of the same file takes it over. What stood at the path is untouched until
/// [`Pending::publish`].
#[derive(Debug)]
pub(super) struct Pending {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    written: u64,
    published: bool,
}

const BUFFER_BYTES: usize = 1 << 20;

impl Pending {
    /// Starts a file. Errors: it cannot be made, or another process is writing it.
    pub fn create(path: &Path) -> Result<Pending, FileError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let part = path.with_file_name(format!(".{name}.part"));
        let file = open_locked(&part).map_err(|e| FileError::io(path, "write", e))?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Pending { path: path.to_owned(), part, file, written: 0, published: false })
    }

    /// Where it will stand.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes written so far.
    pub fn position(&self) -> u64 {
        self.written
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).map_err(|e| FileError::io(&self.path, "write", e))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Appends zeros up to a multiple of `alignment`.
    pub fn pad(&mut self, alignment: u64) -> Result<(), FileError> {
        let zeros = self.written.next_multiple_of(alignment) - self.written;
        self.write(&vec![0; zeros as usize])
    }

    /// Brings all of it to the disk.
    pub fn sync(&mut self) -> Result<(), FileError> {
        self.file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all())
            .map_err(|e| FileError::io(&self.path, "write", e))
    }

    /// Syncs it and puts it in its place, in one step as seen by others.
    pub fn publish(mut self) -> Result<(), FileError> {
        self.sync()?;
        fs::rename(&self.part, &self.path).map_err(|e| FileError::io(&self.path, "replace", e))?;
        self.published = true;
        sync_folder(&self.path).map_err(|e| FileError::io(&self.path, "sync", e))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.published {
            // Nothing can be done about a failure here; the next writer takes the file over.
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Opens, locks and empties a part file. Locking before emptying keeps two writers apart.
fn open_locked(part: &Path) -> io::Result<File> {
    const TRIES: usize = 8;
    for _ in 0..TRIES {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(part)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let message = "another process is writing it";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
            }
            Err(TryLockError::Error(_)) | Ok(()) => {} // some file systems have no locks
        }
        // Between opening and locking, its last writer may have published or removed it.
        if is_still_at(&file, part)? {
            file.set_len(0)?;
            return Ok(file);
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "other processes keep writing it"))
}

#[cfg(unix)]
fn is_still_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let held = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (held.dev(), held.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(not(unix))]
fn is_still_at(_: &File, path: &Path) -> io::Result<bool> {
    Ok(path.exists())
}

/// A rename is on the disk once its folder is.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// Tensors still to be written, in the order that was announced.
#[derive(Debug)]
pub(super) struct Queue {
    tensors: VecDeque<TensorInfo>,
    /// Bytes of the first of them that came already.
    written: usize,
}

impl Queue {
    /// Errors: two have one name, or a type or shape has no size.
    pub fn new(path: &Path, tensors: &[TensorInfo]) -> Result<Queue, FileError> {
        let mut names = HashSet::new();
        for info in tensors {
            if !names.insert(&info.name) {
                let name = format!("tensor {}", info.name);
                return Err(FileError::Duplicate { path: path.to_owned(), name });
            }
            size(path, info)?;
        }
        Ok(Queue { tensors: tensors.iter().cloned().collect(), written: 0 })
    }

    /// The next tensor, which must have this name and length.
    pub fn next(&mut self, path: &Path, name: &str, bytes: &[u8]) -> Result<TensorInfo, FileError> {
        let (info, left) = self.turn(path, name)?;
        if bytes.len() != left {
            return Err(FileError::tensor(path, name, "the length", left, bytes.len()));
        }
        self.take(bytes.len(), left);
        Ok(info)
    }

    /// The next bytes of the next tensor, which must have this name and room for them.
    pub fn piece(&mut self, path: &Path, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let (_, left) = self.turn(path, name)?;
        if bytes.len() > left {
            let expected = format!("at most {left} more");
            return Err(FileError::tensor(path, name, "the length", expected, bytes.len()));
        }
        self.take(bytes.len(), left);
        Ok(())
    }

    /// The tensor at hand, which must have this name, and the bytes that it lacks.
    fn turn(&self, path: &Path, name: &str) -> Result<(TensorInfo, usize), FileError> {
        let Some(info) = self.tensors.front() else {
            return Err(FileError::tensor(path, name, "its turn", "no more tensors", "one more"));
        };
        if info.name != name {
            let first = format!("{} first", info.name);
            return Err(FileError::tensor(path, name, "its turn", first, "now"));
        }
        Ok((info.clone(), size(path, info)? - self.written))
    }

    fn take(&mut self, bytes: usize, left: usize) {
        self.written += bytes;
        if bytes == left {
            self.tensors.pop_front();
            self.written = 0;
        }
    }

    /// Errors: a tensor was announced and not written.
    pub fn done(&self, path: &Path) -> Result<(), FileError> {
        match self.tensors.front() {
            None => Ok(()),
            Some(info) => Err(FileError::tensor(path, &info.name, "it", "written", "missing")),
        }
    }
}

/// Bytes of a tensor that is to be written.
pub(super) fn size(path: &Path, info: &TensorInfo) -> Result<usize, FileError> {
    info.bytes().ok_or_else(|| {
        let expected = format!("whole blocks of {}, of a size that fits", info.dtype);
        FileError::tensor(path, &info.name, "the shape", expected, format!("{:?}", info.shape))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_file_stays_until_the_new_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.gguf");
        fs::write(&path, "old").unwrap();
        let mut new = Pending::create(&path).unwrap();
        new.write(b"new").unwrap();
        drop(new);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        let mut new = Pending::create(&path).unwrap();
        new.write(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        new.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_second_writer_is_refused_and_a_dead_ones_part_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.gguf");
        fs::write(folder.path().join(".w.gguf.part"), "left by a kill, longer than the next")
            .unwrap();
        let mut first = Pending::create(&path).unwrap();
        assert!(matches!(Pending::create(&path), Err(FileError::Io { .. })));
        first.write(b"whole").unwrap();
        first.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn a_full_disk_has_its_own_error() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = FileError::io(Path::new("w.gguf"), "write", full);
        assert!(matches!(error, FileError::DiskFull { .. }));
        assert_eq!(error.to_string(), "no room left on the disk for w.gguf");
    }

    #[test]
    fn pieces_fill_a_tensor_exactly_and_in_turn() {
        let path = Path::new("w.safetensors");
        let dtype = crate::files::DType::Format(crate::Format::F32);
        let info = |name: &str| TensorInfo { name: name.into(), shape: vec![3], dtype };
        let mut queue = Queue::new(path, &[info("a"), info("b")]).unwrap();
        queue.piece(path, "a", &[0; 5]).unwrap();
        queue.piece(path, "b", &[0; 1]).unwrap_err();
        queue.next(path, "a", &[0; 12]).unwrap_err();
        let error = queue.piece(path, "a", &[0; 8]).unwrap_err().to_string();
        assert!(error.contains("at most 7 more"), "{error}");
        queue.done(path).unwrap_err();
        queue.piece(path, "a", &[0; 7]).unwrap();
        queue.next(path, "b", &[0; 12]).unwrap();
        queue.done(path).unwrap();
        queue.piece(path, "b", &[0; 1]).unwrap_err();
    }
}
