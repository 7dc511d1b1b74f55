//! The stream of records: complete, in order, ended by who may end it, whatever is dropped or cancelled meanwhile.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{join, poll};
use proactor::buf::{Chunk, IoBuf};
use proactor::cancel::move_on_after;
use proactor::fs::File;
use proactor::net::TcpStream;
use proactor::stream::tls::{TlsStream, Truncated};
use proactor::stream::{
    AsyncResource, ByteReceiveStream, ByteSendStream, ByteStream, PollByteStream, TypedAttributeProvider,
    aclose_forcefully,
};
use proactor::{Busy, Closed, Failed, spawn, yield_now};

use crate::harness::{Cx, Folder, Random, both_drivers, needs, open_descriptors, tcp_pair, turns, until};
use crate::wrappers::is;
use crate::wrappers::tls::{client, server, tls_pair, wrapped};

both_drivers!(
    much_crosses_both_ways_at_once_with_back_pressure,
    the_end_of_tls_is_told_and_half_of_it_is_possible,
    a_connection_that_is_cut_off_is_an_error_only_where_the_end_is_required,
    a_record_that_was_changed_ends_the_connection,
    a_second_sender_or_receiver_is_told_that_it_is_busy,
    closing_tells_who_waits_and_says_goodbye,
    closing_tells_a_sender_that_waits_and_drops_what_was_not_received,
    unwrapping_refuses_to_drop_what_was_not_received,
    a_forced_close_waits_for_nothing_and_closes_below,
    cancelled_and_dropped_sends_leave_the_records_whole,
    cancelled_and_dropped_receives_lose_nothing,
    the_keys_are_renewed_while_only_one_side_sends,
    the_poll_faces_do_the_same,
    a_file_is_sent_by_reading_it,
);

/// As a stream of a user's own is: no poll faces, its sends and receives are futures that do a little at a time.
pub(super) struct Plain(pub(super) TcpStream);

impl AsyncResource for Plain {
    async fn aclose(&self) -> io::Result<()> {
        self.0.aclose().await
    }
}

impl TypedAttributeProvider for Plain {}

impl ByteReceiveStream for Plain {
    async fn receive(&self) -> io::Result<Option<Chunk>> {
        self.0.receive().await
    }
}

impl ByteSendStream for Plain {
    /// In pieces, and with waits between them.
    async fn send<B: IoBuf>(&self, buf: B) -> Result<B, Failed<B>> {
        let mut done = 0;
        while done < buf.len() {
            yield_now().await;
            let piece = buf.as_slice()[done..].iter().take(1500).copied().collect::<Vec<u8>>();
            match self.0.send(piece).await {
                Ok(piece) => done += piece.len(),
                Err(failed) => return Err(Failed::new(failed.error, buf, done + failed.done)),
            }
        }
        Ok(buf)
    }
}

impl ByteStream for Plain {
    async fn send_eof(&self) -> io::Result<()> {
        self.0.shutdown_write().await
    }
}

pub(super) fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

pub(super) async fn receive_all(stream: &impl ByteReceiveStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.receive().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

pub(super) fn much_crosses_both_ways_at_once_with_back_pressure(cx: Cx) {
    async fn cross(one: &impl ByteStream, other: &impl ByteStream) -> io::Result<()> {
        let data = pattern(3 << 20);
        let late = async {
            turns(20).await; // by now the other side has filled all buffers
            receive_all(other).await
        };
        let there = async {
            one.send(data.clone()).await.map_err(|f| f.error)?;
            one.send_eof().await
        };
        let back = async {
            other.send(data.clone()).await.map_err(|f| f.error)?;
            other.send_eof().await
        };
        let (there, back, ours, theirs) = join!(there, back, receive_all(one), late);
        there.and(back)?;
        assert!(ours? == data && theirs? == data);
        let (one, other) = join!(one.aclose(), other.aclose());
        one.and(other)
    }
    cx.run(async {
        let (ours, theirs) = tls_pair().await?;
        cross(&ours, &theirs).await?;
        let (ours, theirs) = tcp_pair().await?;
        let (ours, theirs) = wrapped(Plain(ours), Plain(theirs)).await?;
        cross(&ours, &theirs).await
    });
}

pub(super) fn the_end_of_tls_is_told_and_half_of_it_is_possible(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tls_pair().await?;
        ours.send("last").await?;
        ours.send_eof().await?;
        ours.send_eof().await?;
        let refused = ours.send("more").await.expect_err("it was ended");
        assert_eq!(refused.error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"last");
        assert!(theirs.receive().await?.is_none());
        assert!(theirs.receive().await?.is_none());
        theirs.send("answer").await?;
        assert_eq!(&ours.receive().await?.expect("bytes")[..], b"answer");
        theirs.aclose().await?;
        assert!(ours.receive().await?.is_none());
        ours.aclose().await?;
        ours.aclose().await?;
        assert!(is::<Closed>(&ours.receive().await.expect_err("closed")));
        Ok::<_, io::Error>(())
    });
}

