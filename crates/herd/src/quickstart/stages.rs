//! The stages of the quickstart: what each runs, and what is measured after it.

use std::path::{Path, PathBuf};

use herd_train::config::{ModelConfig, RunConfig};
use herd_train::scaling::{self, Trial};

use super::folder::PAGE;
use crate::verbs::Verb;

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Size {
    /// Seconds: shows that it runs.
    Smoke,
    /// Some ten minutes on two cores.
    Small,
    /// Hours.
    Large,
}

impl Size {
    /// Its name, as the flag has it.
    pub fn name(self) -> &'static str {
        match self {
            Size::Smoke => "smoke",
            Size::Small => "small",
            Size::Large => "large",
        }
    }

    pub(super) fn numbers(self) -> Numbers {
        match self {
            Size::Smoke => Numbers {
                vocab: 512,
                widths: &[32, 64],
                layers: 2,
                width: 64,
                steps: 30,
                budgets: &[16.0, 8.0],
                context_steps: 4,
                anneal_steps: 8,
                sft_steps: 20,
                reward_steps: 10,
                k: 4,
                dpo_steps: 8,
                pieces: 24,
                questions: 24,
            },
            Size::Small => Numbers {
                vocab: 2048,
                widths: &[64, 96, 128],
                layers: 4,
                width: 128,
                steps: 1100,
                budgets: &[32.0, 16.0, 8.0],
                context_steps: 60,
                anneal_steps: 120,
                sft_steps: 300,
                reward_steps: 120,
                k: 16,
                dpo_steps: 60,
                pieces: 128,
                questions: usize::MAX,
            },
            Size::Large => Numbers {
                vocab: 4096,
                widths: &[128, 192, 256],
                layers: 8,
                width: 384,
                steps: 12_000,
                budgets: &[64.0, 32.0, 16.0],
                context_steps: 300,
                anneal_steps: 600,
                sft_steps: 600,
                reward_steps: 300,
                k: 30,
                dpo_steps: 120,
                pieces: 256,
                questions: usize::MAX,
            },
        }
    }
}

/// The numbers that a size stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    /// Ids of the tokenizer.
    pub vocab: usize,
    /// Widths of the models of the sweep.
    pub widths: &'static [usize],
    /// L, D and steps of the model that goes the whole way.
    pub layers: usize,
    pub width: usize,
    pub steps: u64,
    /// Budgets of the sweep: that of the model over these.
    pub budgets: &'static [f64],
    pub context_steps: u64,
    pub anneal_steps: u64,
    pub sft_steps: u64,
    pub reward_steps: u64,
    /// Samples a prompt.
    pub k: usize,
    pub dpo_steps: u64,
    /// Pieces of held-out text, and questions, that are measured at most.
    pub pieces: usize,
    pub questions: usize,
}

/// Tokens a row, and after the extension.
pub(super) const CONTEXT: usize = 256;
pub(super) const LONGER: usize = 512;
/// Tokens a step of pretraining.
const TOKENS: usize = 2048;

/// A part of the way.
pub(super) struct Stage {
    /// Its name, in files as well.
    pub name: &'static str,
    /// What it does, for a person.
    pub title: &'static str,
    /// What is run, in order.
    pub verbs: Vec<Verb>,
    /// What is measured then.
    pub measure: Measure,
    /// What it made that must be the same every time.
    pub made: Vec<PathBuf>,
}

/// What is measured after a stage.
pub(super) enum Measure {
    /// Bytes a token, against single bytes.
    Vocabulary(PathBuf),
    /// Nothing but what was counted.
    Shards,
    /// What the sweep foretells for the model that comes.
    Sweep { trials: Vec<(PathBuf, f64, f64)>, next: Trial },
    /// Bits a byte of held-out text in pieces of so many tokens.
    Text { model: PathBuf, tokens: usize, before: TextBefore },
    /// Held-out pairs of which the better answer has the greater reward.
    Rewards(PathBuf),
    /// The best of K against one of K, by the reward model.
    Samples(PathBuf),
    /// Held-out questions answered rightly, and the rewards of the answers where there is a reward model.
    Answers(PathBuf),
    /// The same, and by how much it prefers the better of held-out answers, against what it was before.
    Preferences { model: PathBuf, before: PathBuf },
    /// Two folders of results of `herd eval`, and how the second differs from the first.
    Evaluation([PathBuf; 2]),
    /// As `Answers`, of a file that `herd chat` takes, beside its parent's.
    Small(PathBuf),
}

