//! Count, mean and sum of squared deviations: mergeable statistics.

/// `count` values with mean `mean` and `m2` = Σ(x − mean)².
///
/// ```
/// use normkit::Moments;
/// let (a, b) = (Moments { count: 2.0, mean: 1.5, m2: 0.5 }, Moments { count: 1.0, mean: 3.0, m2: 0.0 });
/// assert_eq!(a.merge(b), Moments { count: 3.0, mean: 2.0, m2: 2.0 }); // of 1, 2, 3
/// ```
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Moments {
    /// How many values; a whole number.
    pub count: f64,
    /// Their mean; 0 where there are none.
    pub mean: f64,
    /// The sum of squared deviations from it; never negative.
    pub m2: f64,
}

impl Moments {
    /// The moments of both sets together (Chan, Golub & LeVeque 1983, equations 2.1).
    #[inline(always)]
    #[must_use]
    pub fn merge(self, other: Moments) -> Moments {
        if self.count == 0.0 {
            return other;
        }
        if other.count == 0.0 {
            return self;
        }
        self.merge_share(other, other.count / (self.count + other.count))
    }

    /// [`Moments::merge`] where the share of `other` in the whole is known: 1 if `self` is empty.
    #[inline(always)]
    pub(crate) fn merge_share(self, other: Moments, share: f64) -> Moments {
        let count = self.count + other.count;
        let delta = other.mean - self.mean;
        Moments {
            count,
            mean: self.mean + delta * share,
            m2: self.m2 + other.m2 + delta * delta * (self.count * share),
        }
    }

    /// The variance `m2 / (count − ddof)`; NaN where there are no more than `ddof` values.
    #[inline(always)]
    pub fn var(&self, ddof: f64) -> f64 {
        if self.count > ddof { self.m2 / (self.count - ddof) } else { f64::NAN }
    }
}

/// A sum that keeps what rounding takes from it, and gives it back (Kahan 1965).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    #[inline(always)]
    pub(crate) fn add(&mut self, term: f64) {
        let term = term - self.lost;
        let sum = self.sum + term;
        self.lost = (sum - self.sum) - term;
        self.sum = sum;
    }

    #[inline(always)]
    pub(crate) fn value(self) -> f64 {
        self.sum
    }
}
