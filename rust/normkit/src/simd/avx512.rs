//! AVX-512 (F, VL, DQ, BW): masks make tails free.

use std::arch::x86_64::*;

use super::avx2::fold_pd;
use super::isa::On;
use super::{AT_ONCE, Fold, Halves, Kernel, ONLY_SINGLE, Simd};

/// The processor has AVX-512 F, VL, DQ and BW.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The processor has AVX-512 F, VL, DQ and BW, and the caller is compiled for them.
    #[inline(always)]
    pub(super) unsafe fn assume() -> Self {
        Avx512(())
    }
}

// SAFETY (every block below without its own note): the token proves that the processor has the instruction, and the
// caller vouches for the pointer as the trait asks.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd<f32> for Avx512 {
    type V = __m512;
    type Lanes = [__m512; 2];
    type Double = Avx512;
    type Single = Avx512;
    const N: usize = 16;

    #[inline(always)]
    fn double(self) -> Avx512 {
        self
    }
    #[inline(always)]
    fn single(self) -> Avx512 {
        self
    }
    #[inline(always)]
    fn of_single(self, v: __m512) -> __m512 {
        v
    }
    #[inline(always)]
    fn to_single(self, v: __m512) -> __m512 {
        v
    }
    #[inline(always)]
    fn widen(self, lanes: [__m512; 2]) -> [__m512d; 2] {
        unsafe {
            let sum = _mm512_add_ps(lanes[0], lanes[1]);
            [_mm512_cvtps_pd(_mm512_castps512_ps256(sum)), _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(sum))]
        }
    }
    #[inline(always)]
    fn call<K: Kernel<f32>>(self, kernel: K) -> K::Output {
        unsafe { kernel.on_avx512() }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn splat_lanes(self, x: f32) -> [__m512; 2] {
        [Simd::<f32>::splat(self, x); 2]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_or(self, p: *const f32, n: usize, fill: __m512) -> __m512 {
        debug_assert!(n <= 16);
        unsafe { _mm512_mask_loadu_ps(fill, ((1u32 << n) - 1) as __mmask16, p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, v: __m512) {
        debug_assert!(n <= 16);
        unsafe { _mm512_mask_storeu_ps(p, ((1u32 << n) - 1) as __mmask16, v) }
    }
    #[inline(always)]
    unsafe fn stream(self, p: *mut f32, v: __m512) {
        debug_assert!(p.addr().is_multiple_of(64));
        unsafe { _mm512_stream_ps(p, v) }
    }
    #[inline(always)]
    fn fence(self) {
        unsafe { _mm_sfence() }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    // `a * 1 - b` is rounded once, as `a - b` is; to say how keeps the compiler from making that of it.
    #[inline(always)]
    fn difference(self, a: __m512, b: __m512) -> __m512 {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe { _mm512_fmsub_round_ps::<NEAREST>(a, _mm512_set1_ps(1.0), b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn first(self, n: usize, v: __m512, fill: __m512) -> __m512 {
        debug_assert!(n <= 16);
        unsafe { _mm512_mask_blend_ps(((1u32 << n) - 1) as __mmask16, fill, v) }
    }
    #[inline(always)]
    fn positive(self, c: __m512, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(c, _mm512_setzero_ps()), b, a) }
    }
    #[inline(always)]
    fn positive_or_nan(self, c: __m512, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_NLE_UQ>(c, _mm512_setzero_ps()), b, a) }
    }
    #[inline(always)]
    fn scale(self, p: __m512, magic: __m512) -> __m512 {
        unsafe {
            let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(magic));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), n))
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd<f64> for Avx512 {
    type V = __m512d;
    type Lanes = [__m512d; 2];
    type Double = Avx512;
    type Single = Avx512;
    const N: usize = 8;

    #[inline(always)]
    fn double(self) -> Avx512 {
        self
    }
    #[inline(always)]
    fn single(self) -> Avx512 {
        self
    }
    fn of_single(self, _v: __m512) -> __m512d {
        unreachable!("{ONLY_SINGLE}")
    }
    fn to_single(self, _v: __m512d) -> __m512 {
        unreachable!("{ONLY_SINGLE}")
    }
    #[inline(always)]
    fn widen(self, lanes: [__m512d; 2]) -> [__m512d; 2] {
        lanes
    }
    #[inline(always)]
    fn call<K: Kernel<f64>>(self, kernel: K) -> K::Output {
        unsafe { kernel.on_avx512() }
    }
    #[inline(always)]
    fn splat(self, x: f64) -> __m512d {
        unsafe { _mm512_set1_pd(x) }
    }
    #[inline(always)]
    fn splat_lanes(self, x: f64) -> [__m512d; 2] {
        [Simd::<f64>::splat(self, x); 2]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f64) -> __m512d {
        unsafe { _mm512_loadu_pd(p) }
    }
    #[inline(always)]
    unsafe fn load_or(self, p: *const f64, n: usize, fill: __m512d) -> __m512d {
        debug_assert!(n <= 8);
        unsafe { _mm512_mask_loadu_pd(fill, ((1u32 << n) - 1) as __mmask8, p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f64, v: __m512d) {
        unsafe { _mm512_storeu_pd(p, v) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f64, n: usize, v: __m512d) {
        debug_assert!(n <= 8);
        unsafe { _mm512_mask_storeu_pd(p, ((1u32 << n) - 1) as __mmask8, v) }
    }
    #[inline(always)]
    unsafe fn stream(self, p: *mut f64, v: __m512d) {
        debug_assert!(p.addr().is_multiple_of(64));
        unsafe { _mm512_stream_pd(p, v) }
    }
    #[inline(always)]
    fn fence(self) {
        unsafe { _mm_sfence() }
    }
    #[inline(always)]
    fn add(self, a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_add_pd(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_sub_pd(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_mul_pd(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_div_pd(a, b) }
    }
    #[inline(always)]
    fn first(self, n: usize, v: __m512d, fill: __m512d) -> __m512d {
        debug_assert!(n <= 8);
        unsafe { _mm512_mask_blend_pd(((1u32 << n) - 1) as __mmask8, fill, v) }
    }
    #[inline(always)]
    fn positive(self, c: __m512d, a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_mask_blend_pd(_mm512_cmp_pd_mask::<_CMP_GT_OQ>(c, _mm512_setzero_pd()), b, a) }
    }
    #[inline(always)]
    fn positive_or_nan(self, c: __m512d, a: __m512d, b: __m512d) -> __m512d {
        unsafe { _mm512_mask_blend_pd(_mm512_cmp_pd_mask::<_CMP_NLE_UQ>(c, _mm512_setzero_pd()), b, a) }
    }
    #[inline(always)]
    fn scale(self, p: __m512d, magic: __m512d) -> __m512d {
        unsafe {
            let n = _mm512_slli_epi64::<52>(_mm512_castpd_si512(magic));
            _mm512_castsi512_pd(_mm512_add_epi64(_mm512_castpd_si512(p), n))
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Fold for Avx512 {
    #[inline(always)]
    fn fold(self, v: __m512d) -> f64 {
        unsafe { fold_pd(_mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd::<1>(v))) }
    }
    /// Eight at once, as if transposed: each step halves the lanes of two vectors into one.
    #[inline(always)]
    fn folds(self, v: &[__m512d; AT_ONCE], n: usize, sums: &mut [f64; AT_ONCE]) {
        if n < 4 {
            for i in 0..n {
                sums[i] = self.fold(v[i]);
            }
            return;
        }
        // SAFETY: eight sums are stored from each beginning on; so many vectors have been indexed there, and there are no fewer sums.
        unsafe {
            let zero = _mm512_setzero_pd();
            for begin in [0, AT_ONCE / 2] {
                let (mut fours, mut twos) = ([zero; 4], [zero; 2]);
                for i in 0..4 {
                    let (a, b) = (v[begin + 2 * i], v[begin + 2 * i + 1]);
                    fours[i] = _mm512_add_pd(_mm512_shuffle_f64x2::<0x44>(a, b), _mm512_shuffle_f64x2::<0xEE>(a, b));
                }
                for i in 0..2 {
                    let (a, b) = (fours[2 * i], fours[2 * i + 1]);
                    twos[i] = _mm512_add_pd(_mm512_shuffle_f64x2::<0x88>(a, b), _mm512_shuffle_f64x2::<0xDD>(a, b));
                }
                let [a, b] = twos;
                let ones = _mm512_add_pd(_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
                // Vectors 0, 4, 1, 5, …
                let order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
                _mm512_storeu_pd(sums.as_mut_ptr().add(begin), _mm512_permutexvar_pd(order, ones));
            }
        }
    }
}

/// Where the upper half of each element is; the rest is not used.
const UPPER: [u16; 32] = {
    let mut upper = [0; 32];
    let mut i = 0;
    while i < 16 {
        upper[i] = 2 * i as u16 + 1;
        i += 1;
    }
    upper
};

#[allow(clippy::undocumented_unsafe_blocks)]
impl Halves for Avx512 {
    type H = __m256i;
    #[inline(always)]
    unsafe fn load_halves(self, p: *const u16) -> __m256i {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const u16, n: usize) -> __m256i {
        debug_assert!(n <= 16);
        unsafe { _mm256_maskz_loadu_epi16(((1u32 << n) - 1) as __mmask16, p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_halves(self, p: *mut u16, v: __m256i) {
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn stream_halves(self, p: *mut u16, v: __m256i) {
        debug_assert!(p.addr().is_multiple_of(32));
        unsafe { _mm256_stream_si256(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut u16, n: usize, v: __m256i) {
        debug_assert!(n <= 16);
        unsafe { _mm256_mask_storeu_epi16(p.cast(), ((1u32 << n) - 1) as __mmask16, v) }
    }
    #[inline(always)]
    fn of_f16(self, v: __m256i) -> __m512 {
        unsafe { _mm512_cvtph_ps(v) }
    }
    #[inline(always)]
    fn to_f16(self, v: __m512) -> __m256i {
        unsafe { _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v) }
    }
    #[inline(always)]
    fn of_bf16(self, v: __m256i) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v))) }
    }
    #[inline(always)]
    fn to_bf16(self, v: __m512) -> __m256i {
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x1_0000));
            let down = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_mask_add_epi32(down, odd, down, _mm512_set1_epi32(1));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let whole = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x40_0000));
            _mm512_castsi512_si256(_mm512_permutexvar_epi16(_mm512_loadu_si512(UPPER.as_ptr().cast()), whole))
        }
    }
}
