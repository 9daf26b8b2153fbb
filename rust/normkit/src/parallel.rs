//! The only file that knows threads.
//!
//! Work comes as numbered tasks. Which thread runs a task never changes a result: partial results belong to tasks, and
//! are merged in the order of tasks. A pool of n − 1 workers serves n threads, as the caller takes tasks too.

use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rayon_core::{ThreadPool, ThreadPoolBuilder};

/// Threads to use; 0 = not decided yet.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// The pool in use. It is never freed: another thread may be inside a call, and after `fork` its workers are gone.
static POOL: AtomicPtr<Pool> = AtomicPtr::new(std::ptr::null_mut());

struct Pool {
    threads: usize,
    workers: Arc<ThreadPool>,
}

/// The most threads that are used, whatever is asked for.
pub const MOST_THREADS: usize = 1024;

/// Use `threads` threads from now on, the caller's included: at least one, at most [`MOST_THREADS`].
pub fn set_num_threads(threads: usize) {
    THREADS.store(threads.clamp(1, MOST_THREADS), Ordering::Relaxed);
}

/// How many threads are used: what was set, else `NORMKIT_NUM_THREADS`, else `RAYON_NUM_THREADS`, else what affinity
/// and cgroup quota allow.
pub fn num_threads() -> usize {
    match THREADS.load(Ordering::Relaxed) {
        0 => {
            let named = |name| std::env::var(name).ok()?.trim().parse().ok().filter(|&n: &usize| n > 0);
            let threads = named("NORMKIT_NUM_THREADS")
                .or_else(|| named("RAYON_NUM_THREADS"))
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
            let threads = threads.min(MOST_THREADS);
            THREADS.store(threads, Ordering::Relaxed);
            threads
        }
        threads => threads,
    }
}

/// Workers for `threads` threads; none if the system refuses to make any. A pool only ever grows.
fn workers(threads: usize) -> Option<Arc<ThreadPool>> {
    // SAFETY: pools are leaked, so the pointer is null or valid for ever.
    let pool = unsafe { POOL.load(Ordering::Acquire).as_ref() };
    if let Some(pool) = pool.filter(|pool| pool.threads >= threads) {
        return Some(pool.workers.clone());
    }
    let workers = ThreadPoolBuilder::new()
        .num_threads(threads - 1)
        .thread_name(|i| format!("normkit-{i}"))
        .build()
        .map(Arc::new)
        .ok()?;
    forget_pool_in_children();
    // A smaller pool that was here may be in use, and dropping it would wait for its threads.
    POOL.store(Box::into_raw(Box::new(Pool { threads, workers: workers.clone() })), Ordering::Release);
    Some(workers)
}

/// A forked child has none of its parent's threads: let it make a pool of its own.
#[cfg(unix)]
fn forget_pool_in_children() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    extern "C" fn forget() {
        POOL.store(std::ptr::null_mut(), Ordering::Release);
    }
    // SAFETY: the handler stores to an atomic, which is allowed in a forked child.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(forget));
    });
}

#[cfg(not(unix))]
fn forget_pool_in_children() {}

/// Runs `task(0)`, …, `task(tasks - 1)` on up to `threads` threads; `state` is made once for each of them.
/// A panic in a task reaches the caller after all threads have stopped.
pub(crate) fn run<W>(threads: usize, tasks: usize, state: impl Fn() -> W + Sync, task: impl Fn(usize, &mut W) + Sync) {
    let threads = threads.min(tasks);
    let pool = if threads > 1 { workers(num_threads().max(threads)) } else { None };
    let Some(pool) = pool else {
        let mut state = state();
        (0..tasks).for_each(|i| task(i, &mut state));
        return;
    };
    let next = AtomicUsize::new(0);
    let panicked = Mutex::new(None);
    let work = || {
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut state = state();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= tasks {
                    break;
                }
                task(i, &mut state);
            }
        }));
        if let Err(payload) = result {
            next.store(tasks, Ordering::Relaxed); // no further task
            *panicked.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(payload);
        }
    };
    pool.in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| work());
        }
        work();
    });
    if let Some(payload) = panicked.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        resume_unwind(payload);
    }
}

/// A slice whose disjoint parts are written by different threads.
pub(crate) struct Disjoint<'a, T> {
    data: *mut T,
    len: usize,
    lives: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out parts of a `&mut [T]` through an unsafe function, which asks for disjointness.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Disjoint { data: data.as_mut_ptr(), len: data.len(), lives: PhantomData }
    }

    /// A part of the slice.
    /// # Safety
    /// No other part that is alive overlaps this one.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the slice, just asserted; the caller vouches for disjointness.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}

/// Numbers that threads write one by one: each slot by one task at a time.
#[derive(Clone, Copy)]
pub(crate) struct Slots<'a>(&'a [AtomicU64]);

impl<'a> Slots<'a> {
    pub(crate) fn new(data: &'a mut [f64]) -> Self {
        const { assert!(size_of::<AtomicU64>() == size_of::<f64>() && align_of::<AtomicU64>() == align_of::<f64>()) };
        // SAFETY: same size and alignment, just asserted, any bits are a value of either, and `data` is ours for 'a.
        Slots(unsafe { std::slice::from_raw_parts(data.as_mut_ptr().cast(), data.len()) })
    }

    #[inline(always)]
    pub(crate) fn set(self, i: usize, x: f64) {
        self.0[i].store(x.to_bits(), Ordering::Relaxed);
    }

    /// Adds to a slot that one task at a time writes.
    #[inline(always)]
    pub(crate) fn add(self, i: usize, x: f64) {
        self.set(i, f64::from_bits(self.0[i].load(Ordering::Relaxed)) + x);
    }
}
