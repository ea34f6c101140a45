//! Line charts as SVG or PNG, drawn by plotters in a bundled font.

use anyhow::{Result, anyhow};
use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::chart::{ChartBuilder, SeriesLabelPosition};
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, EmptyElement, PathElement};
use plotters::series::LineSeries;
use plotters::style::{Color, FontStyle, IntoFont, RGBColor, TRANSPARENT, register_font};

mod axis;
mod points;

use axis::Axis;
pub(crate) use points::{Point, smooth};

/// The family that [`FONT`] is registered under; a browser takes its own font of that name.
const FAMILY: &str = "sans-serif";
const FONT: &[u8] = include_bytes!("chart/DejaVuSans-subset.ttf");

/// More points than this in a line cannot be seen; each stretch of it keeps its lowest and highest.
const MOST_POINTS: usize = 1_200;

/// Okabe and Ito's colours, which the colour-blind tell apart, without the yellow that white swallows.
const COLORS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xB2),
    RGBColor(0xD5, 0x5E, 0x00),
    RGBColor(0x00, 0x9E, 0x73),
    RGBColor(0xCC, 0x79, 0xA7),
    RGBColor(0xE6, 0x9F, 0x00),
    RGBColor(0x56, 0xB4, 0xE9),
    RGBColor(0x00, 0x00, 0x00),
];

/// Paper, ink and grid. The style sheet of a page may replace them by these values in the SVG.
const PAPER: RGBColor = RGBColor(0xFF, 0xFF, 0xFF);
const INK: RGBColor = RGBColor(0x1B, 0x1F, 0x24);
const GRID: RGBColor = RGBColor(0xDD, 0xE1, 0xE6);

/// The colour of the `index`th of several things that have no order.
pub(crate) fn color(index: usize) -> RGBColor {
    COLORS[index % COLORS.len()]
}

/// A colour from blue over green to amber for a share of 0 to 1 of an ordered whole, legible on white and on black.
pub(crate) fn ramp(share: f64) -> RGBColor {
    const STOPS: [[f64; 3]; 3] = [[63.0, 96.0, 200.0], [26.0, 158.0, 140.0], [222.0, 158.0, 20.0]];
    let place = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let low = (place as usize).min(STOPS.len() - 2);
    let part = place - low as f64;
    let [r, g, b] = [0, 1, 2]
        .map(|i| (STOPS[low][i] + part * (STOPS[low + 1][i] - STOPS[low][i])).round() as u8);
    RGBColor(r, g, b)
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Thin and pale: the noise behind another line.
    Faint,
    /// A line.
    Line,
    /// A line with a dot at each point, which there are few of.
    Dotted,
}

/// One line of a chart.
pub(crate) struct Series {
    /// What the legend calls it; none keeps it out of the legend.
    pub(crate) label: Option<String>,
    pub(crate) points: Vec<Point>,
    pub(crate) color: RGBColor,
    pub(crate) mark: Mark,
}

/// A chart before it has a size.
pub(crate) struct Chart {
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    /// Logarithmic axes; points that are not positive are left out there.
    pub(crate) log_x: bool,
    pub(crate) log_y: bool,
    pub(crate) series: Vec<Series>,
}

impl Chart {
    /// Whether there is a point to draw.
    pub(crate) fn has_points(&self) -> bool {
        self.series.iter().any(|series| self.drawable(series).next().is_some())
    }

    /// An SVG element. `scale` enlarges everything but the size that the labels have in relation to it.
    ///
    /// # Errors
    ///
    /// If no point can be drawn.
    pub(crate) fn svg(&self, size: (u32, u32), scale: u32) -> Result<String> {
        let mut svg = String::new();
        let size = (size.0 * scale, size.1 * scale);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        self.draw(&root, scale, true).map_err(|error| anyhow!("cannot draw the chart: {error}"))?;
        drop(root);
        Ok(svg)
    }

