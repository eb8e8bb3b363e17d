//! One reader for every kind of file of tensors, single or in parts.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use herd_kernels::Mapped;

use super::folder::{self, Layout};
use super::{FileError, Metadata, TensorInfo, gguf, pth, safetensors};

/// What a file of tensors is, told by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Safetensors,
    Gguf,
    /// A zip that `torch.save` made.
    Torch,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Safetensors => "safetensors",
            Kind::Gguf => "gguf",
            Kind::Torch => "torch",
        })
    }
}

/// How one tensor is spread over model-parallel ranks (Meta's `consolidated.NN.pth`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardAxis {
    /// Each rank has some of the rows (axis 0).
    Rows,
    /// Each rank has some of the columns (axis 1).
    Columns,
    /// Each rank has all of it; the first one's is taken.
    Replicated,
}

/// Tensors and metadata of a model's files, mapped into memory.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    kind: Kind,
    maps: Vec<Mapped>,
    tensors: Vec<TensorInfo>,
    places: Vec<Place>,
    by_name: HashMap<String, usize>,
    metadata: Metadata,
}

/// What a parser finds in one file.
pub(super) struct Contents {
    pub tensors: Vec<(TensorInfo, Place)>,
    pub metadata: Metadata,
}

/// Where the bytes of a tensor lie. Parsers have checked that all of it is in the file.
#[derive(Debug)]
pub(super) enum Place {
    Span(Span),
    /// Numbers of `item_bytes`, each axis with its stride in numbers, the first at the span's start.
    View {
        span: Span,
        shape: Vec<usize>,
        strides: Vec<usize>,
        item_bytes: usize,
    },
    /// One part a rank, joined along an axis.
    Ranks(ShardAxis, Vec<Place>),
}

/// Bytes `start..end` of one of the archive's files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub file: usize,
    pub start: usize,
    pub end: usize,
}

impl Archive {
    /// Opens a safetensors, GGUF or PyTorch file, an `*.index.json` of shards, any part of a split
    /// GGUF (all parts are opened), or a folder that holds one of these.
    ///
    /// Errors: see [`FileError`]; [`FileError::Ranks`] if the model is spread over several ranks.
    pub fn open(path: impl AsRef<Path>) -> Result<Archive, FileError> {
        Archive::from_layout(path.as_ref(), None)
    }

    /// The same for a folder of `consolidated.NN.pth`, whose ranks `rule` joins by tensor name.
    pub fn open_ranks(
        path: impl AsRef<Path>,
        rule: impl Fn(&str) -> ShardAxis,
    ) -> Result<Archive, FileError> {
        Archive::from_layout(path.as_ref(), Some(&rule))
    }

    fn from_layout(
        path: &Path,
        rule: Option<&dyn Fn(&str) -> ShardAxis>,
    ) -> Result<Archive, FileError> {
        let Layout { files, weight_map, ranks } = folder::layout(path)?;
        if ranks && rule.is_none() {
            return Err(FileError::Ranks { path: path.to_owned(), ranks: files.len() });
        }
        let (mut maps, mut parts, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
        for (i, file) in files.iter().enumerate() {
            let map = Mapped::open(file).map_err(|e| FileError::io(file, "open", e))?;
            let kind = sniff(file, map.as_slice())?;
            if kind != *kinds.first().unwrap_or(&kind) {
                return Err(FileError::field(file, "the kind of this part", kinds[0], kind));
            }
            parts.push(match kind {
                Kind::Safetensors => safetensors::read(file, map.as_slice(), i)?,
                Kind::Gguf => gguf::read(file, map.as_slice(), i)?,
                Kind::Torch => pth::read(file, map.as_slice(), i)?,
            });
            maps.push(map);
            kinds.push(kind);
        }
        if kinds[0] == Kind::Gguf {
            gguf::check_split(path, &parts)?;
        }
        if let Some(weight_map) = weight_map {
            folder::check_index(path, &weight_map, &files, &parts)?;
        }
        let contents = match rule {
            Some(rule) if ranks => join_ranks(&files, parts, rule)?,
            _ => concatenate(parts),
        };
        Archive::from_contents(path, kinds[0], maps, contents)
    }

    fn from_contents(
        path: &Path,
        kind: Kind,
        maps: Vec<Mapped>,
        contents: Contents,
    ) -> Result<Archive, FileError> {
        let mut by_name = HashMap::with_capacity(contents.tensors.len());
        for (i, (info, _)) in contents.tensors.iter().enumerate() {
            if by_name.insert(info.name.clone(), i).is_some() {
                let name = format!("tensor {}", info.name);
                return Err(FileError::Duplicate { path: path.to_owned(), name });
            }
        }
        let (tensors, places) = contents.tensors.into_iter().unzip();
        let metadata = contents.metadata;
        Ok(Archive { path: path.to_owned(), kind, maps, tensors, places, by_name, metadata })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What kind of file it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Every tensor, in the order of the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// GGUF's metadata, safetensors' `__metadata__`, or a pickle's values that are no tensors.
    /// Of a model in parts, the first part's.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensor with this name, if it is there.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|i| &self.tensors[*i])
    }

    /// The tensor with this name. Errors: it is not there.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, FileError> {
        self.find(name).ok_or_else(|| self.no_tensor(name))
    }

