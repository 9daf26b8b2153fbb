//! How the work is cut: pure functions of sizes, so that a plan can be printed and tested without running anything.
//!
//! Two cuts, kept apart. A [`Cut`] divides the elements of a statistic into chunks and blocks; it fixes the order of
//! additions, and so depends on the sizes of the grid alone. A [`Plan`] says who does what and when; it may look at
//! threads and caches, and never changes a bit of a result.

use std::iter::successors;
use std::ops::Range;

use crate::layout::Grid;
use crate::machine::{Caches, Stores};
use crate::simd::AT_ONCE;

/// Elements of a block of rows: 16 KiB of float32, half of a common L1.
pub(crate) const BLOCK: usize = 4096;
/// Elements that are applied at a time to copies of operands: 8 KiB of float32 for each.
pub(crate) const COPIED: usize = 2048;
/// Rows of a block of columns: enough that merging it costs little, few enough for float lanes.
const BLOCK_ROWS: usize = 128;
/// Elements of a line among columns in a block.
const LINES: usize = 4 * BLOCK;
/// Elements that are taken of a row of such lines, if there are so many. (Measured on Zen 4: with stretches of 3136 bytes
/// each takes some 30 ns more, so that those of 32 KiB take 0.6 of the time. On Intel's processors 3136 bytes are enough.)
const STRETCH: usize = 8192;
/// Columns whose sums are kept in L1 at a time.
pub(crate) const TILE: usize = 1024;
/// The least elements that are worth a partial result of their own.
const CHUNK: usize = 1 << 16;
/// The least rows of columns that are.
const CHUNK_ROWS: usize = 256;
/// A statistic has at most about this many partial results, so that they are O(C) in number.
const CHUNKS: usize = 64;
/// What each thread has to read at least. (Measured on Zen 4, where the other thread is awake: calls that read 128 KiB take 0.6
/// to 0.8 of the time on two, those that read 64 take 1.0. To wake a thread takes 10 to 20 µs.)
pub(crate) const SHARE: usize = 64 << 10;
/// Where threads wait for each other between reducing and applying, and a statistic is one chunk, less is not worth it: what one
/// has reduced is in the other's cache. (Measured: 0.95 to 1.25 of the time of one thread.)
pub(crate) const SPLIT: usize = 512 << 10;
/// Tasks take so many bytes of what they read, or this share of the second-level cache, if that is less: the rest is for
/// what they write, and for what the processor fetches ahead.
const SLAB: usize = 128 << 10;
/// See [`SLAB`].
const SLABS: usize = 8;

/// What is so small a part of the last cache is all found there.
const NEAR: usize = 2;

/// [`Stores::Late`]: outputs are stored past the caches if they are so many times the last of them, as what comes next
/// finds nothing of them there anyway,…
pub(crate) const STREAM: usize = 4;
/// …and so many threads write.
pub(crate) const MANY: usize = 8;

/// Parts that samples are divided into, each with sums of parameter gradients of its own.
const SAMPLE_PARTS: usize = 16;

/// How the rows and columns of each statistic are divided. Depends on the grid alone: it fixes the results.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Chunks of a statistic, each with a partial result.
    pub chunks: usize,
    chunk_rows: usize,
    segments: usize,
    segment: usize,
    pub(crate) blocks: Steps,
}

/// How a rectangle is divided into smaller ones: the blocks of a [`Cut`], or, where each element is by itself and so nothing is fixed by
/// it, as many as are copied at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Steps {
    rows: usize,
    columns: usize,
}

impl Cut {
    /// The cut of this grid.
    #[inline]
    pub fn new(grid: &Grid) -> Cut {
        let (rows, len) = (grid.rows, grid.len);
        if grid.lines {
            let blocks = Steps { rows, columns: len };
            return Cut { chunks: 1, chunk_rows: rows, segments: 1, segment: len, blocks };
        }
        if grid.columns && grid.in_lines() {
            let block_rows = (LINES / grid.fold).clamp(1, BLOCK_ROWS);
            let least = (CHUNK / grid.fold).clamp(1, CHUNK_ROWS);
            let chunk_rows = rows.div_ceil(CHUNKS).max(least).next_multiple_of(block_rows);
            let chunks = rows.div_ceil(chunk_rows);
            let blocks = Steps { rows: block_rows, columns: len };
            return Cut { chunks, chunk_rows, segments: 1, segment: len, blocks };
        }
        if grid.columns {
            let chunk_rows = rows.div_ceil(CHUNKS).max(CHUNK_ROWS).next_multiple_of(BLOCK_ROWS);
            let chunks = rows.div_ceil(chunk_rows);
            let blocks = Steps { rows: BLOCK_ROWS, columns: len };
            return Cut { chunks, chunk_rows, segments: 1, segment: len, blocks };
        }
        let target = (rows * len).div_ceil(CHUNKS).max(CHUNK);
        let blocks = Steps { rows: (BLOCK / len).max(1), columns: len.min(BLOCK) };
        if len > target {
            let segment = len.div_ceil(len.div_ceil(target)).next_multiple_of(BLOCK);
            let segments = len.div_ceil(segment);
            Cut { chunks: rows * segments, chunk_rows: 1, segments, segment, blocks }
        } else {
            let chunk_rows = (target / len).next_multiple_of(blocks.rows);
            Cut { chunks: rows.div_ceil(chunk_rows), chunk_rows, segments: 1, segment: len, blocks }
        }
    }

