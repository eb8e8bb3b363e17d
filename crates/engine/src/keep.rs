//! How the engine's pages come to the shelf and back.

use crate::engine::Engine;
use crate::job::Job;
use crate::pages::{Name, Pages, Table};
use crate::shelf::{Shelf, ShelfSettings};
use sha2::{Digest, Sha256};
use std::io;

/// The version of all arithmetic: kernels, the model's page, the cache's formats. It is raised with each change that
/// moves a bit of a key or value; pages of another version are not found.
const ARITHMETIC: u32 = 1;

/// What decides the numbers of a page beside its tokens: the files, what is `said` of how they are run, this program.
fn root(files: &Name, said: &str, arithmetic: u32) -> Name {
    let program = format!(" {} {arithmetic}", env!("CARGO_PKG_VERSION"));
    Sha256::new().chain_update(files).chain_update(said).chain_update(program).finalize().into()
}

impl Engine {
    /// From now on pages are looked for on disk as well, and kept there.
    ///
    /// Errors: a folder that cannot be used, or that another engine uses. Panics if a request was taken before.
    pub fn keep_pages(&mut self, settings: ShelfSettings) -> io::Result<()> {
        assert!(self.is_idle(), "pages are kept from the start or not");
        let root = self.root(&settings.identity);
        self.shelf = Some(Shelf::open(settings, &root, self.cache.page_bytes())?);
        self.pages = Pages::new(self.limits.pages(), self.limits.page_len).rooted(root);
        Ok(())
    }

    fn root(&self, identity: &Name) -> Name {
        let (config, limits) = (self.model.config(), self.limits);
        let class = self.model.device().class().name();
        // Dynamic RoPE scaling depends on the context.
        let said =
            format!("{config:?} {:?} {} {} {class}", limits.kv, limits.page_len, limits.context);
        root(identity, &said, ARITHMETIC)
    }

    /// Pages that a job can take over, in memory and on disk, and the positions they cover.
    pub(crate) fn reuse(&mut self, job: &Job) -> (Table, usize) {
        let tokens = job.reusable();
        let (mut table, mut covered) = self.pages.reuse(tokens);
        let Some(shelf) = &mut self.shelf else { return (table, covered) };
        while let Some(name) = self.pages.next_name(&table, tokens) {
            // A page behind it may be in memory alone.
            let end = covered + self.limits.page_len;
            if self.pages.available() == 0 || !shelf.has(&name) {
                break;
            }
            let Some(bytes) = shelf.read(&name) else { break };
            if !self.pages.grow(&mut table, end) {
                break;
            }
            let page = *table.pages.last().expect("it has grown");
            self.cache.write_page(page, &bytes);
            self.pages.register(&mut table, &tokens[..end]);
            covered = end;
        }
        (table, covered)
    }

    /// Writes up to `most` known pages that are not on disk, the most wanted first; how many were taken.
    ///
    /// While requests run only pages that were taken over by another than their first are worth it. Only as many of
    /// the most wanted as the folder holds are looked at, so that repeated calls come to an end. `wait` waits for
    /// the disk.
    pub fn shelve(&mut self, most: usize, wait: bool) -> usize {
        let Some(shelf) = &mut self.shelf else { return 0 };
        let busy = !self.running.is_empty();
        let worth_it = self.pages.known(busy).take(shelf.room());
        let missing: Vec<Name> = worth_it.filter(|name| !shelf.has(name)).take(most).collect();
        let mut taken = 0;
        for name in missing {
            let Some(page) = self.pages.find(&name) else { continue };
            if !shelf.write(name, self.cache.read_page(page), wait) {
                break;
            }
            taken += 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_another_arithmetic_have_other_names() {
        let names = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1)]
            .map(|(files, said, arithmetic)| root(&[files; 32], said, arithmetic));
        let different: std::collections::HashSet<Name> = names.into_iter().collect();
        assert_eq!(different.len(), names.len());
    }
}
