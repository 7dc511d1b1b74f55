//! The loop as asyncio shows it: run, stop, close, callbacks soon and later, handles, and how new loops are made.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::io;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proactor::net::UnixStream;
use proactor::{DriverChoice, DriverKind, EventLoop, event_loop, nop, sleep, spawn, yield_now};

use crate::harness::{Cx, both_drivers, many};

both_drivers!(
    run_until_complete_gives_the_result_and_leaves_other_tasks_for_the_next_run,
    run_forever_runs_until_it_is_stopped_and_can_be_run_again,
    stop_lets_the_turn_end_and_leaves_later_callbacks_for_the_next_run,
    a_run_that_is_stopped_before_its_future_is_done_says_so,
    a_stop_without_a_run_lets_the_next_run_have_one_turn,
    a_stop_in_the_last_turn_does_not_reach_the_next_run,
    closing_twice_does_nothing_and_a_closed_loop_gives_errors,
    callbacks_that_are_left_are_dropped_uncalled_when_the_loop_closes,
    callbacks_are_called_in_the_order_in_which_they_were_given,
    callbacks_and_tasks_share_one_order,
    callbacks_that_give_callbacks_starve_no_io,
    later_callbacks_are_called_exactly_on_time_and_in_order,
    later_callbacks_for_one_time_are_called_in_the_order_in_which_they_were_given,
    a_callback_in_the_past_is_called_in_the_next_turn,
    a_callback_beyond_the_end_of_the_clock_is_never_called,
    a_cancelled_callback_is_never_called,
    a_callback_can_be_cancelled_by_one_that_is_due_with_it,
    a_cancelled_later_callback_is_dropped_at_once,
    a_handle_knows_whether_its_callback_is_to_come,
    a_stale_handle_never_reaches_another_callback,
    a_handle_that_is_dropped_changes_nothing,
    a_callback_that_panics_harms_neither_the_loop_nor_another_callback,
    without_a_running_loop_the_free_functions_are_errors,
    the_policy_says_how_loops_are_made,
    a_million_later_callbacks_are_called_or_cancelled,
);

fn new_loop(cx: Cx) -> EventLoop {
    cx.builder().build().expect("a loop")
}

fn virtual_loop(cx: Cx) -> EventLoop {
    cx.builder().virtual_clock(true).build().expect("a loop")
}

fn stop() {
    event_loop::stop().expect("a loop runs");
}

/// What happened, in order.
type Log<T> = Rc<RefCell<Vec<T>>>;

/// A callback that writes `entry` into `log`.
fn note<T: 'static>(log: &Log<T>, entry: T) -> impl FnOnce() + 'static {
    let log = log.clone();
    move || log.borrow_mut().push(entry)
}

fn run_until_complete_gives_the_result_and_leaves_other_tasks_for_the_next_run(cx: Cx) {
    let event_loop = new_loop(cx);
    assert!(!event_loop.is_running() && !event_loop.is_closed());
    let turns = Rc::new(Cell::new(0));
    let count = turns.clone();
    let mut task = None;
    let run = event_loop.run_until_complete(async {
        assert!(event_loop.is_running());
        task = Some(spawn(async move {
            for _ in 0..10 {
                count.set(count.get() + 1);
                yield_now().await;
            }
            "done"
        }));
    });
    run.expect("the loop runs");
    assert!(!event_loop.is_running());
    assert_eq!(turns.get(), 0, "the main future was done before anything else ran");
    let text = event_loop.run_until_complete(async {
        yield_now().await;
        yield_now().await;
        "main"
    });
    assert_eq!(text.expect("the loop runs"), "main");
    assert!((1..10).contains(&turns.get()), "{} turns", turns.get());
    let task = task.expect("it was spawned");
    assert_eq!(event_loop.run_until_complete(task).expect("the loop runs").expect("a result"), "done");
    assert_eq!(turns.get(), 10);
}

fn run_forever_runs_until_it_is_stopped_and_can_be_run_again(cx: Cx) {
    let event_loop = new_loop(cx);
    for round in 0..5 {
        let log: Log<u32> = Log::default();
        event_loop.call_soon(note(&log, round)).expect("it is open");
        let begin = Instant::now();
        event_loop.call_later(Duration::from_millis(2), stop).expect("it is open");
        event_loop.run_forever().expect("the loop runs");
        assert!(begin.elapsed() >= Duration::from_millis(2));
        assert_eq!(log.take(), [round]);
        assert!(!event_loop.is_running());
    }
    // From a task.
    let run = event_loop.run_until_complete(async {
        drop(spawn(async {
            nop().await.expect("a nop");
            stop();
        }));
    });
    run.expect("the loop runs");
    event_loop.run_forever().expect("the loop runs");
    assert_eq!(event_loop.metrics().tasks, 0);
}

