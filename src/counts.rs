//! Counts by name, in reports and log lines.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

/// Counts by name: refusals by reason, errors by kind. The names are few and fixed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(transparent))]
pub struct CountsByName(BTreeMap<&'static str, u64>);

impl CountsByName {
    /// Returns the count of `name`; 0 if it was never counted.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Returns the names that were counted, in alphabetical order, and their counts.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, count)| (*name, *count))
    }

    /// Returns the counts of these names, 0 included, then those of others.
    pub fn with_zeros(&self, names: &[&'static str]) -> impl Iterator<Item = (&'static str, u64)> {
        let others = self.iter().filter(|(name, _)| !names.contains(name));
        names.iter().map(|name| (*name, self.get(name))).chain(others)
    }

    /// Returns the sum of all counts.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub(crate) fn increment(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        other.iter().for_each(|(name, count)| *self.0.entry(name).or_default() += count);
    }
}

/// Writes `3`, or `3 (ENOBUFS 2, EPERM 1)`.
impl Display for CountsByName {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.total())?;
        let mut separator = " (";
        for (name, count) in self.iter() {
            write!(f, "{separator}{name} {count}")?;
            separator = ", ";
        }
        if self.0.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}
