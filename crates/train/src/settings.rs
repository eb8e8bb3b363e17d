//! What a run keeps of its settings in its folder, and how it tells of them.

use crate::config::RunConfig;
use crate::error::TrainError;
use crate::metrics::FILE as METRICS;
use crate::{reference, state, teacher};
use herd_data::Hash;
use herd_data::disk::RealDisk;
use herd_model::{Checkpoint, CheckpointError};
use herd_tensor::Device;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// One run in a folder at a time.
pub(crate) fn take_lock(out: &Path) -> Result<File, TrainError> {
    let path = out.join(".lock");
    let file = File::create(&path).map_err(|e| TrainError::io("make", &path, e))?;
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => Err(TrainError::Busy { folder: out.to_owned() }),
        Err(fs::TryLockError::Error(_)) | Ok(()) => Ok(file), // some file systems have no locks
    }
}

/// Weights that a run reads again at every start, hashed, by the keys that name them.
pub(crate) type Origin = BTreeMap<&'static str, Hash>;

/// Keeps in a run's folder what decides its bytes: the settings, the numeric class, and the weights that are read again at
/// every start. In a run that made something they must be the same; a start that failed before binds nobody.
///
/// Errors: they are not; a checkpoint cannot be read; the disk.
pub(crate) fn keep_run(
    config: &RunConfig,
    device: &Device,
    out: &Path,
) -> Result<Origin, TrainError> {
    let origin = origin(config)?;
    let mut text = format!("class = \"{}\"\n", device.class());
    for (key, hash) in &origin {
        text.push_str(&format!("\"weights of {key}\" = \"{hash}\"\n"));
    }
    let made = made(out)?;
    keep_config(config, out, made)?;
    keep_or_renew(&out.join("origin.toml"), &text, out, made)?;
    Ok(origin)
}

/// Keeps the settings alone; where something was `made` by them they must be the same.
pub(crate) fn keep_config(config: &RunConfig, out: &Path, made: bool) -> Result<(), TrainError> {
    keep_or_renew(&out.join("config.toml"), &told(config, out).write(), out, made)
}

/// Whether a run's folder holds what its settings decided. Shards know for themselves what they are of.
fn made(out: &Path) -> Result<bool, TrainError> {
    let holds = |name: &&str| fs::metadata(out.join(name)).is_ok_and(|file| file.len() > 0);
    let files = [METRICS, reference::FILE, reference::PART, teacher::FILE, teacher::PART];
    Ok(files.iter().any(holds) || !state::steps(&out.join("checkpoints"))?.is_empty())
}

fn origin(config: &RunConfig) -> Result<Origin, TrainError> {
    let reference = config.dpo.as_ref().map(|dpo| dpo.reference.as_ref());
    let referred = config.rollout.is_some() && config.way().has_reference();
    let again =
        config.model.lora.is_some() || referred || reference.is_some_and(|own| own.is_none());
    let paths = [
        ("model.init", config.model.init.as_ref().filter(|_| again)),
        ("dpo.reference", reference.flatten()),
        ("distill.teacher", config.distill.as_ref().map(|distill| &distill.teacher)),
    ];
    let hashed = |(key, path): (&'static str, Option<&PathBuf>)| {
        let hash = |path| Ok((key, weights_hash(&Checkpoint::open_any(path)?)?));
        path.map(hash)
    };
    paths.into_iter().filter_map(hashed).collect()
}

/// The hash of all tensors: their names, shapes and bytes.
///
/// Errors: one cannot be read.
pub fn weights_hash(checkpoint: &Checkpoint) -> Result<Hash, TrainError> {
    let archive = checkpoint.archive();
    let mut sha256 = Sha256::new();
    for info in archive.tensors() {
        sha256.update(format!("{} {:?}\n", info.name, info.shape));
        sha256.update(archive.bytes(info).map_err(CheckpointError::from)?);
    }
    archive.release();
    Ok(Hash(sha256.finalize().into()))
}

/// Writes settings beside what is made by them, `begun`; if they are there, they must be the same.
///
/// Errors: they differ (the first key that does is named); the disk.
pub fn keep_settings(path: &Path, text: &str, begun: &Path) -> Result<(), TrainError> {
    let was = match fs::read_to_string(path) {
        Ok(was) => was,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return replace(path, text.as_bytes());
        }
        Err(e) => return Err(TrainError::io("read", path, e)),
    };
    if was == text {
        return Ok(());
    }
    let (was, is) = (flat(&was), flat(text));
    let key = was.keys().chain(is.keys()).find(|key| was.get(*key) != is.get(*key));
    let key = key.cloned().unwrap_or_else(|| "its text".into());
    let of = |table: &BTreeMap<String, String>| {
        table.get(&key).cloned().unwrap_or_else(|| "nothing".into())
    };
    let (was, is) = (of(&was), of(&is));
    Err(TrainError::OtherConfig { folder: begun.to_owned(), key, was, is })
}

/// The same where something was `made` by them; else the new ones take the place of the old.
///
/// Errors: as there.
pub(crate) fn keep_or_renew(
    path: &Path,
    text: &str,
    begun: &Path,
    made: bool,
) -> Result<(), TrainError> {
    match made {
        true => keep_settings(path, text, begun),
        false => replace(path, text.as_bytes()),
    }
}

/// The settings as files tell of them: a checkpoint that lies beside the run's folder by its way
/// from there, so that folders that move together keep their bytes.
pub(crate) fn told(config: &RunConfig, out: &Path) -> RunConfig {
    let mut config = config.clone();
    let beside = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    let retell = |path: &mut PathBuf| {
        let inside = beside.and_then(|beside| path.strip_prefix(beside).ok());
        if let Some(inside) = inside.map(|inside| Path::new("..").join(inside)) {
            *path = inside;
        }
    };
    config.judges().for_each(retell);
    let reference = config.dpo.as_mut().and_then(|dpo| dpo.reference.as_mut());
    let teacher = config.distill.as_mut().map(|distill| &mut distill.teacher);
    let values = config.ppo.as_mut().and_then(|ppo| ppo.value_model.as_mut());
    let init = config.model.init.as_mut().into_iter();
    init.chain(reference).chain(teacher).chain(values).for_each(retell);
    config
}

/// A TOML text as dotted keys and their values.
fn flat(text: &str) -> BTreeMap<String, String> {
    fn walk(prefix: &str, value: toml::Value, out: &mut BTreeMap<String, String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let dot = if prefix.is_empty() { "" } else { "." };
                    walk(&format!("{prefix}{dot}{key}"), value, out);
                }
            }
            other => {
                out.insert(prefix.to_owned(), other.to_string());
            }
        }
    }
    let mut out = BTreeMap::new();
    let table = text.parse::<toml::Table>().unwrap_or_default();
    walk("", toml::Value::Table(table), &mut out);
    out
}

/// Puts a small file in its place, on the disk, whole or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    Ok(herd_data::disk::replace(&RealDisk, folder, &name, &[bytes])?)
}