fn a_connection_that_is_cut_off_is_an_error_only_where_the_end_is_required(cx: Cx) {
    cx.run(async {
        for standard in [true, false] {
            let (ours, theirs) = tcp_pair().await?;
            let ours = TlsStream::client(ours, "localhost").client_config(std::sync::Arc::new(client()));
            let ours = ours.standard_compatible(standard).handshake();
            let theirs = TlsStream::server(theirs, std::sync::Arc::new(server())).handshake();
            let (ours, theirs) = join!(ours, theirs);
            let (ours, theirs) = (ours?, theirs?);
            theirs.send("some").await?;
            // As an attacker would: the end of the connection, without that of TLS.
            theirs.get_ref().shutdown_write().await?;
            assert_eq!(&ours.receive().await?.expect("bytes")[..], b"some");
            if standard {
                assert!(is::<Truncated>(&ours.receive().await.expect_err("cut off")));
                assert!(is::<Truncated>(&ours.receive().await.expect_err("it stays so")));
            } else {
                assert!(ours.receive().await?.is_none());
            }
            ours.aclose().await?;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_record_that_was_changed_ends_the_connection(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tls_pair().await?;
        theirs.send("good").await?;
        // A record that nobody who knows the keys has made.
        theirs.get_ref().send([&[23, 3, 3, 0, 32][..], &[7; 32]].concat()).await?;
        assert_eq!(&ours.receive().await?.expect("bytes")[..], b"good");
        let error = ours.receive().await.expect_err("changed");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(ours.send("x").await.is_err(), "nothing is said to whom it may not concern");
        // The peer is told.
        assert_eq!(theirs.receive().await.expect_err("an alert").kind(), io::ErrorKind::InvalidData);
        ours.aclose().await?;
        theirs.aclose().await
    });
}

fn a_second_sender_or_receiver_is_told_that_it_is_busy(cx: Cx) {
    if !needs(0, 100) {
        return;
    }
    cx.run(async {
        let (ours, theirs) = tls_pair().await?;
        let (first, second, sent) = join!(ours.receive(), ours.receive(), async {
            turns(2).await;
            theirs.send("x").await
        });
        assert_eq!(&first?.expect("bytes")[..], b"x");
        assert!(is::<Busy>(&second.expect_err("busy")));
        sent?;
        let much = pattern(20 << 20);
        let (first, second, all) = join!(
            async {
                ours.send(much).await.map_err(|f| f.error)?;
                ours.send_eof().await
            },
            async {
                turns(2).await;
                ours.send("y").await
            },
            async {
                turns(4).await;
                receive_all(&theirs).await
            },
        );
        first?;
        assert!(is::<Busy>(&second.expect_err("busy").error));
        assert_eq!(all?.len(), 20 << 20);
        Ok::<_, io::Error>(())
    });
}

pub(super) fn closing_tells_who_waits_and_says_goodbye(cx: Cx) {
    cx.run(async {
        let before = open_descriptors();
        let (ours, theirs) = tls_pair().await?;
        let close = async {
            turns(3).await;
            ours.aclose().await
        };
        let peer = async {
            let end = theirs.receive().await;
            theirs.aclose().await.and(end)
        };
        let (received, closed, end) = join!(ours.receive(), close, peer);
        assert!(is::<Closed>(&received.expect_err("closed")));
        closed?;
        assert!(end?.is_none(), "a clean end");
        until(|| open_descriptors() == before).await;
        Ok::<_, io::Error>(())
    });
}

pub(super) fn closing_tells_a_sender_that_waits_and_drops_what_was_not_received(cx: Cx) {
    if !needs(0, 100) {
        return;
    }
    cx.run(async {
        let (ours, theirs) = tls_pair().await?;
        theirs.send("one").await?;
        assert_eq!(&ours.receive().await?.expect("bytes")[..], b"one");
        theirs.send("two").await?;
        let told = Cell::new(false);
        let send = async {
            let failed = ours.send(pattern(20 << 20)).await.expect_err("closed");
            told.set(true);
            failed
        };
        let close = async {
            turns(5).await;
            ours.aclose().await
        };
        let peer = async {
            // Nothing is taken before the sender was told.
            until(|| told.get()).await;
            let all = receive_all(&theirs).await?;
            theirs.aclose().await?;
            Ok::<_, io::Error>(all.len())
        };
        let (failed, closed, count) = join!(send, close, peer);
        assert!(is::<Closed>(&failed.error), "{}", failed.error);
        closed?;
        assert_eq!(count?, failed.done, "so much was said to be sent");
        Ok::<_, io::Error>(())
    });
}

fn unwrapping_refuses_to_drop_what_was_not_received(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tls_pair().await?;
        theirs.send("unread").await?;
        let (ours, theirs) = join!(ours.unwrap(), theirs.unwrap());
        assert_eq!(ours.expect_err("something was not received").kind(), io::ErrorKind::InvalidData);
        assert!(theirs.is_ok());
        Ok::<_, io::Error>(())
    });
}

