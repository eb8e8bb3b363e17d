//! Distillation: a student learns what a larger model says, not only what was said (arXiv 1503.02531; so were Llama 3.2
//! 1B and 3B pretrained, from the logits of 8B and 70B).
//!
//! ```text
//! L = (1 - alpha) CE(y) + alpha T^2 KL(p || q)        mean over tokens that count
//! ```
//!
//! q is the student's softmax(z / T), p the teacher's, of which the k likeliest ids are known. What they leave over is
//! one more outcome (`bucket`), or p is scaled up to 1 (`drop`). T^2 keeps the size of the gradient, which falls by as much.

use crate::config::{DataConfig, Long, Packing, RunConfig, set};
use crate::dpo::Side;
use crate::error::TrainError;
use crate::metrics::{Line, Measured};
use crate::pretrain::pretrain;
use crate::reference::Ask;
use crate::rejection::RejectionConfig;
use crate::sft;
use crate::step::{Micro, Packed};
use crate::teacher::Teacher;
use crate::trainer::{Event, Trainer};
use herd_data::validation::bits_per_byte;
use herd_data::{Batch, Corpus};
use herd_model::llama::Llama;
use herd_tensor::ops::{self, Documents, Likeliest, Targets};
use herd_tensor::{Tape, Tensor, blocks_of};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::{Table, Value};

mod samples;

pub use samples::{Taught as FromSamples, settings};

/// The settings of the teacher and of the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// What is learnt from: what the teacher says of every token, or answers of its own.
    pub from: From,
    /// The checkpoint that teaches, in any format; it runs as its file stores it.
    pub teacher: PathBuf,
    /// What both read.
    pub learn: Learn,
    /// The share of the divergence; the targets have the others.
    pub alpha: f64,
    /// Logits of both are divided by it.
    pub temperature: f64,
    /// How many of the teacher's ids are known of a token.
    pub k: usize,
    /// What becomes of the others.
    pub rest: Rest,
    /// Keep the teacher in memory beside the student, rather than let it read all before the first step; changes no bit.
    pub live: bool,
    /// Of `samples`: how the teacher answers, as `[sample]` of `herd sample`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<Table>,
    /// Of `samples`: what its answers are judged by, as `[[score]]` there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub score: Vec<Value>,
}

/// What is learnt from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// What the teacher says of every token.
    Logits,
    /// Answers that it gives.
    Samples,
}

/// What both read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learn {
    /// Dialogues, of which the answers count.
    Answers,
    /// Texts, all of whose tokens count.
    Text,
}

/// What becomes of the ids that are not known of the teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rest {
    /// Their probability is one more outcome.
    Bucket,
    /// They have none; that of the others is scaled up to 1.
    Drop,
}

impl DistillConfig {
    /// What a file need not say.
    pub const USUAL: DistillConfig = DistillConfig {
        from: From::Logits,
        teacher: PathBuf::new(),
        learn: Learn::Answers,
        alpha: 0.5,
        temperature: 1.0,
        k: 64,
        rest: Rest::Bucket,
        live: false,
        sample: None,
        score: Vec::new(),
    };

    /// The same with paths that led from a folder.
    pub(crate) fn relative_to(&mut self, folder: &Path) {
        if !self.teacher.as_os_str().is_empty() {
            self.teacher = folder.join(&self.teacher);
        }
        let judges = self.score.iter_mut().filter_map(|score| score.get_mut("model"));
        for model in judges {
            if let Some(path) = model.as_str() {
                *model = folder.join(path).display().to_string().into();
            }
        }
    }

    /// Nats of a token, of its cross-entropy and its divergence.
    fn loss(&self, ce: f64, kl: f64) -> f64 {
        (1.0 - self.alpha) * ce + self.alpha * self.temperature * self.temperature * kl
    }
}

