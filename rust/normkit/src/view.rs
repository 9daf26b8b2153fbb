//! Operands as tiles: in place where memory is dense, through a block in cache where it is not.

use std::marker::PhantomData;
use std::ops::Range;

use crate::element::{Element, Sink, Source};
use crate::layout::{Walk, offset};
use crate::simd::{Aligned, Base, BaseMut, Kernel, LINE, Real, Simd, Stored, Tile, TileMut};
use crate::tensor::{Tensor, TensorMut};

/// An operand that is read.
pub struct Input<'a, T> {
    source: Source<'a>,
    walk: &'a Walk,
    /// How far apart its rows are, if its tiles can be used where they are.
    straight: Option<isize>,
    computes: PhantomData<T>,
}

/// An operand that is written.
pub struct Output<'a, T> {
    sink: Sink<'a>,
    walk: &'a Walk,
    straight: Option<isize>,
    computes: PhantomData<T>,
}

impl<T> Clone for Input<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Input<'_, T> {}

/// Columns of some rows of kept position `k`, as an operand walks them.
#[derive(Clone, Copy)]
struct Block<'w> {
    walk: &'w Walk,
    k: usize,
    rows: &'w Range<usize>,
    columns: &'w Range<usize>,
}

impl Block<'_> {
    fn size(self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// Whether the elements of its straight pieces follow each other.
    fn contiguous(self) -> bool {
        self.walk.run.last().is_none_or(|&(_, stride)| stride == 1)
    }

    /// Calls `f(position in the block, offset in memory, elements, distance in memory)` for each straight piece.
    #[inline(always)]
    fn pieces(self, mut f: impl FnMut(usize, isize, usize, isize)) {
        let Block { walk, k, rows, columns } = self;
        let (inner, stride) = walk.run.last().copied().unwrap_or((1, 1));
        let mut at = 0;
        for row in rows.clone() {
            let start = walk.offset(k, row);
            let mut i = columns.start;
            while i < columns.end {
                let n = (inner - i % inner).min(columns.end - i);
                f(at, start + offset(&walk.run, i), n, stride);
                (i, at) = (i + n, at + n);
            }
        }
    }
}

impl<'a, T: Real> Input<'a, T> {
    pub(crate) fn new<E: Element>(tensor: &Tensor<'a, E>, walk: &'a Walk) -> Self {
        Self::of(E::source(tensor.base), walk)
    }

    /// An operand whose type is known at run time.
    pub(crate) fn of(source: Source<'a>, walk: &'a Walk) -> Self {
        Input { source, straight: walk.direct(), walk, computes: PhantomData }
    }

    /// Bytes of an element.
    pub(crate) fn element_size(&self) -> usize {
        match self.source {
            Source::F32(_) => 4,
            Source::F64(_) => 8,
            Source::F16(_) | Source::Bf16(_) => 2,
            Source::Flags(_) => 1,
            Source::Constant(_) => 0,
        }
    }

    /// One value everywhere.
    pub(crate) fn constant(value: f64, walk: &'a Walk) -> Self {
        Input { source: Source::Constant(value), straight: None, walk, computes: PhantomData }
    }

    /// 1 where the mask is true, else 0.
    pub(crate) fn mask(mask: &Tensor<'a, bool>, walk: &'a Walk) -> Self {
        // A `bool` is a byte that is 0 or 1.
        Input { source: Source::Flags(mask.base.cast()), straight: None, walk, computes: PhantomData }
    }

