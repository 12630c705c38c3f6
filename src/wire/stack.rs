//! Stacks for the open containers of readers and writers: they live inline for the usual depths, so that decoding
//! and encoding a plain message allocates nothing.

const INLINE: usize = 8;

/// A stack whose first few entries need no allocation.
#[derive(Debug, Clone, Default)]
pub(super) struct Stack<T> {
    inline: [T; INLINE],
    spilled: Vec<T>,
    len: usize,
}

impl<T: Copy + Default> Stack<T> {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn push(&mut self, entry: T) {
        match self.inline.get_mut(self.len) {
            Some(slot) => *slot = entry,
            None => self.spilled.push(entry),
        }
        self.len += 1;
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        match self.inline.get(self.len) {
            Some(entry) => Some(*entry),
            None => self.spilled.pop(),
        }
    }

    #[inline]
    pub(super) fn top(&mut self) -> Option<&mut T> {
        let index = self.len.checked_sub(1)?;
        match self.inline.get_mut(index) {
            Some(entry) => Some(entry),
            None => self.spilled.last_mut(),
        }
    }
}

/// One bit per open container (set: a map), for formats that need to remember no more than that.
#[derive(Debug, Clone, Default)]
pub(super) struct Kinds {
    bits: u64,
    depth: usize,
    spilled: Vec<u64>,
}

impl Kinds {
    #[inline]
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    #[inline]
    pub(super) fn push(&mut self, map: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.spilled.push(self.bits);
        }
        self.bits = self.bits << 1 | u64::from(map);
        self.depth += 1;
    }

    #[inline]
    pub(super) fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.bits >>= 1;
        if self.depth > 0
            && self.depth.is_multiple_of(64)
            && let Some(bits) = self.spilled.pop()
        {
            self.bits = bits;
        }
    }

    /// Whether the innermost open container is a map; `false` where none is open.
    #[inline]
    pub(super) fn in_map(&self) -> bool {
        self.depth > 0 && self.bits & 1 == 1
    }
}

/// The open containers of a writer whose format wants the number of items in front.
#[derive(Debug, Clone, Default)]
pub(super) struct Headers {
    open: Stack<Header>,
}

/// An open container: where its header waits to be patched (`None`: already right), and its items so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Header {
    pub(super) at: Option<usize>,
    pub(super) items: usize,
}

impl Headers {
    /// Bodies up to this size move to make room for a shorter header; larger ones keep the long form, lest deep
    /// nesting cost one big copy per level.
    pub(super) const MOVABLE: usize = 4096;

    /// `count` values were written.
    #[inline]
    pub(super) fn wrote(&mut self, count: usize) {
        if let Some(header) = self.open.top() {
            header.items += count;
        }
    }

    #[inline]
    pub(super) fn open(&mut self, at: Option<usize>) {
        self.open.push(Header { at, items: 0 });
    }

    #[inline]
    pub(super) fn close(&mut self) -> Header {
        self.open.pop().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_the_spill_at_every_64th_level() {
        let mut kinds = Kinds::default();
        let pattern = |level: usize| level.is_multiple_of(3) || level % 7 == 2;
        (0..300).for_each(|level| kinds.push(pattern(level)));
        for level in (0..300).rev() {
            assert_eq!(kinds.in_map(), pattern(level), "{level}");
            kinds.pop();
        }
        assert_eq!(kinds.depth(), 0);
    }

    #[test]
    fn stack_gives_back_in_reverse_across_the_inline_part() {
        let mut stack = Stack::default();
        (0..40).for_each(|n| stack.push(n));
        assert_eq!(stack.top(), Some(&mut 39));
        for n in (0..40).rev() {
            assert_eq!(stack.pop(), Some(n));
        }
        assert_eq!(stack.pop(), None);
    }
}
