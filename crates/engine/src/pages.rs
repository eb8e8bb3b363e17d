//! Which pages of the cache are whose: counts of users, and pages found again by content.
//!
//! A full page has a name, and all whose tokens begin with the same pages share it. One that begins as another does
//! and goes on otherwise, or is not full, is copied, and what both begin with need not be computed again.

use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};

/// The content of a full page: the SHA-256 of the page before it and its own tokens. Equal names hold
/// equal numbers, in memory and on disk.
pub type Name = [u8; 32];

/// The pages of one cache.
pub struct Pages {
    page_len: usize,
    /// The name before the first page: of all that decides the numbers beside tokens.
    root: Name,
    free: Vec<u32>,
    pages: Vec<Page>,
    index: HashMap<Name, u32>,
    /// Pages of which some tokens are known, by the name of the page before them.
    after: HashMap<Name, Vec<u32>>,
    /// Unused pages whose contents may be wanted again, the least wanted first.
    idle: VecDeque<u32>,
}

#[derive(Clone, Default)]
struct Page {
    users: u32,
    name: Option<Name>,
    /// Whether it was ever taken over.
    shared: bool,
    /// The name of the page before it.
    before: Name,
    /// Whose keys and values it is known to begin with.
    tokens: Vec<u32>,
}

/// Tokens that a page begins with for it to be worth copying.
const WORTH: usize = 4;

/// The pages of one sequence, in order of position.
#[derive(Debug, Default)]
pub struct Table {
    /// Page numbers, as attention takes them.
    pub pages: Vec<u32>,
    /// The names of those at the front whose contents are known to the index.
    names: Vec<Name>,
}

impl Table {
    /// The names of its full pages that are known.
    pub fn names(&self) -> &[Name] {
        &self.names
    }
}

impl Pages {
    /// `count` free pages of `page_len` positions.
    pub fn new(count: usize, page_len: usize) -> Pages {
        Pages {
            page_len,
            root: [0; 32],
            free: (0..count as u32).rev().collect(),
            pages: vec![Page::default(); count],
            index: HashMap::new(),
            after: HashMap::new(),
            idle: VecDeque::new(),
        }
    }

    /// The same for pages whose names are to hold beyond this process. Panics if pages have names already.
    pub fn rooted(self, root: Name) -> Pages {
        assert!(self.index.is_empty(), "pages have names already");
        Pages { root, ..self }
    }

    /// Pages that can be had: free, or idle and forgotten when needed.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// The name of the page that follows the known ones of a table of `tokens`; nothing if it is not
    /// full, or holds the last token, which is always computed for its logits.
    pub fn next_name(&self, table: &Table, tokens: &[u32]) -> Option<Name> {
        let most = tokens.len().saturating_sub(1) / self.page_len;
        (table.names.len() < most).then(|| self.name_after(table, tokens))
    }

    /// The page that begins as `tokens` go on behind the known pages of a table, and for how many of them. Never to
    /// the last of `tokens`, which is always computed for its logits.
    pub fn begun(&self, table: &Table, tokens: &[u32]) -> Option<(u32, usize)> {
        let rest = tokens.get(table.names.len() * self.page_len..tokens.len().saturating_sub(1))?;
        let begins = |&page: &u32| {
            let known = &self.pages[page as usize].tokens;
            (page, known.iter().zip(rest).take_while(|(a, b)| a == b).count())
        };
        let best = self.after.get(&self.before(table))?.iter().map(begins).max_by_key(|&(_, n)| n);
        best.filter(|&(_, n)| n >= WORTH)
    }

    /// The name before the page that follows the known ones of a table.
    fn before(&self, table: &Table) -> Name {
        *table.names.last().unwrap_or(&self.root)
    }

    fn name_after(&self, table: &Table, tokens: &[u32]) -> Name {
        let from = table.names.len() * self.page_len;
        let mut hash = Sha256::new();
        hash.update(self.before(table));
        tokens[from..from + self.page_len].iter().for_each(|id| hash.update(id.to_le_bytes()));
        hash.finalize().into()
    }

    /// The longest run of known pages that begins `tokens`, taken into a table; the positions
    /// they cover. Never all of `tokens`, since the last must be computed for its logits.
    pub fn reuse(&mut self, tokens: &[u32]) -> (Table, usize) {
        let mut table = Table::default();
        while let Some(name) = self.next_name(&table, tokens) {
            let Some(&page) = self.index.get(&name) else { break };
            self.take_known(page);
            table.pages.push(page);
            table.names.push(name);
        }
        let covered = table.names.len() * self.page_len;
        (table, covered)
    }

