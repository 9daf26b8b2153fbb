//! What random calls have found wrong, each by itself: numbers that are hard to add up, NaN before a ReLU; and halves.

use crate::common::{Array, Float, Layout, configure, normal};
use normkit::{Activation, Extras, Isa, Layer, Operand, Tensor, TensorMut, Used, reference};

/// One number stands out in each channel, the others are all the same: each of their squares is rounded the same way
/// beside its square. Float lanes that only add were off by up to 17 ulp in columns, 10 in rows.
#[test]
fn variances_with_an_outlier() {
    const CHANNELS: usize = 1000;
    let outlier = |channel: usize| 5.0 + channel as f64 * 0.075;
    for isa in Isa::available() {
        let _guard = configure(1, isa);
        // Columns, rows, lines of one row and of several.
        for (before, after) in [
            (128, 1),
            (127, 1),
            (1000, 1),
            (1, 4096),
            (1, 70_001),
            (1, 49),
            (1, 196),
            (1, 600),
            (1, 2048),
            (8, 49),
            (5, 600),
            (32, 16),
        ] {
            let count = before * after;
            for at in [0, 3, count / 2, count - 1] {
                let channels = CHANNELS.min(4_100_000 / count);
                let value = |i: usize| {
                    let (channel, place) = (i / after % channels, i / after / channels * after + i % after);
                    if place == at { outlier(channel) } else { 1.0 }
                };
                let shape = [before, channels, after];
                let x = Array::<f32>::new(&shape, &Layout::dense(3), value);
                let found = normkit::moments(&x.tensor(), &[0, 2]).expect("valid");
                for c in 0..channels {
                    let (n, off) = (count as f64, f64::from(outlier(c) as f32) - 1.0);
                    let (var, exact) = (found.m2[c] / n, off * off * (n - 1.0) / (n * n));
                    let ulp = (var - exact).abs() / exact / f64::from(f32::EPSILON);
                    assert!(ulp <= 4.0, "{shape:?}, {} at {at}, {}: {ulp} ulp", outlier(c), isa.name());
                }
            }
        }
    }
}

/// Columns whose mean is first guessed from a few rows, which are far off the others: deviations are taken again then.
#[test]
fn rows_of_a_guess_far_off_cost_no_digits() {
    let (channels, after) = (32, 49);
    for isa in Isa::available() {
        let _guard = configure(1, isa);
        for rows in [128, 256] {
            let row = |i: usize| i / (channels * after);
            let value = |i: usize| if row(i).is_multiple_of(32) { 10.0 } else { normal(7, i) };
            let shape = [rows, channels, after];
            let x = Array::<f32>::new(&shape, &Layout::dense(3), value);
            let found = normkit::moments(&x.tensor(), &[0, 2]).expect("valid");
            let expected = reference::moments(&x.logical(), &shape, &[0, 2]);
            for c in 0..channels {
                let var = found.m2[c] / (rows * after) as f64;
                let error = (var / expected.var[c] - 1.0).abs() / f64::from(f32::EPSILON);
                assert!(error <= 4.0, "{rows} rows, channel {c}, {}: {error} ulp", isa.name());
            }
        }
    }
}

/// Gradients whose sum leaves float32's range, though its products with x do not, in columns and lines.
#[test]
fn sums_beyond_the_range_of_float32() {
    const LARGE: f64 = 3e38;
    for isa in Isa::available() {
        let _guard = configure(1, isa);
        for shape in [[64, 32, 1], [16, 32, 49], [2, 32, 600]] {
            let x = Array::<f32>::new(&shape, &Layout::dense(3), |i| 1e-20 * normal(7, i));
            let dy = Array::<f32>::new(&shape, &Layout::dense(3), |_| LARGE);
            let mut dx = vec![0.0f32; shape.iter().product()];
            let mut out = TensorMut::dense(&mut dx, &shape).expect("fits");
            let (mean, rstd) = (vec![0.0; shape[1]], vec![1.0; shape[1]]);
            let found = normkit::batch_norm_backward(&dy.tensor(), &x.tensor(), 1, &mean, &rstd, None, true, &mut out);
            let count = (shape[0] * shape[2]) as f64;
            for sum in found.expect("valid").bias {
                assert!(
                    (sum / (count * f64::from(LARGE as f32)) - 1.0).abs() < 1e-12,
                    "{shape:?}, {}: {sum}",
                    isa.name()
                );
            }
        }
    }
}

