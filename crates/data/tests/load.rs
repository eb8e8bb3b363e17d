//! Batches are a function of corpus, settings and seed; every token is accounted for.

#![allow(clippy::unwrap_used)] // helpers beside the tests panic as the tests do

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use herd_data::{
    Batch, Corpus, Cursor, DataError, Ends, Ledger, Loader, LoaderConfig, LongDocuments, MixSource,
    Mixture, Phase, Policy, Ramp, Validation,
};
use proptest::prelude::*;

const POLICIES: [Policy; 4] = [
    Policy::Cut,
    Policy::Whole(LongDocuments::Split),
    Policy::Whole(LongDocuments::Shorten),
    Policy::Whole(LongDocuments::Drop),
];

/// Two sources in a folder that outlives them.
fn corpus() -> (tempfile::TempDir, Arc<Corpus>) {
    let folder = tempfile::tempdir().unwrap();
    let parts = [("books", common::texts(1, 120)), ("code", common::texts(2, 50))];
    let corpus = common::corpus(folder.path(), &parts);
    (folder, Arc::new(corpus))
}

fn mixture(epochs: f64) -> Mixture {
    let part =
        |name: &str, weight| MixSource { name: name.to_owned(), weight, epochs_max: Some(epochs) };
    Mixture { sources: vec![part("books", 0.7), part("code", 0.3)] }
}

fn config(policy: Policy, epochs: f64) -> LoaderConfig {
    LoaderConfig {
        phases: vec![Phase { from_tokens: 0, mixture: mixture(epochs) }],
        ramps: vec![Ramp { from_step: 0, seq_len: 96, rows: 3 }],
        policy,
        ends: Ends { bos: Some(0), eos: Some(1) },
    }
}

fn all(loader: &mut Loader) -> Vec<Batch> {
    std::iter::from_fn(|| loader.next_batch().unwrap()).collect()
}

/// The tokens of a training document with its ends.
fn whole(corpus: &Corpus, ends: &Ends, source: u32, document: u64) -> Vec<u32> {
    let documents = &corpus.sources()[source as usize].train;
    let mut ids: Vec<u32> = ends.bos.into_iter().collect();
    documents.read(document, 0..documents.tokens(document), &mut ids).unwrap();
    ids.extend(ends.eos);
    ids
}

/// What a batch must be whatever the settings; counts its targets and padding in `ledger`.
fn check(batch: &Batch, corpus: &Corpus, ends: &Ends, ledger: &mut Ledger) {
    let places = batch.rows * batch.seq_len;
    assert_eq!(batch.tokens_t.len(), places);
    assert_eq!(batch.lengths().iter().sum::<usize>(), places);
    let mut end = 0;
    let mut weight_t = vec![0.0; places];
    for span in &batch.spans {
        assert!(span.at.start >= end && span.at.start < span.at.end, "{span:?}");
        assert_eq!(span.at.start / batch.seq_len, (span.at.end - 1) / batch.seq_len, "{span:?}");
        assert!(span.at.start == end || span.at.start % batch.seq_len == 0, "{span:?}: a gap");
        end = span.at.end;
        let (from, len) = (span.from as usize, span.at.len());
        let document = whole(corpus, ends, span.source, span.document);
        assert_eq!(batch.tokens_t[span.at.clone()], document[from..from + len]);
        assert_eq!(batch.targets_t[span.at.clone()], document[from + 1..from + 1 + len]);
        weight_t[span.at.clone()].fill(1.0);
        ledger.kept += len as u64;
        ledger.cut += if from > 0 { len as u64 } else { 0 };
    }
    assert_eq!(batch.weight_t, weight_t);
    let padded = places - batch.predictions();
    ledger.padded += padded as u64;
    assert_eq!(batch.weight_t.iter().filter(|&&w| w == 0.0).count(), padded);
}

