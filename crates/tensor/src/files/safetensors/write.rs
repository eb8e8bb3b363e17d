//! Writes safetensors, one tensor at a time: a single file, or a folder as Hugging Face lays it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::json;

use super::super::pending::{Pending, Queue, size};
use super::super::{FileError, TensorInfo};
use super::METADATA_KEY;

/// The header is padded with spaces so that the data starts at a multiple of this.
const ALIGNMENT: usize = 8;

/// A safetensors file under way. Only the tensor at hand is in memory.
#[derive(Debug)]
pub struct SafetensorsWriter {
    file: Pending,
    queue: Queue,
}

impl SafetensorsWriter {
    /// Starts a file with its header: `metadata` as `__metadata__`, tensors in the given order.
    ///
    /// Errors: a name is there twice, a type has no place in safetensors, a shape has no size, the
    /// file cannot be written.
    pub fn create(
        path: impl AsRef<Path>,
        metadata: &[(&str, &str)],
        tensors: &[TensorInfo],
    ) -> Result<SafetensorsWriter, FileError> {
        let path = path.as_ref();
        let queue = Queue::new(path, tensors)?;
        let mut header = IndexMap::new();
        if !metadata.is_empty() {
            let strings: IndexMap<_, _> = metadata.iter().copied().collect();
            header.insert(METADATA_KEY, json!(strings));
        }
        let mut begin = 0;
        for info in tensors {
            if info.dtype.item_bytes().is_none() || info.name == METADATA_KEY {
                let expected = "plain numbers under another name than __metadata__";
                return Err(FileError::tensor(path, &info.name, "the type", expected, info.dtype));
            }
            let end = begin + size(path, info)?;
            let dtype = info.dtype.to_string();
            let entry =
                json!({ "dtype": dtype, "shape": info.shape, "data_offsets": [begin, end] });
            header.insert(&info.name, entry);
            begin = end;
        }
        let mut text = serde_json::to_vec(&header).expect("strings and numbers are valid json");
        text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
        let mut file = Pending::create(path)?;
        file.write(&(text.len() as u64).to_le_bytes())?;
        file.write(&text)?;
        Ok(SafetensorsWriter { file, queue })
    }

    /// Writes the next tensor: the one announced at this place, all of its bytes.
    pub fn write_tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        self.queue.next(self.file.path(), name, bytes)?;
        self.file.write(bytes)
    }

    /// Writes the next bytes of the next tensor, which need not be all of them: so a large one
    /// never lies in memory a second time.
    pub fn write_piece(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        self.queue.piece(self.file.path(), name, bytes)?;
        self.file.write(bytes)
    }

    /// Puts the file in its place. Errors: a tensor is missing, or the disk fails.
    pub fn finish(mut self) -> Result<(), FileError> {
        self.complete()?;
        self.file.publish()
    }

    /// All but the renaming.
    fn complete(&mut self) -> Result<(), FileError> {
        self.queue.done(self.file.path())?;
        self.file.sync()
    }
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A Hugging Face folder's weights under way: `model.safetensors`, or shards and their index.
///
/// Shards become visible only in [`ShardedWriter::finish`], the index last: a folder with an index
/// is whole. A folder that has one already is refused, since several files cannot be replaced at
/// once; write into a new folder and rename that.
#[derive(Debug)]
pub struct ShardedWriter {
    folder: PathBuf,
    /// The file names still to be started, with their tensors.
    waiting: std::vec::IntoIter<(String, Vec<TensorInfo>)>,
    current: Option<SafetensorsWriter>,
    complete: Vec<SafetensorsWriter>,
    index: Option<String>,
}

