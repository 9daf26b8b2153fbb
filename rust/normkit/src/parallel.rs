//! The only file that knows threads.
//!
//! Work comes as numbered tasks. Which thread runs a task never changes a result: partial results belong to tasks, and
//! are merged in the order of tasks. A pool of n − 1 workers serves n threads, as the caller takes tasks too.
//!
//! Waking a thread costs from some ten microseconds to milliseconds (a virtual machine's idle core), more than most
//! calls take. So workers stay awake for a moment after a call, giving way to whatever else wants their core, and a call
//! never waits for one that has not come yet: it takes tasks from a *desk* until none is left.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon_core::{ThreadPool, ThreadPoolBuilder};

use crate::error::Result;

/// Threads to use; 0 = not decided yet.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// The pool in use. It is never freed: another thread may be inside a call, and after `fork` its workers are gone.
static POOL: AtomicPtr<Pool> = AtomicPtr::new(std::ptr::null_mut());

/// How long a worker looks for work before it sleeps.
const AWAKE: Duration = Duration::from_millis(5);

/// Calls that can have workers at once; further ones work alone.
const DESKS: usize = 8;

/// Workers, and where they find work.
struct Pool {
    threads: usize,
    workers: ThreadPool,
    /// Workers that look for work now.
    awake: AtomicUsize,
    desks: [Desk; DESKS],
}

/// Where one call at a time offers its work.
#[derive(Default)]
#[repr(align(128))]
struct Desk {
    /// Whether a call has it.
    taken: AtomicBool,
    /// How many more workers may come.
    seats: AtomicUsize,
    /// Workers that are here.
    here: AtomicUsize,
    /// What they do: valid while a seat is offered or a worker has taken one.
    work: UnsafeCell<Option<Work>>,
}

/// `fn(*const ())` on the caller's closure.
type Work = (unsafe fn(*const ()), *const ());

// SAFETY: `work` is written by the call that has the desk, before it offers seats, and read by workers with a seat.
unsafe impl Sync for Desk {}
// SAFETY: the closure behind the pointer is `Sync`, see `Desk::share`.
unsafe impl Send for Desk {}

impl Desk {
    /// Whether there is work here for one more: it is done then. For workers.
    fn visit(&self) -> bool {
        if self.seats.load(Ordering::Relaxed) == 0 {
            return false;
        }
        // First here, then the seat: a call that has closed its seats and sees nobody here has nobody to wait for.
        self.here.fetch_add(1, Ordering::SeqCst);
        let seat = self.seats.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |seats| seats.checked_sub(1)).is_ok();
        if seat {
            debug_assert!(self.taken.load(Ordering::Relaxed) && self.here.load(Ordering::SeqCst) > 0);
            // SAFETY: we have a seat, so the caller is in `share` until `here` drops.
            unsafe {
                let (call, closure) = (*self.work.get()).expect("seats are offered after work");
                call(closure);
            }
        }
        self.here.fetch_sub(1, Ordering::SeqCst);
        seat
    }

    /// Does `own` while up to `others` workers of the pool do `work`; neither may panic. For the call that has the desk.
    fn share<F: Fn() + Sync>(&self, pool: &'static Pool, others: usize, work: &F, own: impl FnOnce()) {
        unsafe fn call<F: Fn()>(closure: *const ()) {
            // SAFETY: made from `&F` below, which outlives every visit.
            unsafe { (*closure.cast::<F>())() }
        }
        debug_assert!(self.taken.load(Ordering::Relaxed) && self.here.load(Ordering::SeqCst) == 0);
        // SAFETY: nobody has a seat, as none is offered: just asserted that nobody is left here.
        unsafe { *self.work.get() = Some((call::<F>, std::ptr::from_ref(work).cast())) };
        self.seats.store(others, Ordering::SeqCst);
        pool.wake(others);
        own();
        self.seats.store(0, Ordering::SeqCst);
        let mut turns = 0u32;
        while self.here.load(Ordering::SeqCst) > 0 {
            pause(&mut turns);
        }
    }
}