/// Reads the settings of a run that is taught: those of [`sft::read`] over dialogues; over texts whole documents, split
/// into rows where they are longer, and the tokenizer of the student or the teacher.
///
/// Errors: as there; no teacher, a setting out of its range, texts cut where it cannot be known again.
pub fn read(path: &Path, overrides: &[(String, String)]) -> Result<RunConfig, TrainError> {
    let text = std::fs::read_to_string(path).map_err(|e| TrainError::io("read", path, e))?;
    let learn = learn(&text, overrides);
    let distill = DistillConfig { learn, ..DistillConfig::USUAL };
    let base = |preset: RunConfig| match learn {
        Learn::Answers => RunConfig { distill: Some(distill), ..sft::base(preset) },
        Learn::Text => {
            let data = DataConfig {
                packing: Packing::Whole,
                long: Long::Split,
                document_mask: true,
                ..preset.data
            };
            RunConfig { distill: Some(distill), data, tokenizer: PathBuf::new(), ..preset }
        }
    };
    let checked = RunConfig::read_over(path, overrides, base).map(resolved)?;
    checked.map_err(|e| TrainError::InFile { path: path.into(), source: Box::new(e) })
}

/// What a file says of it, before it is known whether the file is right.
fn learn(text: &str, overrides: &[(String, String)]) -> Learn {
    let mut table: Table = text.parse().unwrap_or_default();
    for (key, value) in overrides {
        let _ = set(&mut table, key, value); // told when the file is read
    }
    let said = table.get("distill").and_then(|distill| distill.get("learn"));
    match said.and_then(Value::as_str) {
        Some("text") => Learn::Text,
        _ => Learn::Answers,
    }
}

fn resolved(mut config: RunConfig) -> Result<RunConfig, TrainError> {
    let distill = config.distill.clone().expect("`read` gave it");
    if distill.teacher.as_os_str().is_empty() {
        return Err(TrainError::no("distill.teacher", "nothing", "the checkpoint that teaches"));
    }
    for (key, value, range) in [
        ("distill.alpha", distill.alpha, 0.0..=1.0),
        ("distill.temperature", distill.temperature, 0.05..=100.0),
        ("distill.k", distill.k as f64, 1.0..=65_536.0),
    ] {
        if !range.contains(&value) {
            let expected = format!("{} to {}", range.start(), range.end());
            return Err(TrainError::no(key, value, &expected));
        }
    }
    unused(&distill)?;
    if distill.learn == Learn::Answers {
        let config = sft::resolved(config)?;
        if distill.from == From::Samples {
            RejectionConfig::parse(&settings(&config)?.sample, &[])?;
        }
        return Ok(config);
    }
    if distill.from == From::Samples {
        return Err(TrainError::no("distill.learn", "text", "answers: samples are answers"));
    }
    if config.tokenizer.as_os_str().is_empty() {
        config.tokenizer = config.model.init.clone().unwrap_or(distill.teacher);
    }
    if config.data.packing == Packing::Cut {
        let expected = "whole: what the teacher said is known by document and place";
        return Err(TrainError::no("data.packing", "cut", expected));
    }
    if !config.data.document_mask {
        let expected = "true: the teacher reads each document alone";
        return Err(TrainError::no("data.document_mask", "false", expected));
    }
    let rows = config.batch.ramp.iter().find(|ramp| ramp.seq_len != config.batch.seq_len);
    match rows.filter(|_| config.data.long == Long::Split) {
        Some(ramp) => {
            let expected = "batch.seq_len: long documents are split where rows of that length end";
            Err(TrainError::no("batch.ramp.seq_len", ramp.seq_len, expected))
        }
        None => Ok(config),
    }
}

