//! Pages on disk: found again by another engine, never by one to which they do not belong, and never
//! when a byte of them is wrong.

#![allow(clippy::unwrap_used)] // helpers of tests too

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Answer, finish, load};
use herd_engine::sample::Sampling;
use herd_engine::shelf::ShelfSettings;
use herd_engine::{Engine, Limits, Request};
use herd_model::Checkpoint;
use herd_model::llama::Llama;
use herd_tensor::{Class, KvFormat};

const LIMITS: Limits = Limits { page_len: 16, ..Limits::single(128) };

fn model() -> Arc<Llama> {
    let checkpoint = Checkpoint::open(common::files::recorded("llama2_gqa")).unwrap();
    load(&checkpoint, Class::best(), 2, 128)
}

fn settings(folder: &Path) -> ShelfSettings {
    ShelfSettings { folder: folder.into(), bytes: 1 << 20, identity: [1; 32], log: |_| {} }
}

fn engine(model: &Arc<Llama>, limits: Limits, settings: ShelfSettings) -> Engine {
    let mut engine = Engine::new(Arc::clone(model), None, limits);
    engine.keep_pages(settings).unwrap();
    engine
}

/// The pages of all roots in a model's folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let all = entries(folder).into_iter().flat_map(|root| entries(&root));
    all.filter(|path| path.extension().is_some_and(|ending| ending == "page")).collect()
}

/// A prompt of four whole pages and a half.
fn ask(engine: &mut Engine) -> Answer {
    let sampling = Sampling { temperature: 1.0, seed: 4, ..Sampling::GREEDY };
    let prompt = (0..72).map(|i| i * 7 % 101).collect();
    let request = Request::new(prompt, sampling);
    let request = Request { max_tokens: Some(20), log_probs: Some(2), ..request };
    let id = engine.submit(request).unwrap();
    finish(engine, &[id]).remove(0)
}

/// The folder after an engine has answered and ended, and the answer.
fn kept(model: &Arc<Llama>) -> (tempfile::TempDir, Answer) {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = engine(model, LIMITS, settings(folder.path()));
    let answer = ask(&mut engine);
    assert_eq!(answer.usage().cached, 0);
    while engine.shelve(2, true) > 0 {}
    (folder, answer)
}

#[test]
fn pages_are_found_after_a_restart_and_give_the_same_bits() {
    let model = model();
    let (folder, cold) = kept(&model);
    let warm = ask(&mut engine(&model, LIMITS, settings(folder.path())));
    assert_eq!(warm.usage().cached, 64);
    assert_eq!((warm.ids, warm.bits), (cold.ids, cold.bits));
}

#[test]
fn pages_of_another_checkpoint_cache_or_page_length_are_not_found() {
    let model = model();
    let (folder, _) = kept(&model);
    let cached = |limits, settings| ask(&mut engine(&model, limits, settings)).usage().cached;
    let other = ShelfSettings { identity: [2; 32], ..settings(folder.path()) };
    assert_eq!(cached(LIMITS, other), 0);
    for limits in [
        Limits { kv: KvFormat::F32, ..LIMITS },
        Limits { page_len: 32, ..LIMITS },
        Limits { context: 120, ..LIMITS },
    ] {
        assert_eq!(cached(limits, settings(folder.path())), 0, "{limits:?}");
    }
    assert_eq!(cached(LIMITS, settings(folder.path())), 64);
}

#[test]
fn a_page_with_a_wrong_byte_ends_what_is_found_and_its_answer_is_right() {
    let model = model();
    for (hurt, at) in [(0, 50), (1, 3), (2, 9999), (3, 20)] {
        let (folder, cold) = kept(&model);
        // The files of the prompt in the order of its pages are those that are read: hurt each in turn.
        let mut paths = files(folder.path());
        paths.sort();
        let path = &paths[hurt];
        let mut bytes = fs::read(path).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 0x40;
        fs::write(path, &bytes).unwrap();
        let mut engine = engine(&model, LIMITS, settings(folder.path()));
        let warm = ask(&mut engine);
        assert!(warm.usage().cached <= 64);
        assert_eq!((&warm.ids, &warm.bits), (&cold.ids, &cold.bits), "file {hurt}");
        assert_eq!(ask(&mut engine).usage().cached, 71, "what was computed is in memory");
    }
}

#[test]
fn only_pages_that_were_shared_are_written_while_something_runs() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let mut engine = engine(&model, LIMITS, settings(folder.path()));
    let long = Request { max_tokens: None, ..Request::new(vec![1; 40], Sampling::GREEDY) };
    engine.submit(long.clone()).unwrap();
    engine.step(&mut Vec::new());
    assert_eq!(engine.shelve(9, true), 0);
    while !engine.is_idle() {
        engine.step(&mut Vec::new());
    }
    engine.submit(long).unwrap();
    engine.step(&mut Vec::new());
    assert_eq!(engine.shelve(9, true), 2, "the two pages that were taken over");
    drop(engine);
    assert_eq!(files(folder.path()).len(), 2);
}

#[test]
fn more_pages_than_the_folder_holds_are_not_written_for_ever() {
    let model = model();
    let (whole, _) = kept(&model);
    let all = files(whole.path());
    let page = fs::metadata(&all[0]).unwrap().len();
    for room in [0, 1, 2] {
        assert!(all.len() > room, "the engine knows more");
        let folder = tempfile::tempdir().unwrap();
        let settings = ShelfSettings { bytes: page * room as u64, ..settings(folder.path()) };
        let mut engine = engine(&model, LIMITS, settings);
        ask(&mut engine);
        let written = (0..100).take_while(|_| engine.shelve(1, true) > 0).count();
        assert_eq!(written, room);
        drop(engine);
        assert_eq!(files(folder.path()).len(), room);
    }
}

#[test]
fn two_contexts_of_one_model_keep_their_pages_apart_and_a_second_engine_of_one_is_refused() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let longer = Limits { context: 120, ..LIMITS };
    let mut first = engine(&model, LIMITS, settings(folder.path()));
    let mut other = engine(&model, longer, settings(folder.path()));
    let mut second = Engine::new(Arc::clone(&model), None, LIMITS);
    assert!(second.keep_pages(settings(folder.path())).is_err());
    ask(&mut second);
    assert_eq!(second.shelve(9, true), 0);
    for engine in [&mut first, &mut other] {
        ask(engine);
        while engine.shelve(1, true) > 0 {}
    }
    drop((first, other));
    for limits in [LIMITS, longer] {
        let mut engine = engine(&model, limits, settings(folder.path()));
        assert_eq!(ask(&mut engine).usage().cached, 64);
    }
}
