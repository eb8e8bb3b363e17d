//! The tools of an agent as flags name them: which, over which files, and whether they may run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use herd_sandbox::{Helper, Sandbox};
use herd_serve::agent::config::{Config, Fetch, Fetched, Sent};
use herd_serve::agent::search::{self, Embed, Index};
use herd_serve::agent::tools::{Given, Tools, python_limits};
use herd_serve::agent::{functions, mcp};

use crate::console::{Console, visible};
use crate::error::Error;

/// Flags that name tools.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Tools")]
pub struct ToolFlags {
    /// Tools, with commas between: search, python, calc, mcp:NAME, http:NAME, or a file of Python functions
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub tools: Vec<String>,
    /// Files and folders that search and python get
    #[arg(long, num_args = 1.., value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Whether tools may run: always, ask or never; TOOL=RULE for one [default: always in the sandbox, ask beyond it]
    #[arg(long, value_name = "RULE")]
    pub approve: Vec<String>,
    /// What mcp:NAME and http:NAME mean: a file of TOML
    #[arg(long, value_name = "FILE")]
    pub tools_config: Option<PathBuf>,
}

/// Bytes of all files together.
const FILES_BYTES: u64 = 256 << 20;
/// Bytes of files that Python gets: its folder lies in memory.
const PYTHON_BYTES: u64 = 48 << 20;

/// What tools are made of: the flags, and the files that they name, read once.
pub struct Toolbox {
    flags: ToolFlags,
    /// Files that Python gets; empty where it is not among the tools.
    files: Vec<Given>,
    index: Option<Arc<Index>>,
    offline: bool,
}

impl Toolbox {
    /// Reads what the flags name. `embed` gives the vectors of texts, where search is to have them.
    pub fn open(
        flags: &ToolFlags,
        embed: Option<&Embed>,
        offline: bool,
        console: &Console,
    ) -> Result<Toolbox, Error> {
        let mut files = read_files(&flags.files)?;
        let wanted = |name: &str| flags.tools.iter().any(|tool| tool == name);
        let mut index = None;
        if wanted("search") {
            let (made, left_out) = search::index(&files, embed)?;
            for line in left_out {
                console.note(format!("left out of the search: {}", visible(&line)));
            }
            index = Some(Arc::new(made));
        }
        match wanted("python") {
            true => check_size(&files)?,
            false => files.clear(),
        }
        Ok(Toolbox { flags: flags.clone(), files, index, offline })
    }

    /// Tools of their own for a conversation that brings these files. `embed` gives the vector of a question.
    pub fn tools(&self, brought: &[Given], mut embed: Option<Embed>) -> Result<Tools, Error> {
        let mut tools = Tools::none();
        for name in &self.flags.tools {
            match name.as_str() {
                "calc" => tools.add_calc()?,
                "python" => {
                    let own = |(name, _): &&Given| !brought.iter().any(|(other, _)| other == name);
                    let mut files: Vec<Given> = self.files.iter().filter(own).cloned().collect();
                    files.extend(brought.iter().cloned());
                    check_size(&files)?;
                    tools.add_python(python_sandbox()?, files)?;
                }
                "search" => {
                    let mut indexes: Vec<Arc<Index>> = self.index.iter().cloned().collect();
                    if !brought.is_empty() {
                        // What cannot be read is not found; Python has it all the same.
                        indexes.insert(0, Arc::new(search::index(brought, None)?.0));
                    }
                    tools.add(search::tool(indexes, embed.take()))?;
                }
                name => add_named(&mut tools, name, &self.flags, self.offline)?,
            }
        }
        for rule in &self.flags.approve {
            tools.allow(rule)?;
        }
        Ok(tools)
    }
}

