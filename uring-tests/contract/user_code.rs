//! C14: wakers, destructors and panics of the program find nothing borrowed. Runs under AddressSanitizer too.

use std::cell::{Cell, RefCell};
use std::future::{Future, pending};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::poll;
use proactor::fs::File;
use proactor::net::{TcpListener, UnixStream};
use proactor::{EventLoop, Task, metrics, sleep, spawn, timeout, yield_now};

use super::shutdown::Bomb;
use crate::harness::{Cx, both_drivers, tcp_pair, turns, until};

both_drivers!(
    c14_wakers_may_use_the_runtime,
    c14_destructors_of_tasks_may_use_the_runtime,
    c14_destructors_of_sent_bytes_may_use_the_stream,
    c14_a_panic_in_the_destructor_of_sent_bytes_loses_no_completion,
    c14_a_waker_whose_destructor_uses_the_listener_finds_nothing_borrowed,
    c14_a_panic_in_a_waker_loses_no_other_wake_up,
    c14_a_panic_in_a_task_ends_that_task_only,
    c14_a_panic_in_the_destructor_of_a_result_ends_that_task_only,
);

thread_local! {
    /// What the next [`Hook`] that is woken or dropped does.
    static ACTION: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

fn act() {
    if let Some(action) = ACTION.take() {
        action();
    }
}

/// A waker that runs user code.
struct Hook;

impl Wake for Hook {
    fn wake(self: Arc<Self>) {
        act();
    }
}

fn c14_wakers_may_use_the_runtime(cx: Cx) {
    cx.run(async {
        for kind in 0..6 {
            let (a, b) = tcp_pair().await?;
            let (b, done) = (Rc::new(b), Rc::new(Cell::new(false)));
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let waker = Waker::from(Arc::new(Hook));
            let mut context = Context::from_waker(&waker);
            let mut file = Box::pin(File::open("/proc/self/status"));
            let mut nap = Box::pin(sleep(Duration::from_millis(1)));
            let mut receive = Box::pin({
                let b = b.clone();
                async move { b.receive().await }
            });
            assert!(receive.as_mut().poll(&mut context).is_pending());
            // The waker is called from the delivery of a completion, or from the timers.
            match kind {
                4 => assert!(file.as_mut().poll(&mut context).is_pending()),
                5 => assert!(nap.as_mut().poll(&mut context).is_pending()),
                _ => {
                    let _ = a.write("bytes")?;
                }
            }
            let action: Box<dyn FnOnce()> = {
                let (b, done) = (b.clone(), done.clone());
                Box::new(move || {
                    match kind {
                        0 => drop(spawn(async {})),
                        1 => drop(b.write("answer")),
                        // The last of the stream, its receive and its listener go.
                        2 => drop((b, receive, listener)),
                        3 => {
                            assert!(receive.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready())
                        }
                        _ => {
                            let mut other = Box::pin(File::open("/proc/self/status"));
                            let mut nap = Box::pin(sleep(Duration::ZERO));
                            assert!(
                                other.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
                            );
                            assert!(nap.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                            assert!(metrics().in_flight > 0);
                        }
                    }
                    done.set(true);
                })
            };
            ACTION.set(Some(action));
            until(|| done.get()).await;
            if kind == 1 {
                assert_eq!(&a.receive().await?.expect("bytes")[..], b"answer");
            }
        }
        Ok::<_, io::Error>(())
    });
}

/// Runs something when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn c14_destructors_of_tasks_may_use_the_runtime(cx: Cx) {
    let dropped = Rc::new(Cell::new(0));
    let event_loop = cx.builder().build().expect("a loop");
    let main = async {
        for kind in 0..3 {
            let (a, b) = tcp_pair().await?;
            let dropped = dropped.clone();
            let last = OnDrop(move || {
                dropped.set(dropped.get() + 1);
                let _ = a.write("bye");
                let (one, other) = UnixStream::pair().expect("a pair");
                let _ = other.write("bytes");
                assert!(
                    pin!(one.receive()).poll(&mut Context::from_waker(Waker::noop())).is_pending()
                        || !cx.is_uring()
                );
                drop(spawn(async { yield_now().await }));
                drop(pin!(sleep(Duration::from_secs(1))).poll(&mut Context::from_waker(Waker::noop())));
                drop(File::open("/"));
            });
            let task = spawn(async move {
                let _last = last;
                match kind {
                    0 => yield_now().await,
                    1 => panic!("as the test wants it"),
                    _ => pending::<()>().await,
                }
            });
            match kind {
                0 => task.await?,
                1 => {
                    assert_eq!(task.await.expect_err("a panic").panic_message(), Some("as the test wants it"))
                }
                // This one ends with the loop.
                _ => std::mem::drop((task, spawn(async move { b.receive().await.map(drop) }))),
            }
        }
        turns(2).await;
        Ok::<_, io::Error>(())
    };
    event_loop.run_until_complete(main).expect("the loop runs").expect("all is well");
    assert_eq!(dropped.get(), 2);
    event_loop.close().expect("the loop closes");
    assert_eq!(dropped.get(), 3);
}

/// Bytes whose destructor runs what was put in for them.
struct Acting(Vec<u8>);

impl AsRef<[u8]> for Acting {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        act();
    }
}