    /// Columns of some rows of kept position `k`, where they can be used in place.
    #[inline(always)]
    pub(crate) fn direct<E: Stored<T>>(
        &self,
        k: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) -> Option<Tile<'a, E>> {
        let (base, stride) = (E::read(self.source)?, self.straight?);
        let at = self.walk.offset(k, rows.start) + columns.start as isize;
        // SAFETY: a grid reaches exactly the elements of its tensor (asserted where debugging), rows this far apart.
        Some(unsafe { base.tile(at, rows.len(), stride, columns.len()) })
    }

    /// Whether rows of `len` elements follow each other.
    pub(crate) fn adjoins(&self, len: usize) -> bool {
        self.straight == Some(len as isize)
    }

    /// Whether its elements are these, and tiles are used where they are.
    pub(crate) fn is_direct<E: Stored<T>>(&self) -> bool {
        self.straight.is_some() && E::read(self.source).is_some()
    }

    /// Whether an output begins at the same place, whatever both hold.
    pub(crate) fn begins_with(&self, out: &Output<'a, T>) -> bool {
        let from = match self.source {
            Source::F32(base) => base.address(),
            Source::F64(base) => base.address(),
            Source::F16(base) => base.address(),
            Source::Bf16(base) => base.address(),
            Source::Flags(base) => base.address(),
            Source::Constant(_) => return false,
        };
        let to = match out.sink {
            Sink::F32(base) => base.address(),
            Sink::F64(base) => base.address(),
            Sink::F16(base) => base.address(),
            Sink::Bf16(base) => base.address(),
        };
        from == to
    }

    /// One element, in float64.
    pub(crate) fn value(&self, k: usize, row: usize, column: usize) -> f64 {
        let at = self.walk.offset(k, row) + offset(&self.walk.run, column);
        match self.source {
            Source::F32(base) => element(base, at, f64::from),
            Source::F64(base) => element(base, at, f64::from),
            Source::F16(base) => element(base, at, f64::from),
            Source::Bf16(base) => element(base, at, f64::from),
            Source::Flags(base) => element(base, at, |flag| f64::from(flag != 0)),
            Source::Constant(value) => value,
        }
    }

    /// Columns of some rows of kept position `k`; through `stage` where they cannot be used in place.
    #[inline(always)]
    pub(crate) fn tile<'t, S: Simd<T>>(
        &'t self,
        s: S,
        k: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        stage: &'t mut Aligned<T>,
    ) -> Tile<'t, T> {
        match self.direct(k, rows, columns) {
            Some(tile) => tile,
            None => {
                let block = Block { walk: self.walk, k, rows, columns };
                let stage = stage.get(block.size());
                match self.source {
                    Source::F32(base) => gather(s, base, block, stage),
                    Source::F64(base) => gather(s, base, block, stage),
                    Source::F16(base) => gather(s, base, block, stage),
                    Source::Bf16(base) => gather(s, base, block, stage),
                    Source::Flags(base) => gather_with(base, block, stage, |flag| f64::from(flag != 0)),
                    Source::Constant(value) => stage.fill(T::from_f64(value)),
                }
                Tile::new(stage, rows.len(), columns.len())
            }
        }
    }
}

/// One element.
fn element<E: Copy>(base: Base<E>, at: isize, convert: impl Fn(E) -> f64) -> f64 {
    // SAFETY: a grid reaches exactly the elements of its tensor, which `at` asserts.
    convert(unsafe { base.at(at, 1).read() })
}

/// Copies a block.
#[inline(never)]
fn gather<T: Real, S: Simd<T>, E: Element>(s: S, base: Base<E>, block: Block, stage: &mut [T]) {
    match T::f32s_mut(stage).filter(|_| block.contiguous()) {
        Some(to) => s.single().call(Widen { base, block, to }),
        None => gather_with(base, block, stage, E::to_f64),
    }
}

#[inline(always)]
fn gather_with<T: Real, E: Copy>(base: Base<E>, block: Block, stage: &mut [T], convert: impl Fn(E) -> f64) {
    block.pieces(|i, at, n, stride| {
        // SAFETY: a grid reaches exactly the elements of its tensor, which `at` asserts.
        let value = |j: isize| T::from_f64(convert(unsafe { base.at(at + j * stride, 1).read() }));
        let to = &mut stage[i..i + n];
        if stride == 0 {
            to.fill(value(0));
        } else {
            for (j, to) in to.iter_mut().enumerate() {
                *to = value(j as isize);
            }
        }
    });
}

impl<'a, T: Real> Output<'a, T> {
    pub(crate) fn new<E: Element>(tensor: &TensorMut<'a, E>, walk: &'a Walk) -> Self {
        Output { sink: E::sink(tensor.base), straight: walk.direct(), walk, computes: PhantomData }
    }

    /// Bytes of an element.
    pub(crate) fn element_size(&self) -> usize {
        match self.sink {
            Sink::F32(_) => 4,
            Sink::F64(_) => 8,
            Sink::F16(_) | Sink::Bf16(_) => 2,
        }
    }

    /// Whether rows of `len` elements follow each other.
    pub(crate) fn adjoins(&self, len: usize) -> bool {
        self.straight == Some(len as isize)
    }

    /// Whether so many runs of so many elements begin and end where lines of the caches do.
    pub(crate) fn on_lines<E: Stored<T>>(&self, rows: usize, len: usize) -> bool {
        let line = LINE / size_of::<E>();
        let begins = E::write(self.sink).is_some_and(|base| base.address().is_multiple_of(LINE));
        begins && (rows * len).is_multiple_of(line) && self.walk.begins_at_multiples(rows, line)
    }

