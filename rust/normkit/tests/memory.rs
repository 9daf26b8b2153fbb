//! Memory that is not there: whichever allocation fails, a call is refused with nothing written, or carried out.
//!
//! A binary of its own, as it replaces the allocator, and one test, as that counts the allocations of all threads. Those
//! below [`LARGE`] are left alone: shapes, texts, and what the thread pool keeps of itself (2 KB for a worker, 1.5 KB for
//! its queue now and then). What scales with the input, and what a thread works with, is larger.

#[path = "it/common/mod.rs"]
mod common;

use std::alloc::{GlobalAlloc, Layout as Bytes, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Array, CASES, Case, Float, Layout, configure, normal, parameters, widest};
use normkit::{Activation, BatchNormOf, ConvOf, Extras, Grouping, Layer, Result, Tensor, Used};

const LARGE: usize = 4 << 10;
/// Large allocations that still succeed; all of them where it is huge.
static LEFT: AtomicUsize = AtomicUsize::new(usize::MAX);

struct Failing;

impl Failing {
    fn refuses(size: usize) -> bool {
        let next = |left: usize| (left != usize::MAX && left > 0).then(|| left - 1);
        size >= LARGE && matches!(LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next), Err(0))
    }
}

// SAFETY: the system's allocator, or none: a null pointer is what it may return.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, bytes: Bytes) -> *mut u8 {
        // SAFETY: as the caller vouches.
        if Self::refuses(bytes.size()) { std::ptr::null_mut() } else { unsafe { System.alloc(bytes) } }
    }
    unsafe fn dealloc(&self, at: *mut u8, bytes: Bytes) {
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(at, bytes) }
    }
    unsafe fn realloc(&self, at: *mut u8, bytes: Bytes, size: usize) -> *mut u8 {
        // SAFETY: as the caller vouches.
        if Self::refuses(size) { std::ptr::null_mut() } else { unsafe { System.realloc(at, bytes, size) } }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Carries `call` out with memory for no large allocation, for one, for two, …, until it succeeds. Returns how often it
/// was refused.
fn sweep<E: Float>(name: &str, mut call: impl FnMut(&mut Array<E>) -> Result<()>, out: &Array<E>) -> usize {
    for left in 0.. {
        let mut array = out.clone();
        LEFT.store(left, Ordering::SeqCst);
        let done = call(&mut array);
        LEFT.store(usize::MAX, Ordering::SeqCst);
        match done {
            Ok(()) => return left,
            Err(error) => {
                assert!(error.is_memory(), "{name}: {error}");
                assert!(array.is_untouched(), "{name}: written, then refused, at allocation {left}");
            }
        }
    }
    unreachable!()
}

/// Every function of the core on one case; how often each was refused.
fn all<E: Float>(case: &Case, layout: &Layout) -> usize
where
    E::Compute: normkit::Element,
{
    let Case { shape, axis, groups } = *case;
    let x = Array::<E>::new(shape, layout, |i| normal(1, i));
    let dy = Array::<E>::new(shape, layout, |i| normal(2, i));
    let out = Array::<E>::output(shape, layout);
    let flags: Vec<bool> = (0..x.data.len()).map(|i| i % 7 != 5).collect();
    let (weight, bias) = (parameters(3, case.channels()), parameters(4, case.channels()));
    let (weight, bias) = (Some(&weight[..]), Some(&bias[..]));
    let mut strides = x.strides.clone();
    assert!(x.start == 0 && strides.iter().all(|&stride| stride >= 0));
    strides[axis] = 0;
    // SAFETY: x's strides, or 0, from the first of as many flags as x has elements.
    let mask = unsafe { Tensor::from_raw(flags.as_ptr(), shape, &strides) };
    let (x, dy) = (x.tensor(), dy.tensor());
    let plain = Extras::default();
    let fused = Extras { activation: Activation::Silu, residual: Some((&dy).into()), mask: None };
    let masked = Extras { mask: Some(mask), ..Extras::default() };
    let mut refused = 0;
    let mut check = |name: &str, call: &mut dyn FnMut(&mut Array<E>) -> Result<()>| {
        refused += sweep(&format!("{name} {case:?} {layout:?}"), call, &out);
    };
    let grouping = Grouping::new(groups);
    for (how, extras) in [("", &plain), (" fused", &fused), (" masked", &masked)] {
        let of = normkit::batch_norm_fused(&x, axis, weight, bias, 1e-5, extras, &mut out.clone().tensor_mut());
        let of = of.expect("there is memory");
        check(&format!("batch_norm{how}"), &mut |y| {
            normkit::batch_norm_fused(&x, axis, weight, bias, 1e-5, extras, &mut y.tensor_mut()).map(drop)
        });
        let (mean, rstd) = (&of.mean[..], &of.rstd[..]);
        for frozen in [false, true] {
            let used = Used { mean, rstd, frozen };
            check(&format!("batch_norm_backward{how}"), &mut |dx| {
                let (dy, dx) = (&(&dy).into(), &mut dx.tensor_mut());
                normkit::batch_norm_fused_backward::<E, E>(dy, &x, axis, used, weight, bias, extras, dx, None).map(drop)
            });
        }
        if extras.mask.is_some() {
            continue;
        }
        check(&format!("batch_norm_inference{how}"), &mut |y| {
            normkit::batch_norm_inference_fused(&x, axis, mean, rstd, weight, bias, extras, &mut y.tensor_mut())
        });
        let of =
            normkit::group_norm_fused(&x, axis, grouping, weight, bias, 1e-5, extras, &mut out.clone().tensor_mut());
        let of = of.expect("there is memory");
        check(&format!("group_norm{how}"), &mut |y| {
            normkit::group_norm_fused(&x, axis, grouping, weight, bias, 1e-5, extras, &mut y.tensor_mut()).map(drop)
        });
        check(&format!("group_norm_backward{how}"), &mut |dx| {
            let (dy, dx, mean, rstd) = (&(&dy).into(), &mut dx.tensor_mut(), &of.mean, &of.rstd);
            let done = normkit::group_norm_fused_backward::<E, E>(
                dy, &x, axis, grouping, mean, rstd, weight, bias, extras, dx, None,
            );
            done.map(drop)
        });
    }
    for axes in [vec![shape.len() - 1], vec![axis], (1..shape.len()).collect()] {
        let count: usize = axes.iter().map(|&axis| shape[axis]).product();
        let layer = Layer { axes, centred: true };
        let (weight, bias) = (parameters(5, count), parameters(6, count));
        for (weight, bias) in [(Some(&weight[..]), Some(&bias[..])), (None, None)] {
            let of = normkit::layer_norm(&x, &layer, weight, bias, 1e-5, &mut out.clone().tensor_mut());
            let of = of.expect("there is memory");
            check("layer_norm", &mut |y| {
                normkit::layer_norm(&x, &layer, weight, bias, 1e-5, &mut y.tensor_mut()).map(drop)
            });
            check("layer_norm_backward", &mut |dx| {
                let (dy, wanted) = ((&dy).into(), weight.is_some());
                let dx = &mut dx.tensor_mut();
                normkit::layer_norm_backward(&dy, &x, &layer, &of.mean, &of.rstd, weight, wanted, dx).map(drop)
            });
        }
        check("moments", &mut |_| normkit::moments(&x, &layer.axes).map(drop));
    }
    refused
}

/// Every schedule and kernel: dense, strided (through blocks in cache), channels last.
#[test]
fn a_call_without_memory_is_refused_whole() {
    // Groups of many channels ask for most.
    let wide = [
        Case { shape: &[2, 2048], axis: 1, groups: 2 },
        Case { shape: &[2, 1024, 3], axis: 1, groups: 2 },
        Case { shape: &[2, 600, 130], axis: 1, groups: 1 },
    ];
    let mut refused = 0;
    // Two store past the caches, see `configure`.
    for threads in [1, 2, 3] {
        let _lock = configure(threads, widest());
        // Workers are there before memory is scarce.
        let large = Array::<f32>::new(&[64, 3000], &Layout::dense(2), |i| normal(1, i));
        let out = &mut Array::output(&[64, 3000], &Layout::dense(2));
        normkit::batch_norm(&large.tensor(), 1, None, None, 1e-5, &mut out.tensor_mut()).expect("there is memory");
        let large = if threads > 1 { 0 } else { 30_000 };
        for case in CASES.iter().chain(&wide).filter(|case| case.size() > large && case.size() < 200_000) {
            let rank = case.shape.len();
            let mut step = vec![1; rank];
            step[rank - 1] = 2;
            let order = (0..rank).filter(|&axis| axis != case.axis).chain([case.axis]).collect();
            for layout in
                [Layout::dense(rank), Layout { step, ..Layout::dense(rank) }, Layout { order, ..Layout::dense(rank) }]
            {
                refused += all::<f32>(case, &layout) + all::<f64>(case, &layout);
            }
        }
    }
    assert!(refused > 1000, "{refused}");
    folding();
}

/// Folding's arrays scale with the channels.
fn folding() {
    let _lock = configure(1, widest());
    let (weight, ones) = (vec![1.0f32; 3000], vec![1.0; 1000]);
    let norm = BatchNormOf { mean: &ones, var: &ones, weight: None, bias: None, eps: 1e-5 };
    let conv = ConvOf { groups: 1, transposed: false };
    let fold =
        |out: &mut Array<f32>| normkit::fold_conv_bn(&weight, &[1000, 3], None, conv, norm, &mut out.data).map(drop);
    assert!(sweep("fold_conv_bn", fold, &Array::output(&[3000], &Layout::dense(1))) >= 1);
}
