//! Runs a test on each driver, and looks afterwards whether anything was left behind.

use std::env;
use std::fs;
use std::future::Future;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::panic::Location;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proactor::net::{TcpListener, TcpStream};
use proactor::{Builder, DriverChoice, DriverKind, EventLoop};

use crate::choice::limit_descriptors;

/// Declares tests once and makes one of each for every driver: `contract::uring::name` and `contract::epoll::name`.
macro_rules! both_drivers {
    ($($name:ident),* $(,)?) => {
        mod uring {
            $(#[test] fn $name() { $crate::harness::on(proactor::DriverChoice::IoUring, super::$name); })*
        }
        mod epoll {
            $(#[test] fn $name() { $crate::harness::on(proactor::DriverChoice::Epoll, super::$name); })*
        }
    };
}
pub(crate) use both_drivers;

/// What a test gets: the driver it shall use.
#[derive(Clone, Copy)]
pub(crate) struct Cx {
    pub(crate) driver: DriverChoice,
}

impl Cx {
    pub(crate) fn builder(self) -> Builder {
        EventLoop::builder().driver(self.driver)
    }

    pub(crate) fn is_uring(self) -> bool {
        self.driver == DriverChoice::IoUring
    }

    /// Whether the ring has this feature, named as in the driver's report.
    pub(crate) fn has(self, feature: &str) -> bool {
        let report = self.builder().build().expect("a loop").report();
        report.features().any(|(name, present)| name == feature && present)
    }

    /// Runs `main` in a loop of its own and checks that nothing is left of it: no operation, no buffer, no task, no
    /// timer, and in the end no descriptor.
    pub(crate) fn run<T, E: std::fmt::Debug>(self, main: impl Future<Output = Result<T, E>>) -> T {
        self.run_with(self.builder(), main)
    }

    /// Runs `main` in a loop of its own, and lets it keep what it likes of that.
    pub(crate) fn run_and_keep(self, main: impl Future<Output = ()>) {
        let event_loop = self.builder().build().expect("a loop");
        event_loop.run_until_complete(main).expect("the loop runs");
    }

    pub(crate) fn run_with<T, E: std::fmt::Debug>(
        self,
        builder: Builder,
        main: impl Future<Output = Result<T, E>>,
    ) -> T {
        let event_loop = builder.build().expect("a loop");
        let result = event_loop.run_until_complete(within(main)).expect("the loop runs");
        event_loop.run_until_complete(settled(&event_loop)).expect("the loop still runs");
        let left = event_loop.metrics();
        assert_eq!((left.tasks, left.timers), (0, 0), "tasks and timers are left");
        assert_eq!((left.scopes, left.waits), (0, 0), "scopes and waits are left");
        assert_eq!((left.in_flight, left.buffers_in_use), (0, 0), "operations and buffers are left");
        event_loop.close().expect("the loop closes");
        result.expect("the test's future succeeds")
    }
}

/// Every test ends: the limit is far beyond what any takes.
async fn within<T>(main: impl Future<Output = T>) -> T {
    proactor::timeout(patience(120), main).await.expect("the test takes too long")
}

/// So many seconds, or `URING_TESTS_SLOWER` times as many on a machine that is so much slower, as an emulated one is.
pub(crate) fn patience(seconds: u64) -> Duration {
    let factor = env::var("URING_TESTS_SLOWER")
        .map_or(1, |text| text.parse().expect("URING_TESTS_SLOWER is a number"));
    Duration::from_secs(seconds * factor)
}

/// So many repetitions, or the share of them that `URING_TESTS_LOAD` says where it is set, as ci/kernel-matrix does for
/// its emulated guests; but not fewer than ten.
///
/// A test that takes more than a tenth of a second because it repeats something takes the count from here: else it
/// makes each run on each kernel seconds longer. What it asserts has to hold for any count.
pub(crate) fn many(count: usize) -> usize {
    let share =
        env::var("URING_TESTS_LOAD").map_or(1.0, |text| text.parse().expect("URING_TESTS_LOAD is a number"));
    ((count as f64 * share) as usize).max(count.min(10))
}

/// Waits, for a bounded time, until what was dropped has come back from the kernel and from the pool.
async fn settled(event_loop: &EventLoop) {
    let end = Instant::now() + patience(20);
    while Instant::now() < end {
        let left = event_loop.metrics();
        if (left.tasks, left.timers, left.in_flight, left.buffers_in_use) == (0, 0, 0, 0) {
            return;
        }
        // A turn of the loop, and for the ring a way through the kernel.
        proactor::nop().await.expect("a nop");
        // On the epoll driver the nop does not get that far.
        proactor::sleep(Duration::ZERO).await.expect("no time");
        if left.in_flight > 0 {
            std::thread::yield_now();
        }
    }
}

/// Tests that count descriptors do not run at the same time as others that make some.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Descriptors of this process, without those of `/proc` and `/sys`: the allocator of libc looks there for a moment, in
/// any thread, and so does this function.
pub(crate) fn open_descriptors() -> usize {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| !target.starts_with("/proc") && !target.starts_with("/sys")).count()
}

/// Why there is no ring here, if there is none.
pub(crate) fn ring_refused() -> Option<io::Error> {
    EventLoop::builder().driver(DriverChoice::IoUring).build().err()
}

/// Says that a test, or a part of it, was not run. Not by `eprintln!`, which the test runner swallows.
pub(crate) fn skip(reason: &str) {
    static SKIPPED: AtomicU32 = AtomicU32::new(0);
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // In one write, so that the lines of two threads do not mix. Without a standard error nobody is left to tell.
    let _ = io::stderr().write_all(format!("\nSKIP {count}: {test}: {reason}\n").as_bytes());
}

/// Whether there are so many free descriptors and so much free memory for this test; else it is skipped, loudly. A test
/// that takes more than some thirty descriptors or twenty mebibytes says so before anything else:
/// `if !needs(2 * CONNECTIONS + 20, 0) { return }`. The limit of this process is raised where that is allowed.
#[must_use]
pub(crate) fn needs(descriptors: usize, mebibytes: usize) -> bool {
    let number = |path: &str, line: &str, word: usize| {
        let text = fs::read_to_string(path).expect("proc is mounted");
        let found = text.lines().find_map(|l| l.strip_prefix(line)).expect("a line of that name");
        // `unlimited` is no number.
        found.split_whitespace().nth(word).expect("a number").parse().unwrap_or(usize::MAX)
    };
    let allowed = || number("/proc/self/limits", "Max open files", 0).saturating_sub(open_descriptors());
    if allowed() < descriptors {
        limit_descriptors(1 << 20);
    }
    let allowed = allowed();
    let available = number("/proc/meminfo", "MemAvailable:", 0) / 1024;
    if allowed < descriptors {
        skip(&format!("{allowed} more descriptors are allowed, {descriptors} are needed"));
    } else if available < mebibytes {
        skip(&format!("{available} MiB of memory are free, {mebibytes} are needed"));
    }
    allowed >= descriptors && available >= mebibytes
}

/// Runs a test on one driver. Without io_uring the ring's half is skipped, loudly, or fails where it is required.
pub(crate) fn on(driver: DriverChoice, test: impl FnOnce(Cx)) {
    let _alone = alone();
    if driver == DriverChoice::IoUring
        && let Some(reason) = ring_refused()
    {
        let required = env::var("URING_TESTS_REQUIRE").is_ok_and(|names| names.contains("io_uring"));
        assert!(!required, "URING_TESTS_REQUIRE=io_uring, but: {reason}");
        skip(&reason.to_string());
        return;
    }
    let cx = Cx { driver };
    warm_up(cx);
    let before = open_descriptors();
    test(cx);
    assert_eq!(open_descriptors(), before, "descriptors were leaked");
}

/// Which driver ran is asserted, not assumed; and what is made once in a process is made before anything is counted.
fn warm_up(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let expected = if cx.is_uring() { DriverKind::IoUring } else { DriverKind::Epoll };
    assert_eq!(event_loop.report().driver(), expected);
}

/// Two ends of a TCP connection.
pub(crate) async fn tcp_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    Ok((client, listener.accept().await?))
}

/// A few turns of the loop, each of which looks at the kernel.
pub(crate) async fn turns(count: usize) {
    for _ in 0..count {
        proactor::nop().await.expect("a nop");
        // On the epoll driver the nop does not get that far.
        proactor::sleep(Duration::ZERO).await.expect("no time");
    }
}

/// Waits with `poll(2)`, without a loop and no longer than `limit`, until there is something to read or to accept.
pub(crate) fn has_input(descriptor: impl AsFd, limit: Duration) -> bool {
    // Rounded up: a poll that ends too soon would be repeated until the time has come.
    let limit = PollTimeout::try_from(limit.as_micros().div_ceil(1000)).expect("no more than weeks");
    let mut entry = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut entry, limit).is_ok_and(|ready| ready > 0)
}

/// Turns the loop until `condition` holds; it must within 20 seconds, unless [`patience`] is asked for.
#[track_caller]
pub(crate) fn until(mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let end = Instant::now() + patience(20);
        while !condition() {
            assert!(Instant::now() < end, "what {caller} waits for does not happen");
            turns(1).await;
            std::thread::yield_now();
        }
    }
}

/// Numbers that look random, the same in each run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// A folder of this test, which is removed with all that is in it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("proactor-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a folder for temporary files");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
