//! Writes a checkpoint in another style and other formats, one tensor in memory at a time, and
//! says what was lost on the way.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use herd_tensor::files::{
    DType, FileError, GgufWriter, Metadata, NewFolder, PthWriter, ShardedWriter, TensorInfo, Value,
};
use herd_tensor::{Device, Format, recode};

use crate::checkpoint::{Checkpoint, Stored};
use crate::llama::Adapter;
use crate::names::{self, Direction, Part, Style};
use crate::recipe::Recipe;
use crate::{CheckpointError, Config, ConfigError, GenerationDefaults, Head, gguf, hf, meta};

/// What is to be written, and where.
pub struct Job<'a> {
    /// A file for GGUF, else a folder, which must be new or empty.
    pub out: &'a Path,
    /// Whose names, order of rows and configuration files.
    pub style: Style,
    /// The format of each part; see [`keep`] and [`Recipe::format`].
    pub plan: &'a dyn Fn(Part) -> Format,
    /// For GGUF: the vocabulary and whatever else the file shall say. Wins over the source's.
    pub metadata: &'a Metadata,
    /// For folders: files of the tokenizer and others, by name.
    pub files: &'a [(String, Vec<u8>)],
    /// An adapter whose products the weights take in: W + scale B A.
    pub adapter: Option<&'a Adapter>,
}

/// Data in one safetensors file, as transformers splits them.
const SHARD_BYTES_MAX: usize = 5_000_000_000;

/// Writes `checkpoint` as `job` says. The output appears whole or not at all. `progress` is called
/// with the tensors done and their number.
///
/// Returns what was lost, in words, for the user to read.
///
/// Errors: the configuration has no place in the style, a number has none in its format, a row is
/// no whole blocks, or the files cannot be written.
pub fn write(
    device: &Device,
    checkpoint: &Checkpoint,
    job: &Job<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<String>, CheckpointError> {
    let mut lost = Vec::new();
    let config = &shape(checkpoint, job)?;
    let items = items(checkpoint, config, job)?;
    match job.style {
        Style::Gguf => {
            let metadata = gguf_metadata(checkpoint, job, &mut lost)?;
            let writer = Writer::Gguf(GgufWriter::create(job.out, &metadata, &infos(&items))?);
            write_tensors(device, checkpoint, job, &items, writer, &mut lost, progress)?;
        }
        Style::Hf | Style::Meta => {
            let texts = match job.style {
                Style::Hf => hf_texts(checkpoint, config, job, &mut lost)?,
                Style::Meta | Style::Gguf => meta_texts(checkpoint, &mut lost)?,
            };
            let folder = NewFolder::create(job.out)?;
            let writer = match job.style {
                Style::Hf => Writer::Hf(ShardedWriter::create(
                    folder.part(),
                    &infos(&items),
                    SHARD_BYTES_MAX,
                )?),
                Style::Meta | Style::Gguf => {
                    let file = folder.part().join("consolidated.00.pth");
                    Writer::Meta(PthWriter::create(file, &infos(&items))?)
                }
            };
            write_tensors(device, checkpoint, job, &items, writer, &mut lost, progress)?;
            for (name, bytes) in texts.iter().chain(job.files) {
                folder.write(name, bytes)?;
            }
            folder.publish()?;
        }
    }
    Ok(lost)
}

/// The shape of what is written: an adapter may bring the head of a reward model.
///
/// Errors: the style has no place for that head.
fn shape(checkpoint: &Checkpoint, job: &Job<'_>) -> Result<Config, CheckpointError> {
    const HINT: &str =
        "a reward model has no form there: write a Hugging Face folder, -o FOLDER --to hf";
    let mut config = checkpoint.config.clone();
    if job.adapter.and_then(Adapter::score).is_some() {
        config.head = Head::Score;
    }
    match (config.head, job.style) {
        (Head::Language, _) | (Head::Score, Style::Hf) => Ok(config),
        (Head::Score, Style::Gguf | Style::Meta) => {
            let head = ConfigError::unsupported("architectures", hf::SCORE, HINT);
            Err(config_error(checkpoint, head))
        }
    }
}

/// The plan that loses least: formats stay as they are where `style` holds them; `float` asks for
/// one float format throughout.
///
/// In GGUF, norms are F32, as its readers expect. In the other styles blocks become `float` or F32,
/// and norms join the embedding's format if they are exact in it, so that a model that was BF16
/// before it was GGUF is BF16 again.
pub fn keep(
    checkpoint: &Checkpoint,
    style: Style,
    float: Option<Format>,
) -> impl Fn(Part) -> Format + '_ {
    let stored = |part| checkpoint.format(part).unwrap_or(Format::F32);
    let matrix = move |part: Part| match (float, stored(part), style) {
        (Some(float), ..) => float,
        (None, stored, Style::Gguf) => stored,
        (None, stored, Style::Hf | Style::Meta) if stored.block_len() == 1 => stored,
        (None, _, Style::Hf | Style::Meta) => Format::F32,
    };
    move |part| {
        let part =
            if part == Part::Output && checkpoint.config.tied { Part::TokEmbd } else { part };
        if part.shape(&checkpoint.config).len() > 1 {
            return matrix(part);
        }
        let common = matrix(Part::TokEmbd);
        let exact = || checkpoint.part(part).is_ok_and(|stored| is_exact(&stored, common));
        match style {
            Style::Gguf => Format::F32,
            Style::Hf | Style::Meta if float.is_some() || exact() => common,
            Style::Hf | Style::Meta => matrix(part),
        }
    }
}

