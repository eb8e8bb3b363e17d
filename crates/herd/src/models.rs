//! The models of a server: which there are, by flags, a folder or a file, and how each is loaded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, UNIX_EPOCH};

use herd_codec::chat::ChatFormat;
use herd_engine::Limits;
use herd_engine::plan::Plan;
use herd_model::checkpoint::Checkpoint;
use herd_model::llama::{Adapter, Llama};
use herd_model::names::Part;
use herd_serve::Served;
use herd_serve::forms::Forms;
use herd_serve::roster::{Card, LoadError, Loaded};
use herd_serve::served::{Facts, WeightsHash};
use herd_tensor::Device;
use serde::Deserialize;

use crate::about::{About, today};
use crate::aids::AidFlags;
use crate::error::Error;
use crate::flags::{KvFlag, ModelFlags, SamplingFlags};
use crate::machine::machine;
use crate::run;

/// A model that is to be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// What requests call it; `None` for its file's name.
    pub name: Option<String>,
    /// A file, a folder, or a name in the store.
    pub model: String,
    /// The folder of an adapter, and the name of the model that it stands beside.
    pub lora: Option<(PathBuf, Option<String>)>,
    /// Tokens of context.
    pub context: Option<usize>,
    /// Answers at once.
    pub parallel: Option<usize>,
    /// How it chats.
    pub chat_template: Option<String>,
    /// How long it stays when nobody is with it.
    pub ttl: Option<Duration>,
    /// Whether it is loaded when the server starts.
    pub load: bool,
    /// Whether it was found in a folder, and is passed over where it cannot be used.
    pub found: bool,
}

impl Wish {
    /// The folder of its adapter.
    fn adapter(&self) -> Option<&Path> {
        self.lora.as_ref().map(|(folder, _)| folder.as_path())
    }
}

/// A file of models: `[models.NAME]` tables.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelsFile {
    models: BTreeMap<String, ModelTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelTable {
    model: String,
    lora: Option<PathBuf>,
    context: Option<usize>,
    parallel: Option<usize>,
    chat_template: Option<String>,
    ttl: Option<u64>,
    #[serde(default)]
    load: bool,
}

/// The models in a folder, or those that a TOML file names; paths in a file are seen from its folder.
///
/// Errors: it is not there, holds none, or is no such file.
pub fn wishes(path: &Path) -> Result<Vec<Wish>, Error> {
    if path.is_dir() {
        return in_folder(path);
    }
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let wrong = |what: String| Error::Json { path: path.to_owned(), what };
    let file: ModelsFile =
        toml::from_str(&text).map_err(|e| wrong(format!("no file of models: {}", e.message())))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let wish = |(name, table): (String, ModelTable)| {
        let beside = folder.join(&table.model);
        let model = if beside.exists() { beside.display().to_string() } else { table.model };
        Wish {
            name: Some(name),
            model,
            lora: table.lora.map(|lora| (folder.join(lora), None)),
            context: table.context,
            parallel: table.parallel,
            chat_template: table.chat_template,
            ttl: table.ttl.map(Duration::from_secs),
            load: table.load,
            found: false,
        }
    };
    let wishes: Vec<Wish> = file.models.into_iter().map(wish).collect();
    if wishes.is_empty() {
        return Err(wrong("a file without [models.NAME]".to_owned()));
    }
    Ok(wishes)
}

fn in_folder(folder: &Path) -> Result<Vec<Wish>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let gguf = path.extension().is_some_and(|ending| ending == "gguf");
        let holds = |name: &str| path.join(name).is_file();
        if gguf || holds("config.json") || holds("params.json") {
            found.push(path.display().to_string());
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(Error::NoFile { folder: folder.to_owned() });
    }
    Ok(found.into_iter().map(|model| Wish { model, found: true, ..Wish::default() }).collect())
}

