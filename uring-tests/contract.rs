//! The completion contract (`src/driver/mod.rs`), rule by rule, through the public API: C1 to C5 here, C6 to C11
//! in `order`, C12 and C13 in `shutdown`, C14 in `user_code`.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{join, poll};
use proactor::fs::{self, File};
use proactor::net::{TcpListener, TcpStream, UnixStream};
use proactor::{metrics, nop, spawn, timeout};

use crate::harness::{
    Cx, Folder, Random, both_drivers, many, needs, open_descriptors, tcp_pair, turns, until,
};

mod order;
mod shutdown;
mod user_code;

both_drivers!(
    c1_each_operation_completes_exactly_once,
    c1_a_multishot_accept_brings_each_connection_exactly_once,
    c2_submitting_wakes_nobody,
    c3_bytes_being_sent_stay_until_the_send_is_over,
    c3_a_buffer_being_received_into_belongs_to_nobody_else,
    c4_a_connection_for_a_dropped_accept_goes_to_the_next_one,
    c4_a_dropped_accept_passes_its_wake_up_on,
    c4_an_accept_that_times_out_takes_no_wake_up_from_another_of_its_task,
    c4_receives_dropped_at_any_moment_lose_no_byte,
    c4_bytes_for_a_dropped_receive_into_come_with_the_next_receive,
    c4_a_file_for_a_dropped_open_is_closed,
    c5_thousands_of_cancels_in_one_turn_are_all_answered,
    c5_a_cancel_hits_no_later_operation_in_the_same_slot,
);

/// Counts how often it was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Count {
    fn new() -> (Arc<Self>, Waker) {
        let count = Arc::new(Self::default());
        (count.clone(), count.into())
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// `len` bytes that tell their place in a stream.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at % 251) as u8).collect()
}

fn c1_each_operation_completes_exactly_once(cx: Cx) {
    if !needs(1020, 0) {
        return;
    }
    cx.run(async {
        let folder = Folder::new();
        std::fs::write(folder.path("file"), "content")?;
        let before = metrics().completions;
        let (mut ops, mut answers) = (FuturesUnordered::new(), vec![0; 3000]);
        for number in 0..answers.len() {
            let path = folder.path("file");
            ops.push(async move {
                match number % 3 {
                    0 => nop().await,
                    1 => fs::metadata(path).await.map(|found| assert_eq!(found.len(), 7)),
                    _ => File::open(path).await?.close().await,
                }
                .map(|()| number)
            });
        }
        while let Some(number) = ops.next().await {
            answers[number?] += 1;
        }
        assert!(answers.iter().all(|count| *count == 1));
        let made = metrics();
        assert_eq!(made.in_flight, 0);
        // A nop, a metadata, an open and a close: four for each three. On epoll a nop ends where it began.
        assert_eq!(made.completions - before, if cx.is_uring() { 4000 } else { 3000 });
        Ok::<_, io::Error>(())
    });
}

fn c1_a_multishot_accept_brings_each_connection_exactly_once(cx: Cx) {
    if !needs(620, 0) {
        return;
    }
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let clients = spawn(async move {
            let connected = join_all((0..300).map(|_| TcpStream::connect(address))).await;
            connected.into_iter().collect::<io::Result<Vec<_>>>()
        });
        let mut accepted = Vec::new();
        for _ in 0..300 {
            accepted.push(listener.accept().await?);
        }
        let clients = clients.await??;
        let mut there = accepted.iter().map(TcpStream::peer_addr).collect::<io::Result<Vec<_>>>()?;
        let mut here = clients.iter().map(TcpStream::local_addr).collect::<io::Result<Vec<_>>>()?;
        there.sort();
        here.sort();
        assert_eq!(there, here);
        let mut surplus = pin!(listener.accept());
        for _ in 0..20 {
            assert!(poll!(&mut surplus).is_pending());
            turns(1).await;
        }
        Ok::<_, io::Error>(())
    });
}

fn c2_submitting_wakes_nobody(cx: Cx) {
    cx.run(async {
        let folder = Folder::new();
        std::fs::write(folder.path("file"), "content")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (a, b) = tcp_pair().await?;
        let (count, waker) = Count::new();
        let mut context = Context::from_waker(&waker);
        let (mut receive, mut accept) = (pin!(a.receive()), pin!(listener.accept()));
        assert!(receive.as_mut().poll(&mut context).is_pending());
        assert!(accept.as_mut().poll(&mut context).is_pending());
        turns(3).await;
        assert_eq!(count.get(), 0);
        // Each of these may complete at once and hand its result to the caller, but must not wake those that wait.
        let (mut send, mut connect) = (pin!(b.send("bytes")), pin!(TcpStream::connect(address)));
        let _ = send.as_mut().poll(&mut context);
        let _ = connect.as_mut().poll(&mut context);
        let _ = pin!(nop()).poll(&mut context);
        let (mut open, mut file) = (pin!(File::open(folder.path("file"))), None);
        assert!(open.as_mut().poll(&mut context).is_pending());
        let _ = b.write("more")?;
        assert_eq!(count.get(), 0, "somebody was woken inside of a submission");
        until(|| {
            count.get() >= 3 && {
                if let Poll::Ready(opened) = open.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    file = Some(opened);
                }
                file.is_some()
            }
        })
        .await;
        assert_eq!(&receive.await?.expect("bytes")[..5], b"bytes");
        let _connection = accept.await?;
        file.expect("opened")?.close().await
    });
}

