//! C6 to C11: what results say, what is in order, who gets a turn, and who is woken.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{join, poll};
use proactor::fs::{self, File};
use proactor::net::{TcpListener, TcpStream, UnixStream};
use proactor::{metrics, sleep, spawn, timeout, yield_now};
use socket2::{Domain, Socket, Type};

use super::Count;
use crate::harness::{
    Cx, Folder, Random, both_drivers, many, needs, open_descriptors, tcp_pair, turns, until,
};

both_drivers!(
    c6_results_carry_the_same_errno_on_every_driver,
    c6_eagain_of_the_socket_never_gets_out,
    c7_a_close_that_lingers_does_not_block_the_loop,
    c7_an_open_that_waits_does_not_block_the_loop,
    c8_a_file_opened_but_never_fetched_is_closed,
    c8_connections_accepted_but_never_fetched_are_closed,
    c9_sends_and_writes_of_one_stream_go_out_in_their_order,
    c10_a_flood_on_one_connection_starves_nobody,
    c10_tasks_that_are_always_ready_starve_no_input,
    c10_a_storm_of_timeouts_starves_no_input,
    c11_no_wake_up_from_another_thread_is_lost,
    c11_a_wake_up_finds_a_loop_that_sleeps,
    c11_results_of_the_pool_find_a_loop_that_sleeps,
    c11_wakers_of_an_ended_task_or_loop_do_nothing,
);

