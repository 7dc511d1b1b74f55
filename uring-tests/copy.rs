//! From stream to stream: every byte once and in order, however it ends.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{FutureExt, join};
use proactor::fs::File;
use proactor::net::{Family, Stream, TcpStream, UnixStream};
use proactor::stream::{AsyncResource, aclose_forcefully};
use proactor::{Closed, Failed, Task, metrics, spawn};

use crate::bulk::{KIB, MIB, cancelled_after, full_pair, narrow_pair, pattern, receive_all, receive_exactly};
use crate::harness::{
    Cx, Folder, Random, both_drivers, many, needs, open_descriptors, tcp_pair, turns, until,
};
use crate::processes::child;
use crate::wrappers::is;

both_drivers!(
    messages_and_bulk_are_copied_until_the_end,
    both_directions_at_once_make_a_proxy,
    other_sends_find_their_place,
    a_slow_receiver_gets_every_byte,
    a_cancel_at_any_moment_loses_no_byte,
    a_dropped_copy_loses_no_byte,
    a_copy_that_is_dropped_in_the_queue_of_its_target_loses_no_byte,
    a_reset_on_either_side_ends_it_with_a_count,
    a_second_receiver_is_told_that_it_is_busy,
    many_copies_that_wait_for_their_receivers_stop_nobody,
    a_reset_raises_no_signal,
    a_close_of_the_source_ends_a_copy_that_waits_for_bytes,
    a_close_of_the_source_ends_a_copy_of_little_that_waits_for_room,
    a_close_of_the_source_ends_a_copy_that_waits_for_room,
);

/// Descriptors of the one pipe that the loop keeps.
const PIPES: usize = 2;

async fn send_all<F: Family>(stream: &Stream<F>, bytes: &[u8]) -> io::Result<()> {
    stream.send(bytes.to_vec()).await?;
    stream.shutdown_write().await
}

fn messages_and_bulk_are_copied_until_the_end(cx: Cx) {
    cx.run(async {
        for len in [0, 1, 5000, 200 * KIB, 8 * MIB] {
            let bytes = pattern(len);
            let (client, inner) = tcp_pair().await?;
            let (outer, server) = tcp_pair().await?;
            let copying = async {
                let copied = inner.copy_to(&outer).await?;
                outer.shutdown_write().await?;
                Ok::<_, io::Error>(copied)
            };
            let (sent, copied, received) = join!(send_all(&client, &bytes), copying, receive_all(&server));
            sent?;
            assert_eq!(copied?, len as u64);
            assert!(received? == bytes, "{len} bytes over TCP");

            let (client, inner) = UnixStream::pair()?;
            let (outer, server) = UnixStream::pair()?;
            let copying = async {
                let copied = inner.copy_to(&outer).await?;
                outer.shutdown_write().await?;
                Ok::<_, io::Error>(copied)
            };
            let (sent, copied, received) = join!(send_all(&client, &bytes), copying, receive_all(&server));
            sent?;
            assert_eq!(copied?, len as u64);
            assert!(received? == bytes, "{len} bytes over UNIX streams");
        }
        if cx.is_uring() {
            assert!(metrics().submitted_of("splice") > 0, "bulk goes by splices");
        }
        Ok::<_, io::Error>(())
    });
}

fn both_directions_at_once_make_a_proxy(cx: Cx) {
    cx.run(async {
        let (client, inner) = tcp_pair().await?;
        let (outer, server) = tcp_pair().await?;
        let bytes = pattern(3 * MIB);
        let there = async {
            inner.copy_to(&outer).await?;
            outer.shutdown_write().await
        };
        let back = async {
            outer.copy_to(&inner).await?;
            inner.shutdown_write().await
        };
        let echo = async {
            server.copy_to(&server).await?;
            server.shutdown_write().await
        };
        let (there, back, echo, sent, received) =
            join!(there, back, echo, send_all(&client, &bytes), receive_all(&client));
        there?;
        back?;
        echo?;
        sent?;
        assert!(received? == bytes);
        Ok::<_, io::Error>(())
    });
}

