//! An SVG picture of a measurement: round trips over time, and their distribution. Pure.
//!
//! The picture follows the reader's preference for light or dark: each colour is replaced by a style sheet, which finds
//! it by its value in the light picture.

use std::error;
use std::time::Duration;

use hdrhistogram::Histogram;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, Cross, PathElement, Text};
use plotters::prelude::SVGBackend;
use plotters::series::LineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoTextStyle, RGBColor, TRANSPARENT, TextStyle};

use super::axis::{Axis, position, rarity};
use crate::client::Error;
use crate::client::probe::timeline::{Slice, Timeline};

const WIDTH: u32 = 1000;
const HEAD_HEIGHT: u32 = 64;
const PANEL_HEIGHT: u32 = 380;

/// The width of the axis on the left, with its labels, beside the margin.
const LEFT: u32 = 78;
const MARGIN_LEFT: u32 = 10;
const MARGIN_RIGHT: u32 = 28;

/// The names of several targets stand in columns below the head.
const NAMES_PER_ROW: usize = 2;
const NAME_HEIGHT: u32 = 22;

/// More are not distinguishable.
pub const MOST_SERIES: usize = 8;

const SURFACE: RGBColor = RGBColor(0xFF, 0xFF, 0xFF);
const INK: RGBColor = RGBColor(0x1F, 0x23, 0x28);
const FAINT_INK: RGBColor = RGBColor(0x59, 0x63, 0x6E);
const GRID: RGBColor = RGBColor(0xDE, 0xE3, 0xE8);
const LOSS: RGBColor = RGBColor(0xCF, 0x22, 0x2E);
const SERIES: [RGBColor; MOST_SERIES] = [
    RGBColor(0x1F, 0x6F, 0xD1),
    RGBColor(0xC4, 0x5F, 0x08),
    RGBColor(0x1A, 0x7F, 0x4F),
    RGBColor(0x82, 0x50, 0xDF),
    RGBColor(0x8A, 0x6D, 0x00),
    RGBColor(0x0E, 0x7A, 0x99),
    RGBColor(0xBF, 0x39, 0x89),
    RGBColor(0x6E, 0x77, 0x81),
];

/// Each colour and its counterpart in the dark.
const DARK: [(RGBColor, &str); 5 + MOST_SERIES] = [
    (SURFACE, "#0D1117"),
    (INK, "#E6EDF3"),
    (FAINT_INK, "#9BA5B0"),
    (GRID, "#2A313A"),
    (LOSS, "#FF7B72"),
    (SERIES[0], "#58A6FF"),
    (SERIES[1], "#F0A355"),
    (SERIES[2], "#46C795"),
    (SERIES[3], "#B593F5"),
    (SERIES[4], "#D6B53C"),
    (SERIES[5], "#4FC3DD"),
    (SERIES[6], "#F078B8"),
    (SERIES[7], "#9AA4AE"),
];

/// What a picture shows.
#[derive(Debug)]
pub struct Plot<'a> {
    /// What was measured.
    pub title: String,
    /// The result in a line.
    pub summary: String,
    /// What the times are, such as `round trip`.
    pub quantity: &'a str,
    /// One per target, at most [`MOST_SERIES`].
    pub series: Vec<Series<'a>>,
}

/// The times of one target.
#[derive(Debug)]
pub struct Series<'a> {
    /// The target.
    pub name: String,
    /// When which times occurred, if that is known.
    pub timeline: Option<&'a Timeline>,
    /// All times, in nanoseconds.
    pub histogram: &'a Histogram<u64>,
}

