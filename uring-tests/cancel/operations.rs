//! Each kind of wait, cancelled while it is pending: what it answers, and what is left.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::mpsc;

use futures_util::FutureExt;
use proactor::cancel::{CancelScope, checkpoint, move_on_after, shielded};
use proactor::fs::{self, File};
use proactor::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use proactor::thread::{from_thread, to_thread};
use proactor::{JoinError, MayBeCancelled, interval, signal, sleep, spawn};

use crate::cancel::{LONG, ms, now, virtually, yields};
use crate::harness::{Cx, Folder, both_drivers, tcp_pair, turns, until};

both_drivers!(
    a_cancelled_receive_loses_no_bytes,
    a_cancelled_receive_into_gives_its_buffer_back_and_loses_no_bytes,
    a_cancelled_receive_half_leaves_the_other_half_alone,
    a_cancelled_accept_loses_no_connection,
    an_accept_that_is_cancelled_when_its_connection_is_there_leaves_it_to_another,
    a_cancelled_accept_on_a_unix_listener_loses_no_connection,
    a_cancelled_connect_closes_its_socket,
    a_cancelled_bind_is_over_at_once,
    a_cancelled_read_of_a_file_gives_its_buffer_back,
    a_cancelled_write_of_a_file_gives_its_buffer_back,
    a_cancelled_open_is_answered_and_leaks_nothing,
    cancelled_metadata_is_answered,
    a_cancelled_close_closes_all_the_same,
    a_cancelled_close_of_a_file_closes_all_the_same,
    a_cancelled_sleep_leaves_no_timer,
    a_cancelled_tick_stays_due,
    a_cancelled_join_leaves_the_task_alone,
    a_cancelled_wait_for_a_thread_goes_on_until_the_thread_is_done,
    a_cancelled_wait_for_a_thread_that_may_be_abandoned_ends_at_once,
    a_thread_can_ask_whether_its_wait_was_cancelled,
    a_function_that_no_thread_began_is_not_run_when_cancelled,
    an_abandoned_wait_is_a_cancellation_for_its_scope,
    a_cancelled_wait_for_a_signal_forgets_it,
    serving_ends_by_a_cancel_and_the_listener_lives,
    a_cancelled_wait_can_be_waited_for_again,
    every_operation_refuses_to_begin_in_a_cancelled_scope,
);

/// Runs `body` in a scope that is cancelled after some turns of the loop, which the operation in it takes to the kernel.
pub(crate) async fn cut<T>(body: impl Future<Output = io::Result<T>>) -> io::Result<Option<T>> {
    let scope = CancelScope::new();
    let handle = scope.clone();
    drop(spawn(async move {
        turns(3).await;
        handle.cancel_with("cut");
    }));
    scope.run(body).await
}

/// DESIGN, idea 2: "the bytes stay in the socket's inbound queue".
fn a_cancelled_receive_loses_no_bytes(cx: Cx) {
    cx.run(async {
        let (a, b) = tcp_pair().await?;
        for round in 0..5_u8 {
            assert!(cut(a.receive()).await?.is_none());
            b.send(vec![round; 3]).await?;
            assert_eq!(&a.receive().await?.expect("bytes")[..], [round; 3]);
        }
        Ok::<_, io::Error>(())
    });
}

/// DESIGN §7: "owned buffers always come back".
fn a_cancelled_receive_into_gives_its_buffer_back_and_loses_no_bytes(cx: Cx) {
    cx.run(async {
        let (a, b) = tcp_pair().await?;
        let mut buf = vec![0; 16];
        for round in 0..5_u8 {
            let kept = RefCell::new(None);
            let outcome = cut(async {
                let failed = a.receive_into(std::mem::take(&mut buf)).await.expect_err("cancelled");
                *kept.borrow_mut() = Some(failed.buf);
                Err::<(), _>(failed.error)
            });
            assert!(outcome.await?.is_none());
            b.send(vec![round; 3]).await?;
            let (count, full) = a.receive_into(kept.take().expect("the buffer")).await?;
            assert_eq!(full[..count], [round; 3]);
            buf = full;
            buf.resize(16, 0);
        }
        Ok::<_, io::Error>(())
    });
}

