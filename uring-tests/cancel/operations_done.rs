//! Sends that are cancelled or dropped half way: how far they came is told, and the stream goes on.

use std::future::Future;
use std::io;
use std::sync::LazyLock;

use futures_util::FutureExt;
use proactor::cancel::{CancelScope, checkpoint, shielded};
use proactor::net::{Family, Stream, UnixStream};
use proactor::{Failed, MayBeCancelled, Task, spawn, yield_now};

use crate::cancel::operations::cut;
use crate::harness::{Cx, both_drivers, tcp_pair, turns};

both_drivers!(
    a_cancelled_send_says_how_far_it_came_and_the_rest_can_follow,
    a_cancelled_send_on_tcp_says_how_far_it_came_and_the_rest_can_follow,
    a_cancelled_vectored_send_says_how_far_it_came,
    a_send_that_waits_for_its_turn_has_sent_nothing_when_cancelled,
    a_cancelled_send_passes_the_turn_on,
    a_cancelled_flush_leaves_the_queue_alone,
    a_cancelled_half_close_can_be_asked_for_again,
    a_send_that_is_dropped_goes_on,
    a_send_that_is_dropped_after_its_cancel_was_asked_goes_on,
    a_send_that_is_dropped_after_it_was_cancelled_goes_on,
    a_dropped_send_ends_with_its_stream,
    a_send_that_was_done_when_the_cancel_came_is_a_success,
    cancelled_flushes_leave_no_waits_behind,
);

/// More than any socket holds.
const BIG: usize = 4 << 20;

/// Bytes that tell where they belong. Made once: an emulated machine takes seconds for them.
fn pattern() -> Vec<u8> {
    static ALL: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..BIG as u32).map(|at| (at.wrapping_mul(0x9E37_79B1) >> 24) as u8).collect());
    ALL.clone()
}

/// Receives everything until the peer closes.
fn drain<F: Family>(stream: Stream<F>) -> Task<io::Result<Vec<u8>>> {
    spawn(async move {
        let mut received = Vec::new();
        while let Some(chunk) = stream.receive().await? {
            received.extend_from_slice(&chunk);
        }
        Ok(received)
    })
}

#[track_caller]
fn assert_same(received: &[u8], expected: &[u8]) {
    assert_eq!(received.len(), expected.len());
    assert!(received == expected, "the bytes differ");
}

/// Cancels sends of `data` again and again, and goes on each time from where it came to.
async fn send_in_pieces<F: Family>(a: Stream<F>, b: Stream<F>) -> io::Result<()> {
    let data = pattern();
    let (mut sent, mut cuts, mut reader) = (0, 0, None);
    let mut idle = Some(b);
    while sent < data.len() {
        let mut done = 0;
        let outcome = cut(async {
            match a.send(data[sent..].to_vec()).await {
                Ok(buf) => done = buf.len(),
                Err(failed) => {
                    done = failed.done;
                    return Err(failed.error);
                }
            }
            Ok(())
        });
        cuts += usize::from(outcome.await?.is_none());
        sent += done;
        assert!(sent <= data.len());
        // At first nobody reads, so the socket is full.
        if let Some(idle) = idle.take_if(|_| cuts == 3) {
            reader = Some(drain(idle));
        }
    }
    assert!(cuts >= 3);
    a.close().await?;
    assert_same(&reader.expect("begun").await??, &data);
    Ok(())
}

/// API: `Failed` says how much was done; C3: "a cancelled send says how far it came".
fn a_cancelled_send_says_how_far_it_came_and_the_rest_can_follow(cx: Cx) {
    cx.run(async {
        let (a, b) = UnixStream::pair()?;
        send_in_pieces(a, b).await
    });
}

/// The same for the other family.
fn a_cancelled_send_on_tcp_says_how_far_it_came_and_the_rest_can_follow(cx: Cx) {
    cx.run(async {
        let (a, b) = tcp_pair().await?;
        a.with_socket(|socket| socket.set_send_buffer_size(64 << 10))?;
        send_in_pieces(a, b).await
    });
}

