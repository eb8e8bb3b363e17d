//! `herd round`: preferences, reward model, samples, fine-tuning, preferences learnt, averages, and a gate; again and again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use herd_data::Hash;
use herd_data::disk::make_folder;
use herd_model::Checkpoint;
use herd_train::rejection::{answered, asked, hash_input};
use herd_train::round::{
    Beginning, By, Pair, Quality, RoundConfig, Settings, Shown, Verdict as Ended, Vote, compared,
    judge, pairs, passes, preferences, rows, seed, simulated,
};
use herd_train::{TrainError, Words, keep_settings, weights_hash};

use crate::about::About;
use crate::commands::sample::spoken;
use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::flags;
use crate::training::{self, pair};
use crate::verbs::{self, Verb, load, save, write};

/// Flags of `herd round`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// The settings, in TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The folder of all rounds; the same command takes up what it finds there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// So many rounds, whatever FILE says
    #[arg(long, value_name = "N", value_parser = flags::range(1, 1000))]
    rounds: Option<usize>,
    /// Override a setting: `--set gate.k=8`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
}

/// Goes through the rounds; the answer is no where none of them passed its gate.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let config = RoundConfig::read(&flags.config, &flags.set)?;
    let rounds = flags.rounds.map_or(config.rounds, |rounds| rounds as u64);
    make_folder(&flags.out).map_err(Error::io("make", &flags.out))?;
    let machine = verbs::machine(flags.threads, flags.class.as_deref());
    let mut walk = Walk { config, out: &flags.out, machine, console, policy: None, previous: None };
    walk.expect_apart()?;
    walk.keep_origin()?;
    let mut ended: Vec<Ended> = Vec::new();
    // Rounds that stand there are told as well where fewer are asked for.
    loop {
        let round = ended.len() as u64 + 1;
        if round > rounds && !walk.file(round).is_file() {
            break;
        }
        let Some(verdict) = walk.round(round)? else {
            console.note("stopped; the same command goes on");
            return Ok(Verdict::Done);
        };
        console.note(line(&verdict));
        ended.push(verdict);
        if !walk.file(round + 1).is_file() {
            save(&flags.out.join("rounds.json"), &ended)?;
            write(&flags.out.join("report.md"), report(&ended).as_bytes())?;
        }
    }
    if console.json {
        console.print_json(&ended)?;
    } else {
        let policy = walk.policy_path();
        console.note(format!("the policy stands in {}", policy.display()));
    }
    Ok(if ended.iter().any(|verdict| verdict.passed) { Verdict::Done } else { Verdict::No })
}

struct Walk<'a> {
    config: RoundConfig,
    out: &'a Path,
    machine: Vec<String>,
    console: &'a Console,
    /// The rounds whose policies go on: the last, and the one before it. `None`: the first policy of all.
    policy: Option<u64>,
    previous: Option<Option<u64>>,
}

