//! A loop inside of another one: a plain loop around `poll(2)`, another loop of this crate, and tokio.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use proactor::cancel::move_on_after;
use proactor::compat::{add_reader, remove_reader, wait_readable};
use proactor::net::{TcpListener, TcpStream};
use proactor::sync::Event;
use proactor::thread::to_thread;
use proactor::{EventLoop, Task, current, sleep, yield_now};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

use crate::harness::{Cx, both_drivers, has_input, patience};

both_drivers!(
    a_loop_lives_in_a_plain_loop_around_poll,
    a_loop_lives_in_another_loop,
    a_loop_lives_in_tokio_and_speaks_with_it,
    a_turn_never_waits_and_says_how_long_to_rest,
    a_loop_that_rested_for_another_runs_by_itself_and_closes,
    a_running_or_closed_loop_has_no_turns_for_others,
);

/// Drives the loop with `poll(2)` until the task is over. Returns its result and the number of turns.
fn drive<T: 'static>(event_loop: &EventLoop, future: impl Future<Output = T> + 'static) -> (T, u32) {
    let task = event_loop.spawn(future);
    let descriptor = event_loop.descriptor().expect("it is open");
    let (mut turns, end) = (0, Instant::now() + patience(60));
    while !task.is_finished() {
        assert!(Instant::now() < end, "the loop is not woken any more");
        turns += 1;
        let rest = event_loop.run_ready().expect("it runs");
        // Whatever goes wrong, this test ends.
        let limit = rest.unwrap_or(Duration::from_secs(30)).min(Duration::from_secs(30));
        if !task.is_finished() {
            has_input(descriptor, limit);
        }
    }
    let mut result = None;
    let taken = event_loop.run_until_complete(async { result = Some(task.await.expect("a result")) });
    taken.expect("it runs");
    (result.expect("it was taken"), turns)
}

/// Some of everything: connections, time, threads, watched descriptors.
async fn life() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    let server = listener.accept().await?;
    for _ in 0..50 {
        client.send("ping").await?;
        server.send(server.receive().await?.expect("bytes")).await?;
        assert_eq!(&client.receive().await?.expect("bytes")[..], b"ping");
    }
    sleep(Duration::from_millis(3)).await?;
    assert_eq!(to_thread::run_sync(|| 42).await?, 42);
    let (called, event) = (Event::new(), Rc::new(Cell::new(false)));
    let handle = current()?;
    std::thread::spawn(move || handle.call_soon_threadsafe(|| ())).join().expect("a thread")?;
    let (reader, mut writer) = io::pipe()?;
    let (mut end, set, flag) = (reader.try_clone()?, called.clone(), event.clone());
    add_reader(&reader, move || {
        assert_eq!(end.read(&mut [0]).expect("it is ready"), 1);
        flag.set(true);
        set.set();
    })?;
    let writing = std::thread::spawn(move || writer.write_all(b"!").map(|()| writer));
    called.wait().await?;
    assert!(event.get() && remove_reader(&reader)?);
    drop(writing.join().expect("a thread")?);
    yield_now().await;
    Ok(())
}

fn a_loop_lives_in_a_plain_loop_around_poll(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let (result, _) = drive(&event_loop, life());
    result.expect("nothing fails");
    // It rests while nothing happens.
    let (result, turns) = drive(&event_loop, async { sleep(Duration::from_millis(50)).await });
    result.expect("nobody cancels");
    assert!(turns < 50, "{turns} turns for one sleep");
    // Woken from another thread, while nothing else would wake it.
    let handle = event_loop.handle();
    let event = Event::new();
    let waiting = event.clone();
    let (begin, begun) = std::sync::mpsc::channel();
    let caller = std::thread::spawn(move || {
        begun.recv().expect("the loop begins");
        handle.spawn(async || 7)?.wait(Some(patience(20)))
    });
    event_loop.call_soon(move || begin.send(()).expect("the thread waits")).expect("it is open");
    let (result, turns) = drive(&event_loop, async move {
        while !caller.is_finished() {
            // What the other thread does is the only thing that ends this rest before its time.
            move_on_after(Duration::from_millis(20), waiting.wait()).await?;
        }
        Ok::<_, io::Error>(caller.join().expect("a thread"))
    });
    assert_eq!(result.expect("nobody cancels").expect("the loop heard of it"), 7);
    assert!(turns < 1000, "{turns} turns");
    drop(event);
}

fn a_loop_lives_in_another_loop(cx: Cx) {
    let inner = cx.builder().build().expect("a loop");
    cx.run(async {
        let task = inner.spawn(life());
        let number = inner.descriptor()?.as_raw_fd();
        let mut rests = 0;
        while !task.is_finished() {
            match inner.run_ready()? {
                Some(Duration::ZERO) => yield_now().await,
                limit => {
                    rests += 1;
                    let limit = limit.unwrap_or(patience(30));
                    if !task.is_finished() {
                        move_on_after(limit, wait_readable(&number)).await?;
                    }
                }
            }
        }
        assert!(rests > 0, "it rests where it waits");
        assert!(EventLoop::running()?.is_running() && !inner.is_running());
        task.await?
    });
}