/// What holds for all models of a server.
pub struct House {
    /// Where they run.
    pub device: Device,
    /// How keys and values are stored.
    pub kv: KvFlag,
    /// Tokens of context where a model's own are not asked for.
    pub context: Option<usize>,
    /// Answers at once, where a model says nothing.
    pub parallel: usize,
    /// Tokens of a step at most.
    pub batch: usize,
    /// Tokens that each cache holds.
    pub cache_tokens: Option<usize>,
    /// How long models stay, where a model says nothing.
    pub ttl: Option<Duration>,
    /// How tokens are chosen.
    pub sampling: SamplingFlags,
    /// What helps the engines.
    pub aids: AidFlags,
    /// Where what is passed over is told.
    pub log: fn(&str),
}

/// Loads models; those that share weights hold them once.
pub struct Stock {
    house: House,
    items: HashMap<String, Item>,
    /// Models in memory, by the file and context of their weights.
    loaded: Mutex<HashMap<String, Vec<Weak<Llama>>>>,
    /// Drafts in memory, by the file and context of their weights; the lock is held while one is loaded.
    drafts: Mutex<HashMap<String, Weak<Llama>>>,
}

struct Item {
    wish: Wish,
    limits: Limits,
    weights: String,
}

impl Stock {
    /// Looks at the files of all models: what loads them, a card for each in their order, and what is to be said of
    /// those in a folder that are passed over.
    ///
    /// Errors: files that cannot be used, two models of one name.
    pub fn new(house: House, wishes: Vec<Wish>) -> Result<(Stock, Vec<Card>, Vec<String>), Error> {
        let (mut items, mut cards, mut notes) = (HashMap::new(), Vec::new(), Vec::new());
        let (mut names, share, last) = (HashSet::new(), wishes.len(), wishes.len() - 1);
        for (i, wish) in wishes.into_iter().enumerate() {
            let (found, model) = (wish.found, wish.model.clone());
            let (item, card) = match look(&house, wish, share) {
                // Where none is left, the last says why.
                Err(error) if found && (i < last || !cards.is_empty()) => {
                    notes.push(format!("{model} is passed over: {}", error.line()));
                    continue;
                }
                looked => looked?,
            };
            if !names.insert(card.name.clone()) {
                let expected = "a name that no other model has (-a, or --lora NAME=FOLDER)";
                let (what, got) = ("the name of a model", card.name);
                return Err(Error::Value { what, got, expected: expected.to_owned() });
            }
            items.insert(card.name.clone(), item);
            cards.push(card);
        }
        let (loaded, drafts) = (Mutex::default(), Mutex::default());
        Ok((Stock { house, items, loaded, drafts }, cards, notes))
    }

    /// Whether a model is loaded when the server starts.
    pub fn at_once(&self, name: &str) -> bool {
        self.items.get(name).is_some_and(|item| item.wish.load)
    }

    /// Whether the machine has room for a model and its files can be read, in this program's errors.
    pub fn check(&self, name: &str) -> Result<(), Error> {
        let Some(Item { wish, limits, .. }) = self.items.get(name) else {
            return Err(Error::NoModel { name: name.to_owned(), nearest: None });
        };
        let (checkpoint, _) = run::open(&flags(&self.house, wish), &self.house.kv, None)?;
        run::check_memory(&checkpoint, *limits)?;
        let about = About::adapted(&checkpoint, wish.adapter())?;
        self.house.sampling.sampling(&about.defaults)?.check(checkpoint.config.vocab)?;
        chat_format(wish, &about).map(drop)
    }

    /// Loads the model of this name, as the door wants it.
    pub fn load(&self, name: &str) -> Result<Loaded, LoadError> {
        self.try_load(name).map_err(|error| match error {
            Error::Memory { .. } => LoadError::Memory(error.line()),
            error => LoadError::Files(format!("model {name:?} cannot be loaded: {}", error.line())),
        })
    }