/// What text is compared with.
pub(super) enum TextBefore {
    /// A model that knows nothing.
    Nothing,
    /// This one.
    Model(PathBuf),
}

/// The model that goes the whole way, and those of the sweep.
fn network(layers: usize, width: usize) -> ModelConfig {
    let heads = (width / 32).max(1);
    let ffn_width = (8 * width / 3).next_multiple_of(32);
    let kv_heads = if heads.is_multiple_of(2) { heads / 2 } else { heads };
    ModelConfig { layers, width, heads, kv_heads, ffn_width, ..base().model }
}

fn base() -> RunConfig {
    herd_train::presets::tiny()
}

fn shape(model: &ModelConfig) -> String {
    let ModelConfig { layers, width, heads, kv_heads, ffn_width, .. } = model;
    format!(
        "[model]\nlayers = {layers}\nwidth = {width}\nheads = {heads}\nkv_heads = {kv_heads}\nffn_width = {ffn_width}\n"
    )
}

/// A peak rate that falls with the width, as `--depth` has it.
fn rate(width: usize) -> f64 {
    3e-3 * (256.0 / width as f64).sqrt()
}

/// The settings that every run of the quickstart begins with.
fn head(what: &str) -> String {
    format!(
        "# {what}: written by `herd quickstart`.\npreset = \"tiny\"\ntokenizer = \"../tokenizer\"\n"
    )
}

/// Files of settings to write, and the stages in their order.
pub(super) fn stages(size: Size, out: &Path) -> (Vec<(PathBuf, String)>, Vec<Stage>) {
    let mut way = Way { n: size.numbers(), out, configs: Vec::new(), stages: Vec::new() };
    way.words();
    way.sweep();
    let trained = way.pretrain();
    let long = way.extend(&trained);
    let annealed = way.anneal(&long);
    let tuned = way.sft(&annealed);
    let judge = way.reward(&annealed);
    way.sample(&tuned, &judge);
    let best = way.best(&tuned);
    way.dpo(&best);
    let mean = way.average();
    way.eval(&[("sft", &tuned), ("average", &mean)]);
    way.quantize(&mean);
    (way.configs, way.stages)
}

struct Way<'a> {
    n: Numbers,
    out: &'a Path,
    configs: Vec<(PathBuf, String)>,
    stages: Vec<Stage>,
}

