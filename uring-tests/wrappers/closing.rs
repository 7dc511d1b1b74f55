//! Closing what others hold: twice is fine, who waits is told, what was written goes out, nothing is left open.

use std::io;
use std::pin::pin;
use std::rc::Rc;

use futures_util::{join, poll};
use proactor::net::{TcpListener, TcpStream};
use proactor::stream::{
    AsyncResource, UnreliableObjectReceiveStream, aclose_forcefully, memory_object_stream,
};
use proactor::{Closed, metrics, spawn, yield_now};

use crate::harness::{Cx, both_drivers, open_descriptors, tcp_pair, turns, until};
use crate::wrappers::is;

both_drivers!(
    closing_twice_is_fine_and_closes_the_descriptor,
    closing_sends_what_was_written,
    closing_tells_who_receives,
    closing_tells_who_receives_into_a_buffer,
    closing_ends_when_another_task_receives_into_a_buffer,
    closing_tells_senders_that_queue_and_lets_the_first_one_end,
    a_forced_close_waits_for_nothing,
    a_close_that_is_dropped_closes_all_the_same,
    a_half_that_is_closed_leaves_the_other_open,
    closing_a_listener_tells_who_accepts,
    closing_a_memory_stream_tells_who_receives,
);

/// More than two sockets buffer.
const MUCH: usize = 64 << 20;

fn closing_twice_is_fine_and_closes_the_descriptor(cx: Cx) {
    cx.run(async {
        let before = open_descriptors();
        let (ours, theirs) = tcp_pair().await?;
        assert!(open_descriptors() >= before + 2);
        ours.aclose().await?;
        ours.aclose().await?;
        assert!(theirs.receive().await?.is_none());
        assert!(is::<Closed>(&ours.receive().await.expect_err("closed")));
        assert!(is::<Closed>(&ours.send("x").await.expect_err("closed").error));
        assert!(is::<Closed>(&ours.write("x").expect_err("closed")));
        theirs.aclose().await?;
        assert_eq!(open_descriptors(), before, "while both are held");
        drop((ours, theirs));
        Ok::<_, io::Error>(())
    });
}

fn closing_sends_what_was_written(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        ours.write(vec![1; MUCH])?;
        let reader = spawn(async move {
            let mut count = 0;
            while let Some(chunk) = theirs.receive().await? {
                count += chunk.len();
            }
            Ok::<_, io::Error>(count)
        });
        ours.aclose().await?;
        assert_eq!(reader.await??, MUCH);
        Ok::<_, io::Error>(())
    });
}

fn closing_tells_who_receives(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let close = async {
            turns(3).await;
            ours.aclose().await
        };
        let (received, closed) = join!(ours.receive(), close);
        assert!(is::<Closed>(&received.expect_err("closed")));
        closed?;
        drop(theirs);
        Ok::<_, io::Error>(())
    });
}

fn closing_tells_who_receives_into_a_buffer(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let close = async {
            turns(3).await;
            ours.aclose().await
        };
        let (received, closed) = join!(ours.receive_into(vec![0; 100]), close);
        let failed = received.expect_err("closed");
        assert!(is::<Closed>(&failed.error), "{}", failed.error);
        closed?;
        drop(theirs);
        Ok::<_, io::Error>(())
    });
}

fn closing_ends_when_another_task_receives_into_a_buffer(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let ours = Rc::new(ours);
        let receiver = ours.clone();
        let receiving = spawn(async move { receiver.receive_into(vec![0; 100]).await.map(drop) });
        turns(3).await;
        ours.aclose().await?;
        let failed = receiving.await?.expect_err("closed");
        assert!(is::<Closed>(&failed.error), "{}", failed.error);
        drop(theirs);
        Ok::<_, io::Error>(())
    });
}

