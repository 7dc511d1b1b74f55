//! CPU time, rounds in which every peer has its turn, and what the rounds say.

use std::time::Duration;

/// What so many operations took.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) cpu: Duration,
    pub(crate) operations: u64,
}

impl Cost {
    pub(crate) const NOTHING: Cost = Cost { cpu: Duration::ZERO, operations: 0 };

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
        Cost { cpu: process_cpu() - self.0, operations }
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

/// The nanoseconds per operation of one case, one of each round.
pub(crate) struct Measured {
    pub(crate) peer: &'static str,
    pub(crate) rounds: Vec<f64>,
}

/// How many rounds, and how long each case runs in each of them.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) slice: Duration,
}

/// Measures the cases of one row: in every round each has its turn, and every round begins with another.
pub(crate) fn row(cases: Vec<Case>, plan: Plan) -> Vec<Measured> {
    let operations: Vec<u64> = cases.iter().map(|case| fitting(case, plan.slice)).collect();
    let mut measured: Vec<_> =
        cases.iter().map(|case| Measured { peer: case.peer, rounds: Vec::new() }).collect();
    for round in 0..plan.rounds {
        for turn in 0..cases.len() {
            let index = (round + turn) % cases.len();
            let cost = (cases[index].run)(operations[index]);
            measured[index].rounds.push(cost.ns_per_operation());
        }
    }
    measured
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

/// How one case relates to another, round by round.
pub(crate) struct Ratio {
    pub(crate) median: f64,
    /// Between these is the true median with a probability of at least 95 %; with fewer than six rounds, as far as they go.
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Ratio {
    pub(crate) fn of(ours: &[f64], theirs: &[f64]) -> Ratio {
        let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
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
