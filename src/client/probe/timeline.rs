//! When round trips were slow and probes lost, in bounded memory. Pure.

use std::time::{Duration, Instant};

/// Enough slices for a picture. When a run takes longer, neighbours are merged, and each slice is twice as long.
pub const MOST_SLICES: usize = 1024;

/// Times are distinguished by their first 7 binary digits, which is to 0.8 %.
const DIGITS: u32 = 7;

/// A run as slices of equal length, by when probes were sent.
///
/// However long it takes, the number of slices is limited: beyond that, neighbours are merged.
#[derive(Clone, Debug)]
pub struct Timeline {
    start: Instant,
    slice_length: Duration,
    slices: Vec<Slice>,
    most: usize,
    /// The shortest and the longest round trip, exactly.
    range: Option<(Duration, Duration)>,
}

/// The probes that were sent within one slice of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// How many of them got no answer in time.
    pub lost: u64,
    /// How many round trips fall into which bucket, by ascending bucket.
    buckets: Vec<(u16, u32)>,
}

impl Timeline {
    /// Creates the timeline of a run that begins at `start`. As long as the run is short, a slice is as long as
    /// `slice_length`: the interval between two probes gives each a slice of its own. There are at most `most` slices,
    /// which is clamped to 64 to 1,024.
    pub fn new(start: Instant, slice_length: Duration, most: usize) -> Self {
        let slice_length = slice_length.max(Duration::from_nanos(1));
        Self { start, slice_length, slices: Vec::new(), most: most.clamp(64, MOST_SLICES), range: None }
    }

    /// Records the round trip of a probe that was sent at `sent`.
    pub fn record(&mut self, sent: Instant, round_trip: Duration) {
        let (shortest, longest) = self.range.unwrap_or((round_trip, round_trip));
        self.range = Some((shortest.min(round_trip), longest.max(round_trip)));
        self.slice_at(sent).record(u64::try_from(round_trip.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Records that a probe that was sent at `sent` got no answer in time.
    pub fn lose(&mut self, sent: Instant) {
        self.slice_at(sent).lost += 1;
    }

    /// Returns the shortest and the longest round trip, which those of slices may exceed by rounding.
    pub fn range(&self) -> Option<(Duration, Duration)> {
        self.range
    }

    /// Returns the slices from the start of the run.
    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }

    /// Returns how long a slice is.
    pub fn slice_length(&self) -> Duration {
        self.slice_length
    }

    /// Returns how long all slices are together.
    pub fn duration(&self) -> Duration {
        self.slice_length.saturating_mul(u32::try_from(self.slices.len()).unwrap_or(u32::MAX))
    }

    /// Returns the run as at most `columns` slices, of equal length as far as possible.
    pub fn columns(&self, columns: usize) -> Vec<Slice> {
        let slices = self.slices.len();
        let columns = columns.min(slices);
        let column = |column| {
            let mut merged = Slice::default();
            let (from, to) = (column * slices / columns, (column + 1) * slices / columns);
            self.slices[from..to].iter().for_each(|slice| merged.add(slice));
            merged
        };
        (0..columns).map(column).collect()
    }

    fn slice_at(&mut self, time: Instant) -> &mut Slice {
        let after = time.saturating_duration_since(self.start).as_nanos();
        let mut index = after / self.slice_length.as_nanos();
        while index >= self.most as u128 {
            self.merge_neighbours();
            index /= 2;
        }
        let index = index as usize;
        if index >= self.slices.len() {
            self.slices.resize_with(index + 1, Slice::default);
        }
        &mut self.slices[index]
    }

    fn merge_neighbours(&mut self) {
        self.slice_length = self.slice_length.saturating_mul(2);
        let merge = |pair: &[Slice]| {
            let mut merged = pair[0].clone();
            pair[1..].iter().for_each(|second| merged.add(second));
            merged
        };
        self.slices = self.slices.chunks(2).map(merge).collect();
    }
}

impl Slice {
    /// Returns the shortest and the longest round trip, to about 1 %.
    pub fn range(&self) -> Option<(Duration, Duration)> {
        let (first, last) = (self.buckets.first()?, self.buckets.last()?);
        Some((time_of(first.0), time_of(last.0)))
    }

    /// Returns the median of the round trips, to about 1 %; the lower one of two.
    pub fn median(&self) -> Option<Duration> {
        let all: u64 = self.buckets.iter().map(|(_, count)| u64::from(*count)).sum();
        let mut up_to = 0;
        let median = self.buckets.iter().find(|(_, count)| {
            up_to += u64::from(*count);
            2 * up_to >= all
        });
        median.map(|(bucket, _)| time_of(*bucket))
    }

    fn record(&mut self, nanos: u64) {
        self.count(bucket_of(nanos), 1);
    }

    fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        other.buckets.iter().for_each(|(bucket, count)| self.count(*bucket, *count));
    }

    fn count(&mut self, bucket: u16, count: u32) {
        match self.buckets.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(index) => self.buckets[index].1 = self.buckets[index].1.saturating_add(count),
            Err(index) => self.buckets.insert(index, (bucket, count)),
        }
    }
}

