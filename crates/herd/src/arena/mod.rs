//! What `herd arena` does between the page, the engine and the counting of votes.

pub mod answers;
pub mod export;
pub mod judge;
pub mod prompts;
pub mod report;

use std::path::Path;

use herd_serve::arena::Ballots;

use crate::error::Error;

/// Opens an arena's file that must be there.
///
/// Errors: it is not, or is no such file.
pub fn open(path: &Path) -> Result<Ballots, Error> {
    std::fs::metadata(path).map_err(Error::io("open", path))?;
    Ok(Ballots::open(path)?)
}
