//! Sums of products that are zero: because nothing flows, or because float32 cannot hold the products.

use crate::common::{Array, Float, Layout, Values, configure, normal, parameters};
use half::bf16;
use normkit::{Activation, Extras, Isa, Layer, Operand, Tensor, TensorMut, Used};

/// Numbers that stay exact where they are scaled to subnormal ones.
fn eighths(seed: u64, i: usize) -> f64 {
    (normal(seed, i) * 8.0).round() / 8.0
}

/// Products that leave float32's range on the way to the gradients of parameters that vary inside a run, which are then
/// taken again: a gradient is linear in dy. Also where dx is dy's memory.
#[test]
fn tiny_gradients_of_parameters_inside_runs() {
    let (shape, layout, groups) = ([8, 4, 3, 3], Layout::dense(4), 2);
    let tiny = 0.5f64.powi(140);
    let x = Array::<f32>::new(&shape, &layout, |i| Values::Normal.at::<f32>(1, i));
    let (means, rstds, weight) = (parameters(4, 8 * groups), parameters(5, 8 * groups), parameters(3, 4));
    let backward = |dy: &Tensor<f32>, out: &mut TensorMut<f32>| {
        normkit::group_norm_backward(dy, &x.tensor(), 1, groups, &means, &rstds, Some(&weight), out).expect("valid")
    };
    let scaled = |factor: f64| Array::<f32>::new(&shape, &layout, |i| factor * eighths(2, i));
    let expected = backward(&scaled(1.0).tensor(), &mut Array::output(&shape, &layout).tensor_mut());
    let apart = backward(&scaled(tiny).tensor(), &mut Array::output(&shape, &layout).tensor_mut());
    let mut together = scaled(tiny);
    let (dy, mut dx) = together.in_place();
    assert_eq!(apart, backward(&dy, &mut dx));
    for (found, expected) in [(&apart.weight, &expected.weight), (&apart.bias, &expected.bias)] {
        for (found, expected) in found.iter().zip(expected) {
            let expected = expected * tiny;
            // The larger one was added up in float32, of 72 terms of size 1 to 4.
            assert!((found - expected).abs() <= 72.0 * 4.0 * f64::from(f32::EPSILON) * tiny, "{found} {expected}");
        }
    }
}

/// The same of layers, whose elements are converted on the way where they are halves; several parts of the samples.
#[test]
fn tiny_gradients_of_layers() {
    fn check<E: Float>(tiny: f64, small: f64, rows: usize) {
        let (shape, layout) = ([70, 40], Layout::dense(2));
        let x = Array::<E>::new(&shape, &layout, |i| Values::Normal.at::<E>(1, i));
        let (means, weight) = (parameters(4, 70), parameters(3, 40));
        let rstds: Vec<f64> = parameters(5, 70).iter().map(|rstd| rstd * small).collect();
        let layer = Layer { axes: vec![1], centred: true };
        let backward = |dy: &Tensor<E>, out: &mut TensorMut<E>| {
            let dy = Operand::from(dy);
            normkit::layer_norm_backward(&dy, &x.tensor(), &layer, &means, &rstds, Some(&weight), true, out)
                .expect("valid")
        };
        let of = |i: usize| if i < rows * 40 { eighths(2, i) } else { 0.0 };
        let scaled = |factor: f64| Array::<E>::new(&shape, &layout, |i| factor * of(i));
        let expected = backward(&scaled(1.0).tensor(), &mut Array::output(&shape, &layout).tensor_mut());
        let mut dx = Array::output(&shape, &layout);
        let apart = backward(&scaled(tiny).tensor(), &mut dx.tensor_mut());
        let mut together = scaled(tiny);
        let (dy, mut out) = together.in_place();
        assert_eq!(apart, backward(&dy, &mut out));
        assert!(dx.bits() == together.bits());
        for (found, expected, unit) in
            [(&apart.weight, &expected.weight, small * tiny), (&apart.bias, &expected.bias, tiny)]
        {
            for (found, expected) in found.iter().zip(expected) {
                let expected = expected * tiny;
                // The larger one was added up in float32, of 70 terms of size 4 to 16.
                assert!((found - expected).abs() <= 70.0 * 16.0 * f64::from(f32::EPSILON) * unit, "{found} {expected}");
            }
        }
    }
    check::<f32>(0.5f64.powi(140), 1.0, 70);
    check::<bf16>(0.5f64.powi(130), 1.0, 70);
    // Products that are zero, of what is not.
    check::<f32>(0.5f64.powi(140), 0.5f64.powi(30), 70);
    check::<f32>(0.5f64.powi(140), 0.5f64.powi(30), 1);
}

