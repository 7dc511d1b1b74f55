//! Other threads: calls and tasks sent into a loop, wakes at full speed, several loops, and handles of loops gone by.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use proactor::net::{TcpListener, TcpStream};
use proactor::{EventLoop, LoopHandle, RemoteTask, event_loop, metrics, nop, sleep, spawn, yield_now};

use crate::harness::{Cx, both_drivers, many};
use crate::threads::LIMIT;

both_drivers!(
    calls_of_one_thread_are_made_in_their_order,
    calls_of_many_threads_are_all_made_each_in_the_order_of_its_thread,
    a_call_wakes_a_loop_that_sleeps,
    a_call_may_be_made_from_the_thread_of_the_loop,
    a_task_from_another_thread_runs_in_the_loop_and_gives_its_result_back,
    a_remote_task_can_be_awaited_in_another_loop,
    a_remote_task_that_panics_says_so_to_whoever_waits,
    waiting_for_a_remote_task_ends_at_its_limit_and_the_task_goes_on,
    a_remote_task_whose_handle_is_dropped_goes_on,
    a_closed_loop_refuses_calls_and_settles_every_remote_task,
    a_loop_that_closes_while_threads_call_it_leaves_nobody_waiting,
    four_threads_at_full_speed_lose_no_wake,
    wakes_of_a_busy_loop_coalesce_into_one_poll,
    wakes_reach_every_task_of_many,
    loops_on_several_threads_work_at_once,
    wakers_cross_from_loop_to_loop,
    a_handle_is_bound_to_its_loop_and_not_to_the_next_one_of_that_number,
    stale_wakers_from_other_threads_do_no_harm_to_the_loops_that_follow,
    a_loop_may_be_made_and_run_on_any_thread,
    stop_can_be_called_from_another_thread,
);

/// A loop that runs on a thread of its own until it is told to stop.
struct Elsewhere {
    handle: LoopHandle,
    thread: JoinHandle<()>,
}

impl Elsewhere {
    fn start(cx: Cx) -> Self {
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn(move || {
            let event_loop = cx.builder().build().expect("a loop");
            sender.send(event_loop.handle()).expect("the other side waits");
            event_loop.run_forever().expect("the loop runs");
            event_loop.close().expect("the loop closes");
            let left = event_loop.metrics();
            assert_eq!((left.in_flight, left.timers), (0, 0));
        });
        Self { handle: receiver.recv().expect("the loop was made"), thread }
    }

    fn stop(self) {
        let asked = self.handle.call_soon_threadsafe(|| event_loop::stop().expect("a loop runs"));
        asked.expect("the loop is open");
        self.thread.join().expect("the loop ends well");
        assert!(self.handle.is_closed());
    }
}

/// Lets the loop run until `done`.
async fn until(done: impl Fn() -> bool) {
    while !done() {
        sleep(Duration::from_micros(200)).await.expect("nobody cancels");
    }
}

fn calls_of_one_thread_are_made_in_their_order(cx: Cx) {
    let count = many(20_000);
    cx.run(async {
        let handle = proactor::current()?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let mine = log.clone();
        let thread = thread::spawn(move || {
            for n in 0..count {
                let log = mine.clone();
                handle.call_soon_threadsafe(move || log.lock().expect("no panic").push(n))?;
            }
            Ok::<_, io::Error>(())
        });
        until(|| log.lock().expect("no panic").len() == count).await;
        thread.join().expect("the thread ends")?;
        assert!(log.lock().expect("no panic").iter().copied().eq(0..count));
        Ok::<_, io::Error>(())
    });
}

fn calls_of_many_threads_are_all_made_each_in_the_order_of_its_thread(cx: Cx) {
    let count = many(5000);
    cx.run(async {
        let home = thread::current().id();
        let log = Arc::new(Mutex::new(Vec::new()));
        let threads: Vec<_> = (0..4)
            .map(|id| {
                let (handle, log) = (proactor::current().expect("a loop runs"), log.clone());
                thread::spawn(move || {
                    for n in 0..count {
                        let log = log.clone();
                        let call = move || {
                            assert_eq!(thread::current().id(), home, "on the loop's thread");
                            log.lock().expect("no panic").push((id, n));
                        };
                        handle.call_soon_threadsafe(call).expect("the loop is open");
                    }
                })
            })
            .collect();
        until(|| log.lock().expect("no panic").len() == 4 * count).await;
        threads.into_iter().for_each(|thread| thread.join().expect("the thread ends"));
        let log = log.lock().expect("no panic").clone();
        for id in 0..4 {
            let of_one = log.iter().filter(|(i, _)| *i == id).map(|(_, n)| *n);
            assert!(of_one.eq(0..count));
        }
        Ok::<_, io::Error>(())
    });
}

