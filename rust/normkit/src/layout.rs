//! Shape, strides and the axes that statistics keep → a grid that the two kernel families can walk.
//!
//! A grid has `kept` × `rows` runs of `len` elements. In the *rows* family a run belongs to one statistic; in the
//! *columns* family it is `repeat` times `width` statistics of `fold` adjacent elements each. Statistic number
//! `k * width + w`, k below `kept`, has the same number in the row-major order of the kept axes. Where each statistic
//! is one short run, the kept positions are the rows instead (`lines`), so that many are taken at a time.

use smallvec::{SmallVec, smallvec};

use crate::plan::BLOCK;

/// One thing for each axis of an array: without asking for memory for as many axes as most have.
pub type Axes<T> = SmallVec<[T; 5]>;
/// These, one for each axis. (`collect` is a call, with more around it than so few are worth.)
#[inline]
pub fn axes<T>(of: impl Iterator<Item = T>) -> Axes<T> {
    let mut axes = Axes::new();
    for each in of {
        axes.push(each);
    }
    axes
}

/// Sizes and strides of merged axes, of which there are fewer.
type Steps = SmallVec<[(usize, isize); 2]>;

/// Reduced runs at least this long are taken one by one; shorter ones many at a time, so that memory is read in longer
/// stretches than these (measured on Zen 4: two runs of 3136 at a time take 0.65 to 0.9 of the time of one by one).
const LONG: usize = 4096;
/// Where nothing is reduced, runs that adjoin and are at least this long are lines (measured: 49 elements take 0.8 to 1.0 of
/// what columns take, 25 take 1.2).
pub(crate) const ADJOINING: usize = 48;
/// Runs up to this long are lines where each is a statistic: taken several at a time, or one while the one before it is
/// applied. Longer ones are divided into blocks. (Measured on Zen 4: of 2048 to 4096 elements they take 0.72 to 0.97 of the time.)
const SHORT: usize = BLOCK;
/// Runs of columns shorter than this take several rows as one, to fill registers…
const NARROW: usize = 128;
/// …up to this many elements…
const WIDE: usize = 1024;
/// …while so many rows are left, as what is kept by column costs as much as a row or more; but not fewer elements than fill…
const TALL: usize = 32;
/// …a few registers.
const FULL: usize = 64;

/// Elements that are worth a line of their own among columns (measured: 49 are not, 196 are)…
const FILLS: usize = 128;
/// …or so many, with no more rows than these: what is kept by column costs more than they do (measured: 64 elements of 4 and
/// of 8 rows are, of 32 are not).
const FILLS_FEW: (usize, usize) = (64, 8);

/// The sizes of a grid; see the module's documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grid {
    /// Outer kept positions.
    pub kept: usize,
    /// Runs that are reduced into the same statistics.
    pub rows: usize,
    /// Elements of a run.
    pub len: usize,
    /// Whether coefficients vary along the run.
    pub columns: bool,
    /// Whether each row is a statistic of its own.
    pub lines: bool,
    /// Times that the pattern of statistics repeats in a run.
    pub repeat: usize,
    /// Statistics in a run.
    pub width: usize,
    /// Adjacent elements of a statistic in a run.
    pub fold: usize,
}

impl Grid {
    /// How many statistics there are.
    #[inline]
    pub fn statistics(&self) -> usize {
        if self.lines { self.rows } else { self.kept * self.width }
    }

    /// How many elements each is taken over.
    #[inline]
    pub fn count(&self) -> usize {
        if self.lines { self.len } else { self.rows * self.repeat * self.fold }
    }
}

impl Grid {
    /// Where each statistic is one long run: how many equal pieces it is cut into that are lines, where it can be, and these as
    /// a grid. (Measured on Zen 4: pieces of 1024 take 0.5 to 0.9 of the time of 4096, but 1.7 where runs are so many times as
    /// long as a way of the second-level cache, and several at a time fall into the same of its sets.)
    pub(crate) fn cut_runs(&self, element: usize) -> Option<(usize, Grid)> {
        const LEAST: usize = 256;
        const MOST: usize = 1024;
        const WAY: usize = 128 << 10; // bytes
        let Grid { kept, rows, len, columns, .. } = *self;
        if columns || rows > 1 || len <= SHORT {
            return None;
        }
        let most = if (len * element).is_multiple_of(WAY) { SHORT } else { MOST };
        let pieces = (len.div_ceil(most)..=len / LEAST).find(|&pieces| len.is_multiple_of(pieces))?;
        let piece = len / pieces;
        Some((pieces, Grid { kept: 1, rows: kept * pieces, len: piece, lines: true, fold: piece, ..*self }))
    }

    /// Whether it is short runs, each of one statistic, that adjoin others: taken line by line.
    #[inline]
    pub(crate) fn in_lines(&self) -> bool {
        let (some, few) = FILLS_FEW;
        let fills = self.fold >= if self.rows <= few { some } else { FILLS };
        self.lines || self.columns && self.repeat == 1 && fills
    }
}

