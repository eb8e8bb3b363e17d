//! What fuzzing once broke stays mended: every file of `fuzz/regressions` through its target.

#[path = "../../../fuzz/src/lib.rs"]
#[allow(clippy::unwrap_used, dead_code)] // `run` is for the programs
mod fuzz;

use std::fs;
use std::path::Path;

/// One test, since targets count the memory of the whole process.
#[test]
fn regressions_of_every_fuzz_target_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/regressions");
    for (target, run) in fuzz::TARGETS {
        let files = fs::read_dir(folder.join(target)).unwrap_or_else(|e| panic!("{target}: {e}"));
        let mut paths: Vec<_> =
            files.map(|file| file.expect("a file of that folder").path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{target} has no regressions");
        for path in paths {
            println!("{}", path.display());
            run(&fs::read(&path).expect("it can be read"));
        }
    }
    // Anything may come.
    for (_, run) in fuzz::TARGETS {
        run(b"");
        run(b"\xff{}");
    }
}
