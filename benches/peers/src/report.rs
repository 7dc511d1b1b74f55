//! What was measured, as a table in Markdown.

use crate::measure::{Measured, Ratio, median};
use std::fmt::Write;

/// Our own runtimes have this prefix, and are compared with the best of the others.
const OURS: &str = "ours";

/// The measured cases of one row.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) cases: Vec<Measured>,
}

impl Row {
    fn rounds(&self, peer: &str) -> Option<&[f64]> {
        self.cases.iter().find(|case| case.peer == peer).map(|case| &case.rounds[..])
    }

    /// The peer that needs the least, and its rounds.
    fn best(&self) -> Option<(&'static str, &[f64])> {
        let others = self.cases.iter().filter(|case| !case.peer.starts_with(OURS) && case.peer != FLOOR);
        let best = others.min_by(|a, b| median(&a.rounds).total_cmp(&median(&b.rounds)))?;
        Some((best.peer, &best.rounds))
    }
}

/// What was written by hand without a runtime is no peer.
const FLOOR: &str = "raw";

/// One line for each row: nanoseconds of CPU time per operation, and ours over the best of the others.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut peers: Vec<&str> = Vec::new();
    for case in rows.iter().flat_map(|row| &row.cases) {
        if !peers.contains(&case.peer) {
            peers.push(case.peer);
        }
    }
    let ours: Vec<&str> = peers.iter().copied().filter(|peer| peer.starts_with(OURS)).collect();
    let mut text = String::new();
    let ratios = ours.iter().map(|peer| format!("{peer} / best (95 %)"));
    let heads: Vec<String> = peers.iter().map(|peer| peer.to_string()).chain(ratios).collect();
    let _ = writeln!(text, "| CPU per operation | {} |", heads.join(" | "));
    let _ = writeln!(text, "|---|{}", "--:|".repeat(heads.len()));
    for row in rows {
        let times =
            peers.iter().map(|peer| row.rounds(peer).map_or("".into(), |rounds| time(median(rounds))));
        let ratios = ours.iter().map(|peer| match (row.rounds(peer), row.best()) {
            (Some(ours), Some((name, best))) => ratio(&Ratio::of(ours, best), name),
            _ => String::new(),
        });
        let cells: Vec<String> = times.chain(ratios).collect();
        let _ = writeln!(text, "| {} | {} |", row.name, cells.join(" | "));
    }
    text
}

/// In bold where ours needs more.
fn ratio(ratio: &Ratio, best: &str) -> String {
    let mark = if ratio.median > 1.0 { "**" } else { "" };
    format!("{mark}{:.2}{mark} ({:.2}–{:.2}) {best}", ratio.median, ratio.low, ratio.high)
}

fn time(ns: f64) -> String {
    match ns {
        0.0..100.0 => format!("{ns:.1} ns"),
        100.0..10_000.0 => format!("{ns:.0} ns"),
        _ => format!("{:.1} µs", ns / 1e3),
    }
}

/// One line for each peer.
pub(crate) fn memory(title: &str, found: &[(&str, f64)]) -> String {
    let mut text = format!("\n| {title} | per connection |\n|---|--:|\n");
    for (peer, bytes) in found {
        let _ = writeln!(text, "| {peer} | {:.2} KiB |", bytes / 1024.0);
    }
    text
}
