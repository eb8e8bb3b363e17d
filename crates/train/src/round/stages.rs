//! The settings of the runs of a round, as files that can be run by hand.

use crate::round::config::{By, RoundConfig, Start};
use herd_data::Hash;
use serde::Serialize;
use std::path::Path;
use toml::{Table, Value};

/// What a round begins with. Paths lead from the folder of its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Its number, from 1.
    pub round: u64,
    /// The policy.
    pub policy: String,
    /// The one before it, where there was one.
    pub previous: Option<String>,
}

/// The settings of the runs of a round, and where the trained ones end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Two answers to each prompt.
    pub collect: String,
    /// The reward model of all preferences so far.
    pub reward: String,
    /// K answers to each prompt, judged by it.
    pub sample: String,
    /// Fine-tuning on the best of all rounds so far.
    pub sft: String,
    /// This round's preferences.
    pub dpo: String,
    /// Held prompts, answered by the old policy and the new.
    pub gate: String,
    /// The folders of the last checkpoints, below that of the round.
    pub reward_model: String,
    /// As `reward_model`.
    pub tuned: String,
    /// Those whose mean is the new policy.
    pub averaged: Vec<String>,
}

impl Settings {
    /// Those of a round.
    pub fn of(config: &RoundConfig, begin: &Beginning) -> Settings {
        let of = Maker { config, begin };
        let (reward, steps, _) = of.trained("reward", of.reward());
        let reward_model = format!("reward/checkpoints/step-{steps}");
        let (sft, steps, _) = of.trained("sft", of.sft());
        let tuned = format!("sft/checkpoints/step-{steps}");
        let (dpo, steps, every) = of.trained("dpo", of.dpo(&tuned));
        let before = (steps - 1) / every * every; // the checkpoint before the last; 0: there is none
        let averaged = [before, steps].into_iter().filter(|step| *step > 0);
        let averaged = averaged.map(|step| format!("dpo/checkpoints/step-{step}")).collect();
        Settings {
            collect: of.write("collect", of.collect()),
            reward,
            sample: of.write("sample", of.sample(&reward_model)),
            sft,
            dpo,
            gate: of.write("gate", of.gate()),
            reward_model,
            tuned,
            averaged,
        }
    }
}

/// The seed of a part of a round.
pub fn seed(seed: u64, round: u64, part: &str) -> u64 {
    Hash::of(format!("{seed} {round} {part}").as_bytes()).word()
}

/// The preferences of a round, in its folder.
pub fn preferences(round: u64) -> String {
    format!("preferences-{round}.jsonl")
}

struct Maker<'a> {
    config: &'a RoundConfig,
    begin: &'a Beginning,
}

/// A table of keys and values.
fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}

fn value(of: &impl Serialize) -> Value {
    Value::try_from(of).expect("settings are values of TOML")
}

