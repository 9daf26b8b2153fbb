//! Norms of activations that normalize in place: batch, group, layer, RMS norm and batch renormalization.

use arbitrary::{Result, Unstructured};
use normkit::reference::Statistics;
use normkit::{Activation, Bounds};

use crate::common::{Layout, Values, parameters, position, samples};
use crate::draw::{self, rarely};

mod calls;
mod check;

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Statistics of a channel over samples and positions.
    Batch,
    /// Given statistics: inference, and the gradient through it.
    Frozen,
    /// The batch's moments and gradients by parts, as shards of a batch exchange them.
    Sharded,
    /// Batch renormalization within these bounds.
    Renorm(Bounds),
    /// So many groups of channels, with a parameter for each channel or for each of each sample, and a `ddof`.
    Group(usize, bool, f64),
    /// Over any axes, centred or not.
    Layer(bool),
}

impl Kind {
    /// The name of the function.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Batch => "batch_norm",
            Kind::Frozen => "batch_norm, frozen",
            Kind::Sharded => "batch_norm, in shards",
            Kind::Renorm(_) => "batch_renorm",
            Kind::Group(..) => "group_norm",
            Kind::Layer(true) => "layer_norm",
            Kind::Layer(false) => "rms_norm",
        }
    }

    /// Whether statistics need more than one value.
    fn trains(self) -> bool {
        matches!(self, Kind::Batch | Kind::Renorm(_))
    }
}

/// An argument that is made wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it all")]
pub enum Spoil {
    Weight,
    Bias,
    Eps,
    Axis,
    Groups,
    Out,
    Residual,
    Dy,
    Mean,
    Dx,
}

impl Spoil {
    /// Whether it is found by the backward pass only.
    fn is_backward(self) -> bool {
        matches!(self, Spoil::Dy | Spoil::Mean | Spoil::Dx)
    }
}

/// Forward, then backward.
#[derive(Clone, Debug)]
pub struct Call {
    /// Which norm.
    pub kind: Kind,
    /// Of x.
    pub shape: Vec<usize>,
    /// The channels'.
    pub axis: usize,
    /// The normalized axes of a layer norm.
    pub axes: Vec<usize>,
    /// Of x, dy, residual, y, dx, dresidual.
    pub layouts: [Layout; 6],
    /// Of x.
    pub values: Values,
    /// In x and in dy.
    pub outliers: [Vec<(usize, f64)>; 2],
    /// What dy is multiplied by.
    pub scale: f64,
    /// Weight and bias.
    pub affine: (bool, bool),
    /// Whether some weights are 0.
    pub zeros: bool,
    /// Added to the variance.
    pub eps: f64,
    /// Applied last.
    pub activation: Activation,
    /// Whether there is one.
    pub residual: bool,
    /// The share of elements that count.
    pub mask: Option<f64>,
    /// Of all numbers.
    pub seed: u64,
    /// What is wrong with the call.
    pub spoil: Option<Spoil>,
}

impl Call {
    /// Any.
    pub fn draw(u: &mut Unstructured) -> Result<Call> {
        let budget = draw::budget(u)?;
        let which = u.int_in_range(0..=9u8)?;
        let least = if which == 4 || which == 5 { 2 } else { 1 };
        let rank = u.int_in_range(least..=4)?;
        let shape = draw::shape(u, rank, budget)?;
        let axis = if u.ratio(1, 2)? { 1.min(rank - 1) } else { u.choose_index(rank)? };
        let count = shape.iter().product::<usize>().checked_div(shape[samples(axis).min(rank - 1)] * shape[axis]);
        let kind = match which {
            0 | 1 => Kind::Batch,
            2 => Kind::Frozen,
            3 => Kind::Sharded,
            4 => Kind::Group(draw::divisor(u, shape[axis])?, false, 0.0),
            // Instance norm, with all that AdaIN makes of it.
            5 => Kind::Group(shape[axis].max(1), u.arbitrary()?, f64::from(u.ratio(1, 2)? && count > Some(1))),
            6 | 7 => Kind::Layer(true),
            8 => Kind::Layer(false),
            _ => Kind::Renorm(Bounds {
                r: *u.choose(&[1.0, 1.5, 3.0, f64::INFINITY])?,
                d: *u.choose(&[0.0, 0.5, 5.0, f64::INFINITY])?,
            }),
        };
        let mut axes = Vec::new();
        for other in 0..rank {
            if (matches!(kind, Kind::Layer(_)) && (other + 1 == rank || rarely(u, 2)?)) != rarely(u, 8)? {
                axes.push(other);
            }
        }
        let values = draw::values(u)?;
        let eps = *u.choose(&[1e-5, 1e-5, 1e-3, 0.0])?;
        let batch = matches!(kind, Kind::Batch | Kind::Frozen);
        let fused = batch || matches!(kind, Kind::Group(..));
        let activations = [Activation::Identity, Activation::Relu, Activation::LeakyRelu, Activation::Silu];
        let spoils = {
            use Spoil::{Axis, Bias, Dx, Dy, Eps, Groups, Mean, Out, Residual, Weight};
            [Weight, Bias, Eps, Axis, Groups, Out, Residual, Dy, Mean, Dx]
        };
        let mut call = Call {
            kind,
            axis,
            axes,
            layouts: draw::layouts(u, rank)?,
            values,
            outliers: [draw::outliers(u)?, draw::outliers(u)?],
            scale: *u.choose(&[1.0, 1.0, 1.0, 2f64.powi(40), 2f64.powi(-40), 0.0])?,
            affine: u.arbitrary()?,
            zeros: rarely(u, 8)?,
            // Of subnormals 1/σ is infinite in their own type: they need an eps.
            eps: if values == Values::Subnormal { 1e-5 } else { eps },
            activation: if fused { *u.choose(&activations)? } else { Activation::Identity },
            residual: fused && rarely(u, 3)?,
            mask: if batch && rarely(u, 4)? { Some(*u.choose(&[0.5, 0.9, 0.1, 0.0])?) } else { None },
            seed: u.arbitrary()?,
            spoil: if rarely(u, 12)? { Some(*u.choose(&spoils)?) } else { None },
            shape,
        };
        call.spoil = call.spoil.filter(|&spoil| call.can_spoil(spoil));
        Ok(call)
    }

