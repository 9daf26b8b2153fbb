//! Random calls of normkit's functions, compared with the oracle.
//!
//! One mechanism for three uses: a call is drawn from bytes ([`Case::from_bytes`]), which a fuzzer changes (`make
//! fuzz`), the number of a case gives (`make differential`) or a file of the corpus holds (`cargo test`).
//!
//! Each call is made twice, with different threads and instruction sets. It must not panic, must give the oracle's
//! numbers within tolerances derived in [`tolerance`], the same bits both times, and write nothing but its outputs. A
//! call with a wrong argument must be refused for that argument and write nothing at all.

// Arrays, layouts, values and checks of the core's tests: `pub` for the modules here.
#[path = "../../normkit/tests/it/common/mod.rs"]
#[expect(missing_docs, reason = "those of tests")]
pub mod common;

pub mod adaptive;
pub mod differential;
pub mod draw;
pub mod norms;
pub mod others;
pub mod tolerance;

use arbitrary::{Result, Unstructured};
use half::{bf16, f16};
use normkit::Isa;

use common::judge::{Check, Seen, seen, start};
use common::{Float, configure, uniform};

/// Types of arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say it all")]
pub enum Type {
    F16,
    Bf16,
    F32,
    F64,
}

impl Type {
    fn draw(u: &mut Unstructured) -> Result<Type> {
        use Type::{Bf16, F16, F32, F64};
        u.choose(&[F32, F32, F32, F64, F64, F16, Bf16]).copied()
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Type::F16 => "f16",
            Type::Bf16 => "bf16",
            Type::F32 => "f32",
            Type::F64 => "f64",
        }
    }
}

/// What is called.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "their names say it all")]
pub enum Function {
    Norm(norms::Call),
    Adaptive(adaptive::Call),
    Other(others::Call),
}

/// A call: what, on which types (of x, and of dy or a second array), with which threads and instruction sets.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is called.
    pub function: Function,
    /// Types of x and of dy.
    pub types: [Type; 2],
    /// Threads and instruction sets.
    pub configurations: [(usize, &'static str); 2],
}

/// A check for each pair of types.
pub trait Checked {
    /// Makes the call and compares.
    ///
    /// # Errors
    /// What is wrong with the results.
    fn check<E: Float, G: Float>(&self) -> Check
    where
        E::Compute: normkit::Element;
}

/// Bytes that a case of a differential run is drawn from: more than any needs.
const BYTES: usize = 512;

impl Case {
    /// The case that these bytes say.
    ///
    /// # Errors
    /// There are too few of them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Case> {
        let u = &mut Unstructured::new(bytes);
        let types = [Type::draw(u)?, Type::draw(u)?];
        let types = if u.ratio(2, 3)? { [types[0]; 2] } else { types };
        let isas = Isa::available();
        let mut configuration = |threads: &[usize]| -> Result<_> { Ok((*u.choose(threads)?, u.choose(&isas)?.name())) };
        let configurations = [configuration(&[1])?, configuration(&[1, 2, 3, 7])?];
        let function = match u.int_in_range(0..=15u8)? {
            0..=9 => Function::Norm(norms::Call::draw(u)?),
            10 => Function::Adaptive(adaptive::Call::draw(u)?),
            _ => Function::Other(others::Call::draw(u)?),
        };
        Ok(Case { function, types, configurations })
    }

    /// The bytes of case number `n` of a seed.
    pub fn bytes(seed: u64, n: u64) -> Vec<u8> {
        let seed = seed.wrapping_add(n.wrapping_mul(0xd134_2543_de82_ef95));
        (0..BYTES).map(|i| (uniform(seed, i) * 256.0) as u8).collect()
    }

    /// The name of what is called.
    pub fn name(&self) -> &'static str {
        match &self.function {
            Function::Norm(call) => call.kind.name(),
            Function::Adaptive(_) => "adaptive_instance_norm",
            Function::Other(call) => call.name(),
        }
    }

    /// How its first array lies in memory.
    pub fn layout(&self) -> &'static str {
        match &self.function {
            Function::Norm(call) => draw::kind(&call.layouts[0]),
            Function::Adaptive(call) => draw::kind(&call.layouts[0]),
            Function::Other(call) => call.layout(),
        }
    }

    /// Makes both calls.
    ///
    /// # Errors
    /// What is wrong with the results.
    pub fn check(&self) -> Check<Seen> {
        let mut first = None;
        for (threads, isa) in self.configurations {
            let isa = Isa::named(isa).expect("drawn from those available");
            let guard = configure(threads, isa);
            start();
            match &self.function {
                Function::Norm(call) => self.dispatch(call),
                Function::Adaptive(call) => self.dispatch(call),
                Function::Other(call) => self.dispatch(call),
            }?;
            drop(guard);
            let seen = seen();
            let first: Seen = *first.get_or_insert(seen);
            proptest::prop_assert!(
                (first.bits, first.numbers) == (seen.bits, seen.numbers),
                "different bits with {threads} threads on {}",
                isa.name()
            );
        }
        Ok(seen())
    }

    fn dispatch(&self, call: &impl Checked) -> Check {
        match self.types[0] {
            Type::F16 => self.dispatch_second::<f16>(call),
            Type::Bf16 => self.dispatch_second::<bf16>(call),
            Type::F32 => self.dispatch_second::<f32>(call),
            Type::F64 => self.dispatch_second::<f64>(call),
        }
    }

    fn dispatch_second<E: Float>(&self, call: &impl Checked) -> Check
    where
        E::Compute: normkit::Element,
    {
        match self.types[1] {
            Type::F16 => call.check::<E, f16>(),
            Type::Bf16 => call.check::<E, bf16>(),
            Type::F32 => call.check::<E, f32>(),
            Type::F64 => call.check::<E, f64>(),
        }
    }
}
