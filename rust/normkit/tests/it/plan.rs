//! How the work is cut: every element is taken exactly once, whatever the sizes and the number of threads; plans are
//! pure, and sane on the shapes of real networks.

use crate::common::{Array, Float, Layout, config, configure, grid, is_fused, layout, shape, uniform, widest};
use normkit::plan::{Cut, Plan, Schedule, Work, split_statistics};
use normkit::{Caches, Stores, Tensor, TensorMut};
use proptest::prelude::*;

/// Whole numbers, so small that every sum of them is exact in every order.
fn whole(seed: u64, i: usize) -> f64 {
    (uniform(seed, i) * 8.0).floor()
}

/// Sums of whole numbers are exact, so an element that a reduction leaves out or takes twice shows (unless it is 0);
/// and in place, one that is written twice is 2.
fn check_every_element_once<E: Float>(
    shape: &[usize],
    axis: usize,
    layout: &Layout,
    threads: usize,
    seed: u64,
) -> Result<(), TestCaseError> {
    let c = shape[axis];
    let x = Array::<E>::new(shape, layout, |i| whole(seed, i));
    let dy = Array::<E>::new(shape, layout, |i| 1.0 + whole(!seed, i));
    let (mut sums, mut dots) = (vec![0.0; c], vec![0.0; c]);
    for (i, (x, dy)) in x.logical().iter().zip(dy.logical()).enumerate() {
        let channel = crate::common::position(i, shape, axis);
        sums[channel] += dy;
        dots[channel] += x * dy;
    }
    let _lock = configure(threads, widest());
    let (zeros, ones) = (vec![0.0; c], vec![1.0; c]);
    let mut dx = Array::<E>::output(shape, layout);
    let out = &mut dx.tensor_mut();
    let found = normkit::batch_norm_backward(&dy.tensor(), &x.tensor(), axis, &zeros, &ones, None, true, out)?;
    prop_assert_eq!(&found.bias, &sums);
    prop_assert_eq!(&found.weight, &dots);
    prop_assert_eq!(dx.logical(), dy.logical());
    let samples = shape[crate::common::samples(axis)];
    let (mean, rstd) = (vec![0.0; samples], vec![1.0; samples]);
    let out = &mut dx.tensor_mut();
    let found = normkit::group_norm_backward(&dy.tensor(), &x.tensor(), axis, 1, &mean, &rstd, None, out)?;
    prop_assert_eq!(&found.bias, &sums);
    prop_assert_eq!(&found.weight, &dots);
    let mut y = Array::<E>::new(shape, layout, |_| 0.0);
    let (x, mut out) = y.in_place();
    normkit::batch_norm_inference(&x, axis, &zeros, &ones, None, Some(&ones), &mut out)?;
    prop_assert!(y.elements().iter().all(|x| x.to_f64() == 1.0));
    Ok(())
}

proptest! {
    #![proptest_config(config(100))]

    #[test]
    fn every_element_once(
        ((shape, axis), layout) in shape().prop_flat_map(|s| { let rank = s.0.len(); (Just(s), layout(rank)) }),
        threads in 1usize..8,
        seed: u64,
    ) {
        check_every_element_once::<f32>(&shape, axis, &layout, threads, seed)?;
    }
}

proptest! {
    #![proptest_config(config(12))]

    /// Any sizes that several threads share.
    #[test]
    fn every_element_once_in_parallel(
        c in prop_oneof![1usize..5, 1usize..200],
        s in prop_oneof![1usize..300, 1usize..5000],
        size in 140_000usize..260_000,
        last: bool,
        threads in 2usize..8,
        seed: u64,
    ) {
        let n = size.div_ceil(c * s);
        let layout = Layout { order: if last { vec![0, 2, 1] } else { vec![0, 1, 2] }, ..Layout::dense(3) };
        check_every_element_once::<f32>(&[n, c, s], 1, &layout, threads, seed)?;
    }

    #[test]
    fn one_long_row(s in 131_072usize..400_000, c in 1usize..4, threads in 1usize..8, seed: u64) {
        check_every_element_once::<f32>(&[1, c, s.div_ceil(c)], 1, &Layout::dense(3), threads, seed)?;
    }
}

