//! `herd scaling`: what a larger run will reach, told by smaller ones, and written down before it begins.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use herd_train::TrainError;
use herd_train::config::RunConfig;
use herd_train::scaling::figures::figures;
use herd_train::scaling::forecast::{
    Finished, Forecast, Judged, Others, Study, judge, register, registered, studies,
};
use herd_train::scaling::isoflop::Optimum;
use herd_train::scaling::sweep::{self, SweepConfig, TRIALS, shape};
use herd_train::scaling::{Interval, params};
use serde_json::{Value, json};

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::sweep::{MODELS, Made, SETTINGS, answers};
use crate::training::{self, RunFlags};
use crate::verbs::{self, load, save, write};

/// Flags of `herd scaling`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make small runs of some budgets and sizes; the same command goes on where it stopped
    Sweep(RunFlags),
    /// Fit curves and laws to the runs of a sweep, and draw them
    Fit(FitFlags),
    /// Say what a run will reach, and write that down
    Predict(PredictFlags),
    /// Say whether a run came to what was foretold; the answer is no if it did not
    Verify(VerifyFlags),
}

#[derive(Debug, clap::Args)]
struct FitFlags {
    /// The folder of a sweep
    folder: PathBuf,
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
}

#[derive(Debug, clap::Args)]
struct PredictFlags {
    #[command(flatten)]
    fit: FitFlags,
    /// Operations of the run, spent as the curves advise
    #[arg(long, value_name = "C", value_parser = positive)]
    #[arg(conflicts_with_all = ["params", "tokens"], required_unless_present = "params")]
    flops: Option<f64>,
    /// Parameters of the run
    #[arg(long, value_name = "N", value_parser = positive, requires = "tokens")]
    params: Option<f64>,
    /// Tokens that it reads
    #[arg(long, value_name = "D", value_parser = positive, requires = "params")]
    tokens: Option<f64>,
    /// Of several mixes this one
    #[arg(long, value_name = "NAME")]
    mix: Option<String>,
    /// Also write the settings of the run, by the rules of the sweep; the forecast is of that run
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct VerifyFlags {
    /// The folder of a sweep
    folder: PathBuf,
    /// The folder of the run that was foretold
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Threads that compute, where the run answers benchmarks
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number, as 3e15")?;
    let whole = number.is_finite() && number > 0.0;
    whole.then_some(number).ok_or_else(|| "expected a number above 0".to_owned())
}

/// Does what the verb says.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    match &flags.verb {
        Verb::Sweep(flags) => make(flags, console),
        Verb::Fit(flags) => fit(flags, console),
        Verb::Predict(flags) => predict(flags, console),
        Verb::Verify(flags) => verify(flags, console),
    }
}

fn make(flags: &RunFlags, console: &Console) -> Result<Verdict, Error> {
    let config = SweepConfig::read(&flags.config, &flags.set)?;
    let machine = verbs::machine(flags.threads, flags.class.as_deref());
    let Some(done) = crate::sweep::run(&config, &flags.out, &machine, console)? else {
        console.note("stopped; the same command goes on");
        return Ok(Verdict::Done);
    };
    if console.json {
        console.print_json(&done)?;
    }
    let (runs, path) = (done.len(), flags.out.join(TRIALS));
    console.note(format!("{runs} runs stand in {}", path.display()));
    Ok(Verdict::Done)
}

/// The studies of a sweep's folder, what other models answered, and the hash of its runs.
fn studied(flags: &FitFlags) -> Result<(Vec<Study>, Others, String), Error> {
    let folder = &flags.folder;
    let runs = sweep::read(folder)?;
    let others: Others = load(&folder.join(MODELS))?.unwrap_or_default();
    let trials = verbs::hash(&folder.join(TRIALS))?;
    Ok((studies(&runs, &others, flags.seed)?, others, trials))
}