    /// Whether its elements are these, and tiles are written where they are.
    pub(crate) fn is_direct<E: Stored<T>>(&self) -> bool {
        self.straight.is_some() && E::write(self.sink).is_some()
    }

    /// Columns of some rows of kept position `k`, where tiles are written in place.
    /// # Safety
    /// No other thread touches these elements meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn tile<E: Stored<T>>(
        &self,
        k: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) -> Option<TileMut<'a, E>> {
        let (base, stride) = (E::write(self.sink)?, self.straight?);
        let at = self.walk.offset(k, rows.start) + columns.start as isize;
        // SAFETY: a grid reaches exactly the elements of its tensor, rows are this far apart, and the caller vouches for
        // the other threads.
        Some(unsafe { base.tile(at, rows.len(), stride, columns.len()) })
    }

    /// Lets `f` write columns of some rows of kept position `k`.
    /// # Safety
    /// No other thread touches these elements meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn write<S: Simd<T>>(
        &self,
        s: S,
        k: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        stage: &mut Aligned<T>,
        f: impl FnOnce(TileMut<T>),
    ) {
        // SAFETY: as the caller vouches.
        match unsafe { self.tile(k, rows, columns) } {
            Some(out) => f(out),
            None => {
                let block = Block { walk: self.walk, k, rows, columns };
                let stage = stage.get(block.size());
                f(TileMut::new(stage, rows.len(), columns.len()));
                // SAFETY: as the caller vouches.
                unsafe {
                    match self.sink {
                        Sink::F32(base) => scatter(s, base, block, stage),
                        Sink::F64(base) => scatter(s, base, block, stage),
                        Sink::F16(base) => scatter(s, base, block, stage),
                        Sink::Bf16(base) => scatter(s, base, block, stage),
                    }
                }
            }
        }
    }
}

/// Rounds to a block.
/// # Safety
/// No other thread touches its elements meanwhile.
#[inline(never)]
unsafe fn scatter<T: Real, S: Simd<T>, E: Element>(s: S, base: BaseMut<E>, block: Block, stage: &[T]) {
    match T::f32s(stage).filter(|_| block.contiguous()) {
        // SAFETY: as the caller vouches.
        Some(from) => s.single().call(unsafe { Narrow::new(base, block, from) }),
        None => block.pieces(|i, at, n, stride| {
            for (j, &value) in stage[i..i + n].iter().enumerate() {
                let to = base.at(at + j as isize * stride, 1);
                // SAFETY: a grid reaches exactly the elements of its tensor; the caller vouches for the threads.
                unsafe { to.write(E::from_f64(value.to_f64())) };
            }
        }),
    }
}

/// Copies a block in which elements follow each other.
struct Widen<'w, 'a, E> {
    base: Base<'a, E>,
    block: Block<'w>,
    to: &'w mut [f32],
}

impl<E: Element> Kernel<f32> for Widen<'_, '_, E> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<f32>>(self, s: S) {
        let Widen { base, block, to } = self;
        block.pieces(
            #[inline(always)]
            |i, at, n, _| {
                // SAFETY: a grid reaches exactly the elements of its tensor, which `at` asserts; these follow each other.
                let from = unsafe { std::slice::from_raw_parts(base.at(at, n), n) };
                E::widen(s.single(), from, &mut to[i..i + n]);
            },
        );
    }
}

/// Rounds to a block in which elements follow each other.
struct Narrow<'w, 'a, E> {
    base: BaseMut<'a, E>,
    block: Block<'w>,
    from: &'w [f32],
}

impl<'w, 'a, E> Narrow<'w, 'a, E> {
    /// # Safety
    /// No other thread touches the block until it is written.
    unsafe fn new(base: BaseMut<'a, E>, block: Block<'w>, from: &'w [f32]) -> Self {
        Narrow { base, block, from }
    }
}

impl<E: Element> Kernel<f32> for Narrow<'_, '_, E> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<f32>>(self, s: S) {
        let Narrow { base, block, from } = self;
        block.pieces(
            #[inline(always)]
            |i, at, n, _| {
                // SAFETY: as above, and the caller of `new` vouched for the threads.
                let to = unsafe { std::slice::from_raw_parts_mut(base.at(at, n), n) };
                E::narrow(s.single(), &from[i..i + n], to);
            },
        );
    }
}
