//! Writes GGUF version 3, one tensor at a time.

use std::path::Path;

use super::super::pending::{Pending, Queue, size};
use super::super::{Array, FileError, Metadata, TensorInfo, Value};
use super::{AXES_MAX, MAGIC, VERSION, alignment};

/// GGML keeps names in 64 bytes, the last of them zero.
const NAME_BYTES_MAX: usize = 63;

/// A GGUF file under way. Only the tensor at hand is in memory.
///
/// ```
/// use herd_tensor::files::{Archive, DType, GgufWriter, Metadata, TensorInfo, Value};
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("tiny.gguf");
/// let mut metadata = Metadata::default();
/// metadata.insert("general.architecture", Value::String("llama".into()));
/// let info = TensorInfo { name: "ids".into(), shape: vec![2], dtype: DType::I8 };
/// let mut writer = GgufWriter::create(&path, &metadata, std::slice::from_ref(&info)).unwrap();
/// writer.write_tensor("ids", &[1, 2]).unwrap();
/// writer.finish().unwrap();
/// assert_eq!(*Archive::open(&path).unwrap().bytes(&info).unwrap(), [1, 2]);
/// ```
#[derive(Debug)]
pub struct GgufWriter {
    file: Pending,
    queue: Queue,
    alignment: u64,
}

impl GgufWriter {
    /// Starts a file with its metadata and the places of its tensors. Tensors are aligned to
    /// `general.alignment`, or to 32 bytes.
    ///
    /// Errors: a name is there twice or too long for GGML, GGML lacks a type, a shape has no size or
    /// more than four axes, the file cannot be written.
    pub fn create(
        path: impl AsRef<Path>,
        metadata: &Metadata,
        tensors: &[TensorInfo],
    ) -> Result<GgufWriter, FileError> {
        let path = path.as_ref();
        let queue = Queue::new(path, tensors)?;
        let alignment = alignment(path, metadata)? as u64;
        let mut header = Vec::new();
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            put_string(&mut header, key);
            put_value(&mut header, value);
        }
        let mut offset = 0u64;
        for info in tensors {
            put_info(&mut header, path, info, offset)?;
            offset = (offset + size(path, info)? as u64).next_multiple_of(alignment);
        }
        let mut file = Pending::create(path)?;
        file.write(&header)?;
        file.pad(alignment)?;
        Ok(GgufWriter { file, queue, alignment })
    }

    /// Writes the next tensor: the one announced at this place, all of its bytes.
    pub fn write_tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        self.queue.next(self.file.path(), name, bytes)?;
        self.file.write(bytes)?;
        self.file.pad(self.alignment)
    }

    /// Puts the file in its place. Errors: a tensor is missing, or the disk fails.
    pub fn finish(self) -> Result<(), FileError> {
        self.queue.done(self.file.path())?;
        self.file.publish()
    }
}

fn put_info(
    out: &mut Vec<u8>,
    path: &Path,
    info: &TensorInfo,
    offset: u64,
) -> Result<(), FileError> {
    let wrong = |what, expected: &str, got: String| {
        Err(FileError::tensor(path, &info.name, what, expected, got))
    };
    if info.name.len() > NAME_BYTES_MAX {
        return wrong("the length of its name", "at most 63", info.name.len().to_string());
    }
    if info.shape.len() > AXES_MAX as usize {
        return wrong("the number of axes", "at most 4", info.shape.len().to_string());
    }
    let Some(id) = info.dtype.ggml_id() else {
        return wrong("the type", "one that ggml has", info.dtype.to_string());
    };
    put_string(out, &info.name);
    out.extend_from_slice(&(info.shape.len() as u32).to_le_bytes());
    for axis in info.shape.iter().rev() {
        out.extend_from_slice(&(*axis as u64).to_le_bytes());
    }
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    Ok(())
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let put = |out: &mut Vec<u8>, id: u32, bytes: &[u8]| {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(bytes);
    };
    match value {
        Value::U8(x) => put(out, 0, &x.to_le_bytes()),
        Value::I8(x) => put(out, 1, &x.to_le_bytes()),
        Value::U16(x) => put(out, 2, &x.to_le_bytes()),
        Value::I16(x) => put(out, 3, &x.to_le_bytes()),
        Value::U32(x) => put(out, 4, &x.to_le_bytes()),
        Value::I32(x) => put(out, 5, &x.to_le_bytes()),
        Value::F32(x) => put(out, 6, &x.to_le_bytes()),
        Value::Bool(x) => put(out, 7, &[u8::from(*x)]),
        Value::String(text) => {
            put(out, 8, &[]);
            put_string(out, text);
        }
        Value::Array(array) => {
            put(out, 9, &[]);
            put_array(out, array);
        }
        Value::U64(x) => put(out, 10, &x.to_le_bytes()),
        Value::I64(x) => put(out, 11, &x.to_le_bytes()),
        Value::F64(x) => put(out, 12, &x.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    fn numbers<T: Copy, const N: usize>(
        out: &mut Vec<u8>,
        id: u32,
        items: &[T],
        bytes: fn(T) -> [u8; N],
    ) {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&(items.len() as u64).to_le_bytes());
        items.iter().for_each(|item| out.extend_from_slice(&bytes(*item)));
    }
    match array {
        Array::U8(items) => numbers(out, 0, items, u8::to_le_bytes),
        Array::I8(items) => numbers(out, 1, items, i8::to_le_bytes),
        Array::U16(items) => numbers(out, 2, items, u16::to_le_bytes),
        Array::I16(items) => numbers(out, 3, items, i16::to_le_bytes),
        Array::U32(items) => numbers(out, 4, items, u32::to_le_bytes),
        Array::I32(items) => numbers(out, 5, items, i32::to_le_bytes),
        Array::F32(items) => numbers(out, 6, items, f32::to_le_bytes),
        Array::Bool(items) => numbers(out, 7, items, |x| [u8::from(x)]),
        Array::String(items) => {
            out.extend_from_slice(&8u32.to_le_bytes());
            out.extend_from_slice(&(items.len() as u64).to_le_bytes());
            items.iter().for_each(|text| put_string(out, text));
        }
        Array::Array(items) => {
            out.extend_from_slice(&9u32.to_le_bytes());
            out.extend_from_slice(&(items.len() as u64).to_le_bytes());
            items.iter().for_each(|array| put_array(out, array));
        }
        Array::U64(items) => numbers(out, 10, items, u64::to_le_bytes),
        Array::I64(items) => numbers(out, 11, items, i64::to_le_bytes),
        Array::F64(items) => numbers(out, 12, items, f64::to_le_bytes),
    }
}
