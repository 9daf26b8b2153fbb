//! Plans as text: what was chosen for a call on this machine, and why.

use std::cell::RefCell;
use std::fmt::{Display, Formatter, Result};

use crate::layout::Grid;
use crate::machine::{Caches, Stores};
use crate::parallel::num_threads;
use crate::plan::{Cut, MANY, Plan, SHARE, SPLIT, STREAM, Schedule, Work};

thread_local! {
    /// What was planned on this thread since it was asked for.
    static HEARD: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// From now on the plans of this thread's calls are kept as text, until [`plans_heard`] asks for them.
pub fn hear_plans() {
    HEARD.with(|heard| *heard.borrow_mut() = Some(Vec::new()));
}

/// The plans since [`hear_plans`], in the order of the passes they were made for; none are kept any more.
pub fn plans_heard() -> Vec<String> {
    HEARD.with(|heard| heard.borrow_mut().take()).unwrap_or_default()
}

/// For whoever has made a plan.
pub(crate) fn hear(work: &Work, plan: &Plan, caches: &Caches) {
    HEARD.with(|heard| {
        if let Some(heard) = heard.borrow_mut().as_mut() {
            heard.push(Explained { work, plan, caches }.to_string());
        }
    });
}

struct Explained<'a> {
    work: &'a Work,
    plan: &'a Plan,
    caches: &'a Caches,
}

impl Display for Explained<'_> {
    fn fmt(&self, f: &mut Formatter) -> Result {
        let Explained { work, plan, caches } = *self;
        let grid = &work.grid;
        writeln!(f, "memory     reads {}, writes {}", Bytes(work.read), Bytes(work.written))?;
        writeln!(f, "statistics {} of {} elements: {}", grid.statistics(), grid.count(), family(grid))?;
        let (threads, more) = (plan.threads, (plan.threads + 1) * SHARE);
        if work.read < more && (threads == 1 || threads < num_threads()) {
            writeln!(f, "threads    {threads}, as less than {} is read", Bytes(more))?;
        } else if threads < num_threads() {
            writeln!(f, "threads    {threads}, as less than {} is read, of few statistics", Bytes(SPLIT))?;
        } else {
            writeln!(f, "threads    {threads}")?;
        }
        let chunks = Cut::new(grid).chunks;
        match (plan.schedule, work.written > 0) {
            (Schedule::Given, _) => writeln!(f, "schedule   one pass, as the statistics are given")?,
            (Schedule::Lines, _) => {
                writeln!(f, "schedule   some lines at a time, applied while they are in cache")?;
            }
            (Schedule::Fused { statistics }, true) => {
                writeln!(f, "schedule   fused: {statistics} reduced at a time, applied while they are in cache")?;
            }
            (Schedule::Fused { statistics }, false) => writeln!(f, "schedule   {statistics} reduced at a time")?,
            (Schedule::Split, true) => {
                writeln!(f, "schedule   split: all reduced, each in {chunks} chunks, then all applied, backwards")?;
            }
            (Schedule::Split, false) => writeln!(f, "schedule   all reduced, each in {chunks} chunks")?,
        }
        let from = Bytes(Work::stream_from(caches));
        match (caches.stores, plan.stream) {
            _ if work.written == 0 => write!(f, "stores     none"),
            (Stores::Always, _) => write!(f, "stores     past the caches, always"),
            (Stores::Early, true) => {
                write!(f, "stores     past the caches, as at least {from} (3/4 of the last cache) are read and written")
            }
            (Stores::Early, false) => {
                write!(
                    f,
                    "stores     through the caches, as less than {from} (3/4 of the last cache) is read and written"
                )
            }
            (Stores::Late, true) => {
                let of = format!("{from} ({STREAM} times the last cache)");
                write!(f, "stores     past the caches, as at least {of} are written, by {MANY} threads or more")
            }
            (Stores::Late, false) if work.written >= from.0 => {
                write!(f, "stores     through the caches, as fewer than {MANY} threads write")
            }
            (Stores::Late, false) => {
                let of = format!("{from} ({STREAM} times the last cache)");
                write!(f, "stores     through the caches, as less than {of} is written")
            }
        }
    }
}

/// How a grid is walked, in words.
fn family(grid: &Grid) -> String {
    let Grid { rows, len, columns, lines, repeat, width, fold, .. } = *grid;
    if lines {
        format!("lines, each a run of {len}")
    } else if columns {
        let repeats = if repeat > 1 { format!("{repeat} times ") } else { String::new() };
        format!("columns, {rows} runs of {repeats}{width} x {fold}")
    } else {
        format!("rows, {rows} runs of {len}")
    }
}

/// A number of bytes as people say it.
#[derive(Clone, Copy)]
struct Bytes(usize);

impl Display for Bytes {
    fn fmt(&self, f: &mut Formatter) -> Result {
        const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match UNITS.into_iter().find(|&(_, unit)| self.0 >= unit) {
            Some((name, unit)) if self.0.is_multiple_of(unit) => write!(f, "{} {name}", self.0 / unit),
            Some((name, unit)) => write!(f, "{:.1} {name}", self.0 as f64 / unit as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}
