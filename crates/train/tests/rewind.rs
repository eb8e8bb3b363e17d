//! A loss or a gradient that is no number ends a run, or takes it back to its last checkpoint, as its
//! config says; what was on the disk stays whole, and kills change no byte.

#![allow(clippy::unwrap_used)] // helpers of tests too

use herd_codec::{SpecialTable, Tokenizer};
use herd_data::disk::RealDisk;
use herd_data::read::Sources;
use herd_data::{Ends, TokenizeOptions, tokenize};
use herd_model::GenerationDefaults;
use herd_tensor::{Class, Device};
use herd_train::runs::Run;
use herd_train::spikes::Leapt;
use herd_train::{Inputs, RunConfig, TrainError, Trainer, Words};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const SETTINGS: &str = r#"
tokenizer = "words"
data.input = ["docs.jsonl"]
model = { layers = 1, width = 16, heads = 2, kv_heads = 1, ffn_width = 32 }
batch = { tokens = 64, seq_len = 32, micro_tokens = 32 }
optim = { steps = 9, warmup_steps = 2 }
checkpoint = { every = 3, keep_last = 2, keep_every = 0 }
validation.every = 4
samples.every = 0
"#;

/// Texts, their shards, and runs beside them.
struct Place {
    folder: tempfile::TempDir,
    words: Words,
}

/// What happens to a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    /// Its loss is no number.
    Loss,
    /// Its gradient is no number.
    Gradient,
    /// It is never seen.
    Skipped,
}

impl Place {
    fn new() -> Place {
        let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizer");
        let ranks = fs::read(testdata.join("small.tiktoken")).unwrap();
        let tokenizer = Tokenizer::from_tiktoken(&ranks, SpecialTable::Llama31).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(testdata.join("train.txt")).unwrap();
        let lines = text.lines().collect::<Vec<_>>();
        let documents = lines.chunks(8).take(80).map(|part| part.join("\n"));
        let documents = documents.map(|text| serde_json::json!({ "text": text }).to_string());
        let path = folder.path().join("docs.jsonl");
        fs::write(&path, documents.collect::<Vec<_>>().join("\n")).unwrap();
        let sources = Sources::find(&[path.to_str().unwrap().to_owned()]).unwrap();
        let options = TokenizeOptions { validation: 0.2, ..TokenizeOptions::new(1) };
        let shards = folder.path().join("shards");
        tokenize(&tokenizer, &sources, &options, &shards, &RealDisk, &mut |_| {}).unwrap();
        let ends = Ends { bos: tokenizer.specials().bos.map(|id| id.0), eos: None };
        let (tokenizer, generation) = (Arc::new(tokenizer), GenerationDefaults::default());
        Place { folder, words: Words { tokenizer, files: vec![], generation, ends, chat: None } }
    }

    fn path(&self, out: &str) -> PathBuf {
        self.folder.path().join(out)
    }

    /// A loop like that of `pretrain`, in which batches are harmed by their place in the data. It is
    /// left after `batches` batches, as a kill would leave it; whether it came to its end before.
    fn train(
        &self,
        out: &str,
        policy: &str,
        harms: &[(u64, Harm)],
        batches: usize,
    ) -> Result<bool, TrainError> {
        let config = RunConfig::parse(&format!("{SETTINGS}\nspikes = {{ {policy} }}"), &[])?;
        let (device, stop) = (Device::cpu(Class::best(), 1), AtomicBool::new(false));
        let (out, shards) = (self.path(out), self.path("shards"));
        let (words, stage) = (self.words.clone(), "pretrain");
        let inputs = Inputs {
            stage,
            config,
            words,
            out: &out,
            shards: &shards,
            rewards: Vec::new(),
            device: &device,
            stop: &stop,
        };
        let mut watch = |_: herd_train::Event<'_>| ();
        let mut run = Trainer::open(inputs, &mut watch)?;
        // A run that is taken up goes on behind the batches that its checkpoint has seen.
        for place in (self.batches_seen(&out)..).take(batches) {
            if !run.goes_on() {
                return Ok(true);
            }
            let batch = run.next_batch()?.unwrap();
            let harm = harms.iter().find(|harm| harm.0 == place).map(|harm| harm.1);
            if harm == Some(Harm::Skipped) {
                continue;
            }
            let mut gradient = run.gradient(&batch);
            match harm {
                Some(Harm::Loss) => gradient.loss = f64::NAN,
                Some(Harm::Gradient) => gradient.norm = f64::INFINITY,
                Some(Harm::Skipped) | None => {}
            }
            if let Some(spike) = run.judge(&gradient)
                && !run.answer(spike, &batch)?
            {
                continue;
            }
            run.update(&gradient, &batch)?;
            run.validate_when_due()?;
            run.save_when_due()?;
        }
        Ok(false)
    }

    /// The batches that the last checkpoint of a run has seen or left out.
    fn batches_seen(&self, out: &Path) -> u64 {
        let seen = |entry: std::io::Result<fs::DirEntry>| {
            let train = fs::read(entry.unwrap().path().join("state/train.json")).unwrap();
            let train: serde_json::Value = serde_json::from_slice(&train).unwrap();
            train["cursor"]["step"].as_u64().unwrap()
        };
        fs::read_dir(out.join("checkpoints")).unwrap().map(seen).max().unwrap_or(0)
    }

    /// All files of a run.
    fn files(&self, out: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.path(out)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(self.path(out)).unwrap().to_owned();
                    files.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        files
    }