fn add_named(tools: &mut Tools, name: &str, flags: &ToolFlags, offline: bool) -> Result<(), Error> {
    if name.ends_with(".py") {
        let path = Path::new(name);
        let source = fs::read_to_string(path).map_err(Error::io("read", path))?;
        for tool in functions::tools(&python_sandbox()?, name, &source)? {
            tools.add(tool)?;
        }
        return Ok(());
    }
    let config = match &flags.tools_config {
        None => Config::default(),
        Some(path) => Config::read(&fs::read_to_string(path).map_err(Error::io("read", path))?)?,
    };
    let variable = |name: &str| std::env::var(name).ok();
    if let Some(server) = name.strip_prefix("mcp:") {
        let place = config.place(server, &fetch(offline), &variable)?;
        for tool in mcp::tools(server, place)? {
            tools.add(tool)?;
        }
        return Ok(());
    }
    if let Some(address) = name.strip_prefix("http:") {
        return Ok(tools.add(config.http(address, &fetch(offline), &variable)?)?);
    }
    let expected =
        "search, python, calc, mcp:NAME, http:NAME or a file that ends in .py".to_owned();
    Err(Error::Value { what: "a tool", got: name.to_owned(), expected })
}

fn python_sandbox() -> Result<Sandbox, Error> {
    Ok(Sandbox::new(Helper::this_program()?, python_limits())?)
}

fn check_size(files: &[Given]) -> Result<(), Error> {
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    if bytes > PYTHON_BYTES {
        let expected = format!("at most {PYTHON_BYTES} where python is among the tools");
        return Err(Error::Value { what: "the bytes of files", got: bytes.to_string(), expected });
    }
    Ok(())
}

/// The files, those of folders by their path from there, in the order of their names. Links are not followed.
fn read_files(paths: &[PathBuf]) -> Result<Vec<Given>, Error> {
    let (mut files, mut bytes) = (Vec::new(), 0);
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = path.is_dir();
        read_into(path, if folder { "" } else { &name }, &mut files, &mut bytes)?;
    }
    Ok(files)
}

fn read_into(
    path: &Path,
    name: &str,
    files: &mut Vec<Given>,
    bytes: &mut u64,
) -> Result<(), Error> {
    if !path.is_dir() {
        *bytes += fs::metadata(path).map_err(Error::io("read", path))?.len();
        if *bytes > FILES_BYTES {
            let (got, expected) =
                (path.display().to_string(), format!("{FILES_BYTES} bytes in all"));
            return Err(Error::Value { what: "--files", got, expected });
        }
        files.push((name.to_owned(), fs::read(path).map_err(Error::io("read", path))?));
        return Ok(());
    }
    let entries: Result<Vec<_>, _> = fs::read_dir(path).map_err(Error::io("read", path))?.collect();
    let mut entries = entries.map_err(Error::io("read", path))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let own = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(Error::io("read", &entry.path()))?;
        if kind.is_symlink() || own.starts_with('.') {
            continue;
        }
        let name = if name.is_empty() { own } else { format!("{name}/{own}") };
        read_into(&entry.path(), &name, files, bytes)?;
    }
    Ok(())
}

/// Goes online, if that is allowed.
fn fetch(offline: bool) -> Fetch {
    Arc::new(move |sent: &Sent| {
        if offline {
            return Err("--offline forbids it".to_owned());
        }
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0) // a key goes to the address that was named, and nowhere else
            .timeout_global(Some(sent.patience))
            .user_agent(concat!("herd/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let told = match &sent.body {
            None => {
                let request = agent.get(&sent.url);
                let with = |r: ureq::RequestBuilder<_>, (n, v): &(String, String)| r.header(n, v);
                sent.headers.iter().fold(request, with).call()
            }
            Some(body) => {
                let request = agent.post(&sent.url).header("Content-Type", "application/json");
                let with = |r: ureq::RequestBuilder<_>, (n, v): &(String, String)| r.header(n, v);
                sent.headers.iter().fold(request, with).send(body)
            }
        };
        let told = told.map_err(|e| e.to_string())?;
        let status = told.status().as_u16();
        let text = |value: &ureq::http::HeaderValue| {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        let headers = told.headers().iter().map(|(n, v)| (n.to_string(), text(v))).collect();
        let mut body = told.into_body();
        let body =
            body.with_config().limit(sent.bytes_max as u64).lossy_utf8(true).read_to_string();
        Ok(Fetched { status, headers, body: body.map_err(|e| e.to_string())? })
    })
}
