//! Draws the results: the fill level over time, the cost of a claim by fill level, the fragmentation, and how soon an
//! address is reused. One line per policy. The font is part of the program, so a picture is the same everywhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use super::measure::{Measured, ratio};
use super::png;

const SIZE: (u32, u32) = (1200, 800);
const COLOURS: [RGBColor; 2] = [RGBColor(0, 90, 181), RGBColor(220, 50, 32)];

/// The file of `--plot`.
pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg" | "png") => Ok(path),
        _ => Err("its name must end in .svg or .png".to_owned()),
    }
}

pub(super) fn draw(path: &Path, policies: &[Measured]) -> anyhow::Result<()> {
    if register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular()).is_err() {
        bail!("the program's own font cannot be read");
    }
    if path.extension().is_some_and(|extension| extension == "svg") {
        let mut text = String::new();
        picture(&SVGBackend::with_string(&mut text, SIZE).into_drawing_area(), policies)?;
        return Ok(fs::write(path, text)?);
    }
    let mut pixels = vec![0_u8; SIZE.0 as usize * SIZE.1 as usize * 3];
    picture(&BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area(), policies)?;
    Ok(fs::write(path, png::encoded(SIZE, &pixels)?)?)
}

/// One line in a panel.
type Line = Vec<(f64, f64)>;

struct Panel<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
    lines: Vec<Line>,
    /// The maximum value, if known.
    top: Option<f64>,
}

fn picture<B: DrawingBackend>(area: &DrawingArea<B, Shift>, policies: &[Measured]) -> anyhow::Result<()> {
    let failed = |error: DrawingAreaErrorKind<B::ErrorType>| anyhow!("{error}");
    area.fill(&WHITE).map_err(failed)?;
    let lines = |line: &dyn Fn(&Measured) -> Line| policies.iter().map(line).collect::<Vec<_>>();
    let course = |value: fn(&super::measure::Sample) -> f64| {
        lines(&|of| of.samples.iter().map(|sample| (number(sample.at), value(sample))).collect())
    };
    let panels = [
        Panel {
            title: "addresses in use",
            x: "seconds",
            y: "% of all",
            lines: course(|sample| sample.used),
            top: Some(100.0),
        },
        Panel {
            title: "conflicts per claim",
            x: "% of the pool in use",
            y: "conflicts",
            lines: lines(&by_tenth),
            top: None,
        },
        Panel {
            title: "fragmentation",
            x: "seconds",
            y: "% of the free",
            lines: course(|sample| sample.fragmentation),
            top: Some(100.0),
        },
        Panel {
            title: "reuse of addresses",
            x: "claims of others in between, at most",
            y: "% of reuses",
            lines: lines(&reuses),
            top: Some(100.0),
        },
    ];
    for (part, panel) in area.split_evenly((2, 2)).iter().zip(&panels) {
        draw_panel(part, panel, policies).map_err(|error| anyhow!("{error}"))?;
    }
    area.present().map_err(failed)
}

fn draw_panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    panel: &Panel<'_>,
    policies: &[Measured],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let most = |value: fn(&(f64, f64)) -> f64| panel.lines.iter().flatten().map(value).fold(0.0, f64::max);
    let right = most(|point| point.0).max(1.0);
    let top = panel.top.unwrap_or_else(|| (most(|point| point.1) * 1.1).max(1.0));
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc(panel.x)
        .y_desc(panel.y)
        .light_line_style(WHITE)
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .draw()?;
    for ((line, colour), of) in panel.lines.iter().zip(COLOURS).zip(policies) {
        let series = LineSeries::new(line.iter().copied(), colour.stroke_width(2));
        let sign = move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2));
        chart.draw_series(series)?.label(of.policy.clone()).legend(sign);
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()
}

/// Returns the middle of each tenth in which something was claimed, and the cost of a claim there.
fn by_tenth(of: &Measured) -> Line {
    let used = of.conflicts_by_tenth.iter().enumerate().filter(|(_place, tenth)| tenth.claims > 0);
    used.map(|(place, tenth)| (number(place as u64) * 10.0 + 5.0, ratio(tenth.conflicts, tenth.claims))).collect()
}

/// Returns the distribution of reuses, in steps of one percent.
fn reuses(of: &Measured) -> Line {
    let count = of.reuses.len();
    let at = |part: usize| of.reuses.get((count * part / 100).min(count.saturating_sub(1)));
    (0..=100).filter_map(|part| Some((number(*at(part)?), number(part as u64)))).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
fn number(value: u64) -> f64 {
    value as f64
}
