//! What random calls have found wrong, each by itself: numbers that are hard to add up, and NaN before a ReLU.

use crate::common::{Array, Layout, configure, normal};
use normkit::{Activation, Extras, Isa, Operand, Tensor, TensorMut, Used, reference};

/// One number stands out in each column, the others are all the same: each of their squares is rounded the same way
/// beside its square. Float lanes that only add were off by up to 17 ulp.
#[test]
fn variances_of_columns_with_an_outlier() {
    const CHANNELS: usize = 1000;
    for isa in Isa::available() {
        let _guard = configure(1, isa);
        for (rows, at) in [(128, 0), (128, 3), (128, 64), (128, 127), (127, 1), (1000, 500)] {
            let outlier = |channel: usize| 5.0 + channel as f64 * 0.075;
            let value = |i: usize| if i / CHANNELS == at { outlier(i % CHANNELS) } else { 1.0 };
            let shape = [rows, CHANNELS];
            let x = Array::<f32>::new(&shape, &Layout::dense(2), value);
            let found = normkit::moments(&x.tensor(), &[0]).expect("valid");
            let expected = reference::moments(&x.logical(), &shape, &[0]);
            for c in 0..CHANNELS {
                let (var, exact) = (found.m2[c] / rows as f64, expected.var[c]);
                let ulp = (var - exact).abs() / exact / f64::from(f32::EPSILON);
                assert!(ulp <= 4.0, "{rows} rows, {} at {at}, {}: {ulp} ulp", outlier(c), isa.name());
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
