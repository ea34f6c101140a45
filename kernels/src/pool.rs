//! Threads that wait for work: they spin for a moment, then sleep.
//!
//! Between two layers of a small model lie microseconds, less than it takes to wake a thread; so a worker watches for the
//! next job before it parks. The thread that hands out a job takes part in it, and never waits for a worker to begin:
//! on a machine that others use too, a worker that is not running costs nothing but its help.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::shared::Shared;

/// The environment variable that sets how many threads the common pool has.
pub const VARIABLE: &str = "TERN_THREADS";

/// Multiplications below which a second thread costs more than it saves.
pub const PARALLEL: usize = 1 << 17;

/// Rounds that a worker spins before it parks: some 50 us.
const PATIENCE: u32 = 2_000;

/// Tasks that many chunks are bundled into.
const MOST_TASKS: usize = 1 << 10;

/// A fixed number of threads.
pub struct Pool {
    shared: Arc<State>,
    workers: Vec<JoinHandle<()>>,
    /// Held by whoever has a job running.
    running: Mutex<()>,
}

struct State {
    /// Which task of which job is next: see [`Ticket`].
    next: AtomicU64,
    /// Tasks of this job that are done.
    done: AtomicU32,
    job: UnsafeCell<Job>,
    sleepers: AtomicU32,
    bed: Mutex<()>,
    alarm: Condvar,
    stop: AtomicBool,
    /// What a task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written while no task can be claimed, and read by those who have claimed one.
unsafe impl Sync for State {}

/// A closure that lives on the stack of the thread that runs the job.
#[derive(Clone, Copy)]
struct Job {
    call: unsafe fn(*const (), usize),
    data: *const (),
}

// SAFETY: the closure behind it is `Sync`, as `Pool::run` asks.
unsafe impl Send for Job {}

/// The number of a job, the number of its tasks, and the next one to claim, in one word: who exchanges it has claimed a
/// task of that very job, which then cannot end before the task does.
#[derive(Clone, Copy)]
struct Ticket {
    job: u32,
    tasks: u16,
    next: u16,
}

impl Ticket {
    fn pack(self) -> u64 {
        u64::from(self.job) << 32 | u64::from(self.tasks) << 16 | u64::from(self.next)
    }