fn closing_tells_senders_that_queue_and_lets_the_first_one_end(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let reader = async {
            turns(5).await;
            let mut count = 0;
            while let Some(chunk) = theirs.receive().await? {
                count += chunk.len();
            }
            Ok::<_, io::Error>(count)
        };
        let close = async {
            turns(2).await;
            ours.aclose().await
        };
        let (first, second, closed, count) =
            join!(ours.send(vec![1; MUCH]), ours.send("later"), close, reader);
        assert_eq!(first?.len(), MUCH);
        assert!(is::<Closed>(&second.expect_err("closed").error));
        closed?;
        assert_eq!(count?, MUCH);
        Ok::<_, io::Error>(())
    });
}

fn a_forced_close_waits_for_nothing(cx: Cx) {
    cx.run(async {
        let before = open_descriptors();
        let (ours, theirs) = tcp_pair().await?;
        let close = async {
            turns(3).await;
            let mut closing = pin!(aclose_forcefully(&ours));
            for _ in 0..3 {
                if let std::task::Poll::Ready(closed) = poll!(closing.as_mut()) {
                    return closed;
                }
                yield_now().await;
            }
            panic!("it waits");
        };
        let (sent, received, closed) = join!(ours.send(vec![1; MUCH]), ours.receive(), close);
        let failed = sent.expect_err("closed");
        assert!(is::<Closed>(&failed.error), "{}", failed.error);
        assert!(failed.done < MUCH);
        assert!(is::<Closed>(&received.expect_err("closed")));
        closed?;
        until(|| open_descriptors() == before + 1).await;
        drop((ours, theirs));
        Ok::<_, io::Error>(())
    });
}

fn a_close_that_is_dropped_closes_all_the_same(cx: Cx) {
    cx.run(async {
        let before = open_descriptors();
        let (ours, theirs) = tcp_pair().await?;
        ours.write(vec![1; MUCH])?;
        {
            let mut closing = pin!(ours.aclose());
            assert!(poll!(closing.as_mut()).is_pending(), "nobody takes so much");
            turns(3).await;
            assert!(poll!(closing.as_mut()).is_pending());
        }
        until(|| open_descriptors() == before + 1).await;
        assert_eq!(metrics().in_flight, 0);
        drop((ours, theirs));
        Ok::<_, io::Error>(())
    });
}

fn a_half_that_is_closed_leaves_the_other_open(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let (receive, send) = ours.split();
        let close = async {
            turns(3).await;
            receive.aclose().await
        };
        let (received, closed) = join!(receive.receive(), close);
        assert!(is::<Closed>(&received.expect_err("closed")));
        closed?;
        send.send("still").await?;
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"still");
        theirs.send("nobody takes this").await?;
        send.aclose().await?;
        send.aclose().await?;
        assert!(theirs.receive().await?.is_none());
        drop((receive, send));
        Ok::<_, io::Error>(())
    });
}

fn closing_a_listener_tells_who_accepts(cx: Cx) {
    cx.run(async {
        let before = open_descriptors();
        for forced in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let close = async {
                turns(3).await;
                if forced { aclose_forcefully(&listener).await } else { listener.aclose().await }
            };
            let (first, second, closed) = join!(listener.accept(), listener.accept(), close);
            assert!(is::<Closed>(&first.expect_err("closed")));
            assert!(is::<Closed>(&second.expect_err("closed")));
            closed?;
            listener.aclose().await?;
            until(|| open_descriptors() == before).await;
            assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
            drop(listener);
        }
        Ok::<_, io::Error>(())
    });
}

fn closing_a_memory_stream_tells_who_receives(cx: Cx) {
    cx.run(async {
        let (sender, receiver) = memory_object_stream::<u8>(0);
        let close = async {
            yield_now().await;
            receiver.aclose().await
        };
        let (received, closed) = join!(UnreliableObjectReceiveStream::receive(&receiver), close);
        assert!(is::<Closed>(&received.expect_err("closed")));
        closed?;
        drop(sender);
        Ok::<_, io::Error>(())
    });
}
