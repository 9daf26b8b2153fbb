//! Instruction sets behind one small trait, and the loops over tiles built on it.
//!
//! This is the only directory with intrinsics. A token (`Avx512`, `Avx2`, `Baseline`) is the proof that the processor
//! has the instruction set; tokens are made in [`dispatch`] alone. What the kernels see are safe loops over
//! [`Tile`]s: [`lanes`] and [`short_lanes`] (sums along a run), [`columns`] (sums down a run) and [`map`] (one output per
//! element); over short [`Lines`], several at a time, [`line_sums`], [`short_line_sums`], [`map_lines`] and
//! [`map_both`] (two outputs). A [`Follower`] makes outputs at the steps of another loop.
//!
//! Every result has the same bits on every instruction set: [`Real::LANES`] virtual lanes whatever the register width,
//! one fixed tree to fold them, multiply then add with two roundings, and tails that take the same lane positions.
//!
//! Every function on the way from a `#[target_feature]` entry point down to an intrinsic is `#[inline(always)]`: one
//! that is not becomes a call that passes vectors through memory.

mod aligned;
mod baseline;
mod behind;
mod both;
mod halves;
mod isa;
mod lines;
mod loops;
mod stored;
mod tile;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::mem::MaybeUninit;
use std::ops::IndexMut;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::element::{Sink, Source};

pub(crate) use aligned::Aligned;
pub use behind::{Behind, Origin};
pub(crate) use behind::{Each, Follower, Lockstep, Waiting, inlined_next};
pub(crate) use both::map_both;
pub use halves::Halves;
pub(crate) use halves::{Half, narrow, widen};
pub use isa::Isa;
pub use isa::force;
pub(crate) use lines::{AT_ONCE, line_sums, map_lines, sample_sum, sample_sums, short_line_sums, streams_alone};
pub(crate) use loops::{columns, lanes, map, short_lanes};
pub use stored::Stored;
pub use tile::{Base, BaseMut};
pub use tile::{Lines, LinesMut, Tile, TileMut};

/// The widest register in bytes; also a cache line, and the alignment that streaming stores need.
pub(crate) const LINE: usize = 64;

/// How far ahead memory is asked for, in bytes: 16 lines. Half and twice as much measured the same.
const AHEAD: usize = 16 * LINE;

/// Whether to leave it to the processor to fetch ahead: along lines of several operands that adjoin, and down rows of columns.
/// AMD's processors do that by themselves, and better. (Measured on Zen 4: group norm's and layer norm's backward passes of large
/// arrays take 0.8 to 0.95 of the time; lines apart from each other or in the last cache took up to 1.15 times as long so. On Zen 3:
/// sums down columns take 0.65 to 0.85 of the time in a cache; those from memory take the same time. On Intel's processors asking
/// ahead was worth 8 to 18 %, and this has not been tried.)
static FETCHES_AHEAD: AtomicBool = AtomicBool::new(false);

/// Leaves it to the processor to fetch ahead where that pays.
pub(crate) fn fetches_ahead() {
    FETCHES_AHEAD.store(true, Ordering::Relaxed);
}

/// A closure can only be told to inline where it is an argument. (One that is not, or that is called through a reference
/// to it, becomes a call for each vector.)
#[inline(always)]
pub(crate) fn inlined<A, B, R>(f: impl Fn(A, B) -> R) -> impl Fn(A, B) -> R {
    f
}

/// What `f` makes of each. (`array::map` is code of the standard library, which is not inlined wherever it
/// is needed.)
#[inline(always)]
pub(crate) fn mapped<A: Copy, B: Copy, const N: usize>(of: [A; N], f: impl Fn(A) -> B) -> [B; N] {
    let mut made = [const { MaybeUninit::uninit() }; N];
    for i in 0..N {
        made[i].write(f(of[i]));
    }
    debug_assert!(size_of_val(&made) == size_of::<[B; N]>());
    // SAFETY: all of them have just been written.
    unsafe { (&raw const made).cast::<[B; N]>().read() }
}