#[test]
fn every_target_comes_once_an_epoch_and_the_ledger_adds_up() {
    let (_folder, corpus) = corpus();
    for policy in POLICIES {
        for ends in
            [Ends { bos: Some(0), eos: Some(1) }, Ends { bos: None, eos: Some(1) }, Ends::default()]
        {
            let config = LoaderConfig { ends, ..config(policy, 2.0) };
            let mut loader = Loader::new(corpus.clone(), config, 7).unwrap();
            let batches = all(&mut loader);
            let mut counted = Ledger::default();
            let mut targets: BTreeMap<(u32, u32, u64), Vec<(u64, u64)>> = BTreeMap::new();
            for batch in &batches {
                check(batch, &corpus, &ends, &mut counted);
                for span in &batch.spans {
                    let pieces =
                        targets.entry((span.source, span.epoch, span.document)).or_default();
                    pieces.push((span.from, span.at.len() as u64));
                }
            }
            let ledger = loader.ledger();
            assert_eq!(
                (ledger.kept, ledger.cut, ledger.padded),
                (counted.kept, counted.cut, counted.padded)
            );
            let dropped: u64 = ledger.dropped.values().map(|d| d.tokens).sum();
            let left = ledger.unpredicted + ledger.shortened + dropped;
            assert_eq!(ledger.tokens, ledger.kept + left);
            assert_eq!(ledger.kept_by_source.iter().sum::<u64>(), ledger.kept);
            for ((source, epoch, document), mut pieces) in targets {
                pieces.sort_unstable();
                let length = whole(&corpus, &ends, source, document).len() as u64;
                let mut at = 0;
                for (from, len) in pieces {
                    assert_eq!(from, at, "{source} {epoch} {document}");
                    at += len;
                }
                let kept = match policy {
                    Policy::Whole(LongDocuments::Shorten) => (length - 1).min(96),
                    _ => length - 1,
                };
                assert_eq!(at, kept);
            }
            let documents: u64 = corpus.sources().iter().map(|s| s.train.counts().documents).sum();
            assert_eq!(ledger.documents, 2 * documents);
            match policy {
                Policy::Cut => assert!(ledger.padded < 96 + 2 * 96 && ledger.dropped.is_empty()),
                Policy::Whole(LongDocuments::Split) => {
                    assert!(ledger.dropped.is_empty() && ledger.cut > 0);
                    assert!(ledger.padded * 8 < ledger.kept, "{ledger:?}: badly packed");
                }
                Policy::Whole(LongDocuments::Shorten) => {
                    assert!(ledger.dropped.is_empty() && ledger.cut == 0 && ledger.shortened > 0);
                }
                Policy::Whole(LongDocuments::Drop) => {
                    assert!(ledger.dropped["too_long"].documents > 0 && ledger.cut == 0);
                }
            }
        }
    }
}

#[test]
fn documents_that_fit_a_row_are_never_cut_under_whole() {
    let (_folder, corpus) = corpus();
    let config = config(Policy::Whole(LongDocuments::Split), 1.0);
    let ends = config.ends;
    let mut loader = Loader::new(corpus.clone(), config, 7).unwrap();
    for batch in all(&mut loader) {
        for span in batch.spans {
            let length = whole(&corpus, &ends, span.source, span.document).len() - 1;
            assert!(length > 96 || span.at.len() == length, "{span:?} of {length}");
        }
    }
}

#[test]
fn the_mix_has_the_weights_asked_for() {
    let (_folder, corpus) = corpus();
    let mut config = config(Policy::Cut, 100.0);
    config.phases[0].mixture.sources.iter_mut().for_each(|s| s.epochs_max = None);
    let mut loader = Loader::new(corpus, config, 7).unwrap();
    for _ in 0..300 {
        loader.next_batch().unwrap().unwrap();
    }
    let kept = &loader.ledger().kept_by_source;
    let share = kept[0] as f64 / (kept[0] + kept[1]) as f64;
    assert!((share - 0.7).abs() < 0.01, "{share}");
}

#[test]
fn a_cursor_of_other_settings_data_or_seed_is_refused() {
    let (_folder, corpus) = corpus();
    let config = config(Policy::Cut, 1.0);
    let mut loader = Loader::new(corpus.clone(), config.clone(), 7).unwrap();
    loader.next_batch().unwrap();
    let cursor = loader.cursor().clone();
    let at = |corpus: &Arc<Corpus>, config: &LoaderConfig, seed| {
        Loader::at(corpus.clone(), config.clone(), seed, cursor.clone()).map(|_| ())
    };
    at(&corpus, &config, 7).unwrap();
    let refused = |result| matches!(result, Err(DataError::Cursor { .. }));
    assert!(refused(at(&corpus, &config, 8)));
    let other = LoaderConfig { policy: POLICIES[1], ..config.clone() };
    assert!(refused(at(&corpus, &other, 7)));
    let (_other_folder, other) = {
        let folder = tempfile::tempdir().unwrap();
        let parts = [("books", common::texts(1, 119)), ("code", common::texts(2, 50))];
        let corpus = Arc::new(common::corpus(folder.path(), &parts));
        (folder, corpus)
    };
    assert!(refused(at(&other, &config, 7)));
}