impl Plot<'_> {
    /// Draws the picture.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Failed`] if the picture cannot be laid out.
    pub fn svg(&self) -> Result<String, Error> {
        self.draw().map_err(|error| Error::Failed(format!("cannot draw the picture: {error}")))
    }

    fn draw(&self) -> Result<String, Box<dyn error::Error>> {
        let over_time = if self.timelines().next().is_some() { PANEL_HEIGHT } else { 0 };
        let names = if self.series.len() > 1 { self.series.len().div_ceil(NAMES_PER_ROW) as u32 } else { 0 };
        let head = HEAD_HEIGHT + names * NAME_HEIGHT;
        let mut svg = String::new();
        {
            let size = (WIDTH, head + over_time + PANEL_HEIGHT);
            let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
            root.fill(&SURFACE)?;
            let (head, panels) = root.split_vertically(head);
            self.draw_head(&head)?;
            let (upper, lower) = panels.split_vertically(over_time);
            let times = Axis::of_times(self.series.iter().map(|series| series.histogram));
            if over_time > 0 {
                self.draw_over_time(&upper, times.clone())?;
            }
            self.draw_distribution(&lower, times)?;
            root.present()?;
        }
        // The backend has no style sheets.
        Ok(svg.replacen(">\n", &format!(">\n{}\n", style_sheet()), 1))
    }

    fn timelines(&self) -> impl Iterator<Item = (RGBColor, &Timeline)> {
        self.series.iter().zip(SERIES).filter_map(|(series, colour)| Some((colour, series.timeline?)))
    }

    fn draw_head(&self, area: &Area<'_>) -> Drawn {
        let left = (MARGIN_LEFT + LEFT) as i32;
        area.draw(&Text::new(self.title.clone(), (left, 14), text(24, &INK)))?;
        area.draw(&Text::new(self.summary.clone(), (left, 42), text(17, &FAINT_INK)))?;
        if self.series.len() > 1 {
            let column_width = (WIDTH - MARGIN_LEFT - LEFT - MARGIN_RIGHT) as i32 / NAMES_PER_ROW as i32;
            for (index, (series, colour)) in self.series.iter().zip(&SERIES).enumerate() {
                let x = left + (index % NAMES_PER_ROW) as i32 * column_width;
                let y = (HEAD_HEIGHT + (index / NAMES_PER_ROW) as u32 * NAME_HEIGHT) as i32;
                area.draw(&Circle::new((x + 5, y + 8), 5, colour.filled()))?;
                area.draw(&Text::new(series.name.clone(), (x + 18, y), text(16, colour)))?;
            }
        }
        Ok(())
    }

    /// Draws the range and the median of each slice of time, and above, in a lane of each target, a cross for each
    /// slice with losses.
    fn draw_over_time(&self, area: &Area<'_>, mut times: Axis) -> Drawn {
        let longest = self.timelines().map(|(_, timeline)| timeline.duration()).max().unwrap_or_default();
        let (unit, seconds) = match longest.as_secs() {
            0..300 => ("s", 1.0),
            300..18_000 => ("min", 60.0),
            _ => ("h", 3600.0),
        };
        let has_losses = |timeline: &Timeline| timeline.slices().iter().any(|slice| slice.lost > 0);
        let mut lanes = times.add_lanes("lost", self.timelines().filter(|(_, timeline)| has_losses(timeline)).count());
        let all_slices = self.timelines().flat_map(|(_, timeline)| timeline.slices());
        let has_ranges = all_slices.filter_map(Slice::range).any(|(min, max)| min < max);
        let legend = if has_ranges { "; dots: median, lines: range of a slice of time" } else { "" };
        let axes = (Axis::linear(longest.as_secs_f64() / seconds), times);
        let mut chart = self.chart(area, axes, &format!("time since the start ({unit}){legend}"))?;
        for (colour, timeline) in self.timelines() {
            let length = timeline.slice_length().as_secs_f64() / seconds;
            let slices = timeline.slices().iter().zip(0..);
            let slices = slices.map(|(slice, index)| (f64::from(index) * length, slice));
            let height = |time: Duration| position(time.as_nanos() as f64);
            let ranges = slices.clone().filter_map(|(x, slice)| Some((x, slice.range()?)));
            let ranges = ranges.filter(|(_, (min, max))| min < max);
            // Of several targets, each has its own losses.
            let mark = if self.series.len() > 1 { colour } else { LOSS };
            let line = colour.mix(0.4).stroke_width(2);
            chart.draw_series(
                ranges.map(|(x, (min, max))| PathElement::new([(x, height(min)), (x, height(max))], line)),
            )?;
            let medians = slices.clone().filter_map(|(x, slice)| Some((x, height(slice.median()?))));
            let radius = if timeline.slices().len() < 200 { 3 } else { 2 };
            chart.draw_series(medians.map(|at| Circle::new(at, radius, colour.filled())))?;
            if let Some(lane) = has_losses(timeline).then(|| lanes.next()).flatten() {
                let losses = slices.filter(|(_, slice)| slice.lost > 0);
                chart.draw_series(losses.map(|(x, _)| Cross::new((x, lane), 4, mark.stroke_width(2))))?;
            }
        }
        Ok(())
    }

    /// Draws which time which share of the answers did not exceed. To the right, each further tick is a tenth of the
    /// rest.
    fn draw_distribution(&self, area: &Area<'_>, times: Axis) -> Drawn {
        let most = self.series.iter().map(|series| series.histogram.len()).max().unwrap_or_default();
        let shares = Axis::of_shares(most);
        let (ticks, end) = (shares.ticks.clone(), shares.range.end);
        let mut chart = self.chart(area, (shares, times), "percentile of the answers (%)")?;
        for (series, colour) in self.series.iter().zip(SERIES) {
            chart.draw_series(LineSeries::new(steps(series.histogram, end), colour.stroke_width(2)))?;
        }
        let [Series { histogram, .. }] = &*self.series else { return Ok(()) };
        // There is room for the values of one target.
        for (tick, _) in ticks.iter().skip(1).filter(|_| !histogram.is_empty()) {
            let nanos = histogram.value_at_quantile(1.0 - 0.1_f64.powf(*tick));
            let nanos = histogram.median_equivalent(nanos) as f64;
            let point = (*tick, position(nanos));
            chart.draw_series([Circle::new(point, 3, SERIES[0].filled())])?;
            let (x, y) = chart.backend_coord(&point);
            let base = area.get_base_pixel();
            let label = text(15, &INK).pos(Pos::new(HPos::Right, VPos::Bottom));
            area.draw(&Text::new(format!("{:.3}", nanos / 1e6), (x - base.0 - 5, y - base.1 - 4), label))?;
        }
        Ok(())
    }

    /// Draws the axes of a panel. The second one is that of the times.
    fn chart<'a>(
        &self,
        area: &Area<'a>,
        axes: (Axis, Axis),
        description: &str,
    ) -> Result<Chart<'a>, Box<dyn error::Error>> {
        let mut chart = ChartBuilder::on(area)
            .margin_left(MARGIN_LEFT)
            .margin_right(MARGIN_RIGHT)
            .margin_top(8)
            .x_label_area_size(46)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(axes.0, axes.1)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(FAINT_INK)
            .label_style(text(15, &FAINT_INK))
            .axis_desc_style(text(16, &INK))
            .x_desc(description)
            .y_desc(format!("{} (ms)", self.quantity))
            .draw()?;
        Ok(chart)
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;
type Drawn = Result<(), Box<dyn error::Error>>;

