//! The text format in which Prometheus reads metrics, version 0.0.4. Pure.
//!
//! A family is a metric with its type and help, and has one sample for each set of labels.

use std::fmt::{Display, Write};

/// The media type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A count that only rises, until the process ends. Its name ends with `_total`.
    Counter,
    /// A value that rises and falls.
    Gauge,
}

/// A label: its name and its value.
pub type Label<'a> = (&'static str, &'a dyn Display);

/// Text in the format.
///
/// ```
/// use udpong::metrics::{Exposition, Kind};
///
/// let mut text = Exposition::default();
/// let mut family = text.family("udpong_example_total", Kind::Counter, "Examples.");
/// family.sample(&[("kind", &"good")], 3);
/// assert_eq!(
///     text.to_string(),
///     "# HELP udpong_example_total Examples.\n# TYPE udpong_example_total counter\nudpong_example_total{kind=\"good\"} 3\n"
/// );
/// ```
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Creates text with the metric that every command has: `udpong_build_info`, which is 1 and names the version.
    pub fn with_build_info() -> Self {
        let mut this = Self::default();
        let version: &dyn Display = &env!("CARGO_PKG_VERSION");
        this.family("udpong_build_info", Kind::Gauge, "The version of udpong.").sample(&[("version", version)], 1);
        this
    }

    /// Begins a family. `help` is a sentence without line feeds and backslashes.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.begin(name, kind, help);
        Family { text: &mut self.text, name }
    }

    /// Begins a family of histograms.
    pub fn histograms(&mut self, name: &'static str, help: &'static str) -> Histograms<'_> {
        self.begin(name, "histogram", help);
        Histograms { text: &mut self.text, name }
    }

    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a String cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }
}

impl Display for Exposition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// The samples of a family.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    /// Adds a sample.
    pub fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        sample(self.text, self.name, "", labels, &value);
    }
}

/// The samples of a family of histograms.
#[derive(Debug)]
pub struct Histograms<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Histograms<'_> {
    /// Adds a histogram: the upper bound of each bucket with how many values lie in it and not in an earlier one, how
    /// many lie above all of them, and the sum of all values.
    pub fn sample(
        &mut self,
        labels: &[Label<'_>],
        buckets: impl IntoIterator<Item = (f64, u64)>,
        above: u64,
        sum_of_values: f64,
    ) {
        let mut count = 0;
        let mut bucket = |bound: &dyn Display, values| {
            count += values;
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound)]).collect();
            sample(self.text, self.name, "_bucket", &labels, &count);
        };
        buckets.into_iter().for_each(|(bound, values)| bucket(&bound, values));
        bucket(&"+Inf", above);
        sample(self.text, self.name, "_sum", labels, &sum_of_values);
        sample(self.text, self.name, "_count", labels, &count);
    }
}

fn sample(text: &mut String, name: &str, suffix: &str, labels: &[Label<'_>], value: &dyn Display) {
    let _ = write!(text, "{name}{suffix}");
    let mut separator = '{';
    for (label, value) in labels {
        let _ = write!(text, "{separator}{label}=\"");
        let _ = write!(Escape(text), "{value}");
        text.push('"');
        separator = ',';
    }
    let end = if labels.is_empty() { "" } else { "}" };
    let _ = writeln!(text, "{end} {value}");
}

/// Escapes what is written to it as the value of a label.
struct Escape<'a>(&'a mut String);

impl Write for Escape<'_> {
    fn write_str(&mut self, value: &str) -> std::fmt::Result {
        for c in value.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut text = Exposition::default();
        text.family("a", Kind::Gauge, "A.").sample(&[("b", &"\\\"\n{}"), ("c", &1)], 2);
        assert_eq!(text.to_string(), "# HELP a A.\n# TYPE a gauge\na{b=\"\\\\\\\"\\n{}\",c=\"1\"} 2\n");
    }

    #[test]
    fn buckets_of_a_histogram_are_cumulative() {
        let mut text = Exposition::default();
        text.histograms("h", "H.").sample(&[("t", &"x")], [(0.00005, 1), (0.0001, 2)], 4, 1.5);
        assert_eq!(
            text.to_string(),
            "# HELP h H.\n# TYPE h histogram\nh_bucket{t=\"x\",le=\"0.00005\"} 1\nh_bucket{t=\"x\",le=\"0.0001\"} 3\n\
             h_bucket{t=\"x\",le=\"+Inf\"} 7\nh_sum{t=\"x\"} 1.5\nh_count{t=\"x\"} 7\n"
        );
    }
}
