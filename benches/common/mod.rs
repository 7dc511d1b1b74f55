//! What every benchmark here shares: the header, the drivers side by side, and the ratio table.
//!
//! All cases of a group measure the time of one operation, so that drivers and sizes compare: ids are
//! `group::case/driver/size`. `raw` is the floor, the same work without a runtime.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode};
use proactor::{DriverChoice, EventLoop};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// The name of the floor in ids and tables.
pub(crate) const RAW: &str = "raw";

/// The drivers that are measured beside each other.
pub(crate) const DRIVERS: [(&str, DriverChoice); 2] =
    [("io_uring", DriverChoice::IoUring), ("epoll", DriverChoice::Epoll)];

const SAMPLES: usize = 20;

/// Prints the header and returns criterion with settings that keep a full run to some minutes.
pub(crate) fn start(question: &str) -> Criterion {
    println!("\n# {question}");
    println!("kernel {}", first_line("/proc/sys/kernel/osrelease"));
    println!("cpu    {} x {}", std::thread::available_parallelism().map_or(1, usize::from), cpu_model());
    for (name, choice) in DRIVERS {
        match event_loop(choice) {
            Ok(event_loop) => println!("{}", event_loop.report()),
            Err(error) => println!("SKIP {name}: {error}"),
        }
    }
    println!("plots  target/criterion/<group>/report/*.svg (lines.svg compares the drivers)\n");
    Criterion::default()
        .sample_size(SAMPLES)
        .nresamples(5_000)
        .warm_up_time(Duration::from_millis(400))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args()
}

pub(crate) fn event_loop(choice: DriverChoice) -> io::Result<EventLoop> {
    EventLoop::builder().driver(choice).build()
}

/// The drivers that run here, each with a loop of its own on this thread; the header named the rest.
pub(crate) fn loops() -> Vec<(&'static str, EventLoop)> {
    DRIVERS.iter().filter_map(|&(name, choice)| Some((name, event_loop(choice).ok()?))).collect()
}

/// `iterations` operations were wanted, `batches` of `size` were done in `elapsed`.
pub(crate) fn share(iterations: u64, batches: u64, size: usize, elapsed: Duration) -> Duration {
    elapsed.mul_f64(iterations as f64 / (batches * size as u64) as f64)
}

/// A criterion group that ends with a table of medians and of ratios to the floor.
pub(crate) struct Group<'a> {
    inner: BenchmarkGroup<'a, WallTime>,
    name: String,
    /// What the others are compared with.
    floor: &'static str,
    /// Nanoseconds per operation by size and driver.
    medians: BTreeMap<usize, BTreeMap<String, f64>>,
}

impl<'a> Group<'a> {
    pub(crate) fn new(criterion: &'a mut Criterion, name: &str) -> Group<'a> {
        Group::beside(criterion, name, RAW)
    }

    /// A group whose floor is called `floor` instead of `raw`.
    pub(crate) fn beside(criterion: &'a mut Criterion, name: &str, floor: &'static str) -> Group<'a> {
        Group { inner: criterion.benchmark_group(name), name: name.into(), floor, medians: BTreeMap::new() }
    }

    pub(crate) fn sampling(&mut self, mode: SamplingMode) {
        self.inner.sampling_mode(mode);
    }

    /// `run(n)` performs n operations and says how long they took, in the time that this group counts.
    pub(crate) fn case(&mut self, driver: &str, size: usize, mut run: impl FnMut(u64) -> Duration) {
        let mut calls = Vec::new();
        self.inner.bench_function(BenchmarkId::new(driver, size), |bencher| {
            bencher.iter_custom(|iterations| {
                let elapsed = run(iterations);
                calls.push((iterations, elapsed.as_nanos() as f64 / iterations as f64));
                elapsed
            });
        });
        if let Some(median) = median(calls) {
            self.medians.entry(size).or_default().insert(driver.into(), median);
        }
    }

    pub(crate) fn finish(self) {
        self.inner.finish();
        if self.medians.is_empty() {
            return;
        }
        println!(
            "\n{:24} {:>8}   {:>12} {:>12} {:>12}   ratio to {}",
            self.name, "size", self.floor, "io_uring", "epoll", self.floor
        );
        for (size, row) in &self.medians {
            let time = |driver| row.get(driver).map_or("-".into(), |&ns| readable(ns));
            let ratio = |driver| match (row.get(driver), row.get(self.floor)) {
                (Some(ns), Some(raw)) if *raw > 0.0 => format!("{driver} {:.2}", ns / raw),
                _ => String::new(),
            };
            let (raw, uring, epoll) = (time(self.floor), time("io_uring"), time("epoll"));
            println!(
                "{:24} {size:>8}   {raw:>12} {uring:>12} {epoll:>12}   {}  {}",
                "",
                ratio("io_uring"),
                ratio("epoll")
            );
            for other in row.keys().filter(|name| ![self.floor, "io_uring", "epoll"].contains(&name.as_str()))
            {
                println!("{:24} {size:>8}   {:>12} {}", "", time(other), ratio(other));
            }
        }
        println!();
    }
}

/// The median time per operation of (operations, time per operation); none if the case was filtered out.
///
/// The last calls are the samples, what came before was warming up; short ones measure mostly noise.
fn median(mut calls: Vec<(u64, f64)>) -> Option<f64> {
    let calls = calls.split_off(calls.len().saturating_sub(SAMPLES));
    let longest = calls.iter().map(|call| call.0).max()?;
    let mut times: Vec<f64> = calls.iter().filter(|call| call.0 * 3 >= longest).map(|call| call.1).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

fn readable(ns: f64) -> String {
    match ns {
        0.0..1e3 => format!("{ns:.1} ns"),
        1e3..1e6 => format!("{:.2} us", ns / 1e3),
        _ => format!("{:.2} ms", ns / 1e6),
    }
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").into()
}

fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split(':').nth(1)).map_or("unknown".into(), |model| model.trim().into())
}
