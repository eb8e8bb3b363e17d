//! Programs that try to get out, to see what is not theirs, or to take more than they were given.
//!
//! They are written in what every Debian has, `sh` and `perl`; Perl's `syscall` reaches any call.
//! Where it can be shown, the same program is run outside first and gets what it wants there. Where
//! the kernel forbids user namespaces nothing runs, so there is nothing to escape from: each test
//! says so. What programs take too much of is in `greed.rs`.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::process::Command;
use std::time::Duration;

use common::{kernel_forbids, marker, walls};
use herd_sandbox::{Ended, Found, Helper, Limits, Outcome, Program, Sandbox, SandboxError, Wall};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::stat::Mode;

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

/// What the same Perl prints outside.
fn outside(code: &str) -> String {
    let output = Command::new("perl").args(["-e", code]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

// Networks.

#[test]
fn no_listener_of_the_machine_hears_a_tcp_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let code = format!(
        "use Socket; socket(my $s, PF_INET, SOCK_STREAM, 0) or die 'no socket: ', $! + 0;
         connect($s, sockaddr_in({port}, inet_aton('127.0.0.1'))) or die 'no way'; print 'in'"
    );
    assert_eq!(outside(&code), "in");
    listener.accept().unwrap();
    let Some(outcome) = perl(&code) else { return };
    assert_eq!(outcome.stdout.text(), "");
    assert!(outcome.stderr.text().starts_with("no socket"), "{outcome:?}");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "someone has called");
}

#[test]
fn no_datagram_leaves_and_no_name_is_resolved() {
    let hearer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = hearer.local_addr().unwrap().port();
    let code = format!(
        "use Socket; for my $f (PF_INET, PF_INET6, 16, 17, 40) {{
             socket(my $s, $f, SOCK_DGRAM, 0) and print \"socket $f \" }}
         socket(my $s, PF_INET, SOCK_DGRAM, 0) and
             send($s, 'x', 0, sockaddr_in({port}, inet_aton('127.0.0.1'))) and print 'sent ';
         print gethostbyname('example.com') ? 'resolved' : 'unknown'"
    );
    let Some(outcome) = perl(&code) else { return };
    assert_eq!(outcome.stdout.text(), "unknown");
    hearer.set_nonblocking(true).unwrap();
    assert!(hearer.recv(&mut [0]).is_err(), "someone has written");
}

#[test]
fn unix_sockets_of_the_machine_are_out_of_reach() {
    use std::os::linux::net::SocketAddrExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let named = UnixListener::bind(&path).unwrap();
    let name = marker("abstract");
    let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let code = format!(
        "use Socket; for my $n ('{}', \"\\0{name}\") {{
             socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die;
             print connect($s, pack('S a*', PF_UNIX, $n)) ? 'in ' : 'out ' }}",
        path.display()
    );
    assert_eq!(outside(&code), "in in ");
    named.accept().unwrap();
    hidden.accept().unwrap();
    let Some(outcome) = perl(&code) else { return };
    assert_eq!(outcome.stdout.text(), "out out ", "{outcome:?}");
}

#[test]
fn unix_sockets_of_its_own_work() {
    let code = "use Socket; socketpair(my $a, my $b, PF_UNIX, SOCK_STREAM, 0) or die;
                syswrite $a, 'hello'; sysread $b, my $x, 5; print $x";
    let Some(outcome) = perl(code) else { return };
    assert_eq!(outcome.stdout.text(), "hello", "{outcome:?}");
}

