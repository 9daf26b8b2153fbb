//! The same bits for every thread count and every instruction set, on both kernel families and all schedules.

use crate::common::{Array, CASES, Case, Float, Layout, Values, configure, is_fused, normal, parameters};
use half::{bf16, f16};
use normkit::layout::Grid;
use normkit::plan::{Cut, Plan, Work};
use normkit::{Activation, BatchNormOf, Caches, ConvOf, Extras, Isa, Layer, Operand, Statistics, Used};

const THREADS: [usize; 4] = [1, 2, 3, 7];

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn bits_of(of: &Statistics) -> Vec<u64> {
    [bits(&of.mean), bits(&of.var), bits(&of.rstd)].concat()
}

/// The results of every public function on one case, with their names.
fn results<E: Float>(case: &Case, x: &Array<E>, dy: &Array<E>, layout: &Layout) -> Vec<(&'static str, Vec<u64>)> {
    let Case { shape, axis, groups } = *case;
    let (weight, bias) = (parameters(3, case.channels()), parameters(4, case.channels()));
    let (weight, bias) = (Some(&weight[..]), Some(&bias[..]));
    let (xs, dys) = (x.tensor(), dy.tensor());
    let mut all = Vec::new();
    let mut out = |name, f: &mut dyn FnMut(&mut Array<E>) -> Vec<u64>| {
        let mut array = Array::output(shape, layout);
        let numbers = f(&mut array);
        all.push((name, [array.bits(), numbers].concat()));
    };
    let of = normkit::batch_norm(&xs, axis, weight, bias, 1e-5, &mut Array::output(shape, layout).tensor_mut());
    let of = of.expect("valid");
    out("batch_norm", &mut |y| {
        bits_of(&normkit::batch_norm(&xs, axis, weight, bias, 1e-5, &mut y.tensor_mut()).expect("valid"))
    });
    out("batch_norm_inference", &mut |y| {
        normkit::batch_norm_inference(&xs, axis, &of.mean, &of.rstd, weight, bias, &mut y.tensor_mut()).expect("valid");
        Vec::new()
    });
    for (name, frozen) in [("batch_norm_backward", false), ("frozen batch_norm_backward", true)] {
        out(name, &mut |dx| {
            let out = &mut dx.tensor_mut();
            let g = normkit::batch_norm_backward(&dys, &xs, axis, &of.mean, &of.rstd, weight, frozen, out);
            let g = g.expect("valid");
            [bits(&g.weight), bits(&g.bias)].concat()
        });
    }
    let mut of = Statistics::default();
    out("group_norm", &mut |y| {
        of = normkit::group_norm(&xs, axis, groups, weight, bias, 1e-5, &mut y.tensor_mut()).expect("valid");
        bits_of(&of)
    });
    out("group_norm_backward", &mut |dx| {
        let out = &mut dx.tensor_mut();
        let g = normkit::group_norm_backward(&dys, &xs, axis, groups, &of.mean, &of.rstd, weight, out);
        let g = g.expect("valid");
        [bits(&g.weight), bits(&g.bias)].concat()
    });
    // With everything at once: long code, and a second output.
    let residual = Operand::from(&dys);
    let extras = Extras { activation: Activation::Silu, residual: Some(residual.clone()), mask: None };
    let fused = normkit::batch_norm_fused(
        &xs,
        axis,
        weight,
        bias,
        1e-5,
        &extras,
        &mut Array::output(shape, layout).tensor_mut(),
    );
    let fused = fused.expect("valid");
    out("batch_norm_fused", &mut |y| {
        bits_of(&normkit::batch_norm_fused(&xs, axis, weight, bias, 1e-5, &extras, &mut y.tensor_mut()).expect("valid"))
    });
    out("batch_norm_fused_backward", &mut |dx| {
        let mut beside = Array::<E>::output(shape, layout);
        let used = Used { mean: &fused.mean, rstd: &fused.rstd, frozen: false };
        let (out, second) = (&mut dx.tensor_mut(), Some(&mut beside.tensor_mut()));
        let g = normkit::batch_norm_fused_backward(&residual, &xs, axis, used, weight, bias, &extras, out, second);
        let g = g.expect("valid");
        [bits(&g.weight), bits(&g.bias), beside.bits()].concat()
    });
    for axes in [vec![shape.len() - 1], (1..shape.len()).collect()] {
        let layer = Layer { centred: axes.len() == 1, axes };
        let count = layer.axes.iter().map(|&axis| shape[axis]).product();
        let (weight, bias) = (parameters(5, count), parameters(6, count));
        let (weight, bias) = (Some(&weight[..]), Some(&bias[..]));
        let mut of = Statistics::default();
        out("layer_norm", &mut |y| {
            of = normkit::layer_norm(&xs, &layer, weight, bias, 1e-5, &mut y.tensor_mut()).expect("valid");
            bits_of(&of)
        });
        out("layer_norm_backward", &mut |dx| {
            let (dy, out) = (Operand::from(&dys), &mut dx.tensor_mut());
            let g = normkit::layer_norm_backward(&dy, &xs, &layer, &of.mean, &of.rstd, weight, true, out);
            let g = g.expect("valid");
            [bits(&g.weight), bits(&g.bias)].concat()
        });
    }
    for axes in [vec![axis], (0..shape.len()).filter(|&other| other != axis).collect(), (0..shape.len()).collect()] {
        let of = normkit::moments(&xs, &axes).expect("valid");
        all.push(("moments", [bits(&of.mean), bits(&of.m2)].concat()));
    }
    all
}

