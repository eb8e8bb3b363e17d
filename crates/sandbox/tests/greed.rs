//! Programs that try to take more than they were given, or to stay when their time is over.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::process::Command;
use std::time::Duration;

use common::{living, marker, wait_until_living, walls};
use herd_sandbox::{Ended, Limits, Outcome, Program};

/// Room enough that only what a test tries is in its way.
fn roomy() -> Limits {
    Limits { wall: Duration::from_secs(60), cpu: Duration::from_secs(60), ..Limits::USUAL }
}

fn run(limits: Limits, command: &[&str], collect: &[&str]) -> Option<Outcome> {
    let program = Program { command, collect, ..Program::default() };
    Some(walls(limits)?.run(&program).unwrap())
}

fn sh(code: &str) -> Option<Outcome> {
    run(roomy(), &["sh", "-c", code], &[])
}

fn perl(code: &str) -> Option<Outcome> {
    run(roomy(), &["perl", "-e", code], &[])
}

#[test]
fn a_fork_bomb_stays_small_and_leaves_nothing() {
    let marker = marker("bomb");
    let limits = Limits { wall: Duration::from_secs(2), ..Limits::USUAL };
    let code = "$SIG{CHLD} = 'IGNORE'; while (1) { fork }";
    let count = "my $n = 0; for (1 .. 500) { my $p = fork; last unless defined $p;
                 if (!$p) { sleep 1000 } $n++ } print $n";
    let Some(outcome) = run(limits, &["perl", "-e", code, &marker], &[]) else { return };
    assert!(matches!(outcome.ended, Ended::WallTime | Ended::CpuTime), "{outcome:?}");
    assert_eq!(living(&marker), 0);
    let Some(outcome) = run(roomy(), &["perl", "-e", count, &marker], &[]) else { return };
    assert_eq!(outcome.stdout.text(), (Limits::USUAL.processes - 1).to_string());
    assert_eq!(living(&marker), 0);
}

#[test]
fn a_daemon_does_not_outlive_its_program() {
    let marker = marker("daemon");
    let code = "use POSIX; if (!fork) { POSIX::setsid(); $SIG{$_} = 'IGNORE' for 'HUP', 'TERM';
                if (!fork) { sleep 1000 while 1 } exit } sleep 1; print 'done'";
    // It has the pipe still open, which does not keep the caller waiting.
    let Some(outcome) = run(roomy(), &["perl", "-e", code, &marker], &[]) else { return };
    assert_eq!((outcome.ended, outcome.stdout.text().as_str()), (Ended::Exited(0), "done"));
    assert_eq!(living(&marker), 0);
}

#[test]
fn all_ends_when_the_caller_is_killed() {
    let marker = marker("orphan");
    if walls(roomy()).is_none() {
        return;
    }
    let mut caller = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "a_caller_that_waits"])
        .env("HERD_SANDBOX_MARKER", &marker)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until_living(&marker, true);
    caller.kill().unwrap();
    caller.wait().unwrap();
    wait_until_living(&marker, false);
}

#[test]
#[ignore = "the caller that another test kills"]
fn a_caller_that_waits() {
    let marker = std::env::var("HERD_SANDBOX_MARKER").unwrap_or_default();
    run(roomy(), &["perl", "-e", "sleep 1000 while 1", &marker], &[]);
}

#[test]
fn one_process_cannot_map_more_than_the_memory() {
    let limits = Limits { memory_bytes: 128 << 20, ..roomy() };
    let code = "my $x = 'x' x (1 << 30); print 'had it'";
    let Some(outcome) = run(limits, &["perl", "-e", code], &[]) else { return };
    assert_eq!(outcome.stdout.text(), "");
    assert!(!outcome.succeeded());
}

#[test]
fn many_processes_cannot_hold_more_than_the_memory() {
    let marker = marker("hog");
    let limits = Limits { memory_bytes: 128 << 20, ..roomy() };
    let code = "for (1 .. 20) { if (!fork) { my $x = 'x' x (30 << 20); sleep 1000 } } sleep 1000";
    let Some(outcome) = run(limits, &["perl", "-e", code, &marker], &[]) else { return };
    assert_eq!(outcome.ended, Ended::Memory);
    assert_eq!(living(&marker), 0);
}