/// What failed how.
#[derive(Default)]
struct Failures(Vec<(&'static str, Option<i32>)>);

impl Failures {
    fn note<T>(&mut self, what: &'static str, outcome: Result<T, impl Into<io::Error>>) {
        self.0.push((what, outcome.err().and_then(|error| error.into().raw_os_error())));
    }
}

/// A socket that is neither connected nor listening.
fn fresh_socket() -> OwnedFd {
    Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket").into()
}

async fn reset_pair() -> io::Result<TcpStream> {
    let (ours, theirs) = tcp_pair().await?;
    theirs.set_linger(Some(Duration::ZERO))?;
    theirs.close().await?;
    Ok(ours)
}

fn c6_results_carry_the_same_errno_on_every_driver(cx: Cx) {
    let folder = Folder::new();
    let (file, missing) = (folder.path("file"), folder.path("missing"));
    std::fs::write(&file, "content").expect("a file");
    let free_port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let failures = cx.run(async {
        let mut all = Failures::default();
        all.note("connect to nobody", TcpStream::connect(free_port).await);
        all.note("open nothing", File::open(&missing).await);
        all.note("open below a file", File::open(file.join("below")).await);
        all.note("open a long name", File::open("x".repeat(300)).await);
        all.note("create a folder", File::create(folder.path("")).await);
        all.note("create in nothing", File::create(missing.join("below")).await);
        all.note("metadata of nothing", fs::metadata(&missing).await);
        let opened = File::open(&file).await?;
        all.note("write what is read-only", opened.write_at("bytes", 0).await);
        all.note("read at a negative offset", opened.read_at(Vec::with_capacity(8), u64::MAX - 1).await);
        let directory = File::open(folder.path("")).await?;
        all.note("read a folder", directory.read_at(Vec::with_capacity(8), 0).await);
        opened.close().await?;
        directory.close().await?;
        all.note("receive after a reset", reset_pair().await?.receive().await);
        all.note("receive_into after a reset", reset_pair().await?.receive_into(vec![0; 8]).await);
        let gone = reset_pair().await?;
        all.note("see the reset", gone.receive().await);
        all.note("send after a reset", gone.send("bytes").await);
        let (ours, theirs) = UnixStream::pair()?;
        theirs.close().await?;
        all.note("send to nobody", ours.send("bytes").await);
        all.note("send again", ours.send("bytes").await);
        let (ours, theirs) = UnixStream::pair()?;
        theirs.close().await?;
        all.note("send parts to nobody", ours.send_vectored(vec!["bytes", "more"]).await);
        let (ours, theirs) = UnixStream::pair()?;
        theirs.close().await?;
        let _ = ours.write("bytes")?;
        all.note("flush to nobody", ours.flush().await);
        let listener = TcpListener::from_std(fresh_socket().into())?;
        all.note("accept without listening", listener.accept().await);
        let stream = TcpStream::from_std(fresh_socket().into())?;
        all.note("receive without a connection", stream.receive().await);
        all.note("send without a connection", stream.send("bytes").await);
        all.note("peer address without a connection", stream.peer_addr());
        Ok::<_, io::Error>(all.0)
    });
    let expected = [
        ("connect to nobody", libc::ECONNREFUSED),
        ("open nothing", libc::ENOENT),
        ("open below a file", libc::ENOTDIR),
        ("open a long name", libc::ENAMETOOLONG),
        ("create a folder", libc::EISDIR),
        ("create in nothing", libc::ENOENT),
        ("metadata of nothing", libc::ENOENT),
        ("write what is read-only", libc::EBADF),
        ("read at a negative offset", libc::EINVAL),
        ("read a folder", libc::EISDIR),
        ("receive after a reset", libc::ECONNRESET),
        ("receive_into after a reset", libc::ECONNRESET),
        ("see the reset", libc::ECONNRESET),
        ("send after a reset", libc::EPIPE),
        ("send to nobody", libc::EPIPE),
        ("send again", libc::EPIPE),
        ("send parts to nobody", libc::EPIPE),
        ("flush to nobody", libc::EPIPE),
        ("accept without listening", libc::EINVAL),
        ("receive without a connection", libc::ENOTCONN),
        ("send without a connection", libc::EPIPE),
        ("peer address without a connection", libc::ENOTCONN),
    ];
    assert_eq!(failures, expected.map(|(what, errno)| (what, Some(errno))));
}

fn c6_eagain_of_the_socket_never_gets_out(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        // Calls on this socket would end with EAGAIN after a millisecond.
        ours.with_socket(|socket| socket.set_read_timeout(Some(Duration::from_millis(1))))?;
        ours.with_socket(|socket| socket.set_write_timeout(Some(Duration::from_millis(1))))?;
        let late = async {
            sleep(Duration::from_millis(30)).await?;
            theirs.send("late").await?;
            Ok::<_, io::Error>(())
        };
        let (received, sent) = join!(ours.receive(), late);
        sent?;
        assert_eq!(&received?.expect("bytes")[..], b"late");
        let late = async {
            sleep(Duration::from_millis(30)).await?;
            theirs.send("later").await?;
            Ok::<_, io::Error>(())
        };
        let (received, sent) = join!(ours.receive_into(Vec::with_capacity(8)), late);
        sent?;
        assert_eq!(received?.1, b"later");
        // More than the socket takes, to a peer that reads late.
        let late = async {
            sleep(Duration::from_millis(30)).await?;
            let mut count = 0;
            while count < 16 << 20 {
                count += theirs.receive().await?.expect("bytes").len();
            }
            Ok::<_, io::Error>(count)
        };
        let (sent, received) = join!(ours.send(vec![1; 16 << 20]), late);
        assert_eq!((sent?.len(), received?), (16 << 20, 16 << 20));
        Ok::<_, io::Error>(())
    });
}

fn c7_a_close_that_lingers_does_not_block_the_loop(cx: Cx) {
    cx.run(async {
        for by_drop in [true, false] {
            let (ours, theirs) = tcp_pair().await?;
            theirs.with_socket(|socket| socket.set_recv_buffer_size(4096))?;
            ours.set_linger(Some(Duration::from_secs(10)))?;
            // Fill what the two sockets hold: the peer does not read, so there is something to linger for.
            let filled = timeout(Duration::from_millis(50), ours.send(vec![7; 64 << 20])).await;
            assert!(filled.is_err());
            let begun = Instant::now();
            let closing = if by_drop {
                drop(ours);
                None
            } else {
                // The send goes on and would hold up the close: so it is made to fail by the peer's end, below.
                Some(spawn(ours.close()))
            };
            sleep(Duration::from_millis(5)).await?;
            turns(50).await;
            assert!(begun.elapsed() < Duration::from_secs(5), "the loop waited for the close");
            theirs.set_linger(Some(Duration::ZERO))?;
            theirs.close().await?;
            if let Some(closing) = closing {
                let _ = closing.await?; // it says that the connection was reset
            }
            until(|| metrics().in_flight == 0).await;
        }
        Ok::<_, io::Error>(())
    });
}

