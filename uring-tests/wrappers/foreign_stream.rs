//! Streams of others as byte streams of ours.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use proactor::buf::Chunk;
use proactor::cancel::CancelScope;
use proactor::compat::{ForeignIo, ForeignStream};
use proactor::stream::tls::TlsStream;
use proactor::stream::{AsyncResource, ByteReceiveStream, ByteSendStream, ByteStream, aclose_forcefully};
use proactor::transport::{Protocol, connect_stream};
use proactor::{Busy, Closed, MayBeCancelled, spawn};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

use crate::harness::{Cx, both_drivers, tcp_pair, turns, until};
use crate::wrappers::tls::{client, server};

both_drivers!(
    much_goes_through_streams_of_both_libraries,
    the_end_is_sent_once_and_receiving_goes_on,
    a_receive_that_is_dropped_or_cancelled_loses_nothing,
    a_receive_in_a_set_of_futures_hears_of_a_cancel,
    a_send_that_is_cancelled_says_how_much_was_taken,
    a_second_task_is_told_that_it_is_busy,
    a_close_tells_whoever_waits_and_drops_the_stream,
    a_close_without_waiting_drops_the_stream,
    a_stream_comes_back_as_it_was,
    a_stream_that_is_always_ready_starves_nobody,
    an_end_is_told_once_and_nothing_is_asked_for_behind_it,
    a_stream_that_is_closed_while_it_is_asked_is_dropped,
    a_transport_stands_on_a_foreign_stream,
    tls_goes_over_a_foreign_stream,
);

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

fn duplex(room: usize) -> (ForeignStream<DuplexStream>, ForeignStream<DuplexStream>) {
    let (left, right) = tokio::io::duplex(room);
    (ForeignStream::from_tokio(left), ForeignStream::from_tokio(right))
}

fn is<E: std::error::Error + 'static>(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<E>())
}

async fn read_to_end(stream: &impl ByteReceiveStream) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    while let Some(chunk) = stream.receive().await? {
        assert!(!chunk.is_empty());
        data.extend_from_slice(&chunk);
    }
    Ok(data)
}

async fn echoes(ours: impl ByteStream + 'static, theirs: impl ByteStream + 'static) -> io::Result<()> {
    let data = pattern(3 << 20);
    let echo = spawn(async move {
        while let Some(chunk) = theirs.receive().await? {
            theirs.send(chunk).await?;
        }
        theirs.send_eof().await
    });
    let ours = Rc::new(ours);
    let (sender, copy) = (ours.clone(), data.clone());
    let sending = spawn(async move {
        for part in copy.chunks(100_000) {
            sender.send(part.to_vec()).await?;
        }
        sender.send_eof().await
    });
    assert!(read_to_end(&*ours).await? == data);
    sending.await??;
    echo.await?
}

fn much_goes_through_streams_of_both_libraries(cx: Cx) {
    cx.run(async {
        let (left, right) = duplex(1000);
        echoes(left, right).await?;
        // Ours as theirs, and that as ours again.
        let (ours, theirs) = tcp_pair().await?;
        let (ours, theirs) = (ForeignIo::new(ours)?, ForeignIo::new(theirs)?);
        echoes(ForeignStream::from_futures(ours), ForeignStream::from_tokio(theirs)).await
    });
}

fn the_end_is_sent_once_and_receiving_goes_on(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = duplex(1000);
        ours.send("last").await?;
        ours.send_eof().await?;
        ours.send_eof().await?;
        let refused = ours.send("more").await.expect_err("it was ended");
        assert_eq!(refused.error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(read_to_end(&theirs).await?, b"last");
        assert!(theirs.receive().await?.is_none(), "it stays so");
        theirs.send("answer").await?;
        assert_eq!(&ours.receive().await?.expect("bytes")[..], b"answer");
        Ok::<_, io::Error>(())
    });
}

fn a_receive_that_is_dropped_or_cancelled_loses_nothing(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = duplex(1000);
        for _ in 0..10 {
            let mut receive = pin!(ours.receive());
            assert!(receive.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        theirs.send("one").await?;
        {
            // Dropped when the bytes are there already.
            let _never_polled = ours.receive();
        }
        let scope = CancelScope::new();
        scope.cancel();
        let told = scope.run(async {
            let error = ours.receive().await.expect_err("it is cancelled");
            assert!(error.is_cancelled());
            Err::<(), _>(error)
        });
        assert!(told.await?.is_none());
        assert_eq!(&ours.receive().await?.expect("bytes")[..], b"one");
        // Cancelled while it waits.
        let scope = CancelScope::new();
        let handle = scope.clone();
        let cancel = spawn(async move {
            turns(3).await;
            handle.cancel();
        });
        assert!(scope.run(ours.receive()).await?.is_none());
        cancel.await?;
        theirs.send("two").await?;
        assert_eq!(&ours.receive().await?.expect("bytes")[..], b"two");
        Ok::<_, io::Error>(())
    });
}

