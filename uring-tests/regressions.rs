//! What broke once, each by name: bugs that a reviewer found, and that must not come back.

use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use proactor::fs::File;
use proactor::net::{TcpListener, TcpStream, UnixStream};
use proactor::thread::to_thread;
use proactor::{EventLoop, JoinError, nop, spawn, timeout, yield_now};
use socket2::{MsgHdr, SockRef};

use crate::harness::{Cx, both_drivers, needs, open_descriptors, turns};

both_drivers!(
    a_failed_send_gives_up_what_was_written_behind_it,
    a_send_that_waits_behind_a_failed_one_fails_too,
    a_panic_in_with_socket_leaves_the_descriptor_open,
    files_dropped_in_the_last_turn_are_closed,
    empty_buffers_in_front_do_not_end_a_vectored_send,
    a_reset_met_by_a_dropped_receive_into_is_not_an_end_of_stream,
    urgent_data_does_not_hide_what_follows,
    descriptors_passed_over_a_unix_stream_do_not_hide_what_follows,
    a_serve_that_is_gone_takes_no_wake_up_of_an_acceptor,
    an_acceptor_that_was_served_by_chance_takes_no_wake_up_of_another,
    sockets_that_found_no_buffer_go_on_and_get_buffers_again,
    work_that_runs_when_the_loop_ends_does_not_hold_it_up,
    waiting_for_a_remote_task_for_ever_is_no_overflow,
    waiting_for_a_remote_task_on_its_own_thread_is_an_error,
    sockets_that_share_their_flags_with_others_work_as_they_are,
    a_foreign_waker_that_panics_leaves_no_task_behind,
    an_address_in_use_keeps_its_errno,
    what_the_last_turn_closed_is_closed_while_the_loop_is_parked,
    a_receive_that_takes_the_last_bytes_does_not_hide_the_end,
);

/// Far beyond what anything here takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Turns the loop until `done`.
async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "{what} never happened");
        nop().await.expect("a nop");
        yield_now().await;
    }
}

/// A waker that tells whether it was called.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Flag {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

fn poll_with<F: Future>(future: std::pin::Pin<&mut F>, flag: &Arc<Flag>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(flag.clone())))
}

/// Polls once, with the task's own waker.
async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

pub(crate) async fn tcp_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    Ok((client, listener.accept().await?))
}

/// Receives until there are `count` bytes.
pub(crate) async fn receive_all(stream: &TcpOrUnix<'_>, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let chunk = match stream {
            TcpOrUnix::Tcp(stream) => timeout(LIMIT, stream.receive()).await??,
            TcpOrUnix::Unix(stream) => timeout(LIMIT, stream.receive()).await??,
        };
        bytes.extend_from_slice(&chunk.expect("the stream goes on"));
    }
    Ok(bytes)
}