/// Refuses settings that are of no use to what is learnt from. One with its usual value says nothing untrue, and stands in
/// the settings that a run keeps.
fn unused(distill: &DistillConfig) -> Result<(), TrainError> {
    let usual = DistillConfig::USUAL;
    let of_logits = [
        ("distill.alpha", distill.alpha != usual.alpha),
        ("distill.temperature", distill.temperature != usual.temperature),
        ("distill.k", distill.k != usual.k),
        ("distill.rest", distill.rest != usual.rest),
        ("distill.live", distill.live != usual.live),
    ];
    let of_samples = [
        ("distill.sample", distill.sample.is_some()),
        ("distill.score", !distill.score.is_empty()),
    ];
    let (keys, of) = match distill.from {
        From::Logits => (&of_samples[..], "samples"),
        From::Samples => (&of_logits[..], "logits"),
    };
    match keys.iter().find(|(_, given)| *given) {
        Some((key, _)) => {
            Err(TrainError::no(key, "given", &format!("nothing, or distill.from = {of:?}")))
        }
        None => Ok(()),
    }
}

/// Runs to the last step, or until it is asked to stop.
///
/// Errors: those of [`pretrain`]; what the teacher said cannot be read.
pub fn distill(run: &mut Trainer<'_>) -> Result<(), TrainError> {
    pretrain(run)
}

/// The parts of the loss, in nats a token that counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learnt {
    /// The cross-entropy of the targets.
    pub ce: f64,
    /// The divergence from the teacher, at the temperature.
    pub kl: f64,
}

/// Sums over tokens that count, row by row: the same however rows are cut into micro-batches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    ce: f64,
    kl: f64,
    weight: f64,
}

impl Sums {
    fn add_rows(&mut self, taught: &ops::Taught, micro: &Micro<'_>) {
        let rows = |of: &'_ [f32]| -> Vec<f64> {
            let rows = of.chunks(micro.seq_len).zip(micro.weights.chunks(micro.seq_len));
            let row = |(x, w): (&[f32], &[f32])| -> f64 {
                x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
            };
            rows.map(row).collect()
        };
        let weights = micro.weights.chunks(micro.seq_len);
        for ((ce, kl), weights) in rows(&taught.nats_t).iter().zip(rows(&taught.kl_t)).zip(weights)
        {
            self.ce += ce;
            self.kl += kl;
            self.weight += weights.iter().map(|w| f64::from(*w)).sum::<f64>();
        }
    }

    /// The parts of the loss.
    pub fn learnt(&self) -> Learnt {
        Learnt { ce: self.ce / self.weight, kl: self.kl / self.weight }
    }

    /// Nats a token.
    pub fn loss(&self, config: &DistillConfig) -> f64 {
        let Learnt { ce, kl } = self.learnt();
        config.loss(ce, kl)
    }

    fn measured(&self, config: &DistillConfig, bytes: u64) -> Measured {
        Measured { loss: self.loss(config), bpb: bits_per_byte(self.ce, bytes) }
    }
}

/// What a teacher says of places, as the loss takes it.
struct Lists {
    ids: Vec<u32>,
    probs: Vec<f32>,
    rest: Vec<f32>,
}

impl Lists {
    fn of(config: &DistillConfig, said: Likeliest) -> Lists {
        let k = config.k;
        let (mut probs, mut rest) = (Vec::with_capacity(said.ids.len()), Vec::new());
        for log_probs in said.log_probs.chunks_exact(k) {
            let sum: f64 = log_probs.iter().map(|log_prob| f64::from(*log_prob).exp()).sum();
            let (scale, left) = match config.rest {
                Rest::Bucket => (1.0, (1.0 - sum).max(0.0)),
                Rest::Drop => (1.0 / sum, 0.0),
            };
            probs.extend(log_probs.iter().map(|l| (f64::from(*l).exp() * scale) as f32));
            rest.push(left as f32);
        }
        Lists { ids: said.ids, probs, rest }
    }

    fn borrow(&self, config: &DistillConfig) -> ops::Teacher<'_> {
        let (alpha, temperature) = (config.alpha as f32, config.temperature as f32);
        ops::Teacher { ids: &self.ids, probs: &self.probs, rest: &self.rest, alpha, temperature }
    }
}

fn hidden(model: &Llama, micro: &Micro<'_>) -> Tensor {
    let config = model.config();
    let documents =
        Arc::new(Documents::new(micro.documents.to_vec(), config.kv_heads, config.head_dim));
    model.forward_documents(micro.tokens, micro.positions, &documents)
}

