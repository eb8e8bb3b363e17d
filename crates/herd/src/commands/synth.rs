//! `herd synth`: rows for `herd sft` that a writer makes and checks let through.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use clap::builder::PossibleValuesParser;
use herd_train::synth::{Inputs, Kind, Summary, SynthConfig, synth};
use herd_train::writer::{Question, Tell, Writer};
use serde_json::json;

use crate::commands::rows::RowsFlags;
use crate::console::{Console, Verdict, count};
use crate::error::Error;
use crate::writer::{Source, Wanted, open};
use crate::{training, vocabulary};

/// Flags of `herd synth`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// What rows are of
    #[arg(value_parser = PossibleValuesParser::new(Kind::ALL.map(Kind::name)))]
    kind: String,
    #[command(flatten)]
    rows: RowsFlags,
}

/// Makes all rows, or goes on where the log ends.
pub fn run(flags: &Flags, console: &Console, offline: bool) -> Result<Verdict, Error> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == flags.kind);
    let kind = kind.expect("the flag's parser lets these names through");
    let rows = &flags.rows;
    let config = SynthConfig::read(kind, &rows.config, &rows.set)?;
    rows.make_folder()?;
    let (base, device) = (rows.base(), rows.device()?);
    let (ask, chat) = (&config.sample, &config.chat);
    let wanted = |writer| Wanted { writer, ask, chat, base, device: &device, offline };
    let mut source = open(&wanted(&config.writer), console)?;
    let judge = config.judge.as_ref();
    let mut judge = judge.map(|judge| open(&wanted(judge), console)).transpose()?;
    let (writer_hash, own) = (source.hash(), source.tokenizer());
    let named = config.long_qa.as_ref().and_then(|long| long.tokenizer.as_ref());
    let named = named.map(|path| vocabulary::load(&base.join(path))).transpose()?.map(Arc::new);
    let tokenizer = named.or(own);
    let (stop, begun) = (training::stop_on_interrupt(console), Instant::now());
    let (asked, shown) = (Cell::new(0u64), Cell::new(begun));
    let answer = |source: &mut Source, questions: &[Question], tell: &mut Tell<'_>| {
        source.answer(questions, &stop, &mut |i, said| {
            asked.set(asked.get() + 1);
            if shown.get().elapsed().as_secs() >= 10 {
                shown.set(Instant::now());
                console.note(format!("{} questions answered", count(asked.get())));
            }
            tell(i, said)
        })
    };
    let judge_hash = judge.as_ref().map(Source::hash);
    let mut writer =
        |questions: &[Question], tell: &mut Tell<'_>| answer(&mut source, questions, tell);
    let mut judges = |questions: &[Question], tell: &mut Tell<'_>| match &mut judge {
        Some(judge) => answer(judge, questions, tell),
        None => Ok(()), // nobody asks
    };
    let summary = synth(Inputs {
        kind,
        config: &config,
        base,
        out: &rows.out,
        writer: &mut writer,
        writer_hash,
        judge: judge_hash.map(|hash| (hash, &mut judges as &mut Writer<'_>)),
        tokenizer: tokenizer.as_deref(),
        stop: &stop,
    })?;
    match summary {
        None => console.note("stopped; the same command goes on"),
        Some(summary) => tell(&summary, &rows.out, begun.elapsed().as_secs_f64(), console)?,
    }
    Ok(Verdict::Done)
}

fn tell(summary: &Summary, out: &Path, seconds: f64, console: &Console) -> Result<(), Error> {
    if console.json {
        let mut told = json!(summary);
        told["seconds"] = seconds.into();
        return console.print_json(&told);
    }
    let (rows, items) = (count(summary.rows), count(summary.items));
    console.print(format!("{rows} rows of {items} items in {}", out.display()))?;
    for (reason, records) in &summary.dropped {
        console.print(format!("left out: {} records ({reason})", count(*records)))?;
    }
    let mut table = vec![["step", "passed", "failed", "why"].map(str::to_owned).to_vec()];
    for (step, told) in &summary.steps {
        let failed: u64 = told.failed.values().sum();
        let why = told.failed.iter().map(|(reason, n)| format!("{reason} {}", count(*n)));
        let why = why.collect::<Vec<_>>().join(", ");
        table.push(vec![step.clone(), count(told.passed), count(failed), why]);
    }
    console.print_table(&table)?;
    for (what, n) in &summary.told {
        console.print(format!("{what}: {}", count(*n)))?;
    }
    let rejected = out.with_extension("rejected.jsonl");
    console.print(format!("{} rejected in {}", count(summary.rejected), rejected.display()))
}
