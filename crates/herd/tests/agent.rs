//! `herd agent` and `herd mcp` on a tiny model; Python behind walls; documents that lie.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::{herd, run};
use herd_codec::chat::ToolCall;
use herd_sandbox::{Helper, Limits, Sandbox};
use herd_serve::agent::documents::{DocumentError, UNPACKED_BYTES, read};
use herd_serve::agent::functions;
use herd_serve::agent::tools::{Given, Ran, Tools, python_limits};
use serde_json::{Value, json};
use zip::write::SimpleFileOptions;

fn sandbox(limits: Limits) -> Sandbox {
    let helper = Helper { program: env!("CARGO_BIN_EXE_herd").into(), arguments: vec![] };
    Sandbox::new(helper, limits).unwrap()
}

fn python(limits: Limits, files: Vec<Given>) -> Tools {
    let mut tools = Tools::none();
    tools.add_python(sandbox(limits), files).unwrap();
    tools
}

fn execute(tools: &Tools, code: &str) -> Ran {
    let arguments = [("code".to_owned(), json!(code))].into_iter().collect();
    tools.run(&ToolCall { id: None, name: "code_interpreter".into(), arguments })
}

#[test]
fn python_remembers_prints_values_and_exchanges_files() {
    let docx =
        packed(&[("word/document.xml", b"<w:p><w:r><w:t>Hello &amp; bye</w:t></w:r></w:p>")]);
    let files = vec![("in.csv".to_owned(), b"a,b\n1,2\n".to_vec()), ("x.docx".to_owned(), docx)];
    let tools = python(python_limits(), files);
    assert_eq!(
        execute(&tools, "import csv\nrows = list(csv.reader(open('in.csv')))").text,
        "(nothing was printed)"
    );
    assert_eq!(execute(&tools, "print(len(rows))\nrows[1]"), Ran::done("2\n['1', '2']"));
    assert_eq!(execute(&tools, "open('x.docx.txt').read()").text, "'Hello & bye\\n'");
    let ran = execute(&tools, "open('out.txt', 'w').write('done')");
    assert_eq!((ran.files[0].name.as_str(), &ran.files[0].bytes[..]), ("out.txt", &b"done"[..]));
    assert_eq!(ran.text, "4\n[file out.txt, 4 bytes]");
    assert!(execute(&tools, "1").files.is_empty(), "a file comes back once");
    let ran = execute(&tools, "1/0");
    assert!(!ran.ok && ran.text.contains("ZeroDivisionError"));
    let ran = execute(&tools, "import socket\nsocket.create_connection(('127.0.0.1', 80))");
    assert!(!ran.ok, "{}", ran.text);
}

#[test]
fn an_endless_loop_is_interrupted_and_a_killed_interpreter_is_followed_by_another() {
    let limits = Limits { wall: Duration::from_millis(700), ..python_limits() };
    let tools = python(limits, vec![("in.txt".to_owned(), b"x".to_vec())]);
    execute(&tools, "x = 5");
    let ran = execute(&tools, "while True: pass");
    assert!(!ran.ok && ran.text.contains("its time was over"), "{}", ran.text);
    assert_eq!(execute(&tools, "x").text, "5");
    let ran = execute(&tools, "import os\nos._exit(3)");
    assert!(!ran.ok && ran.text.contains("all that was defined is lost"), "{}", ran.text);
    assert!(execute(&tools, "x").text.contains("NameError"));
    assert_eq!(execute(&tools, "open('in.txt').read()").text, "'x'");
}