pub(crate) enum TcpOrUnix<'a> {
    Tcp(&'a TcpStream),
    Unix(&'a UnixStream),
}

pub(crate) fn new_loop(cx: Cx) -> EventLoop {
    cx.builder().build().expect("a loop")
}

// ---- sending ----

fn a_failed_send_gives_up_what_was_written_behind_it(cx: Cx) {
    cx.run(async {
        let (stream, peer) = UnixStream::pair()?;
        let mut sending = Box::pin(stream.send(vec![0; 16 << 20]));
        assert!(poll_once(sending.as_mut()).await.is_pending(), "more than the socket takes");
        stream.write("behind it")?;
        drop(peer);
        let failed = sending.await.expect_err("the peer is gone");
        assert_eq!(failed.error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(stream.flush().await.expect_err("nothing can be sent").kind(), io::ErrorKind::BrokenPipe);
        let closed = timeout(LIMIT, stream.close()).await?;
        assert_eq!(closed.expect_err("bytes were lost").kind(), io::ErrorKind::BrokenPipe);
        // And `run` sees that no operation is left.
        Ok::<_, io::Error>(())
    });
}

fn a_send_that_waits_behind_a_failed_one_fails_too(cx: Cx) {
    cx.run(async {
        let (stream, peer) = UnixStream::pair()?;
        let mut first = pin!(stream.send(vec![0; 16 << 20]));
        assert!(poll_once(first.as_mut()).await.is_pending(), "more than the socket takes");
        let mut second = pin!(stream.send("second"));
        assert!(poll_once(second.as_mut()).await.is_pending(), "it waits for the first");
        drop(peer);
        assert_eq!(first.await.expect_err("the peer is gone").error.kind(), io::ErrorKind::BrokenPipe);
        let failed = timeout(LIMIT, second).await?.expect_err("nothing can be sent");
        assert_eq!((failed.error.kind(), failed.buf), (io::ErrorKind::BrokenPipe, "second"));
        Ok::<_, io::Error>(())
    });
}

fn empty_buffers_in_front_do_not_end_a_vectored_send(cx: Cx) {
    cx.run(async {
        let (stream, peer) = UnixStream::pair()?;
        for empty in [0, 1, 63, 64, 65, 2000] {
            let mut bufs = vec![""; empty];
            bufs.extend(["x", "", "y"]);
            assert_eq!(stream.send_vectored(bufs).await?.len(), empty + 3, "they come back");
            assert_eq!(receive_all(&TcpOrUnix::Unix(&peer), 2).await?, b"xy");
            // Nothing to send is sent at once.
            stream.send_vectored(vec![""; empty]).await?;
        }
        Ok::<_, io::Error>(())
    });
}

// ---- descriptors ----

fn a_panic_in_with_socket_leaves_the_descriptor_open(cx: Cx) {
    cx.run(async {
        let (stream, peer) = UnixStream::pair()?;
        let stream = Rc::new(stream);
        peer.send("armed").await?;
        assert_eq!(receive_all(&TcpOrUnix::Unix(&stream), 5).await?, b"armed");
        let user = stream.clone();
        let ended = spawn(async move { user.with_socket(|_| -> io::Result<()> { panic!("meant to be") }) });
        assert!(matches!(ended.await, Err(JoinError::Panicked(_))));
        // It is still this connection and no other.
        stream.with_socket(|socket| socket.take_error())?;
        stream.send("there").await?;
        assert_eq!(receive_all(&TcpOrUnix::Unix(&peer), 5).await?, b"there");
        peer.send("and back").await?;
        assert_eq!(receive_all(&TcpOrUnix::Unix(&stream), 8).await?, b"and back");
        // When it ends by a panic, the next of its number is a connection like any other.
        let number = stream.as_raw_fd();
        let ended = spawn(async move { stream.with_socket(|_| -> io::Result<()> { panic!("meant to be") }) });
        assert!(matches!(ended.await, Err(JoinError::Panicked(_))));
        assert!(timeout(LIMIT, peer.receive()).await??.is_none(), "it was closed");
        let (a, b) = UnixStream::pair()?;
        let (same, other) = if a.as_raw_fd() == number { (a, b) } else { (b, a) };
        assert_eq!(same.as_raw_fd(), number, "the lowest number is the next");
        other.send("hello").await?;
        assert_eq!(receive_all(&TcpOrUnix::Unix(&same), 5).await?, b"hello");
        Ok::<_, io::Error>(())
    });
}

fn files_dropped_in_the_last_turn_are_closed(cx: Cx) {
    if !needs(120, 0) {
        return;
    }
    for _ in 0..5 {
        let before = open_descriptors();
        let event_loop = new_loop(cx);
        let run = event_loop.run_until_complete(async {
            let mut files = Vec::new();
            for _ in 0..100 {
                files.push(File::open("/proc/self/exe").await?);
            }
            Ok::<_, io::Error>(())
        });
        run.expect("the loop runs").expect("they can be opened");
        drop(event_loop);
        assert_eq!(open_descriptors(), before);
    }
}

fn what_the_last_turn_closed_is_closed_while_the_loop_is_parked(cx: Cx) {
    let event_loop = new_loop(cx);
    let (ours, mut theirs) = StdUnixStream::pair().expect("a pair");
    theirs.set_read_timeout(Some(LIMIT)).expect("a limit");
    event_loop
        .run_until_complete(async {
            let stream = UnixStream::from_std(ours)?;
            stream.send("bye").await?;
            // As an idle connection has it: the receive is armed when the stream goes.
            assert!(futures_util::poll!(pin!(stream.receive())).is_pending());
            nop().await
        })
        .expect("the loop runs")
        .expect("it is sent");
    // While the loop's own thread does nothing for it, not even a system call.
    let read = thread::spawn(move || {
        let mut bytes = Vec::new();
        theirs.read_to_end(&mut bytes).map(|_| bytes)
    });
    assert_eq!(read.join().expect("no panic").expect("it was closed"), b"bye");
}

/// A socket with `O_NONBLOCK` whose open file somebody else uses too.
fn sockets_that_share_their_flags_with_others_work_as_they_are(cx: Cx) {
    cx.run(async {
        let shared = std::net::TcpListener::bind("127.0.0.1:0")?;
        shared.set_nonblocking(true)?;
        let listener = TcpListener::from_std(shared.try_clone()?)?;
        let has_multishot = proactor::current()?.report().features().any(|f| f == ("multishot accept", true));
        if !cx.is_uring() || has_multishot {
            assert!(SockRef::from(&shared).nonblocking()?, "the flag belongs to others too");
        }
        let mut accepting = pin!(listener.accept());
        assert!(poll_once(accepting.as_mut()).await.is_pending());
        nop().await?;
        let client = std::net::TcpStream::connect(shared.local_addr()?)?;
        client.set_nonblocking(true)?;
        let other = client.try_clone()?;
        let server = timeout(LIMIT, accepting).await??;
        let client = TcpStream::from_std(client)?;
        for _ in 0..3 {
            let mut receiving = pin!(client.receive());
            assert!(poll_once(receiving.as_mut()).await.is_pending());
            nop().await?;
            server.send("one").await?;
            assert_eq!(timeout(LIMIT, receiving).await??.as_deref(), Some(&b"one"[..]));
            let mut receiving = pin!(client.receive_into(Vec::with_capacity(10)));
            assert!(poll_once(receiving.as_mut()).await.is_pending());
            nop().await?;
            nop().await?;
            server.send("two").await?;
            assert_eq!(timeout(LIMIT, receiving).await??, (3, b"two".to_vec()));
        }
        // More than the socket takes at once.
        const SIZE: usize = 16 << 20;
        let receiver = spawn(async move { receive_all(&TcpOrUnix::Tcp(&server), SIZE).await });
        client.send(vec![7; SIZE]).await?;
        assert_eq!(receiver.await??.len(), SIZE);
        drop(other);
        Ok::<_, io::Error>(())
    });
}

// ---- receiving ----

fn a_reset_met_by_a_dropped_receive_into_is_not_an_end_of_stream(cx: Cx) {
    cx.run(async {
        // Dropped with the result on its way, and when it was delivered.
        for turns in [0, 1, 2, 50] {
            let (client, server) = tcp_pair().await?;
            let mut receiving = Box::pin(server.receive_into(Vec::with_capacity(10)));
            assert!(poll_once(receiving.as_mut()).await.is_pending());
            nop().await?;
            client.set_linger(Some(Duration::ZERO))?;
            client.close().await?;
            eventually("the reset", || server.peer_addr().is_err()).await;
            for _ in 0..turns {
                nop().await?;
                yield_now().await;
            }
            drop(receiving);
            let received = timeout(LIMIT, server.receive()).await?;
            let error = received.expect_err("this is no end of the stream");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "after {turns} turns");
        }
        Ok::<_, io::Error>(())
    });
}

fn urgent_data_does_not_hide_what_follows(cx: Cx) {
    cx.run(async {
        let (client, server) = tcp_pair().await?;
        for waits in [false, true, false] {
            let mut receiving = pin!(server.receive());
            if waits {
                assert!(poll_once(receiving.as_mut()).await.is_pending());
                nop().await?;
            }
            client.with_socket(|socket| {
                socket.send(b"abc")?;
                socket.send_out_of_band(b"d")?;
                socket.send(b"ef")
            })?;
            let mut bytes = timeout(LIMIT, receiving).await??.expect("bytes").to_vec();
            bytes.extend(receive_all(&TcpOrUnix::Tcp(&server), 5 - bytes.len()).await?);
            assert_eq!(bytes, b"abcef");
        }
        Ok::<_, io::Error>(())
    });
}

fn descriptors_passed_over_a_unix_stream_do_not_hide_what_follows(cx: Cx) {
    cx.run(async {
        let (ours, peer) = StdUnixStream::pair()?;
        let stream = UnixStream::from_std(ours)?;
        let passed = std::fs::File::open("/proc/self/exe")?;
        // A cmsghdr of SCM_RIGHTS, as cmsg(3) lays it out.
        let header = size_of::<usize>() + 2 * size_of::<i32>();
        let mut control = (header + size_of::<i32>()).to_ne_bytes().to_vec();
        for word in [libc::SOL_SOCKET, libc::SCM_RIGHTS, passed.as_raw_fd()] {
            control.extend_from_slice(&word.to_ne_bytes());
        }
        control.resize(control.len().next_multiple_of(size_of::<usize>()), 0);
        for round in 0..3 {
            let mut receiving = pin!(stream.receive());
            if round > 0 {
                assert!(poll_once(receiving.as_mut()).await.is_pending());
                nop().await?;
            }
            let abc = [IoSlice::new(b"abc")];
            let message = MsgHdr::new().with_buffers(&abc).with_control(&control);
            assert_eq!(SockRef::from(&peer).sendmsg(&message, 0)?, 3);
            assert_eq!(SockRef::from(&peer).send(b"def")?, 3);
            let mut bytes = timeout(LIMIT, receiving).await??.expect("bytes").to_vec();
            bytes.extend(receive_all(&TcpOrUnix::Unix(&stream), 6 - bytes.len()).await?);
            assert_eq!(bytes, b"abcdef");
        }
        Ok::<_, io::Error>(())
    });
}

fn sockets_that_found_no_buffer_go_on_and_get_buffers_again(cx: Cx) {
    /// What a socket without a buffer receives at a time.
    const SPARE: usize = 4096;
    cx.run_with(cx.builder().buffer_size(SPARE).buffer_limit(4 * SPARE), async {
        let (holder, feeder) = UnixStream::pair()?;
        let mut held = Vec::new();
        // Nobody gives a buffer back.
        while proactor::metrics().buffers_in_use < 4 {
            feeder.send(vec![1; SPARE]).await?;
            held.push(timeout(LIMIT, holder.receive()).await??.expect("bytes"));
        }
        let pairs: Vec<_> = (0..8).map(|_| UnixStream::pair()).collect::<io::Result<_>>()?;
        for round in 0..50 {
            for (near, far) in &pairs {
                far.send(vec![round; SPARE]).await?;
                assert_eq!(receive_all(&TcpOrUnix::Unix(near), SPARE).await?, vec![round; SPARE]);
            }
        }
        // Now they come back, and everybody gets on with them.
        drop(held);
        for round in 0..50 {
            for (near, far) in &pairs {
                far.send(vec![round; SPARE]).await?;
                assert_eq!(receive_all(&TcpOrUnix::Unix(near), SPARE).await?, vec![round; SPARE]);
            }
        }
        let (near, far) = &pairs[0];
        far.send("pooled").await?;
        let chunk = timeout(LIMIT, near.receive()).await??.expect("bytes");
        assert_eq!(proactor::metrics().buffers_in_use, 1, "it is in a buffer of the pool again");
        drop(chunk);
        Ok::<_, io::Error>(())
    });
}

// ---- accepting ----

fn a_serve_that_is_gone_takes_no_wake_up_of_an_acceptor(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (gone, waits) = (Arc::<Flag>::default(), Arc::<Flag>::default());
        {
            let serving = listener.serve(async |_: TcpStream| Ok::<(), io::Error>(())).until_cancelled();
            assert!(poll_with(pin!(serving), &gone).is_pending());
        }
        let mut accepting = pin!(listener.accept());
        assert!(poll_with(accepting.as_mut(), &waits).is_pending());
        let _client = TcpStream::connect(listener.local_addr()?).await?;
        eventually("the wake-up", || waits.take()).await;
        assert!(matches!(poll_with(accepting, &waits), Poll::Ready(Ok(_))));
        Ok::<_, io::Error>(())
    });
}

