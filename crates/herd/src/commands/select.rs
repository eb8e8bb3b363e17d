//! `herd select`: the rows that are worth learning from, and why the others are not.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use herd_data::Hash;
use herd_model::checkpoint::Checkpoint;
use herd_model::llama::Llama;
use herd_tensor::Device;
use herd_train::TrainError;
use herd_train::reward::RewardModel;
use herd_train::select::{DedupConfig, Embed, Inputs, SelectConfig, Summary, select};
use herd_train::weights_hash;
use herd_train::writer::{Question, Tell, Writer, WriterConfig, embed};
use serde_json::json;

use crate::about::About;
use crate::commands::rows::RowsFlags;
use crate::commands::score;
use crate::console::{Console, Verdict, count};
use crate::error::Error;
use crate::training;
use crate::writer::{Endpoint, Wanted, find, open};

/// Flags of `herd select`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(flatten)]
    rows: RowsFlags,
}

/// Selects, or goes on where the log ends.
pub fn run(flags: &Flags, console: &Console, offline: bool) -> Result<Verdict, Error> {
    let rows = &flags.rows;
    let config = SelectConfig::read(&rows.config, &rows.set)?;
    rows.make_folder()?;
    let (base, device) = (rows.base(), rows.device()?);
    let stop = training::stop_on_interrupt(console);
    let (ask, chat) = (&config.sample, &config.chat);
    let wanted = |writer| Wanted { writer, ask, chat, base, device: &device, offline };
    let writer = config.writer.as_ref().filter(|_| config.asks());
    let mut source = writer.map(|writer| open(&wanted(writer), console)).transpose()?;
    let reward = reward(&config, base, &device)?;
    let mut vectors = vectors(&config, base, &device, &stop, offline)?;
    let hash = source.as_ref().map(|source| source.hash());
    let mut answer = |questions: &[Question], tell: &mut Tell<'_>| match &mut source {
        Some(source) => source.answer(questions, &stop, tell),
        None => Ok(()), // nobody asks
    };
    let summary = select(Inputs {
        config: &config,
        base,
        out: &rows.out,
        writer: hash.map(|hash| (hash, &mut answer as &mut Writer<'_>)),
        reward,
        embed: vectors.as_mut().map(|(hash, embed)| (hash.clone(), &mut **embed)),
        stop: &stop,
    })?;
    match summary {
        None => console.note("stopped; the same command goes on"),
        Some(summary) => tell(&summary, &rows.out, console)?,
    }
    Ok(Verdict::Done)
}

/// The reward model of the settings, with the hash of its weights.
fn reward(
    config: &SelectConfig,
    base: &Path,
    device: &Device,
) -> Result<Option<(Hash, RewardModel)>, Error> {
    let Some(model) = config.quality.as_ref().and_then(|q| q.reward_model.as_ref()) else {
        return Ok(None);
    };
    let path = find(model, base)?;
    let hash = weights_hash(&Checkpoint::open_any(&path)?)?;
    let (template, date) = (config.chat.template.as_deref(), config.chat.date.as_deref());
    Ok(Some((hash, score::open(&path, template, date, device)?)))
}

type Vectors<'a> = (String, Box<Embed<'a>>);

/// What gives vectors, with what names its weights.
fn vectors<'a>(
    config: &SelectConfig,
    base: &Path,
    device: &Device,
    stop: &'a AtomicBool,
    offline: bool,
) -> Result<Option<Vectors<'a>>, Error> {
    let Some(dedup) = &config.dedup else { return Ok(None) };
    let DedupConfig { model, base_url, key_env, tokens_max, .. } = dedup.clone();
    if let Some(url) = base_url {
        if offline {
            return Err(Error::Offline { what: format!("the embeddings of {url}") });
        }
        let patience = config.writer.clone().unwrap_or_else(WriterConfig::base);
        let writer = WriterConfig { model, key_env, base_url: None, ..patience };
        let endpoint = Endpoint::new(&url, &writer, 1)?;
        let hash = format!("{url} {}", endpoint.model);
        let embed = move |text: &str| match endpoint.embed(text, stop) {
            Ok(Some(vector)) => Ok(vector),
            Ok(None) => Err(TrainError::Stopped { what: "embeddings" }),
            Err(error) => Err(TrainError::Writer { source: Box::new(error) }),
        };
        return Ok(Some((hash, Box::new(embed))));
    }
    let checkpoint = Checkpoint::open_any(&find(&model, base)?)?;
    let context = tokens_max.min(checkpoint.config.context);
    let hash = format!("{} {context}", weights_hash(&checkpoint)?);
    let words = About::read(&checkpoint)?.tokenizer;
    let model = Llama::load(&checkpoint, device, context)?;
    Ok(Some((hash, Box::new(move |text| Ok(embed(&model, &words, text, context))))))
}

fn tell(summary: &Summary, out: &Path, console: &Console) -> Result<(), Error> {
    if console.json {
        return console.print_json(&json!(summary));
    }
    let (kept, rows) = (count(summary.kept), count(summary.rows));
    console.print(format!("{kept} of {rows} rows in {}", out.display()))?;
    for (reason, rows) in &summary.dropped {
        console.print(format!("left out: {} rows ({reason})", count(*rows)))?;
    }
    if let Some([reward, judge, both]) = summary.quality.map(|n| n.map(count)) {
        console.print(format!(
            "of high quality: {reward} by reward, {judge} by the judge, {both} by both"
        ))?;
    }
    for (phrase, before, after) in &summary.phrases {
        console.print(format!("{phrase:?}: {} rows, now {}", count(*before), count(*after)))?;
    }
    for (step, rows) in &summary.unread {
        console.print(format!("no verdict: {} rows ({step})", count(*rows)))?;
    }
    let ledger = out.with_extension("dropped.jsonl");
    console.note(format!("{} says why rows were left out", ledger.display()));
    Ok(())
}