#[test]
fn functions_of_a_file_run_in_the_sandbox() {
    let source = "seen = []\ndef add(a: int, b: int = 2) -> int:\n    'Adds.'\n    seen.append(a)\n    return a + b\n\
        def greet(name: str):\n    return f'hello {name}, {len(seen)}'\n";
    let mut tools = Tools::none();
    for tool in functions::tools(&sandbox(python_limits()), "f.py", source).unwrap() {
        tools.add(tool).unwrap();
    }
    let call = |name: &str, arguments: Value| {
        let arguments = arguments.as_object().unwrap().clone();
        tools.run(&ToolCall { id: None, name: name.into(), arguments })
    };
    assert_eq!(call("add", json!({"a": 40})), Ran::done("42"));
    assert_eq!(
        call("greet", json!({"name": "\"'); import os #\n"})),
        Ran::done("hello \"'); import os #\n, 1")
    );
    let ran = call("add", json!({"c": 1}));
    assert!(!ran.ok && ran.text.contains("unexpected keyword argument"), "{}", ran.text);
}

fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

#[test]
fn documents_become_text_with_places() {
    let sheet = br#"<row r="1"><c r="A1" t="s"><v>0</v></c><c r="C1"><v>2.5</v></c></row><row r="2"><c r="B2" t="inlineStr"><is><t>a, b</t></is></c></row>"#;
    let book = packed(&[
        ("xl/workbook.xml", br#"<sheets><sheet name="Sales" r:id="r1"/></sheets>"#),
        ("xl/_rels/workbook.xml.rels", br#"<Relationship Id="r1" Target="worksheets/s.xml"/>"#),
        ("xl/sharedStrings.xml", b"<si><t>na</t><t>me</t></si>"),
        ("xl/worksheets/s.xml", sheet),
    ]);
    let parts = read("b.xlsx", &book).unwrap();
    assert_eq!(
        (parts[0].place.as_str(), parts[0].text.as_str()),
        ("sheet Sales", "name,,2.5\n,\"a, b\"\n")
    );
    let parts = read(
        "a.pdf",
        &pdf(b"BT /F1 12 Tf (Hello) Tj 0 -14 Td [(wor) 20 (ld) -300 (\\(x\\))] TJ ET"),
    )
    .unwrap();
    assert_eq!((parts[0].place.as_str(), parts[0].text.trim()), ("page 1", "Hello\nworld (x)"));
}

/// A PDF of one page with this content, packed.
fn pdf(content: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(content).unwrap();
    let packed = packer.finish().unwrap();
    let mut out = b"%PDF-1.4\n1 0 obj <</Type /Catalog /Pages 2 0 R>> endobj\n2 0 obj <</Kids [3 0 R]>> endobj\n\
        3 0 obj <</Type /Page /Contents 4 0 R /Resources <</Font <<>>>>>> endobj\n".to_vec();
    out.extend(
        format!("4 0 obj <</Length {} /Filter /FlateDecode>> stream\n", packed.len()).bytes(),
    );
    out.extend(packed);
    out.extend(b"\nendstream endobj\n");
    out
}

#[test]
fn documents_that_are_cut_or_unpack_without_end_are_errors() {
    let bomb = vec![b' '; UNPACKED_BYTES + 2];
    let large = Err(DocumentError::TooLarge { most: UNPACKED_BYTES });
    assert_eq!(read("a.docx", &packed(&[("word/document.xml", &bomb)])), large);
    assert_eq!(read("a.pdf", &pdf(&bomb)), large);
    // A short sheet that names a long text again and again.
    let text = format!("<si><t>{}</t></si>", "x".repeat(1 << 20));
    let sheet = "<row><c t=\"s\"><v>0</v></c></row>".repeat(40);
    let book = packed(&[
        ("xl/workbook.xml", br#"<sheet name="S" r:id="r1"/>"#),
        ("xl/_rels/workbook.xml.rels", br#"<Relationship Id="r1" Target="s.xml"/>"#),
        ("xl/sharedStrings.xml", text.as_bytes()),
        ("xl/s.xml", sheet.as_bytes()),
    ]);
    assert_eq!(read("a.xlsx", &book), large);
    let whole = [
        ("a.xlsx", book),
        ("a.pdf", pdf(b"(x) Tj")),
        ("a.docx", packed(&[("word/document.xml", b"<w:t>x")])),
    ];
    for (name, bytes) in &whole {
        for cut in (0..bytes.len()).step_by(bytes.len() / 50 + 1) {
            let _ = read(name, &bytes[..cut]); // an answer or an error, no panic
        }
    }
    let nested =
        [b"%PDF-1.4\n1 0 obj ".to_vec(), b"[".repeat(1 << 20), b"<<".repeat(1 << 20)].concat();
    for (name, bytes) in [
        ("a.pdf", &nested[..]),
        ("a.docx", b"PK\x05\x06"),
        ("a.txt", b"\xff\xfe"),
        ("a.pdf", b"%PDF-"),
    ] {
        assert!(read(name, bytes).is_err(), "{name}");
    }
}

fn agent(home: &Path, model: &Path, more: &[&str]) -> (i32, String, String) {
    let model = model.to_str().unwrap();
    run(home, &[&["agent", "-m", model, "-n", "12", "--seed", "3", "--temp", "1"], more].concat())
}

#[test]
fn a_run_is_told_as_events_recorded_replayed_and_exported() {
    let (home, model) = tiny::home();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (kept, rows) = (path("kept.sqlite"), path("rows.jsonl"));
    let flags = ["--tools", "calc", "-p", "hi", "--json", "--record", &kept, "--export", &rows];
    let (code, out, err) = agent(home.path(), &model, &flags);
    assert_eq!(code, 0, "{err}");
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.last().unwrap()["type"], "end");
    let (code, out, err) = agent(home.path(), &model, &["--record", &kept, "--replay", "1"]);
    assert_eq!((code, out.as_str()), (0, "1 turns, all equal\n"), "{err}");
    let (code, out, _) = agent(
        home.path(),
        &model,
        &["--record", &kept, "--replay", "1", "--chat-template", "llama2"],
    );
    assert!(code == 2 || out.contains("differs in its prompt"), "{out}");
    let row: Value = serde_json::from_str(fs::read_to_string(&rows).unwrap().trim()).unwrap();
    assert_eq!(row["messages"][1]["content"], "hi");
    // What trains reads the row, and its prompt has the ids that the model was asked with.
    let (code, out, err) =
        run(home.path(), &["preview", "-m", model.to_str().unwrap(), "--input", &rows, "--json"]);
    assert_eq!(code, 0, "{err}");
    let from = row["answers"][0][0].as_u64().unwrap() as usize;
    let prompt = &row["ids"].as_array().unwrap()[..from];
    let shown: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    let ids: Vec<Value> = find_ids(&shown).unwrap();
    assert_eq!(&ids[..from], prompt);
}

/// The first list of ids in a value.
fn find_ids(value: &Value) -> Option<Vec<Value>> {
    match value {
        Value::Object(map) => match map.get("ids") {
            Some(Value::Array(ids)) => Some(ids.clone()),
            _ => map.values().find_map(find_ids),
        },
        Value::Array(items) => items.iter().find_map(find_ids),
        _ => None,
    }
}

#[test]
fn tools_and_rules_that_are_not_there_are_refused_by_name() {
    let (home, model) = tiny::home();
    for (more, wanted) in [
        (&["--tools", "frob"][..], "a tool is \"frob\""),
        (&["--tools", "mcp:x"], "has no [mcp.x]"),
        (&["--tools", "calc,calc"], "two of that name"),
        (&["--tools", "calc", "--approve", "python=ask"], "\"python\""),
        (&["--tools", "calc", "--approve", "perhaps"], "always, ask, never"),
    ] {
        let (code, _, err) = agent(home.path(), &model, &[more, &["-p", "x"]].concat());
        assert!(code == 2 && err.contains(wanted), "{more:?}: {err}");
    }
}

#[test]
fn another_program_uses_our_tools() {
    let home = tempfile::tempdir().unwrap();
    let mut child = herd(home.path())
        .args(["mcp", "--tools", "calc"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "calc", "arguments": {"query": "6*7"}}});
    child.stdin.take().unwrap().write_all(format!("{message}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["result"]["content"][0]["text"], "42");
}
