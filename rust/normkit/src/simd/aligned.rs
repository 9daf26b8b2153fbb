//! Memory that begins on a cache line.

use super::{LINE, Real};
use crate::error::{Result, room};

/// Room for so many numbers, reused; its contents are old.
pub(crate) struct Aligned<T> {
    room: Vec<T>,
    start: usize,
    most: usize,
    len: usize,
}

impl<T: Real> Aligned<T> {
    /// Room for none.
    pub(crate) const EMPTY: Self = Aligned { room: Vec::new(), start: 0, most: 0, len: 0 };

    /// Room for so many.
    pub(crate) fn new(most: usize) -> Result<Self> {
        if most == 0 {
            return Ok(Self::EMPTY);
        }
        let more = LINE / size_of::<T>();
        let mut memory = room(most + more)?;
        memory.resize(most + more, T::ZERO);
        let start = memory.as_ptr().align_offset(LINE).min(more);
        Ok(Aligned { room: memory, start, most, len: 0 })
    }

    /// So many numbers.
    #[inline(always)]
    pub(crate) fn get(&mut self, len: usize) -> &mut [T] {
        debug_assert!(len <= self.most, "{len} of {}", self.most);
        self.len = len;
        &mut self.room[self.start..self.start + len]
    }

    /// What was asked for last, to write.
    #[inline(always)]
    pub(crate) fn values_mut(&mut self) -> &mut [T] {
        &mut self.room[self.start..self.start + self.len]
    }

    /// What was asked for last.
    #[inline(always)]
    pub(crate) fn values(&self) -> &[T] {
        &self.room[self.start..self.start + self.len]
    }
}
