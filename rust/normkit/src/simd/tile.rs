//! Rectangles of memory: `rows` runs of `len` contiguous elements, `stride` elements apart.
//!
//! Tiles hold pointers rather than slices because an output may be the very memory of an input (`out=x`): two slices
//! could not say that. They are made where memory is known to be valid ([`Base::tile`], [`Tile::new`]) and can only
//! shrink afterwards, so that reading and writing through them is safe.

use std::marker::PhantomData;
use std::ops::Range;

use super::{LINE, Real, Stored};

/// Where an array begins, to read.
#[derive(Clone, Copy)]
pub struct Base<'a, T>(*const T, Extent, PhantomData<&'a [T]>);

/// Where an array begins, to write. Copies may be handed to threads that write disjoint parts.
#[derive(Clone, Copy)]
pub struct BaseMut<'a, T>(*mut T, Extent, PhantomData<&'a mut [T]>);

/// The addresses of an array's elements, for assertions; nothing where they are off.
#[derive(Clone, Copy)]
struct Extent {
    #[cfg(debug_assertions)]
    addresses: (usize, usize),
}

impl Extent {
    /// Of an array that reaches these elements from `p`: lowest, highest.
    #[inline(always)]
    fn new<T>(p: *const T, reach: impl FnOnce() -> Option<(isize, isize)>) -> Self {
        #[cfg(not(debug_assertions))]
        let _ = (p, reach);
        Extent {
            #[cfg(debug_assertions)]
            addresses: reach().map_or((0, 0), |(low, high)| {
                (p.wrapping_offset(low).addr(), p.wrapping_offset(high).wrapping_add(1).addr())
            }),
        }
    }

    /// Asserts that `len` elements at `p` are the array's.
    #[inline(always)]
    fn check<T>(self, p: *const T, len: usize) {
        let _ = (p, len);
        #[cfg(debug_assertions)]
        {
            let (start, end) = self.addresses;
            assert!(
                start <= p.addr() && p.addr() + len * size_of::<T>() <= end,
                "{len} elements at {p:?} are not the array's"
            );
        }
    }

    /// Asserts that a rectangle is the array's.
    #[inline(always)]
    fn check_rows<T>(self, p: *const T, rows: usize, stride: isize, len: usize) {
        if cfg!(debug_assertions) && rows > 0 && len > 0 {
            self.check(p, len);
            self.check(p.wrapping_offset((rows - 1) as isize * stride), len);
        }
    }
}

// SAFETY: it stands for a `&[T]`, and can be read through unsafe functions alone.
unsafe impl<T: Sync> Send for Base<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Base<'_, T> {}
// SAFETY: it stands for a `&mut [T]`, and can be written through unsafe functions alone, which ask for disjointness.
unsafe impl<T: Send> Send for BaseMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for BaseMut<'_, T> {}

impl<'a, T> Base<'a, T> {
    /// From a pointer, which need not be valid until it is read through, and the lowest and highest element that the
    /// array reaches from it, if it has any: asked for when debugging.
    pub(crate) fn new(p: *const T, reach: impl FnOnce() -> Option<(isize, isize)>) -> Self {
        Base(p, Extent::new(p, reach), PhantomData)
    }

    /// The same memory as elements of another type.
    pub(crate) fn cast<U>(self) -> Base<'a, U> {
        Base(self.0.cast(), self.1, PhantomData)
    }

    /// Where it begins.
    pub(crate) fn address(self) -> usize {
        self.0.addr()
    }

    /// The address of `len` elements, `offset` on.
    #[inline(always)]
    pub(crate) fn at(self, offset: isize, len: usize) -> *const T {
        let p = self.0.wrapping_offset(offset);
        self.1.check(p, len);
        p
    }

    /// The rectangle that begins `offset` elements from here.
    /// # Safety
    /// Each of its elements is readable for `'a`.
    #[inline(always)]
    pub(crate) unsafe fn tile(self, offset: isize, rows: usize, stride: isize, len: usize) -> Tile<'a, T> {
        let p = self.0.wrapping_offset(offset);
        self.1.check_rows(p, rows, stride, len);
        Tile { p, rows, stride, len, lives: PhantomData }
    }
}