/// A block of one row, far off the mean of the others: in float64, too, moments keep their last digits.
#[test]
fn a_last_row_far_off_costs_no_digits() {
    for isa in Isa::available() {
        let _guard = configure(1, isa);
        for last in [1.0, 3.0, 1e3, 1e6] {
            let (rows, channels) = (257, 16);
            let value = |i: usize| if i / channels == rows - 1 { last } else { normal(7, i) };
            let x = Array::<f64>::new(&[rows, channels], &Layout::dense(2), value);
            let found = normkit::moments(&x.tensor(), &[0]).expect("valid");
            let expected = reference::moments(&x.logical(), &[rows, channels], &[0]);
            for c in 0..channels {
                let error = (found.m2[c] / rows as f64 / expected.var[c] - 1.0).abs() / f64::EPSILON;
                assert!(error <= 4.0, "{last}, channel {c}, {}: {error} ulp", isa.name());
            }
        }
    }
}

/// Gradients of a layer's parameters are sums over rows: of one column dy leaves the range of float32, of another dy·x̂ alone.
#[test]
fn gradients_of_rows_beyond_the_range_of_float32() {
    let (rows, len, huge) = (16, 70, 3e38);
    for isa in Isa::available() {
        let _guard = configure(1, isa);
        for (column, values, hat) in [(1, [huge, huge, -huge], 0.25), (37, [0.5 * huge, 0.0, 0.0], 4.0)] {
            let of_dy = |i: usize| if i % len == column { *values.get(i / len).unwrap_or(&0.0) } else { 1.0 };
            let dense = Layout::dense(2);
            let x = Array::<f32>::new(&[rows, len], &dense, |i| if i % len == column { hat } else { normal(1, i) });
            let dy = Array::<f32>::new(&[rows, len], &dense, of_dy);
            let mut dx = Array::<f32>::output(&[rows, len], &dense);
            let layer = Layer { axes: vec![1], centred: true };
            let (mean, rstd, of_dy) = (vec![0.0; rows], vec![1.0; rows], dy.tensor());
            let (of_dy, of_x, out) = (Operand::from(&of_dy), x.tensor(), &mut dx.tensor_mut());
            let found =
                normkit::layer_norm_backward(&of_dy, &of_x, &layer, &mean, &rstd, None, true, out).expect("valid");
            let sum: f64 = (0..values.len()).map(|row| f64::from(dy.data[row * len + column])).sum();
            assert_eq!([found.bias[column], found.weight[column]], [sum, sum * hat], "{}", isa.name());
        }
    }
}

/// Where z is NaN dy passes, as in PyTorch. A closed ReLU passes nothing, not even NaN. Sums over dy so small that they
/// are taken again in float64 say the same.
#[test]
fn a_relu_at_nan_is_not_closed() {
    fn check<E: Float>(size: f64) {
        for isa in Isa::available() {
            let _guard = configure(1, isa);
            for shape in [[2, 3, 400], [4, 3, 49], [300, 3, 1]] {
                let (dense, [_, channels, after]) = (Layout::dense(3), shape);
                let (nan, closed) = (shape.iter().product::<usize>() / 2, 1);
                let x = Array::<E>::new(&shape, &dense, |i| if i == closed { -1.0 } else { normal(1, i) });
                let residual = Array::<E>::new(&shape, &dense, |i| if i == nan { f64::NAN } else { 0.0 });
                let of_dy = |i| if i == closed { f64::NAN } else { size * (2.0 + normal(3, i)) };
                let dy = Array::<E>::new(&shape, &dense, of_dy);
                let (zeros, ones, tensor) = (vec![0.0; 3], vec![1.0; 3], residual.tensor());
                let residual = Some(Operand::from(&tensor));
                let extras = Extras { activation: Activation::Relu, residual, ..Extras::default() };
                let used = Used { mean: &zeros, rstd: &ones, frozen: true };
                let [mut dx, mut dresidual] = [0, 1].map(|_| Array::<E>::output(&shape, &dense));
                let (out, second): (&mut TensorMut<E>, _) = (&mut dx.tensor_mut(), &mut dresidual.tensor_mut());
                let (of_x, dys): (&Tensor<E>, _) = (&x.tensor(), dy.tensor());
                let dy_ = &Operand::from(&dys);
                let found =
                    normkit::batch_norm_fused_backward(dy_, of_x, 1, used, None, None, &extras, out, Some(second));
                let dbias = found.expect("valid").bias;
                for of in [dx, dresidual] {
                    assert_eq!(of.data[nan], dy.data[nan], "{shape:?}, {}", isa.name());
                    assert_eq!(of.data[closed].to_f64(), 0.0, "{shape:?}, {}", isa.name());
                }
                let channel = nan / after % channels;
                let open = |&i: &usize| i / after % channels == channel && (i == nan || x.data[i].to_f64() > 0.0);
                let sum: f64 = (0..x.data.len()).filter(open).map(|i| dy.data[i].to_f64()).sum();
                let error = (dbias[channel] / sum - 1.0).abs();
                assert!(error < 1e-6, "{shape:?}, {}, {size:e}: {} for {sum}", isa.name(), dbias[channel]);
            }
        }
    }
    for size in [1.0, 1e-40] {
        check::<f32>(size);
        check::<f64>(size);
    }
    check::<f64>(1e-310);
}

