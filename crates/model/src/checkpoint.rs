//! Opens any published Llama (a Hugging Face folder, a GGUF file, Meta's folder) and gives its
//! parts in one normal form.
//!
//! Everything is checked at the door: after [`Checkpoint::open`] each part is there, with the shape
//! that the configuration asks for and in a format that Herd computes with.

use std::borrow::Cow;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use herd_tensor::files::{self, Archive, Array, DType, FileError, Kind, ShardAxis, TensorInfo};
use herd_tensor::{Format, blocks};

use crate::config::LAYERS_MAX;
use crate::json::shortest;
use crate::names::{self, Direction, EmbeddingShards, Named, Part, Style};
use crate::{CheckpointError, Config, ConfigError, GenerationDefaults, Head, gguf, hf, meta};

/// A published model: its configuration, and its weights mapped into memory.
#[derive(Debug)]
pub struct Checkpoint {
    /// The shape and constants.
    pub config: Config,
    /// Special ids and recommended sampling.
    pub generation: GenerationDefaults,
    /// Who wrote it; the names of tensors follow.
    pub style: Style,
    /// What was odd and is put up with, for the user to read.
    pub notes: Vec<String>,
    /// The configuration files of a Hugging Face folder.
    pub hf: Option<HfFiles>,
    archive: Archive,
    ranks: usize,
    unpacked: bool,
}

/// The texts of a Hugging Face folder, kept so that converting loses no key.
#[derive(Clone, Debug)]
pub struct HfFiles {
    /// `config.json`.
    pub config: hf::ConfigFile,
    /// `generation_config.json`, if there is one.
    pub generation: Option<hf::GenerationFile>,
}

/// One part's numbers, little-endian, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<'a> {
    /// How the numbers are stored.
    pub format: Format,
    /// Slowest axis first; as [`Part::shape`] says.
    pub shape: Vec<usize>,
    /// Borrowed from the mapped file where nothing had to be moved.
    pub bytes: Cow<'a, [u8]>,
}

impl Stored<'_> {
    /// The numbers as floats.
    pub fn unpack(&self) -> Vec<f32> {
        let mut numbers = vec![0.0; self.shape.iter().product()];
        blocks::unpack(self.format, &self.bytes, &mut numbers);
        numbers
    }
}

