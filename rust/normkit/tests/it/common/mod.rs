//! What the tests share: one table of shapes, arrays in any memory layout, values that are hard to normalize.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

pub mod fold;
pub mod judge;
pub mod weights;

use std::sync::{Mutex, MutexGuard};

use half::{bf16, f16};
use normkit::layout::Grid;
use normkit::plan::Plan;
use normkit::{Element, Isa, ParameterGradients, Result, Statistics, Stores, Tensor, TensorMut, reference};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// A shape with its channel axis, and how many groups its channels can make.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub shape: &'static [usize],
    pub axis: usize,
    pub groups: usize,
}

const fn case(shape: &'static [usize], axis: usize, groups: usize) -> Case {
    Case { shape, axis, groups }
}

/// The table: every path of the kernels, with sizes around each threshold of the plan (blocks of 4096 elements, chunks
/// of 65536 elements or 256 rows, runs of 256 columns, narrow columns, a thread for each 64 KiB).
pub const CASES: &[Case] = &[
    // Rows: spatial sizes around a register, a block, a chunk.
    case(&[2, 3, 1], 1, 3),
    case(&[2, 3, 2], 1, 1),
    case(&[4, 4, 31], 1, 2),
    case(&[2, 2, 15, 17], 1, 2),
    case(&[2, 3, 256], 1, 3),
    case(&[5, 2, 257], 1, 1),
    case(&[2, 2, 4095], 1, 1),
    case(&[2, 1, 64, 64], 1, 1),
    case(&[1, 2, 4097], 1, 2),
    case(&[1, 1, 70_001], 1, 1),
    case(&[3, 3, 40, 41, 50], 1, 3),
    case(&[9, 16, 32, 32], 1, 4),
    case(&[3, 2, 4100], 1, 1),
    case(&[130, 2, 600], 1, 1),
    // Short rows, taken many channels at a time.
    case(&[7, 16, 7, 7], 1, 4),
    case(&[5, 17, 14, 14], 1, 1),
    case(&[6, 3, 7, 7], 1, 3),
    case(&[8, 2, 2], 1, 2),
    case(&[300, 16, 7, 7], 1, 2),
    case(&[9, 320, 7, 7], 1, 32),
    // Groups of short rows with parameters inside: lines that are not taken by whole samples, and many channels in a group.
    case(&[64, 24, 4, 4], 1, 8),
    case(&[7, 128, 7, 7], 1, 2),
    // Few samples: channels one by one.
    case(&[3, 16, 7, 7], 1, 4),
    // (N, C).
    case(&[7, 1], 1, 1),
    case(&[33, 17], 1, 17),
    case(&[4099, 3], 1, 3),
    case(&[2100, 64], 1, 8),
    // Channels last.
    case(&[4, 7, 7, 17], 3, 1),
    case(&[2, 5, 6, 64], 3, 16),
    case(&[2, 9000, 16], 2, 2),
    case(&[3, 40_000, 3], 2, 3),
    // Channels first of all, or in the middle.
    case(&[16, 300], 0, 1),
    case(&[2, 3, 16, 50], 2, 4),
];

impl Case {
    pub fn size(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn channels(&self) -> usize {
        self.shape[self.axis]
    }
}

/// An element type under test.
pub trait Float: Element<Compute: Element> + PartialEq + std::fmt::Debug {
    /// The unit in the last place of 1.
    const ULP: f64;
    /// The smallest normal number, and what the coarsest rounding of a subnormal loses.
    const SMALLEST: f64;
    /// A number whose square overflows what it is computed in, where it has one.
    const HUGE: f64;
    /// The type that it is computed in.
    type Own: Float;
    fn bits(self) -> u64;
}

macro_rules! float {
    ($($E:ty, $Own:ty, $wide:expr, $huge:literal;)*) => {$(
        impl Float for $E {
            const ULP: f64 = $wide(<$E>::EPSILON);
            const SMALLEST: f64 = $wide(<$E>::MIN_POSITIVE);
            const HUGE: f64 = $huge;
            type Own = $Own;
            fn bits(self) -> u64 {
                u64::from(self.to_bits())
            }
        }
    )*};
}

const fn wide(x: f32) -> f64 {
    x as f64
}

const fn same(x: f64) -> f64 {
    x
}

float! {
    f32, f32, wide, 1e30;
    f64, f64, same, 1e30;
    f16, f32, f16::to_f64_const, 1e4;
    bf16, f32, bf16::to_f64_const, 1e30;
}

/// Numbers in [0, 1) from a seed and a position (splitmix64).
pub fn uniform(seed: u64, i: usize) -> f64 {
    let mut z = seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Normal numbers (Box & Muller).
pub fn normal(seed: u64, i: usize) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(seed, 2 * i)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(seed, 2 * i + 1)).cos()
}