fn a_receive_in_a_set_of_futures_hears_of_a_cancel(cx: Cx) {
    cx.run(async {
        let (ours, _theirs) = duplex(1000);
        let task = spawn(async move {
            let mut set: FuturesUnordered<_> = [&ours].into_iter().map(|ours| ours.receive()).collect();
            let told = set.next().await.expect("one").map(drop);
            assert!(told.as_ref().is_err_and(MayBeCancelled::is_cancelled));
            told
        });
        turns(3).await;
        task.cancel("enough");
        assert!(task.await?.is_err());
        Ok::<_, io::Error>(())
    });
}

fn a_send_that_is_cancelled_says_how_much_was_taken(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = tokio::io::duplex(100);
        let ours = ForeignStream::from_tokio(ours);
        let task = spawn(async move {
            let failed = ours.send(pattern(1000)).await.expect_err("there is no room");
            assert!(failed.error.is_cancelled());
            Ok::<_, io::Error>((failed.done, failed.buf.len(), ours))
        });
        turns(3).await;
        task.cancel("enough");
        let (done, len, ours) = task.await??;
        assert_eq!((done, len), (100, 1000));
        let mut taken = vec![0; 100];
        theirs.read_exact(&mut taken).await?;
        assert!(taken == pattern(100));
        ours.send("goes on").await?;
        drop(ours);
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).await?;
        assert_eq!(rest, b"goes on");
        Ok::<_, io::Error>(())
    });
}

fn a_second_task_is_told_that_it_is_busy(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = duplex(10);
        let mut receive = pin!(ours.receive());
        let mut send = pin!(ours.send(pattern(20)));
        let mut noop = Context::from_waker(Waker::noop());
        assert!(receive.as_mut().poll(&mut noop).is_pending());
        assert!(send.as_mut().poll(&mut noop).is_pending());
        assert!(is::<Busy>(&ours.receive().await.expect_err("one at a time")));
        assert!(is::<Busy>(&ours.send("x").await.expect_err("one at a time").error));
        assert!(is::<Busy>(&ours.send_eof().await.expect_err("one at a time")));
        assert_eq!(theirs.receive().await?.expect("bytes").len(), 10);
        theirs.send("both ways").await?;
        assert_eq!(&receive.await?.expect("bytes")[..], b"both ways");
        send.await?;
        Ok::<_, io::Error>(())
    });
}

fn a_close_tells_whoever_waits_and_drops_the_stream(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = duplex(10);
        let ours = Rc::new(ours);
        let (receiver, sender) = (ours.clone(), ours.clone());
        let receiving = spawn(async move { receiver.receive().await.map(drop) });
        let sending = spawn(async move { sender.send(pattern(20)).await.map(drop) });
        turns(3).await;
        ours.aclose().await?;
        ours.aclose().await?;
        assert!(is::<Closed>(&receiving.await?.expect_err("closed")));
        let failed = sending.await?.expect_err("closed");
        assert!(is::<Closed>(&failed.error) && failed.done == 10);
        assert!(is::<Closed>(&ours.receive().await.expect_err("closed")));
        assert!(is::<Closed>(&ours.send("x").await.expect_err("closed").error));
        assert!(is::<Closed>(&ours.send_eof().await.expect_err("closed")));
        assert_eq!(read_to_end(&theirs).await?.len(), 10);
        assert!(theirs.send("nobody is there").await.is_err(), "it was dropped");
        Ok::<_, io::Error>(())
    });
}

fn a_close_without_waiting_drops_the_stream(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = duplex(10);
        aclose_forcefully(&ours).await?;
        assert!(read_to_end(&theirs).await?.is_empty());
        assert!(theirs.send("nobody is there").await.is_err());
        assert!(ours.into_inner().is_none());
        Ok::<_, io::Error>(())
    });
}

fn a_stream_comes_back_as_it_was(cx: Cx) {
    cx.run(async {
        let (ours, mut theirs) = tokio::io::duplex(10);
        let ours = ForeignStream::from_tokio(ours);
        theirs.write_all(b"unread").await?;
        let mut back = ours.into_inner().expect("it is open");
        drop(theirs);
        let mut rest = String::new();
        back.read_to_string(&mut rest).await?;
        assert_eq!(rest, "unread");
        Ok::<_, io::Error>(())
    });
}