/// Returns the corners of the distribution function, as far as they are distinguishable.
fn steps(histogram: &Histogram<u64>, end: f64) -> Vec<(f64, f64)> {
    let closest = end / f64::from(2 * WIDTH);
    let mut steps = Vec::new();
    let (mut sum, mut from) = (0, 0.0);
    for recorded in histogram.iter_recorded() {
        sum += recorded.count_at_value();
        let to = rarity(sum as f64 / histogram.len() as f64).min(end);
        let height = position(histogram.median_equivalent(recorded.value_iterated_to()) as f64);
        if to - from >= closest || sum == histogram.len() {
            steps.extend([(from, height), (to, height)]);
            from = to;
        }
    }
    steps
}

fn text<'a>(size: u32, colour: &'a RGBColor) -> TextStyle<'a> {
    ("sans-serif", size).with_color(colour).into_text_style(&(WIDTH, PANEL_HEIGHT))
}

/// Returns the style sheet that replaces the colours in the dark.
fn style_sheet() -> String {
    let mut rules = String::new();
    for (RGBColor(red, green, blue), dark) in DARK {
        let light = format!("#{red:02X}{green:02X}{blue:02X}");
        for property in ["fill", "stroke"] {
            rules += &format!("[{property}=\"{light}\"]{{{property}:{dark}}}");
        }
    }
    format!("<style>text{{font-family:system-ui,sans-serif}}@media (prefers-color-scheme:dark){{{rules}}}</style>")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::client::probe::latency::Latencies;
    use crate::client::probe::timeline::MOST_SLICES;

    /// Draws probes that were sent every 10 ms; 0 is a lost one.
    fn svg(micros: impl IntoIterator<Item = u64>) -> String {
        let start = Instant::now();
        let mut timeline = Timeline::new(start, Duration::from_millis(10), MOST_SLICES);
        let mut latencies = Latencies::new();
        for (number, micros) in (0..).zip(micros) {
            let sent = start + Duration::from_millis(10 * number);
            match Duration::from_micros(micros) {
                Duration::ZERO => timeline.lose(sent),
                time => {
                    timeline.record(sent, time);
                    latencies.record(time);
                }
            }
        }
        let series = Series { name: String::new(), timeline: Some(&timeline), histogram: latencies.histogram() };
        let (title, summary) = ("ping <target>".to_owned(), "counts".to_owned());
        Plot { title, summary, quantity: "round trip", series: vec![series] }.svg().expect("a picture")
    }

    #[test]
    fn axes_have_units_and_losses_a_mark() {
        let picture = svg([48, 52, 0, 50]);
        for text in ["ping &lt;target&gt;", "counts", "round trip (ms)", "time since the start (s)", "(%)", "lost"] {
            assert!(picture.contains(text), "{text} in {picture}");
        }
        assert!(!svg([48, 52, 50]).contains("lost"));
    }

    #[test]
    fn every_colour_has_a_counterpart_in_the_dark() {
        let picture = svg((0..5000).map(|number| number % 97));
        let colours = picture.split('"').filter(|text| text.len() == 7 && text.starts_with('#'));
        let known = DARK.map(|(RGBColor(red, green, blue), _)| format!("#{red:02X}{green:02X}{blue:02X}"));
        colours.for_each(|colour| assert!(known.iter().any(|known| known == colour), "{colour}"));
        assert!(picture.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn picture_of_a_long_run_is_small_and_of_an_empty_one_possible() {
        assert!(svg((0..100_000).map(|number| (number * 7919) % 50_000)).len() < 400_000);
        for few in [&[][..], &[0], &[1]] {
            assert!(svg(few.iter().copied()).trim_end().ends_with("</svg>"));
        }
    }
}
