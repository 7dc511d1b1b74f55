//! What was measured, as tables in Markdown.

use crate::measure::{Ratio, Round, median};
use std::fmt::Write;
use std::io;

/// All peers, in the order of the columns.
const ORDER: [&str; 11] = [
    "raw",
    "raw-epoll",
    "ours",
    "ours-epoll",
    "ours-inline",
    "tokio",
    "smol",
    "futures",
    "monoio",
    "compio",
    "glommio",
];

/// What one of ours is compared with: the one of these that needs the least in that row.
struct Against {
    ours: &'static str,
    title: &'static str,
    others: &'static [&'static str],
}

const COMPARED: [Against; 6] = [
    Against {
        ours: "ours",
        title: "best peer",
        others: &["tokio", "smol", "futures", "monoio", "compio", "glommio"],
    },
    Against { ours: "ours", title: "raw ring", others: &["raw"] },
    Against { ours: "ours", title: "raw epoll", others: &["raw-epoll"] },
    Against { ours: "ours-epoll", title: "tokio, smol", others: &["tokio", "smol"] },
    Against { ours: "ours-epoll", title: "raw epoll", others: &["raw-epoll"] },
    Against { ours: "ours-inline", title: "sendfile(2)", others: &["raw-epoll"] },
];

/// The rounds of one row.
pub(crate) struct Row<'a> {
    pub(crate) name: &'a str,
    pub(crate) rounds: &'a [Round],
}

impl Row<'_> {
    /// The peers that have this row.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &'static str> {
        ORDER.into_iter().filter(|peer| self.cpu(peer).is_some())
    }

    fn values(&self, peer: &str, p99: bool) -> Vec<f64> {
        let samples = self.rounds.iter().filter_map(|round| round.iter().find(|sample| sample.peer == peer));
        samples.map(|sample| if p99 { sample.p99 } else { sample.ns }).collect()
    }

    /// Nanoseconds of CPU time per operation.
    pub(crate) fn cpu(&self, peer: &str) -> Option<f64> {
        some_median(&self.values(peer, false))
    }

    fn p99(&self, peer: &str) -> Option<f64> {
        some_median(&self.values(peer, true)).filter(|&ns| ns > 0.0)
    }

    fn compare(&self, against: &Against) -> Option<(Ratio, &'static str)> {
        let others = against.others.iter().filter_map(|&other| Some((other, self.cpu(other)?)));
        let best = others.min_by(|a, b| a.1.total_cmp(&b.1))?.0;
        let ratio = |round: &Round| {
            let ns = |peer: &str| round.iter().find(|sample| sample.peer == peer).map(|sample| sample.ns);
            Some(ns(against.ours)? / ns(best)?)
        };
        let ratios: Vec<f64> = self.rounds.iter().filter_map(ratio).collect();
        (!ratios.is_empty()).then(|| (Ratio::of(ratios), best))
    }
}

fn some_median(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| median(values))
}

/// Three tables: CPU time, ratios, and the slowest hundredth where that was measured.
pub(crate) fn tables(rows: &[Row<'_>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = times("CPU per operation", rows, |row, peer| row.cpu(peer));
    text += "\n";
    text += &ratios(rows);
    if rows.iter().any(|row| row.peers().any(|peer| row.p99(peer).is_some())) {
        text += "\n";
        text += &times("p99 on the clock", rows, |row, peer| row.p99(peer));
    }
    text
}

fn times(title: &str, rows: &[Row<'_>], of: impl Fn(&Row<'_>, &str) -> Option<f64>) -> String {
    let peers: Vec<&str> =
        ORDER.into_iter().filter(|peer| rows.iter().any(|row| of(row, peer).is_some())).collect();
    let mut text = head(title, &peers);
    for row in rows {
        let cells: Vec<String> = peers.iter().map(|peer| of(row, peer).map_or(String::new(), time)).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let _ = writeln!(text, "| {} | {} |", row.name, cells.join(" | "));
        }
    }
    text
}

fn ratios(rows: &[Row<'_>]) -> String {
    let compared: Vec<&Against> =
        COMPARED.iter().filter(|against| rows.iter().any(|row| row.compare(against).is_some())).collect();
    let heads: Vec<String> =
        compared.iter().map(|against| format!("{} / {}", against.ours, against.title)).collect();
    let mut text = head("ratio (95 %), rounds", &heads.iter().map(String::as_str).collect::<Vec<_>>());
    for row in rows {
        let cell = |against: &&Against| {
            let Some((ratio, best)) = row.compare(against) else { return String::new() };
            // In bold where ours needs more.
            let mark = if ratio.median > 1.0 { "**" } else { "" };
            let name = if against.others.len() > 1 { format!(" {best}") } else { String::new() };
            format!("{mark}{:.2}{mark} ({:.2}–{:.2}){name}", ratio.median, ratio.low, ratio.high)
        };
        let cells: Vec<String> = compared.iter().map(cell).collect();
        let _ = writeln!(text, "| {}, {} | {} |", row.name, row.rounds.len(), cells.join(" | "));
    }
    text
}

fn head(title: &str, columns: &[&str]) -> String {
    format!("| {title} | {} |\n|---|{}\n", columns.join(" | "), "--:|".repeat(columns.len()))
}

fn time(ns: f64) -> String {
    match ns {
        0.0..100.0 => format!("{ns:.1} ns"),
        100.0..10_000.0 => format!("{ns:.0} ns"),
        10_000.0..1e6 => format!("{:.1} µs", ns / 1e3),
        _ => format!("{:.2} ms", ns / 1e6),
    }
}

/// One line for each peer.
pub(crate) fn memory(title: &str, found: &[(&str, io::Result<f64>)]) -> String {
    let mut text = format!("\n| {title} | per connection |\n|---|--:|\n");
    for (peer, bytes) in found {
        let cell = match bytes {
            Ok(bytes) => format!("{:.2} KiB", bytes / 1024.0),
            Err(error) => error.to_string(),
        };
        let _ = writeln!(text, "| {peer} | {cell} |");
    }
    text
}