/// All configurations but the first, which is what they are compared with.
fn configurations() -> impl Iterator<Item = (usize, Isa)> {
    Isa::available().into_iter().flat_map(|isa| THREADS.map(|threads| (threads, isa)))
}

fn check<E: Float>(case: &Case, layout: &Layout, values: Values) {
    let x = Array::<E>::new(case.shape, layout, |i| values.at::<E>(1, i));
    let dy = Array::<E>::new(case.shape, layout, |i| normal(2, i));
    let mut first = None;
    for (threads, isa) in configurations() {
        let _lock = configure(threads, isa);
        let found = results(case, &x, &dy, layout);
        let first = first.get_or_insert_with(|| found.clone());
        for ((name, expected), (_, found)) in first.iter().zip(&found) {
            let different = expected.iter().zip(found).filter(|(a, b)| a != b).count();
            let all = expected.len();
            assert!(
                different == 0,
                "{name}: {different} of {all} numbers differ with {threads} threads on {}: {case:?} {layout:?} {values:?}",
                isa.name(),
            );
        }
    }
}

fn layouts(case: &Case) -> [Layout; 3] {
    let rank = case.shape.len();
    let last: Vec<usize> = (0..rank).filter(|&axis| axis != case.axis).chain([case.axis]).collect();
    let dense = Layout::dense(rank);
    let mut step = vec![1; rank];
    step[rank - 1] = 2;
    [dense.clone(), Layout { order: last, lead: 3, ..dense.clone() }, Layout { step, lead: 5, ..dense }]
}

/// Sizes that one thread takes alone, mostly, in every layout.
#[test]
fn small() {
    for case in CASES.iter().filter(|case| case.size() < 20_000) {
        for layout in layouts(case) {
            check::<f32>(case, &layout, Values::Mean(100.0));
            check::<f64>(case, &layout, Values::Normal);
        }
    }
    let case = CASES.iter().find(|case| case.size() > 4096).expect("one of them");
    for values in [Values::Huge, Values::Subnormal, Values::Constant(0.1)] {
        check::<f32>(case, &layouts(case)[0], values);
    }
}

/// Lines that a few registers hold: those of 17 to 32 float32 on wider instruction sets alone, where narrower ones go through
/// the loops for longer lines.
#[test]
fn lines_in_registers() {
    for len in 1..=36 {
        for (shape, groups) in [(&[37, len][..], 1), (&[19, 3, len], 3), (&[19, 4, len], 2)] {
            let case = Case { shape: shape.to_vec().leak(), axis: 1, groups };
            let layout = Layout::dense(shape.len());
            check::<f32>(&case, &layout, Values::Mean(100.0));
            check::<f64>(&case, &layout, Values::Normal);
            check::<bf16>(&case, &layout, Values::Normal);
            // What is asked again.
            if [8, 20, 32].contains(&len) {
                for values in [Values::Zeros, Values::Constant(0.1), Values::Huge, Values::Subnormal] {
                    check::<f32>(&case, &layout, values);
                }
            }
        }
    }
}