    /// Rows and columns of chunk `i`.
    #[inline(always)]
    pub(crate) fn chunk(&self, grid: &Grid, i: usize) -> (Range<usize>, Range<usize>) {
        let row = i / self.segments * self.chunk_rows;
        let column = i % self.segments * self.segment;
        (row..(row + self.chunk_rows).min(grid.rows), column..(column + self.segment).min(grid.len))
    }
}

impl Steps {
    /// Not at all.
    pub(crate) const WHOLE: Steps = Steps { rows: usize::MAX, columns: usize::MAX };

    /// So few elements that copies of some operands, of whom this is one, stay in the first-level cache. Statistics that
    /// are taken together, columns or lines, are not taken apart, as what is known of them is counted from the first.
    #[inline]
    pub(crate) fn of_copies(grid: &Grid) -> Steps {
        if grid.lines {
            return Steps::WHOLE;
        }
        if grid.columns {
            return Steps { rows: (COPIED / columns_at_once(grid)).max(1), ..Steps::WHOLE };
        }
        Steps { rows: (COPIED / grid.len).max(1), columns: COPIED }
    }

    /// The most elements of a step: what operands that are not used in place are copied to.
    pub(crate) fn most(self, grid: &Grid) -> usize {
        let rows = if grid.lines { tile_statistics(grid) } else { self.rows };
        let columns = if grid.columns { columns_at_once(grid) } else { self.columns.min(grid.len) };
        rows.min(grid.rows) * columns
    }

    /// The rows, step by step.
    #[inline(always)]
    pub(crate) fn rows(self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        parts(rows, self.rows)
    }

    /// The columns, step by step.
    #[inline(always)]
    pub(crate) fn columns(self, columns: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        parts(columns.clone(), self.columns)
    }
}

/// The parts of a range, each but the last so long.
#[inline(always)]
fn parts(range: Range<usize>, each: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    let Range { start, end } = range;
    (0..(end - start).div_ceil(each)).map(move |i| {
        let start = start + i * each;
        start..end.min(start.saturating_add(each))
    })
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The grid that is reduced.
    pub grid: Grid,
    /// Adjacent statistics of that grid which make one of the norm's.
    pub parts: usize,
    /// Samples that the statistics divide into: 1 where a statistic runs over all of them.
    pub samples: usize,
    /// Bytes of all inputs together.
    pub read: usize,
    /// Of these, bytes of a residual: they do not count for how much is taken at a time. (Forward nothing is reduced of it. Backward
    /// it is, but less at a time takes 1.03 to 1.08 times as long: measured on Zen 3.)
    pub residual: usize,
    /// Bytes of all outputs together.
    pub written: usize,
}

impl Work {
    /// Over all samples at once, without a residual.
    pub fn new(grid: Grid, read: usize, written: usize) -> Work {
        Work { grid, parts: 1, samples: 1, read, residual: 0, written }
    }

    /// From how many bytes on its outputs are stored past the caches: of all that it moves where that is done early, else
    /// of what it writes.
    pub(crate) fn stream_from(caches: &Caches) -> usize {
        match caches.stores {
            Stores::Early => caches.last_or_common() / 4 * 3,
            Stores::Late => caches.last_or_common() * STREAM,
            Stores::Always => 0,
        }
    }

    /// How many of so many threads are worth it.
    fn threads(&self, most: usize) -> usize {
        most.min(self.read / SHARE).max(1)
    }

    /// The norm's statistics.
    fn statistics(&self) -> usize {
        self.grid.statistics() / self.parts
    }

    /// Bytes that are to stay in a cache until outputs are made of them.
    fn reduced(&self) -> usize {
        debug_assert!(self.residual <= self.read);
        self.read - self.residual
    }

    /// Those of each statistic.
    fn each(&self) -> usize {
        (self.reduced() / self.statistics()).max(1)
    }

