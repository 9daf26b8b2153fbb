//! Process-wide settings.

use normkit::{Caches, Isa};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arguments::{core_error, integer, value_error};

/// Use n threads from now on, in the whole process. Results do not depend on it, to the bit.
///
/// Parameters
/// ----------
/// n : int
///     From 1 to 1024, the calling thread included.
///
/// Raises
/// ------
/// ValueError
///     n is out of range.
/// TypeError
///     n is no integer.
///
/// Examples
/// --------
/// >>> import normkit as nk
/// >>> before = nk.get_num_threads()
/// >>> nk.set_num_threads(1)
/// >>> nk.get_num_threads()
/// 1
/// >>> nk.set_num_threads(before)
#[pyfunction]
pub(crate) fn set_num_threads(n: &Bound<'_, PyAny>) -> PyResult<()> {
    let threads = integer("set_num_threads", "n", n)?;
    if !(1..=normkit::MOST_THREADS as i64).contains(&threads) {
        let expected = format!("be from 1 to {}", normkit::MOST_THREADS);
        return Err(value_error("set_num_threads", "n", expected, threads));
    }
    normkit::set_num_threads(threads as usize);
    Ok(())
}

/// How many threads are used: what set_num_threads has set, else the environment variable NORMKIT_NUM_THREADS, else
/// RAYON_NUM_THREADS, else what affinity and cgroup quota allow.
///
/// Examples
/// --------
/// >>> import normkit as nk
/// >>> nk.get_num_threads() >= 1
/// True
#[pyfunction]
pub(crate) fn get_num_threads() -> usize {
    normkit::num_threads()
}

/// What show_config prints.
#[pyfunction(name = "_config")]
pub(crate) fn config(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let config = PyDict::new(py);
    let caches = Caches::detect();
    let isa = Isa::current().map_err(|error| core_error("show_config", &error))?;
    config.set_item("version", env!("CARGO_PKG_VERSION"))?;
    config.set_item("isa", isa.name())?;
    config.set_item("isas", Isa::available().iter().map(|isa| isa.name()).collect::<Vec<_>>())?;
    config.set_item("threads", normkit::num_threads())?;
    config.set_item("l1", caches.l1)?;
    config.set_item("l2", caches.l2)?;
    config.set_item("l3", caches.l3)?;
    Ok(config)
}

/// From now on the plans of this thread's calls are kept.
#[pyfunction(name = "_hear_plans")]
pub(crate) fn hear_plans() {
    normkit::hear_plans();
}

/// Those since then, as text; none are kept any more.
#[pyfunction(name = "_plans_heard")]
pub(crate) fn plans_heard() -> Vec<String> {
    normkit::plans_heard()
}
