//! Read-only file mappings, so that a model file is paged in and not read.

use std::fs::File;
use std::io;
use std::path::Path;

/// A file mapped into memory, read-only.
///
/// The mapping sees the file, not a copy: whoever cuts the file short under it makes the next read
/// of a missing page end the process. Herd itself replaces files by renaming, which is safe.
#[derive(Debug)]
pub struct Mapped {
    map: Option<memmap2::Mmap>,
}

impl Mapped {
    /// Maps the whole file. An empty file gives an empty slice.
    ///
    /// Errors: the file cannot be opened or mapped, or is not a regular file (a folder, a pipe).
    pub fn open(path: &Path) -> io::Result<Mapped> {
        // Looked at before opening, since opening a pipe waits for a writer.
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Mapped { map: None });
        }
        // SAFETY: the mapping is read-only and of a regular file; the doc comment above states what
        // remains: nobody may shorten or rewrite the file in place while it is mapped.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Mapped { map: Some(map) })
    }

    /// The bytes of the file; the slice starts at a page border.
    pub fn as_slice(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    /// Tells the system that what was read will not soon be read again: the pages no longer count
    /// as this process's memory. Reading them again is allowed.
    pub fn release(&self) {
        #[cfg(target_os = "linux")]
        if let Some(map) = &self.map {
            let start = map.as_ptr() as *mut libc::c_void;
            // SAFETY: the mapping is read-only and of a file, so that dropped pages come back with
            // the same bytes. Failure changes nothing but the memory in use.
            unsafe { libc::madvise(start, map.len(), libc::MADV_DONTNEED) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_shows_the_file_and_an_empty_file_is_empty() {
        let folder = std::env::temp_dir().join(format!("herd-map-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let (full, empty) = (folder.join("full"), folder.join("empty"));
        std::fs::write(&full, b"herd").expect("writable");
        std::fs::write(&empty, b"").expect("writable");
        let mapped = Mapped::open(&full).expect("mapped");
        assert_eq!(mapped.as_slice(), b"herd");
        mapped.release();
        assert_eq!(mapped.as_slice(), b"herd");
        assert_eq!(Mapped::open(&empty).expect("mapped").as_slice(), b"");
        assert!(Mapped::open(&folder).is_err());
        assert!(Mapped::open(&folder.join("missing")).is_err());
        std::fs::remove_dir_all(&folder).expect("removable");
    }
}