#[test]
fn halves() {
    for case in CASES.iter().filter(|case| case.size() < 20_000).chain(&LARGE[3..5]) {
        check::<f16>(case, &layouts(case)[0], Values::Normal);
        check::<bf16>(case, &layouts(case)[0], Values::Mean(100.0));
    }
}

/// Halves that are worked on in place, and halves that are copied through a block.
#[test]
fn halves_in_place() {
    fn check<E: Float>(case: &Case, values: Values) {
        for (threads, isa) in configurations().filter(|&(threads, _)| [2, 3].contains(&threads)) {
            let _lock = configure(threads, isa);
            let [in_place, copied] = [1, 2].map(|step| {
                let mut layout = Layout::dense(case.shape.len());
                layout.step[case.shape.len() - 1] = step;
                let x = Array::<E>::new(case.shape, &layout, |i| values.at::<E>(1, i));
                let dy = Array::<E>::new(case.shape, &layout, |i| normal(2, i));
                results(case, &x, &dy, &layout)
            });
            for ((name, one), (_, other)) in in_place.iter().zip(&copied) {
                assert!(one == other, "{name} on {}: {case:?} {values:?}", isa.name());
            }
        }
    }
    for case in CASES.iter().filter(|case| case.size() < 100_000).chain(&LARGE[3..5]) {
        check::<f16>(case, Values::Normal);
        check::<bf16>(case, Values::Mean(100.0));
    }
    for case in CASES.iter().filter(|case| case.size() < 20_000) {
        for values in [Values::Constant(0.1), Values::Huge, Values::Subnormal] {
            check::<f16>(case, values);
            check::<bf16>(case, values);
        }
    }
}

/// Batch norm's grid.
fn grid(case: &Case) -> Grid {
    let (n, c) = (case.shape[0], case.channels());
    crate::common::grid([n, c, case.size() / n / c], case.axis != 1)
}

const fn case(shape: &'static [usize], axis: usize, groups: usize) -> Case {
    Case { shape, axis, groups }
}

/// Sizes that several threads share, in several chunks, by either schedule: rows, lines among columns, and columns.
const LARGE: &[Case] = &[
    case(&[3, 48, 40, 41], 1, 4),
    case(&[5, 3, 150, 150], 1, 1),
    case(&[1, 1, 200_003], 1, 1),
    case(&[600, 32, 3, 4], 1, 4),
    case(&[9, 256, 8, 8], 1, 32),
    case(&[9, 3072, 8, 8], 1, 32),
    case(&[1100, 130], 1, 10),
    case(&[2, 800, 130], 2, 1),
    case(&[3, 24, 70, 70], 1, 4),
];

fn work(case: &Case, element: usize) -> Work {
    let bytes = case.size() * element;
    Work::new(grid(case), bytes, bytes)
}

#[test]
fn large_f32() {
    LARGE.iter().for_each(|case| check::<f32>(case, &layouts(case)[0], Values::Mean(1000.0)));
    // Through the staging blocks, and on memory that no instruction likes.
    check::<f32>(&LARGE[0], &layouts(&LARGE[0])[2], Values::Normal);
    check::<f32>(&LARGE[3], &layouts(&LARGE[3])[1], Values::Normal);
}

#[test]
fn large_f64() {
    for i in [0, 1, 3, 5] {
        check::<f64>(&LARGE[i], &layouts(&LARGE[i])[0], Values::Normal);
    }
}