fn c7_an_open_that_waits_does_not_block_the_loop(cx: Cx) {
    let folder = Folder::new();
    let path = folder.path("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
    cx.run(async {
        let opening = spawn(File::open(path.clone()));
        turns(100).await; // the loop goes on
        let writer = thread::spawn(move || OpenOptions::new().write(true).open(path));
        let file = opening.await??;
        writer.join().expect("no panic")?;
        file.close().await
    });
}

fn c8_a_file_opened_but_never_fetched_is_closed(cx: Cx) {
    if !needs(220, 0) {
        return;
    }
    let folder = Folder::new();
    std::fs::write(folder.path("file"), "content").expect("a file");
    cx.run(async {
        let before = open_descriptors();
        let mut opens: Vec<_> = (0..200).map(|_| Box::pin(File::open(folder.path("file")))).collect();
        for open in &mut opens {
            assert!(poll!(open).is_pending());
        }
        until(|| metrics().in_flight == 0).await;
        assert_eq!(open_descriptors(), before + 200, "all are open, and nobody fetched them");
        drop(opens);
        until(|| open_descriptors() == before).await;
        Ok::<_, io::Error>(())
    });
}

fn c8_connections_accepted_but_never_fetched_are_closed(cx: Cx) {
    if !needs(120, 0) {
        return;
    }
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (count, waker) = Count::new();
        let mut clients = Vec::new();
        {
            let mut accept = pin!(listener.accept());
            assert!(accept.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            for _ in 0..50 {
                clients.push(TcpStream::connect(address).await?);
            }
            until(|| count.get() > 0).await;
        }
        drop(listener);
        for client in clients {
            match client.receive().await {
                Ok(end) => assert!(end.is_none()),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            }
        }
        Ok::<_, io::Error>(())
    });
}

/// Takes messages of `c9` apart: their numbers, in order.
async fn messages(stream: UnixStream) -> io::Result<Vec<usize>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.receive().await? {
        bytes.extend_from_slice(&chunk);
    }
    let (mut rest, mut numbers) = (&bytes[..], Vec::new());
    while let Some((header, after)) = rest.split_first_chunk::<8>() {
        let number = u32::from_le_bytes(*header.first_chunk().expect("4 of 8")) as usize;
        let len = u32::from_le_bytes(*header.last_chunk().expect("4 of 8")) as usize;
        assert!(after[..len].iter().all(|byte| *byte == number as u8), "message {number} is broken up");
        numbers.push(number);
        rest = &after[len..];
    }
    assert!(rest.is_empty());
    Ok(numbers)
}

fn c9_sends_and_writes_of_one_stream_go_out_in_their_order(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixStream::pair()?;
        ours.with_socket(|socket| socket.set_send_buffer_size(4096))?;
        let ours = Rc::new(ours);
        let peer = spawn(messages(theirs));
        let (mut random, mut certain, mut tasks) = (Random(3), Vec::new(), Vec::new());
        for number in 0..many(2000) {
            let len = 1 + random.below(3000);
            let header = ((len as u64) << 32 | number as u64).to_le_bytes();
            let message = [&header[..], &vec![number as u8; len]].concat();
            let (stream, kind) = (ours.clone(), random.below(4));
            if kind == 0 {
                let _ = ours.write(message)?;
                certain.push(number);
            } else {
                let mut send = Box::pin(async move {
                    match kind {
                        1 => stream.send(message).await.map(drop).map_err(io::Error::from),
                        2 => {
                            let parts = vec![message[..5].to_vec(), Vec::new(), message[5..].to_vec()];
                            stream.send_vectored(parts).await.map(drop).map_err(io::Error::from)
                        }
                        _ => stream.send(message).await.map(drop).map_err(io::Error::from),
                    }
                });
                match poll!(&mut send) {
                    Poll::Ready(sent) => {
                        sent?;
                        certain.push(number);
                    }
                    // It was queued or begun, and is gone again: all of it is sent, or nothing.
                    Poll::Pending if kind == 3 => drop(send),
                    Poll::Pending => {
                        tasks.push(spawn(send));
                        certain.push(number);
                    }
                }
            }
            if random.below(8) == 0 {
                turns(random.below(3)).await;
            }
        }
        for task in tasks {
            task.await??;
        }
        ours.shutdown_write().await?;
        let received = peer.await??;
        assert!(received.is_sorted_by(|a, b| a < b), "out of order, or twice");
        let mut rest = received.iter();
        assert!(certain.iter().all(|number| rest.any(|r| r == number)), "some are missing");
        Ok::<_, io::Error>(())
    });
}