/// A scope cancels waits, not resources.
fn a_cancelled_receive_half_leaves_the_other_half_alone(cx: Cx) {
    cx.run(async {
        let (a, b) = tcp_pair().await?;
        let (receiver, sender) = a.split();
        assert!(cut(receiver.receive()).await?.is_none());
        sender.send("out").await?;
        assert_eq!(&b.receive().await?.expect("bytes")[..], b"out");
        b.send("in").await?;
        assert_eq!(&receiver.receive().await?.expect("bytes")[..], b"in");
        Ok::<_, io::Error>(())
    });
}

/// DESIGN, idea 2: "the connection stays in the listener's ready queue".
fn a_cancelled_accept_loses_no_connection(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        for _ in 0..3 {
            assert!(cut(listener.accept()).await?.is_none());
            let client = TcpStream::connect(listener.local_addr()?).await?;
            turns(3).await;
            let served = listener.accept().await?;
            served.send("hello").await?;
            assert_eq!(&client.receive().await?.expect("bytes")[..], b"hello");
        }
        Ok::<_, io::Error>(())
    });
}

/// The wake-up goes to somebody else.
fn an_accept_that_is_cancelled_when_its_connection_is_there_leaves_it_to_another(cx: Cx) {
    cx.run(async {
        let listener = Rc::new(TcpListener::bind("127.0.0.1:0").await?);
        let scope = CancelScope::new();
        let (first, second) = (listener.clone(), listener.clone());
        let outcome = scope.run(async {
            let mut accept = Box::pin(first.accept());
            assert!(accept.as_mut().now_or_never().is_none());
            let other = spawn(async move { second.accept().await.map(drop) });
            proactor::yield_now().await;
            let _client = TcpStream::connect(listener.local_addr()?).await?;
            turns(5).await;
            // It was woken (which led nowhere), and now is cancelled.
            scope.cancel();
            assert!(accept.await.is_err());
            Ok::<_, io::Error>(other)
        });
        let other = outcome.await?.expect("the body was done");
        until(|| other.is_finished()).await;
        other.await?
    });
}

/// The same for the other family.
fn a_cancelled_accept_on_a_unix_listener_loses_no_connection(cx: Cx) {
    cx.run(async {
        let folder = Folder::new();
        let path = folder.path("socket");
        let listener = UnixListener::bind(&path).await?;
        assert!(cut(listener.accept()).await?.is_none());
        let client = UnixStream::connect(&path).await?;
        let served = listener.accept().await?;
        client.send("x").await?;
        assert_eq!(&served.receive().await?.expect("bytes")[..], b"x");
        Ok::<_, io::Error>(())
    });
}

/// The documentation of `connect`: "an unfinished connection is closed"; the harness counts descriptors.
fn a_cancelled_connect_closes_its_socket(cx: Cx) {
    cx.run(async {
        // Whose queue is full: the kernel drops further requests, and the clients wait.
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().expect("an address").into())?;
        full.listen(0)?;
        let address = full.local_addr()?.as_socket().expect("an address");
        let mut connected = Vec::new();
        let mut cancelled = 0;
        for _ in 0..6 {
            match move_on_after(ms(30), TcpStream::connect(address)).await? {
                Some(stream) => connected.push(stream),
                None => cancelled += 1,
            }
        }
        assert!(cancelled >= 2, "{cancelled} waited");
        Ok::<_, io::Error>(())
    });
}

/// In a cancelled scope or not, it does not hang.
fn a_cancelled_bind_is_over_at_once(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel();
            TcpListener::bind("127.0.0.1:0").await
        });
        // It has nothing to wait for, so it may have happened.
        drop(outcome.await?);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 3: done, or cancelled; nothing else.
fn a_cancelled_read_of_a_file_gives_its_buffer_back(cx: Cx) {
    cx.run(async {
        let folder = Folder::new();
        let path = folder.path("file");
        std::fs::write(&path, vec![9; 4096])?;
        let file = File::open(&path).await?;
        for turns_before in 0..6 {
            let scope = CancelScope::new();
            let outcome = scope.run(async {
                let mut read = Box::pin(file.read_at(vec![0; 4096], 0));
                let begun = read.as_mut().now_or_never();
                shielded(turns(turns_before)).await;
                scope.cancel();
                let ended = match begun {
                    Some(ended) => ended,
                    None => read.await,
                };
                match ended {
                    Ok((count, buf)) => assert!(count == 4096 && buf.iter().all(|byte| *byte == 9)),
                    Err(failed) => {
                        assert!(failed.error.is_cancelled(), "{}", failed.error);
                        assert_eq!(failed.buf.capacity(), 4096);
                    }
                }
                checkpoint().await.map_err(io::Error::from)
            });
            assert!(outcome.await?.is_none());
        }
        file.close().await
    });
}