impl<'a, T> BaseMut<'a, T> {
    /// From a pointer, which need not be valid until it is written through, and the lowest and highest element that the
    /// array reaches from it, if it has any: asked for when debugging.
    pub(crate) fn new(p: *mut T, reach: impl FnOnce() -> Option<(isize, isize)>) -> Self {
        BaseMut(p, Extent::new(p, reach), PhantomData)
    }

    /// Where it begins.
    pub(crate) fn address(self) -> usize {
        self.0.addr()
    }

    /// The address of `len` elements, `offset` on.
    #[inline(always)]
    pub(crate) fn at(self, offset: isize, len: usize) -> *mut T {
        let p = self.0.wrapping_offset(offset);
        self.1.check(p, len);
        p
    }

    /// The rectangle that begins `offset` elements from here.
    /// # Safety
    /// Each of its elements is writable for `'a`, and no other thread touches it meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn tile(self, offset: isize, rows: usize, stride: isize, len: usize) -> TileMut<'a, T> {
        let p = self.0.wrapping_offset(offset);
        self.1.check_rows(p, rows, stride, len);
        TileMut { p, rows, stride, len, lives: PhantomData }
    }
}

/// A rectangle to read.
#[derive(Clone, Copy)]
pub struct Tile<'a, T> {
    p: *const T,
    rows: usize,
    stride: isize,
    len: usize,
    lives: PhantomData<&'a [T]>,
}

/// A rectangle to write.
pub struct TileMut<'a, T> {
    p: *mut T,
    rows: usize,
    stride: isize,
    len: usize,
    lives: PhantomData<&'a mut [T]>,
}

/// How short runs lie in a rectangle: `rows` times `lines` of `len` elements, `stride` and `step` apart.
#[derive(Clone, Copy, PartialEq)]
struct Ruling {
    rows: usize,
    stride: isize,
    lines: usize,
    step: isize,
    len: usize,
}

impl Ruling {
    #[inline(always)]
    fn offset(&self, row: usize, line: usize) -> isize {
        debug_assert!(row < self.rows && line < self.lines);
        row as isize * self.stride + line as isize * self.step
    }
}

/// Short runs to read, of which those in one place of all rows belong together.
#[derive(Clone, Copy)]
pub struct Lines<'a, T> {
    p: *const T,
    ruling: Ruling,
    lives: PhantomData<&'a [T]>,
}

/// Short runs to write.
pub struct LinesMut<'a, T> {
    p: *mut T,
    ruling: Ruling,
    lives: PhantomData<&'a mut [T]>,
}

impl<'a, T: Copy> Lines<'a, T> {
    #[inline(always)]
    pub(crate) fn rows(self) -> usize {
        self.ruling.rows
    }

    #[inline(always)]
    pub(crate) fn lines(self) -> usize {
        self.ruling.lines
    }

    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        self.ruling.len
    }

    /// From a line to the next.
    #[inline(always)]
    pub(super) fn step(self) -> isize {
        self.ruling.step
    }

    /// Whether runs are so many and so long as the others.
    #[inline(always)]
    pub(super) fn is_like<U: Copy>(self, other: Lines<U>) -> bool {
        let size = |Ruling { rows, lines, len, .. }: Ruling| (rows, lines, len);
        size(self.ruling) == size(other.ruling)
    }

    /// Whether each run is whole lines of the caches, or all of a row are, which adjoin then.
    #[inline(always)]
    pub(super) fn on_lines(self) -> bool {
        let Ruling { rows, stride, lines, step, len } = self.ruling;
        let whole = |n: usize| (n * size_of::<T>()).is_multiple_of(LINE);
        let each = whole(len) && (lines == 1 || whole(step.unsigned_abs()));
        let together = step == len as isize && whole(lines * len);
        self.p.addr().is_multiple_of(LINE) && (rows == 1 || whole(stride.unsigned_abs())) && (each || together)
    }

    /// Some of the lines.
    #[inline(always)]
    pub(crate) fn part(self, lines: Range<usize>) -> Self {
        assert!(lines.start < lines.end && lines.end <= self.ruling.lines);
        let ruling = Ruling { lines: lines.len(), ..self.ruling };
        Lines { p: self.at(0, lines.start), ruling, ..self }
    }

    /// One line of all rows.
    #[inline(always)]
    pub(crate) fn line(self, line: usize) -> Tile<'a, T> {
        assert!(line < self.ruling.lines);
        let Ruling { rows, stride, len, .. } = self.ruling;
        Tile { p: self.at(0, line), rows, stride, len, lives: PhantomData }
    }

    /// The heads, up to `len` elements long, of about `n` rows; of parts of the row, where there is one.
    #[inline(always)]
    pub(crate) fn places(self, n: usize, len: usize) -> Self {
        let Tile { rows, stride, len, .. } = self.line(0).places(n, len);
        Lines { ruling: Ruling { rows, stride, len, ..self.ruling }, ..self }
    }

    /// The first element of a line.
    #[inline(always)]
    pub(crate) fn first(self, line: usize) -> T {
        self.line(line).get(0, 0)
    }

    /// Where a run begins.
    #[inline(always)]
    pub(super) fn at(self, row: usize, line: usize) -> *const T {
        self.p.wrapping_offset(self.ruling.offset(row, line))
    }
}