/// A type that statistics can be computed in: `f32` or `f64`.
pub trait Real: Copy + Send + Sync + PartialEq + PartialOrd + 'static {
    /// Zero.
    const ZERO: Self;
    /// Virtual lanes: fixed, so that sums do not depend on the register width. Not more, or AVX2 spills.
    const LANES: usize;
    /// Steps that these lanes take before they are added up in float64. One large term may make every smaller one that
    /// follows it in its lane round the same way: in float32 this costs 1.5 ulp at most. Float64 has nothing wider, and
    /// two levels of about the same length.
    const FLUSH: usize;
    /// Below this a sum of squares (or products) may have lost terms to underflow.
    const TINY: f64;
    /// Adding this to a small number rounds it to an integer, which is then in the lowest bits.
    const MAGIC: Self;
    /// The terms of a Taylor series of e^x that are needed for |x| <= ln(2)/2.
    const TERMS: usize;
    /// e to a power beyond ± this would leave the normal range.
    const LARGEST_POWER: f64;
    /// ln(2) in two parts: an integer times the first is exact.
    const LN2: [f64; 2];
    /// The nearest value of this type.
    fn from_f64(x: f64) -> Self;
    /// The same value, wider.
    fn to_f64(self) -> f64;
    /// These very values, if they are float32.
    #[doc(hidden)]
    fn f32s(values: &[Self]) -> Option<&[f32]>;
    /// The same, to write.
    #[doc(hidden)]
    fn f32s_mut(values: &mut [Self]) -> Option<&mut [f32]>;
    /// The memory of an operand if it holds this very type.
    #[doc(hidden)]
    fn read(source: Source<'_>) -> Option<Base<'_, Self>>;
    /// The memory of an output if it holds this very type.
    #[doc(hidden)]
    fn write(sink: Sink<'_>) -> Option<BaseMut<'_, Self>>;
    /// Run `kernel` with the instructions of `isa`.
    fn dispatch<K: Kernel<Self>>(isa: Isa, kernel: K) -> K::Output;
}

/// Code that is compiled once per instruction set.
pub trait Kernel<T: Real> {
    /// What it returns.
    type Output;
    /// The code itself; mark the implementation `#[inline(always)]`.
    fn eval<S: Simd<T>>(self, simd: S) -> Self::Output;
}

/// Vectors of `T` on one instruction set. Implementors are zero-sized tokens.
pub trait Simd<T: Real>: Copy + 'static {
    /// A register.
    type V: Copy;
    /// `T::LANES` values in registers.
    type Lanes: Copy + IndexMut<usize, Output = Self::V>;
    /// The same instructions for float64.
    type Double: Fold;
    /// The same instructions for float32.
    type Single: Halves;
    /// Elements in a register.
    const N: usize;

    /// The token of float64.
    fn double(self) -> Self::Double;
    /// The token of float32.
    fn single(self) -> Self::Single;
    /// A vector of float32, which this one is.
    fn of_single(self, v: <Self::Single as Simd<f32>>::V) -> Self::V;
    /// This vector, which is one of float32.
    fn to_single(self, v: Self::V) -> <Self::Single as Simd<f32>>::V;
    /// The virtual lanes as float64: of float32 the second half is added to the first.
    fn widen(self, lanes: Self::Lanes) -> Wide<T, Self>;

    /// `x` in every lane.
    fn splat(self, x: T) -> Self::V;
    /// `x` in every virtual lane.
    fn splat_lanes(self, x: T) -> Self::Lanes;
    /// Load `N` elements.
    /// # Safety
    /// `p..p + N` is readable.
    unsafe fn load(self, p: *const T) -> Self::V;
    /// Load `n` elements; the other lanes take `fill` and are not read.
    /// # Safety
    /// `n <= N` and `p..p + n` is readable.
    unsafe fn load_or(self, p: *const T, n: usize, fill: Self::V) -> Self::V;
    /// Store `N` elements.
    /// # Safety
    /// `p..p + N` is writable.
    unsafe fn store(self, p: *mut T, v: Self::V);
    /// Store the first `n` lanes.
    /// # Safety
    /// `n <= N` and `p..p + n` is writable.
    unsafe fn store_n(self, p: *mut T, n: usize, v: Self::V);
    /// Store past the caches; end a series of these with [`Simd::fence`].
    /// # Safety
    /// `p..p + N` is writable and `p` is aligned to the register.
    unsafe fn stream(self, p: *mut T, v: Self::V);
    /// Asks for the memory [`AHEAD`] of `p`, which will be read; any address will do.
    #[inline(always)]
    fn will_read<E>(self, p: *const E) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: it is a hint, which every x86-64 processor has, and never a fault.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_byte_add(AHEAD).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = p;
    }
    /// Asks for the memory at `p` to be in the second-level cache when it is read, a while from now; any address will do.
    #[inline(always)]
    fn will_need_here<E>(self, p: *const E) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = p;
    }
    /// Asks for the memory [`AHEAD`] of `p`, which will be written: processors fetch ahead for loads, but a store waits
    /// for its line.
    #[inline(always)]
    fn will_write<E>(self, p: *mut E) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: it is a hint, never a fault, and nothing where a processor does not have it. (`_mm_prefetch` gives this
        // instruction to crates alone that are compiled for processors which have it.)
        unsafe {
            std::arch::asm!("prefetchw [{p} + {ahead}]", p = in(reg) p, ahead = const AHEAD,
                options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = p;
    }
    /// Make streamed stores visible before whatever follows.
    fn fence(self);
    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`, for where additions are waited for: by the multipliers, if these are others than the adders.
    #[inline(always)]
    fn difference(self, a: Self::V, b: Self::V) -> Self::V {
        self.sub(a, b)
    }
    /// `a * b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The first `n` lanes of `v`, then those of `fill`.
    fn first(self, n: usize, v: Self::V, fill: Self::V) -> Self::V;
    /// `a` where `c > 0`, else `b`, also where `c` is NaN.
    fn positive(self, c: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// `a` where `c > 0` or `c` is NaN, else `b`.
    fn positive_or_nan(self, c: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// `p` times two to the power of `n`, where `magic` is [`Real::MAGIC`]` + n`; everything within the normal range.
    fn scale(self, p: Self::V, magic: Self::V) -> Self::V;
    /// Runs a kernel as a function of its own, compiled once: for what is long or seldom needed.
    fn call<K: Kernel<T>>(self, kernel: K) -> K::Output;
}

/// Why [`Simd::of_single`] and [`Simd::to_single`] are never called for float64.
const ONLY_SINGLE: &str = "nothing that is computed in float64 is stored as halves";

/// Virtual lanes in float64.
pub type Wide<T, S> = <<S as Simd<T>>::Double as Simd<f64>>::Lanes;

/// Vectors of float64 can be folded: everything else is summed up in them.
pub trait Fold: Simd<f64> {
    /// Sum of the lanes by the fixed tree: lane i + lane i + N/2, halving.
    fn fold(self, v: Self::V) -> f64;
    /// Folds the first `n` vectors, each by the same tree; where that is quicker, more of them.
    #[inline(always)]
    fn folds(self, vectors: &[Self::V; AT_ONCE], n: usize, sums: &mut [f64; AT_ONCE]) {
        for i in 0..n {
            sums[i] = self.fold(vectors[i]);
        }
    }
}

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const LANES: usize = 32;
    const FLUSH: usize = 4;
    const TINY: f64 = f32::MIN_POSITIVE as f64 * (1u64 << 26) as f64;
    const MAGIC: f32 = (3u32 << 22) as f32;
    const TERMS: usize = 8;
    const LARGEST_POWER: f64 = 87.0;
    const LN2: [f64; 2] = [0.693_359_375, -2.121_944_400_546_905_8e-4];
    #[inline(always)]
    fn from_f64(x: f64) -> f32 {
        x as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn f32s(values: &[f32]) -> Option<&[f32]> {
        Some(values)
    }
    fn f32s_mut(values: &mut [f32]) -> Option<&mut [f32]> {
        Some(values)
    }
    #[inline]
    fn read(source: Source<'_>) -> Option<Base<'_, Self>> {
        if let Source::F32(base) = source { Some(base) } else { None }
    }
    #[inline]
    fn write(sink: Sink<'_>) -> Option<BaseMut<'_, Self>> {
        if let Sink::F32(base) = sink { Some(base) } else { None }
    }
    #[inline(always)]
    fn dispatch<K: Kernel<f32>>(isa: Isa, kernel: K) -> K::Output {
        isa::dispatch(isa, kernel)
    }
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const LANES: usize = 16;
    const FLUSH: usize = 16;
    const TINY: f64 = f64::MIN_POSITIVE * (1u64 << 55) as f64;
    const MAGIC: f64 = (3u64 << 51) as f64;
    const TERMS: usize = 14;
    const LARGEST_POWER: f64 = 707.0;
    const LN2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];
    #[inline(always)]
    fn from_f64(x: f64) -> f64 {
        x
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    fn f32s(_values: &[f64]) -> Option<&[f32]> {
        None
    }
    fn f32s_mut(_values: &mut [f64]) -> Option<&mut [f32]> {
        None
    }
    #[inline]
    fn read(source: Source<'_>) -> Option<Base<'_, Self>> {
        if let Source::F64(base) = source { Some(base) } else { None }
    }
    #[inline]
    fn write(sink: Sink<'_>) -> Option<BaseMut<'_, Self>> {
        if let Sink::F64(base) = sink { Some(base) } else { None }
    }
    #[inline(always)]
    fn dispatch<K: Kernel<f64>>(isa: Isa, kernel: K) -> K::Output {
        isa::dispatch(isa, kernel)
    }
}