fn c10_a_flood_on_one_connection_starves_nobody(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut flooding = std::net::TcpStream::connect(listener.local_addr()?)?;
        let flooded = listener.accept().await?;
        let (one, other) = tcp_pair().await?;
        let over = Arc::new(AtomicBool::new(false));
        let flood = thread::spawn({
            let over = over.clone();
            move || {
                while !over.load(Ordering::SeqCst) && flooding.write_all(&[9; 1 << 16]).is_ok() {}
            }
        });
        let received = Rc::new(Cell::new(0));
        let drain = spawn({
            let received = received.clone();
            async move {
                while let Some(chunk) = flooded.receive().await? {
                    received.set(received.get() + chunk.len());
                }
                Ok::<_, io::Error>(())
            }
        });
        let echo = spawn(async move {
            while let Some(chunk) = other.receive().await? {
                other.send(chunk).await?;
            }
            Ok::<_, io::Error>(())
        });
        let others = async {
            for _ in 0..300 {
                one.send("ping").await?;
                assert_eq!(&one.receive().await?.expect("an echo")[..], b"ping");
            }
            for _ in 0..30 {
                sleep(Duration::from_millis(1)).await?;
            }
            one.shutdown_write().await
        };
        timeout(Duration::from_secs(30), others).await.expect("the others have their turn")?;
        assert!(received.get() > 0, "there was no flood");
        over.store(true, Ordering::SeqCst);
        until(|| flood.is_finished()).await;
        drain.await??;
        echo.await??;
        flood.join().expect("no panic");
        Ok::<_, io::Error>(())
    });
}

/// Has both ends exchange bytes a few times, while others do what they do.
async fn ping_pong() -> io::Result<()> {
    let (one, other) = tcp_pair().await?;
    for _ in 0..20 {
        one.send("ping").await?;
        other.send(other.receive().await?.expect("bytes")).await?;
        assert_eq!(&one.receive().await?.expect("bytes")[..], b"ping");
    }
    Ok(())
}

fn c10_tasks_that_are_always_ready_starve_no_input(cx: Cx) {
    cx.run(async {
        let over = Rc::new(Cell::new(false));
        let busy = |over: Rc<Cell<bool>>| async move {
            while !over.get() {
                yield_now().await;
            }
        };
        let tasks: Vec<_> = (0..1100).map(|_| spawn(busy(over.clone()))).collect();
        timeout(Duration::from_secs(60), ping_pong()).await.expect("the others have their turn")?;
        timeout(Duration::from_secs(30), sleep(Duration::from_millis(1))).await.expect("timers too")?;
        over.set(true);
        for task in tasks {
            task.await?;
        }
        Ok::<_, io::Error>(())
    });
}

fn c10_a_storm_of_timeouts_starves_no_input(cx: Cx) {
    cx.run(async {
        let over = Rc::new(Cell::new(false));
        let stormy = |over: Rc<Cell<bool>>| async move {
            while !over.get() {
                let _ = timeout(Duration::ZERO, std::future::pending::<()>()).await;
            }
        };
        let tasks: Vec<_> = (0..1100).map(|_| spawn(stormy(over.clone()))).collect();
        timeout(Duration::from_secs(60), ping_pong()).await.expect("the others have their turn")?;
        over.set(true);
        for task in tasks {
            task.await?;
        }
        Ok::<_, io::Error>(())
    });
}

