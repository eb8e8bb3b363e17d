//! Trajectories with tools.

use super::*;
use std::os::unix::ffi::OsStrExt;

#[test]
fn trajectories_make_their_calls_and_use_what_comes_back() {
    let ways = ["one", "two", "eager", "mute", "broken", "silent", "deaf", "tireless", "badterm"];
    let texts = ways.map(|way| format!("a snippet <{way}>"));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let folder = begin_synth(&texts, "[tools]\ncalls = [1, 2]\n");
    let folder = folder.path();
    let writer = Writer::new(|prompt: &str, _| {
        let is = |word: &str| prompt.contains(word);
        let outputs = prompt.matches("Output:").count();
        match prompt {
            _ if is("Invent a question") => {
                let word = prompt.split('<').nth(1).unwrap().split('>').next().unwrap();
                says(format!("What is 6 times 7, <{word}>?"))
            }
            _ if is("<eager>") => says("Answer: 42"),
            _ if is("<mute>") => says("Let me think."),
            _ if is("<broken>") => says(python("print(1 / 0)")),
            _ if is("<silent>") => says(python("a = 6 * 7")),
            _ if is("<badterm>") => says("Calculator: six times seven"),
            _ if is("<tireless>") => says("Calculator: 6 * 7"),
            _ if is("<two>") && outputs == 0 => says("First:\nCalculator: 3 * 7"),
            _ if is("<two>") && outputs == 1 => says(python("print(21 * 2)")),
            _ if outputs == 0 => says(python("print(6 * 7)")),
            _ if is("<deaf>") => says("Answer: It is 41."),
            _ => says("Answer: It is 42."),
        }
    });
    let told = summary(command(folder, "tools", &writer.url, "out", &[]));
    assert_eq!(told["told"], json!({ "multi_step": 1, "single_step": 1 }), "{told}");
    let wanted = pairs(&[
        ("act", "too_few_calls"),
        ("act", "no_call"),
        ("call", "failed"),
        ("call", "no_output"),
        ("answer", "ignores_output"),
        ("act", "too_many_calls"),
        ("call", "failed"),
    ]);
    assert_eq!(fallen(folder, "out"), wanted);
    let made = rows(&folder.join("out/rows.jsonl"));
    let roles: Vec<&str> = made[1]["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant", "tool", "assistant"]);
    assert_eq!(made[1]["messages"][3]["content"], "21");
    assert_eq!(made[0]["messages"][0]["content"], "Environment: ipython");
    // Llama 3.1 has a form for all of it.
    let trained = begin();
    done(&mut pretrain(trained.path(), "base", &[]));
    let mut preview = herd(trained.path());
    preview.args([
        "preview",
        "-m",
        "base/checkpoints/step-12",
        "--chat-template",
        "llama3.1",
        "-i",
    ]);
    let preview = preview.arg(folder.join("out/rows.jsonl")).stdout(Stdio::piped());
    let output = preview.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{err}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("<|eom_id|>"));
}

#[test]
fn trajectories_over_an_uploaded_file_read_it() {
    let folder = begin_synth(&[], "[tools]\nuploads = true\ncalls = [1, 2]\n");
    let folder = folder.path();
    let ways = ["sum", "steps", "blind", "lost", "deaf"];
    fs::create_dir(folder.join("up")).unwrap();
    for way in ways {
        let table = "name,coins\nAda,40\nBob,2\n";
        fs::write(folder.join(format!("up/{way}.csv")), table).unwrap();
    }
    fs::write(folder.join("up/main.py"), "X = 42\n").unwrap();
    fs::write(folder.join("up/picture.png"), [0xff, 0xd8]).unwrap();
    let read = "import csv\nprint(sum(int(r['coins']) for r in csv.DictReader(open(NAME))))";
    let writer = Writer::new(move |prompt: &str, _| {
        let is = |word: &str| prompt.contains(word);
        let name = prompt.split('`').nth(1).unwrap().to_owned();
        let outputs = prompt.matches("Output:").count();
        let read = read.replace("NAME", &format!("{name:?}"));
        if is("Invent a question") {
            assert!(is("Ada,40") || is("X = 42"), "{prompt}");
            return says(format!("How many coins are there in all, `{name}`?"));
        }
        // Who answers has not seen the file.
        assert!(is(&format!("uploaded a file; your programs find it as `{name}`")));
        match name.as_str() {
            "blind.csv" if outputs == 0 => says(python("print(42)")),
            "lost.csv" => says(python("open('other.csv')")),
            "steps.csv" if outputs == 0 => says(python("print(open('steps.csv').read())")),
            "steps.csv" if outputs == 1 => {
                assert!(is("Ada,40"), "{prompt}");
                says("Calculator: 40 + 2")
            }
            "main.py" if outputs == 0 => {
                says(python("scope = {}\nexec(open('main.py').read(), scope)\nprint(scope['X'])"))
            }
            _ if outputs == 0 => says(python(&read)),
            "deaf.csv" => says("Answer: 41 coins."),
            _ => says("Answer: There are 42 coins."),
        }
    });
    let told = summary(command(folder, "tools", &writer.url, "out", &["input=[\"up\"]"]));
    assert_eq!(told["told"], json!({ "multi_step": 1, "single_step": 2 }), "{told}");
    let wanted = [("answer", "ignores_upload"), ("answer", "ignores_output"), ("call", "failed")];
    assert_eq!(fallen(folder, "out"), pairs(&wanted));
    let made = rows(&folder.join("out/rows.jsonl"));
    let asked = made[0]["messages"][1]["content"].as_str().unwrap();
    assert!(
        asked.contains("How many coins") && asked.ends_with("(uploaded file: main.py)"),
        "{asked}"
    );
    assert_eq!(made[2]["provenance"]["file"], "sum.csv");
    // A name that the sandbox does not take: as text it is three times as long.
    fs::create_dir(folder.join("odd")).unwrap();
    let name = std::ffi::OsStr::from_bytes(&[&[0xff; 100][..], b".csv"].concat()).to_owned();
    fs::write(folder.join("odd").join(name), "name,coins\nAda,40\n").unwrap();
    summary(command(folder, "tools", &writer.url, "odd-out", &["input=[\"odd\"]"]));
    assert_eq!(fallen(folder, "odd-out"), pairs(&[("program", "refused")]));
    let err = fails(command(folder, "tools", &writer.url, "png", &["input=[\"up/picture.png\"]"]));
    assert!(err.contains("picture.png"), "{err}");
    fs::write(folder.join("up/bad.txt"), [0xff, 0xd8]).unwrap();
    let err = fails(command(folder, "tools", &writer.url, "bad", &["input=[\"up\"]"]));
    assert!(err.contains("not UTF-8 at byte 0"), "{err}");
    let set = ["input=[\"up\"]", "chat.skip_bad=true", "items_max=1", "tools.upload_bytes=23"];
    let kept = summary(command(folder, "tools", &writer.url, "kept", &set));
    assert_eq!(kept["dropped"], json!({ "not_utf8": 1, "too_long": 3 }), "{kept}");
}