/// Whether a small part is the same in `format`.
fn is_exact(stored: &Stored<'_>, format: Format) -> bool {
    use herd_tensor::blocks;
    let numbers = stored.unpack();
    let Some(bytes) = format.bytes(numbers.len()) else { return false };
    let (mut packed, mut back) = (vec![0; bytes], vec![0.0; numbers.len()]);
    if blocks::quantise(format, &numbers, &mut packed).is_err() {
        return false;
    }
    blocks::unpack(format, &packed, &mut back);
    back == numbers
}

/// A tensor that is to be written.
struct Item {
    info: TensorInfo,
    /// Whose numbers, and how they are stored.
    part: Part,
    format: Format,
    /// Numbers that come from the configuration and not from the checkpoint.
    own: Option<Vec<f32>>,
}

fn infos(items: &[Item]) -> Vec<TensorInfo> {
    items.iter().map(|item| item.info.clone()).collect()
}

/// Every tensor of the output in its order.
fn items(
    checkpoint: &Checkpoint,
    config: &Config,
    job: &Job<'_>,
) -> Result<Vec<Item>, CheckpointError> {
    let item = |name: Part, part: Part, format: Format, own: Option<Vec<f32>>| {
        let text = names::name(name, job.style).expect("every style names these parts");
        let dtype = DType::Format(format);
        Item {
            info: TensorInfo { name: text, shape: part.shape(config), dtype },
            part,
            format,
            own,
        }
    };
    let mut items: Vec<Item> = names::all_parts(config)
        .into_iter()
        .map(|part| match part {
            // It stays as it was trained.
            Part::Score => item(part, part, Format::F32, job.adapter.and_then(Adapter::score)),
            _ => item(part, part, (job.plan)(part), None),
        })
        .collect();
    match job.style {
        Style::Hf => {}
        // Meta's code asks for a head, tied or not.
        Style::Meta if config.tied => {
            items.push(item(Part::Output, Part::TokEmbd, (job.plan)(Part::TokEmbd), None));
        }
        Style::Meta => {}
        Style::Gguf => {
            let divisors = match checkpoint.part(Part::RopeFreqs) {
                Ok(stored) => Some(stored.unpack()),
                Err(_) => written(checkpoint)?.rope_freqs,
            };
            items.extend(
                divisors.map(|d| item(Part::RopeFreqs, Part::RopeFreqs, Format::F32, Some(d))),
            );
        }
    }
    Ok(items)
}

