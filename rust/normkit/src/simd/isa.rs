//! Which instruction set runs: detected once, forced by `NORMKIT_ISA`.

use std::sync::atomic::{AtomicU8, Ordering};

use super::baseline::Baseline;
use super::{Kernel, Real, Simd};
use crate::error::{Error, Result};

#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Name {
    Baseline = 1,
    #[cfg(target_arch = "x86_64")]
    Avx2 = 2,
    #[cfg(target_arch = "x86_64")]
    Avx512 = 3,
}

/// An instruction set that this machine has. Only [`Isa::available`] and [`Isa::named`] make one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Isa(Name);

impl Isa {
    /// What this machine has, narrowest first; never empty.
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut)] // only `Baseline` elsewhere than on x86-64
        let mut isas = vec![Isa(Name::Baseline)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
                isas.push(Isa(Name::Avx2));
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                {
                    isas.push(Isa(Name::Avx512));
                }
            }
        }
        isas
    }

    /// The instruction set called `name`.
    /// # Errors
    /// This machine has no such instruction set.
    pub fn named(name: &str) -> Result<Isa> {
        let available = Isa::available();
        available.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| {
            let names = available.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ");
            Error::new("NORMKIT_ISA", format!("be one of {names} (what this machine has)"), format!("'{name}'"))
        })
    }

    /// The instruction set in force: what was forced, else `NORMKIT_ISA`, else the widest.
    /// # Errors
    /// `NORMKIT_ISA` names none of this machine.
    pub fn current() -> Result<Isa> {
        match CURRENT.load(Ordering::Relaxed) {
            1 => Ok(Isa(Name::Baseline)),
            #[cfg(target_arch = "x86_64")]
            2 => Ok(Isa(Name::Avx2)),
            #[cfg(target_arch = "x86_64")]
            3 => Ok(Isa(Name::Avx512)),
            _ => {
                let available = Isa::available();
                let isa = match std::env::var_os("NORMKIT_ISA") {
                    Some(name) if !name.is_empty() => Isa::named(&name.to_string_lossy())?,
                    _ => available[available.len() - 1],
                };
                force(isa);
                Ok(isa)
            }
        }
    }

    /// `baseline`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Name::Baseline => "baseline",
            #[cfg(target_arch = "x86_64")]
            Name::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Name::Avx512 => "avx512",
        }
    }
}

static CURRENT: AtomicU8 = AtomicU8::new(0);

/// Use `isa` from now on, in the whole process. Results do not change, only their speed.
pub fn force(isa: Isa) {
    CURRENT.store(isa.0 as u8, Ordering::Relaxed);
}

/// Run `kernel` with the instructions of `isa`.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
pub(super) fn dispatch<T: Real, K: Kernel<T>>(isa: Isa, kernel: K) -> K::Output
where
    Avx512: Simd<T>,
    Avx2: Simd<T>,
    Baseline: Simd<T>,
{
    match isa.0 {
        Name::Baseline => kernel.eval(Baseline),
        // SAFETY: an `Isa` exists only where `Isa::available` has detected these features.
        Name::Avx2 => unsafe { kernel.on_avx2() },
        // SAFETY: as above.
        Name::Avx512 => unsafe { kernel.on_avx512() },
    }
}

/// Run `kernel` with the instructions of `isa`.
#[inline(always)]
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn dispatch<T: Real, K: Kernel<T>>(_isa: Isa, kernel: K) -> K::Output
where
    Baseline: Simd<T>,
{
    kernel.eval(Baseline)
}

/// Kernels with the instructions of one set. These are methods, which the compiler takes to be of the module that the kernel's type is
/// of, so that several cores compile them; functions would all be of this one.
#[cfg(target_arch = "x86_64")]
pub(super) trait On<T: Real>: Kernel<T> + Sized {
    /// # Safety
    /// The processor has AVX2 and F16C.
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn on_avx2(self) -> Self::Output
    where
        Avx2: Simd<T>,
    {
        debug_assert!(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c"));
        // SAFETY: AVX2 with F16C is enabled in this function, and its caller has checked that the processor has it.
        self.eval(unsafe { Avx2::assume() })
    }

    /// # Safety
    /// The processor has AVX-512: F, VL, DQ and BW.
    #[target_feature(enable = "avx2,avx512f,avx512vl,avx512dq,avx512bw")]
    unsafe fn on_avx512(self) -> Self::Output
    where
        Avx512: Simd<T>,
    {
        debug_assert!(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl"));
        debug_assert!(is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512bw"));
        // SAFETY: AVX-512 is enabled in this function, and its caller has checked that the processor has it.
        self.eval(unsafe { Avx512::assume() })
    }
}

#[cfg(target_arch = "x86_64")]
impl<T: Real, K: Kernel<T>> On<T> for K {}
