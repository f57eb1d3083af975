//! The random numbers of a link: one generator, and a fixed number of draws for each datagram.

use rand_distr::{Distribution as _, Pareto, StandardNormal};
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use rand_xoshiro::{SplitMix64, Xoshiro256PlusPlus};

use super::{Distribution, Probability, Seed};

/// The generator of one link: xoshiro256++, seeded through SplitMix64 as its authors recommend.
///
/// The algorithm is fixed, so that a seed reproduces a failure with any later version. Links of one process have
/// numbers: each starts 2¹²⁸ draws (a *jump*) after the one before, so no two overlap.
#[derive(Clone, Debug)]
pub struct Generator(Xoshiro256PlusPlus);

impl Generator {
    /// Creates the generator of the link with this number, counted from 0.
    pub fn new(seed: Seed, number: usize) -> Self {
        let mut generator = Xoshiro256PlusPlus::seed_from_u64(seed.get());
        (0..number).for_each(|_| generator.jump());
        Self(generator)
    }

    /// Draws for one datagram: always as many numbers, in this order, whichever of them are used. Whether a datagram is
    /// delayed thus depends on its place in the sequence of arrivals, and not on how many before it were lost.
    pub(super) fn draws(&mut self) -> Draws {
        let mut draw = || Draw(self.0.next_u64());
        let duplicate = draw();
        let mut copy = || CopyDraws {
            transition: draw(),
            loss: draw(),
            corrupt: draw(),
            bit: draw(),
            truncate: draw(),
            length: draw(),
            reorder: draw(),
            jitter: draw(),
        };
        Draws { duplicate, copies: [copy(), copy()] }
    }
}

/// What is drawn for one datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draws {
    pub duplicate: Draw,
    /// For the datagram itself, and for its duplicate.
    pub copies: [CopyDraws; 2],
}

/// What is drawn for one copy of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyDraws {
    pub transition: Draw,
    pub loss: Draw,
    pub corrupt: Draw,
    pub bit: Draw,
    pub truncate: Draw,
    pub length: Draw,
    pub reorder: Draw,
    pub jitter: Draw,
}

/// 64 random bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw(u64);

impl Draw {
    /// Returns `true` with the given probability.
    pub fn happens(self, probability: Probability) -> bool {
        self.unit() < probability.get()
    }

    /// Returns a number below `end`, uniformly distributed; 0 if `end` is 0.
    pub fn below(self, end: usize) -> usize {
        // At most `end` - 1, so nothing is cut off.
        ((u128::from(self.0) * end as u128) >> 64) as usize
    }

    /// Returns a deviation from the delay in units of the jitter.
    pub fn deviation(self, distribution: Distribution) -> f64 {
        // The samplers reject some of their draws. They get a generator of their own, so that the number of draws from
        // the generator of the link stays the same.
        let mut generator = SplitMix64::seed_from_u64(self.0);
        match distribution {
            Distribution::Uniform => 2.0 * self.unit() - 1.0,
            Distribution::Normal => StandardNormal.sample(&mut generator),
            // As netem's table: shape 3, shifted to a mean of 0, stretched by 4/3, cut at 4. The parameters are valid.
            Distribution::Pareto => Pareto::new(1.0, 3.0)
                .map_or(0.0, |pareto: Pareto<f64>| ((pareto.sample(&mut generator) - 1.5) * 4.0 / 3.0).min(4.0)),
        }
    }

    /// Returns a number in [0, 1) with 53 random bits.
    fn unit(self) -> f64 {
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: [u64; 5] = [
        0xcfc5_d07f_6f03_c29b,
        0xbf42_4132_963f_e08d,
        0x19a3_7d57_57aa_f520,
        0x8ea0_4716_5f04_1da2,
        0x7910_32d9_a4f7_2ef3,
    ];

    #[test]
    fn algorithm_is_the_published_one() {
        // By the C code of Blackman and Vigna: splitmix64.c with x = 1 fills the state of xoshiro256plusplus.c.
        let mut generator = Generator::new("1".parse().expect("a seed"), 0);
        let draws = generator.draws();
        assert_eq!(draws.duplicate.0, REFERENCE[0]);
        assert_eq!(draws.copies[0].transition.0, REFERENCE[1]);
        assert_eq!(draws.copies[0].loss.0, REFERENCE[2]);
        assert_eq!(draws.copies[1].jitter.0, REFERENCE[3]);
        assert_eq!(generator.draws().duplicate.0, REFERENCE[4]);
    }

    #[test]
    fn links_of_one_seed_have_different_sequences() {
        let seed: Seed = "7".parse().expect("a seed");
        let first = |number| Generator::new(seed, number).draws().duplicate.0;
        assert!(first(0) != first(1) && first(1) != first(2) && first(0) != first(2));
        assert_eq!(first(2), first(2));
    }

    #[test]
    fn draws_cover_their_range() {
        assert_eq!((Draw(0).below(10), Draw(u64::MAX).below(10), Draw(u64::MAX).below(0)), (0, 9, 0));
        assert!(!Draw(0).happens(Probability::NEVER));
        assert!(Draw(u64::MAX).happens("100%".parse().expect("a probability")));
        assert_eq!(Draw(0).deviation(Distribution::Uniform), -1.0);
        assert!(Draw(u64::MAX).deviation(Distribution::Uniform) < 1.0);
    }
}