/// A short wait that gives way to others when it is not so short.
fn pause(turns: &mut u32) {
    *turns += 1;
    if turns.is_multiple_of(64) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

impl Pool {
    /// Sees to it that so many workers look for work, soon.
    fn wake(&'static self, workers: usize) {
        // Workers that are busy at another desk count as awake: they will come here after it.
        for _ in self.awake.load(Ordering::SeqCst)..workers.min(self.threads - 1) {
            self.awake.fetch_add(1, Ordering::SeqCst);
            self.workers.spawn(|| self.look());
        }
    }

    /// A worker's time awake.
    fn look(&self) {
        let (mut since, mut turns) = (Instant::now(), 0);
        loop {
            if self.visit_all() {
                since = Instant::now();
            } else {
                pause(&mut turns);
            }
            if turns.is_multiple_of(64) && since.elapsed() > AWAKE {
                self.awake.fetch_sub(1, Ordering::SeqCst);
                // A call that still counted us as awake has offered its seats before it counted.
                if !self.desks.iter().any(|desk| desk.seats.load(Ordering::SeqCst) > 0) {
                    return;
                }
                self.awake.fetch_add(1, Ordering::SeqCst);
                since = Instant::now();
            }
        }
    }

    fn visit_all(&self) -> bool {
        self.desks.iter().any(Desk::visit)
    }

    /// A desk that no call has.
    fn desk(&self) -> Option<&Desk> {
        self.desks.iter().find(|desk| !desk.taken.load(Ordering::Relaxed) && !desk.taken.swap(true, Ordering::Acquire))
    }
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
fn pool(threads: usize) -> Option<&'static Pool> {
    // SAFETY: pools are leaked, so the pointer is null or valid for ever.
    let pool = unsafe { POOL.load(Ordering::Acquire).as_ref() };
    if let Some(pool) = pool.filter(|pool| pool.threads >= threads) {
        return Some(pool);
    }
    let workers =
        ThreadPoolBuilder::new().num_threads(threads - 1).thread_name(|i| format!("normkit-{i}")).build().ok()?;
    forget_pool_in_children();
    // A smaller pool that was here may be in use, and dropping it would wait for its threads.
    let pool: &'static Pool =
        Box::leak(Box::new(Pool { threads, workers, awake: AtomicUsize::new(0), desks: Default::default() }));
    POOL.store(std::ptr::from_ref(pool).cast_mut(), Ordering::Release);
    Some(pool)
}

/// The next of some adjacent tasks. Each thread starts at a queue of its own and goes on with those of others: adjacent
/// memory is then one thread's, and no core fetches ahead into what another one writes.
#[derive(Default)]
#[repr(align(128))]
struct Queue(AtomicUsize);

/// More threads than this share queues.
const QUEUES: usize = 16;

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

/// Runs `task(0)`, …, `task(tasks - 1)` on up to `threads` threads; `state` is made once for each of them, and `last` is
/// called with it after its thread's last task. A panic reaches the caller after all threads have stopped.
/// # Errors
/// The calling thread's state cannot be made; no task has begun then. A worker without a state takes no tasks.
pub(crate) fn run<W>(
    threads: usize,
    tasks: usize,
    state: impl Fn() -> Result<W> + Sync,
    task: impl Fn(usize, &mut W) + Sync,
    last: impl Fn(&mut W) + Sync,
) -> Result<()> {
    let mut own = state()?;
    let threads = threads.min(tasks);
    let pool = if threads > 1 { pool(num_threads().max(threads)) } else { None };
    let Some((pool, desk)) = pool.and_then(|pool| Some((pool, pool.desk()?))) else {
        (0..tasks).for_each(|i| task(i, &mut own));
        last(&mut own);
        return Ok(());
    };
    let queues: [Queue; QUEUES] = Default::default();
    let queues = &queues[..threads.min(QUEUES)];
    let end = |q: usize| (q + 1) * tasks / queues.len();
    for (q, queue) in queues.iter().enumerate() {
        queue.0.store(q * tasks / queues.len(), Ordering::Relaxed);
    }
    let (arrived, stop, panicked) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
    let take = |state: &mut W| {
        let first = arrived.fetch_add(1, Ordering::Relaxed);
        for q in (0..queues.len()).map(|i| (first + i) % queues.len()) {
            loop {
                let i = queues[q].0.fetch_add(1, Ordering::Relaxed);
                if i >= end(q) || stop.load(Ordering::Relaxed) {
                    break;
                }
                task(i, state);
            }
        }
        last(state);
    };
    let guarded = |work: &mut dyn FnMut()| {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
            stop.store(true, Ordering::Relaxed);
            *panicked.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(payload);
        }
    };
    let others = || {
        guarded(&mut || {
            if let Ok(mut state) = state() {
                take(&mut state);
            }
        });
    };
    desk.share(pool, threads - 1, &others, || guarded(&mut || take(&mut own)));
    desk.taken.store(false, Ordering::Release);
    if let Some(payload) = panicked.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        resume_unwind(payload);
    }
    Ok(())
}

/// A slice whose disjoint parts are written by different threads.
pub(crate) struct Disjoint<'a, T> {
    data: *mut T,
    len: usize,
    /// Parts that were handed out, by their ends: no task takes another's, not even later.
    #[cfg(debug_assertions)]
    taken: Mutex<std::collections::BTreeMap<usize, usize>>,
    lives: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out parts of a `&mut [T]` through an unsafe function, which asks for disjointness.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Disjoint {
            data: data.as_mut_ptr(),
            len: data.len(),
            #[cfg(debug_assertions)]
            taken: Mutex::default(),
            lives: PhantomData,
        }
    }

    /// A part of the slice.
    /// # Safety
    /// No other part overlaps this one.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        #[cfg(debug_assertions)]
        if !range.is_empty() {
            let mut taken = self.taken.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let next = taken.range(range.start + 1..).next().map(|(_, &start)| start);
            assert!(next.is_none_or(|start| range.end <= start), "{range:?} is handed out twice");
            taken.insert(range.end, range.start);
        }
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

    /// Some of them.
    #[inline(always)]
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        Slots(&self.0[range])
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
