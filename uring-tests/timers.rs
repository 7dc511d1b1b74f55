//! Timers: exact and in order on the virtual clock, never early on the real one, by the million, and beside I/O.

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use proactor::net::{TcpListener, TcpStream, UnixStream};
use proactor::{
    Sleep, TimedOut, event_loop, interval, metrics, nop, sleep, sleep_until, spawn, timeout, yield_now,
};

use crate::harness::{Cx, both_drivers, many};

both_drivers!(
    the_virtual_clock_stands_still_and_jumps_exactly_to_the_deadline,
    sleeps_end_in_the_order_of_their_deadlines,
    equal_deadlines_fire_in_the_order_of_registration,
    the_real_clock_never_fires_early,
    a_million_timers_fire_or_are_cancelled,
    a_sleep_of_no_time_takes_a_turn,
    a_sleep_beyond_the_end_of_the_clock_never_ends,
    a_deadline_in_the_past_is_over_after_a_turn,
    a_sleep_counts_from_the_call_and_not_from_the_first_poll,
    a_result_that_is_there_in_time_wins_over_the_time_limit,
    a_time_limit_drops_the_future_and_says_so,
    an_interval_keeps_its_rhythm_and_leaves_out_missed_ticks,
    a_tick_that_nobody_waited_for_stays_due,
    an_interval_needs_a_period,
    a_sleep_that_is_dropped_leaves_no_timer,
    a_sleep_wakes_whoever_polled_it_last,
    a_nearer_deadline_overtakes_a_farther_one_that_the_kernel_has,
    deadlines_that_move_out_cost_nothing,
    a_deadline_that_was_taken_back_wakes_nobody_and_the_next_is_on_time,
    a_time_limit_on_a_receive_loses_no_bytes,
    the_virtual_clock_does_not_jump_over_io_that_is_under_way,
    a_storm_of_due_timers_starves_no_io,
);

/// Runs `main` on a virtual clock that may go farther than the time limit of other tests.
fn virtually<T>(cx: Cx, main: impl Future<Output = T>) -> T {
    let event_loop = cx.builder().virtual_clock(true).build().expect("a loop");
    let result = event_loop.run_until_complete(main).expect("the loop runs");
    let left = event_loop.metrics();
    assert_eq!((left.tasks, left.timers, left.in_flight), (0, 0, 0), "something is left");
    event_loop.close().expect("the loop closes");
    result
}

fn now() -> Instant {
    event_loop::time().expect("a loop runs")
}

