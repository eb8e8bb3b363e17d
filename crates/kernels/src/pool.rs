//! One persistent pool of compute threads: they spin briefly for work, then sleep.
//!
//! A model step is hundreds of short loops; waking threads through the system for each would
//! cost more than the loops. A worker that has just finished spins for `SPIN` rounds (some tens of
//! microseconds) before it parks, so that the loops of one step meet awake workers, and an idle
//! program burns nothing. The caller works too, tasks are claimed from one counter, and a job closes
//! when its tasks are taken: a worker that the system has put aside delays only the task that it
//! holds, and none if it has not come at all.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};

/// Rounds of `spin_loop` before a thread gives way: about 50 microseconds at 40 cycles a round.
const SPIN: u32 = 5_000;

/// A pool of `threads` threads, the caller of `run` among them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    sleepers: Vec<Thread>,
    /// Two callers at once take turns.
    turn: Mutex<()>,
}

/// The job on offer: a borrowed closure, valid while the job is open or a worker is inside.
struct Job {
    run: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

/// Set while workers may enter the job.
const OPEN: u64 = 1 << 16;
/// The bits that count the workers inside.
const INSIDE: u64 = OPEN - 1;

/// The number of the job, which grows by one with each.
fn number(state: u64) -> u64 {
    state / (2 * OPEN)
}

struct Shared {
    /// The job's number, whether it is open, and how many workers are inside (`OPEN`, `INSIDE`).
    state: AtomicU64,
    stop: AtomicBool,
    next: AtomicUsize,
    asleep: AtomicUsize,
    job: std::cell::UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only by the caller of `run`, under `turn`, while the job is closed and no
// worker is inside; workers read it only between entering an open job and leaving it.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer in `job` points to a `Sync` closure that outlives the job.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool that computes on `threads` threads; at least one.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            job: std::cell::UnsafeCell::new(Job { run: &|_| {}, tasks: 0 }),
            panic: Mutex::new(None),
        });
        let workers: Vec<JoinHandle<()>> = (1..threads.max(1))
            .filter_map(|i| {
                let shared = Arc::clone(&shared);
                let name = format!("herd-compute-{i}");
                thread::Builder::new().name(name).spawn(move || work(&shared)).ok()
            })
            .collect();
        let sleepers = workers.iter().map(|w| w.thread().clone()).collect();
        Pool { shared, workers, sleepers, turn: Mutex::new(()) }
    }

    /// Threads that compute, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(i)` once for each `i` below `tasks`, on any of the threads, and waits for all.
    ///
    /// Panics with a task's own panic. A task must not call `run` on the same pool.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(task);
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        let shared = &*self.shared;
        let short: &(dyn Fn(usize) + Sync) = &task;
        // SAFETY: only the lifetime changes; this function waits below until no worker holds it.
        let long: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(short) };
        // SAFETY: the last `run` closed its job and waited until no worker was inside.
        unsafe { *shared.job.get() = Job { run: long, tasks } };
        shared.next.store(0, Ordering::Relaxed);
        // The state and the count of sleepers are each written on one side and read on the other:
        // sequential order makes sure that a worker sees the job or we see the sleeper.
        let job = number(shared.state.load(Ordering::Relaxed)) + 1;
        shared.state.store(job * 2 * OPEN | OPEN, Ordering::SeqCst);
        if shared.asleep.load(Ordering::SeqCst) > 0 {
            self.sleepers.iter().for_each(Thread::unpark);
        }
        take_tasks(shared, &task, tasks);
        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut rounds = 0;
        while shared.state.load(Ordering::Acquire) & INSIDE != 0 {
            rounds += 1;
            if rounds > SPIN {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        let panic = shared.panic.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(panic) = panic {
            panic::resume_unwind(panic);
        }
    }

    /// Splits `0..len` into pieces of whole multiples of `grain` and calls `task(start, end)`.
    pub fn run_ranges(&self, len: usize, grain: usize, task: impl Fn(usize, usize) + Sync) {
        let pieces = len.div_ceil(grain.max(1));
        // Four pieces a thread: enough that a delayed thread can be helped out.
        let per = pieces.div_ceil(self.threads() * 4).max(1) * grain.max(1);
        self.run(len.div_ceil(per), |i| task(i * per, ((i + 1) * per).min(len)));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its tasks, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

fn take_tasks(shared: &Shared, task: &(dyn Fn(usize) + Sync), tasks: usize) {
    let caught = panic::catch_unwind(AssertUnwindSafe(|| {
        loop {
            let i = shared.next.fetch_add(1, Ordering::Relaxed);
            if i >= tasks {
                return;
            }
            task(i);
        }
    }));
    if let Err(panic) = caught {
        shared.next.store(tasks, Ordering::Relaxed);
        *shared.panic.lock().unwrap_or_else(|e| e.into_inner()) = Some(panic);
    }
}

fn work(shared: &Shared) {
    let mut seen = 0;
    while let Some(job) = enter(shared, seen) {
        seen = job;
        // SAFETY: this worker is inside an open job, so it is written and stays until it leaves.
        let job = unsafe { &*shared.job.get() };
        // SAFETY: the closure lives until `run` returns, which waits until nobody is inside.
        take_tasks(shared, unsafe { &*job.run }, job.tasks);
        shared.state.fetch_sub(1, Ordering::Release);
    }
}

/// Spins, then sleeps, until there is an open job other than `seen`; enters it and returns its
/// number, or `None` when the pool ends.
fn enter(shared: &Shared, seen: u64) -> Option<u64> {
    let mut rounds = 0;
    loop {
        let state = shared.state.load(Ordering::Acquire);
        if state & OPEN != 0 && number(state) != seen {
            let enter = shared.state.compare_exchange_weak(
                state,
                state + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if enter.is_ok() {
                return Some(number(state));
            }
            continue;
        }
        if rounds < SPIN {
            rounds += 1;
            std::hint::spin_loop();
            continue;
        }
        if shared.stop.load(Ordering::SeqCst) {
            return None;
        }
        shared.asleep.fetch_add(1, Ordering::SeqCst);
        let state = shared.state.load(Ordering::SeqCst);
        if state & OPEN == 0 || number(state) == seen {
            if !shared.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            // Woken for a job that is over already: the next may be near.
            rounds = 0;
        }
        shared.asleep.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Threads worth starting: the CPUs that this process may use, not more than its quota of time.
pub fn allowed_threads() -> usize {
    // The standard library counts the affinity mask and the control group's quota on Linux.
    thread::available_parallelism().map_or(1, |n| n.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, |i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_short_jobs_and_sleeps_between_lose_nothing() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        for round in 0..2_000 {
            pool.run(5, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            if round % 500 == 0 {
                thread::sleep(std::time::Duration::from_millis(2));
            }
        }
        assert_eq!(sum.load(Ordering::Relaxed), 20_000);
    }

    #[test]
    fn a_panicking_task_panics_its_caller_and_leaves_the_pool_whole() {
        let pool = Pool::new(2);
        let caught = panic::catch_unwind(AssertUnwindSafe(|| {
            pool.run(10, |i| assert!(i != 5, "task five"));
        }));
        assert!(caught.is_err());
        let done = AtomicUsize::new(0);
        pool.run(10, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn ranges_cover_everything_once() {
        let pool = Pool::new(2);
        for len in [0, 1, 15, 16, 17, 1000] {
            let hits: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
            pool.run_ranges(len, 16, |a, b| {
                assert!(a % 16 == 0 && a < b);
                hits[a..b].iter().for_each(|h| {
                    h.fetch_add(1, Ordering::Relaxed);
                });
            });
            assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
        }
    }
}