/// Bytes that tell when they are dropped.
struct Owner(Vec<u8>, Arc<AtomicBool>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        assert!(!self.1.swap(true, Ordering::SeqCst), "dropped twice");
    }
}

fn c3_bytes_being_sent_stay_until_the_send_is_over(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixStream::pair()?;
        ours.with_socket(|socket| socket.set_send_buffer_size(4096))?;
        let dropped = Arc::new(AtomicBool::new(false));
        let bytes = Bytes::from_owner(Owner(pattern(0, 1 << 20), dropped.clone()));
        {
            let mut send = pin!(ours.send(bytes));
            assert!(poll!(&mut send).is_pending(), "the peer does not read");
            turns(3).await;
            assert!(poll!(&mut send).is_pending(), "the peer does not read");
        }
        turns(20).await;
        assert!(!dropped.load(Ordering::SeqCst), "the kernel still reads it");
        let mut received = Vec::new();
        while received.len() < 1 << 20 {
            received.extend_from_slice(&theirs.receive().await?.expect("bytes"));
        }
        assert!(received == pattern(0, 1 << 20));
        until(|| dropped.load(Ordering::SeqCst)).await;
        Ok::<_, io::Error>(())
    });
}

fn c3_a_buffer_being_received_into_belongs_to_nobody_else(cx: Cx) {
    const LEN: usize = 48 << 10;
    cx.run(async {
        let (ours, theirs) = UnixStream::pair()?;
        for round in 0..many(50) {
            {
                let mut receive = pin!(ours.receive_into(Vec::with_capacity(LEN)));
                assert!(poll!(&mut receive).is_pending());
                if round % 2 == 0 {
                    turns(1).await; // now the kernel has it
                }
            }
            // Had the buffer been freed with the future, one of these would be at its place.
            let others: Vec<Vec<u8>> = (0..8).map(|_| vec![0xAA; LEN]).collect();
            let sent: &'static [u8] = &[0x55; 1000];
            theirs.send(sent).await?;
            let (mut received, mut rest) = (0, LEN);
            while received < 1000 {
                let chunk = ours.receive().await?.expect("bytes");
                assert!(chunk.iter().all(|byte| *byte == 0x55));
                received += chunk.len();
                rest -= chunk.len();
            }
            assert_eq!((received, rest), (1000, LEN - 1000));
            assert!(others.iter().flatten().all(|byte| *byte == 0xAA), "a freed buffer was written to");
        }
        Ok::<_, io::Error>(())
    });
}

fn c4_a_connection_for_a_dropped_accept_goes_to_the_next_one(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        for _ in 0..100 {
            let (count, waker) = Count::new();
            let client = {
                let mut accept = pin!(listener.accept());
                assert!(accept.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                let client = TcpStream::connect(listener.local_addr()?).await?;
                until(|| count.get() > 0).await; // the connection is there
                client
            };
            let server = listener.accept().await?;
            assert_eq!(server.peer_addr()?, client.local_addr()?);
        }
        Ok::<_, io::Error>(())
    });
}

fn c4_a_dropped_accept_passes_its_wake_up_on(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (first_count, first_waker) = Count::new();
        let (second_count, second_waker) = Count::new();
        let mut second = pin!(listener.accept());
        let client = {
            let mut first = pin!(listener.accept());
            assert!(first.as_mut().poll(&mut Context::from_waker(&first_waker)).is_pending());
            assert!(second.as_mut().poll(&mut Context::from_waker(&second_waker)).is_pending());
            let client = TcpStream::connect(listener.local_addr()?).await?;
            until(|| first_count.get() + second_count.get() > 0).await;
            client
        };
        until(|| second_count.get() > 0).await;
        let server = second.await?;
        assert_eq!(server.peer_addr()?, client.local_addr()?);
        Ok::<_, io::Error>(())
    });
}

fn c4_an_accept_that_times_out_takes_no_wake_up_from_another_of_its_task(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (dropped, accepted) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        let client = spawn({
            let (dropped, accepted) = (dropped.clone(), accepted.clone());
            async move {
                until(|| dropped.get()).await;
                let client = TcpStream::connect(address).await?;
                until(|| accepted.get()).await;
                client.local_addr()
            }
        });
        let patient = async {
            let server = listener.accept().await?;
            accepted.set(true);
            server.peer_addr()
        };
        let hasty = async {
            let outcome = timeout(Duration::from_millis(5), listener.accept()).await;
            dropped.set(true);
            assert!(outcome.is_err());
        };
        // In one task, and in this order: the patient one was polled already when the hasty one is dropped.
        let (peer, ()) = timeout(Duration::from_secs(30), async { join!(patient, hasty) }).await?;
        assert_eq!(peer?, client.await??);
        Ok::<_, io::Error>(())
    });
}

