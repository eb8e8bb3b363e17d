//! What all processes of the sandbox hold and have used, read from `/proc`.

use std::fs;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

/// Memory and processor time of all processes but the keeper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Private and shared memory, swapped or not, and page tables; memory that processes share is
    /// counted for each.
    pub memory_bytes: u64,
    /// Of those that live, and of those that they and the keeper have waited for.
    pub cpu: Duration,
}

/// Sums over the processes that are there now.
pub fn sum() -> Sum {
    let mut sum = Sum { memory_bytes: 0, cpu: waited_for() };
    let tick = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1) as u64;
    let Ok(entries) = fs::read_dir("/proc") else { return sum };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<u32>().ok());
        if pid.is_none_or(|pid| pid == 1) {
            continue;
        }
        // A process that has gone in the meantime holds nothing.
        let read = |file| fs::read(entry.path().join(file)).unwrap_or_default();
        sum.memory_bytes += memory(&String::from_utf8_lossy(&read("status")));
        let ticks = ticks(&String::from_utf8_lossy(&read("stat")));
        sum.cpu += Duration::from_millis(ticks * 1000 / tick);
    }
    sum
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
    let counted = ["RssAnon:", "RssShmem:", "VmSwap:", "VmPTE:"];
    let kilobytes = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?;
        counted.contains(&name).then(|| words.next()?.parse::<u64>().ok())?
    };
    status.lines().filter_map(kilobytes).sum::<u64>() * 1024
}

/// Ticks of user, system, and of children waited for, in a `/proc/N/stat`: fields 14 to 17. The
/// second field is a name in brackets, which may hold anything.
fn ticks(stat: &str) -> u64 {
    let Some((_, rest)) = stat.rsplit_once(')') else { return 0 };
    rest.split_ascii_whitespace().skip(11).take(4).filter_map(|n| n.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_a_process_holds_and_not_what_it_maps() {
        let status = "VmSize:\t900 kB\nVmRSS:\t30 kB\nRssAnon:\t 10 kB\nRssFile:\t 15 kB\n\
                      RssShmem:\t 5 kB\nVmPTE:\t 4 kB\nVmSwap:\t 1 kB\n";
        assert_eq!(memory(status), 20 * 1024);
        assert_eq!(memory("RssAnon: x kB\nRssAnon:"), 0);
    }

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c) R 1 7 7 0 -1 4194304 90 0 0 0 11 22 33 44 20 0 1 0";
        assert_eq!(ticks(stat), 110);
        assert_eq!(ticks(""), 0);
    }
}
