//! `herd stop`: ends servers of this machine, once their answers are given.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::running::{Server, list};

/// Flags of `herd stop`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Its port, the number of its process, or a model that it serves [default: the only one]
    #[arg(conflicts_with = "all")]
    server: Option<String>,
    /// All servers
    #[arg(long)]
    all: bool,
    /// Do not wait for answers that run
    #[arg(long)]
    now: bool,
    /// Seconds that it may take
    #[arg(long, default_value_t = 70, value_name = "SECONDS")]
    timeout: u64,
}

/// Asks servers to end, and waits until they have; the answer is no if one has not.
pub fn run(flags: &Flags, console: &Console) -> Result<Verdict, Error> {
    let servers = chosen(flags, list()?)?;
    for server in &servers {
        server.ask_to_end()?;
        if flags.now {
            // Signals that come together are one.
            thread::sleep(Duration::from_millis(200));
            server.ask_to_end()?;
        }
    }
    let started = Instant::now();
    let limit = Duration::from_secs(flags.timeout);
    let mut told = Vec::new();
    for server in &servers {
        while server.lives() && started.elapsed() < limit {
            thread::sleep(Duration::from_millis(20));
        }
        let ended = !server.lives();
        told.push(ended);
        if !console.json {
            let what = if ended { "ended" } else { "still gives answers (--now drops them)" };
            console.print(format!("{} (process {}) {what}", server.url, server.pid))?;
        }
    }
    if console.json {
        let row = |(server, ended): (&Server, &bool)| json!({ "pid": server.pid, "url": server.url, "ended": ended });
        console.print_json(&servers.iter().zip(&told).map(row).collect::<Value>())?;
    }
    Ok(if told.contains(&false) { Verdict::No } else { Verdict::Done })
}

/// The servers that are meant.
fn chosen(flags: &Flags, servers: Vec<Server>) -> Result<Vec<Server>, Error> {
    if flags.all {
        return Ok(servers);
    }
    let Some(wanted) = &flags.server else {
        return match servers.len() {
            1 => Ok(servers),
            0 => Err(Error::Command { problem: "no server runs here".to_owned() }),
            n => Err(Error::Command {
                problem: format!("{n} servers run here: name one by its port, or all with --all"),
            }),
        };
    };
    let number: Option<u32> = wanted.parse().ok();
    let port = |server: &Server| server.port().map(u32::from) == number;
    let by: [&dyn Fn(&Server) -> bool; 3] = [
        &|server| number.is_some() && port(server),
        &|server| Some(server.pid) == number,
        &|server| server.models.iter().any(|model| model == wanted),
    ];
    for is in by {
        let found: Vec<Server> = servers.iter().filter(|server| is(server)).cloned().collect();
        match found.len() {
            0 => {}
            1 => return Ok(found),
            n => {
                let problem = format!("{n} servers have {wanted:?}: name one by its process");
                return Err(Error::Command { problem });
            }
        }
    }
    Err(Error::Command { problem: format!("no server has {wanted:?}: `herd ps` lists them") })
}