#[test]
fn what_listens_in_a_shown_folder_is_out_of_reach() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let place = |name: &str| folder.path().join(name);
    let streams = UnixListener::bind(place("streams")).unwrap();
    let datagrams = UnixDatagram::bind(place("datagrams")).unwrap();
    nix::unistd::mkfifo(&place("pipe"), Mode::S_IRWXU).unwrap();
    for name in ["", "streams", "datagrams", "pipe"] {
        fs::set_permissions(place(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let code = format!(
        "use Socket; my ($s, $d, $e, $g); my $f = '{0}'; my $n = pack('S a*', PF_UNIX, \"$f/datagrams\");
         print -p \"$f/pipe\" ? 'seen ' : 'hidden ';
         socket($s, PF_UNIX, SOCK_STREAM, 0) and
             connect($s, pack('S a*', PF_UNIX, \"$f/streams\")) and print 'stream ';
         socketpair($a, $b, PF_UNIX, SOCK_DGRAM, 0) and send($a, 'x', 0, $n) and print 'pair ';
         socket($d, PF_UNIX, SOCK_DGRAM, 0) and send($d, 'x', 0, $n) and print 'datagram ';
         socketpair($e, $g, PF_UNIX, SOCK_STREAM, 0) or print 'no pair ';
         send($e, 'x', 0, $n) and print 'stray ';
         open(my $p, '+<', \"$f/pipe\") and print 'pipe'",
        folder.path().display()
    );
    assert_eq!(outside(&code), "seen stream pair datagram pipe");
    streams.accept().unwrap();
    let Some(sandbox) = walls(roomy()) else { return };
    // Who may read would take from the pipe what another waits for.
    let path = folder.path().to_str().unwrap();
    fs::create_dir_all(place("a/b")).unwrap();
    for pipe in ["pipe", "a/b/pipe"] {
        fs::rename(place("pipe"), place(pipe)).unwrap();
        let refused = sandbox.clone().with_readable(&[path]);
        let Err(SandboxError::Value { expected, .. }) = refused else { panic!("{refused:?}") };
        let held = format!("without named pipes; it holds {}", place(pipe).display());
        assert!(expected.contains(&held), "{expected}");
    }
    // Nor may it write into one that is made later.
    fs::remove_file(place("a/b/pipe")).unwrap();
    let shown = sandbox.with_readable(&[path]).unwrap();
    nix::unistd::mkfifo(&place("pipe"), Mode::S_IRWXU).unwrap();
    fs::set_permissions(place("pipe"), fs::Permissions::from_mode(0o777)).unwrap();
    let program = Program { command: &["perl", "-e", &code], ..Program::default() };
    let outcome = shown.run(&program).unwrap();
    assert_eq!(outcome.stdout.text(), "seen ", "{outcome:?}");
    streams.set_nonblocking(true).unwrap();
    assert!(streams.accept().is_err(), "someone has called");
    drop(datagrams);
}

// What is not its own.

#[test]
fn files_of_the_machine_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "the secret").unwrap();
    let home = std::env::var("HOME").unwrap_or_default();
    let home = if home.starts_with("/tmp") { "/root" } else { &home }; // it has a /tmp of its own
    let here = std::env::current_dir().unwrap();
    let code = format!(
        "cat '{}' /etc/shadow /etc/hostname; ls /root /home /var /run /boot /sys '{home}' '{}'; ls",
        secret.display(),
        here.display()
    );
    let Some(outcome) = sh(&code) else { return };
    assert_eq!(outcome.stdout.text(), "", "{outcome:?}");
    let Some(outcome) = sh("cat /etc/passwd") else { return };
    assert_eq!(outcome.stdout.text().lines().count(), 1);
}

#[test]
fn nothing_of_the_machine_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let code = format!(
        "for place in / /usr /usr/bin /etc /dev /proc /proc/self '{0}'; do \
           (echo x > \"$place/herd-was-here\") && echo \"wrote $place\"; done; \
         for file in /usr/bin/perl /etc/passwd /dev/urandom; do \
           chmod 777 $file && echo \"changed $file\"; rm -f $file; test -e $file || echo gone; done; \
         echo mine > /tmp/herd-was-here && cat /tmp/herd-was-here",
        folder.path().display()
    );
    let Some(outcome) = sh(&code) else { return };
    assert_eq!(outcome.stdout.text(), "mine\n", "{outcome:?}");
    for place in ["/tmp/herd-was-here", "/usr/herd-was-here", "/dev/shm/herd-was-here"] {
        assert!(!fs::exists(place).unwrap(), "{place}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_callers_environment_is_not_there() {
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let Some(outcome) = sh("env | sort") else { return };
    let names = outcome.stdout.text();
    let names: Vec<_> = names.lines().filter_map(|line| line.split('=').next()).collect();
    let set = "HOME LANG OMP_NUM_THREADS OPENBLAS_NUM_THREADS PATH PWD PYTHONHASHSEED PYTHONSAFEPATH TMPDIR";
    assert_eq!(names.join(" "), set);
}

#[test]
fn variables_wait_for_the_walls() {
    let Some(sandbox) = walls(roomy()) else { return };
    // Whatever is loaded with this says that it cannot be: the program, and no stage before it.
    let environment = &[("LD_PRELOAD", "./none.so"), ("HOME", "/tmp")];
    let command = &["perl", "-e", "print $ENV{HOME}"];
    let program = Program { command, environment, ..Program::default() };
    let outcome = sandbox.run(&program).unwrap();
    assert_eq!(outcome.stdout.text(), "/tmp");
    assert!(outcome.stderr.text().matches("none.so").count() <= 1, "{outcome:?}");
}

#[test]
fn an_open_file_of_the_caller_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    fs::write(&path, "the secret").unwrap();
    let file = fs::File::open(&path).unwrap();
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap(); // a child would inherit it
    let code = format!("open(my $f, '<&=', {}) or exit; print <$f>", file.as_raw_fd());
    assert_eq!(outside(&code), "the secret");
    let Some(outcome) = perl(&code) else { return };
    assert_eq!(outcome.stdout.text(), "");
    let Some(outcome) = sh("ls /proc/self/fd") else { return };
    assert_eq!(outcome.stdout.text(), "0\n1\n2\n3\n"); // 3 is the folder that `ls` reads
}

#[test]
fn proc_shows_its_own_processes_alone_and_its_keeper_is_closed() {
    let code = "cat /proc/1/environ /proc/1/maps; ls /proc/1/fd /proc/1/root /proc/1/cwd; \
                readlink /proc/1/exe; head -c 1 /proc/1/mem; \
                echo 1 > /proc/sys/kernel/sysrq; echo x > /proc/sysrq-trigger; \
                cat /proc/kallsyms /proc/version /proc/sys/kernel/hostname; \
                echo /proc/[0-9]* | wc -w";
    let Some(outcome) = sh(code) else { return };
    // The keeper, the shell, and at most the two of the last line.
    let count: usize = outcome.stdout.text().trim().parse().expect("nothing but the count");
    assert!(count <= 4, "{count} processes");
    let Some(outcome) = sh(&format!("ls /proc/{}", std::process::id())) else { return };
    assert_eq!(outcome.stdout.text(), "");
}

#[test]
fn links_lead_nowhere_and_are_not_brought_back() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), "the secret").unwrap();
    let code = format!(
        "ln -s {0}/secret link; ln -s {0} folder; ln -s /etc/passwd own; ln -s / root; \
         ln {0}/secret hard; ln /usr/bin/perl hard; ln -s loop loop; \
         cat link folder/secret; mkdir real; echo kept > real/file",
        folder.path().display()
    );
    let wanted = ["link", "folder/secret", "own", "root/etc/passwd", "hard", "loop", "real/file"];
    let Some(outcome) = run(roomy(), &["sh", "-c", &code], &wanted) else { return };
    assert_eq!(outcome.stdout.text(), "");
    let found: Vec<_> = outcome.files.into_iter().map(|(_, found)| found).collect();
    let (no, none) = (Found::NotAFile, Found::Missing);
    let kept = Found::Bytes(b"kept\n".to_vec());
    assert_eq!(found, [no.clone(), no.clone(), no.clone(), no.clone(), none, no, kept]);
}