    /// The bytes of a PNG file.
    ///
    /// # Errors
    ///
    /// As [`Chart::svg`].
    pub(crate) fn png(&self, size: (u32, u32), scale: u32) -> Result<Vec<u8>> {
        let (width, height) = (size.0 * scale, size.1 * scale);
        let mut pixels = vec![0; width as usize * height as usize * 3];
        let root = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        self.draw(&root, scale, false)
            .map_err(|error| anyhow!("cannot draw the chart: {error}"))?;
        drop(root);
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Best);
        encoder.write_header()?.write_image_data(&pixels)?;
        Ok(file)
    }

    /// The points of a line that its axes can show.
    fn drawable<'a>(&'a self, series: &'a Series) -> impl Iterator<Item = Point> + 'a {
        let shows = |log: bool, value: f64| value.is_finite() && (!log || value > 0.0);
        series
            .points
            .iter()
            .copied()
            .filter(move |&(x, y)| shows(self.log_x, x) && shows(self.log_y, y))
    }

    /// Draws everything. Where lines are not `joined` each of their segments stands by itself: the bitmap backend joins
    /// those of a thick line in spikes that reach far beyond its points.
    fn draw<DB: DrawingBackend>(
        &self,
        root: &DrawingArea<DB, Shift>,
        scale: u32,
        joined: bool,
    ) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
        // The font is part of the program, so that registering it cannot fail.
        let _ = register_font(FAMILY, FontStyle::Normal, FONT);
        let scale = scale as i32;
        let font = |size: i32| (FAMILY, size * scale).into_font().color(&INK);
        root.fill(&PAPER)?;

        let lines: Vec<Vec<Point>> = self
            .series
            .iter()
            .map(|series| points::decimate(self.drawable(series).collect(), MOST_POINTS))
            .collect();
        let x = Axis::over(lines.iter().flatten().map(|point| point.0), self.log_x, false);
        let y = Axis::over(lines.iter().flatten().map(|point| point.1), self.log_y, true);
        let labels = self.series.iter().filter(|series| series.label.is_some()).count();
        let corner = emptiest_corner(&lines, &x, &y, labels);
        let widest = y.ticks(8).iter().map(|&tick| y.label(tick).len()).max().unwrap_or(0) as i32;

        let mut builder = ChartBuilder::on(root);
        builder
            .margin(8 * scale)
            .margin_right(18 * scale)
            .x_label_area_size(42 * scale)
            .y_label_area_size((30 + 8 * widest) * scale);
        let mut chart = builder.build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(scale as u32))
            .axis_style(INK.stroke_width(scale as u32))
            .set_all_tick_mark_size(4 * scale)
            .label_style(font(15))
            .axis_desc_style(font(15))
            .x_labels(8)
            .y_labels(8)
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .draw()?;
        for (series, points) in self.series.iter().zip(lines) {
            let style = match series.mark {
                Mark::Faint => series.color.mix(0.35).stroke_width(scale as u32),
                Mark::Line | Mark::Dotted => series.color.stroke_width(2 * scale as u32),
            };
            // A single point has no line, and would not be seen.
            if series.mark == Mark::Dotted || points.len() == 1 {
                let dot = |&point: &Point| Circle::new(point, 3 * scale, series.color.filled());
                chart.draw_series(points.iter().map(dot))?;
            }
            let segment = |pair: &[Point]| PathElement::new(pair.to_vec(), style);
            let drawn = if joined {
                chart.draw_series(LineSeries::new(points, style))?
            } else {
                chart.draw_series(points.windows(2).map(segment))?
            };
            if let Some(label) = &series.label {
                let dot = if series.mark == Mark::Dotted { 3 * scale } else { 0 };
                let color = series.color;
                drawn.label(label).legend(move |(x, y)| {
                    EmptyElement::at((x, y))
                        + PathElement::new(vec![(0, 0), (18 * scale, 0)], style)
                        + Circle::new((9 * scale, 0), dot, color.filled())
                });
            }
        }
        if self.series.iter().any(|series| series.label.is_some()) {
            chart
                .configure_series_labels()
                .position(corner)
                .legend_area_size(24 * scale)
                .margin(6 * scale)
                .background_style(PAPER.mix(0.8))
                .label_font(font(15))
                .draw()?;
        }
        root.present()
    }
}

/// The corner of the plot that the lines leave free for a legend of so many labels.
fn emptiest_corner(lines: &[Vec<Point>], x: &Axis, y: &Axis, labels: usize) -> SeriesLabelPosition {
    use SeriesLabelPosition::{LowerLeft, LowerRight, UpperLeft, UpperRight};
    /// Places along a line between two of its points.
    const BETWEEN: i32 = 8;
    // What the legend covers of the plot's width and height, in thousandths.
    let (wide, high) = (350, (80 * labels as i32 + 60).min(900));
    let mut crowds = [(UpperRight, 0), (LowerLeft, 0), (LowerRight, 0), (UpperLeft, 0)];
    for line in lines {
        let places: Vec<(i32, i32)> =
            line.iter().map(|(px, py)| (x.map(px, (0, 1000)), y.map(py, (0, 1000)))).collect();
        for pair in places.windows(2) {
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            for i in 0..BETWEEN {
                let at = |from: i32, to: i32| from + (to - from) * i / BETWEEN;
                let (px, py) = (at(x0, x1), at(y0, y1));
                for (corner, crowd) in &mut crowds {
                    let beside =
                        if matches!(corner, UpperRight | LowerRight) { 1000 - px } else { px };
                    let above =
                        if matches!(corner, UpperRight | UpperLeft) { 1000 - py } else { py };
                    *crowd += i32::from(beside < wide && above < high);
                }
            }
        }
    }
    let free = crowds.into_iter().min_by_key(|(_, crowd)| *crowd);
    free.map_or(UpperRight, |(corner, _)| corner)
}
