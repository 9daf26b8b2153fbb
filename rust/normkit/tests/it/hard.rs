//! What random calls have found wrong, each by itself: numbers that are hard to add up, and NaN before a ReLU.

use crate::common::{Array, Layout, configure, normal};
use normkit::{Activation, Extras, Isa, Operand, Tensor, TensorMut, Used, reference};

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

/// Where z is NaN dy passes, as in PyTorch. A closed ReLU passes nothing, not even NaN.
#[test]
fn a_relu_at_nan_is_not_closed() {
    for isa in Isa::available() {
        let _guard = configure(1, isa);
        for shape in [[2, 3, 400], [4, 3, 49], [300, 3, 1]] {
            let dense = Layout::dense(3);
            let (nan, closed) = (shape.iter().product::<usize>() / 2, 1);
            let x = Array::<f32>::new(&shape, &dense, |i| if i == closed { -1.0 } else { normal(1, i) });
            let residual = Array::<f32>::new(&shape, &dense, |i| if i == nan { f64::NAN } else { 0.0 });
            let dy = Array::<f32>::new(&shape, &dense, |i| if i == closed { f64::NAN } else { 2.0 + normal(3, i) });
            let (zeros, ones, tensor) = (vec![0.0; 3], vec![1.0; 3], residual.tensor());
            let extras =
                Extras { activation: Activation::Relu, residual: Some(Operand::from(&tensor)), ..Extras::default() };
            let used = Used { mean: &zeros, rstd: &ones, frozen: true };
            let [mut dx, mut dresidual] = [0, 1].map(|_| Array::<f32>::output(&shape, &dense));
            let (out, second): (&mut TensorMut<f32>, _) = (&mut dx.tensor_mut(), &mut dresidual.tensor_mut());
            let (x, dys): (&Tensor<f32>, _) = (&x.tensor(), dy.tensor());
            let dy_ = &Operand::from(&dys);
            normkit::batch_norm_fused_backward(dy_, x, 1, used, None, None, &extras, out, Some(second)).expect("valid");
            for of in [dx, dresidual] {
                assert_eq!(of.data[nan], dy.data[nan], "{shape:?}, {}", isa.name());
                assert_eq!(of.data[closed], 0.0, "{shape:?}, {}", isa.name());
            }
        }
    }
}
