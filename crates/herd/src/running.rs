//! Servers that run on this machine: a small file for each in Herd's home, gone when it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::store::Store;

/// A server that runs, or ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Its process.
    pub pid: u32,
    /// When the process began, in ticks since the machine did: its number may be another's by now.
    pub began: u64,
    /// Where it listens.
    pub url: String,
    /// The models behind it; the first is that of requests that name none.
    pub models: Vec<String>,
    /// When it was ready, in seconds since 1970.
    pub since: u64,
}

/// The file of this server; dropping it removes it.
pub struct Running {
    path: PathBuf,
}

impl Running {
    /// Says that this process serves. Errors: there is no home, or it cannot be written.
    pub fn begin(url: &str, models: Vec<String>) -> Result<Running, Error> {
        let folder = folder()?;
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let pid = std::process::id();
        let began = began(pid).unwrap_or(0);
        let server = Server { pid, began, url: url.to_owned(), models, since: now() };
        let text = serde_json::to_string(&server).expect("strings and numbers serialise");
        let (path, part) = (folder.join(format!("{pid}.json")), folder.join(format!("{pid}.part")));
        fs::write(&part, text).map_err(Error::io("write", &part))?;
        fs::rename(&part, &path).map_err(Error::io("create", &path))?;
        Ok(Running { path })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // `herd ps` looks whether the process lives
    }
}

impl Server {
    /// Whether the process that wrote the file still runs.
    pub fn lives(&self) -> bool {
        began(self.pid) == Some(self.began)
    }

    /// The port it listens on.
    pub fn port(&self) -> Option<u16> {
        self.url.rsplit_once(':')?.1.parse().ok()
    }

    /// Asks it to end once its answers are given; the second time, at once.
    pub fn ask_to_end(&self) -> Result<(), Error> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let sent = pid.filter(|_| self.lives()).map(|pid| kill_process(pid, Signal::TERM));
        match sent {
            // It ended by itself meanwhile.
            None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
            Some(Err(error)) => Err(Error::Command {
                problem: format!("process {} takes no signal from here: {error}", self.pid),
            }),
        }
    }

    /// Seconds that it has been serving.
    pub fn seconds(&self) -> u64 {
        now().saturating_sub(self.since)
    }
}

/// The servers that run, the oldest first; files of those that were killed are removed.
pub fn list() -> Result<Vec<Server>, Error> {
    list_in(&folder()?)
}

fn list_in(folder: &Path) -> Result<Vec<Server>, Error> {
    let mut servers = Vec::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(servers),
        Err(error) => return Err(Error::io("read", folder)(error)),
    };
    for entry in entries {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        // One that ends just now takes its file along.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        match serde_json::from_str::<Server>(&text) {
            Ok(server) if server.lives() => servers.push(server),
            Ok(_) => drop(fs::remove_file(&path)),
            Err(error) => {
                return Err(Error::Json { path, what: format!("no server's file: {error}") });
            }
        }
    }
    servers.sort_by_key(|server| (server.since, server.pid));
    Ok(servers)
}

fn folder() -> Result<PathBuf, Error> {
    Ok(Store::open()?.home().join("run"))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// When a process began: field 22 of its `stat`, counted behind its name, which may hold anything.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    // A process that has ended and waits to be asked for its status serves nobody.
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_are_gone_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let pid = std::process::id();
        let live = Server {
            pid,
            began: began(pid).unwrap(),
            url: "http://127.0.0.1:8080".into(),
            models: vec!["m".into()],
            since: 5,
        };
        let gone = Server { began: 1, since: 4, ..live.clone() };
        for (name, server) in [("a.json", &live), ("b.json", &gone)] {
            fs::write(folder.path().join(name), serde_json::to_string(server).unwrap()).unwrap();
        }
        assert_eq!(list_in(folder.path()).unwrap(), std::slice::from_ref(&live));
        assert!(!folder.path().join("b.json").exists());
        assert_eq!(live.port(), Some(8080));
        assert!(list_in(&folder.path().join("none")).unwrap().is_empty());
    }
}