fn stop_lets_the_turn_end_and_leaves_later_callbacks_for_the_next_run(cx: Cx) {
    let event_loop = new_loop(cx);
    let log: Log<&str> = Log::default();
    event_loop.call_soon(note(&log, "before")).expect("it is open");
    event_loop.call_soon(stop).expect("it is open");
    let (here, again) = (log.clone(), log.clone());
    event_loop
        .call_soon(move || {
            here.borrow_mut().push("after");
            event_loop::call_soon(note(&again, "next")).expect("a loop runs");
        })
        .expect("it is open");
    event_loop.run_forever().expect("the loop runs");
    assert_eq!(log.take(), ["before", "after"], "the whole turn, and nothing of the next");
    event_loop.call_soon(stop).expect("it is open");
    event_loop.run_forever().expect("the loop runs");
    assert_eq!(log.take(), ["next"]);
}

fn a_run_that_is_stopped_before_its_future_is_done_says_so(cx: Cx) {
    let event_loop = new_loop(cx);
    event_loop.call_soon(stop).expect("it is open");
    let error = event_loop.run_until_complete(pending::<()>()).expect_err("it was stopped");
    assert!(error.to_string().contains("stopped before the future was done"), "{error}");
    // Done and stopped in the same turn: the result is there.
    let run = event_loop.run_until_complete(async {
        stop();
        7
    });
    assert_eq!(run.expect("it was done"), 7);
}

fn a_stop_without_a_run_lets_the_next_run_have_one_turn(cx: Cx) {
    let event_loop = new_loop(cx);
    let log: Log<&str> = Log::default();
    let (here, again) = (log.clone(), log.clone());
    let first = move || {
        here.borrow_mut().push("first");
        event_loop::call_soon(note(&again, "second")).expect("a loop runs");
    };
    event_loop.call_soon(first).expect("it is open");
    event_loop.stop();
    event_loop.run_forever().expect("the loop runs");
    assert_eq!(log.take(), ["first"]);
    event_loop.stop();
    event_loop.run_forever().expect("the loop runs");
    assert_eq!(log.take(), ["second"]);
}

fn a_stop_in_the_last_turn_does_not_reach_the_next_run(cx: Cx) {
    let event_loop = new_loop(cx);
    for turns in [2, 1, 0] {
        let run = event_loop.run_until_complete(async {
            for _ in 0..turns {
                yield_now().await;
            }
            stop();
        });
        run.expect("it was done");
        let run = event_loop.run_until_complete(async {
            for _ in 0..10 {
                nop().await.expect("a nop");
                yield_now().await;
            }
            3
        });
        assert_eq!(run.expect("nobody stopped this one"), 3, "after {turns} turns");
    }
}

fn closing_twice_does_nothing_and_a_closed_loop_gives_errors(cx: Cx) {
    let event_loop = new_loop(cx);
    let inside = event_loop.run_until_complete(async { event_loop.close().map_err(|e| e.to_string()) });
    let text = inside.expect("the loop runs").expect_err("it runs");
    assert!(text.contains("cannot be closed"), "{text}");
    assert!(!event_loop.is_closed());
    for _ in 0..3 {
        event_loop.close().expect("the loop closes");
        assert!(event_loop.is_closed() && !event_loop.is_running());
    }
    let errors = [
        event_loop.run_until_complete(async {}).err(),
        event_loop.run_forever().err(),
        event_loop.call_soon(|| panic!("never called")).err(),
        event_loop.call_later(Duration::ZERO, || panic!("never called")).err(),
        event_loop.call_at(event_loop.time(), || panic!("never called")).err(),
        event_loop.handle().call_soon_threadsafe(|| panic!("never called")).err(),
    ];
    for (n, error) in errors.into_iter().enumerate() {
        let error = error.unwrap_or_else(|| panic!("call {n} works on a closed loop"));
        assert_eq!(error.kind(), io::ErrorKind::NotConnected, "call {n}");
        assert_eq!(error.to_string(), "the event loop is closed", "call {n}");
    }
    event_loop.stop();
    assert!(event_loop.report().to_string().contains("driver"));
    assert_eq!(event_loop.metrics().in_flight, 0);
}