    fn try_load(&self, name: &str) -> Result<Loaded, Error> {
        let Some(Item { wish, limits, weights }) = self.items.get(name) else {
            return Err(Error::NoModel { name: name.to_owned(), nearest: None });
        };
        let house = &self.house;
        let (checkpoint, _) = run::open(&flags(house, wish), &house.kv, None)?;
        let about = About::adapted(&checkpoint, wish.adapter())?;
        let limits = *limits;
        let plain = match self.shared(weights) {
            Some(llama) => llama,
            None => {
                run::check_memory(&checkpoint, limits)?;
                Llama::load(&checkpoint, &house.device, limits.context)?
            }
        };
        let model = Arc::new(match &wish.lora {
            None => plain,
            Some((folder, _)) => plain.adapted(&Adapter::open(folder, &checkpoint.config)?),
        });
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let same = loaded.entry(weights.clone()).or_default();
        same.retain(|llama| llama.strong_count() > 0);
        same.push(Arc::downgrade(&model));
        drop(loaded);
        let lora = wish.adapter();
        let vocab = checkpoint.config.vocab;
        let weights = named_by(checkpoint, lora.map(Path::to_owned));
        let served = Served { weights, ..served(house, wish, name, &about, &model, limits)? };
        let draft = house.aids.draft()?;
        if let Some(draft) = &draft {
            house.aids.check_draft(draft, &about, vocab)?;
        }
        let draft = draft.map(|draft| self.draft(&draft, limits)).transpose()?;
        let aids = house.aids.aids(&about, lora, draft, house.log)?;
        Ok(Loaded { served, model, limits, aids })
    }

    /// The draft's weights, in memory once for all models of one context.
    fn draft(&self, draft: &Checkpoint, limits: Limits) -> Result<Arc<Llama>, Error> {
        let mut drafts = self.drafts.lock().unwrap_or_else(PoisonError::into_inner);
        let name = weights_of(draft, limits);
        if let Some(draft) = drafts.get(&name).and_then(Weak::upgrade) {
            return Ok(draft);
        }
        run::check_memory(draft, limits)?;
        let loaded = Arc::new(Llama::load(draft, &self.house.device, limits.context)?);
        drafts.insert(name, Arc::downgrade(&loaded));
        Ok(loaded)
    }

    /// The weights of a model that is in memory, without an adapter.
    fn shared(&self, weights: &str) -> Option<Llama> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let found = loaded.get(weights)?.iter().find_map(Weak::upgrade)?;
        Some(found.unadapted())
    }
}

fn flags(house: &House, wish: &Wish) -> ModelFlags {
    ModelFlags {
        model: wish.model.clone(),
        threads: None,
        ctx_size: wish.context.or(house.context),
        class: None,
        lora: None,
    }
}

/// Looks at a model's files; `share` models share the free memory.
fn look(house: &House, wish: Wish, share: usize) -> Result<(Item, Card), Error> {
    let (checkpoint, limits) = run::open(&flags(house, &wish), &house.kv, None)?;
    let draft = house.aids.draft()?;
    let limits = limits_of(house, &wish, (&checkpoint, draft.as_ref()), limits, share)?;
    let plan = plan_of((&checkpoint, draft.as_ref()), limits)?;
    let weights_bytes = Plan::new(&checkpoint, limits)?.weights;
    let adapter = match &wish.lora {
        Some((folder, _)) => Adapter::open(folder, &checkpoint.config)?.bytes(),
        None => 0,
    };
    let path = checkpoint.path().to_owned();
    let weights = weights_of(&checkpoint, limits);
    let config = &checkpoint.config;
    let card = Card {
        name: wish.name.clone().unwrap_or_else(|| name_of(&path)),
        base: wish.lora.as_ref().map(|(_, base)| base.clone().unwrap_or_else(|| name_of(&path))),
        created: created(wish.lora.as_ref().map_or(&path, |(folder, _)| folder)),
        facts: Facts {
            parameters: config.params(),
            bytes: weights_bytes,
            width: config.width,
            format: checkpoint.format(Part::Down(0))?.name(),
            container: container(&path),
        },
        context: limits.context,
        weights: weights.clone(),
        own_bytes: plan.peak() - weights_bytes + adapter,
        ttl: wish.ttl.or(house.ttl),
    };
    Ok((Item { wish, limits, weights }, card))
}