#[test]
fn memory_counts_when_the_first_thread_has_ended() {
    let marker = marker("headless");
    let limits = Limits { memory_bytes: 128 << 20, ..roomy() };
    // Each child's first thread ends alone, by `exit`; its second holds the memory.
    let code = format!(
        "use threads; for (1 .. 6) {{ if (!fork) {{
             threads->create(sub {{ my $x = 'x' x $_[0]; sleep 1000 }}, 40 << 20);
             syscall({}, 0) }} }} sleep 1000",
        libc::SYS_exit
    );
    if !Command::new("perl").args(["-e", "use threads"]).status().unwrap().success() {
        eprintln!("not tested: this Perl has no threads");
        return;
    }
    let Some(outcome) = run(limits, &["perl", "-e", &code, &marker], &[]) else { return };
    assert_eq!(outcome.ended, Ended::Memory, "{outcome:?}");
    assert_eq!(living(&marker), 0);
}

#[test]
fn endless_loops_end() {
    let short = Duration::from_millis(500);
    let busy = Limits { cpu: short, ..roomy() };
    let Some(outcome) = run(busy.clone(), &["perl", "-e", "1 while 1"], &[]) else { return };
    assert_eq!(outcome.ended, Ended::CpuTime);
    assert!(outcome.cpu >= short, "{outcome:?}");
    let relay = "while (1) { my $p = fork; if (!$p) { 1 for 1 .. 1e6; exit } wait }";
    let Some(outcome) = run(busy.clone(), &["perl", "-e", relay], &[]) else { return };
    assert_eq!(outcome.ended, Ended::CpuTime, "work handed on is work");
    let silent = "$SIG{CHLD} = 'IGNORE';
                  while (1) { my $p = fork; if (!$p) { 1 for 1 .. 5e6; exit } wait }";
    let Some(outcome) = run(busy, &["perl", "-e", silent], &[]) else { return };
    assert_eq!(outcome.ended, Ended::CpuTime, "work of which nobody is told is work");
    assert!(outcome.cpu >= short, "{outcome:?}");
    let idle = Limits { wall: Duration::from_secs(2), ..roomy() };
    let stubborn = "$SIG{$_} = 'IGNORE' for keys %SIG; $| = 1; print 'here'; sleep 1000 while 1";
    let Some(outcome) = run(idle, &["perl", "-e", stubborn], &[]) else { return };
    assert_eq!((outcome.ended, outcome.stdout.text().as_str()), (Ended::WallTime, "here"));
}

#[test]
fn limits_cannot_be_raised() {
    use libc as c;
    let resources = [
        c::RLIMIT_AS,
        c::RLIMIT_CPU,
        c::RLIMIT_FSIZE,
        c::RLIMIT_NPROC,
        c::RLIMIT_NOFILE,
        c::RLIMIT_STACK,
        c::RLIMIT_CORE,
        c::RLIMIT_MEMLOCK,
        c::RLIMIT_MSGQUEUE,
        c::RLIMIT_SIGPENDING,
        c::RLIMIT_NICE,
        c::RLIMIT_RTPRIO,
    ];
    for resource in resources {
        let code = format!(
            "my $old = pack('QQ', 0, 0); my $more = pack('QQ', ~0, ~0);
             print syscall({0}, 0, {resource}, $more, 0), ' ', $! + 0;
             syscall({0}, 0, {resource}, 0, $old); print ' all' if (unpack 'QQ', $old)[1] == ~0",
            c::SYS_prlimit64
        );
        let Some(outcome) = perl(&code) else { return };
        assert_eq!(outcome.stdout.text(), format!("-1 {}", c::EPERM), "{resource}: {outcome:?}");
    }
}