fn an_acceptor_that_was_served_by_chance_takes_no_wake_up_of_another(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (first, second) = (Arc::<Flag>::default(), Arc::<Flag>::default());
        let mut a = pin!(listener.accept());
        let mut b = pin!(listener.accept());
        assert!(poll_with(a.as_mut(), &first).is_pending());
        assert!(poll_with(b.as_mut(), &second).is_pending());
        let _one = TcpStream::connect(listener.local_addr()?).await?;
        eventually("the wake-up of the first", || first.take()).await;
        assert!(matches!(poll_with(b, &second), Poll::Ready(Ok(_))), "the second came first");
        assert!(poll_with(a.as_mut(), &first).is_pending());
        let _two = TcpStream::connect(listener.local_addr()?).await?;
        eventually("another wake-up of the first", || first.take()).await;
        assert!(matches!(poll_with(a, &first), Poll::Ready(Ok(_))));
        Ok::<_, io::Error>(())
    });
}

fn an_address_in_use_keeps_its_errno(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let error = TcpListener::bind(listener.local_addr()?).await.expect_err("it is in use");
        assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE), "{error}");
        let gone = listener.local_addr()?;
        listener.close().await?;
        let error = TcpStream::connect(gone).await.expect_err("nobody listens");
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
        Ok::<_, io::Error>(())
    });
}