impl Walk<'_> {
    /// A policy, as the settings of a round name it.
    fn named(&self, round: Option<u64>) -> String {
        match round {
            Some(round) => format!("../../round-{round}/average"),
            None => self.config.policy.display().to_string(),
        }
    }

    fn policy_path(&self) -> PathBuf {
        match self.policy {
            Some(round) => self.out.join(format!("round-{round}/average")),
            None => self.config.policy.clone(),
        }
    }

    /// How a round ended, once it has.
    fn file(&self, round: u64) -> PathBuf {
        self.out.join(format!("round-{round}/round.json"))
    }

    /// Keeps what rounds are made of: the settings, and the hashes of what these name. Once the first has an answer they must be
    /// the same.
    ///
    /// Errors: they are not; a file or a checkpoint cannot be read.
    fn keep_origin(&self) -> Result<(), Error> {
        // More rounds may be asked for later: how many is no setting of theirs.
        let text = self.config.write();
        let kept = text.lines().filter(|line| !line.starts_with("rounds = "));
        let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
        let answers = fs::metadata(self.out.join("round-1/collect.jsonl"));
        let made = answers.is_ok_and(|file| file.len() > 0);
        for (name, text) in [("config.toml", kept), ("origin.toml", origin(&self.config)?)] {
            let path = self.out.join(name);
            match made {
                true => keep_settings(&path, &text, self.out)?,
                false => write(&path, text.as_bytes())?,
            }
        }
        Ok(())
    }

    /// Errors: a prompt that decides is one of those that are learnt from.
    fn expect_apart(&self) -> Result<(), Error> {
        let RoundConfig { prompts, held, dialogues, chat, .. } = &self.config;
        let held = asked(held, chat)?;
        for (name, learnt) in
            [("prompts", asked(prompts, chat)?), ("dialogues", answered(dialogues, chat)?)]
        {
            let both = held.intersection(&learnt).count();
            if both > 0 {
                let value = format!("{both} prompts that stand in `{name}` too");
                let expected = "prompts that nothing learns from".to_owned();
                return Err(TrainError::Value { key: "held".into(), value, expected }.into());
            }
        }
        Ok(())
    }

    /// Does a round, or finds it done; `None` if it was asked to stop.
    fn round(&mut self, round: u64) -> Result<Option<Ended>, Error> {
        let folder = self.out.join(format!("round-{round}"));
        let file = self.file(round);
        let verdict = match load(&file)? {
            Some(verdict) => verdict,
            None => {
                self.console.note(format!("round {round}"));
                let begin = Beginning {
                    round,
                    policy: self.named(self.policy),
                    previous: self.previous.map(|previous| self.named(previous)),
                };
                let Some(verdict) = self.go(&begin, &folder)? else { return Ok(None) };
                save(&file, &verdict)?;
                verdict
            }
        };
        if verdict.passed {
            (self.previous, self.policy) = (Some(self.policy), Some(round));
        }
        Ok(Some(verdict))
    }

    fn go(&self, begin: &Beginning, folder: &Path) -> Result<Option<Ended>, Error> {
        let of = Settings::of(&self.config, begin);
        for (name, text) in [
            ("collect", &of.collect),
            ("reward", &of.reward),
            ("sample", &of.sample),
            ("sft", &of.sft),
            ("dpo", &of.dpo),
            ("gate", &of.gate),
        ] {
            write(&folder.join(format!("configs/{name}.toml")), text.as_bytes())?;
        }
        let verb = |verb: &str, name: &str, out: &str, makes: &str| {
            let config = folder.join(format!("configs/{name}.toml"));
            Verb::with_settings(verb, &config, &folder.join(out), folder.join(makes))
        };
        let pass = |verb: Verb| verb.run(&self.machine, self.console);
        if !pass(verb("sample", "collect", "collect.jsonl", "collect.pairs.jsonl"))? {
            return Ok(None);
        }
        let Some((annotators, pairs, preferences)) = self.judged(begin.round, folder)? else {
            return Ok(None);
        };
        let samples = format!("samples-{}", begin.round);
        let mut average = vec!["average".to_owned()];
        average.extend(of.averaged.iter().map(|path| folder.join(path).display().to_string()));
        average.extend(["--out".to_owned(), folder.join("average").display().to_string()]);
        for stage in [
            verb("reward", "reward", "reward", &of.reward_model),
            verb(
                "sample",
                "sample",
                &format!("{samples}.jsonl"),
                &format!("{samples}.pairs.jsonl"),
            ),
            verb("sft", "sft", "sft", &of.tuned),
            verb("dpo", "dpo", "dpo", of.averaged.last().expect("a run has a last checkpoint")),
            Verb::new(average, folder.join("average")),
            verb("sample", "gate", "gate.jsonl", "gate.pairs.jsonl"),
        ] {
            if !stage.run(&self.machine, self.console)? {
                return Ok(None);
            }
        }
        let answers = rows(&folder.join("gate.jsonl"))?;
        let (gate, [policy_before, policy_made]) = compared(&answers, &begin.policy, "../average")?;
        let passed = passes(&gate, self.config.gate.min_gain);
        let round = begin.round;
        Ok(Some(Ended {
            round,
            policy_before,
            policy_made,
            gate,
            passed,
            annotators,
            pairs,
            preferences,
        }))
    }

    /// Pairs to votes, votes to preferences; `None` where people have not voted yet.
    #[allow(clippy::type_complexity)] // it is taken apart at once
    fn judged(&self, round: u64, folder: &Path) -> Result<Option<(Vec<Quality>, u64, u64)>, Error> {
        let seed = seed(self.config.seed, round, "annotators");
        let answers = rows(&folder.join("collect.jsonl"))?;
        let pairs = pairs(&answers, &folder.join("collect.best.jsonl"), seed)?;
        let votes = folder.join("votes.jsonl");
        match self.config.collect.by {
            By::Scores => {
                let said = simulated(&self.config.collect, seed, &pairs);
                write(&votes, lines(&said).as_bytes())?;
            }
            By::People if !votes.is_file() => {
                let file = folder.join("pairs.jsonl");
                let shown: Vec<Shown<'_>> = pairs.iter().map(Pair::shown).collect();
                write(&file, lines(&shown).as_bytes())?;
                self.console.note(format!(
                    "judge {}: write {} with lines as {{\"pair\": 0, \"annotator\": \"NAME\", \"better\": 0}}, better 0 or 1",
                    file.display(),
                    votes.display()
                ));
                return Ok(None);
            }
            By::People => {}
        }
        let text = fs::read_to_string(&votes).map_err(Error::io("read", &votes))?;
        let vote = |(i, line): (usize, &str)| {
            let what = |e| format!("line {}: {e}", i + 1);
            serde_json::from_str(line)
                .map_err(|e| Error::Json { path: votes.clone(), what: what(e) })
        };
        let said: Vec<Vote> = text.lines().enumerate().map(vote).collect::<Result<_, _>>()?;
        let judged = judge(&pairs, &said)?;
        self.keep(&folder.join(preferences(round)), &lines(&judged.rows))?;
        for silent in judged.annotators.iter().filter(|a| !a.heard) {
            self.console.note(format!(
                "          {} is against the others ({} of {} votes agree) and is not heard",
                silent.annotator, silent.agreed, silent.compared
            ));
        }
        if judged.rows.is_empty() {
            let expected = "answers of different worth".to_owned();
            return Err(TrainError::Value {
                key: "the preferences".into(),
                value: "none".into(),
                expected,
            }
            .into());
        }
        Ok(Some((judged.annotators, pairs.len() as u64, judged.rows.len() as u64)))
    }

    /// Writes preferences, which stay what they are once something may have learnt from them.
    fn keep(&self, path: &Path, text: &str) -> Result<(), Error> {
        match fs::read_to_string(path) {
            Ok(was) if was != text => {
                let value = "other votes than those that the round began with".to_owned();
                let expected = format!("the same votes, or no {}", path.display());
                Err(TrainError::Value { key: "votes.jsonl".into(), value, expected }.into())
            }
            Ok(_) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => write(path, text.as_bytes()),
            Err(e) => Err(Error::io("read", path)(e)),
        }
    }
}