// Rights.

#[test]
fn calls_that_reach_beyond_a_process_do_not_exist() {
    use libc as c;
    macro_rules! numbers {
        ($($name:ident)*) => { [$((stringify!($name), c::$name)),*] };
    }
    let calls = numbers![
        SYS_ptrace SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_unshare SYS_setns
        SYS_open_tree SYS_fsopen SYS_move_mount SYS_mount_setattr SYS_keyctl SYS_add_key
        SYS_request_key SYS_bpf SYS_perf_event_open SYS_io_uring_setup SYS_userfaultfd
        SYS_memfd_create SYS_memfd_secret SYS_shmget SYS_msgget SYS_semget SYS_mq_open SYS_vmsplice
        SYS_process_vm_readv SYS_kcmp SYS_process_vm_writev SYS_pidfd_getfd SYS_open_by_handle_at
        SYS_reboot SYS_init_module SYS_finit_module SYS_kexec_load SYS_swapon SYS_syslog
        SYS_settimeofday SYS_clock_settime SYS_sethostname SYS_acct SYS_quotactl SYS_fanotify_init
        SYS_clone3 SYS_setpriority SYS_sched_setscheduler SYS_seccomp SYS_capset
        SYS_inotify_init1 SYS_inotify_add_watch
    ];
    let calls: Vec<String> = calls.iter().map(|(name, n)| format!("{name} => {n}")).collect();
    let code = format!(
        "my %c = ({}); for (sort keys %c) {{
             my $r = syscall($c{{$_}}, 0, 0, 0, 0, 0, 0); print \"$_: $r, \", $! + 0, \"\\n\"
                 unless $r == -1 and $! + 0 == {} }}",
        calls.join(", "),
        c::ENOSYS
    );
    let Some(outcome) = perl(&code) else { return };
    assert_eq!(outcome.stdout.text(), "");
    assert!(outcome.succeeded(), "{outcome:?}");
}