    /// A tensor's numbers as stored, little-endian, row by row without gaps. Borrowed from the
    /// mapped file unless ranks are joined or a view is made contiguous; a copy is never larger
    /// than the storage it came from.
    ///
    /// Errors: no tensor has this name, or its type is one that Herd cannot size.
    pub fn bytes(&self, info: &TensorInfo) -> Result<Cow<'_, [u8]>, FileError> {
        let i = *self.by_name.get(&info.name).ok_or_else(|| self.no_tensor(&info.name))?;
        let own = &self.tensors[i];
        if own.bytes().is_none() {
            return Err(FileError::UnknownType {
                path: self.path.clone(),
                tensor: own.name.clone(),
                got: own.dtype.to_string(),
            });
        }
        Ok(self.gather(&self.places[i], own))
    }

    /// Lets go of the memory behind what was read; it can be read again.
    pub fn release(&self) {
        self.maps.iter().for_each(Mapped::release);
    }

    fn no_tensor(&self, name: &str) -> FileError {
        FileError::NoTensor { path: self.path.clone(), tensor: name.to_owned() }
    }

    fn gather(&self, place: &Place, info: &TensorInfo) -> Cow<'_, [u8]> {
        match place {
            Place::Span(span) => Cow::Borrowed(self.span(*span)),
            Place::View { span, shape, strides, item_bytes } => {
                Cow::Owned(contiguous(self.span(*span), shape, strides, *item_bytes))
            }
            Place::Ranks(axis, parts) => {
                let parts: Vec<_> = parts.iter().map(|part| self.gather(part, info)).collect();
                let rows = match axis {
                    ShardAxis::Columns => info.shape[0],
                    ShardAxis::Rows | ShardAxis::Replicated => 1,
                };
                Cow::Owned(interleave(&parts, rows))
            }
        }
    }

    fn span(&self, span: Span) -> &[u8] {
        &self.maps[span.file].as_slice()[span.start..span.end]
    }
}

/// What a file is, by its first bytes.
fn sniff(path: &Path, bytes: &[u8]) -> Result<Kind, FileError> {
    let head = &bytes[..bytes.len().min(16)];
    if head.starts_with(b"GGUF") {
        return Ok(Kind::Gguf);
    }
    if head.starts_with(b"FUGG") {
        return Err(gguf::big_endian(path));
    }
    if head.starts_with(b"PK\x03\x04") {
        return Ok(Kind::Torch);
    }
    if head.len() > 8 && head[8] == b'{' {
        return Ok(Kind::Safetensors);
    }
    if head.len() > 1 && head[0] == 0x80 && (2..=5).contains(&head[1]) {
        let hint = "in python: torch.save(torch.load(file, weights_only=True), new_file)";
        return Err(FileError::unsupported(path, "a torch file from before the zip format", hint));
    }
    let got = match head {
        [] => "nothing, it is empty".to_owned(),
        head => format!("\"{}\"", head.escape_ascii()),
    };
    Err(FileError::UnknownKind { path: path.to_owned(), got })
}

