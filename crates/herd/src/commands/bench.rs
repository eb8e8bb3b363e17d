//! `herd bench`: tokens a second, in llama-bench's terms, and the share of the machine's limits.

use std::path::Path;
use std::time::Instant;

use herd_engine::Limits as EngineLimits;
use herd_engine::bench::Bench;
use herd_engine::plan::Plan;
use herd_model::Config;
use herd_model::checkpoint::Checkpoint;
use herd_model::llama::Llama;
use herd_model::names::Part;
use herd_tensor::Device;
use serde_json::{Value, json};

use crate::commands::{bench_serve, bench_train};
use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::flags::{self, KvFlag, range};
use crate::store::Store;
use crate::{machine, run};

/// What is measured instead of inference.
#[derive(Debug, clap::Subcommand)]
enum What {
    /// Measure a step of training, by part
    Train(bench_train::Flags),
    /// Measure a server under load, this program's or another
    Serve(bench_serve::Flags),
}

/// Positions are 32-bit numbers; three such counts add up to less.
const TOKENS_MAX: u64 = 1 << 24;

/// Flags of `herd bench`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Flags {
    #[command(subcommand)]
    what: Option<What>,
    /// The model: a file, a folder, or a name in the store
    #[arg(short, long, required = true, default_value = "", hide_default_value = true)]
    model: String,
    /// Tokens of the prompts to measure; 0 measures none
    #[arg(short = 'p', long, value_delimiter = ',', default_value = "512", value_name = "N,..")]
    #[arg(value_parser = range(0, TOKENS_MAX))]
    n_prompt: Vec<usize>,
    /// Tokens of the answers to measure; 0 measures none
    #[arg(short, long, value_delimiter = ',', default_value = "128", value_name = "N,..")]
    #[arg(value_parser = range(0, TOKENS_MAX))]
    n_gen: Vec<usize>,
    /// Tokens that are in the cache before
    #[arg(short = 'd', long, value_delimiter = ',', default_value = "0", value_name = "N,..")]
    #[arg(value_parser = range(0, TOKENS_MAX))]
    n_depth: Vec<usize>,
    /// Sequences answered together
    #[arg(
        long,
        visible_alias = "npl",
        value_delimiter = ',',
        default_value = "1",
        value_name = "N,..",
        value_parser = range(1, 4096)
    )]
    sequences: Vec<usize>,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_delimiter = ',', value_name = "N,..")]
    threads: Vec<usize>,
    /// Repetitions of each test
    #[arg(short, long, default_value_t = 5, value_parser = range(1, 10_000))]
    repetitions: usize,
    /// Tokens computed at once
    #[arg(short, long, default_value_t = 512, value_parser = range(1, TOKENS_MAX))]
    batch_size: usize,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    #[command(flatten)]
    kv: KvFlag,
    /// Do not measure the machine's limits, and print no shares of them
    #[arg(long)]
    no_limits: bool,
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

/// What a test does.
#[derive(Clone, Copy)]
struct Test {
    prompt: usize,
    generate: usize,
    depth: usize,
    parallel: usize,
}

impl Test {
    fn name(self) -> String {
        let what = match self.generate {
            0 => format!("pp{}", self.prompt),
            n => format!("tg{n}"),
        };
        let depth = if self.depth > 0 { format!("@d{}", self.depth) } else { String::new() };
        let many = if self.parallel > 1 { format!("x{}", self.parallel) } else { String::new() };
        what + &depth + &many
    }

    fn context(self) -> usize {
        self.depth + self.prompt + self.generate
    }

    fn tokens(self) -> usize {
        (self.prompt + self.generate) * self.parallel
    }
}

/// What the machine reached in a probe taken beside a test.
#[derive(Clone, Copy)]
struct Limits {
    bytes_per_s: f64,
    flops: f64,
}

/// Times each test and prints a row for each.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    match &flags.what {
        Some(What::Train(flags)) => return bench_train::run(flags, console),
        Some(What::Serve(flags)) => return bench_serve::run(flags, console),
        None => {}
    }
    let path = Store::open()?.resolve_file(&flags.model)?;
    let threads = match flags.threads.is_empty() {
        true => vec![flags::threads(None)?],
        false => {
            flags.threads.iter().map(|&t| flags::threads(Some(t))).collect::<Result<_, _>>()?
        }
    };
    let mut rows = Vec::new();
    for threads in threads {
        let device = Device::cpu(flags::class(flags.class.as_deref())?, threads);
        let tests = tests(flags);
        let context = tests.iter().map(|t| t.context()).max().unwrap_or(0);
        let checkpoint = Checkpoint::open(&path)?;
        refuse_what_does_not_fit(flags, &checkpoint, &tests)?;
        let model = Llama::load(&checkpoint, &device, context.max(1))?;
        drop(checkpoint);
        let limits = (!flags.no_limits).then(|| limits(&model));
        for test in tests {
            console.note(format!("{} on {threads} threads", test.name()));
            let row = measure(flags, &model, test, limits)?;
            rows.push(row);
        }
    }
    print(flags, console, &path, &rows)?;
    Ok(Verdict::Done)
}

