//! A page on which people say which of two answers is better, without knowing whose they are.
//!
//! `ballots` has the file of prompts, answers and votes, `draw` what a judge is shown, `poll` the votes, `hall` the paths,
//! `verdicts` what models that judge say. What votes amount to is counted elsewhere; docs/arena.md tells the whole.

mod ballots;
mod draw;
mod hall;
mod poll;
mod verdicts;

pub use ballots::{Answer, ArenaError, Ballots, Contestant, Prompt, Task, Turn};
pub use draw::Rules;
pub use hall::Arena;
pub use poll::{Counted, Voted};
pub use verdicts::{Pair, Place, Verdict};

#[cfg(test)]
mod tests;