fn other_sends_find_their_place(cx: Cx) {
    cx.run(async {
        let (client, inner) = tcp_pair().await?;
        let (outer, server) = narrow_pair().await?;
        let bytes = vec![b'.'; 4 * MIB];
        let copying = inner.copy_to(&outer);
        let others = async {
            for _ in 0..20 {
                turns(5).await;
                outer.send("X").await?;
            }
            Ok::<_, io::Error>(())
        };
        let sending = async {
            let (copied, others) = join!(copying, others);
            others?;
            outer.shutdown_write().await?;
            Ok::<_, io::Error>(copied?)
        };
        let (sent, copied, received) = join!(send_all(&client, &bytes), sending, receive_all(&server));
        sent?;
        assert_eq!(copied?, bytes.len() as u64);
        let received = received?;
        assert_eq!(received.len(), bytes.len() + 20);
        assert_eq!(received.iter().filter(|byte| **byte == b'X').count(), 20);
        Ok::<_, io::Error>(())
    });
}

fn a_slow_receiver_gets_every_byte(cx: Cx) {
    cx.run(async {
        let (client, inner) = tcp_pair().await?;
        let (outer, server) = narrow_pair().await?;
        let bytes = pattern(3 * MIB);
        let mut random = Random(3);
        let slowly = async {
            let mut all = Vec::new();
            while all.len() < bytes.len() {
                turns(random.below(5)).await;
                let (_, some) = server.receive_into(Vec::with_capacity(1 + random.below(99_999))).await?;
                all.extend_from_slice(&some);
            }
            Ok::<_, io::Error>(all)
        };
        let (sent, copied, received) = join!(send_all(&client, &bytes), inner.copy_to(&outer), slowly);
        sent?;
        assert_eq!(copied?, bytes.len() as u64);
        assert!(received? == bytes);
        Ok::<_, io::Error>(())
    });
}

fn a_cancel_at_any_moment_loses_no_byte(cx: Cx) {
    cx.run(async {
        let bytes = Rc::new(pattern(2 * MIB));
        let (rounds, mut random, mut stopped, mut rest_was_held) = (many(24), Random(5), 0, 0);
        for round in 0..rounds {
            let (client, inner) = tcp_pair().await?;
            let (outer, server) = if round % 2 == 0 { tcp_pair().await? } else { narrow_pair().await? };
            let receiver = spawn(async move { receive_all(&server).await });
            let all = bytes.clone();
            let sender = spawn(async move { send_all(&client, &all).await });
            let (copied, was_stopped) = cancelled_after(random.below(100), inner.copy_to(&outer)).await?;
            stopped += usize::from(was_stopped);
            // What the cut left is still there, and the streams work.
            let rest = receive_all(&inner).await?;
            assert!(rest == bytes[copied..], "round {round}: {copied} copied, {} left", rest.len());
            rest_was_held += usize::from(!rest.is_empty());
            outer.send("end").await?;
            outer.shutdown_write().await?;
            sender.await??;
            assert!(
                receiver.await?? == [&bytes[..copied], b"end"].concat(),
                "round {round}: what was copied"
            );
        }
        let few = rounds / 6;
        assert!(
            stopped > few && rest_was_held > few,
            "{stopped} were stopped, {rest_was_held} of them early"
        );
        Ok::<_, io::Error>(())
    });
}

