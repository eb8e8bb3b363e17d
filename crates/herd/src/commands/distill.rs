//! `herd distill`: a model learns what a larger one says.

use herd_data::Hash;
use herd_data::disk::make_folder;
use herd_train::distill::{From, settings};
use herd_train::{RunConfig, TrainError, keep_settings};

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::training::{self, RunFlags};
use crate::verbs::{self, Verb, write};
use crate::vocabulary;

pub use crate::training::StageFlags as Flags;

/// Trains to the last step, or goes on where the folder's run stopped.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let config = herd_train::distill::read(&flags.run.config, &flags.run.set)?;
    same_words(&config)?;
    match config.distill.as_ref().map(|distill| distill.from) {
        Some(From::Samples) => from_samples(&flags.run, &config, console)?,
        Some(From::Logits) | None => {
            training::run_or_export(flags, config, "distill", herd_train::distill, console)?;
        }
    }
    Ok(Verdict::Done)
}

/// Errors: the teacher has another tokenizer than the student.
fn same_words(config: &RunConfig) -> Result<(), Error> {
    let teacher = config.distill.as_ref().map(|distill| &distill.teacher);
    let Some(teacher) = teacher.filter(|teacher| **teacher != config.tokenizer) else {
        return Ok(());
    };
    let hash = |path| Ok::<_, Error>(Hash::of_tokenizer(&vocabulary::load(path)?));
    if hash(teacher)? == hash(&config.tokenizer)? {
        return Ok(());
    }
    let expected = format!("the vocabulary of {}", config.tokenizer.display());
    let (key, value) = ("distill.teacher".to_owned(), teacher.display().to_string());
    Err(TrainError::Value { key, value: format!("{value} with other words"), expected }.into())
}

/// The teacher answers and the student learns its answers, as two verbs: what is there is not made again.
fn from_samples(flags: &RunFlags, config: &RunConfig, console: &Console) -> Result<(), Error> {
    let (out, of) = (&flags.out, settings(config)?);
    make_folder(out).map_err(Error::io("make", out))?;
    keep_settings(&out.join("config.toml"), &config.write(), out)?;
    let machine = verbs::machine(flags.threads, flags.class.as_deref());
    let file = |name: &str| out.join(format!("configs/{name}.toml"));
    write(&file("sample"), of.sample.as_bytes())?;
    write(&file("sft"), of.sft.as_bytes())?;
    let (answers, student) = (out.join("samples.jsonl"), out.join("student"));
    let last = format!("checkpoints/step-{}", config.optim.steps);
    let pairs = out.join("samples.pairs.jsonl"); // behind the best, that are learnt from
    for verb in [
        Verb::with_settings("sample", &file("sample"), &answers, pairs),
        Verb::with_settings("sft", &file("sft"), &student, student.join(&last)),
    ] {
        if !verb.run(&machine, console)? {
            console.note("stopped; the same command goes on");
            return Ok(());
        }
    }
    console.note(format!("the model stands in {}", student.join(last).display()));
    Ok(())
}
