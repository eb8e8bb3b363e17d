//! Flags of verbs that ask a writer and write rows.

use std::path::{Path, PathBuf};

use herd_data::disk::make_folder;
use herd_tensor::Device;

use crate::error::Error;
use crate::{flags, training};

/// Flags of verbs that ask a writer and write rows.
#[derive(Debug, clap::Args)]
pub struct RowsFlags {
    /// The settings, in TOML
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The file of rows; the same command takes up what it finds there
    #[arg(long, value_name = "ROWS.jsonl")]
    pub out: PathBuf,
    /// Override a setting: `--set sample.temperature=0.5`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = training::pair)]
    pub set: Vec<(String, String)>,
    /// Threads that compute [default: as many as the machine lends]
    #[arg(short, long, value_name = "N")]
    threads: Option<usize>,
    /// The numeric class: portable, avx2, avx512 or amx [default: $HERD_CLASS, else the fastest]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
}

impl RowsFlags {
    /// The folder that the settings' paths are relative to.
    pub fn base(&self) -> &Path {
        self.config.parent().unwrap_or(Path::new("."))
    }

    /// The device asked for.
    pub fn device(&self) -> Result<Device, Error> {
        let class = flags::class(self.class.as_deref())?;
        Ok(Device::cpu(class, flags::threads(self.threads)?))
    }

    /// Makes the folder of the file of rows. Errors: a name without an ending leaves none for the files beside it.
    pub fn make_folder(&self) -> Result<(), Error> {
        if self.out.extension().is_none() {
            let expected = "a file such as ROWS.jsonl".to_owned();
            let got = self.out.display().to_string();
            return Err(Error::Value { what: "--out", got, expected });
        }
        match self.out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => make_folder(folder).map_err(Error::io("make", folder)),
            None => Ok(()),
        }
    }
}
