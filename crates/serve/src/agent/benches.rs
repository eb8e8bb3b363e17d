//! Tools for each conversation by itself: made when they are first needed, kept while there is room.
//!
//! Tools remember (Python's names, a program's session), so no two conversations have the same ones. The least recently used
//! go, and with them what they remember.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::AgentError;
use super::tools::{Given, Tools};

/// Makes tools over the files that a conversation brings. It may take long.
pub type Make = Box<dyn Fn(&[Given]) -> Result<Tools, AgentError> + Send + Sync>;

/// Conversations whose tools are kept: an interpreter that waits has some 30 MB.
const KEPT_MAX: usize = 16;
/// Calls that run at once; others wait.
const CALLS_MAX: usize = 8;

/// Whose tools they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A conversation of the page.
    Chat(i64),
    /// A session of another program's.
    Session {
        /// The hash of its key; empty where none is wanted.
        owner: String,
        /// Its name.
        id: String,
    },
}

/// The tools of one conversation.
struct Bench {
    whose: Whose,
    /// A hash of the files that they were made over.
    files: u64,
    tools: Arc<Tools>,
}

/// The tools of all conversations.
pub struct Benches {
    make: Make,
    /// Tools that no conversation has, to tell what there is.
    sample: Tools,
    /// The least recently used first.
    kept: Mutex<Vec<Bench>>,
    /// Taken by each call that runs.
    pub calls: Arc<Semaphore>,
}

impl Benches {
    /// Places for tools that `make` makes. Errors: it makes none.
    pub fn new(make: Make) -> Result<Benches, AgentError> {
        let sample = make(&[])?;
        let calls = Arc::new(Semaphore::new(CALLS_MAX));
        Ok(Benches { make, sample, kept: Mutex::default(), calls })
    }

    /// What there is. Nothing is to be run by it.
    pub fn sample(&self) -> &Tools {
        &self.sample
    }

    /// Tools of nobody's, for one call.
    pub fn fresh(&self) -> Result<Tools, AgentError> {
        (self.make)(&[])
    }

    /// The tools of a conversation that has these files: other files, other tools. Errors: they cannot be had.
    pub fn of(&self, whose: &Whose, files: &[Given]) -> Result<Arc<Tools>, AgentError> {
        let mut hash = DefaultHasher::new();
        files.hash(&mut hash);
        let hash = hash.finish();
        if let Some(tools) = self.find(|bench| bench.whose == *whose && bench.files == hash) {
            return Ok(tools);
        }
        let tools = Arc::new((self.make)(files)?);
        let bench = Bench { whose: whose.clone(), files: hash, tools: Arc::clone(&tools) };
        let mut kept = self.kept();
        let mut gone: Vec<Bench> = kept.extract_if(.., |bench| bench.whose == *whose).collect();
        if kept.len() >= KEPT_MAX {
            gone.push(kept.remove(0));
        }
        kept.push(bench);
        drop(kept);
        drop(gone); // to end a program takes a moment
        Ok(tools)
    }

    /// The tools that were made for somebody.
    pub fn known(&self, whose: &Whose) -> Option<Arc<Tools>> {
        self.find(|bench| bench.whose == *whose)
    }

    /// Lets somebody's tools go; whether there were any.
    pub fn forget(&self, whose: &Whose) -> bool {
        let mut kept = self.kept();
        let gone: Vec<Bench> = kept.extract_if(.., |bench| bench.whose == *whose).collect();
        drop(kept);
        !gone.is_empty()
    }

    fn find(&self, wanted: impl Fn(&Bench) -> bool) -> Option<Arc<Tools>> {
        let mut kept = self.kept();
        let at = kept.iter().position(wanted)?;
        let bench = kept.remove(at);
        let tools = Arc::clone(&bench.tools);
        kept.push(bench);
        Some(tools)
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Bench>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn benches() -> Benches {
        Benches::new(Box::new(|_| Ok(Tools::none()))).unwrap()
    }

    #[test]
    fn each_has_its_own_tools_and_the_least_recently_used_go() {
        let benches = benches();
        let first = benches.of(&Whose::Chat(0), &[]).unwrap();
        for chat in 1..KEPT_MAX as i64 {
            assert!(!Arc::ptr_eq(&first, &benches.of(&Whose::Chat(chat), &[]).unwrap()));
        }
        assert!(Arc::ptr_eq(&first, &benches.of(&Whose::Chat(0), &[]).unwrap()));
        benches.of(&Whose::Chat(99), &[]).unwrap();
        assert!(benches.known(&Whose::Chat(1)).is_none(), "it was the least recently used");
        assert!(benches.known(&Whose::Chat(0)).is_some());
        assert!(benches.forget(&Whose::Chat(0)) && !benches.forget(&Whose::Chat(0)));
    }

    #[test]
    fn other_files_make_other_tools() {
        let benches = benches();
        let first = benches.of(&Whose::Chat(0), &[]).unwrap();
        let files = [("a.txt".to_owned(), b"x".to_vec())];
        let second = benches.of(&Whose::Chat(0), &files).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &benches.of(&Whose::Chat(0), &files).unwrap()));
        assert_eq!(benches.kept().len(), 1);
    }

    #[test]
    fn sessions_of_one_name_are_their_owners() {
        let benches = benches();
        let whose = |owner: &str| Whose::Session { owner: owner.into(), id: "s".into() };
        benches.of(&whose("me"), &[]).unwrap();
        assert!(benches.known(&whose("you")).is_none());
    }
}