/// Plans the memory of each test.
fn refuse_what_does_not_fit(
    flags: &Flags,
    checkpoint: &Checkpoint,
    tests: &[Test],
) -> Result<(), Error> {
    let kv = flags.kv.format(checkpoint.format(Part::Down(0))?)?;
    let available = machine::machine().memory_available_bytes;
    for test in tests {
        let (context, parallel) = (test.context().max(1), test.parallel);
        let limits = EngineLimits { parallel, kv, ..EngineLimits::single(context) };
        let plan = Plan::new(checkpoint, limits)?;
        if !run::fits(&plan, available) {
            return Err(Error::Value {
                what: "the memory of a test",
                got: format!("{} bytes for {}", plan.peak(), test.name()),
                expected: format!("at most the {available} bytes that are free"),
            });
        }
    }
    Ok(())
}

fn tests(flags: &Flags) -> Vec<Test> {
    let mut tests = Vec::new();
    for &depth in &flags.n_depth {
        for &parallel in &flags.sequences {
            let prompts = flags.n_prompt.iter().filter(|&&n| n > 0);
            tests.extend(prompts.map(|&prompt| Test { prompt, generate: 0, depth, parallel }));
            let answers = flags.n_gen.iter().filter(|&&n| n > 0);
            tests.extend(answers.map(|&generate| Test { prompt: 0, generate, depth, parallel }));
        }
    }
    tests
}

fn limits(model: &Llama) -> Limits {
    let cpu = model.device().kernels();
    Limits {
        bytes_per_s: machine::bandwidth(cpu, 256 << 20, 5),
        flops: machine::product_flops(cpu, model.format(), 512, 5),
    }
}

fn measure(
    flags: &Flags,
    model: &Llama,
    test: Test,
    limits: Option<Limits>,
) -> Result<Value, Error> {
    let kv = flags.kv.format(model.format())?;
    let mut bench = Bench::new(model, test.parallel, test.context(), kv);
    bench.prompt(0, test.depth, flags.batch_size);
    // One pass that does not count: it touches memory and wakes the threads.
    bench.prompt(test.depth, test.prompt.min(32), flags.batch_size);
    if test.generate > 0 {
        bench.token(test.depth);
    }
    let mut rates = Vec::new();
    for _ in 0..flags.repetitions.max(1) {
        let started = Instant::now();
        bench.prompt(test.depth, test.prompt, flags.batch_size);
        for i in 0..test.generate {
            bench.token(test.depth + i);
        }
        rates.push(test.tokens() as f64 / started.elapsed().as_secs_f64());
    }
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    let spread = rates.iter().map(|r| (r - mean).powi(2)).sum::<f64>();
    let sd = (spread / (rates.len().max(2) - 1) as f64).sqrt();
    rates.sort_by(f64::total_cmp);
    let config = model.config();
    // A step of an answer reads the weights once, and each sequence's keys and values.
    let steps_per_s = mean / test.parallel as f64;
    let kv_bytes = 2 * config.layers * config.kv_heads * kv.vector_bytes(config.head_dim);
    let cached = (test.depth + test.generate / 2) * kv_bytes * test.parallel;
    let bytes = read_bytes(model) + cached;
    let flops = mean * flops_per_token(config, test);
    let share = |x: f64| (x * 1e4).round() / 1e4;
    Ok(json!({
        "test": test.name(),
        "threads": model.device().threads(),
        "class": model.device().class().name(),
        "tok_s": mean,
        "tok_s_median": rates[rates.len() / 2],
        "tok_s_sd": sd,
        "bandwidth_share": limits
            .filter(|_| test.generate > 0)
            .map(|limits| share(steps_per_s * bytes as f64 / limits.bytes_per_s)),
        "flops_share": limits.map(|limits| share(flops / limits.flops)),
        "bandwidth": limits.map(|limits| limits.bytes_per_s),
        "flops": limits.map(|limits| limits.flops),
    }))
}

/// Bytes of weights that one step reads: all but an embedding of which single rows are read.
fn read_bytes(model: &Llama) -> usize {
    model.weight_bytes() - model.embedding_only_bytes()
}

/// Multiply-adds of weights and attention, twice; the head counts where logits are computed.
fn flops_per_token(config: &Config, test: Test) -> f64 {
    let head = config.vocab * config.width;
    let (h, k) = (config.heads, config.head_dim);
    let layer = 2 * h * k * config.width
        + 2 * config.kv_heads * k * config.width
        + 3 * config.ffn_width * config.width;
    let head = if test.generate > 0 { head } else { head / test.prompt.max(1) };
    let keys = test.depth + (test.prompt + test.generate) / 2;
    2.0 * (config.layers * (layer + 2 * h * k * keys) + head) as f64
}

fn print(flags: &Flags, console: &Console, path: &Path, rows: &[Value]) -> Result<(), Error> {
    if console.json {
        return console.print_json(&rows);
    }
    let number = |v: &Value| v.as_f64().map_or(String::new(), |x| format!("{x:.2}"));
    let percent = |v: &Value| v.as_f64().map_or("-".into(), |x| format!("{:.0} %", 100.0 * x));
    let head = ["model", "class", "threads", "test", "tok/s", "sd", "of bandwidth", "of flops"];
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut table = vec![head.map(String::from).to_vec()];
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        table.push(vec![
            name.clone(),
            text("class"),
            row["threads"].to_string(),
            text("test"),
            number(&row["tok_s"]),
            number(&row["tok_s_sd"]),
            percent(&row["bandwidth_share"]),
            percent(&row["flops_share"]),
        ]);
    }
    if flags.csv {
        for row in table {
            console.print(row.join(","))?;
        }
        return Ok(());
    }
    for (i, row) in table.iter().enumerate() {
        console.print(format!("| {} |", row.join(" | ")))?;
        if i == 0 {
            console.print(format!("|{}", " --- |".repeat(head.len())))?;
        }
    }
    Ok(())
}
