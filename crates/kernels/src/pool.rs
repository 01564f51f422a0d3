//! A fork-join pool: helper threads take task numbers from a shared counter.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle, Thread};

/// Spins before a helper sleeps: a few hundred microseconds, longer than the gaps between steps of a forward pass, yet
/// short enough not to starve other programs on a shared machine.
const HELPER_SPINS: usize = 6000;

/// Spins before a caller that waits for its helpers sleeps.
const CALLER_SPINS: usize = 6000;

/// Set in the gate while helpers may join; the other bits count those inside, in steps of `MEMBER`.
const OPEN: usize = 1;
const MEMBER: usize = 2;

/// Forks between the program's start and this process.
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// Call this in a child process right after `fork`, which copies memory but no threads. Existing pools then know that
/// their helpers are gone, and callers do all the work themselves. Results keep the same bits.
pub fn forked() {
    FORKS.fetch_add(1, Ordering::SeqCst);
}

/// The threads. Dropping the pool ends them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// `FORKS` when the helpers started: after another fork they no longer exist.
    forks: usize,
    /// Held by the one caller that has the helpers; other callers run their tasks themselves.
    calling: Mutex<()>,
}

struct Shared {
    /// Counts published jobs and the order to stop.
    published: AtomicUsize,
    gate: AtomicUsize,
    job: UnsafeCell<Option<JobPointer>>,
    stopping: AtomicBool,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only by the holder of `calling` while the gate is closed and empty, and read only by helpers
// that have entered the gate; entering reads the gate that was opened after the write.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a `Job`, which is `Sync`.
unsafe impl Send for Shared {}

/// One call of `for_each`, on the caller's stack.
struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    caller: Thread,
}

#[derive(Clone, Copy)]
struct JobPointer(*const Job<'static>);

impl Pool {
    /// A pool of `threads` threads, the caller's included, or fewer if the system refuses some.
    pub(crate) fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            published: AtomicUsize::new(0),
            gate: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            stopping: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let start = |number: usize| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("easyroutine-{number}")).spawn(move || shared.help()).ok()
        };
        let helpers = (1..threads).map_while(start).collect();
        Pool { shared, helpers, forks: FORKS.load(Ordering::SeqCst), calling: Mutex::new(()) }
    }

    /// Number of threads that work on a job.
    pub(crate) fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `task` with every number below `tasks`, each once, on any thread; returns when all have ended.
    ///
    /// A call from within a task, or while another call has the helpers, runs its tasks on its own thread.
    ///
    /// # Panics
    /// With the panic of a task, after which no further task is started.
    pub(crate) fn for_each(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let calling = if tasks > 1 && self.has_helpers() { self.try_call() } else { None };
        match calling {
            Some(_calling) => self.share(tasks, task),
            None => (0..tasks).for_each(task),
        }
    }

    fn has_helpers(&self) -> bool {
        !self.helpers.is_empty() && self.forks == FORKS.load(Ordering::Relaxed)
    }

    fn try_call(&self) -> Option<MutexGuard<'_, ()>> {
        match self.calling.try_lock() {
            Ok(guard) => Some(guard),
            // A task's panic drops the guard while unwinding, when the job is already over.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn share(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let job = Job {
            task,
            tasks,
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            caller: thread::current(),
        };
        let shared = &*self.shared;
        // SAFETY: `calling` is held and the last job left the gate closed and empty, so no one else looks at `job`.
        // The pointer outlives its use: `finish` returns only after the gate is closed and the last helper has left,
        // and nothing before it unwinds, since tasks' panics are caught.
        unsafe { *shared.job.get() = Some(JobPointer((&raw const job).cast())) };
        shared.gate.store(OPEN, Ordering::Release);
        shared.publish(tasks - 1);
        job.work();
        shared.finish();
        let panic = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if !self.has_helpers() {
            // After a fork no helper would ever answer, and a lock may have been copied while it was held.
            std::mem::take(&mut self.helpers).into_iter().for_each(std::mem::forget);
            return;
        }
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.publish(self.helpers.len());
        for helper in self.helpers.drain(..) {
            // A task may drop the last handle of the pool: a thread cannot join itself.
            if helper.thread().id() != thread::current().id() {
                // A helper catches every panic of a task, so there is none to propagate.
                let _ended = helper.join();
            }
        }
    }
}