fn callbacks_that_are_left_are_dropped_uncalled_when_the_loop_closes(cx: Cx) {
    let event_loop = new_loop(cx);
    let held = Rc::new(());
    let mut handles = Vec::new();
    for n in 0..100 {
        let mine = held.clone();
        let call = move || panic!("{mine:?} was called");
        handles.push(if n % 2 == 0 {
            let later = event_loop.call_later(Duration::from_secs(n), call).expect("it is open");
            Box::new(move || (later.is_pending(), later.cancel())) as Box<dyn Fn() -> (bool, bool)>
        } else {
            let soon = event_loop.call_soon(call).expect("it is open");
            Box::new(move || (soon.is_pending(), soon.cancel()))
        });
    }
    assert_eq!(Rc::strong_count(&held), 101);
    event_loop.close().expect("the loop closes");
    assert_eq!(Rc::strong_count(&held), 1);
    assert!(handles.iter().all(|handle| handle() == (false, false)));
    drop(event_loop);
    assert!(handles.iter().all(|handle| handle() == (false, false)));
}

fn callbacks_are_called_in_the_order_in_which_they_were_given(cx: Cx) {
    const CALLS: usize = 10_000;
    let event_loop = new_loop(cx);
    let log: Log<usize> = Log::default();
    for n in 0..CALLS {
        if n % 2 == 0 {
            event_loop.call_soon(note(&log, n)).expect("it is open");
            continue;
        }
        let log = log.clone();
        let call = move || {
            log.borrow_mut().push(n);
            // After all that were given before.
            event_loop::call_soon(note(&log, CALLS + n / 2)).expect("a loop runs");
        };
        event_loop.call_soon(call).expect("it is open");
    }
    event_loop
        .run_until_complete(async {
            while log.borrow().len() < CALLS * 3 / 2 {
                yield_now().await
            }
        })
        .expect("the loop runs");
    assert!(log.take().into_iter().eq(0..CALLS * 3 / 2));
}

fn callbacks_and_tasks_share_one_order(cx: Cx) {
    let event_loop = new_loop(cx);
    let log: Log<u32> = Log::default();
    let run = event_loop.run_until_complete(async {
        for n in 0..1000 {
            if n % 3 == 0 {
                let task_log = log.clone();
                drop(spawn(async move { task_log.borrow_mut().push(n) }));
            } else {
                event_loop::call_soon(note(&log, n)).expect("a loop runs");
            }
        }
        yield_now().await;
    });
    run.expect("the loop runs");
    assert!(log.take().into_iter().eq(0..1000));
}

fn callbacks_that_give_callbacks_starve_no_io(cx: Cx) {
    fn again(stop: Rc<Cell<bool>>) {
        if !stop.get() {
            event_loop::call_soon(move || again(stop)).expect("a loop runs");
        }
    }
    cx.run(async {
        let stop = Rc::new(Cell::new(false));
        for _ in 0..100 {
            again(stop.clone());
        }
        let (client, server) = UnixStream::pair()?;
        for _ in 0..50 {
            client.send("ping").await?;
            server.send(server.receive().await?.expect("bytes")).await?;
            assert_eq!(&client.receive().await?.expect("bytes")[..], b"ping");
        }
        sleep(Duration::from_millis(1)).await?;
        stop.set(true);
        Ok::<_, io::Error>(())
    });
}

fn later_callbacks_are_called_exactly_on_time_and_in_order(cx: Cx) {
    let event_loop = virtual_loop(cx);
    let (begin, log) = (event_loop.time(), Log::<u64>::default());
    // Each delay below 1000 once, in a mixed order.
    for n in (0..1000_u64).map(|n| n * 617 % 1000) {
        let log = log.clone();
        let call = move || {
            let now = event_loop::time().expect("a loop runs");
            assert_eq!(now, begin + Duration::from_millis(n));
            log.borrow_mut().push(n);
        };
        let delay = Duration::from_millis(n);
        let handle = if n % 2 == 0 {
            event_loop.call_later(delay, call)
        } else {
            event_loop.call_at(begin + delay, call)
        };
        assert_eq!(handle.expect("it is open").when(), begin + delay);
    }
    event_loop.call_later(Duration::from_secs(2), stop).expect("it is open");
    event_loop.run_forever().expect("the loop runs");
    assert_eq!(event_loop.time(), begin + Duration::from_secs(2));
    assert!(log.take().into_iter().eq(0..1000));
}

