//! Adaptive instance normalization (Huang & Belongie 2017): the content takes the style's mean and deviation.

use super::group::{Grouping, affine_per_sample, group_norm_fused, group_norm_fused_backward};
use super::mechanics::{Extras, Operand};
use super::{Statistics, channels, moments};
use crate::element::Element;
use crate::error::{Error, Result, gathered, shape_text};
use crate::tensor::{Tensor, TensorMut};

/// Both sides' statistics, (samples, channels) in row-major order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Adapted {
    /// The content's.
    pub content: Statistics,
    /// The style's means.
    pub style_mean: Vec<f64>,
    /// sqrt(var + eps) of the style.
    pub style_std: Vec<f64>,
    /// Elements of a statistic of the style.
    pub style_count: usize,
}

fn samples<E>(x: &Tensor<E>, axis: usize) -> usize {
    x.shape.get(usize::from(axis == 0)).copied().unwrap_or(0)
}

/// y = style_std·(content − mean)·rstd + style_mean, both variances with `count − ddof`.
///
/// # Errors
/// Samples or channels of `style` are not those of `content`, `y` does not fit, a statistic has too few elements.
pub fn adaptive_instance_norm<E: Element, S: Element>(
    content: &Tensor<E>,
    style: &Tensor<S>,
    axis: usize,
    eps: f64,
    ddof: usize,
    y: &mut TensorMut<E>,
) -> Result<Adapted> {
    let channels = channels(content, axis)?;
    let cells = (samples(content, axis), channels);
    if style.shape.len() < 2 || (samples(style, axis), style.shape.get(axis).copied().unwrap_or(0)) != cells {
        let expected = format!("have the {} samples and {} channels of content", cells.0, cells.1);
        return Err(Error::new("style", expected, format!("shape {}", shape_text(&style.shape))));
    }
    let axes: Vec<usize> = (0..style.shape.len()).filter(|&i| i != axis && i != usize::from(axis == 0)).collect();
    let of_style = moments(style, &axes)?;
    for (name, count) in [("content", content.size().checked_div(cells.0 * cells.1)), ("style", Some(of_style.count))] {
        if count.is_some_and(|count| count <= ddof) && content.size() > 0 {
            return Err(Error::new(name, format!("have more than {ddof} values per channel"), count.unwrap_or(0)));
        }
    }
    // Statistics of `moments` are in the order of axes; ours have samples first.
    let at = |i: usize| if axis == 0 { i % channels * cells.0 + i / channels } else { i };
    let all = cells.0 * cells.1;
    let style_mean = gathered((0..all).map(|i| of_style.mean[at(i)]))?;
    let deviation = |m2: f64| (m2 / (of_style.count - ddof) as f64 + eps).sqrt();
    let style_std = gathered((0..all).map(|i| deviation(of_style.m2[at(i)])))?;
    let grouping = Grouping { groups: channels, ddof: ddof as f64, per_sample: true };
    let (scale, shift) = (Some(&style_std[..]), Some(&style_mean[..]));
    let statistics = group_norm_fused(content, axis, grouping, scale, shift, eps, &Extras::default(), y)?;
    Ok(Adapted { content: statistics, style_mean, style_std, style_count: of_style.count })
}

/// dcontent and dstyle.
///
/// # Errors
/// An argument does not fit.
pub fn adaptive_instance_norm_backward<E: Element, S: Element>(
    dy: &Operand,
    content: &Tensor<E>,
    style: &Tensor<S>,
    axis: usize,
    adapted: &Adapted,
    ddof: usize,
    dcontent: &mut TensorMut<E>,
    dstyle: &mut TensorMut<S>,
) -> Result<()> {
    let channels = channels(content, axis)?;
    let Adapted { content: Statistics { mean, rstd, .. }, style_mean, style_std, style_count } = adapted;
    let grouping = Grouping { groups: channels, ddof: ddof as f64, per_sample: true };
    let extras = Extras::default();
    let weight = Some(&style_std[..]);
    let gradients = group_norm_fused_backward::<E, E>(
        dy, content, axis, grouping, mean, rstd, weight, None, &extras, dcontent, None,
    )?;
    // A style's gradient is an affine map of the style: of dmean/M and dstd·(style − mean)/((M − ddof)·std).
    let divisor = (*style_count - ddof) as f64;
    let of = |dstd: f64, std: f64| if std == 0.0 { 0.0 } else { dstd / (divisor * std) };
    let scale = gathered(gradients.weight.iter().zip(style_std).map(|(&dstd, &std)| of(dstd, std)))?;
    let shift = gathered(gradients.bias.iter().map(|&dmean| dmean / *style_count as f64))?;
    affine_per_sample(style, axis, style_mean, &scale, &shift, dstyle)
}