/// `n` parameters, away from 0.
pub fn parameters(seed: u64, n: usize) -> Vec<f64> {
    (0..n).map(|i| (i, 0.5 + uniform(seed, i))).map(|(i, x)| if i % 3 == 1 { -x } else { x }).collect()
}

/// Values of an activation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Values {
    Normal,
    /// A mean of so many standard deviations.
    Mean(f64),
    /// Close to 1.
    TinyVariance,
    /// Mostly 0, as after a ReLU, with outliers.
    Sparse,
    Subnormal,
    Zeros,
    Constant(f64),
    /// 1, 2, 3, 4 times 1e30, whose squares overflow float32; float16 has no such numbers.
    Huge,
}

impl Values {
    pub fn at<E: Float>(self, seed: u64, i: usize) -> f64 {
        match self {
            Values::Normal => 0.3 + 2.0 * normal(seed, i),
            Values::Mean(kappa) => kappa + normal(seed, i),
            Values::TinyVariance => 1.0 + 1e-6 * normal(seed, i),
            Values::Sparse if uniform(!seed, i) < 0.01 => 50.0,
            Values::Sparse => normal(seed, i).max(0.0),
            Values::Subnormal => E::SMALLEST * 0.1 * normal(seed, i),
            Values::Zeros => 0.0,
            Values::Constant(value) => value,
            Values::Huge => (1 + i % 4) as f64 * E::HUGE,
        }
    }
}

/// All kinds of values; half of the time plain ones.
pub fn values() -> impl Strategy<Value = Values> {
    prop_oneof![
        8 => Just(Values::Normal),
        2 => (0.0..6.0f64).prop_map(|log| Values::Mean(10f64.powf(log))),
        1 => Just(Values::Mean(1e6)),
        1 => Just(Values::Mean(-1e6)),
        1 => Just(Values::TinyVariance),
        1 => Just(Values::Sparse),
        1 => Just(Values::Subnormal),
        1 => Just(Values::Zeros),
        1 => (-1e3..1e3).prop_map(Values::Constant),
        1 => Just(Values::Huge),
    ]
}

/// A norm with statistics of its own.
#[derive(Clone, Copy, Debug)]
pub enum Norm {
    Batch,
    Group(usize),
}

/// The position of element `i` on `axis`.
pub fn position(i: usize, shape: &[usize], axis: usize) -> usize {
    i / shape[axis + 1..].iter().product::<usize>() % shape[axis]
}

/// The axis of samples: the first that is not the channels'.
pub fn samples(axis: usize) -> usize {
    usize::from(axis == 0)
}

impl Norm {
    /// Which statistic element `i` belongs to.
    pub fn statistic(self, i: usize, shape: &[usize], axis: usize) -> usize {
        let channel = position(i, shape, axis);
        match self {
            Norm::Batch => channel,
            Norm::Group(groups) => position(i, shape, samples(axis)) * groups + channel / (shape[axis] / groups),
        }
    }

    pub fn forward<E: Element>(
        self,
        x: &Tensor<E>,
        axis: usize,
        weight: Option<&[f64]>,
        bias: Option<&[f64]>,
        eps: f64,
        y: &mut TensorMut<E>,
    ) -> Result<Statistics> {
        match self {
            Norm::Batch => normkit::batch_norm(x, axis, weight, bias, eps, y),
            Norm::Group(groups) => normkit::group_norm(x, axis, groups, weight, bias, eps, y),
        }
    }