fn later_callbacks_for_one_time_are_called_in_the_order_in_which_they_were_given(cx: Cx) {
    let event_loop = virtual_loop(cx);
    let (at, log) = (event_loop.time() + Duration::from_secs(1), Log::<u32>::default());
    for n in 0..5000 {
        event_loop.call_at(at, note(&log, n)).expect("it is open");
        // Others for other times, some of which are taken back.
        let other =
            event_loop.call_later(Duration::from_millis(u64::from(n % 7)), || ()).expect("it is open");
        if n % 3 == 0 {
            assert!(other.cancel());
        }
    }
    event_loop.call_at(at, stop).expect("it is open");
    event_loop.run_forever().expect("the loop runs");
    assert!(log.take().into_iter().eq(0..5000));
}

fn a_callback_in_the_past_is_called_in_the_next_turn(cx: Cx) {
    let event_loop = virtual_loop(cx);
    let begin = event_loop.time();
    event_loop.run_until_complete(sleep_in(Duration::from_secs(5))).expect("the loop runs");
    let log: Log<&str> = Log::default();
    event_loop.call_at(begin, note(&log, "past")).expect("it is open");
    event_loop.call_later(Duration::ZERO, note(&log, "now")).expect("it is open");
    event_loop.run_until_complete(sleep_in(Duration::from_nanos(1))).expect("the loop runs");
    assert_eq!(log.take(), ["past", "now"]);
    assert_eq!(event_loop.time(), begin + Duration::from_nanos(5_000_000_001));
}

/// A sleep that begins when it is first polled.
async fn sleep_in(duration: Duration) {
    sleep(duration).await.expect("nobody cancels");
}

fn a_callback_beyond_the_end_of_the_clock_is_never_called(cx: Cx) {
    let event_loop = virtual_loop(cx);
    let begin = event_loop.time();
    let handle = event_loop.call_later(Duration::MAX, || panic!("never called")).expect("it is open");
    assert!(handle.when() > begin + Duration::from_secs(3_000_000_000));
    event_loop.run_until_complete(sleep_in(Duration::from_secs(1_000_000_000))).expect("the loop runs");
    assert!(handle.is_pending());
    assert!(handle.cancel());
    assert_eq!(event_loop.metrics().timers, 0);
}

fn a_cancelled_callback_is_never_called(cx: Cx) {
    let event_loop = virtual_loop(cx);
    let log: Log<u64> = Log::default();
    let soon: Vec<_> = (0..1000).map(|n| event_loop.call_soon(note(&log, n)).expect("it is open")).collect();
    let later: Vec<_> = (1000..2000)
        .map(|n| event_loop.call_later(Duration::from_millis(n), note(&log, n)).expect("it is open"))
        .collect();
    for n in (0..1000).filter(|n| n % 3 != 0) {
        assert!(soon[n].cancel() && later[n].cancel(), "it is taken back");
        assert!(!soon[n].cancel() && !later[n].cancel(), "only once");
        assert!(!soon[n].is_pending() && !later[n].is_pending());
    }
    event_loop.run_until_complete(sleep_in(Duration::from_secs(3))).expect("the loop runs");
    let expected = (0..2000).filter(|n| n % 1000 % 3 == 0);
    assert!(log.take().into_iter().eq(expected));
    assert!(soon.iter().all(|handle| !handle.cancel()), "what was called cannot be taken back");
    assert!(later.iter().all(|handle| !handle.cancel()));
}

fn a_callback_can_be_cancelled_by_one_that_is_due_with_it(cx: Cx) {
    let event_loop = virtual_loop(cx);
    let log: Log<&str> = Log::default();
    let (soon, later) = (Rc::new(RefCell::new(None)), Rc::new(RefCell::new(None)));
    let at = event_loop.time() + Duration::from_secs(1);
    let victim = later.clone();
    event_loop
        .call_at(at, move || {
            let victim: event_loop::TimerHandle = victim.take().expect("it was given");
            // Its time has come, and it waits behind this one.
            assert!(victim.is_pending() && victim.cancel() && !victim.is_pending() && !victim.cancel());
        })
        .expect("it is open");
    *later.borrow_mut() = Some(event_loop.call_at(at, note(&log, "later")).expect("it is open"));
    let victim = soon.clone();
    event_loop
        .call_soon(move || {
            let victim: event_loop::Handle = victim.take().expect("it was given");
            assert!(victim.cancel() && !victim.cancel());
        })
        .expect("it is open");
    *soon.borrow_mut() = Some(event_loop.call_soon(note(&log, "soon")).expect("it is open"));
    event_loop.call_at(at, note(&log, "well")).expect("it is open");
    event_loop.run_until_complete(sleep_in(Duration::from_secs(2))).expect("the loop runs");
    assert_eq!(log.take(), ["well"]);
}

