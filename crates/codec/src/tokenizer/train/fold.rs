//! One pass over a stream of work on many threads.

use std::sync::{Mutex, PoisonError};

/// Takes `chunks` apart among `threads` threads: each begins with `start()` and takes chunk after
/// chunk into it by `step`. Gives what each thread came to; joining them must not depend on which
/// took what.
///
/// At most one chunk for each thread is in memory. Of several errors that of the earliest chunk
/// is given. Panics if `step` does.
pub fn fold<C: Send, A: Send, E: Send>(
    threads: usize,
    chunks: impl Iterator<Item = Result<C, E>> + Send,
    start: impl Fn() -> A + Sync,
    step: impl Fn(&mut A, C) -> Result<(), E> + Sync,
) -> Result<Vec<A>, E> {
    let source = Mutex::new(Some(chunks.enumerate()));
    let error: Mutex<Option<(usize, E)>> = Mutex::new(None);
    let next = || source.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.next();
    let fail = |at: usize, e: E| {
        *source.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut error = error.lock().unwrap_or_else(PoisonError::into_inner);
        if error.as_ref().is_none_or(|(other, _)| at < *other) {
            *error = Some((at, e));
        }
    };
    let worker = || {
        let mut state = start();
        while let Some((at, chunk)) = next() {
            if let Err(e) = chunk.and_then(|chunk| step(&mut state, chunk)) {
                fail(at, e);
                break;
            }
        }
        state
    };
    let states = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(worker)).collect();
        let mut states = vec![worker()];
        states.extend(others.into_iter().map(|other| match other.join() {
            Ok(state) => state,
            Err(panic) => std::panic::resume_unwind(panic),
        }));
        states
    });
    match error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, e)) => Err(e),
        None => Ok(states),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_taken_once_and_the_earliest_error_is_told() {
        for threads in 1..=4 {
            let chunks = (0..1000u64).map(Ok::<_, u64>);
            let add = |sum: &mut u64, n| {
                *sum += n;
                Ok(())
            };
            let sums = fold(threads, chunks, || 0, add).unwrap();
            assert_eq!(sums.iter().sum::<u64>(), 499_500);
            let chunks = (0..1000u64).map(|n| if n >= 500 { Err(n) } else { Ok(n) });
            assert_eq!(fold(threads, chunks, || 0, add), Err(500));
        }
    }
}