/// Cancels a send that cannot end, since nobody receives; gives what it said.
async fn cut_short<T>(send: impl Future<Output = Result<T, Failed<T>>>) -> Failed<T> {
    let mut said = None;
    let outcome = cut(async {
        let failed = send.await.err().expect("nobody receives");
        let error = io::Error::from(failed.error.kind());
        assert!(failed.error.is_cancelled(), "{}", failed.error);
        said = Some(failed);
        Err::<(), _>(error)
    });
    outcome.await.expect_err("the copy of the error is none");
    said.expect("it was cut short")
}

/// The same for several buffers.
fn a_cancelled_vectored_send_says_how_far_it_came(cx: Cx) {
    cx.run(async {
        let (a, b) = UnixStream::pair()?;
        let data = pattern();
        let parts: Vec<Vec<u8>> = data.chunks(70_001).map(<[u8]>::to_vec).collect();
        let failed = cut_short(a.send_vectored(parts)).await;
        assert!(failed.done > 0 && failed.done < data.len());
        assert_eq!(failed.buf.concat(), data, "all buffers came back");
        let reader = drain(b);
        a.send(data[failed.done..].to_vec()).await?;
        a.close().await?;
        assert_same(&reader.await??, &data);
        Ok::<_, io::Error>(())
    });
}

/// C9: one send at a time.
fn a_send_that_waits_for_its_turn_has_sent_nothing_when_cancelled(cx: Cx) {
    cx.run(async {
        let (a, b) = UnixStream::pair()?;
        let data = pattern();
        let mut first = Box::pin(a.send(data.clone()));
        assert!(first.as_mut().now_or_never().is_none());
        let failed = cut_short(a.send(vec![0; 10])).await;
        assert_eq!((failed.done, failed.buf.len()), (0, 10));
        let reader = drain(b);
        first.await?;
        a.close().await?;
        assert_same(&reader.await??, &data);
        Ok::<_, io::Error>(())
    });
}

/// C9: "the next send waits for the final completion".
fn a_cancelled_send_passes_the_turn_on(cx: Cx) {
    cx.run(async {
        let (a, b) = UnixStream::pair()?;
        let data = pattern();
        let failed = cut_short(async {
            let mut first = Box::pin(a.send(data.clone()));
            assert!(first.as_mut().now_or_never().is_none());
            a.write("next").expect("it is queued");
            first.await
        });
        let failed = failed.await;
        let reader = drain(b);
        a.close().await?;
        let expected = [&data[..failed.done], b"next"].concat();
        assert_same(&reader.await??, &expected);
        Ok::<_, io::Error>(())
    });
}

/// The documentation of `flush`: "nothing is lost".
fn a_cancelled_flush_leaves_the_queue_alone(cx: Cx) {
    cx.run(async {
        let (a, b) = UnixStream::pair()?;
        let data = pattern();
        a.write(data.clone())?;
        assert!(cut(a.flush()).await?.is_none());
        let reader = drain(b);
        a.flush().await?;
        a.close().await?;
        assert_same(&reader.await??, &data);
        Ok::<_, io::Error>(())
    });
}

/// The documentation of `shutdown_write`.
fn a_cancelled_half_close_can_be_asked_for_again(cx: Cx) {
    cx.run(async {
        let (a, b) = UnixStream::pair()?;
        let data = pattern();
        a.write(data.clone())?;
        assert!(cut(a.shutdown_write()).await?.is_none());
        let reader = drain(b);
        a.shutdown_write().await?;
        assert_same(&reader.await??, &data);
        Ok::<_, io::Error>(())
    });
}

/// The documentation of `send`: "dropped …, once begun, all of it is sent".
fn a_send_that_is_dropped_goes_on(cx: Cx) {
    cx.run(async {
        let (a, b) = UnixStream::pair()?;
        let data = pattern();
        let mut send = Box::pin(a.send(data.clone()));
        assert!(send.as_mut().now_or_never().is_none());
        drop(send);
        let reader = drain(b);
        a.send("tail").await?;
        a.close().await?;
        assert_same(&reader.await??, &[&data[..], b"tail"].concat());
        Ok::<_, io::Error>(())
    });
}