fn paths<'a>(of: impl IntoIterator<Item = &'a std::path::PathBuf>) -> Value {
    of.into_iter().map(|path| Value::from(text(path))).collect::<Vec<_>>().into()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Maker<'_> {
    /// Every stage draws its own numbers: answers that are collected are not those that are sampled.
    fn seed(&self, stage: &str) -> i64 {
        i64::from(seed(self.config.seed, self.begin.round, stage) as u32)
    }

    /// A file of every round up to this one. Its name has the round: sources are known by their names.
    fn all_rounds(&self, file: fn(u64) -> String) -> impl Iterator<Item = Value> {
        (1..=self.begin.round)
            .map(move |round| format!("../../round-{round}/{}", file(round)).into())
    }

    /// What the samples of a round have in common.
    fn asking(
        &self,
        stage: &str,
        input: &[std::path::PathBuf],
        policies: Vec<Value>,
        k: i64,
        temperature: f64,
    ) -> Table {
        let sample = table([
            ("k", k.into()),
            ("policies", policies.into()),
            ("share", "each".into()),
            ("temperature", temperature.into()),
            ("max_tokens", (self.config.collect.max_tokens as i64).into()),
            ("context", (self.config.collect.context as i64).into()),
            ("unfinished", value(&self.config.collect.unfinished)),
        ]);
        table([
            ("seed", self.seed(stage).into()),
            ("input", paths(input)),
            ("chat", value(&self.config.chat)),
            ("sample", sample.into()),
        ])
    }

    fn collect(&self) -> Table {
        let policies: Vec<Value> = [Some(&self.begin.policy), self.begin.previous.as_ref()]
            .into_iter()
            .flatten()
            .map(|p| p.as_str().into())
            .collect();
        let (config, k) = (&self.config.collect, if policies.len() == 1 { 2 } else { 1 });
        let mut table =
            self.asking("collect", &self.config.prompts, policies, k, config.temperature);
        if config.by == By::Scores {
            table.insert("score".to_owned(), value(&config.score));
        }
        table
    }

    fn sample(&self, reward_model: &str) -> Table {
        let policies = vec![self.begin.policy.as_str().into()];
        let mut of = self.asking("sample", &self.config.prompts, policies, 16, 1.0);
        of.insert("score".to_owned(), self.rewarded(reward_model));
        laid(of, &self.config.stages.sample)
    }

    fn gate(&self) -> Table {
        let gate = &self.config.gate;
        let policies = vec![self.begin.policy.as_str().into(), "../average".into()];
        let mut of =
            self.asking("gate", &self.config.held, policies, gate.k as i64, gate.temperature);
        let score = if gate.score.is_empty() { &self.config.collect.score } else { &gate.score };
        of.insert("score".to_owned(), value(score));
        of
    }

    fn rewarded(&self, reward_model: &str) -> Value {
        let judge =
            table([("kind", "reward".into()), ("model", format!("../{reward_model}").into())]);
        vec![Value::from(judge)].into()
    }

    /// What training in a round has in common.
    fn training(&self, stage: &str, init: String, input: Vec<Value>, steps: i64, lr: f64) -> Table {
        table([
            ("preset", "tiny".into()),
            ("seed", self.seed(stage).into()),
            ("tokenizer", text(&self.config.tokenizer).into()),
            ("model", table([("init", init.into())]).into()),
            ("chat", value(&self.config.chat)),
            ("data", table([("input", input.into()), ("validation_share", 0.1.into())]).into()),
            (
                "optim",
                table([
                    ("steps", steps.into()),
                    ("lr", lr.into()),
                    ("warmup_steps", (steps / 10).into()),
                ])
                .into(),
            ),
            ("samples", table([("every", 0.into())]).into()),
        ])
    }

    fn reward(&self) -> Table {
        let input = self.all_rounds(preferences).collect();
        self.training("reward", text(&self.config.base), input, 100, 1e-4)
    }

    fn sft(&self) -> Table {
        let init = match self.config.start {
            Start::Base => text(&self.config.base),
            Start::Policy => self.begin.policy.clone(),
        };
        let mut input: Vec<Value> =
            self.config.dialogues.iter().map(|path| text(path).into()).collect();
        input.extend(self.all_rounds(|round| format!("samples-{round}.best.jsonl")));
        self.training("sft", init, input, 200, 1e-3)
    }

    fn dpo(&self, tuned: &str) -> Table {
        let mut of = self.training(
            "dpo",
            format!("../{tuned}"),
            vec![format!("../{}", preferences(self.begin.round)).into()],
            40,
            5e-5,
        );
        of.insert("dpo".to_owned(), Table::new().into());
        of
    }

    /// The settings of a training stage with what the file lays over them, its steps, and the steps between its checkpoints.
    fn trained(&self, name: &str, base: Table) -> (String, u64, u64) {
        let over = match name {
            "reward" => &self.config.stages.reward,
            "sft" => &self.config.stages.sft,
            _ => &self.config.stages.dpo,
        };
        let mut of = laid(base, over);
        let number = |of: &Table, group: &str, key: &str| {
            of.get(group).and_then(|group| group.get(key)).and_then(Value::as_integer)
        };
        let steps = number(&of, "optim", "steps").unwrap_or(1).max(1);
        if number(&of, "checkpoint", "every").is_none() {
            let every = table([("every", (steps / 4).max(1).into()), ("keep_last", 4.into())]);
            of = laid(table([("checkpoint", every.into())]), &of);
        }
        let every = number(&of, "checkpoint", "every").unwrap_or(1).max(1);
        (self.write(name, of), steps as u64, every as u64)
    }

    fn write(&self, name: &str, of: Table) -> String {
        let text = toml::to_string(&of).expect("a table is TOML");
        format!("# {name} of round {}: written by `herd round`.\n{text}", self.begin.round)
    }
}

/// `over` laid on `base`, table by table.
fn laid(mut base: Table, over: &Table) -> Table {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Table(inner)), Value::Table(over)) => {
                *inner = laid(std::mem::take(inner), over)
            }
            (_, value) => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
    base
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rejection::RejectionConfig;

    fn config(more: &str) -> RoundConfig {
        let head = "tokenizer = \"/t\"\npolicy = \"/p\"\nbase = \"/b\"\nprompts = [\"/q\"]\nheld = [\"/h\"]\n\
                    [chat]\ntemplate = \"llama3\"\n[[collect.score]]\nkind = \"length\"\nwords = [1, 9]\n";
        RoundConfig::parse(&format!("{head}{more}"), &[]).unwrap()
    }

    #[test]
    fn every_stage_reads_the_settings_that_a_round_writes() {
        let config = config("[stages.dpo.optim]\nsteps = 10\n[stages.sample.sample]\nk = 3\n");
        let (policy, previous) = ("../../round-1/average".to_owned(), Some("/p".to_owned()));
        let of = Settings::of(&config, &Beginning { round: 2, policy, previous });
        for text in [&of.collect, &of.sample, &of.gate] {
            RejectionConfig::parse(text, &[]).unwrap_or_else(|e| panic!("{e}\n{text}"));
        }
        assert_eq!(RejectionConfig::parse(&of.sample, &[]).unwrap().sample.k, 3);
        assert_eq!(RejectionConfig::parse(&of.collect, &[]).unwrap().answers(), 2);
        assert!(of.sft.contains("../../round-1/samples-1.best.jsonl"));
        assert!(of.reward.contains("../../round-2/preferences-2.jsonl"));
        // Checkpoints at 2, 4, 6, 8 and 10.
        assert_eq!(of.averaged, ["dpo/checkpoints/step-8", "dpo/checkpoints/step-10"]);
    }

    #[test]
    fn no_two_stages_or_rounds_draw_the_same_numbers() {
        let mut seeds = Vec::new();
        for round in 1..=6 {
            let begin = Beginning { round, policy: "/p".into(), previous: None };
            let of = Settings::of(&config(""), &begin);
            for text in [of.collect, of.reward, of.sample, of.sft, of.dpo, of.gate] {
                seeds.push(text.parse::<Table>().unwrap()["seed"].as_integer().unwrap());
            }
        }
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 36);
    }
}