/// An axis with its stride in each of `P` operands.
#[derive(Clone, Copy, Debug)]
struct Axis<const P: usize> {
    size: usize,
    kept: bool,
    strides: [isize; P],
}

/// One operand's way through a grid.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    start: isize,
    kept: Steps,
    rows: Steps,
    /// The axes of a run, outermost first.
    pub(crate) run: Steps,
}

impl Walk {
    /// Of operand `p`; axes that it walks as one are merged. Of `lines` the kept positions are the rows.
    fn new<'x, const P: usize>(
        p: usize,
        start: isize,
        lines: bool,
        kept: impl Iterator<Item = &'x Axis<P>>,
        rows: impl Iterator<Item = &'x Axis<P>>,
        run: impl Iterator<Item = &'x Axis<P>>,
    ) -> Walk {
        fn steps<'x, const P: usize>(p: usize, axes: impl Iterator<Item = &'x Axis<P>>) -> Steps {
            let mut merged = Steps::new();
            for axis in axes.filter(|axis| axis.size != 1) {
                match merged.last_mut() {
                    Some((size, stride)) if *stride == axis.size as isize * axis.strides[p] => {
                        (*size, *stride) = (*size * axis.size, axis.strides[p]);
                    }
                    _ => merged.push((axis.size, axis.strides[p])),
                }
            }
            merged
        }
        let (mut kept, mut rows) = (steps(p, kept), steps(p, rows));
        if lines {
            std::mem::swap(&mut kept, &mut rows);
        }
        Walk { start, kept, rows, run: steps(p, run) }
    }

    /// The way through pieces of runs, each of which is a row: see [`Grid::cut_runs`]. None where a run is no single stretch.
    pub(crate) fn cut_runs(&self, pieces: usize) -> Option<Walk> {
        let [(len, stride)] = self.run[..] else { return None };
        let mut rows = self.kept.clone();
        let (piece, step) = (len / pieces, (len / pieces) as isize * stride);
        match rows.last_mut() {
            Some((size, apart)) if *apart == pieces as isize * step => (*size, *apart) = (*size * pieces, step),
            _ => rows.push((pieces, step)),
        }
        Some(Walk { start: self.start, kept: Steps::new(), rows, run: smallvec![(piece, stride)] })
    }

    /// Where run `row` of kept position `k` begins.
    #[inline(always)]
    pub(crate) fn offset(&self, k: usize, row: usize) -> isize {
        self.start + offset(&self.kept, k) + offset(&self.rows, row)
    }

    /// Whether each run of so many begins at a multiple of `n` elements.
    #[inline]
    pub(crate) fn begins_at_multiples(&self, runs: usize, n: usize) -> bool {
        let multiple = |offset: isize| offset.unsigned_abs().is_multiple_of(n);
        let rows = self.rows.iter().all(|&(_, stride)| multiple(runs as isize * stride));
        multiple(self.start) && self.kept.iter().all(|&(_, stride)| multiple(stride)) && rows
    }

    /// Whether the elements of a run follow each other.
    pub(crate) fn is_dense(&self) -> bool {
        matches!(self.run[..], [] | [(_, 1)])
    }

    /// The distance between rows if it is the same everywhere and runs are contiguous.
    #[inline(always)]
    pub(crate) fn direct(&self) -> Option<isize> {
        match self.rows[..] {
            [] if self.is_dense() => Some(0),
            [(_, stride)] if self.is_dense() => Some(stride),
            _ => None,
        }
    }
}

/// The offset of position `i` in the row-major order of `axes`.
#[inline(always)]
pub(crate) fn offset(axes: &[(usize, isize)], mut i: usize) -> isize {
    match *axes {
        [] => 0,
        [(_, stride)] => i as isize * stride,
        _ => {
            let mut sum = 0;
            for &(size, stride) in axes.iter().rev() {
                sum += (i % size) as isize * stride;
                i /= size;
            }
            sum
        }
    }
}

/// The grid over `shape` that keeps the axes with `kept`, and the way of each operand through it. `strides` are those
/// of the operands, the one that decides the order first. No size may be zero.
pub(crate) fn grid<const P: usize>(shape: &[usize], kept: &[bool], strides: [&[isize]; P]) -> (Grid, [Walk; P]) {
    make_grid(shape, kept, strides, true)
}

/// A grid in which each row of columns has one element of each statistic.
pub(crate) fn plain_grid<const P: usize>(shape: &[usize], kept: &[bool], strides: [&[isize]; P]) -> (Grid, [Walk; P]) {
    make_grid(shape, kept, strides, false)
}

