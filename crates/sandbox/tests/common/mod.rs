//! What tests of several files share: the walls, if the kernel lets anyone have them, and who lives.

#![allow(dead_code, clippy::unwrap_used)] // each file takes its part; helpers of tests are tests

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use herd_sandbox::{Helper, Limits, Sandbox};

pub fn helper() -> Helper {
    Helper { program: env!("CARGO_BIN_EXE_herd-sandbox-helper").into(), arguments: vec![] }
}

/// A sandbox with these limits; none where the kernel gives nobody a user namespace. Any other wall
/// that is missing is a failure.
pub fn walls(limits: Limits) -> Option<Sandbox> {
    match Sandbox::new(helper(), limits) {
        Ok(sandbox) => Some(sandbox),
        Err(error) if kernel_forbids() => {
            eprintln!("not tested, since nothing would run here: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Whether an ordinary user is refused a user namespace, asked without any code of ours.
pub fn kernel_forbids() -> bool {
    let mut unshare = Command::new("unshare");
    unshare.args(["-U", "-r", "true"]).current_dir("/").stderr(Stdio::null());
    if nix::unistd::Uid::effective().is_root() {
        unshare.uid(65534).gid(65534); // as the sandbox does
    }
    !unshare.status().unwrap().success()
}

/// The processes of the machine whose command line holds this.
pub fn living(marker: &str) -> usize {
    let holds = |entry: &fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        line.windows(marker.len()).any(|part| part == marker.as_bytes())
    };
    fs::read_dir("/proc").unwrap().flatten().filter(holds).count()
}

/// A word that no other process has on its command line.
pub fn marker(name: &str) -> String {
    format!("{name}-of-{}", std::process::id())
}

/// Waits until some live, or none; not for ever.
pub fn wait_until_living(marker: &str, some: bool) {
    for _ in 0..6000 {
        if (living(marker) > 0) == some {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("processes of {marker}: {}", living(marker));
}