    fn unpack(word: u64) -> Self {
        Self { job: (word >> 32) as u32, tasks: (word >> 16) as u16, next: word as u16 }
    }
}

impl Pool {
    /// A pool of this many threads; the one that hands out a job is one of them.
    pub fn new(threads: usize) -> Self {
        unsafe fn nothing(_: *const (), _: usize) {}
        let shared = Arc::new(State {
            next: AtomicU64::new(0),
            done: AtomicU32::new(0),
            job: UnsafeCell::new(Job { call: nothing, data: std::ptr::null() }),
            sleepers: AtomicU32::new(0),
            bed: Mutex::new(()),
            alarm: Condvar::new(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let worker = |i| {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("tern-{i}"));
            // With fewer threads the work is the same.
            builder.spawn(move || shared.work()).ok()
        };
        let workers = (1..threads).filter_map(worker).collect();
        Self { shared, workers, running: Mutex::new(()) }
    }

    /// The pool of this process: as many threads as it may use, or as `TERN_THREADS` says.
    pub fn common() -> Arc<Self> {
        static POOL: LazyLock<Arc<Pool>> = LazyLock::new(|| {
            let asked = std::env::var(VARIABLE).ok().and_then(|text| text.trim().parse().ok());
            let there = || std::thread::available_parallelism().map_or(1, usize::from);
            Arc::new(Pool::new(asked.filter(|&threads| threads > 0).unwrap_or_else(there)))
        });
        Arc::clone(&POOL)
    }

    /// Threads that a job may run on.
    pub fn threads(&self) -> usize {
        1 + self.workers.len()
    }

    /// Calls `task` once with each number below `tasks`, on all threads, and returns when all calls have.
    ///
    /// Where the pool is busy, with a job of another thread or with the one that this call is a task of, the caller does
    /// it all.
    ///
    /// # Panics
    ///
    /// As a task does, after all others have ended.
    pub fn run<F: Fn(usize) + Sync>(&self, tasks: usize, task: F) {
        unsafe fn call<F: Fn(usize)>(data: *const (), i: usize) {
            // SAFETY: `data` is the `task` of the job, which outlives it.
            unsafe { (*data.cast::<F>())(i) }
        }
        let guard = (tasks > 1 && !self.workers.is_empty()).then(|| self.running.try_lock().ok());
        let (Some(Some(_guard)), Ok(count)) = (guard, u16::try_from(tasks)) else {
            return (0..tasks).for_each(task);
        };
        let state = &*self.shared;
        // SAFETY: the job before is done and `running` is held, so no task can be claimed and nobody reads.
        unsafe { *state.job.get() = Job { call: call::<F>, data: (&raw const task).cast() } };
        state.done.store(0, Ordering::Relaxed);
        let job = Ticket::unpack(state.next.load(Ordering::Relaxed)).job.wrapping_add(1);
        let ticket = Ticket { job, tasks: count, next: 0 };
        // Sequentially consistent, as the sleeper's count: either this sees the sleeper, or the sleeper the ticket.
        state.next.store(ticket.pack(), Ordering::SeqCst);
        if state.sleepers.load(Ordering::SeqCst) > 0 {
            drop(state.bed.lock().unwrap_or_else(PoisonError::into_inner));
            state.alarm.notify_all();
        }
        while state.claim_and_call() {}
        let mut rounds = 0;
        while state.done.load(Ordering::Acquire) < u32::from(count) {
            rounds += 1;
            // A worker that was interrupted in its task needs this core as much as any.
            if rounds < PATIENCE { spin_loop() } else { std::thread::yield_now() }
        }
        let panic = state.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Calls `task` once with each of `parts` runs of the numbers below `count`, as equal as can be, on all threads.
    ///
    /// # Panics
    ///
    /// As `task` does.
    pub(crate) fn run_parts(&self, count: usize, parts: usize, task: impl Fn(Range<usize>) + Sync) {
        self.run(parts, |part| task(part * count / parts..(part + 1) * count / parts));
    }

    /// Calls `write` once with each chunk of `length` values (the last may be shorter) and its number, on all threads.
    ///
    /// # Panics
    ///
    /// As `write` does, and if `length` is 0.
    pub fn write_chunks<T: Send, F: Fn(usize, &mut [T]) + Sync>(
        &self,
        values: &mut [T],
        length: usize,
        write: F,
    ) {
        let (count, len) = (values.len().div_ceil(length), values.len());
        let values = Shared::new(values);
        self.run_parts(count, count.min(MOST_TASKS), |part| {
            for i in part {
                // SAFETY: each chunk belongs to one task.
                let chunk = unsafe { values.slice(i * length, length.min(len - i * length)) };
                write(i, chunk);
            }
        });
    }
}

impl State {
    /// Does one task of the current job; false if none is left.
    fn claim_and_call(&self) -> bool {
        let mut word = self.next.load(Ordering::Acquire);
        loop {
            let ticket = Ticket::unpack(word);
            if ticket.next >= ticket.tasks {
                return false;
            }
            let after = Ticket { next: ticket.next + 1, ..ticket }.pack();
            let claim =
                self.next.compare_exchange_weak(word, after, Ordering::AcqRel, Ordering::Acquire);
            match claim {
                Err(now) => word = now,
                Ok(_) => {
                    // SAFETY: a claimed task keeps its job from ending, and the job was written before the ticket.
                    let job = unsafe { *self.job.get() };
                    let index = usize::from(ticket.next);
                    // SAFETY: `data` belongs to `call`, and lives until the job ends.
                    let call = || unsafe { (job.call)(job.data, index) };
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
                        *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                    }
                    self.done.fetch_add(1, Ordering::Release);
                    return true;
                }
            }
        }
    }

    fn has_work(&self) -> bool {
        let ticket = Ticket::unpack(self.next.load(Ordering::SeqCst));
        ticket.next < ticket.tasks
    }

    /// The life of a worker.
    fn work(&self) {
        let mut rounds = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if self.claim_and_call() {
                rounds = 0;
            } else if rounds < PATIENCE {
                rounds += 1;
                spin_loop();
            } else {
                self.sleep();
                rounds = 0;
            }
        }
    }

    fn sleep(&self) {
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !self.has_work() && !self.stop.load(Ordering::SeqCst) {
            bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(self.shared.bed.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.alarm.notify_all();
        for worker in self.workers.drain(..) {
            // Panics of tasks were caught.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_task_is_called_once_whatever_the_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for tasks in (0..40).chain([1_000, 65_535, 65_536, 70_000]) {
                let calls: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                pool.run(tasks, |i| {
                    calls[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(calls.iter().all(|calls| calls.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_short_jobs_and_pauses_lose_none() {
        let pool = Pool::new(4);
        let total = AtomicU64::new(0);
        for job in 0..20_000 {
            pool.run(5, |i| {
                total.fetch_add(i as u64, Ordering::Relaxed);
            });
            if job % 1_000 == 0 {
                // Long enough that the workers park.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        assert_eq!(total.into_inner(), 20_000 * 10);
    }

    #[test]
    fn jobs_of_several_threads_and_jobs_in_jobs_end() {
        let pool = Pool::new(3);
        let total = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(3, |_| {
                            pool.run(4, |_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            })
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 12);
    }

    #[test]
    fn every_chunk_is_written_once() {
        let pool = Pool::new(3);
        for (len, length) in [(0, 3), (1, 3), (7, 3), (9, 3), (5_000, 2), (5, 9)] {
            let mut values = vec![0; len];
            pool.write_chunks(&mut values, length, |i, chunk| {
                chunk.iter_mut().for_each(|value| *value += i + 1);
            });
            let expected: Vec<_> = (0..len).map(|n| n / length + 1).collect();
            assert_eq!(values, expected);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2);
        let ended = AtomicU32::new(0);
        let job = || {
            pool.run(8, |i| {
                assert!(i != 3, "task three");
                ended.fetch_add(1, Ordering::Relaxed);
            });
        };
        let panic = catch_unwind(AssertUnwindSafe(job)).expect_err("task three");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"task three"));
        assert_eq!(ended.load(Ordering::Relaxed), 7);
        pool.run(8, |_| {
            ended.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ended.into_inner(), 15);
    }
}