/// What a teacher says of each place of some rows that counts, at a temperature: its `k` likeliest ids, ascending, and their
/// log-probabilities. Of other places nothing is said. Nothing may be recorded meanwhile.
pub fn says(teacher: &Llama, micro: &Micro<'_>, k: usize, temperature: f64) -> Likeliest {
    let mut said = silence(micro.tokens.len(), k);
    let counts: Vec<usize> = (0..micro.tokens.len()).filter(|t| micro.weights[*t] != 0.0).collect();
    if counts.is_empty() {
        return said;
    }
    let found = teacher.likeliest(&hidden(teacher, micro).select(&counts), k, temperature as f32);
    for (i, t) in counts.into_iter().enumerate() {
        said.ids[t * k..(t + 1) * k].copy_from_slice(&found.ids[i * k..(i + 1) * k]);
        said.log_probs[t * k..(t + 1) * k].copy_from_slice(&found.log_probs[i * k..(i + 1) * k]);
    }
    said
}

/// Lists of which none counts.
pub(crate) fn silence(places: usize, k: usize) -> Likeliest {
    let ids = (0..places).flat_map(|_| 0..k as u32).collect();
    Likeliest { ids, log_probs: vec![0.0; places * k] }
}

/// Adds the gradient of the loss of `micro`, scaled by `scale` (1 over the weights of the whole batch), to the sums of
/// the model's parameters, and what is lost to `sums`. `said` is that of [`says`] of the same rows.
///
/// The order of additions depends on rows alone: rows in one call or in several give the same bits.
pub fn accumulate(
    model: &Llama,
    tape: &Tape,
    micro: &Micro<'_>,
    said: Likeliest,
    config: &DistillConfig,
    scale: f32,
    sums: &mut Sums,
) {
    tape.begin(blocks_of(micro.tokens.len() / micro.seq_len, micro.seq_len));
    let taught = taught(model, micro, said, config, scale);
    sums.add_rows(&taught, micro);
    taught.backward();
}

fn taught(
    model: &Llama,
    micro: &Micro<'_>,
    said: Likeliest,
    config: &DistillConfig,
    scale: f32,
) -> ops::Taught {
    let x_td = hidden(model, micro);
    let targets = Targets { ids: micro.targets, weights: micro.weights, scale, z_loss: 0.0 };
    model.taught(&x_td, &targets, &Lists::of(config, said).borrow(config))
}

/// The loss of a run, and who teaches.
pub(crate) struct Distill {
    pub config: DistillConfig,
    teacher: Teacher,
    /// What was kept of the batch at hand.
    kept: Option<Likeliest>,
}

impl Distill {
    /// That of a run that has one.
    ///
    /// Errors: those of [`Teacher::open`].
    pub fn open(
        ask: &Ask<'_>,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<Option<Distill>, TrainError> {
        let Some(config) = ask.config.distill.clone() else { return Ok(None) };
        let teacher = Teacher::open(ask, &config, watch)?;
        Ok(Some(Distill { config, teacher, kept: None }))
    }

    /// Reads what was kept of a batch.
    ///
    /// Errors: the disk.
    pub fn prepare(&mut self, batch: &Batch) -> Result<(), TrainError> {
        self.kept = self.teacher.kept(Side::Train, batch)?;
        Ok(())
    }

    /// Sums the gradient of a batch, `rows` rows at a time.
    pub fn gradient(&self, run: &Trainer<'_>, batch: &Batch, packed: &Packed, rows: usize) -> Sums {
        let weights: f64 = batch.weight_t.iter().map(|w| f64::from(*w)).sum();
        let scale = (1.0 / weights) as f32;
        let mut sums = Sums::default();
        for first in (0..batch.rows).step_by(rows) {
            let part = packed.rows(batch, first, rows.min(batch.rows - first));
            let micro = part.borrow();
            let said = match &self.kept {
                Some(kept) => {
                    let at = part.at.start * self.config.k..part.at.end * self.config.k;
                    let (ids, log_probs) = (&kept.ids[at.clone()], &kept.log_probs[at]);
                    Likeliest { ids: ids.to_vec(), log_probs: log_probs.to_vec() }
                }
                None => self.teacher.says(&micro, &self.config),
            };
            accumulate(&run.model, &run.tape, &micro, said, &self.config, scale, &mut sums);
        }
        sums
    }