    fn take_known(&mut self, page: u32) {
        let entry = &mut self.pages[page as usize];
        entry.users += 1;
        entry.shared = true;
        if entry.users == 1 {
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
        if let Some(name) = self.pages[page as usize].name.take() {
            self.index.remove(&name);
        }
        self.unknow(page);
        page
    }

    /// Tells the index of pages that `tokens`, all computed, have filled, and of what the page behind them begins with.
    pub fn register(&mut self, table: &mut Table, tokens: &[u32]) {
        while (table.names.len() + 1) * self.page_len <= tokens.len() {
            let page = table.pages[table.names.len()];
            let name = self.name_after(table, tokens);
            // Two sequences may compute the same page at once: the first is found by others.
            if *self.index.entry(name).or_insert(page) == page {
                self.pages[page as usize].name = Some(name);
                let from = table.names.len() * self.page_len;
                self.know(page, self.before(table), &tokens[from..from + self.page_len]);
            } else {
                self.unknow(page);
            }
            table.names.push(name);
        }
        let rest = &tokens[table.names.len() * self.page_len..];
        if let Some(&page) = table.pages.get(table.names.len()) {
            self.know(page, self.before(table), rest);
        }
    }

    /// Tells of a page what it begins with: what is known of it, and more.
    fn know(&mut self, page: u32, before: Name, tokens: &[u32]) {
        let entry = &mut self.pages[page as usize];
        let known = entry.tokens.len();
        if known == 0 && !tokens.is_empty() {
            entry.before = before;
            self.after.entry(before).or_default().push(page);
        }
        entry.tokens.extend_from_slice(&tokens[known..]);
    }

    /// Forgets what a page begins with.
    fn unknow(&mut self, page: u32) {
        let entry = &mut self.pages[page as usize];
        if std::mem::take(&mut entry.tokens).is_empty() {
            return;
        }
        let before = entry.before;
        if let Some(pages) = self.after.get_mut(&before) {
            pages.retain(|&p| p != page);
            if pages.is_empty() {
                self.after.remove(&before);
            }
        }
    }

    /// The page of a name, if it is known.
    pub fn find(&self, name: &Name) -> Option<u32> {
        self.index.get(name).copied()
    }

    /// Known pages, the most wanted first: those in use, then those used last; if `shared`, only those that
    /// were taken over.
    pub fn known(&self, shared: bool) -> impl Iterator<Item = Name> + '_ {
        let used = (0..self.pages.len() as u32).filter(|&p| self.pages[p as usize].users > 0);
        let all = used.chain(self.idle.iter().rev().copied());
        let pages = all.map(|page| &self.pages[page as usize]);
        pages.filter(move |page| page.shared || !shared).filter_map(|page| page.name)
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
            match entry.tokens.is_empty() {
                true => self.free.push(page),
                false => self.idle.push_back(page),
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
    fn a_page_that_begins_the_same_is_found_while_it_holds_that() {
        let mut pages = Pages::new(4, 8);
        let a = filled(&mut pages, &[1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15]);
        let begun = |pages: &Pages, tokens: &[u32]| pages.begun(&Table::default(), tokens);
        // A full page and one that is not; the longer of two; the last token is left out.
        assert_eq!(begun(&pages, &[1, 2, 3, 4, 5, 9, 9]), Some((a.pages[0], 5)));
        assert_eq!(begun(&pages, &[1, 2, 3, 4, 5]), Some((a.pages[0], 4)));
        assert_eq!(begun(&pages, &[1, 2, 3, 4]), None);
        assert_eq!(begun(&pages, &[11, 12, 13, 14, 15, 16]), None, "it is behind another page");
        let turn = [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 19, 20];
        let (table, covered) = pages.reuse(&turn);
        assert_eq!((covered, pages.begun(&table, &turn)), (8, Some((a.pages[1], 4))));
        pages.release(table);
        let b = filled(&mut pages, &[1, 2, 3, 4, 5, 6, 9]);
        assert_eq!(begun(&pages, &[1, 2, 3, 4, 5, 6, 9, 9]), Some((b.pages[0], 7)));
        pages.release(a);
        pages.release(b);
        assert_eq!(begun(&pages, &[1, 2, 3, 4, 5, 9]).unwrap().1, 5);
        // When another has the pages nothing of it is left.
        let mut all = Table::default();
        assert!(pages.grow(&mut all, 32));
        assert_eq!(begun(&pages, &[1, 2, 3, 4, 5, 9]), None);
        assert!(pages.after.is_empty() && pages.index.is_empty());
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