/// Polls a future a few times, a turn apart, and drops it if it was not done then.
async fn partly<T>(future: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Poll::Ready(value) = poll!(&mut future) {
            return Some(value);
        }
        turns(1).await;
    }
    None
}

fn c4_receives_dropped_at_any_moment_lose_no_byte(cx: Cx) {
    let total = many(600_000);
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let sender = spawn(async move {
            let (mut random, mut sent) = (Random(7), 0);
            while sent < total {
                let len = (1 + random.below(300)).min(total - sent);
                theirs.send(pattern(sent, len)).await?;
                sent += len;
                turns(random.below(4)).await;
            }
            theirs.shutdown_write().await
        });
        let (mut random, mut received, mut dropped) = (Random(11), 0, 0);
        loop {
            let (polls, room) = (random.below(4), 1 + random.below(500));
            let bytes = match random.below(2) {
                0 => {
                    partly(ours.receive(), polls).await.map(|r| r.map(|c| c.map_or(vec![], |c| c.into_vec())))
                }
                _ => {
                    let outcome = partly(ours.receive_into(Vec::with_capacity(room)), polls).await;
                    outcome.map(|r| r.map(|(_, buf)| buf).map_err(io::Error::from))
                }
            };
            match bytes.transpose()? {
                None => dropped += 1,
                Some(bytes) if bytes.is_empty() => break,
                Some(bytes) => {
                    assert!(
                        bytes == pattern(received, bytes.len()),
                        "bytes are lost or out of order at {received}"
                    );
                    received += bytes.len();
                }
            }
        }
        sender.await??;
        assert_eq!(received, total);
        assert!(dropped > total / 600, "only {dropped} futures were dropped");
        Ok::<_, io::Error>(())
    });
}

fn c4_bytes_for_a_dropped_receive_into_come_with_the_next_receive(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        for round in 0..100_u8 {
            let (count, waker) = Count::new();
            {
                let mut receive = pin!(ours.receive_into(Vec::with_capacity(64)));
                assert!(receive.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                theirs.send(vec![round; 3]).await?;
                until(|| count.get() > 0).await; // complete, and nobody fetches it
            }
            theirs.send(vec![round + 100; 3]).await?;
            let mut received = Vec::new();
            while received.len() < 6 {
                received.extend_from_slice(&ours.receive().await?.expect("bytes"));
            }
            assert_eq!(received, [[round; 3], [round + 100; 3]].concat());
        }
        Ok::<_, io::Error>(())
    });
}

fn c4_a_file_for_a_dropped_open_is_closed(cx: Cx) {
    if !needs(320, 0) {
        return;
    }
    cx.run(async {
        let folder = Folder::new();
        std::fs::write(folder.path("file"), "content")?;
        let before = open_descriptors();
        for round in 0..300 {
            partly(File::open(folder.path("file")), 1 + round % 3).await.transpose()?;
        }
        until(|| metrics().in_flight == 0 && open_descriptors() == before).await;
        Ok::<_, io::Error>(())
    });
}

fn c5_thousands_of_cancels_in_one_turn_are_all_answered(cx: Cx) {
    if !needs(3020, 0) {
        return;
    }
    cx.run_with(cx.builder().ring_entries(8), async {
        let pairs = (0..1500).map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>()?;
        for turns_before in [0, 3] {
            let receive = pairs.iter().map(|(ours, _)| ours.receive_into(Vec::with_capacity(16)));
            let mut receives: Vec<_> = receive.map(Box::pin).collect();
            for receive in &mut receives {
                assert!(poll!(receive).is_pending());
            }
            turns(turns_before).await;
            drop(receives);
            until(|| metrics().in_flight == 0).await;
        }
        for (_, theirs) in &pairs {
            let _ = theirs.write("still well")?;
        }
        for (ours, _) in &pairs {
            assert_eq!(&ours.receive().await?.expect("bytes")[..], b"still well");
        }
        // And with all of them in flight again, everything at once: cancels, and closes behind them.
        drop(pairs);
        until(|| metrics().in_flight == 0).await;
        Ok::<_, io::Error>(())
    });
}

fn c5_a_cancel_hits_no_later_operation_in_the_same_slot(cx: Cx) {
    cx.run(async {
        let ((a, b), (c, d)) = (UnixStream::pair()?, UnixStream::pair()?);
        for round in 0..many(2000) {
            let mut first = Box::pin(a.receive_into(Vec::with_capacity(16)));
            let mut second = Box::pin(c.receive_into(Vec::with_capacity(16)));
            assert!(poll!(&mut first).is_pending());
            b.send("first").await?;
            turns(round % 3).await; // not complete, just complete, or complete for a while
            drop(first);
            assert!(poll!(&mut second).is_pending(), "nothing was sent, and nobody cancelled it");
            turns(round % 2).await;
            assert!(poll!(&mut second).is_pending(), "nothing was sent, and nobody cancelled it");
            d.send("second").await?;
            assert_eq!(second.await?.1, b"second");
            assert_eq!(a.receive_into(Vec::with_capacity(16)).await?.1, b"first");
        }
        Ok::<_, io::Error>(())
    });
}