/// Rows of which nothing flows, as of masked tokens: dy is zero, or x is its mean.
#[test]
fn masked_rows_of_layers() {
    let (shape, layout, layer) = ([70, 40], Layout::dense(2), Layer { axes: vec![1], centred: true });
    let (ones, huge) = (vec![1.0; 70], 3e38);
    let backward = |x: &Array<f32>, dy: &Array<f32>| {
        let (dy, out) = (Operand::from(&dy.tensor()), &mut Array::output(&shape, &layout));
        normkit::layer_norm_backward(&dy, &x.tensor(), &layer, &ones, &ones, None, true, &mut out.tensor_mut())
            .expect("valid")
    };
    // x̂ is 1 in the first rows, 0 in those that follow.
    let x = Array::new(&shape, &layout, |i| if i < 40 * 40 { 2.0 } else { 1.0 });
    let of = backward(&x, &Array::new(&shape, &layout, |_| 0.0));
    assert!([of.weight, of.bias].concat().iter().all(|&of| of == 0.0));
    let of = backward(&x, &Array::new(&shape, &layout, |i| (i % 40) as f64));
    for (j, (&weight, &bias)) in of.weight.iter().zip(&of.bias).enumerate() {
        assert_eq!([weight, bias], [40.0 * j as f64, 70.0 * j as f64]);
    }
    // A sum that leaves float32's range is taken again, also where the other one is zero.
    let of = backward(&x, &Array::new(&shape, &layout, |_| huge));
    for (&weight, &bias) in of.weight.iter().zip(&of.bias) {
        assert_eq!([weight, bias], [40.0, 70.0].map(|n| n * f64::from(huge as f32)));
    }
}

/// What is done to the numbers of a channel: nothing flows; what flows is too small for products; or nothing is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Dead,
    Tiny,
    Plain,
}

impl Kind {
    fn of(channel: usize) -> Self {
        [Kind::Dead, Kind::Plain, Kind::Tiny, Kind::Dead, Kind::Tiny][channel % 5]
    }

    /// Two factors whose product is tiny are a little less so themselves.
    fn factor(self) -> f64 {
        match self {
            Kind::Dead => 0.0,
            Kind::Tiny => 0.5f64.powi(80),
            Kind::Plain => 1.0,
        }
    }
}

/// Layouts in which channels are columns (one element each, several, repeating), lines among others, lines, and rows.
const SHAPES: [[usize; 3]; 9] = [
    [300, 131, 1],
    [300, 3, 1],
    [70, 11, 4],
    [33, 20, 49],
    [2, 17, 9],
    [5, 20, 200],
    [1, 20, 40],
    [1, 6, 5000],
    [2, 6, 5000],
];

/// What flows through on its way to the affine map.
#[derive(Clone, Copy, Default)]
struct Way {
    activation: Activation,
    /// What all of a residual is.
    residual: Option<f64>,
    /// Biases of dead channels, and of others.
    bias: Option<[f64; 2]>,
    /// Whether no x is above its mean.
    below: bool,
}

