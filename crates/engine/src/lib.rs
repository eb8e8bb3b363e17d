//! Runs many requests on one model.

pub mod bench;
pub mod compare;
pub mod embed;
pub mod engine;
pub mod grammar;
pub mod pages;
pub mod plan;
pub mod request;
pub mod rng;
pub mod sample;
pub mod score;
pub mod softmax;
pub mod stop;

pub use engine::{Engine, Limits, Load, Step};
pub use grammar::{Form, Function, Grammar, GrammarError, Grammars};
pub use request::{
    Event, Finish, PromptToken, Request, RequestError, RequestId, Token, Usage, What,
};