impl ShardedWriter {
    /// Starts the weights of `folder`, which exists, in shards of at most `shard_bytes_max` of data
    /// (but at least one tensor).
    ///
    /// Errors: as [`SafetensorsWriter::create`]; the folder has weights already.
    pub fn create(
        folder: impl AsRef<Path>,
        tensors: &[TensorInfo],
        shard_bytes_max: usize,
    ) -> Result<ShardedWriter, FileError> {
        let folder = folder.as_ref().to_owned();
        Queue::new(&folder, tensors)?;
        let shards = split(&folder, tensors, shard_bytes_max)?;
        let single = shards.len() == 1;
        let rivals: &[&str] = if single { &[INDEX] } else { &[INDEX, SINGLE] };
        for rival in rivals.iter().map(|name| folder.join(name)) {
            if rival.exists() {
                return Err(FileError::Exists { path: rival });
            }
        }
        let count = shards.len();
        let named: Vec<(String, Vec<TensorInfo>)> = shards
            .into_iter()
            .enumerate()
            .map(|(i, shard)| match single {
                true => (SINGLE.to_owned(), shard),
                false => (format!("model-{:05}-of-{count:05}.safetensors", i + 1), shard),
            })
            .collect();
        let index = if single { None } else { Some(index(&folder, &named)?) };
        let waiting = named.into_iter();
        let mut writer =
            ShardedWriter { folder, waiting, current: None, complete: Vec::new(), index };
        writer.turn()?;
        Ok(writer)
    }

    /// Writes the next tensor: the one announced at this place, all of its bytes.
    pub fn write_tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        self.at_hand()?.write_tensor(name, bytes)
    }

    /// Writes the next bytes of the next tensor, as [`SafetensorsWriter::write_piece`].
    pub fn write_piece(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        self.at_hand()?.write_piece(name, bytes)
    }

    /// The shard that the next bytes go to.
    fn at_hand(&mut self) -> Result<&mut SafetensorsWriter, FileError> {
        let full = |writer: &SafetensorsWriter| writer.queue.done(&self.folder).is_ok();
        if self.current.as_ref().is_some_and(full) && self.waiting.len() > 0 {
            self.turn()?;
        }
        Ok(self.current.as_mut().expect("a writer always has a shard at hand"))
    }

    /// Puts all files in their places, the index last.
    /// Errors: a tensor is missing, or the disk fails.
    pub fn finish(mut self) -> Result<(), FileError> {
        if let Some((_, tensors)) = self.waiting.as_slice().first() {
            let name = &tensors[0].name;
            return Err(FileError::tensor(&self.folder, name, "it", "written", "missing"));
        }
        self.turn()?;
        for shard in self.complete {
            shard.file.publish()?;
        }
        if let Some(index) = self.index {
            let mut file = Pending::create(&self.folder.join(INDEX))?;
            file.write(index.as_bytes())?;
            file.publish()?;
        }
        Ok(())
    }

    /// Completes the shard at hand and starts the next, if there is one.
    fn turn(&mut self) -> Result<(), FileError> {
        if let Some(mut current) = self.current.take() {
            current.complete()?;
            self.complete.push(current);
        }
        if let Some((name, tensors)) = self.waiting.next() {
            // transformers asks for this key.
            let metadata = [("format", "pt")];
            let path = self.folder.join(name);
            self.current = Some(SafetensorsWriter::create(path, &metadata, &tensors)?);
        }
        Ok(())
    }
}

/// Groups of consecutive tensors, each within the limit where one tensor is.
fn split(
    folder: &Path,
    tensors: &[TensorInfo],
    shard_bytes_max: usize,
) -> Result<Vec<Vec<TensorInfo>>, FileError> {
    let mut shards = vec![Vec::new()];
    let mut held = 0usize;
    for info in tensors {
        let bytes = size(folder, info)?;
        let shard: &mut Vec<TensorInfo> = shards.last_mut().expect("there is a first shard");
        if !shard.is_empty() && held.saturating_add(bytes) > shard_bytes_max {
            shards.push(vec![info.clone()]);
            held = bytes;
        } else {
            shard.push(info.clone());
            held = held.saturating_add(bytes);
        }
    }
    Ok(shards)
}

fn index(folder: &Path, shards: &[(String, Vec<TensorInfo>)]) -> Result<String, FileError> {
    let (mut weight_map, mut total) = (BTreeMap::new(), 0u64);
    for (file, tensors) in shards {
        for info in tensors {
            weight_map.insert(&info.name, file);
            total += size(folder, info)? as u64;
        }
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    Ok(format!("{index:#}\n"))
}