fn work(dims: [usize; 3], last: bool) -> Work {
    let bytes = dims.iter().product::<usize>() * 4;
    Work::new(grid(dims, last), bytes, bytes)
}

const CACHES: Caches = Caches { l1: 32 << 10, l2: 1 << 20, l3: 32 << 20, stores: Stores::Late };

/// (N, C, S) of KERNELS.md: ResNet-50, DenseNet-121, small and odd.
const SHAPES: &[[usize; 3]] = &[
    [32, 64, 112 * 112],
    [32, 256, 56 * 56],
    [32, 64, 56 * 56],
    [32, 512, 28 * 28],
    [32, 128, 28 * 28],
    [32, 1024, 14 * 14],
    [32, 256, 14 * 14],
    [32, 2048, 7 * 7],
    [32, 512, 7 * 7],
    [64, 64, 112 * 112],
    [64, 96, 57 * 57],
    [64, 128, 29 * 29],
    [64, 1024, 15 * 15],
    [64, 512, 8 * 8],
    [2, 251, 28 * 28],
    [8, 322, 16 * 16],
    [12, 4, 8 * 8],
    [1, 24, 14 * 14],
    [256, 128, 1],
    [32, 512, 1],
];

#[test]
fn plans_are_pure_and_sane() {
    for &dims in SHAPES {
        for last in [false, true] {
            let work = work(dims, last);
            for threads in [1, 2, 3, 8, 64] {
                let plan = Plan::new(&work, threads, &CACHES);
                assert_eq!(plan, Plan::new(&work, threads, &CACHES));
                let most = threads.min((work.read / (64 << 10)).max(1));
                let little = work.read < 512 << 10 && Cut::new(&work.grid).chunks == 1;
                assert!(plan.threads == most || plan.threads < most && little, "{dims:?} {plan:?}");
                assert!(plan.threads == 1 || !little || is_fused(&plan), "{dims:?} {plan:?}");
                assert!(!plan.stream || work.written >= CACHES.l3 / 2, "the next reader wants it: {dims:?} {plan:?}");
                if let Schedule::Fused { statistics } = plan.schedule {
                    assert!((1..=dims[1]).contains(&statistics), "{dims:?} {plan:?}");
                    // No thread without work.
                    assert!(dims[1].div_ceil(statistics) >= plan.threads, "{dims:?} {plan:?}");
                }
            }
        }
    }
}

/// Few statistics of which little is read: threads are worth it where none waits for another between reducing and applying.
#[test]
fn threads_that_do_not_wait_share_little() {
    let work = work([1, 2, 40_000], false); // 312.5 KiB: a share each for four, two statistics
    let plan = Plan::new(&work, 8, &CACHES);
    assert_eq!((plan.threads, plan.schedule), (1, Schedule::Fused { statistics: 1 }));
    let reduced = Plan::new(&Work { written: 0, ..work }, 8, &CACHES);
    assert_eq!((reduced.threads, reduced.schedule), (4, Schedule::Split), "nothing is applied");
    for schedule in [Schedule::Given, Schedule::Lines] {
        let plan = Plan::alone(&work, 8, &CACHES, schedule);
        assert_eq!((plan.threads, plan.schedule), (4, schedule));
    }
}

/// When outputs are stored past the caches: by what leaves them and who writes, never by a shape.
#[test]
fn stores_past_the_caches() {
    const L3: usize = CACHES.l3;
    let streams = |stores, threads, [read, written]: [usize; 2]| {
        let work = Work { read, written, ..work([32, 64, 56 * 56], false) };
        Plan::new(&work, threads, &Caches { stores, ..CACHES }).stream
    };
    for threads in [1, 2, 7, 8, 64] {
        let half = L3 / 4 * 3 / 2;
        assert!(streams(Stores::Early, threads, [half, half]));
        assert!(!streams(Stores::Early, threads, [half, half - 1]));
        assert!(!streams(Stores::Early, threads, [2 * L3, 0]), "nothing is written");
        assert_eq!(streams(Stores::Late, threads, [L3, 4 * L3]), threads >= 8);
        assert!(!streams(Stores::Late, threads, [8 * L3, 4 * L3 - 1]));
    }
}