    pub fn backward<E: Element, G: Element>(
        self,
        dy: &Tensor<G>,
        x: &Tensor<E>,
        axis: usize,
        mean: &[f64],
        rstd: &[f64],
        weight: Option<&[f64]>,
        dx: &mut TensorMut<E>,
    ) -> Result<ParameterGradients> {
        match self {
            Norm::Batch => normkit::batch_norm_backward(dy, x, axis, mean, rstd, weight, false, dx),
            Norm::Group(groups) => normkit::group_norm_backward(dy, x, axis, groups, mean, rstd, weight, dx),
        }
    }

    pub fn oracle(
        self,
        x: &[f64],
        shape: &[usize],
        axis: usize,
        weight: Option<&[f64]>,
        bias: Option<&[f64]>,
        eps: f64,
    ) -> (Vec<f64>, reference::Statistics) {
        match self {
            Norm::Batch => reference::batch_norm(x, shape, axis, weight, bias, eps),
            Norm::Group(groups) => reference::group_norm(x, shape, axis, groups, weight, bias, eps),
        }
    }

    pub fn oracle_backward(
        self,
        dy: &[f64],
        x: &[f64],
        shape: &[usize],
        axis: usize,
        of: &reference::Statistics,
        weight: Option<&[f64]>,
    ) -> reference::Gradients {
        match self {
            Norm::Batch => reference::batch_norm_backward(dy, x, shape, axis, &of.mean, &of.rstd, weight, false),
            Norm::Group(n) => reference::group_norm_backward(dy, x, shape, axis, n, &of.mean, &of.rstd, weight),
        }
    }
}

/// How an array lies in memory.
#[derive(Clone)]
pub struct Layout {
    /// Axes from the outermost to the innermost.
    pub order: Vec<usize>,
    /// Which axes run backwards.
    pub flipped: Vec<bool>,
    /// 1, or more where elements along the axis are apart.
    pub step: Vec<usize>,
    /// Axes along which all elements are one (an input that was broadcast).
    pub broadcast: Vec<bool>,
    /// Elements in front, so that nothing is aligned.
    pub lead: usize,
}

impl std::fmt::Debug for Layout {
    /// On one line, however the rest is printed.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Layout { order, flipped, step, broadcast, lead } = self;
        write!(f, "order {order:?} flipped {flipped:?} step {step:?} broadcast {broadcast:?} lead {lead}")
    }
}

impl Layout {
    pub fn dense(rank: usize) -> Layout {
        let (no, one) = (vec![false; rank], vec![1; rank]);
        Layout { order: (0..rank).collect(), flipped: no.clone(), step: one, broadcast: no, lead: 0 }
    }

    pub fn is_broadcast(&self) -> bool {
        self.broadcast.contains(&true)
    }
}

/// Any layout of an array that can be written; half of the time a dense one.
pub fn layout(rank: usize) -> impl Strategy<Value = Layout> {
    let dense = Just(Layout::dense(rank));
    let unaligned = (1usize..16).prop_map(move |lead| Layout { lead, ..Layout::dense(rank) });
    let last = Just(Layout {
        order: [0].into_iter().chain(2..rank).chain([1]).filter(|&axis| axis < rank).collect(),
        ..Layout::dense(rank)
    });
    let wild = (
        Just((0..rank).collect::<Vec<_>>()).prop_shuffle(),
        prop::collection::vec(prop::bool::weighted(0.3), rank),
        prop::collection::vec(prop_oneof![3 => Just(1usize), 1 => 2usize..4], rank),
        0usize..16,
    );
    let wild = wild.prop_map(move |(order, flipped, step, lead)| Layout {
        order,
        flipped,
        step,
        lead,
        broadcast: vec![false; rank],
    });
    prop_oneof![2 => dense, 1 => unaligned, 1 => last, 3 => wild]
}