#[test]
fn a_flood_of_output_is_cut_and_counted() {
    let limits = Limits { wall: Duration::from_secs(2), output_bytes: 1000, ..roomy() };
    let code = "yes >&2 & exec yes";
    let Some(outcome) = run(limits, &["sh", "-c", code], &[]) else { return };
    assert_eq!((outcome.stdout.bytes.len(), outcome.stderr.bytes.len()), (1000, 1000));
    assert!(outcome.stdout.dropped > 0 && outcome.stderr.dropped > 0);
    assert_eq!(outcome.ended, Ended::WallTime);
}

#[test]
fn streams_that_are_closed_or_not_read_keep_nobody_waiting() {
    let Some(outcome) = sh("exec <&- >&- 2>&-; sleep 0.1; exit 3") else { return };
    assert_eq!(outcome.ended, Ended::Exited(3));
    let Some(sandbox) = walls(roomy()) else { return };
    let stdin = vec![b'x'; 10 << 20];
    for (code, expected) in [("exit 0", ""), ("wc -c", "10485760\n"), ("head -c 3", "xxx")] {
        let command = ["sh", "-c", code];
        let program = Program { command: &command, stdin: &stdin, ..Program::default() };
        let outcome = sandbox.run(&program).unwrap();
        assert_eq!(outcome.stdout.text(), expected);
        assert_eq!(outcome.ended, Ended::Exited(0));
    }
}

#[test]
fn a_stream_that_outlives_all_keeps_nobody_waiting() {
    // A pair of sockets, sent over itself with standard output: nobody holds them, and none is closed.
    let code = format!(
        "use Socket; socketpair(my $a, my $b, PF_UNIX, SOCK_STREAM, 0) or die;
         my $control = pack('Q i i i i i x4', 28, SOL_SOCKET, 1, fileno $a, fileno $b, 1);
         my $vector = pack('P Q', 'x', 1);
         my $message = pack('Q Q P Q P Q Q', 0, 0, $vector, 1, $control, length $control, 0);
         syswrite STDOUT, syscall({}, fileno $a, $message, 0)",
        libc::SYS_sendmsg
    );
    let Some(outcome) = run(Limits::USUAL, &["perl", "-e", &code], &[]) else { return };
    assert_eq!((outcome.ended, outcome.stdout.text().as_str()), (Ended::Exited(0), "1"));
}

#[test]
fn large_input_is_moved_in_time() {
    let limits = Limits { wall: Duration::from_secs(20), ..roomy() };
    let Some(sandbox) = walls(limits) else { return };
    let stdin = vec![b'x'; 160 << 20];
    let program = Program { command: &["wc", "-c"], stdin: &stdin, ..Program::default() };
    let outcome = sandbox.run(&program).unwrap();
    assert_eq!(outcome.stdout.text(), "167772160\n", "{outcome:?}");
}

#[test]
fn floods_of_files_stop_at_the_limits() {
    let limits = Limits { disk_bytes: 8 << 20, files: 200, ..roomy() };
    let code = "dd if=/dev/zero of=/tmp/a bs=1M count=100; dd if=/dev/zero of=b bs=1M count=100; \
                dd if=/dev/zero of=/dev/shm/c bs=1M count=100; \
                cat /tmp/a b /dev/shm/c | wc -c; (truncate -s 1T d) && echo 1000000000; rm -f /tmp/a b /dev/shm/c; \
                i=0; while : > f$i; do i=$((i + 1)); done; echo $i";
    let code = code.replace(": > f$i", "(: > f$i) 2> /dev/null");
    let Some(outcome) = run(limits, &["sh", "-c", &code], &["d"]) else { return };
    let text = outcome.stdout.text();
    let numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers[0] <= 8 << 20 && numbers[1] <= 208, "{numbers:?}");
}

#[test]
fn deep_folders_leave_nothing_behind() {
    let code = "my $n = 0; $n++ while mkdir 'dddddddddd' and chdir 'dddddddddd'; print $n";
    let Some(outcome) = perl(code) else { return };
    let depth: u32 = outcome.stdout.text().parse().unwrap();
    assert!((500..=Limits::USUAL.files + 8).contains(&depth), "{depth}");
}