// ---- threads and wakers ----

fn work_that_runs_when_the_loop_ends_does_not_hold_it_up(cx: Cx) {
    let before = open_descriptors();
    // A busy machine may take its time, but not each time.
    let fastest = (0..3).map(|_| {
        let event_loop = new_loop(cx);
        let (started, begins) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let (ended, ends) = mpsc::channel();
        let run = event_loop.run_until_complete(async {
            let mut work = pin!(to_thread::run_sync(move || {
                started.send(()).expect("somebody waits");
                let _ = released.recv();
                ended.send(()).expect("somebody waits");
            }));
            assert!(poll_once(work.as_mut()).await.is_pending());
            nop().await.expect("a nop");
            begins.recv().expect("it begins");
        });
        run.expect("the loop runs");
        let begin = Instant::now();
        drop(event_loop);
        let took = begin.elapsed();
        assert_eq!(open_descriptors(), before, "the loop was leaked");
        // Its thread still works, and finds nobody when it is done.
        drop(release);
        ends.recv().expect("it ends");
        took
    });
    let fastest = fastest.min().expect("three rounds");
    assert!(fastest < Duration::from_secs(1), "closing took {fastest:?}");
}

fn waiting_for_a_remote_task_for_ever_is_no_overflow(cx: Cx) {
    cx.run(async {
        let handle = proactor::current()?;
        let waited = to_thread::run_sync(move || {
            let mut task = handle.spawn(async || {
                yield_now().await;
                7
            })?;
            task.wait(Some(Duration::MAX))
        });
        assert_eq!(waited.await.expect("no panic")?, 7);
        Ok::<_, io::Error>(())
    });
}