impl Checkpoint {
    /// Opens a Hugging Face folder (`config.json` beside safetensors or `pytorch_model.bin`, single
    /// or in shards), a GGUF file (also split, or a folder that holds one), or Meta's folder
    /// (`params.json` beside `consolidated.NN.pth`). A weight file inside such a folder will do.
    ///
    /// Errors: the files cannot be read, the configuration is not a Llama's, or a tensor is missing,
    /// unknown, misshapen or of a type that Herd does not compute with; or it is a reward model.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::open_any(path)?.expect_head(Head::Language)
    }

    /// The same of a language model or a reward model.
    ///
    /// Errors: the files, as above.
    pub fn open_any(path: impl AsRef<Path>) -> Result<Checkpoint, CheckpointError> {
        let path = path.as_ref();
        let checkpoint = match Archive::open(path) {
            Err(FileError::Ranks { ranks, .. }) => open_meta_ranks(path, ranks)?,
            Err(error) => return Err(error.into()),
            Ok(archive) => match archive.kind() {
                Kind::Gguf => open_gguf(archive)?,
                Kind::Torch if is_meta(&archive) => open_meta(archive)?,
                Kind::Torch | Kind::Safetensors => open_hf(archive)?,
            },
        };
        checkpoint.check_tensors()?;
        Ok(checkpoint)
    }

    /// Errors: its head is another one.
    pub fn expect_head(self, expected: Head) -> Result<Checkpoint, CheckpointError> {
        let got = self.config.head;
        match got == expected {
            true => Ok(self),
            false => Err(CheckpointError::Head { path: self.path().to_owned(), expected, got }),
        }
    }

    /// The same, with every part as f32: the numbers themselves, whatever they are packed in.
    pub fn unpacked(self) -> Checkpoint {
        Checkpoint { unpacked: true, ..self }
    }

    /// The files behind it: tensors by their own names, and GGUF's metadata (its vocabulary too).
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        self.archive.path()
    }

    /// The folder in which the files lie, and with them those of the tokenizer.
    pub fn folder(&self) -> &Path {
        folder_of(self.path())
    }

    /// A part's numbers. Rows of queries and keys come in the order of Meta and GGUF, pairs
    /// (2i, 2i+1), whoever wrote the file.
    ///
    /// Errors: the model has no such part: a layer beyond the last, [`Part::Output`] of a tied
    /// model, [`Part::RopeFreqs`] where the file has none.
    pub fn part(&self, part: Part) -> Result<Stored<'_>, CheckpointError> {
        let info = self.info(part)?;
        let shape = part.shape(&self.config);
        let format = info.dtype.format().expect("formats were checked when opening");
        let mut bytes = self.archive.bytes(info)?;
        let step = names::rank_step(part, &self.config, self.ranks);
        if step > 1 {
            bytes = Cow::Owned(every(step, &bytes, self.ranks));
        }
        if self.style == Style::Hf
            && let Some(heads) = part.permuted_heads(&self.config)
        {
            let head_dim = self.config.head_dim;
            let row_bytes = bytes.len() / (heads * head_dim);
            let order = Direction::HfToMeta;
            bytes = Cow::Owned(names::permute_rows(&bytes, heads, head_dim, row_bytes, order));
        }
        let stored = Stored { format, shape, bytes };
        if !self.unpacked || format == Format::F32 {
            return Ok(stored);
        }
        let bytes = stored.unpack().into_iter().flat_map(f32::to_le_bytes).collect();
        Ok(Stored { format: Format::F32, bytes: Cow::Owned(bytes), ..stored })
    }

    /// How a part is stored, without reading it. Errors: as [`Checkpoint::part`].
    pub fn format(&self, part: Part) -> Result<Format, CheckpointError> {
        let info = self.info(part)?;
        if self.unpacked {
            return Ok(Format::F32);
        }
        Ok(info.dtype.format().expect("formats were checked when opening"))
    }

    fn info(&self, part: Part) -> Result<&TensorInfo, CheckpointError> {
        let unused = match part {
            Part::Output => self.config.tied || self.config.head != Head::Language,
            Part::Score => self.config.head != Head::Score,
            _ => false,
        };
        let name = names::name(part, self.style);
        let info = name.as_deref().filter(|_| !unused).and_then(|name| self.archive.find(name));
        info.ok_or_else(|| CheckpointError::MissingTensor {
            path: self.path().to_owned(),
            tensor: name.unwrap_or_else(|| format!("{part:?}")),
        })
    }

    /// Every tensor is known and as it should be, and none is missing.
    fn check_tensors(&self) -> Result<(), CheckpointError> {
        for info in self.archive.tensors() {
            match names::parse(&info.name, self.style).map_err(|e| config_error(self.path(), e))? {
                Named::Derived => {}
                Named::Part(part) => self.check_tensor(part, info)?,
            }
        }
        names::all_parts(&self.config).into_iter().try_for_each(|part| self.info(part).map(drop))
    }

    fn check_tensor(&self, part: Part, info: &TensorInfo) -> Result<(), CheckpointError> {
        let (path, tensor) = (self.path().to_owned(), info.name.clone());
        let head = match part {
            Part::Output => Head::Language,
            Part::Score => Head::Score,
            _ => self.config.head,
        };
        if head != self.config.head {
            let head = self.config.head;
            return Err(CheckpointError::OtherHead { path, tensor, head });
        }
        if let Some(layer) = part.layer().filter(|layer| *layer >= self.config.layers) {
            let layers = self.config.layers;
            return Err(CheckpointError::Layer { path, tensor, layer, layers });
        }
        let mut expected = part.shape(&self.config);
        expected[0] *= names::rank_step(part, &self.config, self.ranks);
        if info.shape != expected {
            let got = info.shape.clone();
            return Err(CheckpointError::Shape { path, tensor, expected, got });
        }
        match info.dtype.format() {
            Some(_) => Ok(()),
            None => Err(CheckpointError::Type { path, tensor, got: info.dtype }),
        }
    }
}

fn open_gguf(archive: Archive) -> Result<Checkpoint, CheckpointError> {
    let path = archive.path().to_owned();
    let get = |key: &str| archive.metadata().value(key).and_then(narrow);
    let name_of = |part| names::name(part, Style::Gguf).expect("GGUF has a name for every part");
    let rope_freqs = match archive.find(&name_of(Part::RopeFreqs)) {
        None => None,
        Some(info) => Some(floats(&archive, info)?),
    };
    let tensors = gguf::Tensors {
        vocab: archive.find(&name_of(Part::TokEmbd)).and_then(|info| info.shape.first().copied()),
        has_output: archive.find(&name_of(Part::Output)).is_some(),
        rope_freqs,
    };
    let read = || Ok((gguf::read(get, &tensors)?, gguf::read_generation(get)?));
    let (config, generation) = read().map_err(|e| config_error(&path, e))?;
    let (style, notes) = (Style::Gguf, Vec::new());
    Ok(Checkpoint {
        config,
        generation,
        style,
        notes,
        hf: None,
        archive,
        ranks: 1,
        unpacked: false,
    })
}