fn fit(flags: &FitFlags, console: &Console) -> Result<Verdict, Error> {
    let (studies, others, trials) = studied(flags)?;
    let told: Vec<Value> = studies.iter().map(of_study).collect();
    let told = json!({ "trials": trials, "seed": flags.seed, "mixes": told });
    save(&flags.folder.join("fit.json"), &told)?;
    let mut drawn = Vec::new();
    for (name, svg) in studies.iter().flat_map(|study| figures(study, &others)) {
        let path = flags.folder.join("figures").join(name);
        write(&path, svg.as_bytes())?;
        drawn.push(path.display().to_string());
    }
    if console.json {
        console.print_json(&told)?;
        return Ok(Verdict::Done);
    }
    for study in &studies {
        show_study(study, console)?;
    }
    console.note(format!("drawn: {}", drawn.join(", ")));
    Ok(Verdict::Done)
}

/// A study as JSON.
fn of_study(study: &Study) -> Value {
    let curves = study.curves.as_ref();
    let about = curves.map(|curves| &curves.residuals[..]).unwrap_or_default();
    let runs = study.runs.iter().zip(&study.law.residuals).enumerate();
    let residuals = runs.map(|(i, (run, law))| {
        json!({ "name": run.name, "loss": run.loss, "law": law, "isoflop": about.get(i) })
    });
    let tasks: BTreeMap<&String, Value> = study
        .tasks
        .iter()
        .map(|(name, law)| (name, json!({ "line": law.line, "sigmoid": law.sigmoid })))
        .collect();
    json!({
        "mix": study.mix,
        "runs": study.runs.len(),
        "law": study.law.law,
        "sigma": study.law.sigma,
        "minima": curves.map(|curves| &curves.minima),
        "tokens": curves.map(|curves| curves.tokens),
        "params": curves.map(|curves| curves.params),
        "loss": curves.map(|curves| curves.loss),
        "isoflop_sigma": curves.and_then(|curves| curves.sigma),
        "tasks": tasks,
        "residuals": residuals.collect::<Vec<Value>>(),
    })
}

fn show_study(study: &Study, console: &Console) -> Result<(), Error> {
    if let Some(mix) = &study.mix {
        console.print(format!("mix {mix}"))?;
    }
    if let Some(curves) = &study.curves {
        let head = ["operations", "best parameters", "tokens", "loss", ""];
        let mut table = vec![head.map(str::to_owned).to_vec()];
        for best in &curves.minima {
            table.push(vec![
                format!("{:e}", best.flops),
                format!("{:.3e}", best.params),
                format!("{:.3e}", best.flops / 6.0 / best.params),
                format!("{:.4}", best.loss),
                if best.inside { "" } else { "at the edge of the sizes" }.to_owned(),
            ]);
        }
        console.print_table(&table)?;
        for (name, fit) in [("tokens", curves.tokens), ("parameters", curves.params)] {
            let ends = fit.b.map(|(low, high)| format!(" (90 %: {low:.3} to {high:.3})"));
            let (a, b, ends) = (fit.power.a, fit.power.b, ends.unwrap_or_default());
            console.print(format!("{name} = {a:.4e} C^{b:.4}{ends}"))?;
        }
    }
    let law = study.law.law;
    console.print(format!(
        "loss = {:.4} + {:.4e} N^-{:.4} + {:.4e} D^-{:.4}, {:.2} % off a run",
        law.e,
        law.a,
        law.alpha,
        law.b,
        law.beta,
        100.0 * study.law.sigma
    ))
}