#[test]
fn calls_are_looked_at_where_some_arguments_are_dangerous() {
    use libc as c;
    let tries = [
        ("clone with a user namespace", c::SYS_clone, [c::CLONE_NEWUSER as i64 | 17, 0, 0]),
        ("clone with a mount namespace", c::SYS_clone, [c::CLONE_NEWNS as i64 | 17, 0, 0]),
        ("an internet socket", c::SYS_socket, [2, 1, 0]),
        ("a netlink socket", c::SYS_socket, [16, 3, 0]),
        ("a packet socket", c::SYS_socket, [17, 3, 0]),
        ("typing into the terminal", c::SYS_ioctl, [0, c::TIOCSTI as i64, 0]),
        ("TIOCLINUX", c::SYS_ioctl, [0, c::TIOCLINUX as i64, 0]),
        ("limits of the keeper", c::SYS_prlimit64, [1, 7, 0]),
        ("a longer pipe", c::SYS_fcntl, [1, c::F_SETPIPE_SZ as i64, 1 << 20]),
        ("a lease on a file", c::SYS_fcntl, [0, c::F_SETLEASE as i64, c::F_RDLCK as i64]),
        ("notices of a folder", c::SYS_fcntl, [0, c::F_NOTIFY as i64, 1]),
        ("the keeper's processors", c::SYS_sched_setaffinity, [1, 8, 0]),
        ("another personality", c::SYS_personality, [0x0400000, 0, 0]),
        #[cfg(target_arch = "x86_64")]
        ("getpid of x32", 0x4000_0000 + c::SYS_getpid, [0, 0, 0]),
    ];
    for (name, call, [a, b, d]) in tries {
        let code = format!("print syscall({call}, {a}, {b}, {d}, 0, 0), ' ', $! + 0");
        let Some(outcome) = perl(&code) else { return };
        assert_eq!(outcome.stdout.text(), format!("-1 {}", c::ENOSYS), "{name}");
    }
}

#[test]
fn no_program_has_more_rights_than_another() {
    let code = "cp /usr/bin/id mine && chmod 6755 mine && ./mine -u; \
                su -c 'echo root' < /dev/null; mount -t tmpfs x /tmp; mknod null c 1 3; \
                chown 0:0 mine && echo given; \
                grep -E '^(SigBlk|Cap...|NoNewPrivs|Seccomp):' /proc/self/status";
    let Some(outcome) = sh(code) else { return };
    let zero = "0000000000000000";
    let caps = ["Inh", "Prm", "Eff", "Bnd", "Amb"].map(|set| format!("Cap{set}:\t{zero}\n"));
    let expected = format!("1000\nSigBlk:\t{zero}\n{}NoNewPrivs:\t1\nSeccomp:\t2\n", caps.concat());
    assert_eq!(outcome.stdout.text(), expected, "{outcome:?}");
}

#[test]
fn landlock_closes_what_no_mount_does() {
    // The kernel lets everyone say this of himself, and /proc is no read-only mount.
    let code = "open(my $f, '+<', '/proc/self/oom_score_adj') or exit print 'closed';
                print syswrite($f, '1000') ? 'written' : 'refused'";
    assert_eq!(outside(code), "written");
    let Some(outcome) = perl(code) else { return };
    assert_eq!(outcome.stdout.text(), "closed", "{outcome:?}");
}

#[test]
fn signals_do_not_leave_and_do_not_stop_the_keeper() {
    let code = format!(
        "kill 9, {0}; kill 9, -1; kill 'STOP', 1; kill 9, 1; kill 'XCPU', 1; kill 9, getppid;
         print 'alive ', kill(0, {0})",
        std::process::id()
    );
    let Some(outcome) = perl(&code) else { return };
    assert_eq!(outcome.stdout.text(), "alive 0", "{outcome:?}");
    assert_eq!(outcome.ended, Ended::Exited(0));
}

