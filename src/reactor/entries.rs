//! Storage for tasks. The key of a removed task never refers to another one.

use mio::Token;
use slab::Slab;

/// How many low bits of a key are the index of its entry; the bits above are its generation.
const INDEX_BITS: u32 = usize::BITS / 2;

/// Identifies a task to its [`Reactor`](super::Reactor).
///
/// A key consists of the index of an entry and a generation, so an entry that is reused has another key. Keys repeat
/// only when the generation wraps, after 2³² tasks (2¹⁶ on a 32-bit system).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(usize);

impl Key {
    /// Returns the index of the entry, shared with earlier and later keys.
    pub(super) fn index(self) -> usize {
        self.0 & ((1 << INDEX_BITS) - 1)
    }
}

impl From<Key> for Token {
    fn from(key: Key) -> Self {
        Self(key.0)
    }
}

impl From<Token> for Key {
    fn from(token: Token) -> Self {
        Self(token.0)
    }
}

/// A [`Slab`] whose keys carry a generation.
#[derive(Debug)]
pub(super) struct Entries<S> {
    slab: Slab<(Key, S)>,
    /// The generation of the next key.
    generation: usize,
}

impl<S> Entries<S> {
    /// Returns how many values are stored.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn new() -> Self {
        Self { slab: Slab::new(), generation: 0 }
    }

    /// Stores a value and returns its key.
    pub(super) fn insert(&mut self, value: S) -> Key {
        let entry = self.slab.vacant_entry();
        let key = Key((self.generation << INDEX_BITS) | entry.key());
        self.generation = self.generation.wrapping_add(1);
        entry.insert((key, value));
        key
    }

    /// Removes a value and returns it; `None` when it was removed before.
    pub(super) fn remove(&mut self, key: Key) -> Option<S> {
        self.get_mut(key)?;
        Some(self.slab.remove(key.index()).1)
    }

    /// Returns the value of a key; `None` when it was removed, even if its entry is in use again.
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut S> {
        self.slab.get_mut(key.index()).filter(|(current, _)| *current == key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_of_removed_value_finds_nothing_in_reused_entry() {
        let mut entries = Entries::new();
        let first = entries.insert("first");
        assert_eq!(entries.remove(first), Some("first"));
        let second = entries.insert("second");
        assert_eq!(second.index(), first.index());
        assert_ne!(second, first);
        assert_eq!(entries.get_mut(first), None);
        assert_eq!(entries.remove(first), None);
        assert_eq!(entries.get_mut(second), Some(&mut "second"));
    }
}