impl Way<'_> {
    fn at(&self, path: &str) -> PathBuf {
        self.out.join(path)
    }

    fn arg(&self, path: &str) -> String {
        self.at(path).display().to_string()
    }

    /// A training verb with its file of settings, that ends at `makes`.
    fn run(&mut self, verb: &str, folder: &str, settings: String, makes: &str) -> Verb {
        let config = format!("configs/{}.toml", folder.replace('/', "-").replace(".jsonl", ""));
        self.configs.push((self.at(&config), settings));
        Verb::with_settings(verb, &self.at(&config), &self.at(folder), self.at(makes))
    }

    fn words(&mut self) {
        let (corpus, words) = (self.arg("data/train.jsonl"), self.arg("tokenizer"));
        let vocab = self.n.vocab.to_string();
        let learn =
            ["tokenizer", "train", "--input", &corpus, "--vocab-size", &vocab, "--specials", "16"];
        let args = learn.into_iter().chain(["--out", &words]).map(str::to_owned).collect();
        self.stages.push(Stage {
            name: "tokenizer",
            title: "learn a vocabulary from the corpus",
            verbs: vec![Verb::new(args, self.at("tokenizer"))],
            measure: Measure::Vocabulary(self.at("tokenizer")),
            made: vec![self.at("tokenizer/tokenizer.json")],
        });
        let shards = self.arg("shards");
        let cut = [
            "data",
            "tokenize",
            "--tokenizer",
            &words,
            "--input",
            &corpus,
            "--validation",
            "0.05",
            "-o",
            &shards,
        ];
        self.stages.push(Stage {
            name: "data",
            title: "turn the corpus into shards of tokens",
            // A manifest that is not complete stands there from the first moment on.
            verbs: vec![Verb {
                early: true,
                ..Verb::new(cut.map(str::to_owned).to_vec(), self.at("shards/manifest.json"))
            }],
            measure: Measure::Shards,
            made: ["train", "validation"]
                .map(|of| self.at(&format!("shards/train.{of}-00000.tok")))
                .to_vec(),
        });
    }

    /// A run on the shards: `steps` steps of a network.
    fn pretraining(&self, what: &str, model: &ModelConfig, steps: u64, width: usize) -> String {
        let every = (steps / 8).max(1);
        format!(
            "{}{}[batch]\ntokens = {TOKENS}\n[data]\nshards = \"../shards\"\n[optim]\nsteps = {steps}\nlr = {:.6}\nwarmup_steps = {}\n\
             [checkpoint]\nevery = {every}\n[validation]\nevery = {every}\ntokens = 16384\n[samples]\nevery = 0\n",
            head(what),
            shape(model),
            rate(width),
            (steps / 15).max(1),
        )
    }

    fn budget(&self) -> Trial {
        let params = scaling::params(&network(self.n.layers, self.n.width), self.n.vocab);
        Trial {
            flops: 6.0 * params * (self.n.steps as f64 * TOKENS as f64),
            params,
            loss: f64::NAN,
        }
    }

    fn sweep(&mut self) {
        let next = self.budget();
        let (mut verbs, mut trials, mut made) = (Vec::new(), Vec::new(), Vec::new());
        for share in self.n.budgets {
            for width in self.n.widths {
                let model = network(self.n.layers.min(4), *width);
                let (params, flops) = (scaling::params(&model, self.n.vocab), next.flops / share);
                let steps = (flops / (6.0 * params * TOKENS as f64)).round().max(2.0) as u64;
                let name = format!("sweep/{width}-{share}");
                let settings =
                    self.pretraining("A run of the scaling sweep", &model, steps, *width);
                let last = format!("{name}/checkpoints/step-{steps}");
                verbs.push(self.run("pretrain", &name, settings, &last));
                trials.push((self.at(&last), flops, params));
                made.push(self.at(&format!("{name}/metrics.jsonl")));
            }
        }
        self.stages.push(Stage {
            name: "scaling",
            title: "foretell the model from smaller ones of smaller budgets",
            verbs,
            measure: Measure::Sweep { trials, next },
            made,
        });
    }

    /// A stage whose model is a checkpoint of a run.
    fn stage(
        &mut self,
        name: &'static str,
        title: &'static str,
        verb: Verb,
        measure: Measure,
        metrics: &str,
    ) {
        let made = vec![verb.makes.join("model.safetensors"), self.at(metrics)];
        self.stages.push(Stage { name, title, verbs: vec![verb], measure, made });
    }

    fn pretrain(&mut self) -> String {
        let (steps, width) = (self.n.steps, self.n.width);
        let settings =
            self.pretraining("Pretraining", &network(self.n.layers, width), steps, width);
        let model = format!("pretrain/checkpoints/step-{steps}");
        let verb = self.run("pretrain", "pretrain", settings, &model);
        let measure =
            Measure::Text { model: self.at(&model), tokens: CONTEXT, before: TextBefore::Nothing };
        self.stage("pretrain", "train it on the corpus", verb, measure, "pretrain/metrics.jsonl");
        model
    }

    fn extend(&mut self, init: &str) -> String {
        let (steps, theta) = (self.n.context_steps, 25_000);
        let settings = format!(
            "{}[model]\ninit = \"../{init}\"\n[data]\nshards = \"../shards\"\n[optim]\nlr = 3e-4\nmin_lr_ratio = 0.3\nwarmup_steps = {}\n\
             [checkpoint]\nevery = {steps}\n[validation]\nevery = 0\ntokens = 16384\n[samples]\nevery = 0\n\
             # So small a model finds no needles: the loss alone is asked for.\n\
             [context]\nneedle_rate = 0.0\nrounds_max = 1\nloss_tolerance = 0.1\nneedle.samples = 1\nneedle.depths = [0.5]\n\
             [[context.stage]]\nseq_len = {LONGER}\nrope_theta = {theta}\nsteps = {steps}\n",
            head("Longer context"),
            (steps / 10).max(1),
        );
        let model = format!("extend/stage-1/checkpoints/step-{steps}");
        // The model is there before it is judged.
        let tells = Some(self.at("extend/stage-1/verdict.json"));
        let verb = Verb { tells, ..self.run("extend-context", "extend", settings, &model) };
        let before = TextBefore::Model(self.at(init));
        let measure = Measure::Text { model: self.at(&model), tokens: LONGER, before };
        self.stage(
            "context",
            "teach it texts twice as long",
            verb,
            measure,
            "extend/stage-1/metrics.jsonl",
        );
        model
    }

    fn anneal(&mut self, init: &str) -> String {
        let steps = self.n.anneal_steps;
        let settings = format!(
            "{}[model]\ninit = \"../{init}\"\n[data]\nshards = \"../shards\"\n[batch]\nseq_len = {LONGER}\n[optim]\nsteps = {steps}\nlr = 6e-4\n\
             [checkpoint]\nevery = {}\n[validation]\nevery = 0\ntokens = 16384\n[samples]\nevery = 0\n",
            head("Annealing"),
            (steps / 4).max(1),
        );
        let verb = self.run("anneal", "anneal", settings, "anneal/model");
        let before = TextBefore::Model(self.at(init));
        let measure = Measure::Text { model: self.at("anneal/model"), tokens: LONGER, before };
        self.stage(
            "anneal",
            "take the rate to nothing, and average",
            verb,
            measure,
            "anneal/metrics.jsonl",
        );
        "anneal/model".to_owned()
    }

    /// Steps and rate of a run, its checkpoints after each of `quarters` parts, and its measurements after each quarter.
    fn schedule(steps: u64, lr: &str, quarters: u64) -> String {
        format!(
            "[optim]\nsteps = {steps}\nlr = {lr}\nwarmup_steps = {}\n[checkpoint]\nevery = {}\nkeep_last = 4\n[validation]\nevery = {}\n",
            steps / 10,
            (steps / quarters).max(1),
            (steps / 4).max(1),
        )
    }

    /// A run that learns from dialogues or comparisons.
    fn aligning(&self, what: &str, init: &str, input: &str, optim: &str) -> String {
        format!(
            "{}[model]\ninit = \"../{init}\"\n[chat]\ntemplate = \"llama3\"\n[data]\ninput = [{input}]\nvalidation_share = 0.1\n\
             [batch]\ntokens = 2048\nseq_len = 256\nmicro_tokens = 2048\n[samples]\nevery = 0\n{optim}",
            head(what),
        )
    }

    /// Fine-tuning on some files; the folder and the stage have one name.
    fn answers(
        &mut self,
        name: &'static str,
        title: &'static str,
        init: &str,
        input: &str,
    ) -> String {
        let steps = self.n.sft_steps;
        let what = format!("Fine-tuning: {title}");
        let settings = self.aligning(&what, init, input, &Self::schedule(steps, "1e-3", 4));
        let model = format!("{name}/checkpoints/step-{steps}");
        let verb = self.run("sft", name, settings, &model);
        let measure = Measure::Answers(self.at(&model));
        self.stage(name, title, verb, measure, &format!("{name}/metrics.jsonl"));
        model
    }

    fn sft(&mut self, init: &str) -> String {
        self.answers("sft", "teach it people's answers", init, "\"../data/dialogues.jsonl\"")
    }

    /// On its best answers as well.
    fn best(&mut self, init: &str) -> String {
        let input = "\"../data/dialogues.jsonl\", \"../samples.best.jsonl\"";
        self.answers("best", "teach it its best answers as well", init, input)
    }

    fn reward(&mut self, init: &str) -> String {
        let steps = self.n.reward_steps;
        let optim = Self::schedule(steps, "3e-4", 1) + "[reward]\n";
        let input = "\"../data/comparisons.jsonl\"";
        let settings = self.aligning("A reward model", init, input, &optim);
        let model = format!("reward/checkpoints/step-{steps}");
        let verb = self.run("reward", "reward", settings, &model);
        let measure = Measure::Rewards(self.at(&model));
        self.stage(
            "reward",
            "teach another to judge answers",
            verb,
            measure,
            "reward/metrics.jsonl",
        );
        model
    }

    fn sample(&mut self, policy: &str, judge: &str) {
        let settings = format!(
            "# Rejection sampling: written by `herd quickstart`.\ninput = [\"../data/prompts.jsonl\"]\n[chat]\ntemplate = \"llama3\"\n\
             [sample]\nk = {}\npolicies = [\"../{policy}\"]\ntemperature = 1.5\nmax_tokens = 32\ncontext = 256\n\
             [[score]]\nkind = \"reward\"\nmodel = \"../{judge}\"\n\
             # Only answers that end with the right word are learnt.\n[[score]]\nkind = \"ends\"\nfield = \"answer\"\nrequire = 1\n",
            self.n.k,
        );
        let verb = self.run("sample", "samples.jsonl", settings, "samples.pairs.jsonl");
        self.stages.push(Stage {
            name: "sample",
            title: "answer each prompt many times, and keep the best",
            verbs: vec![verb],
            measure: Measure::Samples(self.at("samples.jsonl")),
            made: vec![self.at("samples.jsonl"), self.at("samples.best.jsonl")],
        });
    }

    fn dpo(&mut self, init: &str) {
        let steps = self.n.dpo_steps;
        let optim = Self::schedule(steps, "7e-5", 4) + "[dpo]\n";
        let input = "\"../data/comparisons.jsonl\", \"../samples.pairs.jsonl\"";
        let settings = self.aligning("Preferences", init, input, &optim);
        let model = format!("dpo/checkpoints/step-{steps}");
        let verb = self.run("dpo", "dpo", settings, &model);
        let measure = Measure::Preferences { model: self.at(&model), before: self.at(init) };
        self.stage("dpo", "teach it which answers are better", verb, measure, "dpo/metrics.jsonl");
    }

    /// Of the last two checkpoints of `dpo`.
    fn average(&mut self) -> String {
        let (steps, every) = (self.n.dpo_steps, (self.n.dpo_steps / 4).max(1));
        let mut args = vec!["average".to_owned()];
        args.extend(
            [steps - every, steps].map(|step| self.arg(&format!("dpo/checkpoints/step-{step}"))),
        );
        args.extend(["--out".to_owned(), self.arg("average")]);
        self.stages.push(Stage {
            name: "average",
            title: "average its last checkpoints",
            verbs: vec![Verb::new(args, self.at("average"))],
            measure: Measure::Answers(self.at("average")),
            made: vec![self.at("average/model.safetensors")],
        });
        "average".to_owned()
    }

    /// The held-out questions by the verb that measures any model, of two by their names.
    fn eval(&mut self, models: &[(&str, &str); 2]) {
        let (page, data) = ("configs/questions.toml", self.arg("data"));
        self.configs.push((self.at(page), PAGE.to_owned()));
        let (page, context) = (self.arg(page), CONTEXT.to_string());
        let limit = Some(self.n.questions).filter(|n| *n < usize::MAX).map(|n| n.to_string());
        let verb = |(name, model): &(&str, &str)| {
            let (model, out) = (self.arg(model), self.arg(&format!("eval/{name}")));
            let mut args = vec!["eval", "run", "-m", &model, "--tasks", &page, "--data", &data];
            args.extend(["--out", &out, "--apply-chat-template", "--chat-template", "llama3"]);
            args.extend(["--ctx-size", &context]);
            args.extend(limit.iter().flat_map(|n| ["--limit", n]));
            let args = args.into_iter().map(str::to_owned).collect();
            Verb::new(args, Path::new(&out).join("results.json"))
        };
        let folders = models.map(|(name, _)| self.at(&format!("eval/{name}")));
        let files = ["results.json", "samples/questions.jsonl"];
        self.stages.push(Stage {
            name: "eval",
            title: "measure it as any model is measured, beside what it was after sft",
            verbs: models.iter().map(verb).collect(),
            made: folders.iter().flat_map(|of| files.map(|file| of.join(file))).collect(),
            measure: Measure::Evaluation(folders),
        });
    }

    fn quantize(&mut self, parent: &str) {
        let (model, small) = (self.arg(parent), self.arg("model.gguf"));
        let args = ["quantize", "-m", &model, "--out", &small, "--type", "q8_0", "--no-measure"];
        self.stages.push(Stage {
            name: "quantize",
            title: "write it in eight bits, for chat",
            verbs: vec![Verb::new(args.map(str::to_owned).to_vec(), self.at("model.gguf"))],
            measure: Measure::Small(self.at("model.gguf")),
            made: vec![self.at("model.gguf")],
        });
    }
}
