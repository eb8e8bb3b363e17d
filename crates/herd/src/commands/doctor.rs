//! `herd doctor`: what this machine is, what it reaches, and whether Herd is well on it.

use std::io::Write;

use herd_kernels::{Class, Cpu, Format};
use herd_sandbox::{Helper, Sandbox, SandboxError};
use serde_json::{Value, json};

use crate::console::{Console, Verdict, bytes};
use crate::error::Error;
use crate::flags;
use crate::machine::{Machine, bandwidth, machine, product_flops, products_are_right};
use crate::store::Store;

/// Flags of `herd doctor`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// The numeric class [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Do not measure, only look
    #[arg(long)]
    fast: bool,
}

/// Something that must hold for Herd to work.
struct Check {
    name: String,
    fault: Option<String>,
}

/// Measured limits: threads, bytes a second, and operations a second by format.
struct Limits {
    threads: usize,
    bandwidth: f64,
    products: Vec<(&'static str, f64)>,
}

/// Prints the findings; the answer is no if a check fails.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let class = flags::class(flags.class.as_deref())?;
    let threads = flags::threads(flags.threads)?;
    let machine = machine();
    let mut counts = vec![1, threads];
    counts.dedup();
    let limits: Vec<Limits> = match flags.fast {
        true => vec![],
        false => counts.into_iter().map(|n| measure(class, n, &machine)).collect(),
    };
    let checks = checks()?;
    let sandbox = sandbox();
    let well = checks.iter().all(|check| check.fault.is_none());
    if console.json {
        console.print_json(&describe(class, &machine, &limits, &checks, &sandbox))?;
    } else {
        print(class, &machine, &limits, &checks, console)?;
        let answer = sandbox.fault.as_deref().unwrap_or("all walls stand");
        console.print(format!("{}    {answer}", sandbox.name))?;
    }
    Ok(if well { Verdict::Done } else { Verdict::No })
}

fn measure(class: Class, threads: usize, machine: &Machine) -> Limits {
    let cpu = Cpu::new(class, threads);
    // Far above the largest caches, far below what is free.
    let size = (machine.memory_available_bytes as usize / 8).clamp(64 << 20, 1 << 30);
    let formats = [Format::BF16, Format::Q8_0, Format::Q4_K];
    let products = formats.map(|f| (f.name(), product_flops(&cpu, f, 512, 5))).to_vec();
    Limits { threads, bandwidth: bandwidth(&cpu, size, 5), products }
}

fn checks() -> Result<Vec<Check>, Error> {
    let mut checks = Vec::new();
    for class in Class::available() {
        let right = products_are_right(&Cpu::new(class, 2));
        let fault = (!right).then(|| "products of whole numbers come out wrong".to_owned());
        checks.push(Check { name: format!("arithmetic of {class}"), fault });
    }
    let store = Store::open()?;
    let fault = probe(&store).err().map(|e| e.line());
    checks.push(Check { name: format!("store in {}", store.home().display()), fault });
    let fault = store.list().err().map(|e| e.line());
    checks.push(Check { name: "models in the store".to_owned(), fault });
    Ok(checks)
}

/// Whether programs that nobody has read could run here. Where they could not, they are refused, and
/// nothing else is worse for it: no fault of the machine.
fn sandbox() -> Check {
    let built =
        Helper::this_program().and_then(|helper| Sandbox::new(helper, herd_sandbox::Limits::USUAL));
    let refused = |error: SandboxError| {
        let hint = error.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
        format!("refuses: {}{hint}", Error::from(error).line())
    };
    Check { name: "sandbox".to_owned(), fault: built.err().map(refused) }
}

/// Writes and removes a file, as a pull would.
fn probe(store: &Store) -> Result<(), Error> {
    let path = store.home().join(format!(".probe-{}", std::process::id()));
    crate::store::make_folder(store.home())?;
    let mut file = std::fs::File::create(&path).map_err(Error::io("create", &path))?;
    let written = file.write_all(b"herd").map_err(Error::io("write", &path));
    std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    written
}

fn describe(
    class: Class,
    machine: &Machine,
    limits: &[Limits],
    checks: &[Check],
    sandbox: &Check,
) -> Value {
    let names = |classes: Vec<Class>| classes.into_iter().map(Class::name).collect::<Vec<_>>();
    let limit = |l: &Limits| {
        let products: serde_json::Map<String, Value> = l
            .products
            .iter()
            .map(|(name, flops)| ((*name).to_owned(), json!(flops / 1e9)))
            .collect();
        json!({ "threads": l.threads, "bandwidth_gb_s": l.bandwidth / 1e9, "product_gflop_s": products })
    };
    let check = |c: &Check| json!({ "check": c.name, "ok": c.fault.is_none(), "fault": c.fault });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "class": class.name(),
        "classes": names(Class::available()),
        "machine": machine,
        "measured": limits.iter().map(limit).collect::<Vec<_>>(),
        "checks": checks.iter().map(check).collect::<Vec<_>>(),
        "sandbox": check(sandbox),
    })
}

fn print(
    class: Class,
    machine: &Machine,
    limits: &[Limits],
    checks: &[Check],
    console: &Console,
) -> Result<(), Error> {
    let cpu = machine.cpu.as_deref().unwrap_or("unknown");
    let quota = machine.cpu_quota.map(|q| format!(", quota {q}")).unwrap_or_default();
    let classes: Vec<&str> = Class::available().into_iter().map(Class::name).collect();
    console.print(format!("herd       {}", env!("CARGO_PKG_VERSION")))?;
    console.print(format!("processor  {cpu}, {} processors{quota}", machine.processors))?;
    let (free, all) = (bytes(machine.memory_available_bytes), bytes(machine.memory_bytes));
    console.print(format!("memory     {free} free of {all}"))?;
    console.print(format!("class      {class} (of {})", classes.join(", ")))?;
    for l in limits {
        let products: Vec<String> =
            l.products.iter().map(|(name, flops)| format!("{name} {:.0}", flops / 1e9)).collect();
        let products = products.join(", ");
        console.print(format!(
            "{} thread{}   reads {:.1} GB/s; products in GFLOP/s: {products}",
            l.threads,
            if l.threads == 1 { " " } else { "s" },
            l.bandwidth / 1e9,
        ))?;
    }
    for check in checks {
        let answer = check.fault.as_deref().unwrap_or("ok");
        console.print(format!("check      {}: {answer}", check.name))?;
    }
    Ok(())
}
