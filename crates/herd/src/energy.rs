//! The energy that the machine's processors take, where the system lets us read it (Intel's and AMD's RAPL, by powercap).

use std::fs;
use std::path::{Path, PathBuf};

/// Counters of energy, one a package of processors.
#[derive(Debug)]
pub struct Rapl {
    counters: Vec<Counter>,
}

#[derive(Debug)]
struct Counter {
    path: PathBuf,
    /// Microjoules after which it begins anew.
    range: u64,
}

/// What the counters stood at.
#[derive(Debug)]
pub struct Mark(Vec<u64>);

impl Rapl {
    /// The counters of this machine; `None` if it has none that may be read.
    pub fn open() -> Option<Rapl> {
        Rapl::open_at(Path::new("/sys/class/powercap"))
    }

    fn open_at(folder: &Path) -> Option<Rapl> {
        let mut counters = Vec::new();
        for entry in fs::read_dir(folder).ok()?.flatten() {
            // intel-rapl:0 is a package; intel-rapl:0:0 is a part of it and would count twice.
            let name = entry.file_name().to_string_lossy().into_owned();
            let package = name.strip_prefix("intel-rapl:").is_some_and(|rest| !rest.contains(':'));
            let range = number(&entry.path().join("max_energy_range_uj"));
            if let (true, Some(range)) = (package, range) {
                counters.push(Counter { path: entry.path().join("energy_uj"), range });
            }
        }
        let rapl = Rapl { counters };
        rapl.mark().filter(|mark| !mark.0.is_empty()).map(|_| rapl)
    }

    /// Where the counters stand.
    pub fn mark(&self) -> Option<Mark> {
        self.counters.iter().map(|counter| number(&counter.path)).collect::<Option<_>>().map(Mark)
    }

    /// Joules taken since. A counter that began anew is counted on, once.
    pub fn joules_since(&self, mark: &Mark) -> Option<f64> {
        let now = self.mark()?;
        let taken = self.counters.iter().zip(mark.0.iter().zip(&now.0));
        let taken = taken.map(|(counter, (then, now))| match now >= then {
            true => now - then,
            false => counter.range.saturating_sub(*then) + now,
        });
        Some(taken.sum::<u64>() as f64 * 1e-6)
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_added_up_and_counters_begin_anew() {
        let folder = tempfile::tempdir().unwrap();
        let set = |name: &str, file: &str, value: u64| {
            let at = folder.path().join(name);
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join(file), format!("{value}\n")).unwrap();
        };
        assert!(Rapl::open_at(folder.path()).is_none());
        for (name, energy) in
            [("intel-rapl:0", 100), ("intel-rapl:1", 9_000_000), ("intel-rapl:0:0", 5)]
        {
            set(name, "energy_uj", energy);
            set(name, "max_energy_range_uj", 10_000_000);
        }
        let rapl = Rapl::open_at(folder.path()).unwrap();
        let mark = rapl.mark().unwrap();
        set("intel-rapl:0", "energy_uj", 1_000_100);
        set("intel-rapl:1", "energy_uj", 500_000);
        assert!((rapl.joules_since(&mark).unwrap() - 2.5).abs() < 1e-9);
        fs::remove_file(folder.path().join("intel-rapl:1/energy_uj")).unwrap();
        assert_eq!(rapl.joules_since(&mark), None);
    }
}
