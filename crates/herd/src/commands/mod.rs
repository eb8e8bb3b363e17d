//! One file per command: its flags, and what it does with them.

mod agent;
mod anneal;
mod arena;
mod average;
mod bench;
mod bench_serve;
mod bench_train;
mod card;
mod chat;
mod compare;
mod complete;
mod completions;
pub mod contamination;
mod convert;
mod data;
mod detokenize;
mod distill;
mod doctor;
mod dpo;
pub mod eval;
mod extend_context;
mod grpo;
mod inspect;
mod logits;
mod ls;
mod mcp;
mod perplexity;
mod plan;
mod ppo;
mod pretrain;
mod preview;
mod ps;
mod pull;
mod quantize;
mod quickstart;
mod reward;
mod rm;
mod round;
mod rows;
mod runs;
pub mod sample;
mod sandbox;
mod scaling;
pub mod score;
mod select;
mod serve;
mod sft;
mod show;
mod stop;
mod synth;
mod tokenize;
mod tokenizer;
mod verify;

pub use convert::refuse_existing;

use crate::console::{Console, Verdict};
use crate::error::Error;

/// The verbs.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a model from nothing: the whole way, small, on what comes with Herd
    Quickstart(quickstart::Flags),
    /// Bring a model into the store
    Pull(pull::Flags),
    /// List the models in the store
    Ls(ls::Flags),
    /// Say where a model came from and what it holds
    Show(show::Flags),
    /// Remove a model from the store
    Rm(rm::Flags),
    /// Print what a model file holds: metadata, tensors, types, sizes
    Inspect(inspect::Flags),
    /// Talk with a model
    Chat(chat::Flags),
    /// Let a model work with tools: search, Python, a calculator, others
    Agent(agent::Flags),
    /// Offer Herd's tools to other programs, by the Model Context Protocol
    Mcp(mcp::Flags),
    /// Go on with a text
    Complete(complete::Flags),
    /// Answer over HTTP: OpenAI's API, for many at once
    Serve(Box<serve::Flags>),
    /// List the servers that run here
    Ps(ps::Flags),
    /// End a server once its answers are given
    Stop(stop::Flags),
    /// Turn text into token ids
    Tokenize(tokenize::Flags),
    /// Turn token ids into the text they stand for
    Detokenize(detokenize::Flags),
    /// Learn a vocabulary, extend one, or say how well one fits a text
    Tokenizer(tokenizer::Flags),
    /// Measure tokens a second: prompts, answers, at depth, of several sequences
    Bench(bench::Flags),
    /// Measure how well a model predicts a text
    Perplexity(perplexity::Flags),
    /// Measure a model on benchmarks, with intervals and a receipt for each answer
    Eval(eval::Flags),
    /// Put models side by side: quality, speed, price, energy
    Compare(compare::Flags),
    /// Let people say which of two answers is better, without knowing whose they are
    Arena(arena::Flags),
    /// Print a model's log-probabilities at each of given tokens
    Logits(logits::Flags),
    /// Write a model in another style: GGUF, Hugging Face's folder, Meta's folder
    Convert(convert::Flags),
    /// Write a model in fewer bits, and what that costs
    Quantize(quantize::Flags),
    /// Say whether a model still gives its parent's logits
    Verify(verify::Flags),
    /// Train a model on text, or go on where it stopped
    Pretrain(pretrain::Flags),
    /// Foretell a larger run by small ones: a sweep, its laws, forecasts that are written down
    Scaling(scaling::Flags),
    /// Teach a model longer texts, stage by stage, each of which must pass
    ExtendContext(extend_context::Flags),
    /// Take a model's learning rate to nothing on its last texts, and average its checkpoints
    Anneal(anneal::Flags),
    /// Write the mean of checkpoints of one model
    Average(average::Flags),
    /// Teach a model the answers of dialogues
    Sft(sft::Flags),
    /// Teach a model which of the answers to a prompt is better
    Dpo(dpo::Flags),
    /// Teach a model what a larger one says
    Distill(distill::Flags),
    /// Let a model answer prompts, and teach it what its better answers did
    Grpo(grpo::Flags),
    /// Let a model answer prompts, and teach it what turned out better than it expected
    Ppo(ppo::Flags),
    /// Teach a model to say by a number how good an answer is
    Reward(reward::Flags),
    /// Say what a reward model makes of answers
    Score(score::Flags),
    /// Answer each prompt many times, score the answers, and keep the best
    Sample(sample::Flags),
    /// Go round: preferences, reward model, samples, fine-tuning, DPO, an average, and a gate
    Round(round::Flags),
    /// Make rows to learn from: programs, solutions, answers, that checks let through
    Synth(synth::Flags),
    /// Keep the rows that are worth learning from, and say why the others are not
    Select(select::Flags),
    /// Show dialogues as the tokens that training sees, and which of them are learnt
    Preview(preview::Flags),
    /// List, show, compare and plot training runs
    Runs(runs::Flags),
    /// Write the card of a trained model, each figure with where it is from
    Card(card::Flags),
    /// Run a command that nobody has read, behind walls
    Sandbox(sandbox::Flags),
    /// Make and check the shards of tokens that models are trained on
    Data(data::Flags),
    /// Say how much memory a model takes at its peak, by part, and whether that is there
    Plan(plan::Flags),
    /// Say what this machine is, what it reaches, and whether Herd is well on it
    Doctor(doctor::Flags),
    /// Print the completions of a shell
    Completions(completions::Flags),
}