    /// Whether so many statistics are applied while as many others are reduced. (All measured on Zen 4.)
    fn behind(&self, statistics: usize, stream: bool, caches: &Caches) -> bool {
        let near = caches.last_or_common() / NEAR;
        match caches.stores {
            // What comes from the last cache is there soon enough, and what is applied at once is nearer: in turn they take 0.8
            // to 0.95 of the time. Where part of it comes from memory they take up to 1.4 times as long so.
            Stores::Early if !stream => self.read + self.written > near,
            _ if !stream => true,
            // What is read again has to wait in the second-level cache. If it does, or is one operand alone, reading and writing at
            // once is worth more: 0.76 to 0.95 of the time. Two operands that are read again from the next take up to 1.3.
            _ => 2 * statistics * self.each() <= caches.l2_or_common() || self.reduced() <= self.written,
        }
    }

    /// How many statistics a task takes from start to end, if that is what so many threads do best.
    fn task(&self, threads: usize, stream: bool, caches: &Caches) -> Option<usize> {
        let Work { grid, parts, samples, .. } = self;
        let (each, cache) = (self.each(), caches.l2_or_common());
        let per_sample = self.statistics() / samples;
        // Four tasks a thread, so that uneven ends cost little.
        let fair = sample_parts(*samples) * per_sample / (4 * threads);
        let fit = SLAB.min(cache / SLABS) / each;
        let lines = grid.columns && grid.in_lines();
        // Where a new stretch of memory is slow to begin, long ones are worth more than that all is found in the cache again.
        let room = match (caches.stores, stream) {
            (Stores::Late, _) => 0,
            (_, true) => 2 * cache,
            (_, false) => cache / 2,
        };
        let stretch = if lines { (STRETCH / (grid.fold * parts)).min(room / each) } else { 0 };
        let fit = fit.max(stretch).min(fair).max(1);
        let tile = if grid.columns { (tile_statistics(grid) / parts).max(1) } else { 1 };
        // Where runs are short, as many as make whole lines of the caches (of float32), if there are so many.
        let whole = 16 / gcd(16, parts * if grid.columns { grid.fold } else { grid.len });
        let most = if grid.in_lines() { tile.next_multiple_of(whole) } else { tile };
        let unit = if fit >= most { most } else { tile };
        let statistics = (fit / unit * unit).max(unit).min(per_sample);
        let tasks = sample_parts(*samples) * per_sample.div_ceil(statistics);
        // Rows that leave the cache cost the same either way; narrow columns far apart cost more.
        let cached = statistics * each <= 2 * cache || lines || !grid.columns;
        let busy = tasks >= 4 * threads || Cut::new(grid).chunks == 1 && tasks >= 2 * threads;
        (threads == 1 || cached && busy).then_some(statistics)
    }

    /// Whether its outputs are stored past the caches.
    fn streams(&self, threads: usize, caches: &Caches) -> bool {
        let from = Work::stream_from(caches);
        match caches.stores {
            Stores::Early | Stores::Always => self.written > 0 && self.read + self.written >= from,
            Stores::Late => threads >= MANY && self.written >= from,
        }
    }
}

/// When reductions and applications happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Schedule {
    /// Statistics are taken from start to end, `statistics` of a sample at a time, while they are in cache.
    Fused {
        /// Statistics of a task.
        statistics: usize,
    },
    /// All threads reduce, then all apply, from the last chunk to the first.
    Split,
    /// Nothing is reduced, as the statistics are given.
    Given,
    /// Some lines at a time, each from start to end.
    Lines,
}

/// Who does what, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Threads, the caller's included.
    pub threads: usize,
    /// The schedule.
    pub schedule: Schedule,
    /// Whether outputs are stored past the caches.
    pub stream: bool,
    /// Whether statistics are applied while the next ones are reduced, where they can be.
    pub behind: bool,
}

impl Plan {
    /// The plan for this work: a reduction and what follows from it.
    pub fn new(work: &Work, threads: usize, caches: &Caches) -> Plan {
        let threads = work.threads(threads);
        let waits = work.written > 0 && work.reduced() < SPLIT && Cut::new(&work.grid).chunks == 1;
        let fewer = successors(Some(threads), |&threads| waits.then_some(threads / 2));
        let fused = fewer.take_while(|&threads| threads > 0).find_map(|threads| {
            let stream = work.streams(threads, caches);
            Some((threads, stream, work.task(threads, stream, caches)?))
        });
        let Some((threads, stream, statistics)) = fused else {
            return Plan { threads, schedule: Schedule::Split, stream: work.streams(threads, caches), behind: false };
        };
        Plan {
            threads,
            schedule: Schedule::Fused { statistics },
            stream,
            behind: work.behind(statistics, stream, caches),
        }
    }

