//! `herd score`: what a reward model makes of answers.

use std::io::Write;
use std::path::{Path, PathBuf};

use herd_data::dialogue::{Comparison, answers};
use herd_data::disk::{RealDisk, replace};
use herd_data::read::{Sources, objects};
use herd_data::{DataError, Fault};
use herd_model::{Checkpoint, Head};
use herd_tensor::Device;
use herd_train::paired::share;
use herd_train::reward::{Asked, RewardModel};
use herd_train::{Chat, TrainError};
use serde_json::{Value, json};

use crate::about::About;
use crate::console::{Console, Verdict, count};
use crate::error::Error;
use crate::store::Store;
use crate::{flags, training};

/// Flags of `herd score`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The reward model: a folder, or a name in the store
    #[arg(short, long)]
    model: String,
    /// Files or folders of dialogues or preferences: .jsonl, .json (also .gz, .zst), .parquet
    #[arg(short, long, required = true, num_args = 1.., value_name = "PATH")]
    input: Vec<String>,
    /// Where to write the rows with their rewards [default: the standard output]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// llama2, llama3, llama3.1, llama3.1-hf, code-llama-70b, chatml, or a file with a template [default: the model's]
    #[arg(long, value_name = "NAME|FILE")]
    chat_template: Option<String>,
    /// The day that formats name, as 2024-07-26
    #[arg(long, value_name = "DATE")]
    date: Option<String>,
    /// Count rows that are no dialogue, rather than stop at the first
    #[arg(long)]
    skip_bad: bool,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
}

/// A reward model with the tokenizer and the chat format that lie beside it, or those that are asked for.
pub fn open(
    path: &Path,
    template: Option<&str>,
    date: Option<&str>,
    device: &Device,
) -> Result<RewardModel, Error> {
    let about = About::read(&Checkpoint::open_any(path)?.expect_head(Head::Score)?)?;
    let (format, today) = (about.chat_format(template)?, date.map(flags::day).transpose()?);
    let chat = Some(Chat { format, today, shape: None, compare: None });
    let words = herd_train::Words { chat, ..training::words(path)? };
    Ok(RewardModel::open(path, words, device)?)
}

/// Rows whose answers pass through the model together.
const ROWS: usize = 64;

/// Rewards every row, and counts the pairs that are in order.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let threads = flags::threads(flags.threads)?;
    let device = Device::cpu(flags::class(flags.class.as_deref())?, threads);
    let path = Store::open()?.resolve(&flags.model)?;
    let model = open(&path, flags.chat_template.as_deref(), flags.date.as_deref(), &device)?;
    let (mut out, mut totals, mut waiting) = (Vec::new(), Totals::default(), Vec::new());
    let mut meter = console.meter("scored", None);
    for file in Sources::find(&flags.input)?.sources.iter().flat_map(|source| &source.files) {
        for record in objects(file)? {
            let read = record.and_then(|(row, value)| {
                let fault = |fault: Fault| {
                    let path = file.path.clone();
                    DataError::Record { path, row, fault }
                };
                let compared = answers(&value, None).map_err(fault)?;
                let asked = model.ask(&compared.prompt, &compared.answers);
                Ok((row, value, compared, asked.and_then(|asked| model.expect_fits(asked))))
            });
            match read {
                Ok((_, value, compared, Ok(asked))) => waiting.push((value, compared, asked)),
                Ok(_) | Err(DataError::Record { .. }) if flags.skip_bad => totals.skipped += 1,
                Ok((row, .., Err(error))) => {
                    let place = format!("row {row} of {}", file.path.display());
                    return Err(TrainError::Score { error: format!("{place}: {error}") }.into());
                }
                Err(error) => return Err(error.into()),
            }
            if waiting.len() == ROWS {
                totals.score(&model, &mut waiting, &mut out)?;
                meter.at(totals.rows);
            }
        }
    }
    totals.score(&model, &mut waiting, &mut out)?;
    drop(meter);
    match &flags.out {
        Some(path) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            replace(&RealDisk, folder.unwrap_or(Path::new(".")), &name, &[&out])
                .map_err(TrainError::from)?;
            totals.tell(console)?;
        }
        None => {
            let stdout = std::io::stdout();
            stdout.lock().write_all(&out).map_err(Error::io("write", Path::new("stdout")))?;
            console.note(totals.told());
        }
    }
    Ok(Verdict::Done)
}

/// What was met in all rows.
#[derive(Default)]
struct Totals {
    rows: u64,
    answers: u64,
    sum: f64,
    pairs: u64,
    right: u64,
    skipped: u64,
}

impl Totals {
    /// Rewards the rows that wait, and writes them.
    fn score(
        &mut self,
        model: &RewardModel,
        waiting: &mut Vec<(Value, Comparison, Asked)>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let asked: Vec<Asked> = waiting.iter_mut().map(|row| std::mem::take(&mut row.2)).collect();
        let rewards = model.score_ids(&asked)?;
        for ((mut row, ..), rewards) in waiting.drain(..).zip(rewards) {
            self.rows += 1;
            self.answers += rewards.len() as u64;
            self.sum += rewards.iter().sum::<f64>();
            // The best answer comes first.
            let pairs =
                (0..rewards.len()).flat_map(|c| (c + 1..rewards.len()).map(move |r| (c, r)));
            let (mut all, mut right) = (0, 0);
            for (c, r) in pairs {
                all += 1;
                right += u64::from(rewards[c] > rewards[r]);
            }
            (self.pairs, self.right) = (self.pairs + all, self.right + right);
            match rewards[..] {
                [reward] => row["reward"] = json!(reward),
                _ => {
                    let names = ["edited", "chosen", "rejected"];
                    let names = &names[names.len() - rewards.len()..];
                    row["rewards"] = names.iter().copied().zip(rewards).collect();
                    row["in_order"] = json!(right == all);
                }
            }
            out.extend(row.to_string().into_bytes());
            out.push(b'\n');
        }
        Ok(())
    }

    fn told(&self) -> String {
        let (rows, answers) = (count(self.rows), count(self.answers));
        let mut told = format!("{rows} rows, {answers} answers");
        if self.answers > 0 {
            told += &format!(", mean reward {:.4}", self.sum / self.answers as f64);
        }
        if self.pairs > 0 {
            let right = self.right as f64 / self.pairs as f64;
            let (low, high) = share(right, self.pairs);
            let [right, low, high] = [right, low, high].map(|share| 100.0 * share);
            let pairs = count(self.pairs);
            told += &format!(
                "; {right:.1} % of {pairs} pairs in order (95 %: {low:.1} to {high:.1} %)"
            );
        }
        if self.skipped > 0 {
            told += &format!(
                "; left out: {} rows that are no dialogue, or too long",
                count(self.skipped)
            );
        }
        told
    }

    fn tell(&self, console: &Console) -> Result<(), Error> {
        if !console.json {
            return console.print(self.told());
        }
        let right = self.right as f64 / self.pairs as f64;
        let accuracy = (self.pairs > 0).then(|| {
            let (low, high) = share(right, self.pairs);
            json!({ "share": right, "low": low, "high": high })
        });
        console.print_json(&json!({
            "rows": self.rows,
            "answers": self.answers,
            "mean_reward": (self.answers > 0).then(|| self.sum / self.answers as f64),
            "pairs": self.pairs,
            "accuracy": accuracy,
            "skipped": self.skipped,
        }))
    }
}