fn c11_no_wake_up_from_another_thread_is_lost(cx: Cx) {
    const THREADS: u64 = 4;
    let each = many(50_000) as u64;
    cx.run(async {
        let (sum, waker) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None::<Waker>)));
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (sum, waker) = (sum.clone(), waker.clone());
                thread::spawn(move || {
                    for _ in 0..each {
                        sum.fetch_add(1, Ordering::SeqCst);
                        if let Some(waker) = &*waker.lock().expect("no panic") {
                            waker.wake_by_ref();
                        }
                    }
                })
            })
            .collect();
        // In a task, so that the loop is asleep whenever nobody has woken it.
        let counting = spawn(poll_fn(move |cx| {
            *waker.lock().expect("no panic") = Some(cx.waker().clone());
            if sum.load(Ordering::SeqCst) == THREADS * each { Poll::Ready(()) } else { Poll::Pending }
        }));
        timeout(Duration::from_secs(60), counting).await.expect("a wake-up was lost")?;
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        Ok::<_, io::Error>(())
    });
}

fn c11_a_wake_up_finds_a_loop_that_sleeps(cx: Cx) {
    cx.run(async {
        // The loop hands out its waker and has nothing else to do; the other thread wakes it at some later moment.
        let (hand, taken) = std::sync::mpsc::channel::<(Arc<AtomicBool>, Waker)>();
        let other = thread::spawn(move || {
            for (round, (done, waker)) in taken.iter().enumerate() {
                (0..round % 64 * 50).for_each(|_| std::hint::spin_loop());
                done.store(true, Ordering::SeqCst);
                waker.wake();
            }
        });
        for _ in 0..many(3000) {
            let (done, mut handed) = (Arc::new(AtomicBool::new(false)), false);
            let woken = poll_fn(|cx| {
                if done.load(Ordering::SeqCst) {
                    return Poll::Ready(());
                }
                if !std::mem::replace(&mut handed, true) {
                    hand.send((done.clone(), cx.waker().clone())).expect("the other thread listens");
                }
                Poll::Pending
            });
            timeout(Duration::from_secs(30), woken).await.expect("a wake-up was lost");
        }
        drop(hand);
        other.join().expect("no panic");
        Ok::<_, io::Error>(())
    });
}

fn c11_results_of_the_pool_find_a_loop_that_sleeps(cx: Cx) {
    cx.run(async {
        for _ in 0..100 {
            let found = join_all((0..20).map(|_| fs::metadata("/")));
            let found = timeout(Duration::from_secs(30), found).await.expect("a result was slept over");
            assert!(found.into_iter().all(|found| found.is_ok_and(|found| found.is_dir())));
        }
        Ok::<_, io::Error>(())
    });
}

fn c11_wakers_of_an_ended_task_or_loop_do_nothing(cx: Cx) {
    let keep = |kept: Arc<Mutex<Vec<Waker>>>| {
        poll_fn(move |cx| {
            kept.lock().expect("no panic").push(cx.waker().clone());
            Poll::Ready(())
        })
    };
    let (kept, over) = (Arc::new(Mutex::new(Vec::<Waker>::new())), Arc::new(AtomicBool::new(false)));
    let wakers: Vec<_> = (0..4)
        .map(|_| {
            let (kept, over) = (kept.clone(), over.clone());
            thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    let some: Vec<_> =
                        kept.lock().expect("no panic").iter().rev().take(16).cloned().collect();
                    some.iter().for_each(Waker::wake_by_ref);
                }
            })
        })
        .collect();
    for _ in 0..10 {
        let event_loop = cx.builder().build().expect("a loop");
        let main = async {
            for _ in 0..20 {
                spawn(keep(kept.clone())).await.expect("no panic");
                // What the old wakers do to its successors is a poll too many at worst.
                let polls = Rc::new(AtomicUsize::new(0));
                let (p, slept) = (polls.clone(), sleep(Duration::from_micros(50)));
                let mut slept = Box::pin(slept);
                spawn(poll_fn(move |cx| {
                    p.fetch_add(1, Ordering::Relaxed);
                    slept.as_mut().poll(cx)
                }))
                .await
                .expect("no panic")
                .expect("not cancelled");
                assert!(polls.load(Ordering::Relaxed) >= 1);
            }
        };
        event_loop.run_until_complete(main).expect("the loop runs");
        event_loop.close().expect("the loop closes");
        // The loop is gone, its wakers are used all the time.
        kept.lock().expect("no panic").iter().for_each(Waker::wake_by_ref);
    }
    over.store(true, Ordering::SeqCst);
    wakers.into_iter().for_each(|thread| thread.join().expect("no panic"));
}
