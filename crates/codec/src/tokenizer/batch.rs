//! Many texts at once, on several threads.
//!
//! Each thread writes the ids of its texts one after the other into one buffer. With a vector for
//! each text the first pass on two threads was an eighth slower (325 MB/s in place of 371): the
//! arena of every thread but the first grows by a system call at a time, and all of them wait.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{TokenId, Tokenizer};

/// The ids of many texts, in the order of the texts.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// What each thread wrote.
    parts: Vec<Vec<TokenId>>,
    places: Vec<Place>,
}

/// Where the ids of one text stand: `parts[part][start..end]`.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    part: usize,
    start: usize,
    end: usize,
}

impl Batch {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there was no text at all.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The ids of one text. Panics if there is no text of that number.
    pub fn ids(&self, text: usize) -> &[TokenId] {
        let Place { part, start, end } = self.places[text];
        &self.parts[part][start..end]
    }

    /// The ids of each text.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[TokenId]> {
        (0..self.len()).map(|text| self.ids(text))
    }

    /// Number of ids of all texts.
    pub fn tokens(&self) -> usize {
        self.parts.iter().map(Vec::len).sum()
    }
}

impl Tokenizer {
    /// The ids of many texts, on up to `threads` threads. The same ids for any number of them.
    ///
    /// A text is one thread's; threads take them one by one, in order.
    pub fn encode_batch(&self, texts: &[&str], threads: usize) -> Batch {
        let threads = threads.clamp(1, texts.len().max(1));
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        let next = AtomicUsize::new(0);
        let worker = |part: usize| {
            let mut places = Vec::new();
            // Some four bytes make a token; room not used is never touched.
            let mut ids = Vec::with_capacity(bytes / threads / 3);
            self.with_work(|work| {
                while let at = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(text) = texts.get(at)
                {
                    let start = ids.len();
                    self.encode_segments(text.as_bytes(), None, work, &mut ids);
                    places.push((at, Place { part, start, end: ids.len() }));
                }
            });
            (ids, places)
        };
        let done: Vec<_> = match threads {
            1 => vec![worker(0)],
            _ => std::thread::scope(|scope| {
                let worker = &worker;
                let start = |part| scope.spawn(move || worker(part));
                let workers: Vec<_> = (0..threads).map(start).collect();
                let join = |handle: std::thread::ScopedJoinHandle<'_, _>| {
                    handle.join().expect("encoding does not panic")
                };
                workers.into_iter().map(join).collect()
            }),
        };
        let mut batch = Batch { parts: Vec::new(), places: vec![Place::default(); texts.len()] };
        for (ids, places) in done {
            batch.parts.push(ids);
            for (at, place) in places {
                batch.places[at] = place;
            }
        }
        batch
    }
}