enum Writer {
    Gguf(GgufWriter),
    Hf(ShardedWriter),
    Meta(PthWriter),
}

impl Writer {
    fn write_tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        match self {
            Writer::Gguf(writer) => writer.write_tensor(name, bytes),
            Writer::Hf(writer) => writer.write_tensor(name, bytes),
            Writer::Meta(writer) => writer.write_tensor(name, bytes),
        }
    }

    fn finish(self) -> Result<(), FileError> {
        match self {
            Writer::Gguf(writer) => writer.finish(),
            Writer::Hf(writer) => writer.finish(),
            Writer::Meta(writer) => writer.finish(),
        }
    }
}

fn write_tensors(
    device: &Device,
    checkpoint: &Checkpoint,
    job: &Job<'_>,
    items: &[Item],
    mut writer: Writer,
    lost: &mut Vec<String>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), CheckpointError> {
    let mut rounded: BTreeMap<(Format, Format), usize> = BTreeMap::new();
    for (done, item) in items.iter().enumerate() {
        progress(done, items.len());
        let (from, is_rounded, bytes) = numbers(device, checkpoint, job, item)?;
        writer.write_tensor(&item.info.name, &bytes)?;
        *rounded.entry((from, item.format)).or_default() += usize::from(is_rounded);
    }
    writer.finish()?;
    progress(items.len(), items.len());
    for ((from, to), count) in rounded.into_iter().filter(|(_, count)| *count > 0) {
        lost.push(format!("{count} tensors were rounded from {} to {}", from.name(), to.name()));
    }
    Ok(())
}

/// The bytes of one tensor in the order of `style`, the format they came from, and whether they
/// were rounded.
fn numbers<'a>(
    device: &Device,
    checkpoint: &'a Checkpoint,
    job: &Job<'_>,
    item: &Item,
) -> Result<(Format, bool, Cow<'a, [u8]>), CheckpointError> {
    if let Some(own) = &item.own {
        let bytes = own.iter().flat_map(|x| x.to_le_bytes()).collect();
        return Ok((Format::F32, false, Cow::Owned(bytes)));
    }
    let stored = checkpoint.part(item.part)?;
    let cols = stored.shape.last().copied().unwrap_or(1);
    let (from, own) = match job.adapter.and_then(|adapter| adapter.merged(item.part, &stored)) {
        Some(sums) => (Format::F32, sums.iter().flat_map(|x| x.to_le_bytes()).collect()),
        None => (stored.format, stored.bytes),
    };
    let (mut bytes, rounded) = if from == item.format {
        (own, false)
    } else {
        let recoded = recode(device, from, &own, item.format, cols).map_err(|source| {
            let (path, tensor) = (checkpoint.path().to_owned(), item.info.name.clone());
            CheckpointError::Number { path, tensor, source }
        })?;
        (Cow::Owned(recoded.bytes), recoded.rounded)
    };
    if let (Style::Hf, Some(heads)) = (job.style, item.part.permuted_heads(&checkpoint.config)) {
        let head_dim = checkpoint.config.head_dim;
        let row_bytes = bytes.len() / (heads * head_dim);
        let order = Direction::MetaToHf;
        bytes = Cow::Owned(names::permute_rows(&bytes, heads, head_dim, row_bytes, order));
    }
    Ok((from, rounded, bytes))
}

/// What GGUF says of the configuration.
fn written(checkpoint: &Checkpoint) -> Result<gguf::Written, CheckpointError> {
    gguf::write(&checkpoint.config).map_err(|source| config_error(checkpoint, source))
}

fn config_error(checkpoint: &Checkpoint, source: ConfigError) -> CheckpointError {
    CheckpointError::Config { path: checkpoint.path().to_owned(), source }
}

