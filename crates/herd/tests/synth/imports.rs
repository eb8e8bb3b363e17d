//! Files that a repository lacks.

use super::*;

/// A repository whose `core.py` six files need; one more does not parse.
fn repository() -> Value {
    json!({
        "shop/__init__.py": "from .core import Price\n",
        "shop/core.py": "import json\n\nTAX = 0.2\n\ndef load(path):\n    return json.load(open(path))\n\nclass Price:\n    pass\n",
        "shop/cart.py": "from shop.core import Price, load\n\nclass Cart(Price):\n    pass\n",
        "shop/bill.py": "from . import core\n\ndef bill(x):\n    return x * (1 + core.TAX)\n",
        "shop/deep/__init__.py": "",
        "shop/deep/stock.py": "from ..core import *\nimport logging\n",
        "shop/logging.py": "LEVEL = 1\n",
        "tests/test_core.py": "import shop.core\n\nassert shop.core.load\n",
        "tools/run.py": "import shop.core as c\n\nc.load('x')\nc.nothing\n",
        "tools/alone.py": "print('core')\n",
        "tools/broken.py": "from shop.core import (\n",
        "README.md": "from shop.core import nothing",
    })
}

const USERS: [&str; 6] = [
    "shop/__init__.py",
    "shop/bill.py",
    "shop/cart.py",
    "shop/deep/stock.py",
    "tests/test_core.py",
    "tools/run.py",
];

const CORE: &str = "TAX = 0.2\nload = print\nif TAX:\n    class Price:\n        pass";

/// Who writes the missing file again, and how is in the files.
fn restorer(prompt: &str, _seed: u64) -> Reply {
    let is = |word: &str| prompt.contains(word);
    assert!(
        is("`shop/core.py` is missing") && !is("return json.load") && !is("broken.py"),
        "{prompt}"
    );
    assert!(
        (!is("bill.py") || is("x * (1 + core.TAX)")) && is("print('core')") && !is("README"),
        "{prompt}"
    );
    let list = |users: &[&str]| format!("Files:\n- {}\n", users.join("\n- `"));
    let users = list(&USERS);
    match prompt {
        _ if is("<fewer>") => says(list(&USERS[1..]) + &python(CORE)),
        _ if is("<more>") => says(format!("{users}- tools/alone.py\n{}", python(CORE))),
        _ if is("<codeless>") => says(users),
        _ if is("<syntax>") => says(users + &python("class (")),
        _ if is("<nameless>") => says(users + &python("TAX = 0.2\nload = print")),
        _ if is("<endless>") => Reply::CutOff(users),
        _ => says(users + &python(CORE)),
    }
}

#[test]
fn missing_files_are_written_again_by_who_knows_what_depends_on_them() {
    let folder = begin_synth(&[], "[imports]\nk = 1\n");
    let folder = folder.path();
    let ways = ["right", "fewer", "more", "codeless", "syntax", "nameless", "endless"];
    let with = |files: Value, way: &str| {
        let mut files = files;
        files["way.py"] = format!("# <{way}>\n").into();
        files
    };
    let mut lines =
        ways.map(|way| json!({ "files": with(repository(), way) }).to_string()).to_vec();
    let mut small = repository();
    small.as_object_mut().unwrap().remove("tools/run.py");
    small.as_object_mut().unwrap().remove("shop/bill.py");
    lines.push(json!({ "files": small }).to_string());
    fs::write(folder.join("input.jsonl"), lines.join("\n")).unwrap();
    // And one that is a folder.
    for (path, text) in repository().as_object().unwrap() {
        let path = folder.join("checkout").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.as_str().unwrap()).unwrap();
    }
    let writer = Writer::new(restorer);
    let input = "input=[\"input.jsonl\", \"checkout\"]";
    let told = summary(command(folder, "imports", &writer.url, "out", &[input]));
    let wanted = pairs(&[
        ("restore", "users_missing"),
        ("restore", "users_wrong"),
        ("restore", "no_code"),
        ("restore", "syntax"),
        ("restore", "names_missing"),
        ("restore", "cut_off"),
        ("graph", "no_hub"),
    ]);
    assert_eq!((&told["rows"], fallen(folder, "out")), (&json!(2), wanted), "{told}");
    let made = rows(&folder.join("out/rows.jsonl"));
    assert_eq!((&made[0]["missing"], &made[0]["users"]), (&json!("shop/core.py"), &json!(USERS)));
    assert_eq!(made[1]["provenance"]["file"], "checkout");
    // The log has the hashes of what stands in the input.
    let log = fs::read_to_string(folder.join("out/rows.asked.jsonl")).unwrap();
    assert!(log.contains("repository.json") && !log.contains("return json.load"));
    // Settings: how many must depend on it, and how much is shown.
    let few = summary(command(folder, "imports", &writer.url, "few", &["imports.users_min=4"]));
    assert_eq!(few["steps"]["graph"], json!({ "passed": 8, "failed": {} }), "{few}");
    let long = summary(command(
        folder,
        "imports",
        &writer.url,
        "long",
        &["imports.repository_bytes=[0, 64]"],
    ));
    assert_eq!(long["steps"]["repository"]["failed"], json!({ "long": 7 }), "{long}");
    // One that is too much as JSON falls, and the run goes on.
    fs::create_dir(folder.join("bulk")).unwrap();
    fs::write(folder.join("bulk/a.py"), vec![1; 6 << 20]).unwrap();
    let both = "input=[\"bulk\", \"checkout\"]";
    let bulk = summary(command(folder, "imports", &writer.url, "bulk-out", &[both]));
    let wanted = pairs(&[("graph", "long")]);
    assert_eq!((&bulk["rows"], fallen(folder, "bulk-out")), (&json!(1), wanted), "{bulk}");
    fs::write(folder.join("checkout/shop/core.py"), "x = 1\n").unwrap();
    let err = fails(command(folder, "imports", &writer.url, "out", &[input]));
    assert!(err.contains("begun.input was"), "{err}");
}