/// How many channels a task takes: a long stretch of memory, but no more than twice the second-level cache, or half of it
/// where outputs are to be in it too. Where new stretches cost little, as much as stays there.
#[test]
fn stretches() {
    let statistics = |stores, dims| {
        let plan = Plan::new(&work(dims, false), 2, &Caches { stores, ..CACHES });
        match plan.schedule {
            Schedule::Fused { statistics } => statistics,
            other => panic!("{dims:?} is {other:?}"),
        }
    };
    // Streamed: ten rows of 784 make 8192 elements, two of 3136; of 64 samples there is room for nine of 841.
    assert_eq!([28, 56].map(|side| statistics(Stores::Early, [32, 512, side * side])), [10, 2]);
    assert_eq!(statistics(Stores::Early, [64, 128, 29 * 29]), 9);
    // Whole lines of the caches, sixteen of 225…
    assert_eq!(statistics(Stores::Early, [64, 896, 15 * 15]), 32);
    // …but no fewer than a tile,…
    assert_eq!(statistics(Stores::Early, [2048, 256, 12 * 12]), 7);
    assert_eq!(statistics(Stores::Early, [2048, 256, 16 * 16]), 4);
    // …or, not streamed, four of 196.
    assert_eq!(statistics(Stores::Early, [32, 256, 14 * 14]), 20);
    assert_eq!(statistics(Stores::Late, [32, 512, 28 * 28]), 1);
    assert_eq!(statistics(Stores::Late, [32, 256, 14 * 14]), 4);
}

/// Whether statistics are applied behind others that are reduced. Past the caches: unless two operands would have to be read again from
/// the next cache for it. Through them: unless all is found in the last cache.
#[test]
fn behind_reductions() {
    let of = |stores, dims: [usize; 3], operands: usize| {
        let forward = work(dims, false);
        let plan = Plan::new(&Work { read: operands * forward.written, ..forward }, 2, &Caches { stores, ..CACHES });
        (plan.stream, plan.behind)
    };
    for operands in [1, 2] {
        assert_eq!(of(Stores::Early, [32, 512, 56 * 56], operands), (true, operands == 1), "two stay in no cache");
        assert_eq!(of(Stores::Early, [128, 64, 112 * 112], operands), (true, operands == 1), "one stays in no cache");
        assert_eq!(of(Stores::Early, [2, 4096, 64 * 64], operands), (true, true), "two stay in the cache");
        assert_eq!(of(Stores::Late, [32, 512, 56 * 56], operands), (false, true), "through the caches");
        assert_eq!(of(Stores::Late, [8, 256, 14 * 14], operands), (false, true), "through the caches");
        assert_eq!(of(Stores::Early, [16, 256, 14 * 14], operands), (false, false), "all is near");
    }
    assert_eq!(of(Stores::Early, [32, 256, 14 * 14], 1), (false, false), "all is near");
    assert_eq!(of(Stores::Early, [32, 256, 14 * 14], 2), (false, true), "some is not");
    let early = Caches { stores: Stores::Early, ..CACHES };
    // A residual is read beside what is reduced: it counts for the stores, but not for how much is taken at a time.
    for (dims, stream, behind) in
        [([32, 512, 56 * 56], true, true), ([32, 256, 14 * 14], false, true), ([16, 256, 14 * 14], false, false)]
    {
        let Work { grid, read, written, .. } = work(dims, false);
        let plan = Plan::new(&Work { residual: read, ..Work::new(grid, 2 * read, written) }, 2, &early);
        assert_eq!((plan.stream, plan.behind), (stream, behind), "{dims:?}");
    }
}

