//! Compares numbers with what is expected of them, and remembers how close it was and which bits it has seen.

use std::cell::Cell;

use proptest::prelude::*;

use super::Float;

/// What a check returns.
pub type Check<T = ()> = Result<T, TestCaseError>;

/// What this thread's checks have seen since [`start`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// The largest error, in units of its tolerance.
    pub worst: f64,
    /// What had it.
    pub what: &'static str,
    /// Numbers that were compared.
    pub numbers: u64,
    /// A hash of them all, in order; the same for every NaN.
    pub bits: u64,
}

const NOTHING: Seen = Seen { worst: 0.0, what: "", numbers: 0, bits: 0xcbf2_9ce4_8422_2325 };

thread_local! {
    static SEEN: Cell<Seen> = const { Cell::new(NOTHING) };
}

/// Forgets what was seen.
pub fn start() {
    SEEN.set(NOTHING);
}

/// What was seen.
pub fn seen() -> Seen {
    SEEN.get()
}

/// Takes note of a number.
pub fn note(what: &'static str, found: f64, error: f64, tolerance: f64) {
    let mut seen = SEEN.get();
    let bits = if found.is_nan() { f64::NAN.to_bits() } else { found.to_bits() };
    seen.bits = (seen.bits ^ bits).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    seen.numbers += 1;
    let share = if error == 0.0 { 0.0 } else { error / tolerance };
    if share > seen.worst {
        (seen.worst, seen.what) = (share, what);
    }
    SEEN.set(seen);
}

/// |found − expected| ≤ tolerance.
pub fn close(what: &'static str, i: usize, found: f64, expected: f64, tolerance: f64) -> Check {
    let error = (found - expected).abs();
    note(what, found, error, tolerance);
    // Not `>`: NaN must fail.
    prop_assert!(error <= tolerance, "{what}[{i}] = {found:e}, expected {expected:e} ± {tolerance:e}");
    Ok(())
}

/// The same, where both may be infinite.
pub fn close_or_equal(what: &'static str, i: usize, found: f64, expected: f64, tolerance: f64) -> Check {
    if found == expected {
        note(what, found, 0.0, tolerance);
        return Ok(());
    }
    close(what, i, found, expected, tolerance)
}

/// The distance between neighbours of the type at |value|.
pub fn spacing<E: Float>(value: f64) -> f64 {
    (value.abs().log2().floor().exp2() * E::ULP).max(E::SMALLEST * E::ULP)
}

/// Within half a spacing of the element type, as everything before the one rounding is in float64, and `wide`: the error
/// of that, absolute.
pub fn rounded_once<E: Float>(what: &'static str, i: usize, found: E, expected: f64, wide: f64) -> Check {
    let (value, tolerance) = (found.to_f64(), spacing::<E>(expected) / 2.0 + wide);
    if value == E::from_f64(expected).to_f64() {
        note(what, value, 0.0, tolerance);
        return Ok(());
    }
    close(what, i, value, expected, tolerance)
}