fn waiting_for_a_remote_task_on_its_own_thread_is_an_error(cx: Cx) {
    cx.run(async {
        let mut task = proactor::current()?.spawn(async || 7)?;
        // With the limit so that it is an error, not the end of the tests, where this is not noticed.
        let error = task.wait(Some(Duration::from_secs(2))).expect_err("it would wait for itself");
        assert!(error.to_string().contains("own thread"), "{error}");
        // Another loop's task is another matter.
        let (sender, receiver) = mpsc::channel();
        let other = thread::spawn(move || {
            let event_loop = new_loop(cx);
            sender.send(event_loop.handle()).expect("somebody waits");
            event_loop.run_forever()
        });
        let handle = receiver.recv().expect("a handle");
        assert_eq!(handle.spawn(async || 8)?.wait(None)?, 8);
        handle.spawn(async || proactor::event_loop::stop())?.wait(None)?.expect("it runs");
        other.join().expect("no panic")?;
        Ok::<_, io::Error>(())
    });
}

fn a_foreign_waker_that_panics_leaves_no_task_behind(cx: Cx) {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("meant to be");
        }
    }
    cx.run(async {
        let mut task = pin!(spawn(async {
            yield_now().await;
            7
        }));
        let waker = Waker::from(Arc::new(Panics));
        assert!(task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        eventually("the end of the task", || proactor::metrics().tasks == 0).await;
        assert_eq!(task.await.expect("its result"), 7);
        Ok::<_, io::Error>(())
    });
}

/// On epoll the end is told of once, with the bytes before it.
fn a_receive_that_takes_the_last_bytes_does_not_hide_the_end(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut theirs = std::net::TcpStream::connect(listener.local_addr()?)?;
        let ours = Rc::new(listener.accept().await?);
        let first = spawn({
            let ours = ours.clone();
            async move { ours.receive_into(Vec::with_capacity(1)).await }
        });
        turns(2).await; // it waits in the kernel
        theirs.write_all(b"abc")?;
        theirs.shutdown(Shutdown::Write)?;
        assert_eq!(first.await.expect("no panic")?.1, b"a");
        assert_eq!(ours.receive_into(Vec::with_capacity(16)).await?.1, b"bc");
        let end = timeout(LIMIT, ours.receive_into(Vec::with_capacity(16))).await;
        assert_eq!(end.expect("the end is told")?.0, 0);
        Ok::<_, io::Error>(())
    });
}