/// Channels in which nothing flows beside some whose products are zero by underflow: the gradients of the former are zero,
/// those of the latter exact, but for what flows through a slope that is not.
#[test]
fn dead_channels_beside_tiny_ones() {
    fn check<E: Float>(which: impl Fn(Kind) -> [f64; 2] + Copy, way: Way) {
        let Way { activation, residual, bias, below } = way;
        for isa in Isa::available() {
            let _guard = configure(1, isa);
            for shape in SHAPES {
                let (layout, [_, channels, after]) = (Layout::dense(3), shape);
                let channel = |i: usize| i / after % channels;
                let of = |k: usize| move |i: usize| which(Kind::of(channel(i)))[k] * eighths(1 + k as u64, i);
                // Where x is its mean, that is one of the channel's own.
                let mean = |c: usize| if Kind::of(c) == Kind::Dead { c as f64 } else { 0.0 };
                let away = |x: f64| if below { -x.abs() } else { x };
                let x = Array::<E>::new(&shape, &layout, |i| mean(channel(i)) + away(of(0)(i)));
                let dy = Array::<E>::new(&shape, &layout, of(1));
                let (means, ones) = ((0..channels).map(mean).collect::<Vec<_>>(), vec![1.0; channels]);
                let mut dx = Array::<E>::output(&shape, &layout);
                let out = &mut dx.tensor_mut();
                let shift =
                    |c: usize| bias.map_or(0.0, |[dead, other]| if Kind::of(c) == Kind::Dead { dead } else { other });
                let biases = bias.map(|_| (0..channels).map(shift).collect::<Vec<_>>());
                let added = residual.map(|of| Array::<E>::new(&shape, &layout, |_| of));
                let extras =
                    Extras { activation, residual: added.as_ref().map(|of| (&of.tensor()).into()), mask: None };
                let (dy_, used) = (Operand::from(&dy.tensor()), Used { mean: &means, rstd: &ones, frozen: true });
                let second = None::<&mut TensorMut<E>>;
                let found = normkit::batch_norm_fused_backward(
                    &dy_,
                    &x.tensor(),
                    1,
                    used,
                    None,
                    biases.as_deref(),
                    &extras,
                    out,
                    second,
                )
                .expect("valid");
                for (c, mean) in means.iter().enumerate() {
                    let all = || (0..x.data.len()).filter(|&i| channel(i) == c);
                    let [dot, sum, dots, sums] = all().fold([0.0; 4], |[dot, sum, dots, sums], i| {
                        let [x, dy] = [&x, &dy].map(|of| of.data[i].to_f64());
                        let z = x - mean + shift(c) + residual.unwrap_or(0.0);
                        let dz = match activation {
                            Activation::Relu if z <= 0.0 => 0.0,
                            Activation::LeakyRelu if z <= 0.0 => 0.1 * dy,
                            _ => dy,
                        };
                        let product = (x - mean) * dz;
                        [dot + product, sum + dz, dots + product.abs(), sums + dz.abs()]
                    });
                    // Eighths and their products are added up exactly. Tenths of them are rounded, 0.1 and the products, too.
                    let leaks = activation == Activation::LeakyRelu;
                    let unit = if leaks { (all().count() + 3) as f64 * f64::from(f32::EPSILON) / 2.0 } else { 0.0 };
                    for (found, expected, size) in [(found.weight[c], dot, dots), (found.bias[c], sum, sums)] {
                        let what = (shape, c, isa.name(), activation, found, expected);
                        assert!((found - expected).abs() <= unit * size, "{what:?}");
                    }
                }
            }
        }
    }
    let tiny = |kind: Kind| if kind == Kind::Plain { 1.0 } else { Kind::Tiny.factor() };
    // Of channels, dy is zero; x is; one or the other.
    let (dead_dy, dead_x) = (|kind: Kind| [tiny(kind), kind.factor()], |kind: Kind| [kind.factor(), tiny(kind)]);
    check::<f32>(dead_dy, Way::default());
    check::<f32>(dead_x, Way::default());
    check::<bf16>(dead_dy, Way::default());
    let relu = Way { activation: Activation::Relu, ..Way::default() };
    let leaky = Way { activation: Activation::LeakyRelu, ..Way::default() };
    for way in [relu, Way { residual: Some(0.0), ..relu }, leaky] {
        check::<f32>(dead_dy, way);
        check::<f32>(dead_x, way);
    }
    check::<bf16>(dead_dy, relu);
    // Closed by the bias alone; open by the bias, or the residual, alone.
    let moved = |kind: Kind| [tiny(kind); 2];
    check::<f32>(moved, Way { bias: Some([-64.0, 1.0]), below: true, ..relu });
    check::<f32>(moved, Way { bias: Some([-64.0, -1.0]), residual: Some(2.0), below: true, ..relu });
    // What flows through a slope is zero by underflow before it is multiplied.
    check::<f32>(
        |kind| [1.0, if kind == Kind::Tiny { 0.5f64.powi(149) } else { kind.factor() }],
        Way { below: true, ..leaky },
    );
}