impl Command {
    /// Does what the command line asks.
    pub fn run(&self, console: &Console, offline: bool) -> Result<Verdict, Error> {
        match self {
            Command::Quickstart(flags) => quickstart::run(flags, console),
            Command::Pull(flags) => pull::run(flags, console, offline),
            Command::Ls(flags) => ls::run(flags, console),
            Command::Show(flags) => show::run(flags, console),
            Command::Rm(flags) => rm::run(flags, console),
            Command::Inspect(flags) => inspect::run(flags, console),
            Command::Chat(flags) => chat::run(flags, console),
            Command::Agent(flags) => agent::run(flags, console, offline),
            Command::Mcp(flags) => mcp::run(flags, console, offline),
            Command::Complete(flags) => complete::run(flags, console),
            Command::Serve(flags) => serve::run(flags, console, offline),
            Command::Ps(flags) => ps::run(flags, console),
            Command::Stop(flags) => stop::run(flags, console),
            Command::Tokenize(flags) => tokenize::run(flags, console),
            Command::Detokenize(flags) => detokenize::run(flags, console),
            Command::Tokenizer(flags) => tokenizer::run(flags, console),
            Command::Bench(flags) => bench::run(flags, console),
            Command::Card(flags) => card::run(flags, console),
            Command::Compare(flags) => compare::run(flags, console, offline),
            Command::Arena(flags) => arena::run(flags, console, offline),
            Command::Eval(flags) => eval::run(flags, console, offline),
            Command::Perplexity(flags) => perplexity::run(flags, console),
            Command::Logits(flags) => logits::run(flags, console),
            Command::Convert(flags) => convert::run(flags, console),
            Command::Quantize(flags) => quantize::run(flags, console),
            Command::Verify(flags) => verify::run(flags, console),
            Command::Pretrain(flags) => pretrain::run(flags, console),
            Command::Scaling(flags) => scaling::run(flags, console),
            Command::ExtendContext(flags) => extend_context::run(flags, console),
            Command::Anneal(flags) => anneal::run(flags, console),
            Command::Average(flags) => average::run(flags, console),
            Command::Sft(flags) => sft::run(flags, console),
            Command::Dpo(flags) => dpo::run(flags, console),
            Command::Distill(flags) => distill::run(flags, console),
            Command::Grpo(flags) => grpo::run(flags, console),
            Command::Ppo(flags) => ppo::run(flags, console),
            Command::Reward(flags) => reward::run(flags, console),
            Command::Score(flags) => score::run(flags, console),
            Command::Sample(flags) => sample::run(flags, console),
            Command::Round(flags) => round::run(flags, console),
            Command::Select(flags) => select::run(flags, console, offline),
            Command::Synth(flags) => synth::run(flags, console, offline),
            Command::Preview(flags) => preview::run(flags, console),
            Command::Runs(flags) => runs::run(flags, console),
            Command::Sandbox(flags) => sandbox::run(flags, console),
            Command::Data(flags) => data::run(flags, console),
            Command::Plan(flags) => plan::run(flags, console),
            Command::Doctor(flags) => doctor::run(flags, console),
            Command::Completions(flags) => completions::run(flags),
        }
    }
}