fn a_cancelled_later_callback_is_dropped_at_once(cx: Cx) {
    let event_loop = new_loop(cx);
    let held = Rc::new(());
    for _ in 0..10 {
        let (one, two) = (held.clone(), held.clone());
        let later = event_loop.call_later(Duration::from_secs(3600), move || drop(one)).expect("it is open");
        let soon = event_loop.call_soon(move || drop(two)).expect("it is open");
        assert_eq!(Rc::strong_count(&held), 3);
        assert!(later.cancel() && soon.cancel());
        assert_eq!(Rc::strong_count(&held), 1, "what it held is free");
        assert_eq!(event_loop.metrics().timers, 0);
    }
    // Its destructor may use the loop.
    struct Again(Rc<Cell<bool>>);
    impl Drop for Again {
        fn drop(&mut self) {
            let called = self.0.clone();
            event_loop::call_soon(move || called.set(true)).expect("a loop runs");
        }
    }
    let called = Rc::new(Cell::new(false));
    let again = Again(called.clone());
    let run = event_loop.run_until_complete(async {
        let later = event_loop::call_later(Duration::from_secs(3600), move || drop(again))?;
        assert!(later.cancel());
        yield_now().await;
        yield_now().await;
        Ok::<_, io::Error>(())
    });
    run.expect("the loop runs").expect("a callback");
    assert!(called.get());
}

fn a_handle_knows_whether_its_callback_is_to_come(cx: Cx) {
    let event_loop = virtual_loop(cx);
    let soon = event_loop.call_soon(|| ()).expect("it is open");
    let later = event_loop.call_later(Duration::from_secs(1), || ()).expect("it is open");
    let soon = Rc::new(soon);
    let copy = soon.clone();
    assert!(soon.is_pending() && copy.is_pending() && later.is_pending());
    event_loop.run_until_complete(sleep_in(Duration::from_millis(500))).expect("the loop runs");
    assert!(!soon.is_pending() && !copy.is_pending() && later.is_pending());
    event_loop.run_until_complete(sleep_in(Duration::from_millis(501))).expect("the loop runs");
    assert!(!later.is_pending());
    assert!(format!("{later:?}").contains("pending: false"));
}

fn a_stale_handle_never_reaches_another_callback(cx: Cx) {
    let event_loop = new_loop(cx);
    let mut stale = Vec::new();
    for _ in 0..200 {
        stale.push(event_loop.call_soon(|| ()).expect("it is open"));
        event_loop.run_until_complete(yield_now()).expect("the loop runs");
    }
    let log: Log<u32> = Log::default();
    for n in 0..50 {
        event_loop.call_soon(note(&log, n)).expect("it is open");
    }
    assert!(stale.iter().all(|handle| !handle.is_pending() && !handle.cancel()));
    event_loop.run_until_complete(yield_now()).expect("the loop runs");
    assert!(log.take().into_iter().eq(0..50));
}

fn a_handle_that_is_dropped_changes_nothing(cx: Cx) {
    let event_loop = virtual_loop(cx);
    let log: Log<&str> = Log::default();
    drop(event_loop.call_later(Duration::from_secs(1), note(&log, "later")));
    drop(event_loop.call_soon(note(&log, "soon")));
    event_loop.run_until_complete(sleep_in(Duration::from_secs(2))).expect("the loop runs");
    assert_eq!(log.take(), ["soon", "later"]);
}

fn a_callback_that_panics_harms_neither_the_loop_nor_another_callback(cx: Cx) {
    let event_loop = new_loop(cx);
    let log: Log<u32> = Log::default();
    for n in 0..10 {
        event_loop.call_soon(note(&log, n)).expect("it is open");
        event_loop.call_soon(|| panic!("in a callback")).expect("it is open");
    }
    event_loop.call_later(Duration::from_millis(1), || panic!("in a later callback")).expect("it is open");
    event_loop.handle().call_soon_threadsafe(|| panic!("in a remote callback")).expect("it is open");
    event_loop.call_later(Duration::from_millis(2), stop).expect("it is open");
    event_loop.run_forever().expect("the loop runs");
    assert!(log.take().into_iter().eq(0..10));
    // What a callback holds may panic too: when it is taken back, and when the loop ends.
    struct Bomb(Log<u32>);
    impl Drop for Bomb {
        fn drop(&mut self) {
            self.0.borrow_mut().push(1);
            panic!("in a destructor");
        }
    }
    for n in 0..5 {
        let (soon, later) = (Bomb(log.clone()), Bomb(log.clone()));
        event_loop.call_soon(move || drop(soon)).expect("it is open");
        event_loop.call_later(Duration::from_secs(n), move || drop(later)).expect("it is open");
    }
    event_loop.close().expect("the loop closes");
    assert_eq!(log.take().len(), 10);
    assert_eq!(event_loop.metrics().in_flight, 0);
}

