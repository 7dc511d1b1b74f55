//! What was measured, as pictures: for each row a bar for each peer.

use crate::report::Row;
use plotters::prelude::{
    ChartBuilder, Color, IntoDrawingArea, IntoSegmentedCoord, RGBColor, Rectangle, SVGBackend, SegmentValue,
    Text, WHITE,
};
use std::error::Error;
use std::path::Path;

const WIDTH: u32 = 360;
const HEIGHT: u32 = 240;
const COLUMNS: usize = 4;
const OURS: RGBColor = RGBColor(200, 60, 40);
const THEIRS: RGBColor = RGBColor(110, 130, 160);

/// Writes one picture with a small chart for each row.
pub(crate) fn write(path: &Path, title: &str, rows: &[Row<'_>]) -> Result<(), Box<dyn Error>> {
    let lines = rows.len().div_ceil(COLUMNS);
    let size = (WIDTH * COLUMNS as u32, HEIGHT * lines as u32 + 40);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    let area = area.titled(title, ("sans-serif", 20))?;
    for (row, area) in rows.iter().zip(area.split_evenly((lines, COLUMNS))) {
        let bars: Vec<(&str, f64)> = row.peers().filter_map(|peer| Some((peer, row.cpu(peer)?))).collect();
        let highest = bars.iter().map(|bar| bar.1).fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(&area)
            .caption(row.name, ("sans-serif", 14))
            .margin(6)
            .x_label_area_size(24)
            .y_label_area_size(52)
            .build_cartesian_2d((0..bars.len() - 1).into_segmented(), 0.0..highest * 1.15)?;
        let name = |value: &SegmentValue<usize>| match value {
            SegmentValue::CenterOf(index) => bars.get(*index).map_or("", |bar| bar.0).to_string(),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(bars.len())
            .x_label_formatter(&name)
            .x_label_style(("sans-serif", 9))
            .y_desc("ns CPU per operation")
            .y_labels(5)
            .draw()?;
        chart.draw_series(bars.iter().enumerate().map(|(index, (peer, ns))| {
            let color = if peer.starts_with("ours") { OURS } else { THEIRS };
            let corners = [(SegmentValue::Exact(index), 0.0), (SegmentValue::Exact(index + 1), *ns)];
            let mut bar = Rectangle::new(corners, color.filled());
            bar.set_margin(0, 0, 4, 4);
            bar
        }))?;
        chart.draw_series(bars.iter().enumerate().map(|(index, (_, ns))| {
            Text::new(format!("{ns:.0}"), (SegmentValue::CenterOf(index), *ns * 1.08), ("sans-serif", 9))
        }))?;
    }
    area.present()?;
    Ok(())
}