/// What names the weights of a model as they are laid out for a context.
fn weights_of(checkpoint: &Checkpoint, limits: Limits) -> String {
    let path = checkpoint.path();
    let file = fs::canonicalize(path).unwrap_or(path.to_owned());
    format!("{} {}", file.display(), limits.context)
}

/// The plan of a model and of its draft, which has a cache of as many positions. The draft's weights are counted for
/// each model, though those of one context share them: it is not known here which of them are loaded.
fn plan_of(
    (checkpoint, draft): (&Checkpoint, Option<&Checkpoint>),
    limits: Limits,
) -> Result<Plan, Error> {
    let plan = Plan::new(checkpoint, limits)?;
    let Some(draft) = draft else { return Ok(plan) };
    let draft = Plan::new(draft, limits)?;
    Ok(Plan {
        weights: plan.weights.saturating_add(draft.weights),
        cache: plan.cache.saturating_add(draft.cache),
        activations: plan.activations.saturating_add(draft.activations),
        logits: plan.logits.saturating_add(draft.logits),
        rest: plan.rest,
    })
}

/// The engine's limits: the cache takes what was asked for, else as much of all contexts as this model's share of half
/// of the free memory holds beside all else of it and its draft, and a context at least.
fn limits_of(
    house: &House,
    wish: &Wish,
    models: (&Checkpoint, Option<&Checkpoint>),
    limits: Limits,
    share: usize,
) -> Result<Limits, Error> {
    let (parallel, batch) = (wish.parallel.unwrap_or(house.parallel), house.batch);
    if !(1..=4096).contains(&parallel) {
        let (what, got) = ("parallel", parallel.to_string());
        return Err(Error::Value { what, got, expected: "between 1 and 4096".to_owned() });
    }
    let limits = Limits { parallel, batch, positions: house.cache_tokens, ..limits };
    if house.cache_tokens.is_some() {
        return Ok(limits);
    }
    let plan = plan_of(models, limits)?;
    let free = machine().memory_available_bytes as usize;
    let room = (free / 2 / share.max(1)).saturating_sub(plan.peak() - plan.cache);
    if free == 0 || plan.cache <= room {
        return Ok(limits);
    }
    let position = plan.cache.div_ceil(limits.pages() * limits.page_len);
    Ok(Limits { positions: Some(room / position), ..limits })
}

/// What names the weights of a model, once somebody asks.
fn named_by(checkpoint: Checkpoint, lora: Option<PathBuf>) -> WeightsHash {
    let name = move || run::identity(&checkpoint, lora.as_deref()).map_err(|e| e.line());
    Arc::new(LazyLock::new(Box::new(name)))
}

/// What the door must know of a loaded model, but for the name of its weights.
fn served(
    house: &House,
    wish: &Wish,
    name: &str,
    about: &About,
    model: &Llama,
    limits: Limits,
) -> Result<Served, Error> {
    let format = chat_format(wish, about)?;
    let sampling = house.sampling.sampling(&about.defaults)?;
    let config = model.config();
    let vocab = config.vocab;
    sampling.check(vocab)?;
    Ok(Served {
        name: name.to_owned(),
        created: created(&about.path),
        tokenizer: Arc::clone(&about.tokenizer),
        text_stops: about.stop_ids(None),
        chat_stops: about.stop_ids(format.as_ref()),
        format,
        sampling,
        seed: house.sampling.seed,
        limits,
        vocab,
        forms: Arc::new(Forms::new(Arc::clone(&about.tokenizer), vocab)),
        class: model.device().class().name(),
        weights: Arc::new(LazyLock::new(Box::new(|| Err("they have no name".to_owned())))),
        facts: Facts {
            parameters: config.params(),
            bytes: model.weight_bytes(),
            width: config.width,
            format: model.format().name(),
            container: container(&about.path),
        },
        kept: Arc::default(),
        today,
    })
}

