//! Memory that begins on a cache line.

use super::{LINE, Real};

/// Room for numbers, reused; its contents are old.
pub(crate) struct Aligned<T> {
    room: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Real> Aligned<T> {
    pub(crate) fn new() -> Self {
        Aligned { room: Vec::new(), start: 0, len: 0 }
    }

    /// So many numbers.
    pub(crate) fn get(&mut self, len: usize) -> &mut [T] {
        let more = LINE / size_of::<T>();
        if self.room.len() < len + more {
            self.room = vec![T::ZERO; len + more];
            self.start = self.room.as_ptr().align_offset(LINE).min(more);
        }
        self.len = len;
        &mut self.room[self.start..self.start + len]
    }

    /// What was asked for last, to write.
    pub(crate) fn values_mut(&mut self) -> &mut [T] {
        &mut self.room[self.start..self.start + self.len]
    }

    /// What was asked for last.
    pub(crate) fn values(&self) -> &[T] {
        &self.room[self.start..self.start + self.len]
    }
}
