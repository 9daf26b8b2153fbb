//! AVX2 with F16C: tails by masked loads and stores.

use std::arch::x86_64::*;

use super::isa::On;
use super::{AT_ONCE, Fold, Halves, Kernel, ONLY_SINGLE, Simd};

/// The processor has AVX2 and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor has AVX2 and F16C, and the caller is compiled for them.
    #[inline(always)]
    pub(super) unsafe fn assume() -> Self {
        Avx2(())
    }
}

/// Eight ones, then eight zeros: read from 8 − n on, a mask of the first n lanes.
static MASK32: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
/// The same for four lanes.
static MASK64: [i64; 8] = [-1, -1, -1, -1, 0, 0, 0, 0];

/// # Safety
/// The processor has AVX2, and `n <= 8`.
#[inline(always)]
unsafe fn mask32(n: usize) -> __m256i {
    debug_assert!(n <= 8);
    // SAFETY: 8 − n..16 − n lies in the table.
    unsafe { _mm256_loadu_si256(MASK32.as_ptr().add(8 - n).cast()) }
}

/// # Safety
/// The processor has AVX2, and `n <= 4`.
#[inline(always)]
unsafe fn mask64(n: usize) -> __m256i {
    debug_assert!(n <= 4);
    // SAFETY: 4 − n..8 − n lies in the table.
    unsafe { _mm256_loadu_si256(MASK64.as_ptr().add(4 - n).cast()) }
}

/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn fold_pd(v: __m256d) -> f64 {
    // SAFETY: the caller vouches for AVX2, which has all of these.
    unsafe {
        let two = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
        _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)))
    }
}

/// Up to four halves, the first in the lowest bits. (Vectors of a few are made of these: what has just been written piece by piece
/// to memory would keep the load of all of it waiting.)
/// # Safety
/// `n <= 4`, and `p..p + n` is readable.
#[inline(always)]
unsafe fn few(p: *const u16, n: usize) -> u64 {
    debug_assert!(n <= 4);
    // SAFETY: no more than `n` halves are read.
    unsafe {
        match n {
            0 => 0,
            1 => u64::from(p.read()),
            2 => u64::from(p.cast::<u32>().read_unaligned()),
            3 => u64::from(p.cast::<u32>().read_unaligned()) | u64::from(p.add(2).read()) << 32,
            _ => p.cast::<u64>().read_unaligned(),
        }
    }
}

/// Writes as many.
/// # Safety
/// `n <= 4`, and `p..p + n` is writable.
#[inline(always)]
unsafe fn put(p: *mut u16, n: usize, halves: u64) {
    debug_assert!(n <= 4);
    // SAFETY: no more than `n` halves are written.
    unsafe {
        match n {
            0 => {}
            1 => p.write(halves as u16),
            2 => p.cast::<u32>().write_unaligned(halves as u32),
            3 => {
                p.cast::<u32>().write_unaligned(halves as u32);
                p.add(2).write((halves >> 32) as u16);
            }
            _ => p.cast::<u64>().write_unaligned(halves),
        }
    }
}