/// The same: nobody was told how far it came, so a hole in the stream would be the worst of all ends.
async fn dropped_after_the_cancel(turns_between: usize) -> io::Result<()> {
    let (a, b) = UnixStream::pair()?;
    let data = pattern();
    let scope = CancelScope::new();
    let outcome = scope.run(async {
        let mut send = Box::pin(a.send(data.clone()));
        assert!(send.as_mut().now_or_never().is_none());
        shielded(turns(3)).await;
        scope.cancel();
        shielded(turns(turns_between)).await;
        drop(send);
        checkpoint().await.map_err(io::Error::from)
    });
    assert!(outcome.await?.is_none());
    let reader = drain(b);
    a.send("tail").await?;
    a.close().await?;
    assert_same(&reader.await??, &[&data[..], b"tail"].concat());
    Ok(())
}

fn a_send_that_is_dropped_after_its_cancel_was_asked_goes_on(cx: Cx) {
    cx.run(dropped_after_the_cancel(0));
}

fn a_send_that_is_dropped_after_it_was_cancelled_goes_on(cx: Cx) {
    cx.run(async {
        for turns_between in 1..5 {
            dropped_after_the_cancel(turns_between).await?;
        }
        Ok::<_, io::Error>(())
    });
}

/// The documentation of `send`: "unless the stream is closed". The harness looks for operations that are left.
fn a_dropped_send_ends_with_its_stream(cx: Cx) {
    cx.run(async {
        for turns_between in 0..4 {
            let (a, b) = UnixStream::pair()?;
            let scope = CancelScope::new();
            let outcome = scope.run(async {
                let mut send = Box::pin(a.send(pattern()));
                assert!(send.as_mut().now_or_never().is_none());
                scope.cancel();
                shielded(turns(turns_between)).await;
                drop(send);
                checkpoint().await.map_err(io::Error::from)
            });
            assert!(outcome.await?.is_none());
            drop(a);
            let received = drain(b).await??;
            assert_same(&received, &pattern()[..received.len()]);
            assert!(received.len() < BIG);
        }
        Ok::<_, io::Error>(())
    });
}

/// CANCEL.md, rule 3.
fn a_send_that_was_done_when_the_cancel_came_is_a_success(cx: Cx) {
    cx.run(async {
        let (a, b) = tcp_pair().await?;
        let scope = CancelScope::new();
        let outcome = scope.run(async {
            let mut send = Box::pin(a.send("small"));
            let sent = send.as_mut().now_or_never();
            shielded(turns(3)).await;
            scope.cancel();
            match sent {
                Some(sent) => sent,
                None => send.await,
            }
            .map_err(io::Error::from)
        });
        assert_eq!(outcome.await?, Some("small"));
        assert_eq!(&b.receive().await?.expect("bytes")[..], b"small");
        Ok::<_, io::Error>(())
    });
}

/// However often a wait is cut, it leaves nothing.
fn cancelled_flushes_leave_no_waits_behind(cx: Cx) {
    cx.run(async {
        let (a, _b) = UnixStream::pair()?;
        a.write(pattern())?;
        turns(3).await;
        let before = proactor::metrics().waits;
        for _ in 0..50 {
            let scope = CancelScope::new();
            let outcome = scope.run(async {
                let mut flush = Box::pin(a.flush());
                assert!(flush.as_mut().now_or_never().is_none());
                scope.cancel();
                flush.await
            });
            assert!(outcome.await?.is_none());
            let mut dropped = Box::pin(a.flush());
            assert!(dropped.as_mut().now_or_never().is_none());
            drop(dropped);
            yield_now().await;
        }
        let left = proactor::metrics().waits - before;
        assert!(left <= 2, "{left} waits are left");
        Ok::<_, io::Error>(())
    });
}
