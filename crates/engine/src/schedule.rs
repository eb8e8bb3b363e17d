//! Who runs, and what of each is in the next batch.
//!
//! A job is let in when there are pages for its prompt; more come as its answer grows. When they run
//! out, the job of the lowest rank, of these the youngest, gives up its own and waits; its tokens
//! are computed again when it is let in, and have the same bits. The first in rank and age can
//! always have every page, so something always goes on.

use crate::engine::Engine;
use crate::job::Job;
use crate::request::RequestId;
use std::cmp::Reverse;
use std::mem::take;

/// A batch in the making; its memory serves all steps.
#[derive(Default)]
pub(crate) struct Packed {
    pub(crate) tokens: Vec<u32>,
    pub(crate) positions: Vec<u32>,
    /// First row, rows, and place in `running`.
    pub(crate) spans: Vec<(usize, usize, usize)>,
    /// Rows whose logits are wanted.
    pub(crate) rows: Vec<usize>,
    /// The first of these rows, and the place in `running` of whose they are.
    pub(crate) owners: Vec<(usize, usize)>,
}

/// What came of trying to let a job in.
enum Entry {
    /// It runs.
    In,
    /// Another is about to compute pages that it can take over.
    Later,
    /// There is no room for it, nor for any behind it.
    Full,
}

impl Engine {
    /// Lets in waiting jobs, in the order of the queue, while there is room.
    pub(crate) fn admit(&mut self) {
        let mut later = Vec::new();
        while let Some(job) = self.queue.next(&later) {
            let (id, rank) = (job.id, job.rank());
            if self.running.len() == self.limits.parallel && !self.make_way(rank) {
                return;
            }
            match self.let_in(id) {
                Entry::In => {}
                Entry::Later => later.push(id),
                Entry::Full if self.make_way(rank) => {}
                Entry::Full => return,
            }
        }
    }

    /// Lets in one job if its prompt has room and the others that run could each take a page more.
    ///
    /// One that begins with much that a running one has yet to compute waits for it: a step or two, in which there
    /// is little room for its own prompt anyway.
    fn let_in(&mut self, id: RequestId) -> Entry {
        let mut job = self.queue.take(id);
        let (mut table, mut covered) = self.reuse(&job);
        let page_len = self.limits.page_len;
        let known = covered + self.pages.begun(&table, job.reusable()).map_or(0, |(_, n)| n);
        // What is a page long, or a quarter of all that it has to compute, is worth it.
        let worth = page_len.min((job.tokens.len() - known).div_ceil(4));
        let ahead = |r: &Job| r.will_fill(job.reusable()) >= known + worth;
        let entry = if self.running.iter().any(ahead) {
            Entry::Later
        } else {
            let missing = job.tokens.len().div_ceil(page_len) - table.pages.len();
            let others = self.running.len();
            let room = missing + others <= self.pages.available();
            if room && self.pages.grow(&mut table, job.tokens.len()) {
                Entry::In
            } else {
                Entry::Full
            }
        };
        if !matches!(entry, Entry::In) {
            self.pages.release(table);
            self.queue.push(job);
            return entry;
        }
        // Looked for again: to grow may have taken the page that was found.
        if let Some((page, positions)) = self.pages.begun(&table, job.reusable()) {
            self.cache.copy_page(page, table.pages[covered / page_len]);
            covered += positions;
            self.pages.register(&mut table, &job.tokens[..covered]);
        }
        (job.table, job.computed) = (table, covered);
        if !job.started {
            (job.started, job.usage.cached) = (true, covered);
        }
        self.queue.settle(&job);
        self.running.push(job);
        entry
    }

    /// Stops the last in rank and age if it is below `rank`.
    fn make_way(&mut self, rank: i64) -> bool {
        let order = |job: &Job| (job.rank(), Reverse(job.id));
        let places = 0..self.running.len();
        let last = places.min_by_key(|&i| order(&self.running[i]));
        let Some(last) = last.filter(|&i| self.running[i].rank() < rank) else { return false };
        let job = self.running.remove(last);
        self.preempt(job);
        true
    }

    /// Takes a running job's pages; it waits as one that is as old as it is.
    fn preempt(&mut self, mut job: Job) {
        self.pages.release(take(&mut job.table));
        (job.computed, job.drafted) = (0, 0);
        job.proposed.clear();
        self.preempted += 1;
        self.queue.push(job);
    }

    /// Gives each running job pages for its tokens and for those that it may propose, the first in rank and age
    /// first; who finds none left stops the last.
    pub(crate) fn grow(&mut self) -> Vec<usize> {
        self.running.sort_by_key(|job| (Reverse(job.rank()), job.id));
        let mut reach = self.reach();
        let mut place = 0;
        while place < self.running.len() {
            let job = &mut self.running[place];
            if self.pages.grow(&mut job.table, job.tokens.len() + reach[place]) {
                place += 1;
            } else if reach[place] > 0 {
                reach[place] = 0;
            } else {
                let last = self.running.pop().expect("`place` is before the end");
                assert!(!self.running.is_empty(), "the cache holds one context");
                self.preempt(last);
            }
        }
        reach
    }

    /// The last token of each answering job and what it proposes, then pieces of prompts, up to the limit.
    pub(crate) fn pack(&mut self) {
        let batch = &mut self.batch;
        batch.tokens.clear();
        batch.positions.clear();
        batch.spans.clear();
        batch.rows.clear();
        batch.owners.clear();
        let mut room = self.limits.batch;
        for answering in [true, false] {
            for (i, job) in self.running.iter_mut().enumerate() {
                if job.answers() != answering || room == 0 {
                    continue;
                }
                let left = job.wanted() - job.computed;
                job.proposed.truncate(room - left.min(room));
                let rows = left.min(room) + job.proposed.len();
                room -= rows;
                let first = batch.tokens.len();
                batch.spans.push((first, rows, i));
                let known = job.computed..job.tokens.len().min(job.computed + rows);
                batch.tokens.extend_from_slice(&job.tokens[known]);
                batch.tokens.extend_from_slice(&job.proposed);
                let range = job.computed..job.computed + rows;
                batch.positions.extend(range.map(|p| p as u32));
                if rows >= left {
                    batch.owners.push((batch.rows.len(), i));
                    if job.request.max_tokens != Some(0) {
                        batch.rows.extend(first + left - 1..first + rows);
                    }
                }
            }
        }
    }
}