/// Any layout of an array that is only read.
pub fn input_layout(rank: usize) -> impl Strategy<Value = Layout> {
    let broadcast = prop_oneof![
        5 => Just(vec![false; rank]),
        1 => prop::collection::vec(prop::bool::weighted(0.3), rank),
    ];
    (layout(rank), broadcast).prop_map(|(layout, broadcast)| Layout { broadcast, ..layout })
}

/// Any shape with a channel axis: 0 to 3 spatial dimensions, the channel axis anywhere.
pub fn shape() -> impl Strategy<Value = (Vec<usize>, usize)> {
    let channels = prop::sample::select(vec![1usize, 2, 3, 16, 17, 64]);
    let samples = prop_oneof![1usize..6, prop::sample::select(vec![8usize, 33, 70, 300])];
    let sizes: &[&[usize]] = &[
        &[],
        &[1],
        &[2],
        &[7, 7],
        &[14, 14],
        &[255],
        &[256],
        &[257],
        &[4095],
        &[4096],
        &[17, 241],
        &[5, 6, 7],
        &[1, 31],
        &[3, 1, 2],
    ];
    let spatial = prop::sample::select(sizes.to_vec());
    (samples, channels, spatial, any::<prop::sample::Index>())
        .prop_map(|(mut n, mut c, spatial, place)| {
            let size: usize = spatial.iter().product();
            while n * c * size > 60_000 {
                if n > 4 { n = n.div_ceil(2) } else { c = c.div_ceil(4) }
            }
            let mut shape = [&[n], spatial].concat();
            // Mostly where networks have it.
            let axis = match place.index(6) {
                0..3 => 1,
                3 | 4 => shape.len(),
                _ => place.index(shape.len() + 1),
            };
            shape.insert(axis, c);
            (shape, axis)
        })
        .boxed()
}

/// What an output's memory holds where nothing may be written, and what it holds elsewhere before it is: a number of every
/// type.
const UNTOUCHED: f64 = -768.0;

/// An array with memory of its own.
#[derive(Clone, Debug)]
pub struct Array<E> {
    pub data: Vec<E>,
    pub shape: Vec<usize>,
    pub strides: Vec<isize>,
    pub start: usize,
}

impl<E: Float> Array<E> {
    /// `value(i)` for element `i` in C order. What lies between the elements is NaN.
    pub fn new(shape: &[usize], layout: &Layout, value: impl Fn(usize) -> f64) -> Self {
        let mut array = Self::filled(shape, layout, f64::NAN);
        for (i, at) in array.offsets().into_iter().enumerate() {
            array.data[at] = E::from_f64(value(i));
        }
        array
    }

    /// To be written to.
    pub fn output(shape: &[usize], layout: &Layout) -> Self {
        assert!(!layout.is_broadcast());
        Self::filled(shape, layout, UNTOUCHED)
    }

    fn filled(shape: &[usize], layout: &Layout, value: f64) -> Self {
        let mut strides = vec![0; shape.len()];
        let (mut next, mut start, mut last) = (1, layout.lead, layout.lead);
        for &axis in layout.order.iter().rev() {
            if layout.broadcast[axis] {
                continue;
            }
            let stride = next * layout.step[axis];
            let reach = stride * shape[axis].saturating_sub(1);
            last += reach;
            strides[axis] = stride as isize;
            if layout.flipped[axis] {
                start += reach;
                strides[axis] = -strides[axis];
            }
            next = stride * shape[axis].max(1);
        }
        Array { data: vec![E::from_f64(value); last + 1], shape: shape.to_vec(), strides, start }
    }

    /// Where its elements are, in C order.
    pub fn offsets(&self) -> Vec<usize> {
        let size = self.shape.iter().product::<usize>();
        let offset = |mut i: usize| {
            let mut at = self.start as isize;
            for (&n, &stride) in self.shape.iter().zip(&self.strides).rev() {
                at += (i % n) as isize * stride;
                i /= n;
            }
            at as usize
        };
        (0..size).map(offset).collect()
    }

    fn assert_in_memory(&self) {
        if self.shape.contains(&0) {
            return;
        }
        let reach = |sign: isize| {
            let far = self.shape.iter().zip(&self.strides).map(|(&n, &stride)| (n as isize - 1) * stride);
            self.start as isize + far.filter(|far| far * sign > 0).sum::<isize>()
        };
        assert!(reach(-1) >= 0 && reach(1) < self.data.len() as isize);
    }

