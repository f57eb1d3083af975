//! Storage for tasks whose keys are never reused.

use mio::Token;
use slab::Slab;

/// How many low bits of a key are the index of its slot; the bits above are its generation.
const INDEX_BITS: u32 = usize::BITS / 2;

/// Identifies a task to its [`Reactor`](super::Reactor) for as long as the task lives.
///
/// A key is the index of a slot and a generation, so the key of a removed task never becomes the key of another one,
/// although the slot is used again. (Generations repeat after 2³² tasks, 2¹⁶ on a 32-bit system.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(usize);

impl Key {
    /// The slot, which other keys had before and will have again.
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
pub(super) struct Slots<S> {
    slab: Slab<(Key, S)>,
    /// The generation of the next key.
    generation: usize,
}

impl<S> Slots<S> {
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

    /// Returns the value of a key; `None` when it was removed, even if its slot is in use again.
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut S> {
        self.slab.get_mut(key.index()).filter(|(current, _)| *current == key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_of_removed_value_finds_nothing_in_reused_slot() {
        let mut slots = Slots::new();
        let first = slots.insert("first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_eq!(second.index(), first.index());
        assert_ne!(second, first);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut "second"));
    }
}
