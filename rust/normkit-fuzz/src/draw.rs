//! Pieces of a random call, drawn from bytes.

use arbitrary::{Result, Unstructured};

use crate::common::{Layout, Values};

/// Sizes around each threshold of the kernels: registers, short and long runs, blocks.
const SIZES: &[usize] = &[
    1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 24, 31, 32, 33, 49, 64, 100, 127, 128, 129, 196, 255, 256, 257, 300, 600, 1000,
    1023, 1024, 1025, 2049, 4095, 4096, 4097, 5000,
];

/// One in so many is true.
pub fn rarely(u: &mut Unstructured, of: u32) -> Result<bool> {
    u.ratio(1, of)
}

/// How many elements a call may have: mostly few, as its paths depend on sizes of single axes; now and then enough for
/// several threads (64 KiB for each) and several chunks.
pub fn budget(u: &mut Unstructured) -> Result<usize> {
    Ok(match u.int_in_range(0..=511u16)? {
        0 => 140_000,
        1..=12 => 20_000,
        _ => 1_200,
    })
}

/// A shape with so many axes and at most so many elements, rarely none.
pub fn shape(u: &mut Unstructured, rank: usize, budget: usize) -> Result<Vec<usize>> {
    let mut shape = vec![1; rank];
    let mut left = budget;
    let first = if rank == 0 { 0 } else { u.choose_index(rank)? };
    for i in (0..rank).map(|i| (first + i) % rank) {
        let most = SIZES.partition_point(|&size| size <= left);
        shape[i] = match u.int_in_range(0..=15u8)? {
            0..=7 => u.int_in_range(1..=left.min(8))?,
            8..=13 => SIZES[u.choose_index(most)?],
            14 => u.int_in_range(1..=left.min(5000))?,
            _ => left - u.int_in_range(0..=left / 4)?,
        };
        left /= shape[i];
    }
    if rank > 0 && rarely(u, 64)? {
        shape[u.choose_index(rank)?] = 0;
    }
    Ok(shape)
}

/// A divisor.
pub fn divisor(u: &mut Unstructured, of: usize) -> Result<usize> {
    let all: Vec<usize> = (1..=of.max(1)).filter(|n| of.is_multiple_of(*n)).collect();
    u.choose(&all).copied()
}

/// Any layout of an array that can be written: a third of the time a dense one.
pub fn layout(u: &mut Unstructured, rank: usize) -> Result<Layout> {
    let mut layout = Layout::dense(rank);
    match u.int_in_range(0..=5u8)? {
        0 | 1 => {}
        2 => layout.lead = u.int_in_range(1..=15)?,
        // Channels last.
        3 => {
            layout.order = [0].into_iter().chain(2..rank).chain([1]).filter(|&axis| axis < rank).collect();
        }
        _ => {
            for i in (1..rank).rev() {
                layout.order.swap(i, u.choose_index(i + 1)?);
            }
            for axis in 0..rank {
                layout.flipped[axis] = rarely(u, 3)?;
                layout.step[axis] = if rarely(u, 4)? { u.int_in_range(2..=3)? } else { 1 };
            }
            layout.lead = u.int_in_range(0..=15)?;
        }
    }
    Ok(layout)
}

/// What kind of layout it is.
pub fn kind(layout: &Layout) -> &'static str {
    let Layout { order, flipped, step, lead, .. } = layout;
    let last = order.iter().copied().eq([0].into_iter().chain(2..order.len()).chain([1]));
    match () {
        () if layout.is_broadcast() => "broadcast",
        () if flipped.contains(&true) => "flipped",
        () if step.iter().any(|&step| step > 1) => "stepped",
        () if order.is_sorted() => {
            if *lead > 0 {
                "unaligned"
            } else {
                "dense"
            }
        }
        () if last => "channels last",
        () => "transposed",
    }
}

/// Any layout of an array that is only read: some axes may be broadcast.
pub fn input_layout(u: &mut Unstructured, rank: usize) -> Result<Layout> {
    let mut layout = layout(u, rank)?;
    if rarely(u, 6)? {
        for broadcast in &mut layout.broadcast {
            *broadcast = rarely(u, 3)?;
        }
    }
    Ok(layout)
}

/// Of three arrays that are read and three that are written.
pub fn layouts(u: &mut Unstructured, rank: usize) -> Result<[Layout; 6]> {
    Ok([
        input_layout(u, rank)?,
        input_layout(u, rank)?,
        input_layout(u, rank)?,
        layout(u, rank)?,
        layout(u, rank)?,
        layout(u, rank)?,
    ])
}

/// All kinds of values; half of the time plain ones.
pub fn values(u: &mut Unstructured) -> Result<Values> {
    Ok(match u.int_in_range(0..=17u8)? {
        0..=7 => Values::Normal,
        8 | 9 => Values::Mean(10f64.powf(u.int_in_range(0..=600u16)? as f64 / 100.0)),
        10 => Values::Mean(1e6),
        11 => Values::Mean(-1e6),
        12 => Values::TinyVariance,
        13 => Values::Sparse,
        14 => Values::Subnormal,
        15 => Values::Zeros,
        16 => Values::Constant(u.int_in_range(-1000..=1000i32)? as f64 / 7.0),
        _ => Values::Huge,
    })
}

/// Numbers that stand out, at the elements with these numbers (modulo the size).
pub fn outliers(u: &mut Unstructured) -> Result<Vec<(usize, f64)>> {
    let mut outliers = Vec::new();
    if rarely(u, 10)? {
        let kinds = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e15, -1e12, 1e-30, -0.0];
        for _ in 0..u.int_in_range(1..=2)? {
            outliers.push((u.int_in_range(0..=1usize << 20)?, *u.choose(&kinds)?));
        }
    }
    Ok(outliers)
}

/// The outlier at element `i` of so many.
pub fn outlier(of: &[(usize, f64)], i: usize, size: usize) -> Option<f64> {
    of.iter().find(|(at, _)| at % size.max(1) == i).map(|&(_, value)| value)
}