fn a_call_wakes_a_loop_that_sleeps(cx: Cx) {
    let elsewhere = Elsewhere::start(cx);
    for n in 0..many(2000) {
        let (sender, receiver) = mpsc::channel();
        elsewhere.handle.call_soon_threadsafe(move || sender.send(n).expect("it waits")).expect("it is open");
        assert_eq!(receiver.recv_timeout(LIMIT.expect("a limit")), Ok(n));
    }
    elsewhere.stop();
}

fn a_call_may_be_made_from_the_thread_of_the_loop(cx: Cx) {
    cx.run(async {
        let handle = proactor::current()?;
        let called = Arc::new(AtomicUsize::new(0));
        let (count, again) = (called.clone(), handle.clone());
        handle.call_soon_threadsafe(move || {
            count.fetch_add(1, Ordering::Relaxed);
            let second = move || {
                count.fetch_add(1, Ordering::Relaxed);
            };
            again.call_soon_threadsafe(second).expect("the loop is open");
        })?;
        assert_eq!(called.load(Ordering::Relaxed), 0, "soon, not at once");
        until(|| called.load(Ordering::Relaxed) == 2).await;
        Ok::<_, io::Error>(())
    });
}

fn a_task_from_another_thread_runs_in_the_loop_and_gives_its_result_back(cx: Cx) {
    let elsewhere = Elsewhere::start(cx);
    let task = elsewhere.handle.spawn(async || {
        // What is made in there need not be `Send`.
        let local = Rc::new(Cell::new(40));
        nop().await.expect("a nop");
        sleep(Duration::from_millis(1)).await.expect("nobody cancels");
        local.set(local.get() + 2);
        (local.get(), thread::current().id())
    });
    let (sum, home) = task.expect("the loop is open").wait(LIMIT).expect("a result");
    assert_eq!((sum, home), (42, elsewhere.thread.thread().id()));
    let tasks: Vec<_> = (0..1000_u64)
        .map(|n| elsewhere.handle.spawn(async move || n * 2).expect("the loop is open"))
        .collect();
    let sum: u64 = tasks.into_iter().map(|mut task| task.wait(LIMIT).expect("a result")).sum();
    assert_eq!(sum, 999_000);
    elsewhere.stop();
}

fn a_remote_task_can_be_awaited_in_another_loop(cx: Cx) {
    let elsewhere = Elsewhere::start(cx);
    let other = elsewhere.handle.clone();
    cx.run(async move {
        for n in 0..200_u32 {
            let task = other.spawn(async move || {
                if n % 2 == 0 {
                    sleep(Duration::from_micros(100)).await.expect("nobody cancels");
                }
                n + 1
            })?;
            assert_eq!(task.await.map_err(io::Error::from)?, n + 1);
        }
        Ok::<_, io::Error>(())
    });
    elsewhere.stop();
}

fn a_remote_task_that_panics_says_so_to_whoever_waits(cx: Cx) {
    let elsewhere = Elsewhere::start(cx);
    let mut task: RemoteTask<()> = elsewhere.handle.spawn(async || panic!("over there")).expect("it is open");
    let error = task.wait(LIMIT).expect_err("it panicked");
    assert!(error.to_string().contains("over there"), "{error}");
    let handle = elsewhere.handle.clone();
    cx.run(async move {
        let task: RemoteTask<()> = handle.spawn(async || {
            nop().await.expect("a nop");
            panic!("over there");
        })?;
        let error = task.await.expect_err("it panicked");
        assert_eq!(error.panic_message(), Some("over there"));
        assert_eq!(handle.spawn(async || 1)?.await.expect("the loop goes on"), 1);
        Ok::<_, io::Error>(())
    });
    elsewhere.stop();
}

fn waiting_for_a_remote_task_ends_at_its_limit_and_the_task_goes_on(cx: Cx) {
    let elsewhere = Elsewhere::start(cx);
    let go = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let gate = go.clone();
    let task = elsewhere.handle.spawn(async move || {
        until(|| gate.load(Ordering::SeqCst)).await;
        sender.send("done").expect("it waits");
    });
    let error = task.expect("it is open").wait(Some(Duration::from_millis(5))).expect_err("too early");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let mut task = elsewhere.handle.spawn(async || pending::<()>().await).expect("it is open");
    let error = task.wait(Some(Duration::ZERO)).expect_err("too early");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    go.store(true, Ordering::SeqCst);
    assert_eq!(receiver.recv_timeout(LIMIT.expect("a limit")), Ok("done"));
    elsewhere.stop();
}