/// `grouped`: whether a row of columns may have several elements of a statistic.
fn make_grid<const P: usize>(
    shape: &[usize],
    kept: &[bool],
    strides: [&[isize]; P],
    grouped: bool,
) -> (Grid, [Walk; P]) {
    debug_assert!(!shape.contains(&0));
    let mut axes: Axes<Axis<P>> = Axes::new();
    for i in (0..shape.len()).filter(|&i| shape[i] != 1) {
        axes.push(Axis { size: shape[i], kept: kept[i], strides: strides.map(|s| s[i]) });
    }
    let mut start = [0isize; P];
    for axis in axes.iter_mut().filter(|axis| !axis.kept && axis.strides[0] < 0) {
        // The order of a reduced axis is free: walk it forwards in memory.
        for (start, stride) in start.iter_mut().zip(&mut axis.strides) {
            *start += (axis.size as isize - 1) * *stride;
            *stride = -*stride;
        }
    }
    sort(&mut axes);
    let mut axes = merge(&axes);

    // The run: the trailing axes of one kind, and for short reduced ones the kept axes before them too.
    let group = |end: usize, kept: bool| (0..end).rev().take_while(|&i| axes[i].kept == kept).count();
    let n = axes.len();
    let inner = group(n, false);
    let fold = size(&axes[n - inner..]);
    let beside = group(n - inner, true);
    let run = n - inner - beside;
    // (Measured on Zen 4: of two and three rows columns take 0.4 to 0.85 of the time of statistics one by one.)
    let several = axes[..run].iter().any(|axis| !axis.kept);
    let columns = beside > 0 && (inner == 0 || (grouped && fold < LONG && several));
    let run = if columns { run } else { n - inner };
    let width = if columns { size(&axes[n - inner - beside..n - inner]) } else { 1 };

    let (outer, inside) = axes.split_at_mut(run);
    let mut repeats = None;
    let narrow = grouped && columns && width * fold < NARROW;
    if let Some(last) = outer.last_mut().filter(|axis| narrow && !axis.kept) {
        let (run, rows) = (width * fold, last.size);
        let most = (WIDE / run).min((rows / TALL).max(FULL / run)).max(1);
        let repeat = (1..=most).rev().find(|r| last.size.is_multiple_of(*r)).unwrap_or(1);
        repeats = Some(Axis { size: repeat, ..*last });
        last.size /= repeat;
        last.strides = last.strides.map(|stride| stride * repeat as isize);
    }
    let repeat = repeats.map_or(1, |axis| axis.size);
    let (outer, run) = (&*outer, repeats.iter().chain(&*inside));
    let (kept_axes, row_axes) = (outer.iter().filter(|axis| axis.kept), outer.iter().filter(|axis| !axis.kept));
    let (kept, rows) = (size(kept_axes.clone()), size(row_axes.clone()));
    let lines = !columns && row_axes.clone().next().is_none() && fold <= SHORT;
    let grid = Grid {
        kept: if lines { 1 } else { kept },
        rows: if lines { kept } else { rows },
        len: repeat * width * fold,
        columns,
        lines,
        repeat,
        width,
        fold,
    };
    let walks =
        std::array::from_fn(|p| Walk::new(p, start[p], lines, kept_axes.clone(), row_axes.clone(), run.clone()));
    (grid, walks)
}

/// Positions on these axes.
fn size<'x, const P: usize>(axes: impl IntoIterator<Item = &'x Axis<P>>) -> usize {
    axes.into_iter().map(|axis| axis.size).product()
}

/// Memory order, outermost first; but kept axes stay in their own order, so that statistics are numbered as the caller
/// numbers them.
fn sort<const P: usize>(axes: &mut [Axis<P>]) {
    let mut kept: Axes<Axis<P>> = Axes::new();
    for axis in axes.iter().filter(|axis| axis.kept) {
        kept.push(*axis);
    }
    // A broadcast operand says nothing about order: ask the first that is not.
    let key = (0..P).find(|&p| axes.iter().all(|axis| axis.strides[p] != 0)).unwrap_or(0);
    axes.sort_by_key(|axis| std::cmp::Reverse(axis.strides[key].unsigned_abs()));
    for (slot, axis) in axes.iter_mut().filter(|axis| axis.kept).zip(kept) {
        *slot = axis;
    }
}

/// Adjacent axes of one kind that every operand walks as one.
fn merge<const P: usize>(axes: &[Axis<P>]) -> Axes<Axis<P>> {
    let mut merged: Axes<Axis<P>> = Axes::new();
    for axis in axes {
        match merged.last_mut() {
            Some(last)
                if last.kept == axis.kept
                    && (0..P).all(|p| last.strides[p] == axis.size as isize * axis.strides[p]) =>
            {
                *last = Axis { size: last.size * axis.size, ..*axis };
            }
            _ => merged.push(*axis),
        }
    }
    merged
}

/// Strides for a new dense array in the memory order of `x`: channels-last in, channels-last out.
pub fn strides_like(shape: &[usize], strides: &[isize]) -> Axes<isize> {
    let mut order = axes(0..shape.len());
    order.sort_by_key(|&i| std::cmp::Reverse(strides[i].unsigned_abs())); // stable: ties keep C order
    let mut like = smallvec![0; shape.len()];
    let mut next = 1;
    for &i in order.iter().rev() {
        like[i] = next;
        next *= shape[i].max(1) as isize;
    }
    like
}

/// Which of `axes` axes are kept.
pub(crate) fn keep<const N: usize>(axes: usize, kept: [usize; N]) -> Axes<bool> {
    self::axes((0..axes).map(|axis| kept.contains(&axis)))
}
