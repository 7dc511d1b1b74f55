//! CPU time, rounds in which every peer has its turn, and what the rounds say.

use std::time::{Duration, Instant};

/// What so many operations took.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) cpu: Duration,
    pub(crate) operations: u64,
    /// How long 99 of 100 took at most, on the clock; zero where nobody measures that.
    pub(crate) p99: Duration,
}

impl Cost {
    pub(crate) const NOTHING: Cost = Cost { cpu: Duration::ZERO, operations: 0, p99: Duration::ZERO };

    pub(crate) fn add(&mut self, other: Cost) {
        self.cpu += other.cpu;
        self.operations += other.operations;
    }

    pub(crate) fn ns_per_operation(self) -> f64 {
        self.cpu.as_nanos() as f64 / self.operations as f64
    }
}

/// The CPU time of this process: user and system, all of its threads.
pub(crate) fn process_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes into a `timespec` that lives on this stack.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "every Linux has this clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Counts from its start.
pub(crate) struct Clock(Duration);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(process_cpu())
    }

    pub(crate) fn cost(self, operations: u64) -> Cost {
        Cost { cpu: process_cpu() - self.0, operations, p99: Duration::ZERO }
    }
}

/// Keeps this thread, and those that it starts, on one CPU. Does nothing where there are not so many.
pub(crate) fn pin(cpu: usize) {
    // SAFETY: a set of CPUs is plain bits, for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is a local variable, and the number is below the bits that it has.
    unsafe { libc::CPU_SET(cpu % libc::CPU_SETSIZE as usize, &mut set) };
    // SAFETY: the kernel reads a set of the size that it is told.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
}

/// One thing to be measured, in one peer.
pub(crate) struct Case {
    /// What is measured; cases of the same row compare.
    pub(crate) row: String,
    pub(crate) peer: &'static str,
    /// Performs about so many operations.
    pub(crate) run: Box<dyn Fn(u64) -> Cost>,
}

/// What one round found out about one peer.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) peer: String,
    /// Nanoseconds of CPU time per operation.
    pub(crate) ns: f64,
    /// Nanoseconds on the clock, or 0.
    pub(crate) p99: f64,
}

/// The peers of one row, each measured once, within a second or two of each other.
pub(crate) type Round = Vec<Sample>;

/// How many rounds, how long each case runs in each of them, and when no more begin.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) slice: Duration,
    pub(crate) end: Option<Instant>,
}

impl Plan {
    pub(crate) fn is_over(&self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }
}

/// Measures the cases of one row: in every round each has its turn, and every round begins with another.
pub(crate) fn row(cases: &[Case], plan: Plan, mut found: impl FnMut(Round)) {
    let operations: Vec<u64> = cases.iter().map(|case| fitting(case, plan.slice)).collect();
    for first in 0..plan.rounds {
        if plan.is_over() {
            return;
        }
        let mut round: Round = Vec::new();
        for turn in 0..cases.len() {
            let index = (first + turn) % cases.len();
            let cost = (cases[index].run)(operations[index]);
            let (peer, p99) = (cases[index].peer.to_string(), cost.p99.as_nanos() as f64);
            round.push(Sample { peer, ns: cost.ns_per_operation(), p99 });
        }
        found(round);
    }
}

/// How many operations fill the slice.
fn fitting(case: &Case, slice: Duration) -> u64 {
    let mut operations = 16;
    loop {
        let cost = (case.run)(operations);
        if cost.cpu * 4 >= slice {
            let ratio = slice.as_secs_f64() / cost.cpu.as_secs_f64();
            return (cost.operations as f64 * ratio).ceil() as u64;
        }
        operations *= 2;
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0
}

/// What 99 of 100 are not above.
pub(crate) fn p99(times: &mut [u32]) -> Duration {
    let Some(last) = times.len().checked_sub(1) else { return Duration::ZERO };
    let (_, time, _) = times.select_nth_unstable(last * 99 / 100);
    Duration::from_nanos(u64::from(*time))
}

/// How one case relates to another, round by round.
pub(crate) struct Ratio {
    pub(crate) median: f64,
    /// Between these is the true median with a probability of at least 95 %; with fewer than six rounds, as far as they go.
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Ratio {
    /// At least one.
    pub(crate) fn of(mut ratios: Vec<f64>) -> Ratio {
        ratios.sort_by(f64::total_cmp);
        let outside = outside(ratios.len());
        Ratio { median: median(&ratios), low: ratios[outside], high: ratios[ratios.len() - 1 - outside] }
    }
}

/// How many of the sorted values at each end are outside of the 95 % interval of the median: each value is below the
/// median like a coin falls, so the ends that may be cut off are those of a binomial distribution.
fn outside(count: usize) -> usize {
    let mut outside = 0;
    let (mut term, mut tail) = (0.5_f64.powi(count as i32), 0.0);
    for k in 0..count / 2 {
        tail += term;
        if tail > 0.025 {
            break;
        }
        outside = k + 1;
        term *= (count - k) as f64 / (k + 1) as f64;
    }
    outside.saturating_sub(1).min(count.saturating_sub(1) / 2)
}
