//! What all processes of the sandbox hold and have used, read from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

/// Memory and processor time of all processes but the keeper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Private and shared memory, swapped or not, huge pages and page tables; memory that processes
    /// share is counted for each.
    pub memory_bytes: u64,
    /// Of those that live, and of those that have ended: what they told whoever waited for them, or
    /// what was last seen of them, whichever is more in all.
    pub cpu: Duration,
}

/// What was seen at the last look. A process whose parent ignores its end tells nobody what it used;
/// only what one shorter than the time between two looks used is never seen.
#[derive(Debug, Default)]
pub struct Watch {
    /// Ticks of each process, by number and start: numbers are given again.
    living: HashMap<(u32, u64), u64>,
    /// Ticks last seen of those that have gone.
    gone: u64,
}

impl Watch {
    /// Sums over the processes that are there now.
    pub fn look(&mut self) -> Sum {
        let tick = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1) as u64;
        let (mut memory_bytes, mut waited) = (0, 0);
        let mut living = HashMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.parse::<u32>().ok());
            let Some(pid) = pid.filter(|pid| *pid != 1) else { continue };
            // A process that has gone in the meantime holds nothing.
            memory_bytes += memory_of(&entry.path());
            if let Some(times) = times(&read(&entry.path().join("stat"))) {
                waited += times.waited;
                living.insert((pid, times.start), times.own);
            }
        }
        let gone = self.living.iter().filter(|(process, _)| !living.contains_key(process));
        self.gone += gone.map(|(_, own)| own).sum::<u64>();
        self.living = living;
        let own: u64 = self.living.values().sum();
        let time = |ticks: u64| Duration::from_millis(ticks * 1000 / tick);
        let cpu = time(own + self.gone).max(time(own + waited) + waited_for());
        Sum { memory_bytes, cpu }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Bytes that a process holds. One whose first thread has ended tells of them in its other threads.
fn memory_of(process: &Path) -> u64 {
    let first = read(&process.join("status"));
    if first.contains("RssAnon:") {
        return memory(&first);
    }
    let threads = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    let mut threads = threads.map(|thread| read(&thread.path().join("status")));
    threads.find(|status| status.contains("RssAnon:")).map_or(0, |status| memory(&status))
}

/// Processor time of the processes that the keeper has waited for, and of theirs.
pub fn waited_for() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Duration::ZERO };
    let micros = |time: nix::sys::time::TimeVal| {
        u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0)
    };
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

/// Bytes that a `/proc/N/status` tells of.
fn memory(status: &str) -> u64 {
    let counted = ["RssAnon:", "RssShmem:", "VmSwap:", "VmPTE:", "HugetlbPages:"];
    let kilobytes = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?;
        counted.contains(&name).then(|| words.next()?.parse::<u64>().ok())?
    };
    status.lines().filter_map(kilobytes).sum::<u64>() * 1024
}

/// Ticks of user and system that a `/proc/N/stat` tells of.
#[derive(Debug, PartialEq, Eq)]
struct Times {
    own: u64,
    /// Of children that it waited for, and theirs.
    waited: u64,
    /// When it started.
    start: u64,
}

/// Fields 14 to 17 and 22. The second field is a name in brackets, which may hold anything.
fn times(stat: &str) -> Option<Times> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let (own, waited) = (number(14)? + number(15)?, number(16)? + number(17)?);
    Some(Times { own, waited, start: number(22)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_a_process_holds_and_not_what_it_maps() {
        let status = "VmSize:\t900 kB\nVmRSS:\t30 kB\nRssAnon:\t 10 kB\nRssFile:\t 15 kB\n\
                      RssShmem:\t 5 kB\nVmPTE:\t 4 kB\nVmSwap:\t 1 kB\nHugetlbPages:\t 2 kB\n";
        assert_eq!(memory(status), 22 * 1024);
        assert_eq!(memory("RssAnon: x kB\nRssAnon:"), 0);
    }

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c) R 1 7 7 0 -1 4194304 90 0 0 0 11 22 33 44 20 0 1 0 99 0";
        assert_eq!(times(stat), Some(Times { own: 33, waited: 77, start: 99 }));
        assert_eq!(times(""), None);
        assert_eq!(times("7 (a) R 1"), None);
    }
}