fn chat_format(wish: &Wish, about: &About) -> Result<Option<ChatFormat>, Error> {
    match (&wish.chat_template, about.template()) {
        (None, None) => Ok(None),
        (wanted, _) => about.chat_format(wanted.as_deref()).map(Some),
    }
}

/// The file's or folder's name without its ending.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.strip_suffix(".gguf").map_or(name.clone(), str::to_owned)
}

/// The kind of a model's file, by its ending.
fn container(path: &Path) -> &'static str {
    if path.extension().is_some_and(|ending| ending == "gguf") { "gguf" } else { "safetensors" }
}

/// When a file was written, in seconds since 1970; 0 where the system does not say.
fn created(path: &Path) -> u64 {
    let written = path.metadata().and_then(|data| data.modified()).ok();
    written.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_models_is_read_and_its_paths_are_seen_from_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("models.toml");
        fs::write(folder.path().join("a.gguf"), b"x").unwrap();
        let text =
            "[models.a]\nmodel = 'a.gguf'\nttl = 60\n[models.b]\nmodel = 'stored'\nlora = 'l'\n";
        fs::write(&path, text).unwrap();
        let wishes = wishes(&path).unwrap();
        assert_eq!(wishes[0].model, folder.path().join("a.gguf").display().to_string());
        assert_eq!((wishes[0].ttl, wishes[0].load), (Some(Duration::from_secs(60)), false));
        assert_eq!(wishes[1].model, "stored");
        assert_eq!(wishes[1].lora, Some((folder.path().join("l"), None)));
    }

    #[test]
    fn wrong_files_of_models_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("models.toml");
        for (text, words) in [
            ("[models.a]\nmodel = 'a'\nttll = 3", "unknown field `ttll`"),
            ("[models]", "without [models.NAME]"),
            ("[models.a]", "missing field `model`"),
        ] {
            fs::write(&path, text).unwrap();
            let error = wishes(&path).unwrap_err().line();
            assert!(error.contains("models.toml") && error.contains(words), "{error}");
        }
        let empty = folder.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert!(matches!(wishes(&empty), Err(Error::NoFile { .. })));
    }

    fn house(flags: &[&str]) -> House {
        #[derive(clap::Parser)]
        struct Flags {
            #[command(flatten)]
            aids: AidFlags,
            #[command(flatten)]
            sampling: SamplingFlags,
        }
        let Flags { aids, sampling } = clap::Parser::parse_from([&["herd"], flags].concat());
        House {
            device: Device::cpu(herd_tensor::Class::best(), 1),
            kv: KvFlag::default(),
            context: Some(64),
            parallel: 2,
            batch: 32,
            cache_tokens: Some(128),
            ttl: None,
            sampling,
            aids,
            log: |_| {},
        }
    }

    fn recorded(name: &str) -> String {
        format!("{}/../../testdata/models/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    #[test]
    fn a_draft_counts_in_the_plan_of_each_model_and_is_in_memory_once() {
        let (target, name) = (recorded("llama1_mha"), recorded("llama2_linear"));
        let wish = || Wish { model: target.clone(), ..Wish::default() };
        let (_, plain) = look(&house(&[]), wish(), 1).unwrap();
        let flags = ["--draft", &name];
        let (item, helped) = look(&house(&flags), wish(), 1).unwrap();
        let checkpoint = Checkpoint::open(&name).unwrap();
        let plan = Plan::new(&checkpoint, item.limits).unwrap();
        assert_eq!(helped.own_bytes - plain.own_bytes, plan.peak() - plan.rest);
        assert_eq!(helped.facts.bytes, plain.facts.bytes);
        let (stock, _, _) = Stock::new(house(&flags), vec![wish()]).unwrap();
        let longer = Limits { context: 80, ..item.limits };
        let drafts = [item.limits, item.limits, longer]
            .map(|limits| stock.draft(&checkpoint, limits).unwrap());
        assert!(Arc::ptr_eq(&drafts[0], &drafts[1]) && !Arc::ptr_eq(&drafts[0], &drafts[2]));
    }
}