// SAFETY (every block below without its own note): the token proves that the processor has the instruction, and the
// caller vouches for the pointer as the trait asks.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd<f32> for Avx2 {
    type V = __m256;
    type Lanes = [__m256; 4];
    type Double = Avx2;
    type Single = Avx2;
    const N: usize = 8;

    #[inline(always)]
    fn double(self) -> Avx2 {
        self
    }
    #[inline(always)]
    fn single(self) -> Avx2 {
        self
    }
    #[inline(always)]
    fn of_single(self, v: __m256) -> __m256 {
        v
    }
    #[inline(always)]
    fn to_single(self, v: __m256) -> __m256 {
        v
    }
    #[inline(always)]
    fn widen(self, lanes: [__m256; 4]) -> [__m256d; 4] {
        unsafe {
            let (a, b) = (_mm256_add_ps(lanes[0], lanes[2]), _mm256_add_ps(lanes[1], lanes[3]));
            [
                _mm256_cvtps_pd(_mm256_castps256_ps128(a)),
                _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(a)),
                _mm256_cvtps_pd(_mm256_castps256_ps128(b)),
                _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(b)),
            ]
        }
    }
    #[inline(always)]
    fn call<K: Kernel<f32>>(self, kernel: K) -> K::Output {
        unsafe { kernel.on_avx2() }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn splat_lanes(self, x: f32) -> [__m256; 4] {
        [Simd::<f32>::splat(self, x); 4]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_or(self, p: *const f32, n: usize, fill: __m256) -> __m256 {
        unsafe {
            let mask = mask32(n);
            _mm256_blendv_ps(fill, _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask))
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, v: __m256) {
        debug_assert!(n <= 8);
        // Not by a mask, which AMD's processors are slow to store by. (Measured on Zen 3: group norm of 7×7 takes 0.8 of the time, layer norm's
        // backward pass of 13 and 49 elements 0.75.)
        unsafe {
            if n == 8 {
                return _mm256_storeu_ps(p, v);
            }
            let (mut p, mut low) = (p, _mm256_castps256_ps128(v));
            if n & 4 != 0 {
                _mm_storeu_ps(p, low);
                (p, low) = (p.add(4), _mm256_extractf128_ps::<1>(v));
            }
            if n & 2 != 0 {
                _mm_storel_epi64(p.cast(), _mm_castps_si128(low));
                (p, low) = (p.add(2), _mm_movehl_ps(low, low));
            }
            if n & 1 != 0 {
                _mm_store_ss(p, low);
            }
        }
    }
    #[inline(always)]
    unsafe fn stream(self, p: *mut f32, v: __m256) {
        debug_assert!(p.addr().is_multiple_of(32));
        unsafe { _mm256_stream_ps(p, v) }
    }
    #[inline(always)]
    fn fence(self) {
        unsafe { _mm_sfence() }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn first(self, n: usize, v: __m256, fill: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(fill, v, _mm256_castsi256_ps(mask32(n))) }
    }
    #[inline(always)]
    fn positive(self, c: __m256, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(b, a, _mm256_cmp_ps::<_CMP_GT_OQ>(c, _mm256_setzero_ps())) }
    }
    #[inline(always)]
    fn positive_or_nan(self, c: __m256, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(b, a, _mm256_cmp_ps::<_CMP_NLE_UQ>(c, _mm256_setzero_ps())) }
    }
    #[inline(always)]
    fn scale(self, p: __m256, magic: __m256) -> __m256 {
        unsafe {
            let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(magic));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n))
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd<f64> for Avx2 {
    type V = __m256d;
    type Lanes = [__m256d; 4];
    type Double = Avx2;
    type Single = Avx2;
    const N: usize = 4;

    #[inline(always)]
    fn double(self) -> Avx2 {
        self
    }
    #[inline(always)]
    fn single(self) -> Avx2 {
        self
    }
    fn of_single(self, _v: __m256) -> __m256d {
        unreachable!("{ONLY_SINGLE}")
    }
    fn to_single(self, _v: __m256d) -> __m256 {
        unreachable!("{ONLY_SINGLE}")
    }
    #[inline(always)]
    fn widen(self, lanes: [__m256d; 4]) -> [__m256d; 4] {
        lanes
    }
    #[inline(always)]
    fn call<K: Kernel<f64>>(self, kernel: K) -> K::Output {
        unsafe { kernel.on_avx2() }
    }
    #[inline(always)]
    fn splat(self, x: f64) -> __m256d {
        unsafe { _mm256_set1_pd(x) }
    }
    #[inline(always)]
    fn splat_lanes(self, x: f64) -> [__m256d; 4] {
        [Simd::<f64>::splat(self, x); 4]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f64) -> __m256d {
        unsafe { _mm256_loadu_pd(p) }
    }
    #[inline(always)]
    unsafe fn load_or(self, p: *const f64, n: usize, fill: __m256d) -> __m256d {
        unsafe {
            let mask = mask64(n);
            _mm256_blendv_pd(fill, _mm256_maskload_pd(p, mask), _mm256_castsi256_pd(mask))
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f64, v: __m256d) {
        unsafe { _mm256_storeu_pd(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f64, n: usize, v: __m256d) {
        debug_assert!(n <= 4);
        unsafe {
            if n == 4 {
                return _mm256_storeu_pd(p, v);
            }
            let (mut p, mut low) = (p, _mm256_castpd256_pd128(v));
            if n & 2 != 0 {
                _mm_storeu_pd(p, low);
                (p, low) = (p.add(2), _mm256_extractf128_pd::<1>(v));
            }
            if n & 1 != 0 {
                _mm_store_sd(p, low);
            }
        }
    }
    #[inline(always)]
    unsafe fn stream(self, p: *mut f64, v: __m256d) {
        debug_assert!(p.addr().is_multiple_of(32));
        unsafe { _mm256_stream_pd(p, v) }
    }
    #[inline(always)]
    fn fence(self) {
        unsafe { _mm_sfence() }
    }
    #[inline(always)]
    fn add(self, a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_add_pd(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_sub_pd(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_mul_pd(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_div_pd(a, b) }
    }
    #[inline(always)]
    fn first(self, n: usize, v: __m256d, fill: __m256d) -> __m256d {
        unsafe { _mm256_blendv_pd(fill, v, _mm256_castsi256_pd(mask64(n))) }
    }
    #[inline(always)]
    fn positive(self, c: __m256d, a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_blendv_pd(b, a, _mm256_cmp_pd::<_CMP_GT_OQ>(c, _mm256_setzero_pd())) }
    }
    #[inline(always)]
    fn positive_or_nan(self, c: __m256d, a: __m256d, b: __m256d) -> __m256d {
        unsafe { _mm256_blendv_pd(b, a, _mm256_cmp_pd::<_CMP_NLE_UQ>(c, _mm256_setzero_pd())) }
    }
    #[inline(always)]
    fn scale(self, p: __m256d, magic: __m256d) -> __m256d {
        unsafe {
            let n = _mm256_slli_epi64::<52>(_mm256_castpd_si256(magic));
            _mm256_castsi256_pd(_mm256_add_epi64(_mm256_castpd_si256(p), n))
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Fold for Avx2 {
    #[inline(always)]
    fn fold(self, v: __m256d) -> f64 {
        unsafe { fold_pd(v) }
    }
    /// Four at once, as if transposed.
    #[inline(always)]
    fn folds(self, v: &[__m256d; AT_ONCE], n: usize, sums: &mut [f64; AT_ONCE]) {
        for begin in (0..n).step_by(4) {
            debug_assert!(begin + 4 <= AT_ONCE);
            // SAFETY: four sums are stored from `begin` on; so many vectors have been indexed there, and there are no fewer sums.
            unsafe {
                let mut twos = [_mm256_setzero_pd(); 2];
                for i in 0..2 {
                    let (a, b) = (v[begin + i], v[begin + i + 2]);
                    let (low, high) = (_mm256_permute2f128_pd::<0x20>(a, b), _mm256_permute2f128_pd::<0x31>(a, b));
                    twos[i] = _mm256_add_pd(low, high);
                }
                let [a, b] = twos;
                let ones = _mm256_add_pd(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
                _mm256_storeu_pd(sums.as_mut_ptr().add(begin), ones);
            }
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Halves for Avx2 {
    type H = __m128i;
    #[inline(always)]
    unsafe fn load_halves(self, p: *const u16) -> __m128i {
        unsafe { _mm_loadu_si128(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const u16, n: usize) -> __m128i {
        debug_assert!(n <= 8);
        let low = unsafe { few(p, n.min(4)) };
        let high = if n > 4 { unsafe { few(p.add(4), n - 4) } } else { 0 };
        unsafe { _mm_set_epi64x(high as i64, low as i64) }
    }
    #[inline(always)]
    unsafe fn store_halves(self, p: *mut u16, v: __m128i) {
        unsafe { _mm_storeu_si128(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn stream_halves(self, p: *mut u16, v: __m128i) {
        debug_assert!(p.addr().is_multiple_of(16));
        unsafe { _mm_stream_si128(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut u16, n: usize, v: __m128i) {
        debug_assert!(n <= 8);
        unsafe { put(p, n.min(4), _mm_cvtsi128_si64(v) as u64) };
        if n > 4 {
            unsafe { put(p.add(4), n - 4, _mm_extract_epi64::<1>(v) as u64) };
        }
    }
    #[inline(always)]
    fn of_f16(self, v: __m128i) -> __m256 {
        unsafe { _mm256_cvtph_ps(v) }
    }
    #[inline(always)]
    fn to_f16(self, v: __m256) -> __m128i {
        unsafe { _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v) }
    }
    #[inline(always)]
    fn of_bf16(self, v: __m128i) -> __m256 {
        // (Widening by zeros, then shifting, takes 1.03 to 1.1 times as long on Zen 3.)
        unsafe {
            #[rustfmt::skip]
            let high = _mm256_setr_epi8(
                -1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7,
                -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15,
            );
            _mm256_castsi256_ps(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(v), high))
        }
    }
    #[inline(always)]
    fn to_bf16(self, v: __m256) -> __m128i {
        unsafe {
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let high = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
            _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0x08>(_mm256_packus_epi32(high, high)))
        }
    }
}
