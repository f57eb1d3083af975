//! Pseudo-random numbers that are the same in every run.

/// A generator (xorshift64), seeded with anything but 0.
pub struct Random(pub u64);

impl Random {
    /// Returns a number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    /// Returns `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }

    /// Returns the length of a payload: its magnitude, a power of two, is equally likely to be any of the first
    /// `magnitudes` ones. 16 cover all lengths, from 0 to 65,507 bytes.
    pub fn length(&mut self, magnitudes: usize) -> usize {
        let magnitude = 1 << (1 + self.below(magnitudes));
        self.below(magnitude).min(65_507)
    }
}
