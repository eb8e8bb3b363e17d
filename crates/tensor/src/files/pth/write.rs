//! Writes what `torch.load(weights_only=True)` reads: a flat dict of tensors, one at a time.

use std::path::Path;

use super::super::pending::{Pending, Queue};
use super::super::{DType, FileError, TensorInfo};
use super::globals::STORAGES;
use super::zip::ZipWriter;

/// A `.pth` file under way, such as Meta's `consolidated.00.pth`. Only the tensor at hand is in
/// memory.
#[derive(Debug)]
pub struct PthWriter {
    zip: ZipWriter,
    queue: Queue,
    written: usize,
}

impl PthWriter {
    /// Starts a file with the pickle that names its tensors.
    ///
    /// Errors: a name is there twice, PyTorch has no storage for a type, a shape has no size, the
    /// file cannot be written.
    pub fn create(path: impl AsRef<Path>, tensors: &[TensorInfo]) -> Result<PthWriter, FileError> {
        let path = path.as_ref();
        let queue = Queue::new(path, tensors)?;
        let pickle = pickle(path, tensors)?;
        let folder = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut zip = ZipWriter::new(Pending::create(path)?, &folder);
        zip.add("data.pkl", &pickle)?;
        zip.add("byteorder", b"little")?;
        Ok(PthWriter { zip, queue, written: 0 })
    }

    /// Writes the next tensor: the one announced at this place, all of its bytes.
    pub fn write_tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        self.queue.next(self.zip.path(), name, bytes)?;
        self.zip.add(&format!("data/{}", self.written), bytes)?;
        self.written += 1;
        Ok(())
    }

    /// Puts the file in its place. Errors: a tensor is missing, or the disk fails.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.queue.done(self.zip.path())?;
        self.zip.add("version", b"3\n")?;
        self.zip.finish()
    }
}

/// The pickle, protocol 2: a dict from each name to a call that rebuilds the tensor from storage
/// `data/N`, where N counts the tensors.
fn pickle(path: &Path, tensors: &[TensorInfo]) -> Result<Vec<u8>, FileError> {
    let mut out = b"\x80\x02}(".to_vec(); // PROTO 2, EMPTY_DICT, MARK
    for (i, info) in tensors.iter().enumerate() {
        put_text(&mut out, &info.name);
        out.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        put_text(&mut out, "storage");
        let storage = storage(path, info)?;
        out.extend_from_slice(format!("ctorch\n{storage}\n").as_bytes());
        put_text(&mut out, &i.to_string());
        put_text(&mut out, "cpu");
        put_int(&mut out, info.shape.iter().product());
        out.extend_from_slice(b"tQ"); // TUPLE, BINPERSID
        put_int(&mut out, 0);
        put_axes(&mut out, &info.shape);
        put_axes(&mut out, &strides(&info.shape));
        out.push(0x89); // NEWFALSE: no gradient is wanted
        out.extend_from_slice(b"ccollections\nOrderedDict\n)RtR"); // no hooks; TUPLE, REDUCE
    }
    out.extend_from_slice(b"u."); // SETITEMS, STOP
    Ok(out)
}

fn storage(path: &Path, info: &TensorInfo) -> Result<&'static str, FileError> {
    let named = |dtype: DType| STORAGES.iter().find(|s| s.1 == dtype).map(|s| s.0);
    named(info.dtype).ok_or_else(|| {
        let expected = "one that torch stores";
        FileError::tensor(path, &info.name, "the type", expected, info.dtype)
    })
}

/// Row-major strides, in numbers.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X'); // BINUNICODE
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_int(out: &mut Vec<u8>, value: usize) {
    match i32::try_from(value) {
        Ok(value) => {
            out.push(b'J'); // BININT
            out.extend_from_slice(&value.to_le_bytes());
        }
        Err(_) => {
            out.extend_from_slice(b"\x8a\x08"); // LONG1 of 8 bytes
            out.extend_from_slice(&(value as u64).to_le_bytes());
        }
    }
}

fn put_axes(out: &mut Vec<u8>, axes: &[usize]) {
    out.push(b'('); // MARK
    axes.iter().for_each(|axis| put_int(out, *axis));
    out.push(b't'); // TUPLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_are_row_major() {
        assert_eq!(strides(&[2, 3, 4]), [12, 4, 1]);
        assert_eq!(strides(&[]), [0usize; 0]);
    }
}
