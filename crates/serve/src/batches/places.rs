//! The places that rows of a batch have among all answers: a place for each answer, however many rows bring them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

/// How long a model may have no memory before rows for it are given up.
const DROUGHT: Duration = Duration::from_secs(600);

/// Places for answers to rows of one batch.
#[derive(Debug)]
pub struct Places {
    free: Semaphore,
    most: usize,
    /// Since when no row has found its model.
    dry: Mutex<Option<Instant>>,
}

impl Places {
    /// So many places.
    pub fn new(most: usize) -> Places {
        let most = most.clamp(1, u32::MAX as usize);
        Places { free: Semaphore::new(most), most, dry: Mutex::default() }
    }

    /// Waits until there are places for so many answers; a row of more than all takes all.
    pub async fn take(&self, answers: usize) -> Option<SemaphorePermit<'_>> {
        // Never closed, so always some.
        self.free.acquire_many(answers.min(self.most) as u32).await.ok()
    }

    /// Says whether a row found its model at `now`; `true` where none has for so long that rows are given up.
    pub fn is_hopeless(&self, found: bool, now: Instant) -> bool {
        let mut dry = self.dry.lock().unwrap_or_else(PoisonError::into_inner);
        *dry = (!found).then(|| dry.unwrap_or(now));
        dry.is_some_and(|since| now.saturating_duration_since(since) >= DROUGHT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_places_by_their_answers() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let places = Places::new(4);
        runtime.block_on(async {
            let three = places.take(3).await;
            assert_eq!(places.free.available_permits(), 1);
            drop(three);
            let _all = places.take(128).await;
            assert_eq!(places.free.available_permits(), 0);
        });
    }

    #[test]
    fn rows_for_a_model_that_never_fits_are_given_up() {
        let places = Places::new(1);
        let start = Instant::now();
        assert!(!places.is_hopeless(false, start));
        assert!(!places.is_hopeless(false, start + DROUGHT / 2));
        assert!(!places.is_hopeless(true, start + DROUGHT));
        assert!(!places.is_hopeless(false, start + DROUGHT));
        assert!(places.is_hopeless(false, start + DROUGHT * 2));
        assert!(places.is_hopeless(false, start + DROUGHT * 3));
    }
}