// What comes back.

#[test]
fn what_is_no_file_is_not_waited_for() {
    let code = "mkfifo pipe; mkdir folder; printf one > 'a\nb'; printf two > ü; : > closed; \
                chmod 0 closed; printf x > large; truncate -s 5M large";
    let wanted = ["pipe", "folder", "a\nb", "ü", "closed", "nothing", "large", "large"];
    let limits = Limits { disk_bytes: 6 << 20, ..roomy() };
    let Some(outcome) = run(limits, &["sh", "-c", code], &wanted) else { return };
    let found: Vec<_> = outcome.files.into_iter().map(|(_, found)| found).collect();
    assert_eq!(found[..2], [Found::NotAFile, Found::NotAFile]);
    assert_eq!(found[2..4], [Found::Bytes(b"one".to_vec()), Found::Bytes(b"two".to_vec())]);
    assert_eq!(found[4..6], [Found::NotAFile, Found::Missing]);
    assert!(matches!(&found[6], Found::Bytes(bytes) if bytes.len() == 5 << 20));
    assert_eq!(found[7], Found::TooLarge, "together they are more than the limit");
}

#[test]
fn names_that_lead_out_are_refused_before_anything_runs() {
    let Some(sandbox) = walls(roomy()) else { return };
    for name in ["../x", "/etc/passwd", "a/../../b", ""] {
        let files: &[(&str, &[u8])] = &[(name, b"x")];
        let program = Program { command: &["true"], files, ..Program::default() };
        assert!(matches!(sandbox.run(&program), Err(SandboxError::Name { .. })), "{name:?}");
        let program = Program { command: &["true"], collect: &[name], ..Program::default() };
        assert!(matches!(sandbox.run(&program), Err(SandboxError::Name { .. })), "{name:?}");
    }
}

// Walls that are missing.

#[test]
fn without_a_wall_nothing_runs() {
    let program = env!("CARGO_BIN_EXE_herd-sandbox-helper");
    // Root of a user namespace that holds one user cannot become another.
    let script = format!("exec '{program}' \"$@\"");
    let arguments = ["-U", "-r", "sh", "-c", &script, "sh"].map(Into::into).to_vec();
    let helper = Helper { program: "/usr/bin/unshare".into(), arguments };
    match Sandbox::new(helper, roomy()) {
        Err(SandboxError::Wall { wall: Wall::Identity, .. }) => {}
        // Where not even `unshare` gets a user namespace, it ends without a report.
        Err(SandboxError::Lost { .. }) if kernel_forbids() => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_user_namespaces_nothing_runs() {
    let program = env!("CARGO_BIN_EXE_herd-sandbox-helper");
    // An ordinary user in a user namespace that may hold no others.
    let script = format!(
        "unshare -U --map-current-user --keep-caps sh -c \
         \"echo 0 > /proc/sys/user/max_user_namespaces && exec '{program}' $1\""
    );
    let root = nix::unistd::Uid::effective().is_root();
    let drop = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    let script = if root { format!("exec {drop} {script}") } else { format!("exec {script}") };
    let arguments = ["-c", &script, "sh"].map(Into::into).to_vec();
    match Sandbox::new(Helper { program: "/bin/sh".into(), arguments }, roomy()) {
        Err(SandboxError::Wall { wall: Wall::Users, .. }) => {}
        Err(SandboxError::Lost { .. }) if kernel_forbids() => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_helper_that_is_none_is_an_error() {
    let helper = |program: &str| Helper { program: program.into(), arguments: vec![] };
    let none = Sandbox::new(helper("/nowhere/helper"), roomy());
    assert!(matches!(none, Err(SandboxError::Helper { .. })), "{none:?}");
    let silent = Sandbox::new(helper("/bin/true"), roomy());
    assert!(matches!(silent, Err(SandboxError::Lost { .. })), "{silent:?}");
    let babble = Sandbox::new(helper("/bin/echo"), roomy());
    let wrong = matches!(babble, Err(SandboxError::Garbled { .. } | SandboxError::Lost { .. }));
    assert!(wrong, "{babble:?}");
}