impl<T: Copy> LinesMut<'_, T> {
    /// Some of the lines.
    #[inline(always)]
    pub(crate) fn part(&mut self, lines: Range<usize>) -> LinesMut<'_, T> {
        assert!(lines.start < lines.end && lines.end <= self.ruling.lines);
        let ruling = Ruling { lines: lines.len(), ..self.ruling };
        LinesMut { p: self.at(0, lines.start), ruling, lives: PhantomData }
    }

    /// As lines to read, to compare.
    #[inline(always)]
    pub(super) fn shape(&self) -> Lines<'_, T> {
        Lines { p: self.p, ruling: self.ruling, lives: PhantomData }
    }

    /// Where a run begins.
    #[inline(always)]
    pub(super) fn at(&self, row: usize, line: usize) -> *mut T {
        self.p.wrapping_offset(self.ruling.offset(row, line))
    }
}

impl<'a, T: Copy> Tile<'a, T> {
    /// The first row as so many lines.
    #[inline(always)]
    pub(crate) fn repeated(self, lines: usize) -> Lines<'a, T> {
        debug_assert!(self.rows > 0);
        Lines {
            ruling: Ruling { lines, step: 0, ..self.head(1, self.len).rows_as_lines().ruling },
            ..self.rows_as_lines()
        }
    }

    /// Each row as a line of its own.
    #[inline(always)]
    pub(crate) fn rows_as_lines(self) -> Lines<'a, T> {
        let Tile { p, rows, stride, len, .. } = self;
        Lines { p, ruling: Ruling { rows: 1, stride: 0, lines: rows, step: stride, len }, lives: PhantomData }
    }

    /// Each row cut into lines of so many elements.
    #[inline(always)]
    pub(crate) fn cut(self, len: usize) -> Lines<'a, T> {
        assert!(self.len.is_multiple_of(len));
        let Tile { p, rows, stride, .. } = self;
        Lines { p, ruling: Ruling { rows, stride, lines: self.len / len, step: len as isize, len }, lives: PhantomData }
    }

    /// Rows one after the other in `data`.
    #[inline(always)]
    pub(crate) fn new(data: &'a [T], rows: usize, len: usize) -> Self {
        assert!(rows * len <= data.len());
        Tile { p: data.as_ptr(), rows, stride: len as isize, len, lives: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn rows(self) -> usize {
        self.rows
    }

    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        self.len
    }

    /// From the first row to the one that is so many on.
    #[inline(always)]
    pub(super) fn down(self, rows: usize) -> isize {
        rows as isize * self.stride
    }

    /// All elements of a tile, in order of its rows.
    pub(crate) fn values(self) -> impl Iterator<Item = T> + Clone + 'a {
        (0..self.rows).flat_map(move |r| (0..self.len).map(move |i| self.get(r, i)))
    }

    /// One element.
    #[inline(always)]
    pub(crate) fn get(self, row: usize, i: usize) -> T {
        assert!(row < self.rows && i < self.len);
        // SAFETY: within the rectangle, just asserted.
        unsafe { self.p.wrapping_offset(row as isize * self.stride).add(i).read() }
    }

    /// The first rows and columns.
    #[inline(always)]
    pub(crate) fn head(self, rows: usize, len: usize) -> Self {
        Tile { rows: rows.min(self.rows), len: len.min(self.len), ..self }
    }

    /// Every `step`th row.
    #[inline(always)]
    pub(crate) fn every(self, step: usize) -> Self {
        Tile { rows: self.rows.div_ceil(step), stride: self.stride * step as isize, ..self }
    }

    /// The heads, up to `len` elements long, of about `n` rows; of parts of the row, where there is one.
    #[inline(always)]
    pub(crate) fn places(self, n: usize, len: usize) -> Self {
        if self.rows > 1 {
            return self.every((self.rows / n).max(1)).head(self.rows, len);
        }
        let part = self.len / n;
        if part < len { self.head(1, n * len) } else { Tile { rows: n, stride: part as isize, len, ..self } }
    }

    /// One row.
    #[inline(always)]
    pub(crate) fn line(self, row: usize) -> Self {
        assert!(row < self.rows);
        Tile { p: self.row(row), rows: 1, ..self }
    }

    /// The first element of a row.
    #[inline(always)]
    pub(super) fn row(self, row: usize) -> *const T {
        debug_assert!(row < self.rows);
        self.p.wrapping_offset(row as isize * self.stride)
    }
}