impl Shared {
    /// Wakes up to `wanted` helpers.
    fn publish(&self, wanted: usize) {
        self.published.fetch_add(1, Ordering::SeqCst);
        let sleepers = self.sleepers.load(Ordering::SeqCst);
        if sleepers == 0 {
            return;
        }
        let _asleep = lock(&self.sleep);
        if wanted >= sleepers {
            self.wake.notify_all();
        } else {
            (0..wanted).for_each(|_| self.wake.notify_one());
        }
    }

    /// Closes the gate and waits until the last helper has left.
    fn finish(&self) {
        self.gate.fetch_and(!OPEN, Ordering::AcqRel);
        for _ in 0..CALLER_SPINS {
            if self.gate.load(Ordering::Acquire) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        while self.gate.load(Ordering::Acquire) != 0 {
            thread::park();
        }
    }

    /// The main loop of a helper thread.
    fn help(&self) {
        let mut seen = 0;
        loop {
            seen = self.wait_for_news(seen);
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            if self.enter() {
                self.work_and_leave();
            }
        }
    }

    /// Waits until something is published after number `seen`, and returns its number.
    fn wait_for_news(&self, seen: usize) -> usize {
        for _ in 0..HELPER_SPINS {
            let published = self.published.load(Ordering::Acquire);
            if published != seen {
                return published;
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let published = loop {
            let published = self.published.load(Ordering::SeqCst);
            if published != seen {
                break published;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        published
    }

    fn enter(&self) -> bool {
        let join = |gate: usize| (gate & OPEN != 0).then_some(gate + MEMBER);
        self.gate.fetch_update(Ordering::AcqRel, Ordering::Acquire, join).is_ok()
    }

    fn work_and_leave(&self) {
        // SAFETY: this helper is a member of the gate, so the job is written and its caller waits.
        let caller = unsafe { (*self.job.get()).map(|JobPointer(job)| (*job).help()) };
        if self.gate.fetch_sub(MEMBER, Ordering::AcqRel) == MEMBER
            && let Some(caller) = caller
        {
            caller.unpark();
        }
    }
}

impl Job<'_> {
    /// Works on the job, and returns the thread to wake at the end.
    fn help(&self) -> Thread {
        self.work();
        self.caller.clone()
    }

    fn work(&self) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.tasks {
                return;
            }
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (self.task)(number))) {
                // Far from overflow: each thread adds at most one more.
                self.next.store(self.tasks, Ordering::Relaxed);
                lock(&self.panic).get_or_insert(payload);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn counts(pool: &Pool, tasks: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.for_each(tasks, &|task| {
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_task_runs_once_whatever_the_number_of_threads() {
        for threads in [0, 1, 2, 3, 7] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads.max(1));
            for tasks in [0, 1, 2, 3, 100] {
                assert_eq!(counts(&pool, tasks), vec![1; tasks]);
            }
        }
    }

    #[test]
    fn sleeping_helpers_wake_for_the_next_job() {
        let pool = Pool::new(3);
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(5));
            let both = std::sync::Barrier::new(3);
            // Passes only if all three threads take part.
            pool.for_each(3, &|_| {
                both.wait();
            });
        }
    }

    #[test]
    fn many_short_jobs_in_a_row_all_end() {
        let pool = Pool::new(4);
        for tasks in 0..2000 {
            assert_eq!(counts(&pool, tasks % 9), vec![1; tasks % 9]);
        }
    }

    #[test]
    fn jobs_inside_jobs_and_from_several_threads_all_end() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.for_each(5, &|_| {
                            pool.for_each(3, &|_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            })
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 50 * 5 * 3);
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_works_on() {
        let pool = Pool::new(3);
        for bad in [0, 7, 99] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.for_each(100, &|task| assert!(task != bad, "task {task} is bad"));
            }));
            let payload = result.unwrap_err();
            assert_eq!(payload.downcast_ref::<String>(), Some(&format!("task {bad} is bad")));
            assert_eq!(counts(&pool, 50), vec![1; 50]);
        }
    }

    #[test]
    fn the_threads_end_with_the_pool() {
        let pool = Pool::new(4);
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        assert!(shared.upgrade().is_none());
    }
}
