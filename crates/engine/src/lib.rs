//! Runs many requests on one model.

pub mod bench;
pub mod compare;
pub mod embed;
pub mod engine;
pub mod grammar;
mod job;
mod keep;
pub mod pages;
pub mod plan;
mod queue;
pub mod request;
pub mod rng;
pub mod sample;
mod schedule;
pub mod score;
pub mod shelf;
pub mod softmax;
pub mod speculate;
pub mod stop;
mod tell;

pub use engine::{Engine, Limits, Load, Step};
pub use grammar::{Form, Function, Grammar, GrammarError, Grammars};
pub use request::{
    Event, Finish, PromptToken, Request, RequestError, RequestId, Token, Usage, What,
};
pub use speculate::{Proposer, Speculation};
