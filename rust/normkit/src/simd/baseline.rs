//! The baseline: `wide`'s four-lane types, one source for SSE2, NEON and WASM.

use half::f16;
use half::slice::HalfFloatSliceExt;
use wide::{f32x4, f64x2};

use super::{Fold, Halves, Kernel, ONLY_SINGLE, Simd};

/// Needs nothing beyond what the target guarantees.
#[derive(Clone, Copy)]
pub(crate) struct Baseline;

// SAFETY (every block below without its own note): the caller vouches for the pointer as the trait asks.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd<f32> for Baseline {
    type V = f32x4;
    type Lanes = [f32x4; 8];
    type Double = Baseline;
    type Single = Baseline;
    const N: usize = 4;

    #[inline(always)]
    fn double(self) -> Baseline {
        self
    }
    #[inline(always)]
    fn single(self) -> Baseline {
        self
    }
    #[inline(always)]
    fn of_single(self, v: f32x4) -> f32x4 {
        v
    }
    #[inline(always)]
    fn to_single(self, v: f32x4) -> f32x4 {
        v
    }
    #[inline(always)]
    fn widen(self, lanes: [f32x4; 8]) -> [f64x2; 8] {
        let mut wide = [f64x2::ZERO; 8];
        for u in 0..4 {
            let [a, b, c, d] = (lanes[u] + lanes[u + 4]).to_array().map(f64::from);
            (wide[2 * u], wide[2 * u + 1]) = (f64x2::new([a, b]), f64x2::new([c, d]));
        }
        wide
    }
    #[inline(never)]
    fn call<K: Kernel<f32>>(self, kernel: K) -> K::Output {
        kernel.eval(self)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> f32x4 {
        f32x4::splat(x)
    }
    #[inline(always)]
    fn splat_lanes(self, x: f32) -> [f32x4; 8] {
        [f32x4::splat(x); 8]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> f32x4 {
        unsafe { p.cast::<f32x4>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_or(self, p: *const f32, n: usize, fill: f32x4) -> f32x4 {
        debug_assert!(n <= 4);
        let mut lanes = fill.to_array();
        for (i, lane) in lanes.iter_mut().enumerate().take(n) {
            *lane = unsafe { p.add(i).read() };
        }
        f32x4::new(lanes)
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: f32x4) {
        unsafe { p.cast::<f32x4>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, v: f32x4) {
        debug_assert!(n <= 4);
        for (i, lane) in v.to_array().into_iter().enumerate().take(n) {
            unsafe { p.add(i).write(lane) }
        }
    }
    #[inline(always)]
    unsafe fn stream(self, p: *mut f32, v: f32x4) {
        debug_assert!(p.addr().is_multiple_of(16));
        #[cfg(target_arch = "x86_64")]
        unsafe {
            use std::arch::x86_64::{_mm_loadu_ps, _mm_stream_ps};
            _mm_stream_ps(p, _mm_loadu_ps((&raw const v).cast()));
        }
        #[cfg(not(target_arch = "x86_64"))]
        unsafe {
            Simd::<f32>::store(self, p, v)
        }
    }
    #[inline(always)]
    fn fence(self) {
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::x86_64::_mm_sfence()
        }
    }
    #[inline(always)]
    fn add(self, a: f32x4, b: f32x4) -> f32x4 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32x4, b: f32x4) -> f32x4 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32x4, b: f32x4) -> f32x4 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32x4, b: f32x4) -> f32x4 {
        a / b
    }
    #[inline(always)]
    fn first(self, n: usize, v: f32x4, fill: f32x4) -> f32x4 {
        debug_assert!(n <= 4);
        let (v, mut lanes) = (v.to_array(), fill.to_array());
        lanes[..n].copy_from_slice(&v[..n]);
        f32x4::new(lanes)
    }
    #[inline(always)]
    fn positive(self, c: f32x4, a: f32x4, b: f32x4) -> f32x4 {
        c.simd_gt(f32x4::ZERO).select(a, b)
    }
    #[inline(always)]
    fn positive_or_nan(self, c: f32x4, a: f32x4, b: f32x4) -> f32x4 {
        c.simd_le(f32x4::ZERO).select(b, a)
    }
    #[inline(always)]
    fn scale(self, p: f32x4, magic: f32x4) -> f32x4 {
        let (mut lanes, magic) = (p.to_array(), magic.to_array());
        for (lane, magic) in lanes.iter_mut().zip(magic) {
            *lane = f32::from_bits(lane.to_bits().wrapping_add(magic.to_bits() << 23));
        }
        f32x4::new(lanes)
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd<f64> for Baseline {
    type V = f64x2;
    type Lanes = [f64x2; 8];
    type Double = Baseline;
    type Single = Baseline;
    const N: usize = 2;

    #[inline(always)]
    fn double(self) -> Baseline {
        self
    }
    #[inline(always)]
    fn single(self) -> Baseline {
        self
    }
    fn of_single(self, _v: f32x4) -> f64x2 {
        unreachable!("{ONLY_SINGLE}")
    }
    fn to_single(self, _v: f64x2) -> f32x4 {
        unreachable!("{ONLY_SINGLE}")
    }
    #[inline(always)]
    fn widen(self, lanes: [f64x2; 8]) -> [f64x2; 8] {
        lanes
    }
    #[inline(never)]
    fn call<K: Kernel<f64>>(self, kernel: K) -> K::Output {
        kernel.eval(self)
    }
    #[inline(always)]
    fn splat(self, x: f64) -> f64x2 {
        f64x2::splat(x)
    }
    #[inline(always)]
    fn splat_lanes(self, x: f64) -> [f64x2; 8] {
        [f64x2::splat(x); 8]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f64) -> f64x2 {
        unsafe { p.cast::<f64x2>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_or(self, p: *const f64, n: usize, fill: f64x2) -> f64x2 {
        debug_assert!(n <= 2);
        let mut lanes = fill.to_array();
        for (i, lane) in lanes.iter_mut().enumerate().take(n) {
            *lane = unsafe { p.add(i).read() };
        }
        f64x2::new(lanes)
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f64, v: f64x2) {
        unsafe { p.cast::<f64x2>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f64, n: usize, v: f64x2) {
        debug_assert!(n <= 2);
        for (i, lane) in v.to_array().into_iter().enumerate().take(n) {
            unsafe { p.add(i).write(lane) }
        }
    }
    #[inline(always)]
    unsafe fn stream(self, p: *mut f64, v: f64x2) {
        debug_assert!(p.addr().is_multiple_of(16));
        #[cfg(target_arch = "x86_64")]
        unsafe {
            use std::arch::x86_64::{_mm_loadu_pd, _mm_stream_pd};
            _mm_stream_pd(p, _mm_loadu_pd((&raw const v).cast()));
        }
        #[cfg(not(target_arch = "x86_64"))]
        unsafe {
            Simd::<f64>::store(self, p, v)
        }
    }
    #[inline(always)]
    fn fence(self) {
        Simd::<f32>::fence(self);
    }
    #[inline(always)]
    fn add(self, a: f64x2, b: f64x2) -> f64x2 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f64x2, b: f64x2) -> f64x2 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f64x2, b: f64x2) -> f64x2 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f64x2, b: f64x2) -> f64x2 {
        a / b
    }
    #[inline(always)]
    fn first(self, n: usize, v: f64x2, fill: f64x2) -> f64x2 {
        debug_assert!(n <= 2);
        let (v, mut lanes) = (v.to_array(), fill.to_array());
        lanes[..n].copy_from_slice(&v[..n]);
        f64x2::new(lanes)
    }
    #[inline(always)]
    fn positive(self, c: f64x2, a: f64x2, b: f64x2) -> f64x2 {
        c.simd_gt(f64x2::ZERO).select(a, b)
    }
    #[inline(always)]
    fn positive_or_nan(self, c: f64x2, a: f64x2, b: f64x2) -> f64x2 {
        c.simd_le(f64x2::ZERO).select(b, a)
    }
    #[inline(always)]
    fn scale(self, p: f64x2, magic: f64x2) -> f64x2 {
        let (mut lanes, magic) = (p.to_array(), magic.to_array());
        for (lane, magic) in lanes.iter_mut().zip(magic) {
            *lane = f64::from_bits(lane.to_bits().wrapping_add(magic.to_bits() << 52));
        }
        f64x2::new(lanes)
    }
}

impl Fold for Baseline {
    #[inline(always)]
    fn fold(self, v: f64x2) -> f64 {
        let [a, b] = v.to_array();
        a + b
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Halves for Baseline {
    type H = [u16; 4];
    #[inline(always)]
    unsafe fn load_halves(self, p: *const u16) -> [u16; 4] {
        unsafe { p.cast::<[u16; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const u16, n: usize) -> [u16; 4] {
        debug_assert!(n <= 4);
        let mut halves = [0; 4];
        for (i, half) in halves.iter_mut().enumerate().take(n) {
            *half = unsafe { p.add(i).read() };
        }
        halves
    }
    #[inline(always)]
    unsafe fn store_halves(self, p: *mut u16, v: [u16; 4]) {
        unsafe { p.cast::<[u16; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn stream_halves(self, p: *mut u16, v: [u16; 4]) {
        unsafe { self.store_halves(p, v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut u16, n: usize, v: [u16; 4]) {
        debug_assert!(n <= 4);
        for (i, half) in v.into_iter().enumerate().take(n) {
            unsafe { p.add(i).write(half) }
        }
    }
    #[inline(always)]
    fn of_f16(self, v: [u16; 4]) -> f32x4 {
        let mut lanes = [0.0; 4];
        v.map(f16::from_bits).convert_to_f32_slice(&mut lanes);
        f32x4::new(lanes)
    }
    #[inline(always)]
    fn to_f16(self, v: f32x4) -> [u16; 4] {
        let mut halves = [f16::ZERO; 4];
        halves.convert_from_f32_slice(&v.to_array());
        halves.map(f16::to_bits)
    }
    #[inline(always)]
    fn of_bf16(self, v: [u16; 4]) -> f32x4 {
        f32x4::new(v.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }
    #[inline(always)]
    fn to_bf16(self, v: f32x4) -> [u16; 4] {
        v.to_array().map(|x| {
            let bits = x.to_bits();
            let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
            ((if x.is_nan() { bits | 0x40_0000 } else { rounded }) >> 16) as u16
        })
    }
}