    /// The line of what is held out; `None` if nothing is. Bits a byte are those of the targets.
    pub fn measure(&self, run: &Trainer<'_>) -> Result<Option<Line>, TrainError> {
        let held = run.held_out()?;
        let (mut all, mut bytes_in_all) = (Sums::default(), 0);
        let mut by_source = BTreeMap::new();
        for source in held.sources() {
            let (mut sums, bytes) = (Sums::default(), held.bytes(source)?);
            for batch in held.batches(source) {
                let batch = batch?;
                let packed = Packed::of(&batch, true);
                let rows = packed.rows(&batch, 0, batch.rows);
                let micro = rows.borrow();
                let said = match self.teacher.kept(Side::Validation, &batch)? {
                    Some(kept) => kept,
                    None => self.teacher.says(&micro, &self.config),
                };
                let taught = taught(&run.model, &micro, said, &self.config, 0.0);
                sums.add_rows(&taught, &micro);
            }
            if sums.weight > 0.0 && bytes > 0 {
                let name = run.corpus().sources()[source].name.clone();
                by_source.insert(name, sums.measured(&self.config, bytes));
                bytes_in_all += bytes;
                all.ce += sums.ce;
                all.kl += sums.kl;
                all.weight += sums.weight;
            }
        }
        if by_source.is_empty() {
            return Ok(None);
        }
        let Measured { loss, bpb } = all.measured(&self.config, bytes_in_all);
        let (step, bpb, taught) = (run.step(), Some(bpb), Some(all.learnt()));
        Ok(Some(Line::Validation { step, loss, bpb, by_source, preferences: None, taught }))
    }
}

