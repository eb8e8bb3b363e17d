//! What helps an engine beside its model: who proposes tokens, and pages that outlive the process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use herd_codec::{TokenId, Tokenizer};
use herd_engine::shelf::ShelfSettings;
use herd_engine::{Proposer, Speculation};
use herd_model::checkpoint::Checkpoint;
use herd_model::llama::Llama;
use herd_serve::host::Aids;
use sha2::{Digest, Sha256};

use crate::about::About;
use crate::error::Error;
use crate::flags::range;
use crate::store::Store;
use crate::verbs::hash;

/// Flags of what helps.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Speed")]
pub struct AidFlags {
    /// A smaller model of the same tokenizer that proposes tokens; it changes no bit of an answer
    #[arg(long, value_name = "MODEL")]
    draft: Option<String>,
    /// Propose what stood behind the last tokens when they stood in the text before
    #[arg(long, conflicts_with = "draft")]
    lookup: bool,
    /// Tokens proposed ahead at most
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = range(1, 64))]
    draft_max: usize,
    /// Keep pages of the cache in this folder, and find them again after a restart
    #[arg(long, value_name = "DIR")]
    prefix_cache: Option<PathBuf>,
    /// Megabytes of that folder at most, for each model
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = range(1, 1 << 24))]
    prefix_cache_mb: usize,
}

impl AidFlags {
    /// What the flags ask for, for a loaded model and the draft that goes with it; `log` is told of pages that are
    /// passed over.
    pub fn aids(
        &self,
        about: &About,
        lora: Option<&Path>,
        draft: Option<Arc<Llama>>,
        log: fn(&str),
    ) -> Result<Aids, Error> {
        let by = match draft {
            Some(draft) => Some(Proposer::Draft(draft)),
            None => self.lookup.then_some(Proposer::Lookup),
        };
        let speculation = by.map(|by| Speculation { by, most: self.draft_max });
        let shelf = |folder: &PathBuf| -> Result<ShelfSettings, Error> {
            let (bytes, identity) = ((self.prefix_cache_mb as u64) << 20, identity(about, lora)?);
            // Each model has a folder of its own, so that none pushes out the pages of another.
            let name: String = identity[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            let folder = folder.join(name);
            std::fs::create_dir_all(&folder).map_err(Error::io("make", &folder))?;
            Ok(ShelfSettings { folder, bytes, identity, log })
        };
        let shelf = self.prefix_cache.as_ref().map(shelf).transpose()?;
        Ok(Aids { speculation, shelf })
    }

    /// The files of the draft, if one is asked for.
    pub fn draft(&self) -> Result<Option<Checkpoint>, Error> {
        let open = |name: &String| Ok(Checkpoint::open(Store::open()?.resolve(name)?)?);
        self.draft.as_ref().map(open).transpose()
    }

    /// Errors: the draft has other tokens than the model of `vocab` tokens that it is to help.
    pub fn check_draft(
        &self,
        draft: &Checkpoint,
        about: &About,
        vocab: usize,
    ) -> Result<(), Error> {
        let own = About::read(draft)?;
        if draft.config.vocab == vocab && same_tokens(&own.tokenizer, &about.tokenizer) {
            return Ok(());
        }
        let got = self.draft.clone().unwrap_or_default();
        let expected = "a model with the tokenizer of the one that is served".to_owned();
        Err(Error::Value { what: "--draft", got, expected })
    }
}

/// Whether each id means the same text.
fn same_tokens(a: &Tokenizer, b: &Tokenizer) -> bool {
    let same = |id| a.token_bytes(id) == b.token_bytes(id) && a.kind(id) == b.kind(id);
    a.vocab_size() == b.vocab_size() && (0..a.vocab_size() as u32).map(TokenId).all(same)
}

/// A hash of the checkpoint's files, the adapter's and the template.
fn identity(about: &About, lora: Option<&Path>) -> Result<[u8; 32], Error> {
    let mut sum = Sha256::new();
    for folder in [Some(about.path.as_path()), lora].into_iter().flatten() {
        for path in files(folder)? {
            sum.update(hash(&path)?);
        }
    }
    sum.update(about.template().unwrap_or_default());
    Ok(sum.finalize().into())
}

/// The file, or the files of the folder in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(Error::io("read", path))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("read", path))?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