impl<'a, T: Copy> TileMut<'a, T> {
    /// The first row as so many lines.
    #[inline(always)]
    pub(crate) fn repeated(self, lines: usize) -> LinesMut<'a, T> {
        let TileMut { p, rows, stride, len, .. } = self;
        debug_assert!(rows > 0);
        LinesMut { p, ruling: Ruling { rows: 1, stride, lines, step: 0, len }, lives: PhantomData }
    }

    /// Each row as a line of its own.
    #[inline(always)]
    pub(crate) fn rows_as_lines(self) -> LinesMut<'a, T> {
        let TileMut { p, rows, stride, len, .. } = self;
        LinesMut { p, ruling: Ruling { rows: 1, stride: 0, lines: rows, step: stride, len }, lives: PhantomData }
    }

    /// Each row cut into lines of so many elements.
    #[inline(always)]
    pub(crate) fn cut(self, len: usize) -> LinesMut<'a, T> {
        assert!(self.len.is_multiple_of(len));
        let TileMut { p, rows, stride, .. } = self;
        let ruling = Ruling { rows, stride, lines: self.len / len, step: len as isize, len };
        LinesMut { p, ruling, lives: PhantomData }
    }

    /// Every `step`th row.
    #[inline(always)]
    pub(crate) fn every(self, step: usize) -> Self {
        TileMut { rows: self.rows.div_ceil(step), stride: self.stride * step as isize, ..self }
    }

    /// Rows one after the other in `data`.
    #[inline(always)]
    pub(crate) fn new(data: &'a mut [T], rows: usize, len: usize) -> Self {
        assert!(rows * len <= data.len());
        TileMut { p: data.as_mut_ptr(), rows, stride: len as isize, len, lives: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The same rectangle, borrowed.
    #[inline(always)]
    pub(crate) fn again(&mut self) -> TileMut<'_, T> {
        TileMut { lives: PhantomData, ..*self }
    }

    /// The first element of a row.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> *mut T {
        debug_assert!(row < self.rows);
        self.p.wrapping_offset(row as isize * self.stride)
    }
}

impl<E> TileMut<'_, E> {
    /// Writes 0 where the mask has 0.
    pub(crate) fn clear_unless<T: Real>(&mut self, mask: Tile<T>)
    where
        E: Stored<T>,
    {
        assert!(mask.rows() == self.rows && mask.len() == self.len);
        for r in 0..self.rows {
            for i in (0..self.len).filter(|&i| mask.get(r, i) == T::ZERO) {
                debug_assert!(r < self.rows && i < self.len);
                // SAFETY: within the rectangle, as both loops end with it.
                unsafe { self.row(r).add(i).write(E::zero()) };
            }
        }
    }
}
