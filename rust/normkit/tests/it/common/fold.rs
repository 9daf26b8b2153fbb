//! Folding against the oracle, on one input.

use normkit::{BatchNormOf, ConvOf, reference};

use super::judge::{Check, close, rounded_once};
use super::{Array, Float, Layout, normal, parameters};

pub fn check_fold<E: Float>(
    (groups, inputs, outputs, kernel, transposed): (usize, usize, usize, Vec<usize>, bool),
    given: [bool; 3],
    seed: u64,
) -> Check {
    let shape = match transposed {
        true => [&[groups * inputs, outputs], &kernel[..]].concat(),
        false => [&[groups * outputs, inputs], &kernel[..]].concat(),
    };
    let channels = groups * outputs;
    let layout = Layout::dense(shape.len());
    let w = Array::<E>::new(&shape, &layout, |i| normal(seed, i));
    let vectors: Vec<Vec<f64>> = (1..5).map(|k| parameters(seed ^ k, channels)).collect();
    let optional = |k: usize| given[k].then_some(&vectors[k][..]);
    let var: Vec<f64> = parameters(seed, channels).iter().map(|x| x * x).collect();
    let mean = &vectors[3];
    let norm = BatchNormOf { mean, var: &var, weight: optional(0), bias: optional(1), eps: 1e-3 };
    let mut folded = vec![E::from_f64(0.0); w.data.len()];
    let size = shape.iter().product();
    let conv = ConvOf { groups, transposed };
    let bias = normkit::fold_conv_bn(&w.data[..size], &shape, optional(2), conv, norm, &mut folded[..size])?;
    let (expected, expected_bias) = reference::fold_conv_bn(
        &w.logical(),
        &shape,
        optional(2),
        groups,
        transposed,
        mean,
        &var,
        optional(0),
        optional(1),
        1e-3,
    );
    // One rounding to the element type after a few in float64.
    for i in 0..size {
        rounded_once("w", i, folded[i], expected[i], expected[i].abs() * 4.0 * f64::EPSILON)?;
    }
    for c in 0..channels {
        close("b", c, bias[c], expected_bias[c], 16.0 * f64::EPSILON * (2.0 + expected_bias[c].abs()) * 40.0)?;
    }

    // And the folded convolution does what both do, one after the other.
    let input: Vec<f64> = (0..groups * inputs).map(|i| normal(seed ^ 9, i)).collect();
    let at = |w: &[f64], b: Option<&[f64]>| at_one_place(w, &shape, b, &input, groups, transposed);
    let plain = at(&w.logical(), optional(2));
    let rstd: Vec<f64> = var.iter().map(|&var| normkit::rstd(var, 1e-3)).collect();
    let both = |o: usize| {
        let place = [1, channels];
        let y = &plain[o * channels..][..channels];
        reference::batch_norm_inference(y, &place, 1, mean, &rstd, optional(0), optional(1))
    };
    let folded: Vec<f64> = folded[..size].iter().map(|w| w.to_f64()).collect();
    let once = at(&folded, Some(&bias));
    for o in 0..once.len() / channels.max(1) {
        for (c, &both) in both(o).iter().enumerate() {
            close("y", c, once[o * channels + c], both, 100.0 * 8.0 * E::ULP * (1.0 + both.abs()))?;
        }
    }
    Ok(())
}

/// What a convolution gives for one input position and each position of its kernel, of each output channel.
fn at_one_place(
    w: &[f64],
    shape: &[usize],
    bias: Option<&[f64]>,
    input: &[f64],
    groups: usize,
    transposed: bool,
) -> Vec<f64> {
    let kernel: usize = shape[2..].iter().product();
    let (ins, outs) = match transposed {
        true => (shape[0] / groups, shape[1]),
        false => (shape[1], shape[0] / groups),
    };
    let mut y = Vec::new();
    for k in 0..kernel {
        for o in 0..groups * outs {
            let group = o / outs;
            let term = |i: usize| {
                let at = match transposed {
                    true => ((group * ins + i) * outs + o % outs) * kernel + k,
                    false => (o * ins + i) * kernel + k,
                };
                input[group * ins + i] * w[at]
            };
            y.push((0..ins).map(term).sum::<f64>() + bias.map_or(0.0, |bias| bias[o]));
        }
    }
    y
}