fn open_hf(archive: Archive) -> Result<Checkpoint, CheckpointError> {
    let folder = folder_of(archive.path());
    let (path, text) = read_text(folder, "config.json")?;
    let file = hf::ConfigFile::read(&text).map_err(|e| config_error(&path, e))?;
    let config = file.config.clone();
    let generation_file = match folder.join("generation_config.json").exists() {
        false => None,
        true => {
            let (path, text) = read_text(folder, "generation_config.json")?;
            Some(hf::GenerationFile::read(&text).map_err(|e| config_error(&path, e))?)
        }
    };
    let own = generation_file.as_ref().map(|file| file.defaults.clone()).unwrap_or_default();
    let generation = own.or(file.generation.clone());
    let mut notes = Vec::new();
    if config.tied
        && config.head == Head::Language
        && same_head(&archive, Style::Hf)? == Some(false)
    {
        notes.push(
            "lm_head.weight differs from the embedding and is not used: config.json ties the two"
                .into(),
        );
    }
    let hf = Some(HfFiles { config: file, generation: generation_file });
    Ok(Checkpoint {
        config,
        generation,
        style: Style::Hf,
        notes,
        hf,
        archive,
        ranks: 1,
        unpacked: false,
    })
}

fn is_meta(archive: &Archive) -> bool {
    names::name(Part::TokEmbd, Style::Meta).is_some_and(|name| archive.find(&name).is_some())
}

/// One rank, or the only file.
fn open_meta(archive: Archive) -> Result<Checkpoint, CheckpointError> {
    let (path, text) = read_text(folder_of(archive.path()), "params.json")?;
    let vocab = embedding(&archive)?.shape.first().copied();
    let tied = same_head(&archive, Style::Meta)? != Some(false);
    let known = meta::Known { vocab, context: None, tied };
    let config = meta::read(&text, known).map_err(|e| config_error(&path, e))?;
    Ok(meta_checkpoint(config, archive, 1))
}

fn open_meta_ranks(folder: &Path, ranks: usize) -> Result<Checkpoint, CheckpointError> {
    let (path, text) = read_text(folder, "params.json")?;
    let first = Archive::open(folder.join("consolidated.00.pth"))?;
    let shard = &embedding(&first)?.shape;
    // Shards of the embedding are as wide as the model, or else each has the whole vocabulary.
    let read = |vocab, tied| {
        let known = meta::Known { vocab, context: None, tied };
        meta::read(&text, known).map_err(|e| config_error(&path, e))
    };
    let rows = shard.first().copied().unwrap_or(0);
    let by_vocabulary = rows.checked_mul(ranks).and_then(|vocab| read(Some(vocab), false).ok());
    let fits = |config: &Config| EmbeddingShards::of(shard, config, ranks);
    let by_vocabulary = by_vocabulary.filter(|config| fits(config).is_some());
    let mut config = by_vocabulary.map_or_else(|| read(Some(rows), false), Ok)?;
    let Some(cut) = fits(&config) else {
        return Err(CheckpointError::Shape {
            path: first.path().to_owned(),
            tensor: embedding(&first)?.name.clone(),
            expected: vec![config.vocab / ranks, config.width],
            got: shard.clone(),
        });
    };
    let axis = |name: &str| match names::parse(name, Style::Meta) {
        Ok(Named::Part(part)) => match names::shard_axis(part, cut) {
            Some(0) => ShardAxis::Rows,
            Some(_) => ShardAxis::Columns,
            None => ShardAxis::Replicated,
        },
        Ok(Named::Derived) | Err(_) => ShardAxis::Replicated,
    };
    let kv_heads = config.kv_heads;
    if ranks > kv_heads && !ranks.is_multiple_of(kv_heads) {
        return Err(CheckpointError::Ranks { path: folder.to_owned(), ranks, kv_heads });
    }
    let archive = Archive::open_ranks(folder, axis)?;
    // The first rank decides quickly for all models but those that are tied.
    config.tied = same_head(&first, Style::Meta)? != Some(false)
        && same_head(&archive, Style::Meta)? != Some(false);
    Ok(meta_checkpoint(config, archive, ranks))
}

fn meta_checkpoint(config: Config, archive: Archive, ranks: usize) -> Checkpoint {
    let generation = GenerationDefaults::default();
    let (style, notes) = (Style::Meta, Vec::new());
    Checkpoint { config, generation, style, notes, hf: None, archive, ranks, unpacked: false }
}

fn embedding(archive: &Archive) -> Result<&TensorInfo, CheckpointError> {
    let name = names::name(Part::TokEmbd, Style::Meta).expect("Meta names the embedding");
    Ok(archive.tensor(&name)?)
}