/// Features of layers in which nothing flows beside some whose products are zero by underflow: all over a row, or in a part of
/// it; and channels of group norm's groups.
#[test]
fn dead_features_beside_tiny_ones() {
    fn check<E: Float>(features: usize, groups: usize, unusual: std::ops::Range<usize>) {
        let (rows, layout) = (70, Layout::dense(2));
        let (zeros, ones) = (vec![0.0; rows * groups], vec![1.0; rows * groups]);
        let kind = |i: usize| if unusual.contains(&(i % features)) { Kind::of(i % features) } else { Kind::Plain };
        for isa in Isa::available() {
            let _guard = configure(1, isa);
            let value = |k: usize| {
                move |i: usize| {
                    // Half of the rows are masked besides.
                    let masked = k == 1 && (i / features).is_multiple_of(2);
                    let factor = if masked { 0.0 } else { kind(i).factor() };
                    let factor = if k == 0 && kind(i) == Kind::Dead { 1.0 } else { factor };
                    factor * eighths(1 + k as u64, i)
                }
            };
            let x = Array::<E>::new(&[rows, features], &layout, value(0));
            let dy = Array::<E>::new(&[rows, features], &layout, value(1));
            let mut dx = Array::<E>::output(&[rows, features], &layout);
            let (dys, out) = (dy.tensor(), &mut dx.tensor_mut());
            let layer = Layer { axes: vec![1], centred: true };
            let found = if groups == 1 {
                let dys = Operand::from(&dys);
                normkit::layer_norm_backward(&dys, &x.tensor(), &layer, &zeros, &ones, None, true, out)
            } else {
                normkit::group_norm_backward(&dys, &x.tensor(), 1, groups, &zeros, &ones, None, out)
            }
            .expect("valid");
            for j in 0..features {
                let [mut dot, mut sum] = [0.0; 2];
                for i in (j..rows * features).step_by(features) {
                    let [x, dy] = [&x, &dy].map(|of| of.data[i].to_f64());
                    (dot, sum) = (dot + x * dy, sum + dy);
                }
                assert_eq!([found.weight[j], found.bias[j]], [dot, sum], "{j} of {features}, {}", isa.name());
            }
        }
    }
    check::<f32>(45, 1, 0..45);
    check::<f32>(600, 1, 200..300);
    check::<bf16>(600, 1, 200..300);
    check::<f32>(24, 3, 0..24);
}