fn c14_destructors_of_sent_bytes_may_use_the_stream(cx: Cx) {
    cx.run(async {
        for (kind, big) in [(0, false), (0, true), (1, false), (1, true), (2, false), (2, true)] {
            let (ours, theirs) = tcp_pair().await?;
            let (ours, done) = (Rc::new(ours), Rc::new(Cell::new(false)));
            let len = if big { 8 << 20 } else { 10 };
            let _ = ours.write(Bytes::from_owner(Acting(vec![1; len])))?;
            let action: Box<dyn FnOnce()> = {
                let (ours, done) = (RefCell::new(Some(ours.clone())), done.clone());
                Box::new(move || {
                    let stream = ours.take().expect("called once");
                    match kind {
                        0 => drop(stream.write("more").expect("it is open")),
                        1 => drop(spawn(async move { stream.send("more").await.map(drop) })),
                        _ => drop(stream),
                    }
                    done.set(true);
                })
            };
            ACTION.set(Some(action));
            let ours = if kind == 2 {
                drop(ours);
                None
            } else {
                Some(ours)
            };
            let mut received = 0;
            while received < len + 4 {
                match theirs.receive().await {
                    Ok(Some(chunk)) => received += chunk.len(),
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!((kind, error.kind()), (2, io::ErrorKind::ConnectionReset));
                        break;
                    }
                }
            }
            until(|| done.get()).await;
            assert!(kind == 2 || received == len + 4);
            drop(ours);
        }
        Ok::<_, io::Error>(())
    });
}

/// What a task received. A panic may come out of the loop meanwhile; the loop can be run on after it.
fn despite_panics(event_loop: &EventLoop, mut received: Task<io::Result<Option<Vec<u8>>>>) -> Vec<u8> {
    for _ in 0..5 {
        let waited = catch_unwind(AssertUnwindSafe(|| {
            event_loop.run_until_complete(async {
                let received = timeout(Duration::from_secs(20), &mut received).await;
                turns(3).await;
                received
            })
        }));
        if let Ok(received) = waited {
            let received = received.expect("the loop runs").expect("somebody else's completion was lost");
            return received.expect("no panic").expect("no error").expect("bytes");
        }
    }
    panic!("it panics for ever");
}

fn c14_a_panic_in_the_destructor_of_sent_bytes_loses_no_completion(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let main = async {
        let (a, b) = UnixStream::pair()?;
        let (c, d) = UnixStream::pair()?;
        let received = spawn(async move { d.receive().await.map(|chunk| chunk.map(|chunk| chunk.to_vec())) });
        turns(1).await;
        Ok::<_, io::Error>((received, a, b, c))
    };
    let (received, a, b, c) = event_loop.run_until_complete(main).expect("runs").expect("all was begun");
    // Outside of the loop, which sees both completions in one batch when it runs.
    ACTION.set(Some(Box::new(|| panic!("as the test wants it"))));
    let _ = a.write(Bytes::from_owner(Acting(vec![1; 10]))).expect("it is open");
    let _ = c.write("bytes").expect("it is open");
    assert_eq!(despite_panics(&event_loop, received), b"bytes");
    drop((a, b, c));
}

/// A waker whose last clone runs user code when it is dropped.
struct LastWord;

impl Wake for LastWord {
    fn wake(self: Arc<Self>) {}
}

impl Drop for LastWord {
    fn drop(&mut self) {
        act();
    }
}