/// Whether the head is the embedding again, or `None` if there is no head.
fn same_head(archive: &Archive, style: Style) -> Result<Option<bool>, CheckpointError> {
    let find = |part| names::name(part, style).and_then(|name| archive.find(&name));
    let (Some(embedding), Some(head)) = (find(Part::TokEmbd), find(Part::Output)) else {
        return Ok(None);
    };
    if embedding.shape != head.shape || embedding.dtype != head.dtype {
        return Ok(Some(false));
    }
    Ok(Some(archive.bytes(embedding)? == archive.bytes(head)?))
}

/// A small tensor of any weight format as floats.
fn floats(archive: &Archive, info: &TensorInfo) -> Result<Vec<f32>, CheckpointError> {
    let DType::Format(format) = info.dtype else {
        let (path, tensor) = (archive.path().to_owned(), info.name.clone());
        return Err(CheckpointError::Type { path, tensor, got: info.dtype });
    };
    let bytes = archive.bytes(info)?;
    let mut numbers = vec![0.0; info.shape.iter().product()];
    blocks::unpack(format, &bytes, &mut numbers);
    Ok(numbers)
}

/// Of `parts` equal parts, the first of each group of `step`.
fn every(step: usize, bytes: &[u8], parts: usize) -> Vec<u8> {
    let part_bytes = bytes.len() / parts;
    bytes.chunks(part_bytes.max(1)).step_by(step).flatten().copied().collect()
}

/// A metadata value as [`gguf`] sees it; lists as long as layers can be.
fn narrow(value: &files::Value) -> Option<gguf::Value> {
    use files::Value as File;
    fn list<T>(items: &[T], one: impl Fn(&T) -> gguf::Value) -> gguf::Value {
        gguf::Value::List(items.iter().take(LAYERS_MAX).map(one).collect())
    }
    let unsigned = |n: u64| gguf::Value::Unsigned(n);
    let signed = |n: i64| gguf::Value::Signed(n);
    Some(match value {
        File::U8(n) => unsigned((*n).into()),
        File::U16(n) => unsigned((*n).into()),
        File::U32(n) => unsigned((*n).into()),
        File::U64(n) => unsigned(*n),
        File::I8(n) => signed((*n).into()),
        File::I16(n) => signed((*n).into()),
        File::I32(n) => signed((*n).into()),
        File::I64(n) => signed(*n),
        File::F32(x) => gguf::Value::Float(shortest(*x)),
        File::F64(x) => gguf::Value::Float(*x),
        File::Bool(flag) => gguf::Value::Bool(*flag),
        File::String(text) => gguf::Value::Text(text.clone()),
        File::Array(array) => match array {
            Array::U8(items) => list(items, |n| unsigned((*n).into())),
            Array::U16(items) => list(items, |n| unsigned((*n).into())),
            Array::U32(items) => list(items, |n| unsigned((*n).into())),
            Array::U64(items) => list(items, |n| unsigned(*n)),
            Array::I8(items) => list(items, |n| signed((*n).into())),
            Array::I16(items) => list(items, |n| signed((*n).into())),
            Array::I32(items) => list(items, |n| signed((*n).into())),
            Array::I64(items) => list(items, |n| signed(*n)),
            Array::F32(items) => list(items, |x| gguf::Value::Float(shortest(*x))),
            Array::F64(items) => list(items, |x| gguf::Value::Float(*x)),
            Array::Bool(items) => list(items, |flag| gguf::Value::Bool(*flag)),
            Array::String(items) => list(items, |text| gguf::Value::Text(text.clone())),
            Array::Array(items) => list(items, |_| gguf::Value::List(Vec::new())),
        },
    })
}

/// Configurations are read whole, so they may not be longer than this.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// The text of a file beside the weights, and its path.
pub(crate) fn read_text(
    folder: &Path,
    name: &'static str,
) -> Result<(PathBuf, String), CheckpointError> {
    let path = folder.join(name);
    let error = |source| CheckpointError::Read { path: path.clone(), source };
    let metadata = fs::metadata(&path).map_err(error)?;
    if !metadata.is_file() || metadata.len() > TEXT_BYTES_MAX {
        let bytes = metadata.len();
        return Err(CheckpointError::NoText { path, bytes, bytes_max: TEXT_BYTES_MAX });
    }
    let mut text = String::new();
    let file = fs::File::open(&path).map_err(error)?;
    file.take(TEXT_BYTES_MAX).read_to_string(&mut text).map_err(error)?;
    Ok((path, text))
}

pub(crate) fn config_error(path: &Path, source: ConfigError) -> CheckpointError {
    CheckpointError::Config { path: path.to_owned(), source }
}

/// The folder itself, or the one around a file.
fn folder_of(path: &Path) -> &Path {
    match path.is_dir() {
        true => path,
        false => match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            Some(_) | None => Path::new("."),
        },
    }
}
