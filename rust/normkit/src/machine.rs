//! What the machine has: cache sizes, read once.

use std::sync::OnceLock;

/// Data caches of one core, in bytes; 0 = unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caches {
    /// First level.
    pub l1: usize,
    /// Second level.
    pub l2: usize,
    /// Third level, shared between cores.
    pub l3: usize,
}

impl Caches {
    /// Those of this machine.
    pub fn detect() -> Caches {
        static CACHES: OnceLock<Caches> = OnceLock::new();
        *CACHES.get_or_init(|| Caches { l1: size(1), l2: size(2), l3: size(3) })
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