/// That these sizes are what they are meant to be: whole and split statistics, several chunks, in both families.
#[test]
fn sizes_reach_every_schedule() {
    let caches = Caches::detect();
    for columns in [false, true] {
        let cases = || LARGE.iter().filter(|case| grid(case).columns == columns);
        for case in cases() {
            assert_eq!(grid(case).statistics() * grid(case).count(), case.size());
            assert_eq!(Plan::new(&work(case, 4), 2, &caches).threads, 2, "{case:?} is too small");
        }
        assert!(cases().filter(|case| Cut::new(&grid(case)).chunks > 1).count() >= 2, "columns: {columns}");
        for fused in [false, true] {
            let reached = cases()
                .filter(|case| THREADS[1..].iter().any(|&n| is_fused(&Plan::new(&work(case, 4), n, &caches)) == fused));
            assert!(reached.count() > 0, "columns: {columns}, fused: {fused}");
        }
        // The same statistics whole and in parts: the schedules differ, the bits must not.
        let both = cases().filter(|case| {
            let fused = |&n: &usize| is_fused(&Plan::new(&work(case, 4), n, &caches));
            Cut::new(&grid(case)).chunks > 1 && THREADS.iter().any(fused) && !THREADS.iter().all(fused)
        });
        assert!(both.count() > 0, "columns: {columns}");
    }
}

/// Outputs that are stored past the caches, against one sample at a time through these.
#[test]
fn streamed() {
    check_streamed::<f32>();
    check_streamed::<f64>();
    check_streamed::<f16>();
    check_streamed::<bf16>();
}

fn check_streamed<E: Float>() {
    /// Threads that store past the caches, see [`configure`].
    const STREAM: usize = 8;
    let (n, c, shape) = (4, 16, &[4, 16, 20_011]);
    let s = shape[2];
    let values: Vec<E> = (0..4096 + 17).map(|i| E::from_f64(normal(5, i))).collect();
    let x: Vec<E> = values.iter().copied().cycle().take(n * c * s).collect();
    let input = || normkit::Tensor::dense(&x, shape).expect("fits");
    let mut first: Option<Vec<E>> = None;
    for (_, isa) in configurations().filter(|&(threads, _)| threads == 2) {
        let _lock = configure(STREAM, isa);
        let mut y = vec![E::from_f64(0.0); x.len() + 1];
        // An element off the line: what is stored past the caches must be aligned all the same.
        let mut out = normkit::TensorMut::dense(&mut y[1..], shape).expect("fits");
        normkit::batch_norm(&input(), 1, None, None, 1e-5, &mut out).expect("valid");
        let first = first.get_or_insert_with(|| y.clone());
        assert!(first.iter().zip(&y).all(|(a, b)| a.bits() == b.bits()), "{}", isa.name());
    }
    // And the same as one sample at a time, through the cache.
    let _lock = configure(1, Isa::available()[0]);
    let y = first.expect("there is an instruction set");
    let of = normkit::moments(&input(), &[0, 2]).expect("valid");
    let rstd: Vec<f64> = of.m2.iter().map(|m2| normkit::rstd(m2 / of.count as f64, 1e-5)).collect();
    for i in 0..n {
        let range = i * c * s..(i + 1) * c * s;
        let one = normkit::Tensor::dense(&x[range.clone()], &[1, c, s]).expect("fits");
        let mut small = vec![E::from_f64(0.0); c * s];
        let mut out = normkit::TensorMut::dense(&mut small, &[1, c, s]).expect("fits");
        normkit::batch_norm_inference(&one, 1, &of.mean, &rstd, None, None, &mut out).expect("valid");
        assert!(small.iter().zip(&y[1..][range]).all(|(a, b)| a.bits() == b.bits()));
    }
}

/// Outputs that are stored past the caches while other statistics are reduced, as they are where they begin on lines of the
/// caches, against those that begin an element later, and those that are not stored so (odd numbers of threads).
#[test]
fn streamed_behind() {
    check_behind::<f32>();
    check_behind::<f64>();
    check_behind::<f16>();
    check_behind::<bf16>();
}