/// How many of the targets of each document a teacher is asked of, under the settings of a run.
pub(crate) fn asked(
    config: &RunConfig,
    corpus: &Corpus,
    side: Side,
    source: usize,
    seq_len: usize,
    ends: u64,
) -> Result<Vec<u64>, TrainError> {
    let documents = side.of(corpus, source);
    let weighted = config.chat.is_some();
    let mut weights = Vec::new();
    let of = |document: u64| -> Result<u64, TrainError> {
        let all = (documents.tokens(document) as u64 + ends).saturating_sub(1);
        let seq_len = seq_len as u64;
        let read = match config.data.long {
            Long::Split => all,
            Long::Shorten => all.min(seq_len),
            Long::Drop | Long::Refuse if all > seq_len => 0,
            Long::Drop | Long::Refuse => all,
        };
        if !weighted || read == 0 {
            return Ok(read);
        }
        weights.resize(read as usize, 0.0);
        documents.weights(document, 1..read as usize + 1, &mut weights)?;
        Ok(weights.iter().filter(|w| **w != 0.0).count() as u64)
    };
    (0..documents.counts().documents).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use herd_data::dialogue::Shape;

    fn parse(text: &str) -> Result<RunConfig, TrainError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, format!("data.input = [\"a\"]\n{text}")).unwrap();
        read(&path, &[])
    }

    fn error(text: &str) -> String {
        match parse(text).unwrap_err() {
            TrainError::InFile { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }

    const ANSWERS: &str = "distill.teacher = \"t\"\nmodel.init = \"m\"\n";
    const TEXT: &str = "distill.teacher = \"t\"\ndistill.learn = \"text\"\n";

    #[test]
    fn answers_are_read_as_by_sft_and_texts_whole_with_the_teachers_words() {
        let config = parse(ANSWERS).unwrap();
        assert_eq!((config.optim.lr, config.data.long), (1e-5, Long::Refuse));
        assert!(config.chat.is_some() && config.tokenizer.ends_with("m"));
        let config = parse(TEXT).unwrap();
        assert_eq!((config.data.packing, config.data.long), (Packing::Whole, Long::Split));
        assert!(config.chat.is_none() && config.tokenizer.ends_with("t"));
        assert_eq!(RunConfig { chat: None, ..config.clone() }, config);
    }

    #[test]
    fn settings_that_teach_nothing_are_named() {
        for (text, told) in [
            ("model.init = \"m\"", "distill.teacher"),
            ("distill.teacher = \"t\"", "model.init"),
            (&format!("{ANSWERS}distill.alpha = 2"), "distill.alpha"),
            (&format!("{ANSWERS}distill.temperature = 0"), "distill.temperature"),
            (&format!("{ANSWERS}distill.k = 0"), "distill.k"),
            (&format!("{ANSWERS}distill.rest = \"keep\""), "bucket"),
            (&format!("{ANSWERS}distill.sample.k = 3"), "distill.sample"),
            (&format!("{ANSWERS}distill.from = \"samples\"\ndistill.sample.k = 0"), "sample.k"),
            (&format!("{TEXT}distill.from = \"samples\""), "distill.learn"),
            (&format!("{TEXT}data.packing = \"cut\""), "data.packing"),
            (&format!("{TEXT}data.document_mask = false"), "data.document_mask"),
            (&format!("{TEXT}chat.template = \"llama3\""), "chat"),
            (
                &format!("{TEXT}batch.ramp = [{{ from_tokens = 9, tokens = 64, seq_len = 32 }}]"),
                "batch.ramp",
            ),
        ] {
            // Causes may say it.
            let (said, error) = (error(text), parse(text).unwrap_err());
            let mut all = said;
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                all += &error.to_string();
                cause = error.source();
            }
            assert!(all.contains(told), "{text}: {all}");
        }
        let misspelt = parse(&format!("{ANSWERS}distill.temprature = 2")).unwrap_err();
        assert_eq!(misspelt.hint().as_deref(), Some("did you mean distill.temperature?"));
    }

    #[test]
    fn settings_from_samples_are_read_by_the_verbs_that_they_are_for() {
        let text = format!(
            "{ANSWERS}distill.from = \"samples\"\nchat.shape = \"messages\"\n\
             distill.sample = {{ temperature = 0.5 }}\n\
             distill.score = [{{ kind = \"reward\", model = \"r\" }}]\n"
        );
        let of = settings(&parse(&text).unwrap()).unwrap();
        let asked = RejectionConfig::parse(&of.sample, &[]).unwrap();
        assert_eq!((asked.sample.k, asked.chat.shape), (16, Some(Shape::Messages)));
        assert!(of.sample.contains("/r\"") && asked.sample.policies[0].is_absolute());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sft.toml");
        std::fs::write(&path, &of.sft).unwrap();
        let student = sft::read(&path, &[]).unwrap();
        assert!(student.distill.is_none() && student.data.input[0].ends_with("samples.best.jsonl"));
    }

    #[test]
    fn what_lists_leave_over_is_a_bucket_or_nothing() {
        let said = || Likeliest {
            ids: vec![0, 1, 0, 1],
            log_probs: [0.5f32, 0.25, 0.6, 0.4].map(f32::ln).to_vec(),
        };
        let of = |rest| Lists::of(&DistillConfig { k: 2, rest, ..DistillConfig::USUAL }, said());
        let (bucket, drop) = (of(Rest::Bucket), of(Rest::Drop));
        assert!((bucket.rest[0] - 0.25).abs() < 1e-6 && bucket.rest[1] < 1e-6);
        assert!((bucket.probs[0] - 0.5).abs() < 1e-6 && (drop.probs[0] - 2.0 / 3.0).abs() < 1e-6);
        assert_eq!(drop.rest, [0.0, 0.0]);
    }
}