    /// Whether the call has such an argument.
    fn can_spoil(&self, spoil: Spoil) -> bool {
        match spoil {
            Spoil::Weight => self.affine.0,
            Spoil::Bias => self.affine.1 && self.kind != Kind::Layer(false),
            Spoil::Eps => !matches!(self.kind, Kind::Frozen | Kind::Sharded),
            Spoil::Groups => matches!(self.kind, Kind::Group(..)),
            Spoil::Residual => self.residual,
            Spoil::Axis | Spoil::Out | Spoil::Dy | Spoil::Mean | Spoil::Dx => true,
        }
    }

    /// The argument that an error must name.
    fn culprit(&self, spoil: Spoil) -> &'static str {
        match spoil {
            Spoil::Weight => "weight",
            Spoil::Bias => "bias",
            Spoil::Eps => "eps",
            Spoil::Axis => "axis",
            Spoil::Groups => "num_groups",
            Spoil::Out | Spoil::Dx => "out",
            Spoil::Residual => "residual",
            Spoil::Dy => "dy",
            Spoil::Mean => "mean",
        }
    }

    /// Elements of x.
    fn size(&self) -> usize {
        self.shape.iter().product()
    }

    /// Which statistic and which parameter each element has, and how many there are of both.
    fn indices(&self) -> ([Vec<usize>; 2], [usize; 2]) {
        let Call { shape, axis, .. } = self;
        let all = |of: &dyn Fn(usize) -> usize| (0..self.size()).map(of).collect::<Vec<_>>();
        let channel = |i: usize| position(i, shape, *axis);
        let sample = |i: usize| position(i, shape, samples(*axis));
        let channels = shape[*axis];
        match self.kind {
            Kind::Group(groups, per_sample, _) => {
                let (n, width) = (shape[samples(*axis)], (channels / groups).max(1));
                let parameter = |i| if per_sample { sample(i) * channels + channel(i) } else { channel(i) };
                let indices = [all(&|i| sample(i) * groups + channel(i) / width), all(&parameter)];
                (indices, [n * groups, if per_sample { n * channels } else { channels }])
            }
            Kind::Layer(_) => {
                let (inner, outer): (Vec<_>, Vec<_>) = (0..shape.len()).partition(|axis| self.axes.contains(axis));
                let along =
                    |axes: &[usize], i| axes.iter().fold(0, |t, &axis| t * shape[axis] + position(i, shape, axis));
                let count = |axes: &[usize]| axes.iter().map(|&axis| shape[axis]).product();
                ([all(&|i| along(&outer, i)), all(&|i| along(&inner, i))], [count(&outer), count(&inner)])
            }
            _ => ([all(&channel), all(&channel)], [channels; 2]),
        }
    }

    /// Weights or biases.
    fn parameters(&self, seed: u64, n: usize) -> Vec<f64> {
        let zero = |i: usize| self.zeros && i.is_multiple_of(3);
        parameters(self.seed ^ seed, n).into_iter().enumerate().map(|(i, x)| if zero(i) { 0.0 } else { x }).collect()
    }

    /// True where an element counts: one for each that is not on the channels' axis.
    fn mask_of(&self) -> Option<Vec<bool>> {
        let others = self.size().checked_div(self.shape[self.axis]).unwrap_or(0);
        let of = |share: f64| (0..others).map(|i| crate::uniform(self.seed ^ 9, i) < share).collect();
        self.mask.map(of)
    }

    /// What given statistics are: those of x, all off by as much as a standard deviation.
    fn given(&self, of: &Statistics) -> Statistics {
        let mean = of.mean.iter().zip(&of.var).map(|(mean, var)| mean + var.sqrt()).collect();
        let rstd = of.rstd.iter().map(|rstd| rstd * 0.75).collect();
        Statistics { mean, rstd, ..of.clone() }
    }
}