    /// The same where nothing is reduced, or all that is are lines by themselves: no thread waits for another.
    pub fn alone(work: &Work, threads: usize, caches: &Caches, schedule: Schedule) -> Plan {
        let threads = work.threads(threads);
        Plan { threads, schedule, stream: work.streams(threads, caches), behind: false }
    }
}

/// Statistics that are taken at a time: those of a tile of columns or of some lines.
#[inline]
pub(crate) fn tile_statistics(grid: &Grid) -> usize {
    if grid.lines {
        return BLOCK / grid.len;
    }
    if !grid.columns {
        return 1;
    }
    if grid.repeat > 1 {
        return grid.width;
    }
    // Whole lines, where a few statistics make one.
    let lines = 16 / gcd(16, grid.fold);
    let most = (TILE / grid.fold).max(1);
    let most = if grid.in_lines() { most.min(AT_ONCE) } else { most };
    (if most >= lines { most / lines * lines } else { most }).min(grid.width)
}

/// The same where nothing is copied.
pub(crate) fn stretch_statistics(grid: &Grid) -> usize {
    if grid.columns && grid.in_lines() {
        (STRETCH / grid.fold).clamp(1, AT_ONCE).min(grid.width)
    } else {
        tile_statistics(grid)
    }
}

/// How many statistics are taken at a time where all threads share the work, each piece of it in so many chunks: those of a
/// long stretch; fewer, where otherwise some threads would have nothing to do.
pub fn split_statistics(grid: &Grid, chunks: usize, threads: usize) -> usize {
    let most = stretch_statistics(grid);
    let enough = threads == 1 || grid.statistics().div_ceil(most) * chunks >= 4 * threads;
    if enough { most } else { tile_statistics(grid) }
}

/// The most columns of a run that are taken at a time.
#[inline]
pub(crate) fn columns_at_once(grid: &Grid) -> usize {
    if grid.repeat == 1 { tile_statistics(grid) * grid.fold } else { grid.len }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// How many parts `samples` are divided into; depends on nothing else, as each has sums of its own.
#[inline]
pub(crate) fn sample_parts(samples: usize) -> usize {
    samples.div_ceil(samples.div_ceil(SAMPLE_PARTS).max(1))
}

/// How many adjacent runs a task takes where parameters vary inside them, and a sample has `runs`: with what is added up
/// beside them short ones fit in the first-level cache; a long one is taken alone.
pub(crate) fn runs_together(grid: &Grid, runs: usize) -> usize {
    const ELEMENTS: usize = 1024;
    runs.div_ceil(runs.div_ceil((ELEMENTS / grid.len).max(1)))
}

/// How many parts of at least so many samples there are then, if that many go round. Depends on the grid alone.
fn parts_of(grid: &Grid, runs: usize, least: usize) -> usize {
    const TASKS: usize = 16;
    TASKS.div_ceil(runs.div_ceil(runs_together(grid, runs))).min(grid.rows / runs / least).max(1)
}

/// How many parts the samples are divided into: enough to go round, and each long enough that sums of its own cost little.
pub(crate) fn runs_parts(grid: &Grid, runs: usize) -> usize {
    const SAMPLES: usize = 32;
    parts_of(grid, runs, SAMPLES)
}

/// Samples whose terms are added to one float lane: as many as there would be in shorter parts, as sums of more terms lose
/// more; no more than cost nothing (measured: of 16 instead of 32 a pass takes 1.1 times as long).
pub(crate) fn runs_block(grid: &Grid, runs: usize) -> usize {
    const LEAST: usize = 8;
    const MOST: usize = 32;
    (grid.rows / runs).div_ceil(parts_of(grid, runs, LEAST)).min(MOST)
}

/// How many lines with weights are taken at a time: 16 KiB of float32, so that they are in the first-level cache when they are
/// applied; fewer where they are copied.
pub(crate) fn lines_together(grid: &Grid, copied: bool) -> usize {
    const ELEMENTS: usize = 4096;
    ((if copied { COPIED } else { ELEMENTS }) / grid.len).clamp(1, grid.rows)
}

/// How many of them a task takes, so many at a time: enough that it is worth the way to it, and that all threads have some.
pub(crate) fn lines_of_task(grid: &Grid, together: usize, threads: usize) -> usize {
    const ELEMENTS: usize = 1 << 15;
    (ELEMENTS / grid.len).min(grid.rows.div_ceil(4 * threads)).next_multiple_of(together).max(together)
}
