//! `herd ps`: the servers that run on this machine.

use serde_json::{Value, json};

use crate::console::{Console, Verdict};
use crate::error::Error;
use crate::running::{Server, list};

/// Flags of `herd ps`.
#[derive(Debug, clap::Args)]
pub struct Flags {}

/// Prints a line per server.
pub fn run(_: &Flags, console: &Console) -> Result<Verdict, Error> {
    let servers = list()?;
    if console.json {
        let row = |server: &Server| {
            json!({
                "pid": server.pid,
                "port": server.port(),
                "url": server.url,
                "models": server.models,
                "since": server.since,
            })
        };
        console.print_json(&servers.iter().map(row).collect::<Value>())?;
        return Ok(Verdict::Done);
    }
    if servers.is_empty() {
        console.note("no server runs: `herd serve -m MODEL` starts one");
        return Ok(Verdict::Done);
    }
    let head = ["PID", "URL", "MODELS", "UP"].map(str::to_owned).to_vec();
    let row = |server: &Server| {
        let (pid, up) = (server.pid.to_string(), up(server.seconds()));
        vec![pid, server.url.clone(), server.models.join(", "), up]
    };
    let rows: Vec<Vec<String>> = [head].into_iter().chain(servers.iter().map(row)).collect();
    console.print_table(&rows)?;
    Ok(Verdict::Done)
}

/// `3 d 4 h`, `5 min`, `7 s`.
fn up(seconds: u64) -> String {
    match seconds {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s @ 3600..86_400 => format!("{} h {} min", s / 3600, s / 60 % 60),
        s => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_their_two_largest_units() {
        let told = [0, 59, 60, 3_599, 3_660, 86_400 * 3 + 3_600].map(up);
        assert_eq!(told, ["0 s", "59 s", "1 min", "59 min", "1 h 1 min", "3 d 1 h"]);
    }
}
