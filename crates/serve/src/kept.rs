//! Answers that are kept for a while, so that a later request can go on from one by its name.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

/// Bytes of answers that are kept, as JSON; the oldest go first.
pub const KEPT_BYTES: usize = 64 << 20;

/// Kept answers, in memory alone, as their owner sees them: nobody else does. Clones share the shelf.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    shelf: Arc<Mutex<Shelf>>,
    /// The name of the owner's key; `None` where there are no keys.
    owner: Option<String>,
}

/// An answer, and all that was said up to it.
#[derive(Debug)]
pub struct Answer {
    /// As it was given.
    pub response: Value,
    /// The conversation with this answer at its end.
    pub items: Vec<Value>,
}

#[derive(Debug, Default)]
struct Shelf {
    answers: HashMap<String, Book>,
    /// Names, the oldest first; some may be gone.
    order: VecDeque<String>,
    bytes: usize,
}

#[derive(Debug)]
struct Book {
    answer: Arc<Answer>,
    bytes: usize,
    owner: Option<String>,
}

impl Kept {
    /// The same shelf as the owner of this key sees it.
    pub fn of(&self, owner: &str) -> Kept {
        Kept { shelf: Arc::clone(&self.shelf), owner: Some(owner.to_owned()) }
    }

    /// The answer of this name.
    pub fn get(&self, id: &str) -> Option<Arc<Answer>> {
        let shelf = self.shelf();
        let book = shelf.answers.get(id).filter(|book| book.owner == self.owner)?;
        Some(Arc::clone(&book.answer))
    }

    /// Keeps an answer; one that is too long for the shelf is not kept.
    pub fn add(&self, id: &str, answer: Answer) {
        self.add_within(KEPT_BYTES, id, answer);
    }

    /// Drops an answer; whether it was there.
    pub fn remove(&self, id: &str) -> bool {
        let mut shelf = self.shelf();
        if shelf.answers.get(id).is_none_or(|book| book.owner != self.owner) {
            return false;
        }
        shelf.order.retain(|name| name != id);
        shelf.drop_one(id)
    }

    fn add_within(&self, most: usize, id: &str, answer: Answer) {
        let items: usize = answer.items.iter().map(|item| item.to_string().len()).sum();
        let bytes = items + answer.response.to_string().len();
        let mut shelf = self.shelf();
        shelf.bytes += bytes;
        shelf.order.push_back(id.to_owned());
        let book = Book { answer: Arc::new(answer), bytes, owner: self.owner.clone() };
        shelf.answers.insert(id.to_owned(), book);
        while shelf.bytes > most {
            let Some(oldest) = shelf.order.pop_front() else { return };
            shelf.drop_one(&oldest);
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // Nothing that holds the lock leaves half of a change behind.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn drop_one(&mut self, id: &str) -> bool {
        let gone = self.answers.remove(id);
        self.bytes -= gone.as_ref().map_or(0, |book| book.bytes);
        gone.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_oldest_answers_go_when_there_are_too_many() {
        let kept = Kept::default();
        let answer = || Answer { response: json!("x".repeat(8)), items: vec![json!(1)] };
        for id in ["a", "b", "c", "d"] {
            kept.add_within(35, id, answer()); // of 11 bytes each
        }
        assert!(kept.get("a").is_none() && kept.get("b").is_some());
        assert!(kept.remove("b") && !kept.remove("b"));
        assert_eq!(kept.get("d").unwrap().items, [json!(1)]);
        kept.add_within(10, "e", answer());
        assert!(kept.get("e").is_none() && kept.get("d").is_none());
        assert_eq!(kept.shelf().bytes, 0);
    }

    #[test]
    fn nobody_sees_the_answers_of_another_key() {
        let shelf = Kept::default();
        let (mine, yours) = (shelf.of("me"), shelf.of("you"));
        mine.add("a", Answer { response: json!(1), items: vec![] });
        assert!(mine.get("a").is_some() && yours.get("a").is_none() && shelf.get("a").is_none());
        assert!(!yours.remove("a") && mine.remove("a"));
    }
}
