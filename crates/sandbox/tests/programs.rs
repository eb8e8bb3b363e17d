//! Programs that do what they should: input, output, files, Python, sessions.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::time::Duration;

use herd_sandbox::{Ended, Found, Helper, Limits, Program, Python, Sandbox, SandboxError, Session};

fn sandbox(limits: Limits) -> Option<Sandbox> {
    let program = env!("CARGO_BIN_EXE_herd-sandbox-helper").into();
    match Sandbox::new(Helper { program, arguments: vec![] }, limits) {
        Ok(sandbox) => Some(sandbox),
        Err(error @ SandboxError::Wall { .. }) => {
            eprintln!("not tested, since nothing would run here: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A session; none where walls or Python are missing.
fn session(limits: Limits) -> Option<Session> {
    match Session::open(&sandbox(limits)?, Python::Bare, &[("given.txt", b"given")]) {
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
    let Some(sandbox) = sandbox(Limits::USUAL) else { return };
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
    let Some(sandbox) = sandbox(Limits::USUAL) else { return };
    for signal in [6, 9, 11, 15, 34, 64] {
        let code = format!("kill -{signal} $$; sleep 5");
        let program = Program { command: &["sh", "-c", &code], ..Program::default() };
        assert_eq!(sandbox.run(&program).unwrap().ended, Ended::Signalled(signal));
    }
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let Some(sandbox) = sandbox(Limits::USUAL) else { return };
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
    let Some(sandbox) = sandbox(Limits::USUAL) else { return };
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
fn python_runs_or_is_said_to_be_missing() {
    let Some(sandbox) = sandbox(Limits::USUAL) else { return };
    match sandbox.python("print(sum(map(int, input().split())))", b"1 2 3", Python::Packages) {
        Ok(outcome) => assert_eq!(outcome.stdout.text(), "6\n", "{outcome:?}"),
        Err(SandboxError::NotFound { name }) => assert_eq!(name, "python3"),
        Err(error) => panic!("{error}"),
    }
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
    let limits = Limits { wall: Duration::from_millis(500), ..Limits::USUAL };
    let Some(mut session) = session(limits) else { return };
    session.execute("x = 1").unwrap();
    let code = "print('before', flush=True)\nimport time\nwhile True: time.sleep(0.01)";
    let answer = session.execute(code).unwrap();
    assert!(answer.interrupted && answer.error.unwrap().contains("KeyboardInterrupt"));
    assert_eq!(answer.stdout.text(), "before\n");
    assert_eq!(session.execute("x").unwrap().result.as_deref(), Some("1"));
    let stubborn = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass";
    assert!(matches!(session.execute(stubborn), Err(SandboxError::Over { .. })));
    assert!(matches!(session.execute("x"), Err(SandboxError::Over { .. })));
    assert!(matches!(session.files(), Err(SandboxError::Over { .. })));
}

#[test]
fn a_session_that_ends_or_lies_is_over() {
    for code in [
        "import os; os._exit(3)",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.write(4, b'{\"forged\": 1}\\n')",
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