/// Rows of layers in which nothing flows beside some whose products are zero by underflow: more of both than of others, in long
/// rows and in short ones.
#[test]
fn masked_rows_beside_tiny_ones() {
    let (layer, tiny) = (Layer { axes: vec![1], centred: true }, Kind::Tiny.factor());
    for (isa, features) in Isa::available().into_iter().flat_map(|isa| [8, 45, 600].map(|n| (isa, n))) {
        let _guard = configure(1, isa);
        let (rows, layout) = (70, Layout::dense(2));
        let value = |k: u64, of: fn(Kind) -> f64| move |i: usize| of(Kind::of(i / features)) * eighths(1 + k, i);
        // Where dy is zero, x is tiny all the same.
        let x = Array::<f32>::new(
            &[rows, features],
            &layout,
            value(0, |kind| if kind == Kind::Plain { 1.0 } else { Kind::Tiny.factor() }),
        );
        let dy = Array::<f32>::new(&[rows, features], &layout, value(1, Kind::factor));
        let rstd: Vec<f64> =
            (0..rows).map(|row| if Kind::of(row) == Kind::Plain { 1.0 } else { tiny.recip() }).collect();
        let mut dx = Array::<f32>::output(&[rows, features], &layout);
        let (dys, out) = (dy.tensor(), &mut dx.tensor_mut());
        let (dys, zeros) = (Operand::from(&dys), vec![0.0; rows]);
        let found =
            normkit::layer_norm_backward(&dys, &x.tensor(), &layer, &zeros, &rstd, None, true, out).expect("valid");
        for j in 0..features {
            let [mut dot, mut sum] = [0.0; 2];
            for (row, rstd) in rstd.iter().enumerate() {
                let [x, dy] = [&x, &dy].map(|of| f64::from(of.data[row * features + j]));
                (dot, sum) = (dot + x * rstd * dy, sum + dy);
            }
            // Eighths and their products are added up exactly; beside them tiny terms, of up to 16, are lost.
            let errors = [found.weight[j] - dot, found.bias[j] - sum].map(f64::abs);
            let most = rows as f64 * 16.0 * tiny;
            assert!(errors.iter().all(|&error| error <= most), "{j} of {features}, {}: {errors:?}", isa.name());
        }
        for (row, rstd) in rstd.iter().enumerate() {
            let at = row * features..(row + 1) * features;
            let n = features as f64;
            let [x, dy] = [&x, &dy].map(|of| of.data[at.clone()].iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
            let mean = dy.iter().sum::<f64>() / n;
            let dot = x.iter().zip(&dy).map(|(x, dy)| x * rstd * dy).sum::<f64>() / n;
            for ((x, dy), &found) in x.iter().zip(&dy).zip(&dx.data[at]) {
                let terms = [dy * rstd, -mean * rstd, -x * rstd * dot * rstd];
                // Each term is a product of at most three factors, which are rounded themselves; two sums.
                let most = 5.0 * f64::from(f32::EPSILON) / 2.0 * terms.iter().map(|of| of.abs()).sum::<f64>();
                let error = (f64::from(found) - terms.iter().sum::<f64>()).abs();
                assert!(error <= most, "{row} of {features}, {}: {error:e}, {most:e}", isa.name());
            }
        }
    }
}

/// Products that cancel but for one that is lost beside the others, however they are scaled.
#[test]
fn tiny_products_that_cancel() {
    let (tiny, layout) = (0.5f64.powi(80), Layout::dense(2));
    let terms = [tiny, tiny * 0.5f64.powi(40), -tiny];
    let layer = Layer { axes: vec![1], centred: true };
    for isa in Isa::available() {
        let _guard = configure(1, isa);
        let shape = [3, 40];
        let x = Array::<f32>::new(&shape, &layout, |_| tiny);
        let dy = Array::<f32>::new(&shape, &layout, |i| terms[i / 40]);
        let mut dx = Array::<f32>::output(&shape, &layout);
        let (zeros, ones) = (vec![0.0; 40], vec![1.0; 40]);
        let (xs, dys, out) = (x.tensor(), dy.tensor(), &mut dx.tensor_mut());
        let of = normkit::batch_norm_backward(&dys, &xs, 1, &zeros, &ones, None, true, out).expect("valid");
        assert!(of.weight.iter().all(|&sum| sum == tiny * terms[1]), "{}", isa.name());
        let (zeros, ones, dys) = (&zeros[..3], &ones[..3], Operand::from(&dys));
        let of = normkit::layer_norm_backward(&dys, &xs, &layer, zeros, ones, None, true, out).expect("valid");
        assert!(of.weight.iter().all(|&sum| sum == tiny * terms[1]), "{}", isa.name());
    }
}

/// Channels that are constant, in all samples or in the later half, beside some whose squares are zero by underflow.
#[test]
fn constant_channels_beside_tiny_ones() {
    for (isa, half) in Isa::available().into_iter().flat_map(|isa| [(isa, false), (isa, true)]) {
        let _guard = configure(1, isa);
        for shape in SHAPES.into_iter().filter(|&[samples, ..]| !half || samples > 1) {
            let (layout, [samples, channels, after]) = (Layout::dense(3), shape);
            let channel = |i: usize| i / after % channels;
            let later = |i: usize| !half || 2 * (i / after / channels) >= samples;
            let value = |i: usize| match Kind::of(channel(i)) {
                Kind::Dead if later(i) => 0.1,
                Kind::Dead => eighths(1, i),
                Kind::Tiny if !later(i) => 0.0,
                kind => kind.factor() * eighths(1, i),
            };
            let x = Array::<f32>::new(&shape, &layout, value);
            let found = normkit::moments(&x.tensor(), &[0, 2]).expect("valid");
            let expected = normkit::reference::moments(&x.logical(), &shape, &[0, 2]);
            let count = (shape[0] * after) as f64;
            for c in 0..channels {
                let (m2, exact) = (found.m2[c], expected.var[c] * count);
                if Kind::of(c) == Kind::Dead && !half {
                    assert_eq!([found.mean[c], m2], [f64::from(0.1f32), 0.0], "{shape:?}, {c}, {}", isa.name());
                } else {
                    let error = (m2 / exact - 1.0).abs() / f64::from(f32::EPSILON);
                    assert!(error <= 4.0, "{shape:?}, {c}, {}, {half}: {error} ulp", isa.name());
                }
            }
        }
    }
}

/// Channels whose later half is tiny, after zeros. Squares about the first guess of its mean, 0, are not zero; those about the
/// next are, by underflow, so that what was found of zeros no longer holds. Of 256 samples the halves are blocks.
#[test]
fn tiny_ones_after_zeros() {
    let unit = 2f64.powi(-75);
    for isa in Isa::available() {
        let _guard = configure(1, isa);
        for shape in SHAPES.into_iter().chain([[256, 131, 1]]).filter(|&[samples, ..]| samples > 1) {
            let (layout, [samples, channels, after]) = (Layout::dense(3), shape);
            let later = |i: usize| 2 * (i / after / channels) >= samples;
            let value =
                |i: usize| if later(i) { unit * (2.0 + normal(1, i).clamp(-1.0, 1.0).round() / 2.0) } else { 0.0 };
            let x = Array::<f32>::new(&shape, &layout, value);
            let found = normkit::moments(&x.tensor(), &[0, 2]).expect("valid");
            let expected = normkit::reference::moments(&x.logical(), &shape, &[0, 2]);
            for c in 0..channels {
                let exact = expected.var[c] * (samples * after) as f64;
                let error = (found.m2[c] / exact - 1.0).abs() / f64::from(f32::EPSILON);
                assert!(error <= 4.0, "{shape:?}, {c}, {}: {error} ulp", isa.name());
            }
        }
    }
}