#[test]
fn wrong_settings_are_refused_with_the_value() {
    let (_folder, corpus) = corpus();
    let refused = |change: &dyn Fn(&mut LoaderConfig)| {
        let mut config = config(Policy::Cut, 1.0);
        change(&mut config);
        Loader::new(corpus.clone(), config, 1).err().expect("it is refused").to_string()
    };
    assert!(refused(&|c| c.ramps.clear()).contains("missing"));
    assert!(refused(&|c| c.ramps[0].from_step = 3).contains("step 3"));
    assert!(refused(&|c| c.ramps.push(c.ramps[0])).contains("behind step 0"));
    assert!(refused(&|c| c.ramps[0].rows = 0).contains("0 rows of 96"));
    assert!(refused(&|c| c.ramps[0].seq_len = usize::MAX).contains("places"));
    assert!(refused(&|c| c.ends.eos = Some(1 << 30)).contains("1073741824"));
    assert!(refused(&|c| c.phases.clear()).contains("first phase"));
}

#[test]
fn a_shard_that_goes_away_under_a_run_is_an_error_and_the_batch_can_be_asked_for_again() {
    let (folder, corpus) = corpus();
    let path = folder.path().join("shards/books.train-00000.tok");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for ahead in [0, 3] {
        let mut loader =
            Loader::new(corpus.clone(), config(Policy::Cut, 1.0), 7).unwrap().ahead(ahead);
        file.set_len(0).unwrap();
        let error = std::iter::from_fn(|| Some(loader.next_batch())).find_map(Result::err).unwrap();
        assert!(error.to_string().contains("books.train-00000.tok"), "{error}");
        std::fs::write(&path, &whole).unwrap();
        let rest = all(&mut loader);
        let mut undisturbed = Loader::new(corpus.clone(), config(Policy::Cut, 1.0), 7).unwrap();
        let expected = all(&mut undisturbed);
        assert!(expected.ends_with(&rest) && !rest.is_empty());
    }
}

/// Settings that change everything that can change.
fn any_config() -> impl Strategy<Value = LoaderConfig> {
    let ramp = (1usize..150, 1usize..5);
    let policy = prop::sample::select(&POLICIES[..]);
    let phase = (1u64..4000, 0.1..5.0, 0.0..5.0);
    (
        policy,
        ramp.clone(),
        prop::collection::vec((1u64..30, ramp), 0..4),
        prop::collection::vec(phase, 0..3),
        any::<(bool, bool)>(),
    )
        .prop_map(|(policy, (seq_len, rows), more, phases, (bos, eos))| {
            let mut ramps = vec![Ramp { from_step: 0, seq_len, rows }];
            for (steps, (seq_len, rows)) in more {
                let from_step = ramps[ramps.len() - 1].from_step + steps;
                ramps.push(Ramp { from_step, seq_len, rows });
            }
            let mut all = vec![Phase { from_tokens: 0, mixture: mixture(1.5) }];
            for (tokens, books, code) in phases {
                let mut mixture = mixture(3.0);
                mixture.sources[0].weight = books;
                mixture.sources[1].weight = code;
                let from_tokens = all[all.len() - 1].from_tokens + tokens;
                all.push(Phase { from_tokens, mixture });
            }
            let ends = Ends { bos: bos.then_some(0), eos: eos.then_some(1) };
            LoaderConfig { phases: all, ramps, policy, ends }
        })
}