fn check_behind<E: Float>() {
    const GUARD: f64 = -77.0;
    // Lines among columns, long runs, lines; the first four are whole lines of the caches, several of the next two are.
    for dims in [[3, 40, 256], [3, 6, 8192], [2, 8, 1024], [17, 4, 512], [3, 32, 196], [2, 64, 196], [2, 16, 4100]] {
        let size = dims.iter().product::<usize>();
        let draw = |seed| (0..size).map(|i| E::from_f64(normal(seed, i))).collect::<Vec<E>>();
        let (x, dy) = (draw(5), draw(6));
        let input = |data| normkit::Tensor::dense(data, &dims).expect("fits");
        type Call<'a, E> = Box<dyn Fn(&mut normkit::TensorMut<E>) + 'a>;
        let batch =
            normkit::batch_norm(&input(&x), 1, None, None, 1e-5, &mut out_of(&mut x.clone(), &dims)).expect("valid");
        // Two groups of many channels are long runs, of which the output is lines.
        let groups = if dims[1] == 64 { 2 } else { dims[1] / 2 };
        let group = normkit::group_norm(&input(&x), 1, groups, None, None, 1e-5, &mut out_of(&mut x.clone(), &dims));
        let group = group.expect("valid");
        let relu = |residual| normkit::Extras { activation: normkit::Activation::Relu, residual, mask: None };
        let (alone, beside) = (relu(None), relu(Some(normkit::Operand::from(&input(&dy)))));
        let fused = |extras, y: &mut normkit::TensorMut<E>| {
            normkit::batch_norm_fused(&input(&x), 1, None, None, 1e-5, extras, y).expect("valid");
        };
        let calls: [Call<E>; 6] = [
            Box::new(|y| drop(normkit::batch_norm(&input(&x), 1, None, None, 1e-5, y).expect("valid"))),
            Box::new(|y| fused(&alone, y)),
            Box::new(|y| fused(&beside, y)),
            Box::new(|dx| {
                let (mean, rstd) = (&batch.mean, &batch.rstd);
                normkit::batch_norm_backward(&input(&dy), &input(&x), 1, mean, rstd, None, false, dx).expect("valid");
            }),
            Box::new(|y| drop(normkit::group_norm(&input(&x), 1, groups, None, None, 1e-5, y).expect("valid"))),
            Box::new(|dx| {
                let (mean, rstd) = (&group.mean, &group.rstd);
                normkit::group_norm_backward(&input(&dy), &input(&x), 1, groups, mean, rstd, None, dx).expect("valid");
            }),
        ];
        for (which, call) in calls.iter().enumerate() {
            let mut first = None;
            for (threads, isa) in configurations() {
                let _lock = configure(threads, isa);
                for lead in [0, 1] {
                    let mut memory = vec![E::from_f64(GUARD); size + 128];
                    let start = memory.as_ptr().align_offset(64) + lead;
                    call(&mut out_of(&mut memory[start..start + size], &dims));
                    let found = memory[start..start + size].iter().map(|y| y.bits()).collect::<Vec<_>>();
                    let around = memory[..start].iter().chain(&memory[start + size..]);
                    assert!(around.copied().all(|y| y.to_f64() == GUARD), "{dims:?}, call {which}");
                    let same = *first.get_or_insert_with(|| found.clone()) == found;
                    assert!(same, "{dims:?}, call {which}, {threads} threads on {}, {lead}", isa.name());
                }
            }
        }
    }
}

fn out_of<'a, E: Float>(data: &'a mut [E], dims: &[usize]) -> normkit::TensorMut<'a, E> {
    normkit::TensorMut::dense(data, dims).expect("fits")
}

#[test]
fn folding() {
    let shape = [256, 128, 3, 3]; // several tasks
    let size = shape.iter().product();
    let w: Vec<f32> = (0..size).map(|i| normal(1, i) as f32).collect();
    let (mean, var) = (parameters(1, 512), parameters(2, 512).iter().map(|x| x * x).collect::<Vec<_>>());
    for transposed in [false, true] {
        let mut first = None;
        for (threads, isa) in configurations() {
            let _lock = configure(threads, isa);
            let c = if transposed { 512 } else { 256 };
            let norm = BatchNormOf { mean: &mean[..c], var: &var[..c], weight: None, bias: None, eps: 1e-5 };
            let mut out = vec![0.0f32; size];
            let conv = ConvOf { groups: 4, transposed };
            let b = normkit::fold_conv_bn(&w, &shape, None, conv, norm, &mut out).expect("valid");
            let found = (out.iter().map(|w| w.to_bits()).collect::<Vec<_>>(), bits(&b));
            assert!(*first.get_or_insert_with(|| found.clone()) == found, "{threads} threads on {}", isa.name());
        }
    }
}