fn a_remote_task_whose_handle_is_dropped_goes_on(cx: Cx) {
    let elsewhere = Elsewhere::start(cx);
    let (sender, receiver) = mpsc::channel();
    for n in 0..100 {
        let sender = sender.clone();
        drop(elsewhere.handle.spawn(async move || {
            nop().await.expect("a nop");
            sender.send(n).expect("it waits");
        }));
    }
    for _ in 0..100 {
        receiver.recv_timeout(LIMIT.expect("a limit")).expect("each of them ran");
    }
    elsewhere.stop();
}

fn is_cancelled<T>(outcome: io::Result<T>) -> bool {
    outcome.is_err_and(|error| error.to_string().contains("event loop"))
}

fn a_closed_loop_refuses_calls_and_settles_every_remote_task(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let handle = event_loop.handle();
    // One that began, and one that the loop never came to.
    let mut began = handle.spawn(async || pending::<()>().await).expect("it is open");
    let some_turns = event_loop.run_until_complete(async {
        for _ in 0..5 {
            yield_now().await;
        }
    });
    some_turns.expect("the loop runs");
    assert_eq!(event_loop.metrics().tasks, 2, "the task, and who waits for it");
    let mut queued = handle.spawn(async || 1).expect("it is open");
    let called = Arc::new(AtomicBool::new(false));
    let flag = called.clone();
    handle.call_soon_threadsafe(move || flag.store(true, Ordering::SeqCst)).expect("it is open");
    assert!(!handle.is_closed());
    event_loop.close().expect("the loop closes");
    assert!(handle.is_closed());
    assert!(is_cancelled(began.wait(LIMIT)));
    assert!(is_cancelled(queued.wait(LIMIT)));
    assert!(!called.load(Ordering::SeqCst));
    assert_eq!(Arc::strong_count(&called), 1, "a call that is not made is dropped");
    let refused = handle.call_soon_threadsafe(|| panic!("never called")).expect_err("it is closed");
    assert_eq!(refused.kind(), io::ErrorKind::NotConnected);
    assert_eq!(refused.to_string(), "the event loop is closed");
    let refused = handle.spawn(async || 1).map(drop).expect_err("it is closed");
    assert_eq!(refused.kind(), io::ErrorKind::NotConnected);
    assert!(handle.report().to_string().contains("driver"), "what is known of it stays known");
}

fn a_loop_that_closes_while_threads_call_it_leaves_nobody_waiting(cx: Cx) {
    for round in 0..30 {
        let event_loop = cx.builder().build().expect("a loop");
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let handle = event_loop.handle();
                thread::spawn(move || {
                    let mut settled = (0_u32, 0_u32);
                    // Until it is closed; then every wait ends.
                    while let Ok(mut task) = handle.spawn(async || nop().await.is_ok()) {
                        match task.wait(LIMIT) {
                            Ok(result) => {
                                assert!(result);
                                settled.0 += 1;
                            }
                            Err(error) => {
                                assert!(is_cancelled::<()>(Err(error)));
                                settled.1 += 1;
                            }
                        }
                    }
                    settled
                })
            })
            .collect();
        let run = event_loop.run_until_complete(async {
            for _ in 0..round * 10 {
                nop().await.expect("a nop");
                yield_now().await;
            }
        });
        run.expect("the loop runs");
        drop(event_loop);
        for thread in threads {
            let (_, cancelled) = thread.join().expect("the thread ends");
            // One that was cut off, and one that was still let in after that.
            assert!(cancelled <= 2, "{cancelled} were too late");
        }
    }
}

