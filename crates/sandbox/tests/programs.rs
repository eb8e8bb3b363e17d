//! Programs that do what they should: input, output, files, Python, sessions.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::time::Duration;

use common::{living, marker, wait_until_living, walls};
use herd_sandbox::{Ended, Found, Limits, Program, Python, RunAs, SandboxError, Session};

/// A session; none where walls or Python are missing.
fn session(limits: Limits) -> Option<Session> {
    match Session::open(&walls(limits)?, Python::Bare, &[("given.txt", b"given")]) {
        Ok(session) => Some(session),
        Err(SandboxError::NotFound { .. }) => {
            eprintln!("not tested: /usr holds no python3");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_program_reads_writes_and_gives_files_back() {
    let Some(sandbox) = walls(Limits::USUAL) else { return };
    let code = "cat > out/copy; cat in/a.txt; echo \"$GREETING\" >&2; exit 7";
    let outcome = sandbox
        .run(&Program {
            command: &["sh", "-c", &format!("mkdir out; {code}")],
            stdin: b"from stdin",
            environment: &[("GREETING", "hello there")],
            files: &[("in/a.txt", b"from a file")],
            collect: &["out/copy", "in/a.txt"],
        })
        .unwrap();
    assert_eq!(outcome.ended, Ended::Exited(7));
    assert_eq!(outcome.stdout.text(), "from a file");
    assert_eq!(outcome.stderr.text(), "hello there\n");
    let found = |text: &str| Found::Bytes(text.as_bytes().to_vec());
    let expected = [("out/copy", found("from stdin")), ("in/a.txt", found("from a file"))];
    assert_eq!(outcome.files, expected.map(|(name, found)| (name.to_owned(), found)));
}

#[test]
fn every_signal_is_reported() {
    let Some(sandbox) = walls(Limits::USUAL) else { return };
    for signal in [6, 9, 11, 15, 34, 64] {
        let code = format!("kill -{signal} $$; sleep 5");
        let program = Program { command: &["sh", "-c", &code], ..Program::default() };
        assert_eq!(sandbox.run(&program).unwrap().ended, Ended::Signalled(signal));
    }
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let Some(sandbox) = walls(Limits::USUAL) else { return };
    for name in ["no-such-program", "/etc/passwd", "./nothing", "/work"] {
        let result = sandbox.run(&Program { command: &[name], ..Program::default() });
        let Err(SandboxError::NotFound { name: got }) = result else { panic!("{result:?}") };
        assert_eq!(got, name);
    }
    let result = sandbox.run(&Program::default());
    assert!(matches!(result, Err(SandboxError::Value { .. })), "{result:?}");
}

#[test]
fn a_folder_of_the_machine_can_be_shown() {
    let Some(sandbox) = walls(Limits::USUAL) else { return };
    for wrong in ["relative", "/etc", "/nowhere", "/usr/../var", "/proc/self"] {
        assert!(sandbox.clone().with_readable(&[wrong]).is_err(), "{wrong}");
    }
    let shown = sandbox.with_readable(&["/var/lib/dpkg"]);
    let Ok(shown) = shown else { return }; // no Debian
    let code = "ls /var/lib/dpkg | wc -l; ls /var/lib; echo x > /var/lib/dpkg/x";
    let program = Program { command: &["sh", "-c", code], ..Program::default() };
    let text = shown.run(&program).unwrap().stdout.text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].trim() != "0" && lines[1..] == ["dpkg"], "{lines:?}");
}

#[test]
fn folders_that_are_shown_are_real_and_may_hold_each_other() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let place = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir_all(place("a/b")).unwrap();
    std::fs::write(place("a/b/c"), "seen").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink(place("a"), place("link")).unwrap();
    let Some(sandbox) = walls(Limits::USUAL) else { return };
    let linked = sandbox.clone().with_readable(&[&place("link")]);
    let Err(SandboxError::Value { expected, .. }) = linked else { panic!("{linked:?}") };
    assert_eq!(expected, format!("its real path, {}", place("a")));
    let shown = sandbox.clone().with_readable(&[&place("a/b"), &place("a")]).unwrap();
    let cat = Program { command: &["cat", &place("a/b/c")], ..Program::default() };
    let outcome = shown.run(&cat).unwrap();
    assert_eq!(outcome.stdout.text(), "seen", "{outcome:?}");
    std::fs::remove_dir_all(place("a")).unwrap();
    let gone = shown.run(&cat);
    let Err(SandboxError::Refused { what }) = gone else { panic!("{gone:?}") };
    assert!(what.starts_with(&format!("show {}", place("a"))), "{what}");
}