/// Where statistics are split into chunks, a long stretch leaves something to do for every thread.
#[test]
fn stretches_leave_work_for_every_thread() {
    let of = |dims, chunks, threads| split_statistics(&grid(dims, false), chunks, threads);
    assert_eq!([1, 2, 8].map(|threads| of([32, 256, 14 * 14], 1, threads)), [16, 16, 4]);
    assert_eq!([1, 2, 8].map(|threads| of([32, 256, 14 * 14], 2, threads)), [16, 16, 16]);
    assert_eq!([1, 2].map(|threads| of([32, 16, 28 * 28], 1, threads)), [10, 1]);
}

#[test]
fn processors_are_known_by_their_makers() {
    let of = |maker| Stores::of(&format!("processor\t: 0\nvendor_id\t: {maker}\ncpu family\t: 25\n"));
    assert_eq!(["AuthenticAMD", "HygonGenuine"].map(of), [Stores::Early; 2]);
    assert_eq!(["GenuineIntel", "AMD"].map(of), [Stores::Late; 2]);
    assert_eq!(Stores::of("processor\t: 0\nFeatures\t: asimd\n"), Stores::Late); // aarch64 names no maker so
}

/// Partial results: O(C) in number. How sums are cut depends on the grid alone, which is all that `Cut::new` is given.
#[test]
fn cuts_are_pure_and_small() {
    for &dims in SHAPES {
        for last in [false, true] {
            let grid = grid(dims, last);
            let cut = Cut::new(&grid);
            assert_eq!(cut, Cut::new(&grid));
            assert!((1..=2 * 64).contains(&cut.chunks), "{dims:?}: {cut:?}");
        }
    }
    // No more than rows and segments ask for, at sizes far from any that is tried.
    for grid in [grid([1 << 20, 3, 1000], false), grid([1 << 24, 3, 1], true), grid([1, 1, 1 << 34], false)] {
        assert!((16..=2 * 64).contains(&Cut::new(&grid).chunks), "{grid:?}: {:?}", Cut::new(&grid));
    }
}

/// Three channels must not leave the other threads without work: a statistic is split into chunks.
#[test]
fn few_channels_use_every_thread() {
    for c in [1, 3] {
        for threads in [2, 3, 8] {
            for (dims, last) in [
                ([32, c, 112 * 112], false),
                ([1, c, 1 << 20], false),
                ([4096, c, 300], false),
                ([40_000, c, 49], false),
                ([32, c, 112 * 112], true),
            ] {
                let work = work(dims, last);
                let plan = Plan::new(&work, threads, &CACHES);
                assert!(plan.threads == threads && !is_fused(&plan), "{dims:?} {plan:?}");
                let kept = if last { 1 } else { c };
                let tasks = Cut::new(&work.grid).chunks * if work.grid.columns { 1 } else { kept };
                // Chunks below 64 Ki elements are not worth it.
                let needed = threads.min(dims.iter().product::<usize>() >> 16);
                assert!(tasks >= needed, "{dims:?}: {tasks} tasks for {threads} threads");
            }
        }
    }
}

/// Every thread that is asked for does run: seen from the outside, by the threads of the process.
#[cfg(target_os = "linux")]
#[test]
fn threads_exist() {
    let _lock = configure(3, widest());
    let x = vec![1.0f32; 1 << 20];
    let mut y = vec![0.0f32; 1 << 20];
    let shape = [1, 1, 1 << 20];
    let x = Tensor::dense(&x, &shape).expect("fits");
    normkit::batch_norm(&x, 1, None, None, 1e-5, &mut TensorMut::dense(&mut y, &shape).expect("fits")).expect("valid");
    let names = std::fs::read_dir("/proc/self/task").expect("Linux has it").filter_map(|task| {
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok() // a thread may end meanwhile
    });
    assert!(names.filter(|name| name.starts_with("normkit-")).count() >= 2);
}
