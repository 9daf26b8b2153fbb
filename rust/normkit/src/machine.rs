//! What the machine has, read once: caches, and a processor that gains by storing past them, and fetches ahead by itself, or
//! does not.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::simd::fetches_ahead;

/// When storing past the caches pays. It spares reading each line before it is written; but nothing of it is in a cache
/// afterwards, and while a line is on its way to memory it takes up one of few buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stores {
    /// As soon as what a call reads and writes leaves the last cache, with any number of threads: measured on AMD's Zen 4,
    /// where that takes half to nine tenths of the time.
    Early,
    /// Where many threads write several times the last cache: measured on Intel's processors, where a few threads wait for
    /// single lines, and asking for these ahead is worth more (`benches/record`: with two threads 35 ms against 43 for
    /// 400 MB).
    Late,
    /// Always: for tests, so that small arrays reach what large ones do.
    Always,
}

impl Stores {
    /// What is known of the processor that Linux describes like this, in `/proc/cpuinfo`.
    pub fn of(cpuinfo: &str) -> Stores {
        let maker = cpuinfo.lines().find_map(|line| line.strip_prefix("vendor_id")).unwrap_or_default();
        if ["AuthenticAMD", "HygonGenuine"].contains(&maker.trim_start_matches([' ', '\t', ':'])) {
            Stores::Early
        } else {
            Stores::Late
        }
    }
}

fn cpuinfo() -> String {
    std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()
}

/// Data caches of one core, in bytes (0 = unknown), and when to store past them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caches {
    /// First level.
    pub l1: usize,
    /// Second level.
    pub l2: usize,
    /// Third level, shared between cores.
    pub l3: usize,
    /// By the processor's maker, unless forced.
    pub stores: Stores,
}

impl Caches {
    /// Those of this machine.
    pub fn detect() -> Caches {
        static CACHES: OnceLock<Caches> = OnceLock::new();
        let caches = *CACHES.get_or_init(|| {
            let stores = Stores::of(&cpuinfo());
            if stores == Stores::Early {
                fetches_ahead();
            }
            Caches { l1: size(1), l2: size(2), l3: size(3), stores }
        });
        Caches { stores: forced().unwrap_or(caches.stores), ..caches }
    }

    /// The second level, or what is common.
    pub(crate) fn l2_or_common(&self) -> usize {
        if self.l2 == 0 { 512 << 10 } else { self.l2 }
    }

    /// The last level, or what is common.
    pub(crate) fn last_or_common(&self) -> usize {
        let last = self.l3.max(self.l2);
        if last == 0 { 8 << 20 } else { last }
    }
}

/// 0, or which [`Stores`] were forced, counted from 1.
static FORCED: AtomicU8 = AtomicU8::new(0);

/// Store past the caches as this says from now on, in the whole process. Results do not change, only their speed.
pub fn force_stores(stores: Stores) {
    FORCED.store(stores as u8 + 1, Ordering::Relaxed);
}

fn forced() -> Option<Stores> {
    let forced = FORCED.load(Ordering::Relaxed);
    [Stores::Early, Stores::Late, Stores::Always].into_iter().find(|&stores| stores as u8 + 1 == forced)
}

/// The size of the data cache of this level as Linux tells it.
fn size(level: usize) -> usize {
    let read = |index: usize, name: &str| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}")).ok()
    };
    (0..8)
        .filter(|&i| read(i, "level").is_some_and(|text| text.trim().parse() == Ok(level)))
        .filter(|&i| read(i, "type").is_some_and(|text| text.trim() != "Instruction"))
        .find_map(|i| {
            let text = read(i, "size")?;
            let digits = text.trim().trim_end_matches('K');
            Some(digits.parse::<usize>().ok()? << 10)
        })
        .unwrap_or(0)
}
