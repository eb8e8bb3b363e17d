//! Which pages of the cache are whose: counts of users, and finished pages found again by content.

use std::collections::{HashMap, VecDeque};

/// The beginning of every sequence, as the parent of its first page.
const ROOT: u64 = 0;

/// A full page is known by the page before it and its own tokens: equal keys hold equal numbers.
type Key = (u64, Box<[u32]>);

/// The pages of one cache.
pub struct Pages {
    page_len: usize,
    free: Vec<u32>,
    pages: Vec<Page>,
    index: HashMap<Key, u32>,
    /// Unused pages whose contents may be wanted again, the least wanted first.
    idle: VecDeque<u32>,
    /// Names for contents; never used twice.
    next_serial: u64,
}

#[derive(Clone, Default)]
struct Page {
    users: u32,
    serial: u64,
    key: Option<Key>,
}

/// The pages of one sequence, in order of position.
#[derive(Debug, Default)]
pub struct Table {
    /// Page numbers, as attention takes them.
    pub pages: Vec<u32>,
    /// Pages at the front whose contents are known to the index.
    known: usize,
    /// The serial of the last known page.
    last: u64,
}

impl Pages {
    /// `count` free pages of `page_len` positions.
    pub fn new(count: usize, page_len: usize) -> Pages {
        Pages {
            page_len,
            free: (0..count as u32).rev().collect(),
            pages: vec![Page::default(); count],
            index: HashMap::new(),
            idle: VecDeque::new(),
            next_serial: ROOT + 1,
        }
    }

    /// Pages that can be had: free, or idle and forgotten when needed.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// The longest run of known pages that begins `tokens`, taken into a table; the positions
    /// they cover. Never all of `tokens`, since the last must be computed for its logits.
    pub fn reuse(&mut self, tokens: &[u32]) -> (Table, usize) {
        let mut table = Table { last: ROOT, ..Table::default() };
        let most = tokens.len().saturating_sub(1) / self.page_len;
        for chunk in tokens.chunks_exact(self.page_len).take(most) {
            let Some(&page) = self.index.get(&(table.last, chunk.into())) else { break };
            self.take_known(page);
            table.pages.push(page);
            table.last = self.pages[page as usize].serial;
        }
        table.known = table.pages.len();
        let covered = table.known * self.page_len;
        (table, covered)
    }

    fn take_known(&mut self, page: u32) {
        let users = &mut self.pages[page as usize].users;
        *users += 1;
        if *users == 1 {
            // Idle pages are few beside the work of a forward pass.
            self.idle.retain(|&p| p != page);
        }
    }

    /// Adds pages to the table until it covers `positions`; false if there are not enough, and
    /// then the table keeps what it had.
    pub fn grow(&mut self, table: &mut Table, positions: usize) -> bool {
        let wanted = positions.div_ceil(self.page_len).saturating_sub(table.pages.len());
        if wanted > self.available() {
            return false;
        }
        for _ in 0..wanted {
            let page = self.free.pop().unwrap_or_else(|| self.forget());
            self.pages[page as usize] = Page { users: 1, ..Page::default() };
            table.pages.push(page);
        }
        true
    }

    /// Takes the least wanted idle page.
    fn forget(&mut self) -> u32 {
        let page = self.idle.pop_front().expect("`grow` counted the available pages");
        if let Some(key) = self.pages[page as usize].key.take() {
            self.index.remove(&key);
        }
        page
    }

    /// Tells the index of pages that `tokens`, all computed, have filled.
    pub fn register(&mut self, table: &mut Table, tokens: &[u32]) {
        while (table.known + 1) * self.page_len <= tokens.len() {
            let page = table.pages[table.known];
            let from = table.known * self.page_len;
            let key: Key = (table.last, tokens[from..from + self.page_len].into());
            // Two sequences may compute the same page at once: the first is found by others.
            let owner = *self.index.entry(key.clone()).or_insert(page);
            if owner == page {
                self.pages[page as usize].key = Some(key);
                self.pages[page as usize].serial = self.next_serial;
                self.next_serial += 1;
            }
            table.last = self.pages[owner as usize].serial;
            table.known += 1;
        }
    }

    /// Gives a table's pages back; known ones stay to be found again.
    pub fn release(&mut self, table: Table) {
        // The last pages are wanted least: without those before them they cannot be found.
        for &page in table.pages.iter().rev() {
            let entry = &mut self.pages[page as usize];
            entry.users -= 1;
            if entry.users > 0 {
                continue;
            }
            match entry.key {
                Some(_) => self.idle.push_back(page),
                None => self.free.push(page),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pages: &mut Pages, tokens: &[u32]) -> Table {
        let (mut table, _) = pages.reuse(tokens);
        assert!(pages.grow(&mut table, tokens.len()));
        pages.register(&mut table, tokens);
        table
    }

    #[test]
    fn equal_beginnings_share_pages_and_the_last_token_is_always_computed() {
        let mut pages = Pages::new(10, 4);
        let a = filled(&mut pages, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let (b, covered) = pages.reuse(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((covered, &b.pages[..]), (4, &a.pages[..1]));
        let (c, covered) = pages.reuse(&[1, 2, 3, 4, 9, 9, 9, 9, 9]);
        assert_eq!((covered, c.pages.len()), (4, 1));
        let (_, covered) = pages.reuse(&[2, 2, 3, 4, 5]);
        assert_eq!(covered, 0);
    }

    #[test]
    fn released_pages_are_found_until_they_are_needed() {
        let mut pages = Pages::new(3, 2);
        let a = filled(&mut pages, &[1, 2, 3, 4, 5]);
        let first = a.pages[0];
        pages.release(a);
        assert_eq!(pages.available(), 3);
        let b = filled(&mut pages, &[7, 8, 9]);
        // One free page and one forgotten: the last known page of the first sequence.
        let (c, covered) = pages.reuse(&[1, 2, 3, 4, 5]);
        assert_eq!((covered, &c.pages[..]), (2, &[first][..]));
        pages.release(b);
        pages.release(c);
        assert_eq!(pages.available(), 3);
    }

    #[test]
    fn a_table_that_cannot_grow_keeps_what_it_had() {
        let mut pages = Pages::new(2, 2);
        let mut a = Table::default();
        assert!(pages.grow(&mut a, 3));
        assert!(!pages.grow(&mut a, 5));
        assert_eq!(a.pages.len(), 2);
    }

    #[test]
    fn a_page_computed_twice_is_registered_once_and_freed_twice() {
        let mut pages = Pages::new(4, 2);
        let mut tables: Vec<Table> = Vec::new();
        for _ in 0..2 {
            let mut table = Table::default();
            assert!(pages.grow(&mut table, 4));
            tables.push(table);
        }
        for table in &mut tables {
            pages.register(table, &[5, 6, 7, 8]);
        }
        tables.drain(..).for_each(|t| pages.release(t));
        assert_eq!(pages.available(), 4);
        assert_eq!(pages.reuse(&[5, 6, 7, 8, 9]).1, 4);
    }
}