/// The numbers of a view in row-major order. The strides were checked to stay inside `bytes`.
fn contiguous(bytes: &[u8], shape: &[usize], strides: &[usize], item_bytes: usize) -> Vec<u8> {
    let items = shape.iter().product::<usize>();
    let mut out = Vec::with_capacity(items * item_bytes);
    let mut index = vec![0; shape.len()];
    for _ in 0..items {
        let at: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
        out.extend_from_slice(&bytes[at * item_bytes..][..item_bytes]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// Row r of the result is row r of every part, one after the other.
fn interleave(parts: &[Cow<'_, [u8]>], rows: usize) -> Vec<u8> {
    let bytes = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(bytes);
    // Rows of no bytes may be stated in any number.
    for row in 0..if bytes == 0 { 0 } else { rows } {
        for part in parts {
            let row_bytes = part.len() / rows;
            out.extend_from_slice(&part[row * row_bytes..][..row_bytes]);
        }
    }
    out
}

fn concatenate(parts: Vec<Contents>) -> Contents {
    let mut parts = parts.into_iter();
    let mut all = parts.next().expect("a layout has at least one file");
    for part in parts {
        all.tensors.extend(part.tensors);
    }
    all
}

/// Joins the ranks' parts of each tensor of the first rank.
fn join_ranks(
    files: &[PathBuf],
    mut parts: Vec<Contents>,
    rule: &dyn Fn(&str) -> ShardAxis,
) -> Result<Contents, FileError> {
    let mut others: Vec<HashMap<String, (TensorInfo, Place)>> = Vec::new();
    for part in parts.drain(1..) {
        let named =
            part.tensors.into_iter().map(|(info, place)| (info.name.clone(), (info, place)));
        others.push(named.collect());
    }
    let first = parts.pop().expect("a layout has at least one file");
    let mut tensors = Vec::with_capacity(first.tensors.len());
    for (mut info, place) in first.tensors {
        let axis = rule(&info.name);
        let mut places = vec![place];
        for (other, file) in others.iter_mut().zip(&files[1..]) {
            let Some((shard, place)) = other.remove(&info.name) else {
                return Err(FileError::NoTensor { path: file.clone(), tensor: info.name });
            };
            info.shape = joined_shape(file, &info, &shard, axis)?;
            places.push(place);
        }
        let place = match axis {
            ShardAxis::Replicated => places.swap_remove(0),
            ShardAxis::Rows | ShardAxis::Columns => Place::Ranks(axis, places),
        };
        tensors.push((info, place));
    }
    for (other, file) in others.iter().zip(&files[1..]) {
        if let Some(extra) = other.keys().min() {
            let got = "in this rank alone";
            return Err(FileError::tensor(file, extra, "the place", "in every rank", got));
        }
    }
    Ok(Contents { tensors, metadata: first.metadata })
}

/// The shape of `whole` with `shard` added along `axis`.
fn joined_shape(
    file: &Path,
    whole: &TensorInfo,
    shard: &TensorInfo,
    axis: ShardAxis,
) -> Result<Vec<usize>, FileError> {
    if whole.dtype != shard.dtype {
        return Err(FileError::tensor(file, &shard.name, "the type", whole.dtype, shard.dtype));
    }
    let mut shape = whole.shape.clone();
    let mut shard_shape = shard.shape.clone();
    let axis = match axis {
        ShardAxis::Rows => Some(0),
        ShardAxis::Columns => Some(1),
        ShardAxis::Replicated => None,
    };
    if let Some(axis) = axis {
        let needed = format!("at least {}", axis + 1);
        let (Some(sum), Some(more)) = (shape.get_mut(axis), shard_shape.get_mut(axis)) else {
            let got = shard.shape.len();
            return Err(FileError::tensor(file, &shard.name, "the number of axes", needed, got));
        };
        // Both lie in files, so the sum cannot overflow; the shapes must now agree elsewhere.
        *sum = sum.saturating_add(*more);
        *more = *sum;
    }
    if shape != shard_shape {
        let (expected, got) = (format!("{:?}", whole.shape), format!("{:?}", shard.shape));
        return Err(FileError::tensor(file, &shard.name, "the shape", expected, got));
    }
    Ok(shape)
}