#[test]
fn what_cannot_be_had_is_said_and_is_no_missing_wall() {
    let Some(sandbox) = walls(Limits { files: 10, ..Limits::USUAL }) else { return };
    let names: Vec<String> = (0..30).map(|n| format!("f{n}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let many = sandbox.run(&Program { command: &["true"], files: &files, ..Program::default() });
    let Err(SandboxError::Refused { what }) = many else { panic!("{many:?}") };
    assert!(what.contains("takes 10 files") && what.contains("No space left"), "{what}");
    let files: &[(&str, &[u8])] = &[("run", b"#!/nowhere\n")];
    let lost = sandbox.run(&Program { command: &["./run"], files, ..Program::default() });
    let Err(SandboxError::Refused { what }) = lost else { panic!("{lost:?}") };
    assert!(what.starts_with("run ") && what.contains("/./run: No such file"), "{what}");
    let long = "x".repeat(200_000);
    let long = sandbox.run(&Program { command: &["echo", &long], ..Program::default() });
    assert!(matches!(long, Err(SandboxError::Value { .. })), "{long:?}");
    let medium = "x".repeat(100_000);
    let command = [&["echo"][..], &[&medium[..]; 10]].concat();
    let outcome = sandbox.run(&Program { command: &command, ..Program::default() }).unwrap();
    assert_eq!(outcome.stdout.bytes.len(), 1_000_010);
    let environment = &[("A", &medium[..]); 11];
    let all = sandbox.run(&Program { command: &["true"], environment, ..Program::default() });
    assert!(matches!(all, Err(SandboxError::Value { .. })), "{all:?}");
}

#[test]
fn files_that_are_given_can_be_run() {
    let Some(sandbox) = walls(Limits::USUAL) else { return };
    let files: &[(&str, &[u8])] = &[("bin/run", b"#!/bin/sh\necho ran \"$1\"\n")];
    let program = Program { command: &["bin/run", "it"], files, ..Program::default() };
    assert_eq!(sandbox.run(&program).unwrap().stdout.text(), "ran it\n");
}

#[test]
fn whether_the_walls_stand_is_no_matter_of_the_programs_time() {
    let hasty = Limits { wall: Duration::from_millis(1), ..Limits::USUAL };
    let Some(sandbox) = walls(hasty) else { return };
    let outcome = sandbox.run(&Program { command: &["sleep", "1000"], ..Program::default() });
    assert_eq!(outcome.unwrap().ended, Ended::WallTime);
}

#[test]
fn python_runs_or_is_said_to_be_missing() {
    let Some(sandbox) = walls(Limits::USUAL) else { return };
    match sandbox.python("print(sum(map(int, input().split())))", b"1 2 3", Python::Packages) {
        Ok(outcome) => assert_eq!(outcome.stdout.text(), "6\n", "{outcome:?}"),
        Err(SandboxError::NotFound { name }) => assert_eq!(name, "python3"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn only_a_program_that_comes_to_its_end_is_said_to() {
    let Some(sandbox) = walls(Limits::USUAL) else { return };
    let whole = |code: &str, run_as| match sandbox.python_to_its_end(code, run_as, Python::Bare) {
        Ok((_, whole)) => Some(whole),
        Err(SandboxError::NotFound { .. }) => None,
        Err(error) => panic!("{error}"),
    };
    let Some(true) = whole("assert 1 + 1 == 2", RunAs::Main) else { return };
    let loud = "print('x' * (1 << 22))\nprint('\\udcff', end='')";
    let classes = "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: 'int'\nA(1)";
    for run_as in [RunAs::Main, RunAs::Module] {
        for code in [loud, classes, "import os; os.write = print"] {
            assert_eq!(whole(code, run_as), Some(true), "{code}");
        }
        for code in [
            "assert False",
            "import sys; sys.exit(0)",
            "import os; os._exit(0)",
            // What it can read, it may say.
            "import os\nfor f in ['main.py', 'driver.py']: os.write(1, open(f, 'rb').read())\nos._exit(0)",
            "import hashlib, os\nword = hashlib.sha256(open('main.py', 'rb').read()).hexdigest()\n\
             os.write(1, word.encode() + b'\\n')\nos._exit(0)",
            "import os, sys\nos.write(1, sys.stdin.buffer.read())\nos._exit(0)",
            "import __main__, os\nos.write(1, __main__.proof.encode())\nos._exit(0)",
        ] {
            assert_eq!(whole(code, run_as), Some(false), "{code}");
        }
    }
    let main = "import __main__\nx = 1\nassert __name__ == '__main__' and __main__.x == 1";
    assert_eq!((whole(main, RunAs::Main), whole(main, RunAs::Module)), (Some(true), Some(false)));
}

#[test]
fn a_session_remembers_and_tells_results_output_and_errors() {
    let Some(mut session) = session(Limits::USUAL) else { return };
    let answer = session.execute("x = 20\nprint('out')\nx + 1").unwrap();
    assert_eq!((answer.stdout.text().as_str(), answer.result.as_deref()), ("out\n", Some("21")));
    let answer = session.execute("import sys, subprocess\nprint(x, file=sys.stderr)\n1 / 0");
    let answer = answer.unwrap();
    assert_eq!(answer.stderr.text(), "20\n");
    let error = answer.error.unwrap();
    assert!(error.contains("ZeroDivisionError") && error.contains("line 3"), "{error}");
    assert!(!error.contains("<string>"), "the driver shows: {error}");
    let answer = session.execute("subprocess.run(['echo', 'from a child']); None").unwrap();
    assert_eq!((answer.stdout.text().as_str(), answer.result), ("from a child\n", None));
    for code in ["raise SystemExit(3)", "def (", "input()", "exit()"] {
        assert!(session.execute(code).unwrap().error.is_some(), "{code}");
    }
    // Half of a surrogate pair is in no text of ours.
    let answer = session.execute("raise ValueError('a \\ud800 b')").unwrap();
    assert!(answer.error.unwrap().ends_with("ValueError: a ? b\n"));
    let code = "class A:\n  def __repr__(self): return '\\udcff'\nA()";
    let answer = session.execute(code).unwrap();
    assert_eq!((answer.result.as_deref(), answer.error), (Some("?"), None));
    assert_eq!(session.execute("x").unwrap().result.as_deref(), Some("20"));
}

#[test]
fn a_session_has_files() {
    let Some(mut session) = session(Limits::USUAL) else { return };
    let code = "t = open('given.txt').read()\nopen('plot.png', 'wb').write(b'\\x89PNG')\n\
                import os; os.symlink('/etc/passwd', 'link'); os.mkfifo('pipe')";
    assert_eq!(session.execute(code).unwrap().error, None);
    let names = [("given.txt".to_owned(), 5), ("plot.png".to_owned(), 4)];
    assert_eq!(session.files().unwrap(), names);
    assert_eq!(session.file("plot.png").unwrap(), Found::Bytes(b"\x89PNG".to_vec()));
    assert_eq!(session.file("link").unwrap(), Found::NotAFile);
    assert_eq!(session.file("pipe").unwrap(), Found::NotAFile);
    assert_eq!(session.file("none").unwrap(), Found::Missing);
    assert!(matches!(session.file("../etc/passwd"), Err(SandboxError::Name { .. })));
}

#[test]
fn a_long_call_is_interrupted_and_the_state_stays() {
    let limits = Limits { wall: Duration::from_secs(2), ..Limits::USUAL };
    let Some(mut session) = session(limits) else { return };
    session.execute("x = 1").unwrap();
    let code = "print('before', flush=True)\nimport time\nwhile True: time.sleep(0.01)";
    let answer = session.execute(code).unwrap();
    assert!(answer.interrupted && answer.error.unwrap().contains("KeyboardInterrupt"));
    assert_eq!(answer.stdout.text(), "before\n");
    // C's `system` is deaf while it waits: as at a terminal, it is its child that hears.
    let answer = session.execute("import os; os.system('sleep 1000')").unwrap();
    assert!(answer.interrupted, "{answer:?}");
    assert_eq!(session.execute("x").unwrap().result.as_deref(), Some("1"));
}

#[test]
fn code_that_does_not_stop_is_killed_with_all_that_it_started() {
    let limits = Limits { wall: Duration::from_secs(1), ..Limits::USUAL };
    let Some(mut session) = session(limits) else { return };
    let marker = marker("stubborn");
    let code = format!(
        "import signal, subprocess; signal.signal(signal.SIGINT, signal.SIG_IGN)\n\
         subprocess.Popen(['sh', '-c', 'sleep 1000; true', '{marker}'], start_new_session=True)\n\
         while True: pass"
    );
    assert!(matches!(session.execute(&code), Err(SandboxError::Over { .. })));
    assert_eq!(living(&marker), 0, "the session is there still");
    assert!(matches!(session.execute("x"), Err(SandboxError::Over { .. })));
    assert!(matches!(session.files(), Err(SandboxError::Over { .. })));
}

#[test]
fn a_session_that_ends_in_a_flood_keeps_nobody_waiting() {
    let Some(mut session) = session(Limits::USUAL) else { return };
    let marker = marker("flood");
    let code = format!(
        "import os, subprocess, threading\n\
         child = subprocess.Popen(['sh', '-c', 'read x; true', '{marker}'], stdin=subprocess.PIPE)\n\
         go = threading.Event()\n\
         def flood(): go.wait(); os.write(4, b'x' * 300000); os._exit(0)\n\
         threading.Thread(target=flood).start()\n\
         threading.Timer(0.3, go.set).start()"
    );
    assert_eq!(session.execute(&code).unwrap().error, None);
    wait_until_living(&marker, false); // the child goes with its parent
    let long = format!("'{}'", "x".repeat(200_000));
    assert!(matches!(session.execute(&long), Err(SandboxError::Over { .. })));
}

/// An answer to this call and one to the next; the driver's own come after them.
const FORGED_TWICE: &str = "import os\nfor n in (2, 2): os.write(4, \
    b'{\"number\": %d, \"stdout\": \"\", \"stderr\": \"\", \"dropped\": [0, 0]}\\n' % n)";

#[test]
fn a_session_that_ends_or_lies_is_over() {
    for code in [
        "import os; os._exit(3)",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.write(4, b'{\"forged\": 1}\\n')",
        FORGED_TWICE,
        "import os; os.closerange(0, 99)",
    ] {
        let Some(mut session) = session(Limits::USUAL) else { return };
        match session.execute(code) {
            Err(SandboxError::Over { .. }) => {}
            // Some of them end it only when it is asked again.
            Ok(_) => {
                let again = session.execute("1");
                assert!(matches!(again, Err(SandboxError::Over { .. })), "{code}: {again:?}");
            }
            Err(error) => panic!("{code}: {error}"),
        }
    }
}

#[test]
fn a_flood_in_a_session_is_cut_and_counted() {
    let limits = Limits { output_bytes: 1000, ..Limits::USUAL };
    let Some(mut session) = session(limits) else { return };
    let answer = session.execute("print('x' * 5000)\n'y' * 5000").unwrap();
    assert_eq!((answer.stdout.bytes.len(), answer.stdout.dropped), (1000, 4001));
    assert_eq!(answer.result.unwrap().len(), 1000);
    assert_eq!(session.execute("1").unwrap().stdout.bytes.len(), 0);
}

#[test]
fn the_processor_time_of_a_session_is_limited_as_a_whole() {
    let limits = Limits { cpu: Duration::from_millis(1500), ..Limits::USUAL };
    let Some(mut session) = session(limits) else { return };
    let code = "import time\nt = time.process_time()\nwhile time.process_time() < t + 0.3: pass";
    let over = (0..20).find_map(|_| session.execute(code).err());
    assert!(matches!(over, Some(SandboxError::Over { .. })), "{over:?}");
}