    /// Its elements, in C order.
    pub fn elements(&self) -> Vec<E> {
        self.offsets().into_iter().map(|at| self.data[at]).collect()
    }

    /// Its elements as the oracle takes them.
    pub fn logical(&self) -> Vec<f64> {
        self.elements().into_iter().map(E::to_f64).collect()
    }

    pub fn bits(&self) -> Vec<u64> {
        self.elements().into_iter().map(E::bits).collect()
    }

    pub fn tensor(&self) -> Tensor<'_, E> {
        self.assert_in_memory();
        // SAFETY: all of its elements lie in `data`, just asserted.
        unsafe { Tensor::from_raw(self.data.as_ptr().add(self.start), &self.shape, &self.strides) }
    }

    pub fn tensor_mut(&mut self) -> TensorMut<'_, E> {
        self.assert_in_memory();
        // SAFETY: all of its elements lie in `data`, just asserted; `filled` gives each a place of its own.
        unsafe { TensorMut::from_raw(self.data.as_mut_ptr().add(self.start), &self.shape, &self.strides) }
    }

    /// The same memory twice, as an input and as the output.
    pub fn in_place(&mut self) -> (Tensor<'_, E>, TensorMut<'_, E>) {
        self.assert_in_memory();
        let start = self.data.as_mut_ptr().wrapping_add(self.start);
        // SAFETY: all of its elements lie in `data`, just asserted; the functions that this is for allow it.
        unsafe {
            (
                Tensor::from_raw(start, &self.shape, &self.strides),
                TensorMut::from_raw(start, &self.shape, &self.strides),
            )
        }
    }

    /// Panics if anything but its elements has been written.
    pub fn assert_gaps_untouched(&self) {
        let mut element = vec![false; self.data.len()];
        self.offsets().into_iter().for_each(|at| element[at] = true);
        for (at, &x) in self.data.iter().enumerate() {
            assert!(element[at] || x.to_f64() == UNTOUCHED, "memory beside the output was written: {x:?} at {at}");
        }
    }

    /// Whether nothing has been written at all.
    pub fn is_untouched(&self) -> bool {
        self.data.iter().all(|x| x.to_f64() == UNTOUCHED)
    }
}

/// Threads and instruction set of this process, for as long as the guard lives. An even number of threads stores past
/// the caches whatever the size, an odd one never does at the sizes of tests: so that both ways are compared wherever
/// numbers of threads are.
pub fn configure(threads: usize, isa: Isa) -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    normkit::set_num_threads(threads);
    normkit::force_isa(isa);
    normkit::force_stores(if threads.is_multiple_of(2) { Stores::Always } else { Stores::Late });
    guard
}

/// The widest instruction set of this machine.
pub fn widest() -> Isa {
    *Isa::available().last().expect("never empty")
}

/// So many cases, the same on every run: a failure is then everybody's, and a longer search is one variable away
/// (`PROPTEST_CASES`, `PROPTEST_RNG_SEED`).
pub fn config(cases: u32) -> ProptestConfig {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config
}

/// Batch norm's grid of a dense (N, C, S) array, or of (N, S, C), where columns are not narrow nor rows alone.
pub fn grid([n, c, s]: [usize; 3], last: bool) -> Grid {
    let rows = Grid { kept: c, rows: n, len: s, columns: false, lines: false, repeat: 1, width: 1, fold: s };
    match (last, s) {
        (true, _) => Grid { kept: 1, rows: n * s, len: c, columns: true, width: c, fold: 1, ..rows },
        (_, 0..4096) if n >= 2 => Grid { kept: 1, rows: n, len: c * s, columns: true, width: c, ..rows },
        _ => rows,
    }
}

/// Whether a plan takes statistics in whole.
pub fn is_fused(plan: &Plan) -> bool {
    matches!(plan.schedule, normkit::plan::Schedule::Fused { .. })
}