fn c14_a_waker_whose_destructor_uses_the_listener_finds_nothing_borrowed(cx: Cx) {
    cx.run(async {
        let listener = Rc::new(TcpListener::bind("127.0.0.1:0").await?);
        let (ours, theirs) = UnixStream::pair()?;
        let ours = Rc::new(ours);
        let done = Rc::new(Cell::new(0));
        let action = || -> Box<dyn FnOnce()> {
            let (listener, ours, done) = (listener.clone(), ours.clone(), done.clone());
            Box::new(move || {
                let mut noop = Context::from_waker(Waker::noop());
                assert!(listener.poll_accept(&mut noop).is_pending());
                assert!(ours.poll_receive(&mut noop).is_pending());
                let _ = ours.poll_flush(&mut noop, 0);
                done.set(done.get() + 1);
            })
        };
        let last_word = || Waker::from(Arc::new(LastWord));
        // The accept that waits with it is dropped, or polled with another waker.
        {
            let mut accept = pin!(listener.accept());
            assert!(accept.as_mut().poll(&mut Context::from_waker(&last_word())).is_pending());
            ACTION.set(Some(action()));
        }
        assert!(ours.poll_receive(&mut Context::from_waker(&last_word())).is_pending());
        ACTION.set(Some(action()));
        assert!(ours.poll_receive(&mut Context::from_waker(Waker::noop())).is_pending());
        {
            let mut nap = pin!(sleep(Duration::from_secs(3600)));
            assert!(nap.as_mut().poll(&mut Context::from_waker(&last_word())).is_pending());
            ACTION.set(Some(action()));
        }
        assert_eq!(done.get(), 3);
        drop(theirs);
        Ok::<_, io::Error>(())
    });
}

fn c14_a_panic_in_a_waker_loses_no_other_wake_up(cx: Cx) {
    let event_loop = cx.builder().build().expect("a loop");
    let main = async {
        let (a, b) = UnixStream::pair()?;
        let (c, d) = UnixStream::pair()?;
        let (b, waker) = (Rc::new(b), Waker::from(Arc::new(Hook)));
        assert!(b.poll_receive(&mut Context::from_waker(&waker)).is_pending());
        let received = spawn(async move { d.receive().await.map(|chunk| chunk.map(|chunk| chunk.to_vec())) });
        turns(1).await;
        Ok::<_, io::Error>((received, a, b, c))
    };
    let (received, a, b, c) = event_loop.run_until_complete(main).expect("runs").expect("all was begun");
    ACTION.set(Some(Box::new(|| panic!("as the test wants it"))));
    let _ = a.write("bytes").expect("it is open");
    let _ = c.write("bytes").expect("it is open");
    assert_eq!(despite_panics(&event_loop, received), b"bytes");
    drop((a, b, c));
}

fn c14_a_panic_in_a_task_ends_that_task_only(cx: Cx) {
    cx.run(async {
        let (a, b) = tcp_pair().await?;
        let echo = spawn(async move {
            while let Some(chunk) = b.receive().await? {
                b.send(chunk).await?;
            }
            Ok::<_, io::Error>(())
        });
        for _ in 0..50 {
            // While it holds a stream with operations in flight, too.
            let (c, d) = tcp_pair().await?;
            let failing = spawn(async move {
                let _ = c.write("bytes");
                assert!(poll!(pin!(c.receive())).is_pending());
                // What is queued goes with the stream.
                c.flush().await.expect("the peer takes it");
                panic!("as the test wants it");
            });
            assert_eq!(failing.await.expect_err("a panic").panic_message(), Some("as the test wants it"));
            assert_eq!(&d.receive().await?.expect("what was written before")[..], b"bytes");
            a.send("ping").await?;
            assert_eq!(&a.receive().await?.expect("bytes")[..], b"ping");
        }
        drop(a);
        echo.await?
    });
}

fn c14_a_panic_in_the_destructor_of_a_result_ends_that_task_only(cx: Cx) {
    cx.run(async {
        let ended = Rc::new(AtomicUsize::new(0));
        for _ in 0..10 {
            let count = ended.clone();
            drop(spawn(async move {
                count.fetch_add(1, Ordering::Relaxed);
                Bomb // nobody takes it
            }));
        }
        until(|| ended.load(Ordering::Relaxed) == 10).await;
        turns(3).await;
        Ok::<_, io::Error>(())
    });
}