/// The same.
fn a_cancelled_write_of_a_file_gives_its_buffer_back(cx: Cx) {
    cx.run(async {
        let folder = Folder::new();
        let file = File::create(folder.path("file")).await?;
        let written = Cell::new(0);
        for turns_before in 0..6 {
            let scope = CancelScope::new();
            let outcome = scope.run(async {
                let mut write = Box::pin(file.write_at(vec![7; 512], written.get()));
                let begun = write.as_mut().now_or_never();
                shielded(turns(turns_before)).await;
                scope.cancel();
                let ended = match begun {
                    Some(ended) => ended,
                    None => write.await,
                };
                match ended {
                    Ok((count, _)) => written.set(written.get() + count as u64),
                    Err(failed) => assert!(failed.error.is_cancelled() && failed.buf.len() == 512),
                }
                checkpoint().await.map_err(io::Error::from)
            });
            assert!(outcome.await?.is_none());
        }
        assert!(file.metadata().await?.len() >= written.get());
        file.close().await
    });
}

/// The documentation of `open`: "a file that was opened after all is closed".
fn a_cancelled_open_is_answered_and_leaks_nothing(cx: Cx) {
    cx.run(async {
        let folder = Folder::new();
        let fifo = folder.path("fifo");
        // A test needs no system call of its own for that.
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status()?.success());
        // Opening it waits for a writer, which comes after the cancel.
        let scope = CancelScope::new();
        let handle = scope.clone();
        let path = fifo.clone();
        let writer = spawn(async move {
            turns(5).await;
            handle.cancel();
            turns(5).await;
            to_thread::run_sync(move || std::fs::OpenOptions::new().read(true).write(true).open(path)).await
        });
        let outcome = scope.run(async { File::open(&fifo).await.map(drop) });
        outcome.await?;
        drop(writer.await??);
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 3.
fn cancelled_metadata_is_answered(cx: Cx) {
    cx.run(async {
        for turns_before in 0..4 {
            let scope = CancelScope::new();
            let outcome = scope.run(async {
                let mut asks = Box::pin(fs::metadata("/"));
                let begun = asks.as_mut().now_or_never();
                shielded(turns(turns_before)).await;
                scope.cancel();
                let answer = match begun {
                    Some(answer) => answer,
                    None => asks.await,
                };
                assert!(answer.is_ok_and(|found| found.is_dir()) || scope.cancel_called());
                checkpoint().await.map_err(io::Error::from)
            });
            assert!(outcome.await?.is_none());
        }
        Ok::<_, io::Error>(())
    });
}

/// DESIGN §4: "closing and releasing always happen; only their waiting is cut".
fn a_cancelled_close_closes_all_the_same(cx: Cx) {
    cx.run(async {
        let (a, b) = UnixStream::pair()?;
        a.with_socket(|socket| socket.set_send_buffer_size(4096))?;
        // It cannot be sent, so closing waits.
        a.write(vec![1; 1 << 20])?;
        assert!(cut(a.close()).await?.is_none());
        let mut received = 0;
        while let Some(chunk) = b.receive().await? {
            received += chunk.len();
        }
        assert!(received < 1 << 20, "the rest was dropped, and the peer saw the end");
        // And in a cancelled scope.
        let (a, b) = UnixStream::pair()?;
        let scope = CancelScope::new();
        scope.cancel();
        let _ = scope.run(a.close()).await;
        assert!(b.receive().await?.is_none());
        Ok::<_, io::Error>(())
    });
}

/// The same; the harness counts descriptors.
fn a_cancelled_close_of_a_file_closes_all_the_same(cx: Cx) {
    cx.run(async {
        let folder = Folder::new();
        for cancel_first in [true, false] {
            let file = File::create(folder.path("file")).await?;
            let scope = CancelScope::new();
            let outcome = scope.run(async {
                if cancel_first {
                    scope.cancel();
                }
                let mut close = Box::pin(file.close());
                let begun = close.as_mut().now_or_never();
                scope.cancel();
                match begun {
                    Some(ended) => ended,
                    None => close.await,
                }
            });
            let _ = outcome.await;
        }
        Ok::<_, io::Error>(())
    });
}

/// asyncio docs, `sleep`: a cancelled sleep removes its handle.
fn a_cancelled_sleep_leaves_no_timer(cx: Cx) {
    cx.run(async {
        turns(1).await;
        let before = proactor::metrics().timers;
        assert!(cut(async { Ok(sleep(LONG).await?) }).await?.is_none());
        assert_eq!(proactor::metrics().timers, before);
        Ok::<_, io::Error>(())
    });
}

/// The documentation of `tick`: "the tick stays due".
fn a_cancelled_tick_stays_due(cx: Cx) {
    virtually(cx, async {
        let begin = now();
        let mut clock = interval(ms(10));
        assert_eq!(move_on_after(ms(4), clock.tick()).await, Ok(None));
        assert_eq!(clock.tick().await, Ok(begin + ms(10)));
        let scope = CancelScope::new();
        scope.cancel();
        assert_eq!(scope.run(clock.tick()).await, Ok(None));
        assert_eq!(clock.tick().await, Ok(begin + ms(20)));
        assert_eq!(now() - begin, ms(20));
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 7.
fn a_cancelled_join_leaves_the_task_alone(cx: Cx) {
    cx.run(async {
        let event = proactor::sync::Event::new();
        let waits = event.clone();
        let mut task = spawn(async move { waits.wait().await });
        let outcome = cut(async { Ok((&mut task).await.map(drop)?) });
        assert!(outcome.await?.is_none());
        assert!(!task.is_finished() && task.cancel_requests() == 0);
        event.set();
        assert_eq!(task.await?, Ok(()));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `to_thread.run_sync`: without `abandon_on_cancel` "ignore cancellations in the host task until the
/// operation has completed".
fn a_cancelled_wait_for_a_thread_goes_on_until_the_thread_is_done(cx: Cx) {
    cx.run(async {
        let (begin, begun) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let scope = CancelScope::new();
        let handle = scope.clone();
        let other = spawn(async move {
            until(|| begun.try_recv().is_ok()).await;
            handle.cancel();
            yields(20).await;
            release.send(()).expect("the thread waits");
        });
        let value = Cell::new(None);
        let outcome = scope.run(async {
            let function = move || {
                begin.send(()).expect("somebody waits");
                released.recv().expect("it is released");
                42
            };
            value.set(Some(to_thread::run_sync(function).await?));
            Ok::<_, io::Error>(checkpoint().await?)
        });
        assert!(outcome.await?.is_none(), "the next wait answers");
        assert_eq!(value.get(), Some(42));
        Ok::<_, io::Error>(other.await?)
    });
}

/// AnyIO reference, `to_thread.run_sync(abandon_on_cancel=True)`.
fn a_cancelled_wait_for_a_thread_that_may_be_abandoned_ends_at_once(cx: Cx) {
    cx.run(async {
        let (begin, begun) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let scope = CancelScope::new();
        let handle = scope.clone();
        drop(spawn(async move {
            until(|| begun.try_recv().is_ok()).await;
            handle.cancel();
        }));
        let outcome = scope.run(async {
            let function = move || {
                begin.send(()).expect("somebody waits");
                released.recv().expect("it is released");
                tell.send("the thread went on").expect("somebody waits");
            };
            let error = to_thread::run_sync(function).abandon_on_cancel(true).await.expect_err("cancelled");
            assert!(matches!(error, JoinError::WaitCancelled(_)), "{error}");
            Err::<(), io::Error>(error.into())
        });
        assert!(outcome.await?.is_none());
        release.send(()).expect("the thread waits");
        assert_eq!(told.recv(), Ok("the thread went on"));
        Ok::<_, io::Error>(())
    });
}

/// AnyIO reference, `from_thread.check_cancelled`.
fn a_thread_can_ask_whether_its_wait_was_cancelled(cx: Cx) {
    cx.run(async {
        let (begin, begun) = mpsc::channel();
        let scope = CancelScope::new();
        let handle = scope.clone();
        drop(spawn(async move {
            until(|| begun.try_recv().is_ok()).await;
            handle.cancel();
        }));
        let outcome = scope.run(async {
            let function = move || {
                from_thread::check_cancelled()?;
                begin.send(()).expect("somebody waits");
                loop {
                    from_thread::check_cancelled()?;
                    std::thread::yield_now();
                }
            };
            let result: io::Result<()> = to_thread::run_sync(function).await?;
            result
        });
        assert!(outcome.await?.is_none(), "what the thread answers is a cancellation too");
        Ok::<_, io::Error>(())
    });
}

/// The documentation of `run_sync`: "a function that no thread has begun is not run".
fn a_function_that_no_thread_began_is_not_run_when_cancelled(cx: Cx) {
    cx.run(async {
        let scope = CancelScope::new();
        let (tell, told) = mpsc::channel::<()>();
        let outcome = scope.run(async {
            scope.cancel();
            to_thread::run_sync(move || tell.send(())).await?.map_err(io::Error::other)
        });
        assert!(outcome.await?.is_none());
        assert!(told.recv().is_err());
        Ok::<_, io::Error>(())
    });
}

/// Every await that can be cancelled is told from a failure.
fn an_abandoned_wait_is_a_cancellation_for_its_scope(cx: Cx) {
    cx.run(async {
        let (release, released) = mpsc::channel::<()>();
        let outcome = move_on_after(ms(5), async {
            Ok::<_, io::Error>(
                to_thread::run_sync(move || released.recv()).abandon_on_cancel(true).await?.is_ok(),
            )
        });
        assert!(outcome.await?.is_none());
        drop(release);
        Ok::<_, io::Error>(())
    });
}

/// The documentation of `ctrl_c`.
fn a_cancelled_wait_for_a_signal_forgets_it(cx: Cx) {
    cx.run(async {
        assert!(cut(signal::terminate()).await?.is_none());
        assert!(cut(signal::ctrl_c()).await?.is_none());
        Ok::<_, io::Error>(())
    });
}

/// The documentation of `until_cancelled`: "serves until it is cancelled or dropped".
fn serving_ends_by_a_cancel_and_the_listener_lives(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let serving = cut(listener.serve(async |_| Ok::<_, io::Error>(())).until_cancelled());
        assert!(serving.await?.is_none());
        let (client, served) = (TcpStream::connect(address).await?, listener.accept().await?);
        client.send("still").await?;
        assert_eq!(&served.receive().await?.expect("bytes")[..], b"still");
        Ok::<_, io::Error>(())
    });
}

/// Nothing of the first wait is left that could disturb the second.
fn a_cancelled_wait_can_be_waited_for_again(cx: Cx) {
    cx.run(async {
        let (a, b) = tcp_pair().await?;
        let mut receive = Box::pin(a.receive());
        let scope = CancelScope::new();
        let inside = scope.run(async {
            assert!(receive.as_mut().now_or_never().is_none());
            scope.cancel();
            checkpoint().await
        });
        assert_eq!(inside.await, Ok(None));
        b.send("late").await?;
        assert_eq!(&receive.await?.expect("bytes")[..], b"late");
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 4, for all of them: nothing reaches the kernel.
fn every_operation_refuses_to_begin_in_a_cancelled_scope(cx: Cx) {
    cx.run(async {
        let folder = Folder::new();
        let file = File::create(folder.path("file")).await?;
        let (a, _b) = tcp_pair().await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        turns(5).await;
        let before = proactor::metrics().in_flight;
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            scope.cancel();
            assert!(a.receive().await.is_err_and(|error| error.is_cancelled()));
            assert!(a.receive_into(vec![0; 4]).await.is_err_and(|failed| failed.error.is_cancelled()));
            assert!(a.send("x").await.is_err_and(|failed| failed.error.is_cancelled() && failed.done == 0));
            assert!(a.send_vectored(vec!["x"]).await.is_err_and(|failed| failed.error.is_cancelled()));
            assert!(a.flush().await.is_err_and(|error| error.is_cancelled()));
            assert!(listener.accept().await.is_err_and(|error| error.is_cancelled()));
            assert!(TcpStream::connect(address).await.is_err_and(|error| error.is_cancelled()));
            assert!(UnixStream::connect("/none").await.is_err_and(|error| error.is_cancelled()));
            assert!(file.read_at(vec![0; 4], 0).await.is_err_and(|failed| failed.error.is_cancelled()));
            assert!(file.write_at("x", 0).await.is_err_and(|failed| failed.error.is_cancelled()));
            assert!(file.metadata().await.is_err_and(|error| error.is_cancelled()));
            assert!(File::open("/").await.is_err_and(|error| error.is_cancelled()));
            assert!(signal::ctrl_c().await.is_err_and(|error| error.is_cancelled()));
            assert_eq!(proactor::metrics().in_flight, before);
            checkpoint().await.map_err(io::Error::from)
        });
        assert!(outcome.await?.is_none());
        assert_eq!(file.metadata().await?.len(), 0, "nothing was written");
        file.close().await
    });
}