/// All metadata of a GGUF: the source's own, or the configuration in its keys; then the job's.
fn gguf_metadata(
    checkpoint: &Checkpoint,
    job: &Job<'_>,
    lost: &mut Vec<String>,
) -> Result<Metadata, CheckpointError> {
    let mut metadata = match checkpoint.style {
        Style::Gguf => checkpoint.archive().metadata().clone(),
        Style::Hf | Style::Meta => {
            let mut metadata = Metadata::default();
            for (key, value) in written(checkpoint)?.metadata {
                metadata.insert(key, widths(value));
            }
            put_generation(&mut metadata, &checkpoint.generation, lost);
            let theta = checkpoint.config.rope_theta;
            if f64::from(theta as f32) != theta {
                lost.push(format!("llama.rope.freq_base is an f32: {theta} is {}", theta as f32));
            }
            metadata
        }
    };
    for split in ["split.no", "split.count", "split.tensors.count"] {
        metadata.remove(split);
    }
    let config = &checkpoint.config;
    metadata.insert("general.file_type", Value::U32(file_type(config, job.plan)));
    if names::all_parts(config).into_iter().any(|part| (job.plan)(part).block_len() > 1) {
        metadata.insert("general.quantization_version", Value::U32(2));
    }
    for (key, value) in job.metadata.iter() {
        metadata.insert(key, value.clone());
    }
    if let Some(files) = &checkpoint.hf {
        let own = files.generation.iter().flat_map(|file| file.other_keys());
        let keys: Vec<String> = files.config.other_keys().into_iter().chain(own).collect();
        report_keys(lost, "GGUF has no place for these keys", keys);
    }
    Ok(metadata)
}

/// llama.cpp's file type: of the recipe that gives these formats, else of the format that most
/// matrices have.
fn file_type(config: &Config, plan: &dyn Fn(Part) -> Format) -> u32 {
    let mut matrices = names::all_parts(config);
    matrices.retain(|part| part.shape(config).len() > 1);
    let recipes = || Recipe::all().map(|(_, recipe)| recipe);
    let fits = |r: &Recipe| matrices.iter().all(|part| r.format(*part, config) == plan(*part));
    let common = || {
        let mut counts: BTreeMap<Format, usize> = BTreeMap::new();
        matrices.iter().for_each(|part| *counts.entry(plan(*part)).or_default() += 1);
        let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(format, _)| format);
        recipes().find(|r| Some(r.base()) == most)
    };
    recipes().find(fits).or_else(common).map_or(0, Recipe::file_type)
}

/// Widths that other readers expect; see [`gguf::Value`].
fn widths(value: gguf::Value) -> Value {
    match value {
        gguf::Value::Unsigned(n) => Value::U32(u32::try_from(n).unwrap_or(u32::MAX)),
        gguf::Value::Signed(n) => Value::I64(n),
        gguf::Value::Float(x) => Value::F32(x as f32),
        gguf::Value::Bool(flag) => Value::Bool(flag),
        gguf::Value::Text(text) => Value::String(text),
        gguf::Value::List(_) => unreachable!("a configuration is written without lists"),
    }
}

/// The keys that [`gguf::read_generation`] reads.
fn put_generation(metadata: &mut Metadata, d: &GenerationDefaults, lost: &mut Vec<String>) {
    let mut ids = vec![("bos_token_id", d.bos_token_id), ("padding_token_id", d.pad_token_id)];
    let ends = ["eos_token_id", "eot_token_id", "eom_token_id"];
    ids.extend(ends.into_iter().zip(d.eos_token_ids.iter().copied().map(Some)));
    for (name, id) in ids {
        if let Some(id) = id {
            metadata.insert(format!("tokenizer.ggml.{name}"), Value::U32(id));
        }
    }
    if d.eos_token_ids.len() > ends.len() {
        let rest = &d.eos_token_ids[ends.len()..];
        lost.push(format!("GGUF has no place for the further ends of an answer {rest:?}"));
    }
    let temperature = if d.do_sample == Some(false) { Some(0.0) } else { d.temperature };
    let floats = [
        ("temp", temperature),
        ("top_p", d.top_p),
        ("min_p", d.min_p),
        ("penalty_repeat", d.repetition_penalty),
    ];
    for (name, x) in floats {
        if let Some(x) = x {
            metadata.insert(format!("general.sampling.{name}"), Value::F32(x));
        }
    }
    if let Some(k) = d.top_k {
        metadata.insert("general.sampling.top_k", Value::U32(k));
    }
}