fn without_a_running_loop_the_free_functions_are_errors(cx: Cx) {
    let event_loop = new_loop(cx);
    let texts = [
        event_loop::call_soon(|| ()).map(drop),
        event_loop::call_later(Duration::ZERO, || ()).map(drop),
        event_loop::call_at(Instant::now(), || ()).map(drop),
        event_loop::stop(),
        event_loop::time().map(drop),
        proactor::current().map(drop),
    ];
    for error in texts.into_iter().map(Result::unwrap_err) {
        assert!(error.to_string().contains("no event loop is running on this thread"), "{error}");
    }
    let panicked = catch_unwind(|| drop(sleep(Duration::ZERO))).expect_err("there is no loop");
    let text = panicked.downcast_ref::<String>().map(String::as_str).or(panicked.downcast_ref().copied());
    assert!(text.is_some_and(|text| text.contains("needs a running event loop")), "{text:?}");
    let run = event_loop.run_until_complete(async { proactor::current().map(|handle| handle.is_closed()) });
    assert!(!run.expect("the loop runs").expect("a handle"));
}

fn the_policy_says_how_loops_are_made(cx: Cx) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            EventLoop::set_policy(None);
        }
    }
    let _reset = Reset;
    EventLoop::set_policy(Some(cx.builder().virtual_clock(true)));
    let expected = if cx.is_uring() { DriverKind::IoUring } else { DriverKind::Epoll };
    // In other threads too.
    let elsewhere = std::thread::spawn(|| EventLoop::new().expect("a loop").report().driver());
    assert_eq!(elsewhere.join().expect("the thread ends"), expected);
    for _ in 0..2 {
        let real = Instant::now();
        let elapsed: io::Result<Duration> = proactor::run(async {
            let begin = event_loop::time()?;
            sleep(Duration::from_secs(1000)).await?;
            assert_eq!(proactor::current()?.report().driver(), expected);
            Ok(event_loop::time()? - begin)
        });
        assert_eq!(elapsed.expect("the loop runs"), Duration::from_secs(1000));
        assert!(real.elapsed() < Duration::from_secs(100), "the clock is the policy's");
    }
    // A builder is not bound by it.
    let built = EventLoop::builder().driver(DriverChoice::Epoll).build().expect("a loop");
    assert_eq!(built.report().driver(), DriverKind::Epoll);
    EventLoop::set_policy(None);
    let plain = EventLoop::new().expect("a loop");
    let begin = Instant::now();
    plain.run_until_complete(sleep_in(Duration::from_millis(3))).expect("the loop runs");
    assert!(begin.elapsed() >= Duration::from_millis(3), "the real clock again");
}

fn a_million_later_callbacks_are_called_or_cancelled(cx: Cx) {
    let count = many(1_000_000) as u64;
    let event_loop = virtual_loop(cx);
    let called = Rc::new(Cell::new(0_u64));
    let handles: Vec<_> = (0..count)
        .map(|n| {
            let called = called.clone();
            // Spread without order over some minutes.
            let delay = Duration::from_micros(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 36);
            event_loop.call_later(delay, move || called.set(called.get() + 1)).expect("it is open")
        })
        .collect();
    assert_eq!(event_loop.metrics().timers as u64, count);
    assert!(handles.iter().skip(1).step_by(2).all(event_loop::TimerHandle::cancel));
    assert_eq!(event_loop.metrics().timers as u64, count / 2);
    event_loop.run_until_complete(sleep_in(Duration::from_secs(1000))).expect("the loop runs");
    assert_eq!(called.get(), count / 2);
    assert_eq!(event_loop.metrics().timers, 0);
    assert!(handles.iter().all(|handle| !handle.is_pending()));
    assert_eq!(Rc::strong_count(&called), 1);
}