fn four_threads_at_full_speed_lose_no_wake(cx: Cx) {
    let wakes = many(100_000) as u64;
    cx.run(async {
        let before = metrics();
        let count = Arc::new(AtomicU64::new(0));
        let mut polls = 0_u64;
        let mut threads = Vec::new();
        poll_fn(|cx| {
            polls += 1;
            if threads.is_empty() {
                threads.extend((0..4).map(|_| {
                    let (waker, count) = (cx.waker().clone(), count.clone());
                    thread::spawn(move || {
                        for _ in 0..wakes {
                            count.fetch_add(1, Ordering::SeqCst);
                            waker.wake_by_ref();
                        }
                    })
                }));
            }
            // Nothing else wakes this task: if the last wake were lost, it would wait for ever.
            if count.load(Ordering::SeqCst) == 4 * wakes { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        threads.into_iter().for_each(|thread| thread.join().expect("the thread ends"));
        assert!(polls <= 4 * wakes + 1, "at most one poll for each wake, not {polls}");
        let turns = metrics().enters - before.enters;
        assert!(turns <= 2 * polls + 100, "{turns} turns for {polls} polls");
        Ok::<_, io::Error>(())
    });
}

fn wakes_of_a_busy_loop_coalesce_into_one_poll(cx: Cx) {
    let wakes = many(100_000);
    cx.run(async {
        let (mut polls, mut started) = (0, false);
        let wake_all = |waker: &Waker| {
            // The loop does nothing else until they have ended.
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let waker = waker.clone();
                    thread::spawn(move || (0..wakes).for_each(|_| waker.wake_by_ref()))
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().expect("the thread ends"));
        };
        let before = metrics();
        poll_fn(|cx| {
            polls += 1;
            if !std::mem::replace(&mut started, true) {
                wake_all(cx.waker());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        assert_eq!(polls, 2);
        // None of the wakes is left over to be worked off.
        for _ in 0..10 {
            nop().await?;
            yield_now().await;
        }
        assert!(metrics().enters - before.enters < 100);
        Ok::<_, io::Error>(())
    });
}

fn wakes_reach_every_task_of_many(cx: Cx) {
    const TASKS: usize = 10_000;
    cx.run(async {
        let woken: Arc<Vec<AtomicBool>> = Arc::new((0..TASKS).map(|_| AtomicBool::new(false)).collect());
        let (to_threads, wakers) = mpsc::channel::<(usize, Waker)>();
        let wakers = Arc::new(Mutex::new(wakers));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (wakers, woken) = (wakers.clone(), woken.clone());
                thread::spawn(move || {
                    loop {
                        let next = wakers.lock().expect("no panic").recv();
                        let Ok((n, waker)) = next else { return };
                        woken[n].store(true, Ordering::SeqCst);
                        waker.wake();
                    }
                })
            })
            .collect();
        let tasks: Vec<_> = (0..TASKS)
            .map(|n| {
                let (to_threads, woken) = (to_threads.clone(), woken.clone());
                let mut asked = false;
                spawn(poll_fn(move |cx| {
                    if !std::mem::replace(&mut asked, true) {
                        to_threads.send((n, cx.waker().clone())).expect("the threads run");
                    }
                    if woken[n].load(Ordering::SeqCst) { Poll::Ready(n) } else { Poll::Pending }
                }))
            })
            .collect();
        drop(to_threads);
        for (n, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.map_err(io::Error::from)?, n);
        }
        threads.into_iter().for_each(|thread| thread.join().expect("the thread ends"));
        Ok::<_, io::Error>(())
    });
}

fn loops_on_several_threads_work_at_once(cx: Cx) {
    let threads: Vec<_> = (0..4)
        .map(|id| {
            thread::spawn(move || {
                cx.run(async move {
                    let listener = TcpListener::bind("127.0.0.1:0").await?;
                    let address = listener.local_addr()?;
                    let echo = spawn(async move {
                        let server = listener.accept().await?;
                        while let Some(chunk) = server.receive().await? {
                            server.send(chunk).await?;
                        }
                        Ok::<_, io::Error>(())
                    });
                    let client = TcpStream::connect(address).await?;
                    for n in 0..300_u32 {
                        let message = (id * 1000 + n).to_be_bytes();
                        client.send(message.to_vec()).await?;
                        assert_eq!(&client.receive().await?.expect("bytes")[..], message);
                        if n % 50 == 0 {
                            sleep(Duration::from_micros(100)).await?;
                        }
                    }
                    client.close().await?;
                    echo.await.map_err(io::Error::from)?
                });
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("each of them works"));
}

fn wakers_cross_from_loop_to_loop(cx: Cx) {
    /// Whose turn it is, and how to wake the other.
    #[derive(Default)]
    struct Table {
        turn: AtomicUsize,
        wakers: [Mutex<Option<Waker>>; 2],
    }
    async fn play(table: &Table, me: usize, rounds: usize) {
        for round in 0..rounds {
            poll_fn(|cx| {
                *table.wakers[me].lock().expect("no panic") = Some(cx.waker().clone());
                let mine = table.turn.load(Ordering::SeqCst) == round * 2 + me;
                if mine { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            table.turn.fetch_add(1, Ordering::SeqCst);
            let other = table.wakers[1 - me].lock().expect("no panic").take();
            if let Some(other) = other {
                other.wake();
            }
        }
    }
    let (table, rounds) = (Arc::new(Table::default()), many(2000));
    let theirs = table.clone();
    let thread = thread::spawn(move || {
        cx.run(async move {
            play(&theirs, 1, rounds).await;
            Ok::<_, io::Error>(())
        });
    });
    let mine = table.clone();
    cx.run(async move { spawn(async move { play(&mine, 0, rounds).await }).await });
    thread.join().expect("the other loop ends");
    assert_eq!(table.turn.load(Ordering::SeqCst), rounds * 2);
}

fn a_handle_is_bound_to_its_loop_and_not_to_the_next_one_of_that_number(cx: Cx) {
    let mut handles: Vec<LoopHandle> = Vec::new();
    for _ in 0..20 {
        let event_loop = cx.builder().build().expect("a loop");
        for old in &handles {
            assert!(old.is_closed());
            assert!(old.call_soon_threadsafe(|| panic!("it reached another loop")).is_err());
            assert!(
                old.spawn(async || panic!("it reached another loop")).map(|_: RemoteTask<()>| ()).is_err()
            );
        }
        let handle = event_loop.handle();
        assert!(!handle.is_closed());
        let task = handle.spawn(async || 1).expect("it is open");
        let result = event_loop.run_until_complete(task).expect("the loop runs");
        assert_eq!(result.expect("a result"), 1);
        handles.push(handle);
    }
}

fn stale_wakers_from_other_threads_do_no_harm_to_the_loops_that_follow(cx: Cx) {
    let stop = Arc::new(AtomicBool::new(false));
    let wakers: Arc<Mutex<Vec<Waker>>> = Arc::default();
    let (all, end) = (wakers.clone(), stop.clone());
    let waking = thread::spawn(move || {
        while !end.load(Ordering::SeqCst) {
            let wakers = all.lock().expect("no panic").clone();
            wakers.iter().for_each(Waker::wake_by_ref);
            thread::yield_now();
        }
    });
    for round in 0..50_u32 {
        let event_loop = cx.builder().build().expect("a loop");
        let run = event_loop.run_until_complete(async {
            let tasks: Vec<_> = (0..10)
                .map(|n| {
                    let wakers = wakers.clone();
                    spawn(async move {
                        poll_fn(|cx| {
                            wakers.lock().expect("no panic").push(cx.waker().clone());
                            Poll::Ready(())
                        })
                        .await;
                        nop().await.expect("a nop");
                        sleep(Duration::from_micros(50)).await.expect("nobody cancels");
                        n + round
                    })
                })
                .collect();
            for (n, task) in (0..).zip(tasks) {
                assert_eq!(task.await.expect("a result"), n + round);
            }
        });
        run.expect("the loop runs");
    }
    stop.store(true, Ordering::SeqCst);
    waking.join().expect("the thread ends");
}

fn a_loop_may_be_made_and_run_on_any_thread(cx: Cx) {
    // One after the other, each on a fresh thread, while this thread's own loop stays usable.
    let event_loop = cx.builder().build().expect("a loop");
    for n in 0..10 {
        let result = thread::spawn(move || {
            assert!(proactor::current().is_err(), "loops are of one thread");
            let event_loop: EventLoop = cx.builder().build().expect("a loop");
            event_loop.run_until_complete(async move {
                nop().await.expect("a nop");
                sleep(Duration::from_micros(100)).await.expect("nobody cancels");
                spawn(async move { n }).await.expect("a result")
            })
        });
        assert_eq!(result.join().expect("the thread ends").expect("the loop runs"), n);
        let here = event_loop.run_until_complete(async move {
            nop().await.expect("a nop");
            n
        });
        assert_eq!(here.expect("the loop runs"), n);
    }
}

fn stop_can_be_called_from_another_thread(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    for _ in 0..20 {
        let handle = event_loop.handle();
        let thread =
            thread::spawn(move || handle.call_soon_threadsafe(|| event_loop::stop().expect("a loop runs")));
        event_loop.run_forever().expect("it runs until it is stopped");
        thread.join().expect("the thread ends").expect("the loop was open");
    }
    let handle = event_loop.handle();
    let thread =
        thread::spawn(move || handle.call_soon_threadsafe(|| event_loop::stop().expect("a loop runs")));
    let stopped = event_loop.run_until_complete(pending::<()>()).expect_err("it was stopped");
    assert!(stopped.to_string().contains("stopped"), "{stopped}");
    thread.join().expect("the thread ends").expect("the loop was open");
}