/// Lines that adjoin, which make one run in which coefficients change, against the same lines by themselves; nothing else is
/// written.
#[test]
fn lines_that_adjoin() {
    check_adjoining::<f32>();
    check_adjoining::<f64>();
    check_adjoining::<f16>();
    check_adjoining::<bf16>();
}

fn check_adjoining<E: Float>() {
    const GUARD: f64 = -77.0;
    let (n, c) = (3, 5);
    let (mean, rstd) = (parameters(5, c), parameters(6, c));
    let (weight, bias) = (parameters(7, c), parameters(8, c));
    let (weight, bias) = (Some(&weight[..]), Some(&bias[..]));
    let residual =
        |shape: &[usize]| -> Vec<E> { (0..shape.iter().product()).map(|i| E::from_f64(normal(9, i))).collect() };
    for len in [15, 16, 17, 31, 33, 47, 48, 49, 63, 64, 65, 130, 196, 841] {
        let shape = [n, c, len];
        let x: Vec<E> = (0..n * c * len).map(|i| E::from_f64(normal(5, i))).collect();
        let beside = residual(&shape);
        // The lines one by one, and what they become.
        let mut expected: Option<[Vec<u64>; 3]> = None;
        for (threads, isa) in configurations().filter(|&(threads, _)| threads < 3) {
            let _lock = configure(threads, isa);
            for (gap, offset) in [(3, 0), (0, 0), (0, 1), (0, 3), (0, 7)] {
                let strides = [(c * (len + gap)) as isize, (len + gap) as isize, 1];
                let size = n * c * (len + gap);
                let place = |i: usize| offset + i / len * (len + gap) + i % len;
                let found = [0, 1, 2].map(|what| {
                    let mut y = vec![E::from_f64(GUARD); offset + size + 8];
                    let mut data = vec![E::from_f64(GUARD); size];
                    for (i, &x) in x.iter().enumerate() {
                        data[place(i) - offset] = x;
                    }
                    let input = normkit::Tensor::strided(&data, &shape, &strides).expect("fits");
                    let mut out = normkit::TensorMut::strided(&mut y[offset..], &shape, &strides).expect("fits");
                    let beside = normkit::Tensor::dense(&beside, &shape).expect("fits");
                    let residual = Some(Operand::from(&beside));
                    let extras = Extras { activation: Activation::Silu, residual, mask: None };
                    let (mean, rstd) = (&mean[..], &rstd[..]);
                    match what {
                        0 => normkit::batch_norm_inference(&input, 1, mean, rstd, weight, bias, &mut out),
                        1 => {
                            normkit::batch_norm_inference_fused(&input, 1, mean, rstd, weight, bias, &extras, &mut out)
                        }
                        _ => normkit::group_norm(&input, 1, c, weight, bias, 1e-5, &mut out).map(|_| ()),
                    }
                    .expect("valid");
                    let all = y.iter().map(|y| y.bits()).collect::<Vec<_>>();
                    let inside: Vec<usize> = (0..x.len()).map(place).collect();
                    let guard = E::from_f64(GUARD).bits();
                    let outside = (0..all.len()).filter(|i| inside.binary_search(i).is_err());
                    assert!(outside.into_iter().all(|i| all[i] == guard), "{what}: {len} {gap} {offset}");
                    inside.into_iter().map(|i| all[i]).collect::<Vec<_>>()
                });
                let expected = expected.get_or_insert_with(|| found.clone());
                for (what, (expected, found)) in expected.iter().zip(&found).enumerate() {
                    let wrong = expected.iter().zip(found).position(|(a, b)| a != b);
                    assert!(wrong.is_none(), "{what}: {len} {gap} {offset} {threads} {}: {wrong:?}", isa.name());
                }
            }
        }
    }
}