fn predict(flags: &PredictFlags, console: &Console) -> Result<Verdict, Error> {
    let (mut studies, _, trials) = studied(&flags.fit)?;
    let names: Vec<String> = studies.iter().filter_map(|study| study.mix.clone()).collect();
    if let Some(mix) = &flags.mix {
        studies.retain(|study| study.mix.as_ref() == Some(mix));
        if studies.is_empty() {
            let expected = format!("one of {}", names.join(", "));
            return Err(Error::Value { what: "--mix", got: mix.clone(), expected });
        }
    }
    if flags.settings.is_some() && studies.len() > 1 {
        let (got, expected) = ("nothing".to_owned(), format!("one of {}", names.join(", ")));
        return Err(Error::Value { what: "--mix", got, expected });
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut made: Vec<Forecast> = Vec::new();
    for study in &studies {
        let (mut params, mut tokens) = match (flags.params, flags.tokens, flags.flops) {
            (Some(params), Some(tokens), _) => (params, tokens),
            (_, _, flops) => {
                let flops = flops.expect("clap asks for one of them");
                let params = study.optimal_params(flops);
                (params, flops / 6.0 / params)
            }
        };
        if let Some(path) = &flags.settings {
            (params, tokens) = settings(&flags.fit.folder, study, params, tokens, path)?;
        }
        let forecast = study.forecast(params, tokens, &trials);
        made.push(register(&flags.fit.folder, forecast, now)?);
    }
    // Whole seconds are told apart: a run that begins behind this command began after its forecast.
    let next = UNIX_EPOCH + Duration::from_millis(1000 * (now + 1) + 20);
    if let Ok(wait) = next.duration_since(SystemTime::now()) {
        std::thread::sleep(wait);
    }
    made.sort_by(|a, b| a.loss.value.total_cmp(&b.loss.value));
    if console.json {
        console.print_json(&made)?;
        return Ok(Verdict::Done);
    }
    for forecast in &made {
        show_forecast(forecast, console)?;
    }
    Ok(Verdict::Done)
}

/// Writes the settings of a run of about this size; its parameters and tokens.
fn settings(
    folder: &Path,
    study: &Study,
    aim: f64,
    tokens: f64,
    path: &Path,
) -> Result<(f64, f64), Error> {
    let config = SweepConfig::read(&folder.join(SETTINGS), &[])?;
    let mut shared = config.shared()?;
    shared.data.input.clear();
    let mix = config.mix.iter().find(|mix| Some(&mix.name) == study.mix.as_ref());
    if let Some(mix) = mix {
        shared.data.mix.clone_from(&mix.weights);
    }
    let shards = shared.data.shards.take().unwrap_or_else(|| folder.join("shards"));
    shared.data.shards = Some(std::path::absolute(&shards).map_err(Error::io("find", &shards))?);
    let vocab = training::words(&shared.tokenizer)?.tokenizer.vocab_size();
    let shape = shape(aim, vocab, &shared.model);
    let params = params(&shape, vocab);
    let (run, _) = config.settings(&shared, shape, vocab, 6.0 * params * tokens);
    let path = std::path::absolute(path).map_err(Error::io("find", path))?;
    write(&path, run.write().as_bytes())?;
    Ok((params, (run.optim.steps as usize * run.batch.tokens) as f64))
}

fn interval(of: Interval) -> String {
    format!("{:.4} (90 %: {:.4} to {:.4})", of.value, of.low, of.high)
}

fn show_forecast(forecast: &Forecast, console: &Console) -> Result<(), Error> {
    let row = |name: &str, text: String| vec![name.to_owned(), text];
    let mut table = vec![row("", "foretold".to_owned())];
    table.extend(forecast.mix.iter().map(|mix| row("mix", mix.clone())));
    table.push(row("parameters", format!("{:.4e}", forecast.params)));
    table.push(row("tokens", format!("{:.4e}", forecast.tokens)));
    table.push(row("operations", format!("{:.4e}", forecast.flops)));
    table.push(row("loss, nats a token", interval(forecast.loss)));
    if let Some(Optimum { params, params_ci90, tokens, .. }) = forecast.optimum {
        let ends = params_ci90.map(|(low, high)| format!(" (90 %: {low:.3e} to {high:.3e})"));
        let ends = ends.unwrap_or_default();
        table.push(row("best parameters", format!("{params:.3e}{ends} on {tokens:.3e} tokens")));
    }
    for (name, task) in &forecast.tasks {
        table.push(row(&format!("{name}: nats a character"), interval(task.nll_per_char)));
        table.push(row(&format!("{name}: right"), interval(task.acc)));
    }
    table.push(row("registered as", forecast.hash.clone()));
    console.print_table(&table)
}

fn verify(flags: &VerifyFlags, console: &Console) -> Result<Verdict, Error> {
    let forecasts = registered(&flags.folder)?;
    let made = Made::read(&flags.run)?;
    let config = SweepConfig::read(&flags.folder.join(SETTINGS), &[])?;
    let mut run = Finished {
        mix: mix_of(&config, &made.config)?,
        params: made.params,
        tokens: made.tokens,
        loss: made.loss,
        data: made.data,
        began: began(&flags.run)?,
        tasks: BTreeMap::new(),
    };
    judge(&forecasts, &run)?; // before anything is computed
    let model = made.model.display().to_string();
    let machine = verbs::machine(flags.threads, None);
    let to = flags.run.join("eval");
    if let Some(tasks) = &config.tasks {
        let Some(answered) = answers(tasks, &model, &to, &machine, console)? else {
            console.note("stopped; the same command goes on");
            return Ok(Verdict::No); // nothing was found to be inside
        };
        run.tasks = answered;
    }
    let judged = judge(&forecasts, &run)?;
    save(&flags.run.join("judged.json"), &judged)?;
    if console.json {
        console.print_json(&judged)?;
    } else {
        show_judged(&judged, console)?;
    }
    Ok(if judged.inside { Verdict::Done } else { Verdict::No })
}

/// The mix of a run, if the sweep has several. Errors: it reads another, or measures held-out text otherwise.
fn mix_of(config: &SweepConfig, run: &RunConfig) -> Result<Option<String>, Error> {
    let shared = config.shared()?;
    let held = |of: &RunConfig| {
        let (data, batch) = (&of.data, &of.batch);
        format!(
            "seq_len {}, validation.tokens {}, packing {:?}, long {:?}, document_mask {:?}",
            batch.seq_len, of.validation.tokens, data.packing, data.long, data.document_mask
        )
    };
    let (is, wanted) = (held(run), held(&shared));
    if is != wanted {
        let (what, expected) = ("how the run measures", format!("{wanted}, as the sweep does"));
        return Err(Error::Value { what, got: is, expected });
    }
    let shares = |weights: &BTreeMap<String, f64>| {
        let all: f64 = weights.values().sum();
        let used = weights.iter().filter(|(_, weight)| **weight > 0.0);
        used.map(|(name, weight)| (name.clone(), weight / all)).collect::<Vec<_>>()
    };
    let is = shares(&run.data.mix);
    let mix = config.mix.iter().find(|mix| shares(&mix.weights) == is);
    if mix.is_none() && !(config.mix.is_empty() && shares(&shared.data.mix) == is) {
        let (what, got) = ("the run's data.mix", format!("{:?}", run.data.mix));
        return Err(Error::Value { what, got, expected: "a mix of the sweep".to_owned() });
    }
    Ok(mix.map(|mix| mix.name.clone()))
}

/// When a run began: the earliest time of the files that it writes before its first step.
fn began(run: &Path) -> Result<u64, Error> {
    let mut times = Vec::new();
    for name in ["config.toml", "origin.toml", "metrics.jsonl"] {
        let path = run.join(name);
        let time = fs::metadata(&path).and_then(|of| of.modified());
        let time = time.map_err(Error::io("read", &path))?;
        times.push(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
    }
    let none = || TrainError::Value {
        key: run.display().to_string(),
        value: "no run".to_owned(),
        expected: "its folder".to_owned(),
    };
    Ok(times.into_iter().min().ok_or_else(none)?)
}

fn show_judged(judged: &Judged, console: &Console) -> Result<(), Error> {
    let row = |cells: [&str; 4]| cells.map(str::to_owned).to_vec();
    let held = |inside: bool| if inside { "inside" } else { "outside" };
    let mut table = vec![row(["", "foretold", "came to", ""])];
    let loss = format!("{:.4}", judged.loss);
    table.push(row(["loss", &interval(judged.foretold), &loss, held(judged.inside)]));
    for (name, task) in &judged.tasks {
        let (foretold, came) = (task.foretold, task.answered);
        for (what, foretold, came, inside) in [
            ("nats a character", foretold.nll_per_char, came.nll_per_char, task.nll_inside),
            ("right", foretold.acc, came.acc, task.acc_inside),
        ] {
            let (name, came) = (format!("{name}: {what}"), format!("{came:.4}"));
            table.push(row([&name, &interval(foretold), &came, held(inside)]));
        }
    }
    console.print_table(&table)
}