    fn state(&self, out: &str, step: u64) -> Vec<u8> {
        let file = format!("checkpoints/step-{step}/state/optimizer.safetensors");
        fs::read(self.path(out).join(file)).unwrap()
    }
}

const REWIND: &str = "policy = \"rewind\", rewinds_max = 3";
const RECORD: &str = "policy = \"record\"";

/// Batch 5 after a checkpoint, batch 7 after the same one, which is taken up twice; batch 11.
const HARMS: [(u64, Harm); 3] = [(5, Harm::Loss), (7, Harm::Gradient), (11, Harm::Loss)];

#[test]
fn a_run_goes_back_to_its_checkpoint_and_leaves_out_the_batches_since() {
    let place = Place::new();
    assert!(place.train("rewound", REWIND, &HARMS, 99).unwrap());
    // Steps 1 to 3 are those of batches 0 to 2; 4 to 6 of 8 to 10, where the next checkpoint is.
    let skipped = [3, 4, 5, 6, 7, 11].map(|place| (place, Harm::Skipped));
    assert!(place.train("skipped", REWIND, &skipped, 99).unwrap());
    assert!(place.state("rewound", 9) == place.state("skipped", 9), "the same weights and moments");
    let run = Run::open(place.path("rewound")).unwrap();
    let steps = run.steps.iter().map(|step| step.step);
    assert!(steps.eq(1..=9), "each step stands once");
    assert_eq!(run.steps, Run::open(place.path("skipped")).unwrap().steps);
    let told = |spike: &herd_train::runs::Spike| (spike.step, spike.what, spike.action.clone());
    let rewound = |to: u64| format!("rewound to {to}");
    let want = [
        (6, Leapt::Loss, rewound(3)),
        (5, Leapt::Gradient, rewound(3)),
        (7, Leapt::Loss, rewound(6)),
    ];
    assert_eq!(run.spikes.iter().map(told).collect::<Vec<_>>(), want);
    assert!(run.spikes.iter().all(|spike| spike.rows.iter().any(|row| row.contains("docs"))));
    let lines = fs::read_to_string(place.path("rewound/metrics.jsonl")).unwrap();
    let made = lines.lines().filter(|line| line.contains("\"kind\":\"step\"")).count();
    assert_eq!(made, 9 + 2 + 1, "what was made and taken back is still told");
}

#[test]
fn a_rewound_run_that_was_killed_anywhere_ends_with_the_same_bytes() {
    let place = Place::new();
    assert!(place.train("whole", REWIND, &HARMS, 99).unwrap());
    let whole = place.files("whole");
    for batches in 0..15 {
        assert!(!place.train("killed", REWIND, &HARMS, batches).unwrap());
        place.train("killed", REWIND, &HARMS, 2).unwrap();
        assert!(place.train("killed", REWIND, &HARMS, 99).unwrap());
        assert!(place.files("killed") == whole, "killed after {batches} batches");
        fs::remove_dir_all(place.path("killed")).unwrap();
    }
}

#[test]
fn without_a_checkpoint_a_run_goes_back_to_its_first_weights() {
    let place = Place::new();
    assert!(place.train("rewound", REWIND, &[(1, Harm::Gradient)], 99).unwrap());
    assert!(place.train("skipped", REWIND, &[0, 1].map(|i| (i, Harm::Skipped)), 99).unwrap());
    assert!(place.state("rewound", 9) == place.state("skipped", 9));
}

#[test]
fn a_run_that_goes_back_too_often_ends_and_says_so() {
    let place = Place::new();
    let once = "policy = \"rewind\", rewinds_max = 1";
    let error = place.train("a", once, &HARMS, 99).unwrap_err();
    let told = error.to_string();
    assert!(matches!(error, TrainError::Spikes { step: 5, rewinds: 1, .. }), "{told}");
    assert!(told.contains("the gradient's norm is inf after 1 rewinds"), "{told}");
    let last = Run::open(place.path("a")).unwrap().spikes.pop().unwrap();
    assert_eq!((last.step, last.action.as_str()), (5, "ended the run"));
}

#[test]
fn a_run_that_records_ends_at_what_is_no_number_and_loses_nothing() {
    let place = Place::new();
    assert!(place.train("whole", RECORD, &[], 99).unwrap());
    for (harm, what, leapt) in
        [(Harm::Loss, "loss", Leapt::Loss), (Harm::Gradient, "gradient's norm", Leapt::Gradient)]
    {
        let error = place.train("ended", RECORD, &[(4, harm)], 99).unwrap_err();
        let told = error.to_string();
        assert!(matches!(error, TrainError::NotFinite { step: 5, .. }), "{told}");
        assert!(told.contains(&format!("the {what} is ")) && error.hint().is_some(), "{told}");
        let run = Run::open(place.path("ended")).unwrap();
        assert_eq!(run.steps.len(), 4);
        let [spike] = run.spikes.as_slice() else { panic!("{:?}", run.spikes) };
        assert_eq!((spike.step, spike.what, spike.action.as_str()), (5, leapt, "ended the run"));
        // It ends so again, for as long as the batch is bad, and goes on when it is not.
        let ended = place.files("ended");
        place.train("ended", RECORD, &[(4, harm)], 99).unwrap_err();
        assert!(place.files("ended") == ended);
        assert!(place.train("ended", RECORD, &[], 99).unwrap());
        assert!(place.files("ended") == place.files("whole"));
        fs::remove_dir_all(place.path("ended")).unwrap();
    }
}