pub(super) fn a_forced_close_waits_for_nothing_and_closes_below(cx: Cx) {
    cx.run(async {
        let before = open_descriptors();
        for dropped in [false, true] {
            let (ours, theirs) = tls_pair().await?;
            if dropped {
                let mut closing = pin!(ours.aclose());
                assert!(poll!(closing.as_mut()).is_pending(), "the peer says nothing");
            } else {
                aclose_forcefully(&ours).await?;
            }
            until(|| open_descriptors() == before + 1).await;
            drop(theirs);
            drop(ours);
        }
        Ok::<_, io::Error>(())
    });
}

/// Sends numbered lines, many of them given up half-way, and checks that the peer got a prefix of each, in order.
async fn sends_given_up(
    ours: TlsStream<impl ByteStream + 'static>,
    theirs: TlsStream<impl ByteStream + 'static>,
) -> io::Result<()> {
    let reader = spawn(async move {
        turns(10).await;
        receive_all(&theirs).await
    });
    let mut random = Random(0x9e37_79b9);
    let mut expected: Vec<(Vec<u8>, Option<usize>)> = Vec::new();
    for number in 0..60_u8 {
        let data = vec![number; 1 + random.below(300_000)];
        match random.below(3) {
            0 => {
                ours.send(data.clone()).await?;
                expected.push((data, None));
            }
            1 => {
                // Dropped after a few polls.
                let mut send = pin!(ours.send(data.clone()));
                let mut whole = false;
                for _ in 0..random.below(6) {
                    if poll!(send.as_mut()).is_ready() {
                        whole = true;
                        break;
                    }
                    proactor::nop().await?;
                }
                expected.push((data, if whole { None } else { Some(0) }));
            }
            _ => {
                let done = Cell::new(0);
                let outcome = move_on_after(Duration::from_micros(random.below(500) as u64), async {
                    ours.send(data.clone()).await.map(drop).map_err(|failed| {
                        done.set(failed.done);
                        failed.error
                    })
                });
                match outcome.await? {
                    Some(()) => expected.push((data, None)),
                    None => expected.push((data[..done.get()].to_vec(), None)),
                }
            }
        }
    }
    ours.send_eof().await?;
    let all = reader.await??;
    let mut at = 0;
    for (data, at_least) in expected {
        let number = data.first().copied();
        let count = all[at..].iter().take_while(|byte| Some(**byte) == number).count();
        match at_least {
            None => assert_eq!(count, data.len(), "all of it, or as much as was said"),
            Some(least) => assert!((least..=data.len()).contains(&count)),
        }
        at += count;
    }
    assert_eq!(at, all.len(), "nothing else");
    Ok(())
}