/// A group of very many channels, all of whose sums are the same: each is rounded the same way beside the sum of the
/// others. dx is zero, as dy is the same everywhere.
#[test]
fn sums_over_many_channels_keep_their_digits() {
    let _guard = configure(1, Isa::available()[0]);
    let shape = [1, 124_433, 1];
    let dense = Layout::dense(3);
    let x = Array::<f64>::new(&shape, &dense, |i| normal(5, i));
    let dy = Array::<f64>::new(&shape, &dense, |_| 0.1);
    let mut out = Array::<f64>::output(&shape, &dense);
    let of = normkit::group_norm(&x.tensor(), 1, 1, None, None, 1e-5, &mut out.tensor_mut()).expect("valid");
    normkit::group_norm_backward(&dy.tensor(), &x.tensor(), 1, 1, &of.mean, &of.rstd, None, &mut out.tensor_mut())
        .expect("valid");
    let worst = out.data.iter().fold(0.0f64, |worst, dx| worst.max(dx.abs())) / (0.1 * of.rstd[0]) / f64::EPSILON;
    assert!(worst <= 16.0, "off by {worst} eps");
}

/// All float16 and bfloat16 are read as they are, and any float32 is rounded to the nearest of them, ties to even.
#[test]
fn halves_are_read_exactly_and_written_rounded() {
    fn check<E: Float>(of: impl Fn(u16) -> E, bits: impl Fn(E) -> u16, rounded: impl Fn(f32) -> E) {
        // The second makes ties; the last is a NaN that rounding up would carry over to zero.
        let scales =
            [1.0f32, 1.5, 1.0 / 3.0, 1.0 + f32::EPSILON, 1e-3, 6.1e-5, 3e-39, 1e4, 3e38, f32::from_bits(0x7fff_ffff)];
        for isa in Isa::available() {
            let _guard = configure(1, isa);
            // Of one run with every half; rows with tails, one cut in steps; columns that repeat, are of several
            // elements, have a tail, are taken by line.
            for shape in [
                [1, 1, 1 << 16],
                [3, 2, 401],
                [2, 2, 3001],
                [64, 3, 1],
                [19, 3, 49],
                [40, 3, 2],
                [300, 131, 1],
                [40, 4, 129],
            ] {
                for scale in scales {
                    let dense = Layout::dense(3);
                    let mut x = Array::<E>::new(&shape, &dense, |_| 0.0);
                    for (i, x) in x.data.iter_mut().enumerate() {
                        *x = of(i as u16);
                    }
                    let mut y = Array::<E>::output(&shape, &dense);
                    let (zeros, ones) = (vec![0.0; shape[1]], vec![1.0; shape[1]]);
                    let weight = vec![f64::from(scale); shape[1]];
                    let out = &mut y.tensor_mut();
                    normkit::batch_norm_inference(&x.tensor(), 1, &zeros, &ones, Some(&weight), Some(&zeros), out)
                        .expect("valid");
                    for (&x, &y) in x.data.iter().zip(&y.data) {
                        let expected = rounded(x.to_f64() as f32 * scale + 0.0);
                        let nan = expected.to_f64().is_nan() && y.to_f64().is_nan();
                        assert!(nan || bits(y) == bits(expected), "{x:?} * {scale:e}: {y:?}, {}", isa.name());
                    }
                }
            }
        }
    }
    check(half::f16::from_bits, half::f16::to_bits, half::f16::from_f32);
    check(half::bf16::from_bits, half::bf16::to_bits, half::bf16::from_f32);
}