fn a_dropped_copy_loses_no_byte(cx: Cx) {
    cx.run(async {
        let bytes = pattern(2 * MIB);
        for moment in [0, 1, 2, 3, 5, 8, 13, 21, 34] {
            let (client, inner) = tcp_pair().await?;
            let (outer, server) = narrow_pair().await?;
            let all = bytes.clone();
            let sender = spawn(async move { send_all(&client, &all).await });
            let receiver = spawn(async move { receive_all(&server).await });
            let mut copying = Box::pin(inner.copy_to(&outer));
            for _ in 0..moment {
                assert!(copying.as_mut().now_or_never().is_none(), "not so fast");
                turns(1).await;
            }
            drop(copying);
            let rest = receive_all(&inner).await?;
            outer.shutdown_write().await?;
            let before = receiver.await??;
            assert_eq!(before.len() + rest.len(), bytes.len(), "after {moment} turns");
            assert!([before, rest].concat() == bytes, "after {moment} turns");
            sender.await??;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_copy_that_is_dropped_in_the_queue_of_its_target_loses_no_byte(cx: Cx) {
    cx.run(async {
        let (client, inner) = tcp_pair().await?;
        let (outer, server) = full_pair().await?;
        let _ = outer.write("first")?;
        client.send("hello").await?;
        let mut copying = Box::pin(inner.copy_to(&outer));
        for _ in 0..20 {
            assert!(copying.as_mut().now_or_never().is_none());
            turns(1).await;
        }
        drop(copying);
        assert_eq!(&inner.receive().await?.expect("bytes")[..], b"hello");
        drop(server);
        Ok::<_, io::Error>(())
    });
}

fn a_reset_on_either_side_ends_it_with_a_count(cx: Cx) {
    if !needs(0, 100) {
        return;
    }
    cx.run(async {
        for from_breaks in [true, false] {
            let (client, inner) = tcp_pair().await?;
            let (outer, server) = narrow_pair().await?;
            let reset = async {
                let sending = spawn(async move {
                    let sent = client.send(vec![7; 32 * MIB]).await;
                    (client, sent.is_ok())
                });
                receive_exactly(&server, 200 * KIB).await?;
                if from_breaks {
                    sending.cancel("enough");
                    drop(sending);
                    drop(server);
                } else {
                    server.set_linger(Some(Duration::ZERO))?;
                    server.close().await?;
                    drop(sending);
                }
                Ok::<_, io::Error>(())
            };
            let (copied, done) = join!(inner.copy_to(&outer), reset);
            done?;
            let failed = copied.expect_err("a broken connection");
            assert!((200 * KIB..32 * MIB).contains(&failed.done), "{failed}");
            drop(inner);
        }
        Ok::<_, io::Error>(())
    });
}

fn a_second_receiver_is_told_that_it_is_busy(cx: Cx) {
    cx.run(async {
        let (client, inner) = tcp_pair().await?;
        let (outer, server) = tcp_pair().await?;
        let mut copying = Box::pin(inner.copy_to(&outer));
        assert!(copying.as_mut().now_or_never().is_none());
        assert_eq!(inner.receive().await.expect_err("busy").kind(), io::ErrorKind::ResourceBusy);
        let second = inner.copy_to(&outer).await.expect_err("busy");
        assert_eq!((second.error.kind(), second.done), (io::ErrorKind::ResourceBusy, 0));
        client.send("x").await?;
        client.shutdown_write().await?;
        assert_eq!(copying.await?, 1);
        assert_eq!(&server.receive().await?.expect("it")[..], b"x");
        Ok::<_, io::Error>(())
    });
}

fn many_copies_that_wait_for_their_receivers_stop_nobody(cx: Cx) {
    let copies = many(40);
    // Four ends for each, and a pipe for those of the ring.
    if !needs(6 * copies + 30, 3 * copies) {
        return;
    }
    cx.run(async {
        let bytes = Rc::new(pattern(MIB));
        let (mut servers, mut tasks) = (Vec::new(), Vec::new());
        for _ in 0..copies {
            let (client, inner) = tcp_pair().await?;
            let (outer, server) = narrow_pair().await?;
            let all = bytes.clone();
            tasks.push(spawn(async move { send_all(&client, &all).await }));
            tasks.push(spawn(async move {
                inner.copy_to(&outer).await?;
                outer.shutdown_write().await
            }));
            servers.push(server);
        }
        turns(100).await;
        let (client, inner) = tcp_pair().await?;
        let (outer, server) = tcp_pair().await?;
        let copying = async {
            inner.copy_to(&outer).await?;
            outer.shutdown_write().await
        };
        let (sent, copied, received) = join!(send_all(&client, &bytes), copying, receive_all(&server));
        sent?;
        copied?;
        assert!(received? == *bytes, "the one that reads");
        for server in servers {
            assert!(receive_all(&server).await? == *bytes, "late, but whole");
        }
        for task in tasks {
            task.await??;
        }
        Ok::<_, io::Error>(())
    });
}

type Copying = Task<Result<u64, Failed<()>>>;

/// A copy in a task of its own, which keeps both streams.
fn copying(from: TcpStream, to: TcpStream) -> (Rc<TcpStream>, Copying) {
    let from = Rc::new(from);
    let source = from.clone();
    (from, spawn(async move { source.copy_to(&to).await }))
}

/// Closes the source of a copy: how many bytes that one says it has sent.
async fn closed(waits: bool, source: &TcpStream, copied: Copying) -> io::Result<usize> {
    if waits {
        source.aclose().await?;
    } else {
        aclose_forcefully(source).await?;
    }
    let failed = copied.await?.expect_err("closed");
    assert!(is::<Closed>(&failed.error), "{}", failed.error);
    Ok(failed.done)
}

fn a_close_of_the_source_ends_a_copy_that_waits_for_bytes(cx: Cx) {
    cx.run(async {
        for round in 0..12 {
            let before = open_descriptors();
            let (client, inner) = tcp_pair().await?;
            let (outer, server) = tcp_pair().await?;
            let (inner, copied) = copying(inner, outer);
            // So much comes at once that the copy is by splices, and waits for the next one.
            client.send(vec![round; 300 * KIB]).await?;
            receive_exactly(&server, 300 * KIB).await?;
            turns(usize::from(round) % 3).await;
            assert_eq!(closed(round % 2 == 0, &inner, copied).await?, 300 * KIB);
            drop((client, server));
            until(|| open_descriptors() <= before + PIPES).await;
            drop(inner);
        }
        Ok::<_, io::Error>(())
    });
}

fn a_close_of_the_source_ends_a_copy_of_little_that_waits_for_room(cx: Cx) {
    cx.run(async {
        for round in 0..4 {
            let (client, inner) = tcp_pair().await?;
            let (outer, server) = full_pair().await?;
            // In its turn, or behind what was written before.
            if round < 2 {
                let _ = outer.write("before")?;
            }
            let (inner, copied) = copying(inner, outer);
            client.send(vec![1; 16 * KIB]).await?;
            turns(20).await;
            assert!(!copied.is_finished());
            let done = closed(round % 2 == 0, &inner, copied).await?;
            assert!(done < 16 * KIB, "all {done} bytes were sent: it was not the send that ended");
            drop(server);
        }
        Ok::<_, io::Error>(())
    });
}

fn a_close_of_the_source_ends_a_copy_that_waits_for_room(cx: Cx) {
    if !needs(0, 150) {
        return;
    }
    // On 6.1 one receive fills all the buffers that there are, if bytes keep coming, and nobody here takes them.
    let builder = cx.builder().buffer_limit(4 * MIB);
    cx.run_with(builder, async {
        for round in 0..8 {
            let before = open_descriptors();
            let (client, inner) = tcp_pair().await?;
            let (outer, server) = tcp_pair().await?;
            let (inner, copied) = copying(inner, outer);
            // The first bytes see to it that the others go by splices.
            client.send(vec![1; 300 * KIB]).await?;
            receive_exactly(&server, 300 * KIB).await?;
            let sender = spawn(async move { client.send(vec![1; 64 * MIB]).await.map(drop) });
            turns(100).await;
            if copied.is_finished() || sender.is_finished() {
                let (copied, sender) = (copied.now_or_never(), sender.now_or_never());
                panic!("round {round} is over: {copied:?}, {sender:?}");
            }
            let done = closed(round % 2 == 0, &inner, copied).await?;
            sender.await?.expect_err("the peer is gone");
            assert_eq!(300 * KIB + receive_all(&server).await?.len(), done, "what was copied");
            drop(server);
            until(|| open_descriptors() <= before + PIPES).await;
            drop(inner);
        }
        Ok::<_, io::Error>(())
    });
}

fn a_reset_raises_no_signal(cx: Cx) {
    child(cx, "copy-without-signal");
}

/// In a process that the signal would end, as it does in programs that are not Rust's.
pub(crate) fn without_signal(cx: Cx) -> Result<(), String> {
    let folder = Folder::new();
    let path = folder.path("bulk");
    cx.run(async {
        std::fs::File::create(&path)?.set_len(64 * MIB as u64)?;
        let file = File::open(&path).await?;
        crate::faults::let_broken_pipes_kill();
        for round in 0..8 {
            let (client, inner) = tcp_pair().await?;
            let (outer, server) = tcp_pair().await?;
            let sender = spawn(async move {
                // The first bytes see to it that the others go by splices.
                client.send(vec![7; 300 * KIB]).await?;
                turns(20).await;
                client.send(vec![7; 64 * MIB]).await.map(drop)
            });
            let reset = async {
                receive_exactly(&server, 300 * KIB).await?;
                turns(100).await;
                server.set_linger(Some(Duration::ZERO))?;
                server.close().await
            };
            let sending = async {
                match round % 2 {
                    0 => inner.copy_to(&outer).await.map(drop).map_err(|failed| failed.error),
                    _ => outer.send_file(&file).await.map(drop).map_err(|failed| failed.error),
                }
            };
            // Whoever receives is told of the reset; who sends then meets a connection that is gone.
            let (sent, reset, received) = join!(sending, reset, outer.receive());
            reset?;
            sent.expect_err("a broken connection");
            received.expect_err("a broken connection");
            // Told once of the reset, a second attempt meets a connection that is gone.
            outer.send_file(&file).await.expect_err("it is gone");
            drop(inner);
            drop(sender.await?);
        }
        Ok::<_, io::Error>(())
    });
    Ok(())
}