/// Runs a loop of ours in tokio's until the task is over. Returns the number of turns.
async fn run_in_tokio<T: 'static>(event_loop: &EventLoop, task: &Task<T>) -> io::Result<u32> {
    let descriptor = event_loop.descriptor()?;
    // SAFETY: it is borrowed from the loop, which keeps it open as long as that.
    let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
    let (mut turns, end) = (0, Instant::now() + patience(60));
    while !task.is_finished() {
        assert!(Instant::now() < end, "the loop is not woken any more");
        turns += 1;
        let rest = event_loop.run_ready()?.unwrap_or(Duration::from_secs(30));
        if !task.is_finished()
            && let Ok(ready) = tokio::time::timeout(rest, descriptor.readable()).await
        {
            ready?.clear_ready();
        }
    }
    Ok(turns)
}

fn a_loop_lives_in_tokio_and_speaks_with_it(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio");
    let outcome = tokio.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        // Tokio's side of the conversation is a task of the same thread.
        let theirs = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            let (mut buf, mut all) = (vec![0; 10_000], 0);
            loop {
                let count = stream.read(&mut buf).await?;
                if count == 0 {
                    return Ok::<_, io::Error>(all);
                }
                stream.write_all(&buf[..count]).await?;
                all += count;
            }
        });
        let ours = event_loop.spawn(async move {
            let stream = TcpStream::connect(address).await?;
            for number in 0..50_u8 {
                stream.send(vec![number; 5000]).await?;
                let mut left = 5000;
                while left > 0 {
                    left -= stream.receive().await?.expect("an echo").len();
                }
            }
            stream.close().await?;
            life().await
        });
        run_in_tokio(&event_loop, &ours).await?;
        assert_eq!(theirs.await??, 250_000);
        // It rests while nothing happens.
        let asleep = event_loop.spawn(async { sleep(Duration::from_millis(50)).await });
        let turns = run_in_tokio(&event_loop, &asleep).await?;
        assert!(turns < 50, "{turns} turns for one sleep");
        Ok::<_, io::Error>((ours, asleep))
    });
    let (ours, asleep) = outcome.expect("nothing fails");
    let taken = event_loop.run_until_complete(async { (ours.await, asleep.await) }).expect("it runs");
    taken.0.expect("a result").expect("nothing fails");
    taken.1.expect("a result").expect("nobody cancels");
}

fn a_turn_never_waits_and_says_how_long_to_rest(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let rested = |expected: Option<Duration>| {
        for _ in 0..100 {
            let rest = event_loop.run_ready().expect("it runs");
            match (rest, expected) {
                (None, None) => return,
                (Some(rest), Some(limit)) if !rest.is_zero() && rest <= limit => return,
                (Some(Duration::ZERO), _) => {}
                (rest, expected) => panic!("{rest:?} instead of {expected:?}"),
            }
        }
        panic!("there is always more to do");
    };
    rested(None);
    let hour = Duration::from_secs(3600);
    let task = event_loop.spawn(async move { sleep(hour).await });
    rested(Some(hour));
    let soon = event_loop.call_later(hour / 2, || ()).expect("it is open");
    rested(Some(hour / 2));
    assert!(soon.cancel());
    task.cancel("enough");
    rested(None);
    assert!(task.is_finished());
    let called = Rc::new(Cell::new(false));
    let flag = called.clone();
    event_loop.call_soon(move || flag.set(true)).expect("it is open");
    rested(None);
    assert!(called.get());
}

fn a_loop_that_rested_for_another_runs_by_itself_and_closes(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    event_loop.descriptor().expect("it is open");
    for _ in 0..5 {
        while event_loop.run_ready().expect("it runs").is_some() {}
        let before = event_loop.metrics().enters;
        let run = event_loop.run_until_complete(async { sleep(Duration::from_millis(20)).await });
        run.expect("it runs").expect("nobody cancels");
        let enters = event_loop.metrics().enters - before;
        assert!(enters < 20, "{enters} turns for one sleep");
    }
    while event_loop.run_ready().expect("it runs").is_some() {}
    let begin = Instant::now();
    event_loop.close().expect("it closes");
    assert!(begin.elapsed() < patience(1), "nothing is left to wait for");
}

fn a_running_or_closed_loop_has_no_turns_for_others(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let error = event_loop.run_until_complete(async { event_loop.run_ready() }).expect("it runs");
    assert!(error.expect_err("it runs").to_string().contains("running already"));
    event_loop.close().expect("it closes");
    assert_eq!(event_loop.run_ready().expect_err("it is closed").to_string(), "the event loop is closed");
    assert_eq!(event_loop.descriptor().expect_err("it is closed").to_string(), "the event loop is closed");
}