/// Returns the bucket of a time: the position of its first binary digit, and the digits that follow.
fn bucket_of(nanos: u64) -> u16 {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(DIGITS);
    ((u64::from(shift) << (DIGITS - 1)) + (nanos >> shift)) as u16
}

/// Returns the time in the middle of a bucket.
fn time_of(bucket: u16) -> Duration {
    let shift = u64::from(bucket >> (DIGITS - 1)).saturating_sub(1);
    let digits = u64::from(bucket) - (shift << (DIGITS - 1));
    Duration::from_nanos((digits << shift) + ((1 << shift) >> 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn probes_are_in_the_slice_in_which_they_were_sent() {
        let start = Instant::now();
        let mut timeline = Timeline::new(start, Duration::from_secs(1), MOST_SLICES);
        timeline.lose(start + Duration::from_secs(2));
        for millis in [300, 100, 200] {
            timeline.record(start + Duration::from_millis(millis), Duration::from_millis(millis));
        }
        let [first, second, third] = timeline.slices() else { panic!("three slices") };
        assert_eq!((first.lost, second, third.lost, third.median()), (0, &Slice::default(), 1, None));
        let close = |time: Duration, millis: f64| (time.as_secs_f64() * 1e3 / millis - 1.0).abs() < 0.008;
        assert!(first.median().is_some_and(|median| close(median, 200.0)), "{first:?}");
        assert!(first.range().is_some_and(|(min, max)| close(min, 100.0) && close(max, 300.0)), "{first:?}");
        assert_eq!(timeline.duration(), Duration::from_secs(3));
    }

    #[test]
    fn long_run_has_at_most_1024_slices_and_loses_no_probe() {
        let start = Instant::now();
        let mut timeline = Timeline::new(start, MILLISECOND, MOST_SLICES);
        for number in 0..100_000 {
            let sent = start + number * MILLISECOND;
            if number % 10 == 0 { timeline.lose(sent) } else { timeline.record(sent, MILLISECOND) }
        }
        assert_eq!((timeline.slices().len(), timeline.slice_length()), (782, 128 * MILLISECOND));
        let answered = |slice: &Slice| slice.buckets.iter().map(|(_, count)| u64::from(*count)).sum::<u64>();
        assert_eq!(timeline.slices().iter().map(|slice| slice.lost).sum::<u64>(), 10_000);
        assert_eq!(timeline.columns(80).iter().map(answered).sum::<u64>(), 90_000);
        assert_eq!((timeline.columns(80).len(), timeline.columns(10_000).len()), (80, 782));
    }

    #[test]
    fn pause_of_years_is_accepted() {
        let start = Instant::now();
        let mut timeline = Timeline::new(start, Duration::ZERO, MOST_SLICES);
        timeline.record(start, Duration::MAX);
        timeline.lose(start + Duration::from_secs(1 << 30));
        assert!(timeline.slices().len() <= MOST_SLICES);
        assert_eq!(timeline.slices().last().map(|slice| slice.lost), Some(1));
    }

    proptest! {
        #[test]
        fn bucket_is_within_one_percent(nanos in 0..u64::MAX) {
            let shown = time_of(bucket_of(nanos)).as_nanos() as f64;
            prop_assert!((shown - nanos as f64).abs() <= nanos as f64 * 0.008, "{shown}");
            prop_assert!(bucket_of(nanos) <= bucket_of(nanos + 1));
        }
    }
}