type Texts = Vec<(String, Vec<u8>)>;

/// `config.json` and `generation_config.json`.
fn hf_texts(
    checkpoint: &Checkpoint,
    shape: &Config,
    job: &Job<'_>,
    lost: &mut Vec<String>,
) -> Result<Texts, CheckpointError> {
    let dtype = match (job.plan)(Part::TokEmbd) {
        Format::F16 => "float16",
        Format::BF16 => "bfloat16",
        _ => "float32",
    };
    let files = checkpoint.hf.clone();
    let mut config = match &files {
        Some(files) => files.config.clone(),
        None => {
            let (config, generation) = (checkpoint.config.clone(), checkpoint.generation.clone());
            hf::ConfigFile::new(config, generation, Some(dtype.into()))
        }
    };
    if shape.head != config.config.head {
        config.config.head = shape.head;
        config.generation.pad_token_id = checkpoint.generation.pad_token_id;
    }
    if config.dtype.as_deref().unwrap_or("float32") != dtype {
        config.dtype = Some(dtype.into());
    }
    let text = config.write().map_err(|source| config_error(checkpoint, source))?;
    let mut texts = vec![("config.json".to_owned(), text.into_bytes())];
    let generation = match files {
        Some(files) => files.generation,
        None if checkpoint.generation == GenerationDefaults::default() => None,
        None => Some(hf::GenerationFile::new(checkpoint.generation.clone())),
    };
    if let Some(file) = generation {
        texts.push(("generation_config.json".to_owned(), file.write().into_bytes()));
    }
    report_metadata(checkpoint, lost);
    Ok(texts)
}

/// `params.json`.
fn meta_texts(checkpoint: &Checkpoint, lost: &mut Vec<String>) -> Result<Texts, CheckpointError> {
    let config = &checkpoint.config;
    let text = meta::write(config).map_err(|source| config_error(checkpoint, source))?;
    let known = meta::Known { vocab: Some(config.vocab), context: None, tied: config.tied };
    let back = meta::read(&text, known).map_err(|source| config_error(checkpoint, source))?;
    if back.context != config.context {
        let (own, back) = (config.context, back.context);
        lost.push(format!("params.json has no context: readers will take {back} for {own}"));
    }
    if checkpoint.generation != GenerationDefaults::default() {
        lost.push("params.json has no special ids and no sampling".into());
    }
    if let Some(files) = &checkpoint.hf {
        report_keys(lost, "params.json has no place for these keys", files.config.other_keys());
    }
    report_metadata(checkpoint, lost);
    Ok(vec![("params.json".to_owned(), text.into_bytes())])
}

/// GGUF metadata that says something of its own and has no place in a folder.
fn report_metadata(checkpoint: &Checkpoint, lost: &mut Vec<String>) {
    if checkpoint.style != Style::Gguf {
        return;
    }
    const CARRIED: [&str; 7] = [
        "llama.",
        "tokenizer.",
        "split.",
        "general.sampling.",
        "general.architecture",
        "general.file_type",
        "general.quantization_version",
    ];
    let own = |key: &&str| !CARRIED.iter().any(|start| key.starts_with(start));
    let keys = checkpoint.archive().metadata().iter().map(|(key, _)| key).filter(own);
    let keys = keys.map(String::from).collect();
    report_keys(lost, "the folder has no place for these keys", keys);
}

fn report_keys(lost: &mut Vec<String>, what: &str, keys: Vec<String>) {
    if !keys.is_empty() {
        lost.push(format!("{what}: {}", keys.join(", ")));
    }
}