/// Numbers that look random, the same in each run.
fn numbers() -> impl FnMut(u64) -> u64 {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

fn the_virtual_clock_stands_still_and_jumps_exactly_to_the_deadline(cx: Cx) {
    let real = Instant::now();
    virtually(cx, async {
        for nanoseconds in [1, 999, 1_000_000, 1_500_000_007, 3_600_000_000_000, 400_000_000_000_000_000] {
            let duration = Duration::from_nanos(nanoseconds);
            let begin = now();
            sleep(duration).await.expect("nobody cancels");
            assert_eq!(now() - begin, duration);
        }
        let begin = now();
        for _ in 0..1000 {
            yield_now().await;
        }
        assert_eq!(now(), begin, "no time passes while something can run");
    });
    assert!(real.elapsed() < Duration::from_secs(60), "twelve years took {:?}", real.elapsed());
}

fn sleeps_end_in_the_order_of_their_deadlines(cx: Cx) {
    virtually(cx, async {
        let (begin, log) = (now(), Rc::new(RefCell::new(Vec::new())));
        let mut random = numbers();
        let tasks: Vec<_> = (0..5000)
            .map(|_| {
                let (after, log) = (Duration::from_micros(random(1_000_000) + 1), log.clone());
                spawn(async move {
                    sleep_until(begin + after).await.expect("nobody cancels");
                    assert_eq!(now(), begin + after, "on time to the nanosecond");
                    log.borrow_mut().push(after);
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a result");
        }
        let log = log.take();
        assert_eq!(log.len(), 5000);
        assert!(log.is_sorted());
    });
}

fn equal_deadlines_fire_in_the_order_of_registration(cx: Cx) {
    virtually(cx, async {
        let (at, log) = (now() + Duration::from_secs(1), Rc::new(RefCell::new(Vec::new())));
        let tasks: Vec<_> = (0..3000)
            .map(|n| {
                let log = log.clone();
                spawn(async move {
                    // Others for other times are between them.
                    drop(timeout(Duration::from_millis(n % 17), sleep_until(at)).await);
                    sleep_until(at).await.expect("nobody cancels");
                    log.borrow_mut().push(n);
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("a result");
        }
        // Within each group the order is that of spawning; the groups registered one after the other.
        let expected: Vec<_> = (0..17).flat_map(|group| (group..3000).step_by(17)).collect();
        assert_eq!(log.take(), expected);
    });
}

fn the_real_clock_never_fires_early(cx: Cx) {
    cx.run(async {
        let mut random = numbers();
        let tasks: Vec<_> = (0..300)
            .map(|_| {
                let duration = Duration::from_nanos(random(20_000_000));
                spawn(async move {
                    let begin = Instant::now();
                    sleep(duration).await?;
                    assert!(begin.elapsed() >= duration, "{:?} instead of {duration:?}", begin.elapsed());
                    let at = Instant::now() + duration / 3;
                    sleep_until(at).await?;
                    assert!(Instant::now() >= at);
                    let begin = Instant::now();
                    assert_eq!(timeout(duration / 4, pending::<()>()).await, Err(TimedOut::default()));
                    assert!(begin.elapsed() >= duration / 4);
                    Ok::<_, io::Error>(())
                })
            })
            .collect();
        for task in tasks {
            task.await.map_err(io::Error::from)??;
        }
        Ok::<_, io::Error>(())
    });
}

#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn poll_with(sleep: &mut Sleep, waker: &Waker) -> bool {
    Pin::new(sleep).poll(&mut Context::from_waker(waker)).is_ready()
}

fn a_million_timers_fire_or_are_cancelled(cx: Cx) {
    let count = many(1_000_000);
    virtually(cx, async {
        let (begin, counter) = (now(), Arc::new(Counter::default()));
        let waker = Waker::from(counter.clone());
        let mut random = numbers();
        let mut sleeps: Vec<_> = (0..count)
            .map(|_| {
                let mut sleep = sleep_until(begin + Duration::from_nanos(random(1 << 40) + 1));
                assert!(!poll_with(&mut sleep, &waker));
                sleep
            })
            .collect();
        assert_eq!(metrics().timers, count);
        // Every second one is dropped, in no particular order.
        for kept in (count / 2 + 1..=count).rev() {
            drop(sleeps.swap_remove(random(kept as u64) as usize));
        }
        assert_eq!(metrics().timers, count / 2);
        sleeps.sort_by_key(Sleep::deadline);
        let last = sleeps.last().and_then(Sleep::deadline).expect("a deadline");
        let middle = sleeps[count / 4 - 1].deadline().expect("a deadline");
        sleep_until(middle).await.expect("nobody cancels");
        let fired = sleeps.iter().filter(|sleep| sleep.deadline() <= Some(middle)).count();
        assert_eq!(counter.0.load(Ordering::Relaxed), fired, "exactly those that are due fired");
        sleep_until(last).await.expect("nobody cancels");
        yield_now().await;
        assert_eq!(counter.0.load(Ordering::Relaxed), count / 2);
        assert_eq!(metrics().timers, 0);
        assert!(sleeps.iter_mut().all(|sleep| poll_with(sleep, Waker::noop())), "all of them are over");
    });
}

fn a_sleep_of_no_time_takes_a_turn(cx: Cx) {
    cx.run(async {
        let (ran, stop) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let (count, end) = (ran.clone(), stop.clone());
        let other = spawn(async move {
            while !end.get() {
                count.set(count.get() + 1);
                yield_now().await;
            }
        });
        for _ in 0..10 {
            let before = ran.get();
            sleep(Duration::ZERO).await?;
            assert!(ran.get() > before, "the others have their turn");
        }
        stop.set(true);
        other.await.map_err(io::Error::from)
    });
}

fn a_sleep_beyond_the_end_of_the_clock_never_ends(cx: Cx) {
    virtually(cx, async {
        assert_eq!(sleep(Duration::MAX).deadline(), None);
        let mut never = sleep(Duration::MAX);
        let hours = Duration::from_secs(10_000 * 3600);
        assert_eq!(timeout(hours, &mut never).await, Err(TimedOut::default()));
        assert_eq!(timeout(Duration::MAX, nop()).await.expect("in time").ok(), Some(()));
        let mut rare = interval(Duration::MAX);
        assert!(timeout(hours, rare.tick()).await.is_err());
    });
    // The same on the real clock, which the kernel has to bear.
    cx.run(async {
        let century = Duration::from_secs(100 * 365 * 86_400);
        for long in [century, Duration::from_secs(u64::from(u32::MAX)), Duration::MAX] {
            let mut sleeper = sleep(long);
            assert!(!poll_with(&mut sleeper, Waker::noop()));
            assert_eq!(timeout(Duration::from_millis(2), pending::<()>()).await, Err(TimedOut::default()));
            assert!(!poll_with(&mut sleeper, Waker::noop()));
            assert_eq!(timeout(long, nop()).await?.ok(), Some(()));
            let limited = timeout(Duration::from_millis(2), sleep(long)).await;
            assert_eq!(limited, Err(TimedOut::default()));
        }
        Ok::<_, io::Error>(())
    });
}

fn a_deadline_in_the_past_is_over_after_a_turn(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        sleep(Duration::from_secs(5)).await.expect("nobody cancels");
        let later = now();
        for past in [begin, begin + Duration::from_secs(1), later] {
            let mut sleep = sleep_until(past);
            assert!(!poll_with(&mut sleep, Waker::noop()), "it takes a turn");
            sleep.await.expect("nobody cancels");
            assert_eq!(now(), later);
        }
    });
}

fn a_sleep_counts_from_the_call_and_not_from_the_first_poll(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let early = sleep(Duration::from_secs(3));
        assert_eq!(early.deadline(), Some(begin + Duration::from_secs(3)));
        sleep(Duration::from_secs(2)).await.expect("nobody cancels");
        early.await.expect("nobody cancels");
        assert_eq!(now() - begin, Duration::from_secs(3));
    });
}

fn a_result_that_is_there_in_time_wins_over_the_time_limit(cx: Cx) {
    virtually(cx, async {
        let second = Duration::from_secs(1);
        assert_eq!(timeout(Duration::ZERO, async { 1 }).await, Ok(1), "ready at once");
        // Both are due at the same time.
        let at = now() + second;
        assert!(timeout(second, sleep_until(at)).await.is_ok());
        let inner = timeout(second, pending::<()>());
        assert_eq!(
            timeout(second * 2, inner).await,
            Ok(Err(TimedOut::default())),
            "the inner limit is nearer"
        );
        let inner = timeout(second * 2, pending::<()>());
        assert_eq!(timeout(second, inner).await, Err(TimedOut::default()));
    });
}

fn a_time_limit_drops_the_future_and_says_so(cx: Cx) {
    struct Note(Rc<Cell<bool>>);
    impl Drop for Note {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    virtually(cx, async {
        let (begin, dropped) = (now(), Rc::new(Cell::new(false)));
        let note = Note(dropped.clone());
        let outcome = timeout(Duration::from_millis(1500), async move {
            let _note = note;
            pending::<()>().await;
        });
        let error: io::Error = outcome.await.expect_err("it never ends").into();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "timed out");
        assert!(dropped.get());
        assert_eq!(now() - begin, Duration::from_millis(1500));
    });
}

fn an_interval_keeps_its_rhythm_and_leaves_out_missed_ticks(cx: Cx) {
    virtually(cx, async {
        let (begin, second) = (now(), Duration::from_secs(1));
        let mut clock = interval(second);
        for n in 1..=5 {
            let due = clock.tick().await.expect("nobody cancels");
            assert_eq!((due, now()), (begin + second * n, begin + second * n));
        }
        // Busy for 3.4 periods: one late tick, then the next multiple.
        sleep(second * 34 / 10).await.expect("nobody cancels");
        assert_eq!(clock.tick().await, Ok(begin + second * 6));
        assert_eq!(now(), begin + second * 84 / 10, "it was due already");
        assert_eq!(clock.tick().await, Ok(begin + second * 9));
        assert_eq!(now(), begin + second * 9);
        // Exactly on a tick.
        sleep(second * 2).await.expect("nobody cancels");
        assert_eq!(clock.tick().await, Ok(begin + second * 10));
        assert_eq!(clock.tick().await, Ok(begin + second * 12));
    });
}

fn a_tick_that_nobody_waited_for_stays_due(cx: Cx) {
    virtually(cx, async {
        let (begin, second) = (now(), Duration::from_secs(1));
        let mut clock = interval(second);
        for _ in 0..3 {
            assert!(timeout(second / 10, clock.tick()).await.is_err(), "not due yet");
        }
        assert_eq!(clock.tick().await, Ok(begin + second));
        assert_eq!(now(), begin + second);
    });
}

fn an_interval_needs_a_period(cx: Cx) {
    virtually(cx, async {
        let made = catch_unwind(AssertUnwindSafe(|| interval(Duration::ZERO)));
        let payload = made.expect_err("it panics");
        let text = payload.downcast_ref::<&str>().expect("a sentence");
        assert!(text.contains("period above zero"), "{text}");
    });
}

fn a_sleep_that_is_dropped_leaves_no_timer(cx: Cx) {
    virtually(cx, async {
        let mut sleeps: Vec<_> = (1..=1000).map(|n| sleep(Duration::from_secs(n))).collect();
        assert_eq!(metrics().timers, 0, "a sleep begins with its first poll");
        sleeps.iter_mut().for_each(|sleep| assert!(!poll_with(sleep, Waker::noop())));
        assert_eq!(metrics().timers, 1000);
        sleeps.retain(|sleep| sleep.deadline().is_some_and(|at| at <= now() + Duration::from_secs(10)));
        assert_eq!(metrics().timers, 10);
        sleep(Duration::from_secs(5)).await.expect("nobody cancels");
        assert_eq!(metrics().timers, 5);
        drop(sleeps);
        assert_eq!(metrics().timers, 0);
        assert!(timeout(Duration::from_secs(9), async {}).await.is_ok());
        assert_eq!(metrics().timers, 0, "a limit that was not needed leaves none either");
    });
}

fn a_sleep_wakes_whoever_polled_it_last(cx: Cx) {
    virtually(cx, async {
        let counters: Vec<_> = (0..3).map(|_| Arc::new(Counter::default())).collect();
        let mut sleep = sleep(Duration::from_secs(1));
        for counter in counters.iter().chain(&counters) {
            assert!(!poll_with(&mut sleep, &Waker::from(counter.clone())));
        }
        assert_eq!(metrics().timers, 1);
        assert!(timeout(Duration::from_secs(2), pending::<()>()).await.is_err());
        let woken: Vec<_> = counters.iter().map(|counter| counter.0.load(Ordering::Relaxed)).collect();
        assert_eq!(woken, [0, 0, 1]);
        assert!(counters.iter().all(|counter| Arc::strong_count(counter) == 1), "no waker is kept");

        // From one task to another.
        let mut moved = Box::pin(proactor::sleep(Duration::from_secs(1)));
        assert!(poll_fn(|cx| Poll::Ready(moved.as_mut().poll(cx).is_pending())).await);
        spawn(moved).await.expect("a result").expect("nobody cancels");
    });
}

fn a_nearer_deadline_overtakes_a_farther_one_that_the_kernel_has(cx: Cx) {
    cx.run(async {
        let mut far = sleep(Duration::from_secs(3600));
        assert!(!poll_with(&mut far, Waker::noop()));
        let handle = proactor::current()?;
        for round in 0..20 {
            // Another thread asks while the loop sleeps until the far deadline, or is on its way there.
            let handle = handle.clone();
            let thread = thread::spawn(move || {
                let begin = Instant::now();
                let due = Duration::from_micros(500 * (20 - round));
                let mut near = handle.spawn(async move || {
                    sleep(due).await.expect("nobody cancels");
                    begin.elapsed() >= due
                })?;
                near.wait(Some(Duration::from_secs(60)))
            });
            while !thread.is_finished() {
                sleep(Duration::from_millis(1)).await?;
            }
            assert!(thread.join().expect("the thread ends")?, "not early");
        }
        assert!(!poll_with(&mut far, Waker::noop()));
        Ok::<_, io::Error>(())
    });
}

fn deadlines_that_move_out_cost_nothing(cx: Cx) {
    cx.run(async {
        let (client, server) = UnixStream::pair()?;
        let before = metrics();
        for _ in 0..500 {
            client.send("x").await?;
            let chunk = timeout(Duration::from_secs(100), server.receive()).await??;
            assert_eq!(chunk.expect("a byte").len(), 1);
        }
        let after = metrics();
        assert!(after.timers <= 1, "only the limit of the test is left, not {}", after.timers);
        let armed = after.submitted_of("timeout") - before.submitted_of("timeout");
        let removed = after.submitted_of("timeout_remove") - before.submitted_of("timeout_remove");
        assert!(armed <= 2 && removed <= 2, "{armed} time-outs armed, {removed} removed");
        Ok::<_, io::Error>(())
    });
}

fn a_deadline_that_was_taken_back_wakes_nobody_and_the_next_is_on_time(cx: Cx) {
    cx.run(async {
        let (counter, mut too_late) = (Arc::new(Counter::default()), 0);
        for round in 1..=10 {
            let mut near = sleep(Duration::from_millis(20));
            assert!(!poll_with(&mut near, &Waker::from(counter.clone())));
            // The kernel has the near deadline by then.
            sleep(Duration::from_micros(100)).await?;
            // This machine may have been too busy to come to it in time.
            too_late += usize::from(near.deadline() <= Some(Instant::now()));
            drop(near);
            let begin = Instant::now();
            let due = Duration::from_millis(20 + round);
            sleep(due).await?;
            assert!(begin.elapsed() >= due);
        }
        let fired = counter.0.load(Ordering::Relaxed);
        assert!(fired <= too_late, "{fired} fired, {too_late} were taken back too late");
        assert_eq!(Arc::strong_count(&counter), 1);
        Ok::<_, io::Error>(())
    });
}

fn a_time_limit_on_a_receive_loses_no_bytes(cx: Cx) {
    cx.run(async {
        let (client, server) = UnixStream::pair()?;
        let mut expected = Vec::new();
        let mut received = Vec::new();
        for n in 0..200_u32 {
            if n % 4 == 0 {
                let limited = timeout(Duration::from_micros(200), server.receive()).await;
                assert!(limited.is_err(), "nothing was sent");
            }
            client.send(n.to_be_bytes().to_vec()).await?;
            expected.extend(n.to_be_bytes());
            // A limit that is over at once: whether it wins or not, the bytes are there.
            if let Ok(chunk) = timeout(Duration::from_nanos(u64::from(n % 3)), server.receive()).await {
                received.extend_from_slice(&chunk?.expect("bytes"));
            }
        }
        while received.len() < expected.len() {
            received.extend_from_slice(&server.receive().await?.expect("bytes"));
        }
        assert_eq!(received, expected);
        Ok::<_, io::Error>(())
    });
}

fn the_virtual_clock_does_not_jump_over_io_that_is_under_way(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        // Were the clock to jump while something is on its way, this would be over at once.
        let limit = Duration::from_secs(3600);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = timeout(limit, TcpStream::connect(listener.local_addr()?)).await??;
        let server = timeout(limit, listener.accept()).await??;
        for _ in 0..100 {
            client.send("ping").await?;
            let chunk = timeout(limit, server.receive()).await??.expect("bytes");
            server.send(chunk).await?;
            assert_eq!(&timeout(limit, client.receive()).await??.expect("bytes")[..], b"ping");
        }
        assert_eq!(now(), begin);
        // Nothing comes any more, so the clock jumps although a receive is armed.
        assert!(timeout(limit, client.receive()).await.is_err());
        assert_eq!(now(), begin + limit);
        client.close().await?;
        server.close().await?;
        listener.close().await
    })
    .expect("all of it works");
}

fn a_storm_of_due_timers_starves_no_io(cx: Cx) {
    cx.run(async {
        let stop = Rc::new(Cell::new(false));
        let storm: Vec<_> = (0..many(5000))
            .map(|_| {
                let stop = stop.clone();
                spawn(async move {
                    while !stop.get() {
                        sleep(Duration::ZERO).await.expect("nobody cancels");
                    }
                })
            })
            .collect();
        let (client, server) = UnixStream::pair()?;
        for _ in 0..20 {
            client.send("ping").await?;
            server.send(server.receive().await?.expect("bytes")).await?;
            assert_eq!(&client.receive().await?.expect("bytes")[..], b"ping");
        }
        stop.set(true);
        for task in storm {
            task.await.map_err(io::Error::from)?;
        }
        Ok::<_, io::Error>(())
    });
}
