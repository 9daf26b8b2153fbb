//! What follows the affine map: activations and their slopes, the same bits on every instruction set.

use crate::simd::{Real, Simd};

/// An activation, applied after a residual has been added.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Activation {
    /// z
    #[default]
    Identity,
    /// max(z, 0)
    Relu,
    /// z where it is positive, else 0.1·z
    LeakyRelu,
    /// z / (1 + e^−z)
    Silu,
}

/// The slope of [`Activation::LeakyRelu`] below zero.
const LEAK: f64 = 0.1;

impl Activation {
    /// The activation called `name`.
    pub fn named(name: &str) -> Option<Activation> {
        [("relu", Activation::Relu), ("leaky_relu", Activation::LeakyRelu), ("silu", Activation::Silu)]
            .into_iter()
            .find_map(|(of, activation)| (of == name).then_some(activation))
    }

    /// Its value.
    #[inline(always)]
    pub(crate) fn of<T: Real, S: Simd<T>>(self, s: S, z: S::V) -> S::V {
        let zero = s.splat(T::ZERO);
        match self {
            Activation::Identity => z,
            // NaN is not below zero, and stays.
            Activation::Relu => s.positive(s.sub(zero, z), zero, z),
            Activation::LeakyRelu => s.positive(s.sub(zero, z), s.mul(z, s.splat(T::from_f64(LEAK))), z),
            Activation::Silu => s.mul(z, sigmoid(s, z)),
        }
    }

    /// `dy` times its slope at `z`.
    #[inline(always)]
    pub(crate) fn pull<T: Real, S: Simd<T>>(self, s: S, z: S::V, dy: S::V) -> S::V {
        match self {
            Activation::Identity => dy,
            // Open where z is NaN: its gradient is not hidden behind a zero.
            Activation::Relu => s.positive_or_nan(z, dy, s.splat(T::ZERO)),
            Activation::LeakyRelu => s.positive(z, dy, s.mul(dy, s.splat(T::from_f64(LEAK)))),
            Activation::Silu => {
                let (one, sigmoid) = (s.splat(T::from_f64(1.0)), sigmoid(s, z));
                s.mul(dy, s.mul(sigmoid, s.add(one, s.mul(z, s.sub(one, sigmoid)))))
            }
        }
    }

    /// [`Activation::pull`] in float64.
    pub(crate) fn pull_wide(self, z: f64, dy: f64) -> f64 {
        match self {
            Activation::Identity => dy,
            Activation::Relu => {
                if z <= 0.0 {
                    0.0
                } else {
                    dy
                }
            }
            Activation::LeakyRelu => {
                if z > 0.0 {
                    dy
                } else {
                    dy * LEAK
                }
            }
            Activation::Silu => {
                let sigmoid = 1.0 / (1.0 + (-z).exp());
                dy * sigmoid * (1.0 + z * (1.0 - sigmoid))
            }
        }
    }
}

/// 1 / (1 + e^−z), where e^−z stays within the normal range.
#[inline(always)]
fn sigmoid<T: Real, S: Simd<T>>(s: S, z: S::V) -> S::V {
    let one = s.splat(T::from_f64(1.0));
    s.div(one, s.add(one, exp(s, s.sub(s.splat(T::ZERO), z))))
}

/// e^x to a few ulp, for x cut off at ± [`Real::LARGEST_POWER`]: x = n·ln 2 + r, a Taylor series of e^r, times 2^n.
#[inline(always)]
fn exp<T: Real, S: Simd<T>>(s: S, x: S::V) -> S::V {
    let of = |x: f64| T::from_f64(x);
    let (most, least) = (s.splat(of(T::LARGEST_POWER)), s.splat(of(-T::LARGEST_POWER)));
    let x = s.positive(s.sub(x, most), most, x);
    let x = s.positive(s.sub(least, x), least, x);
    let magic = s.add(s.mul(x, s.splat(of(std::f64::consts::LOG2_E))), s.splat(T::MAGIC));
    let n = s.sub(magic, s.splat(T::MAGIC));
    let [high, low] = T::LN2;
    let r = s.sub(s.sub(x, s.mul(n, s.splat(of(high)))), s.mul(n, s.splat(of(low))));
    let mut factorial = 1.0;
    for k in 1..T::TERMS {
        factorial *= k as f64;
    }
    let mut sum = s.splat(of(1.0 / factorial));
    for k in (1..T::TERMS).rev() {
        factorial /= k as f64;
        sum = s.add(s.mul(sum, r), s.splat(of(1.0 / factorial)));
    }
    s.scale(sum, magic)
}