#[test]
fn stopping_anywhere_and_reading_ahead_change_no_batch() {
    let (_folder, corpus) = corpus();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 60,
        ..ProptestConfig::default()
    });
    let stops = prop::collection::vec((0usize..40, 0usize..4), 1..4);
    let seeds = any::<u64>();
    let result = runner.run(&(any_config(), stops, seeds), |(config, stops, seed)| {
        let mut loader = Loader::new(corpus.clone(), config.clone(), seed).unwrap();
        let expected = all(&mut loader);
        let ledger = loader.ledger().clone();
        let mut counted = Ledger::default();
        for batch in &expected {
            let due = config.ramps.iter().rev().find(|r| r.from_step <= batch.step).unwrap();
            assert_eq!((batch.seq_len, batch.rows), (due.seq_len, due.rows));
            check(batch, &corpus, &config.ends, &mut counted);
        }
        assert_eq!(
            (ledger.kept, ledger.cut, ledger.padded),
            (counted.kept, counted.cut, counted.padded)
        );
        let dropped: u64 = ledger.dropped.values().map(|d| d.tokens).sum();
        let left = ledger.unpredicted + ledger.shortened + dropped;
        assert_eq!(ledger.tokens, ledger.kept + left);

        let mut got = Vec::new();
        let mut loader = Loader::new(corpus.clone(), config.clone(), seed).unwrap();
        for (batches, ahead) in stops {
            loader = loader.ahead(ahead);
            for _ in 0..batches {
                got.extend(loader.next_batch().unwrap());
            }
            // Through a file, as a run keeps it.
            let text = serde_json::to_string(loader.cursor()).unwrap();
            assert!(text.len() < 60_000, "a cursor of {} bytes", text.len());
            let cursor: Cursor = serde_json::from_str(&text).unwrap();
            assert_eq!(&cursor, loader.cursor());
            loader = Loader::at(corpus.clone(), config.clone(), seed, cursor).unwrap();
        }
        got.extend(all(&mut loader));
        prop_assert!(got == expected, "the batches differ");
        prop_assert_eq!(loader.ledger(), &ledger);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn seeds_give_other_orders_of_the_same_documents() {
    let (_folder, corpus) = corpus();
    let first = |seed| {
        let mut loader = Loader::new(corpus.clone(), config(Policy::Cut, 1.0), seed).unwrap();
        let batches = all(&mut loader);
        let mut documents = HashMap::new();
        for span in batches.iter().flat_map(|b| &b.spans) {
            *documents.entry((span.source, span.document)).or_insert(0) += span.at.len();
        }
        (batches, documents)
    };
    let ((a, a_documents), (b, b_documents)) = (first(1), first(2));
    assert_eq!(a_documents, b_documents);
    assert_ne!(a[0].tokens_t, b[0].tokens_t);
}

#[test]
fn held_out_documents_are_never_trained_on_and_their_bytes_are_known() {
    let (_folder, corpus) = corpus();
    let ends = Ends { bos: Some(0), eos: Some(1) };
    let row = |span: &herd_data::Span, held: bool| {
        let source = &corpus.sources()[span.source as usize];
        let documents = if held { &source.validation } else { &source.train };
        (span.source, documents.row(span.document).unwrap().0.row)
    };
    let mut trained = Vec::new();
    let mut loader = Loader::new(corpus.clone(), config(Policy::Cut, 1.0), 1).unwrap();
    for batch in all(&mut loader) {
        trained.extend(batch.spans.iter().map(|span| row(span, false)));
        assert_eq!(batch.origins(&corpus).unwrap().len(), batch.spans.len());
    }
    for (tokens_max, whole) in [(None, false), (Some(500), false), (None, true), (Some(500), true)]
    {
        let validation = Validation::new(corpus.clone(), ends, 64, 4, tokens_max).unwrap();
        let validation = if whole { validation.whole(LongDocuments::Split) } else { validation };
        assert_eq!(validation.sources().collect::<Vec<_>>(), [0, 1]);
        for source in validation.sources() {
            let read =
                || -> Vec<Batch> { validation.batches(source).map(Result::unwrap).collect() };
            let batches = read();
            assert_eq!(batches, read(), "the order is fixed");
            let spans: Vec<_> = batches.iter().flat_map(|b| &b.spans).collect();
            // A whole document begins in its row; the rest of a long one after full rows.
            assert!(!whole || spans.iter().all(|span| span.from % 64 == 0));
            assert!(spans.iter().all(|span| !trained.contains(&row(span, true))));
            // With a begin token, every byte of the texts is predicted, and so is the end token.
            let documents = &corpus.sources()[source].validation;
            let begun: Vec<_> = spans.iter().filter(|span| span.from == 0).collect();
            let text = |f: &dyn Fn(u64) -> u64| begun.iter().map(|s| f(s.document)).sum::<u64>();
            let bytes = text(&|d| u64::from(documents.row(d).unwrap().1));
            assert_eq!(validation.bytes(source).unwrap(), bytes);
            let predicted: usize = batches.iter().map(Batch::predictions).sum();
            let tokens = text(&|d| documents.tokens(d) as u64 + 1);
            assert_eq!(predicted as u64, tokens);
            match tokens_max {
                None => assert_eq!(begun.len() as u64, documents.counts().documents),
                Some(most) => assert!(tokens <= most + begun.len() as u64),
            }
        }
    }
}