pub(super) fn cancelled_and_dropped_sends_leave_the_records_whole(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tls_pair().await?;
        sends_given_up(ours, theirs).await?;
        let (ours, theirs) = tcp_pair().await?;
        let (ours, theirs) = wrapped(Plain(ours), Plain(theirs)).await?;
        sends_given_up(ours, theirs).await
    });
}

fn cancelled_and_dropped_receives_lose_nothing(cx: Cx) {
    async fn check(
        ours: TlsStream<impl ByteStream + 'static>,
        theirs: TlsStream<impl ByteStream + 'static>,
    ) -> io::Result<()> {
        let data = pattern(1 << 20);
        let copy = data.clone();
        let sender = spawn(async move {
            for piece in copy.chunks(7001) {
                ours.send(piece.to_vec()).await?;
            }
            ours.send_eof().await?;
            Ok::<_, io::Error>(ours)
        });
        let (mut all, mut random) = (Vec::new(), Random(77));
        loop {
            let received = if random.below(2) == 0 {
                let mut receive = pin!(theirs.receive());
                match poll!(receive.as_mut()) {
                    std::task::Poll::Ready(received) => Some(received?),
                    std::task::Poll::Pending => None,
                }
            } else {
                move_on_after(Duration::from_micros(random.below(100) as u64), theirs.receive()).await?
            };
            match received {
                Some(Some(chunk)) => all.extend_from_slice(&chunk),
                Some(None) => break,
                None => yield_now().await,
            }
        }
        assert!(all == data);
        drop(sender.await??);
        Ok(())
    }
    cx.run(async {
        let (ours, theirs) = tls_pair().await?;
        check(ours, theirs).await?;
        let (ours, theirs) = tcp_pair().await?;
        let (ours, theirs) = wrapped(Plain(ours), Plain(theirs)).await?;
        check(ours, theirs).await
    });
}

fn the_keys_are_renewed_while_only_one_side_sends(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tls_pair().await?;
        for round in 0..5_u8 {
            ours.renew_keys()?;
            ours.send(vec![round; 100]).await?;
            let mut count = 0;
            while count < 100 {
                let chunk = theirs.receive().await?.expect("bytes");
                assert!(chunk.iter().all(|byte| *byte == round));
                count += chunk.len();
            }
        }
        // The peer was asked to renew its own too; what it sends next says so.
        theirs.send("still understood").await?;
        assert_eq!(&ours.receive().await?.expect("bytes")[..], b"still understood");
        Ok::<_, io::Error>(())
    });
}

fn the_poll_faces_do_the_same(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tls_pair().await?;
        let data = pattern(500_000);
        let faces = ours.poll_faces().expect("it has some");
        assert!(faces.write(data.clone().into())? > 0);
        let all: Rc<RefCell<Vec<u8>>> = Rc::default();
        let receive = async {
            let faces: &dyn PollByteStream = theirs.poll_faces().expect("it has some");
            while all.borrow().len() < data.len() {
                let chunk = std::future::poll_fn(|cx| faces.poll_receive(cx)).await?.expect("bytes");
                all.borrow_mut().extend_from_slice(&chunk);
            }
            Ok::<_, io::Error>(())
        };
        let (flushed, received) = join!(std::future::poll_fn(|cx| faces.poll_flush(cx, 0)), receive);
        flushed.and(received)?;
        assert!(*all.borrow() == data);
        Ok::<_, io::Error>(())
    });
}

pub(super) fn a_file_is_sent_by_reading_it(cx: Cx) {
    cx.run(async {
        let folder = Folder::new();
        let data = pattern(1_000_000);
        std::fs::write(folder.path("file"), &data)?;
        let file = File::open(folder.path("file")).await?;
        let (ours, theirs) = tls_pair().await?;
        let reader = spawn(async move { receive_all(&theirs).await });
        assert_eq!(ours.send_file(&file, 10, Some(100)).await?, 100);
        assert_eq!(ours.send_file(&file, 500_000, None).await?, 500_000);
        assert_eq!(ours.send_file(&file, 2_000_000, None).await?, 0);
        assert_eq!(ours.send_file(&file, 0, Some(0)).await?, 0);
        ours.send_eof().await?;
        let all = reader.await??;
        assert!(all[..100] == data[10..110] && all[100..] == data[500_000..]);
        file.close().await
    });
}
