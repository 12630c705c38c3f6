//! Finding a key that occurs twice in one dict (`MSG-06`, `SER-07`), however large the dict.

use std::borrow::Cow;

const INLINE: usize = 8;

/// The keys seen so far in one dict. The usual few are compared at once; many are sorted at the end, so that no
/// peer can make the check quadratic.
#[derive(Debug, Default)]
pub(super) struct Keys<'a> {
    few: [&'a str; INLINE],
    len: usize,
    many: Vec<Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    /// Notes a key; `Err` is a key seen before.
    #[inline]
    pub(super) fn note(&mut self, key: Cow<'a, str>) -> Result<(), String> {
        if let Cow::Borrowed(text) = key
            && self.len < INLINE
        {
            if self.few[..self.len].contains(&text) {
                return Err(text.to_owned());
            }
            self.few[self.len] = text;
            self.len += 1;
        } else {
            self.many.push(key);
        }
        Ok(())
    }

    /// Checks what [`Keys::note`] left open; `Err` is a key that came twice.
    #[inline]
    pub(super) fn finish(mut self) -> Result<(), String> {
        if self.many.is_empty() {
            return Ok(());
        }
        self.many
            .extend(self.few[..self.len].iter().map(|key| Cow::Borrowed(*key)));
        unique(&mut self.many)
    }
}

/// Sorts `keys`; `Err` is one that is there twice.
pub(super) fn unique<T: AsRef<str> + Ord>(keys: &mut [T]) -> Result<(), String> {
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(pair[0].as_ref().to_owned()),
        None => Ok(()),
    }
}