/// The hashes of what the settings name, by their keys. Judges whose paths lead from a round's folder are made there.
fn origin(config: &RoundConfig) -> Result<String, Error> {
    let RoundConfig { policy, base, prompts, held, dialogues, chat, collect, gate, .. } = config;
    let words = training::words(&config.tokenizer)?.manners();
    let mut hashes = BTreeMap::from([("words of tokenizer".to_owned(), words)]);
    for (key, path) in [("policy", policy), ("base", base)] {
        let checkpoint = Checkpoint::open(path)?;
        let chat = Some(spoken(&About::read(&checkpoint)?, chat)?);
        let words = Words { chat, ..training::words(path)? }.manners();
        hashes.insert(format!("weights of {key}"), weights_hash(&checkpoint)?);
        hashes.insert(format!("words of {key}"), words);
    }
    for (key, paths) in [("prompts", prompts), ("held", held), ("dialogues", dialogues)] {
        if !paths.is_empty() {
            hashes.insert(format!("files of {key}"), hash_input(paths)?);
        }
    }
    let judges = collect.score.iter().chain(&gate.score).filter_map(|score| score.judge.model());
    for path in judges.filter(|path| path.is_absolute()) {
        let weights = weights_hash(&Checkpoint::open_any(path)?)?;
        hashes.insert(format!("weights of {}", path.display()), weights);
    }
    let line = |(key, hash): (String, Hash)| format!("{key:?} = \"{hash}\"\n");
    Ok(hashes.into_iter().map(line).collect())
}

fn lines(of: &[impl serde::Serialize]) -> String {
    let line =
        |value| format!("{}\n", serde_json::to_string(value).expect("numbers and texts serialise"));
    of.iter().map(line).collect()
}

fn line(ended: &Ended) -> String {
    let Ended { round, gate, passed, .. } = ended;
    let word = if *passed { "goes on" } else { "is stopped: the old policy stays" };
    format!(
        "round {round}: {:.3} on held prompts, {:.3} before ({:+.3} to {:+.3}); it {word}",
        gate.after, gate.before, gate.low, gate.high
    )
}

fn report(ended: &[Ended]) -> String {
    let mut page = String::from(
        "# Rounds\n\nScores of answers to held prompts, of the policy that a round began with and of the one that it made.\n\n\
         | round | before | after | 95 % interval of the change | goes on | pairs | preferences | not heard |\n|---|---|---|---|---|---|---|---|\n",
    );
    for e in ended {
        let silent: Vec<&str> =
            e.annotators.iter().filter(|a| !a.heard).map(|a| a.annotator.as_str()).collect();
        let (g, yes) = (&e.gate, if e.passed { "yes" } else { "no" });
        page += &format!(
            "| {} | {:.3} | {:.3} | {:+.3} to {:+.3} | {yes} | {} | {} | {} |\n",
            e.round,
            g.before,
            g.after,
            g.low,
            g.high,
            e.pairs,
            e.preferences,
            silent.join(", ")
        );
    }
    page
}