fn a_stream_that_is_always_ready_starves_nobody(cx: Cx) {
    cx.run(async {
        let zeros = tokio::io::join(tokio::io::repeat(0), tokio::io::sink());
        let zeros = ForeignStream::from_tokio(zeros);
        let (enough, other) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let (stop, count) = (enough.clone(), other.clone());
        let reader = spawn(async move {
            while !stop.get() {
                zeros.receive().await?;
                zeros.send("x").await?;
            }
            Ok::<_, io::Error>(())
        });
        until(|| {
            count.set(count.get() + 1);
            count.get() == 10
        })
        .await;
        enough.set(true);
        reader.await?
    });
}

/// A stream that is at its end, and panics when it is asked for more than it may be.
#[derive(Default)]
struct Touchy {
    was_read: bool,
    ends: Rc<Cell<u32>>,
    when_read: Option<Box<dyn FnOnce()>>,
}

impl AsyncRead for Touchy {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        assert!(!std::mem::replace(&mut self.was_read, true), "it has ended");
        if let Some(when_read) = self.when_read.take() {
            when_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Touchy {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        assert_eq!(self.ends.get(), 0, "its end was told");
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ends.set(self.ends.get() + 1);
        Poll::Ready(Ok(()))
    }
}

fn an_end_is_told_once_and_nothing_is_asked_for_behind_it(cx: Cx) {
    cx.run(async {
        for by_eof in [true, false] {
            let touchy = Touchy::default();
            let ends = touchy.ends.clone();
            let stream = ForeignStream::from_tokio(touchy);
            for _ in 0..2 {
                assert!(stream.receive().await?.is_none());
            }
            stream.send("last").await?;
            if by_eof {
                stream.send_eof().await?;
                stream.send_eof().await?;
                let refused = stream.send("more").await.expect_err("it was ended");
                assert_eq!(refused.error.kind(), io::ErrorKind::BrokenPipe);
            }
            stream.aclose().await?;
            assert_eq!(ends.get(), 1, "{by_eof}");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_stream_that_is_closed_while_it_is_asked_is_dropped(cx: Cx) {
    cx.run(async {
        let (ends, own) = (Rc::default(), Rc::new(RefCell::new(None::<Rc<ForeignStream<Touchy>>>)));
        let handle = own.clone();
        let close = move || {
            let stream = handle.take().expect("it is there");
            let _ = pin!(stream.aclose()).poll(&mut Context::from_waker(Waker::noop()));
        };
        let touchy = Touchy { ends: Rc::clone(&ends), when_read: Some(Box::new(close)), was_read: false };
        let stream = Rc::new(ForeignStream::from_tokio(touchy));
        own.replace(Some(stream.clone()));
        let _ = stream.receive().await;
        assert_eq!(Rc::strong_count(&ends), 1, "it is still there");
        Ok::<_, io::Error>(())
    });
}

#[derive(Default)]
struct Collect {
    data: RefCell<Vec<u8>>,
    lost: Cell<bool>,
}

impl Protocol for Collect {
    fn data_received(&self, data: Chunk) {
        self.data.borrow_mut().extend_from_slice(&data);
    }
    fn connection_lost(&self, error: Option<io::Error>) {
        self.lost.set(error.is_none());
    }
}

fn a_transport_stands_on_a_foreign_stream(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = duplex(1000);
        let (transport, protocol) = connect_stream(Collect::default, ours).await?;
        transport.write(pattern(1 << 20))?;
        transport.close();
        assert!(read_to_end(&theirs).await? == pattern(1 << 20));
        until(|| protocol.lost.get()).await;
        let (ours, theirs) = duplex(1000);
        let (_, protocol) = connect_stream(Collect::default, ours).await?;
        theirs.send(pattern(1 << 20)).await?;
        theirs.aclose().await?;
        until(|| protocol.lost.get()).await;
        assert!(*protocol.data.borrow() == pattern(1 << 20));
        Ok::<_, io::Error>(())
    });
}

fn tls_goes_over_a_foreign_stream(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = duplex(1000);
        let ours = TlsStream::client(ours, "localhost").client_config(Arc::new(client())).handshake();
        let theirs = TlsStream::server(theirs, Arc::new(server())).handshake();
        let (ours, theirs) = futures_util::join!(ours, theirs);
        let ours = ours.map_err(io::Error::from)?;
        let theirs = theirs.map_err(io::Error::from)?;
        let reading = spawn(async move {
            let data = read_to_end(&theirs).await?;
            theirs.aclose().await?;
            Ok::<_, io::Error>(data)
        });
        ours.send(pattern(1 << 20)).await?;
        ours.aclose().await?;
        assert!(reading.await?? == pattern(1 << 20));
        Ok::<_, io::Error>(())
    });
}
