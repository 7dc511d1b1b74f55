//! Transports over byte streams, and byte streams over transports.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::io::{self, Seek};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::BytesMut;
use proactor::buf::Chunk;
use proactor::net::{UnixStream, pipe};
use proactor::stream::{
    AsyncResource, BufferedByteStream, ByteReceiveStream, ByteSendStream, ByteStream, DynByteStream,
    SocketAttribute, StapledByteStream, TypedAttributeProvider,
};
use proactor::transport::{
    Buffered, BufferedProtocol, Protocol, SendfileOptions, StreamReader, Transport, TransportStream,
    connect_accepted_socket, connect_stream, open_stream,
};
use proactor::{Busy, Closed, spawn};

use crate::harness::{Cx, Folder, both_drivers, tcp_pair, turns, until};

both_drivers!(
    a_transport_works_over_every_kind_of_stream,
    a_slow_peer_of_a_stream_pauses_the_protocol,
    a_buffered_protocol_works_over_a_stream,
    a_stream_that_fails_ends_its_transport,
    a_stream_over_a_transport_keeps_the_promises_of_streams,
    a_close_tells_whoever_waits_at_the_stream,
    a_stream_over_a_transport_waits_for_room,
    a_live_transport_becomes_a_stream,
    a_stream_that_is_dropped_or_closed_sends_first,
    adapters_stand_on_each_other,
    what_is_written_while_a_close_still_sends_goes_out_too,
    a_file_over_a_stream_is_given_up_by_an_abort,
    a_file_over_a_stream_that_is_cancelled_says_what_was_given_to_the_stream,
    a_transport_that_is_over_becomes_a_stream_that_is_over,
    what_came_before_a_reset_is_received_first,
);

const BIG: usize = 2 << 20;

#[derive(Debug, Default)]
struct Notes {
    transport: OnceCell<Transport>,
    data: RefCell<Vec<u8>>,
    calls: RefCell<Vec<&'static str>>,
    failed: Cell<bool>,
}

impl Notes {
    fn call(&self, name: &'static str) {
        self.calls.borrow_mut().push(name);
    }
    async fn over(&self) {
        until(|| self.calls.borrow().contains(&"lost")).await;
        turns(3).await;
        assert_eq!(self.calls.borrow().iter().filter(|call| **call == "lost").count(), 1);
    }
}

impl Protocol for Notes {
    fn connection_made(&self, transport: &Transport) {
        self.transport.set(transport.clone()).expect("made once");
    }
    fn data_received(&self, data: Chunk) {
        self.data.borrow_mut().extend_from_slice(&data);
    }
    fn eof_received(&self) -> bool {
        self.call("eof");
        true
    }
    fn connection_lost(&self, error: Option<io::Error>) {
        self.call("lost");
        self.failed.set(error.is_some());
    }
    fn pause_writing(&self) {
        self.call("pause");
    }
    fn resume_writing(&self) {
        self.call("resume");
    }
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

/// Both ends of connections of several kinds: with poll faces and without.
async fn pairs() -> io::Result<Vec<[Box<dyn DynByteStream>; 2]>> {
    let (a, b) = tcp_pair().await?;
    let (c, d) = UnixStream::pair()?;
    let (e, f) = tcp_pair().await?;
    let (from_g, to_h) = pipe().await?;
    let (from_h, to_g) = pipe().await?;
    Ok(vec![
        [Box::new(a), Box::new(b)],
        [Box::new(BufferedByteStream::new(c)), Box::new(BufferedByteStream::new(d))],
        [Box::new(TransportStream::from(open_stream(e, 1000).await?)), Box::new(f)],
        [Box::new(StapledByteStream::new(to_g, from_g)), Box::new(StapledByteStream::new(to_h, from_h))],
    ])
}

async fn read_to_end(stream: &impl ByteReceiveStream) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    while let Some(chunk) = stream.receive().await? {
        data.extend_from_slice(&chunk);
    }
    Ok(data)
}

fn a_transport_works_over_every_kind_of_stream(cx: Cx) {
    cx.run(async {
        for (index, [ours, theirs]) in pairs().await?.into_iter().enumerate() {
            let (transport, protocol) = connect_stream(Notes::default, ours).await?;
            theirs.send(pattern(BIG)).await?;
            until(|| protocol.data.borrow().len() == BIG).await;
            assert!(*protocol.data.borrow() == pattern(BIG), "pair {index}");
            transport.pause_reading();
            theirs.send("later").await?;
            turns(5).await;
            assert_eq!(protocol.data.borrow().len(), BIG, "pair {index}");
            transport.resume_reading();
            until(|| protocol.data.borrow().len() == BIG + 5).await;
            // Both at once, then the end of one direction.
            let reading = spawn(async move { Ok::<_, io::Error>((read_to_end(&theirs).await?, theirs)) });
            transport.write(pattern(BIG))?;
            transport.write("behind")?;
            transport.write_eof()?;
            assert!(transport.write("more").is_err());
            let (data, theirs) = reading.await??;
            assert!(data.len() == BIG + 6 && data.ends_with(b"behind"), "pair {index}");
            theirs.send("answer").await?;
            until(|| protocol.data.borrow().ends_with(b"answer")).await;
            transport.close();
            protocol.over().await;
            assert!(!protocol.failed.get(), "pair {index}");
            assert!(read_to_end(&theirs).await.is_ok_and(|rest| rest.is_empty()), "pair {index}");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_slow_peer_of_a_stream_pauses_the_protocol(cx: Cx) {
    cx.run(async {
        for [ours, theirs] in pairs().await? {
            let (transport, protocol) = connect_stream(Notes::default, ours).await?;
            transport.set_write_buffer_limits(Some(1000), Some(10))?;
            transport.write(pattern(8 * BIG))?;
            assert_eq!(*protocol.calls.borrow(), ["pause"]);
            turns(5).await;
            assert!(transport.write_buffer_size() > 1000);
            transport.close();
            assert_eq!(read_to_end(&theirs).await?.len(), 8 * BIG);
            protocol.over().await;
            assert_eq!(*protocol.calls.borrow(), ["pause", "resume", "lost"]);
        }
        Ok::<_, io::Error>(())
    });
}

/// Takes seven bytes at a time.
#[derive(Default)]
struct Sevens(RefCell<Vec<u8>>);

impl BufferedProtocol for Sevens {
    fn get_buffer(&self, _: Option<usize>) -> BytesMut {
        BytesMut::with_capacity(7)
    }
    fn buffer_updated(&self, buffer: BytesMut, count: usize) {
        assert!(buffer.len() == count && (1..=7).contains(&count));
        self.0.borrow_mut().extend_from_slice(&buffer);
    }
}

fn a_buffered_protocol_works_over_a_stream(cx: Cx) {
    cx.run(async {
        for [ours, theirs] in pairs().await? {
            let (transport, protocol) = connect_stream(|| Buffered(Sevens::default()), ours).await?;
            theirs.send(pattern(10_000)).await?;
            until(|| protocol.0.0.borrow().len() == 10_000).await;
            // What found no room is given to the next protocol.
            transport.pause_reading();
            let next = Rc::new(Notes::default());
            transport.set_protocol(next.clone());
            theirs.send("for the next").await?;
            transport.resume_reading();
            until(|| next.data.borrow().len() == 12).await;
            assert!(*protocol.0.0.borrow() == pattern(10_000));
            transport.abort();
            next.over().await;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_stream_that_fails_ends_its_transport(cx: Cx) {
    cx.run(async {
        for [ours, theirs] in pairs().await? {
            let (transport, protocol) = connect_stream(Notes::default, ours).await?;
            // It does not read, so only writing tells.
            transport.pause_reading();
            drop(theirs);
            while !transport.is_closing() {
                transport.write(pattern(1 << 16))?;
                turns(1).await;
            }
            protocol.over().await;
            assert!(protocol.failed.get());
        }
        Ok::<_, io::Error>(())
    });
}

async fn over_transport() -> io::Result<(TransportStream, proactor::net::TcpStream)> {
    let (ours, theirs) = tcp_pair().await?;
    Ok((TransportStream::from(open_stream(ours, 1000).await?), theirs))
}

fn is<E: std::error::Error + 'static>(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<E>())
}

fn a_stream_over_a_transport_keeps_the_promises_of_streams(cx: Cx) {
    cx.run(async {
        let (stream, theirs) = over_transport().await?;
        assert!(stream.extra(SocketAttribute::REMOTE_PORT).is_ok());
        theirs.send("one").await?;
        assert_eq!(&stream.receive().await?.expect("bytes")[..], b"one");
        {
            let mut first = pin!(stream.receive());
            assert!(first.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            assert!(is::<Busy>(&stream.receive().await.expect_err("one at a time")));
            // Dropped, it takes nothing away.
        }
        theirs.send("two").await?;
        assert_eq!(&stream.receive().await?.expect("bytes")[..], b"two");
        assert_eq!(stream.send("three").await?, "three");
        stream.send_eof().await?;
        stream.send_eof().await?;
        assert!(stream.send("more").await.is_err());
        assert_eq!(read_to_end(&theirs).await?, b"three");
        theirs.send("four").await?;
        theirs.shutdown_write().await?;
        assert_eq!(read_to_end(&stream).await?, b"four");
        assert!(stream.receive().await?.is_none());
        stream.aclose().await?;
        stream.aclose().await?;
        assert!(is::<Closed>(&stream.receive().await.expect_err("closed")));
        assert!(is::<Closed>(&stream.send("x").await.expect_err("closed").error));
        assert!(is::<Closed>(&stream.send_eof().await.expect_err("closed")));
        Ok::<_, io::Error>(())
    });
}

fn a_close_tells_whoever_waits_at_the_stream(cx: Cx) {
    cx.run(async {
        let (stream, theirs) = over_transport().await?;
        let stream = Rc::new(stream);
        let waiting = stream.clone();
        let receiving = spawn(async move { waiting.receive().await.map(drop) });
        turns(3).await;
        stream.aclose().await?;
        assert!(is::<Closed>(&receiving.await?.expect_err("closed")));
        assert!(read_to_end(&theirs).await?.is_empty());
        Ok::<_, io::Error>(())
    });
}

fn a_stream_over_a_transport_waits_for_room(cx: Cx) {
    cx.run(async {
        let (stream, theirs) = over_transport().await?;
        let stream = Rc::new(stream);
        let sending = {
            let stream = stream.clone();
            spawn(async move { stream.send(pattern(8 * BIG)).await.map(drop) })
        };
        turns(5).await;
        assert!(!sending.is_finished());
        let refused = stream.send("meanwhile").await.expect_err("one at a time");
        assert!(is::<Busy>(&refused.error) && refused.done == 0);
        // Given up, it is sent all the same, and says so.
        sending.cancel("enough");
        let failed = sending.await?.expect_err("cancelled");
        assert_eq!(failed.done, 8 * BIG);
        let reading = spawn(async move { read_to_end(&theirs).await });
        stream.aclose().await?;
        assert!(reading.await?? == pattern(8 * BIG));
        Ok::<_, io::Error>(())
    });
}

fn a_live_transport_becomes_a_stream(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let (transport, protocol) = connect_accepted_socket(Notes::default, ours).await?;
        theirs.send("before").await?;
        until(|| protocol.data.borrow().len() == 6).await;
        transport.set_write_buffer_limits(Some(1000), Some(10))?;
        transport.write(pattern(8 * BIG))?;
        assert_eq!(*protocol.calls.borrow(), ["pause"]);
        let stream = transport.into_stream();
        theirs.send("behind").await?;
        assert_eq!(&stream.receive().await?.expect("bytes")[..], b"behind");
        {
            let mut send = pin!(stream.send("more"));
            assert!(send.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "no room");
        }
        let reading = spawn(async move { read_to_end(&theirs).await });
        stream.aclose().await?;
        assert_eq!(reading.await??.len(), 8 * BIG + 4);
        assert_eq!(*protocol.calls.borrow(), ["pause"], "it is told nothing more");
        Ok::<_, io::Error>(())
    });
}

fn a_stream_that_is_dropped_or_closed_sends_first(cx: Cx) {
    cx.run(async {
        for drops in [true, false] {
            let (stream, theirs) = over_transport().await?;
            stream.transport().write(pattern(8 * BIG))?;
            let reading = spawn(async move { read_to_end(&theirs).await });
            if drops {
                drop(stream);
            } else {
                stream.aclose().await?;
            }
            assert_eq!(reading.await??.len(), 8 * BIG);
        }
        // A close that is cut short does not wait.
        let (stream, theirs) = over_transport().await?;
        stream.transport().write(pattern(8 * BIG))?;
        {
            let mut close = pin!(stream.aclose());
            assert!(close.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        until(|| stream.transport().protocol().is_none()).await;
        let got = read_to_end(&theirs).await;
        assert!(got.is_err() || got.is_ok_and(|got| got.len() < 8 * BIG));
        Ok::<_, io::Error>(())
    });
}

fn adapters_stand_on_each_other(cx: Cx) {
    cx.run(async {
        let (stream, theirs) = over_transport().await?;
        let (upper, _) = connect_stream(Notes::default, stream).await?;
        let stream = upper.into_stream();
        stream.send(pattern(1000)).await?;
        theirs.send("answer").await?;
        assert_eq!(&stream.receive().await?.expect("bytes")[..], b"answer");
        stream.aclose().await?;
        assert!(read_to_end(&theirs).await? == pattern(1000));
        let _: (StreamReader, _) = stream.into_parts();
        Ok::<_, io::Error>(())
    });
}

/// Writes more when it may.
#[derive(Default)]
struct Tail {
    transport: OnceCell<Transport>,
    lost: Cell<bool>,
}

impl Protocol for Tail {
    fn connection_made(&self, transport: &Transport) {
        self.transport.set(transport.clone()).expect("made once");
    }
    fn resume_writing(&self) {
        self.transport.get().expect("made").write("tail").expect("it is not over");
    }
    fn connection_lost(&self, error: Option<io::Error>) {
        self.lost.set(error.is_none());
    }
}

fn what_is_written_while_a_close_still_sends_goes_out_too(cx: Cx) {
    cx.run(async {
        for (index, [ours, theirs]) in pairs().await?.into_iter().enumerate() {
            let (transport, protocol) = connect_stream(Tail::default, ours).await?;
            transport.write(pattern(8 * BIG))?;
            transport.close();
            let data = read_to_end(&theirs).await?;
            assert!(data.len() == 8 * BIG + 4 && data.ends_with(b"tail"), "pair {index}: {}", data.len());
            until(|| protocol.lost.get()).await;
        }
        Ok::<_, io::Error>(())
    });
}

/// A file that no peer takes without reading.
fn big_file(folder: &Folder) -> io::Result<std::fs::File> {
    let path = folder.path("file");
    std::fs::write(&path, pattern(8 * BIG))?;
    std::fs::File::open(path)
}

fn a_file_over_a_stream_is_given_up_by_an_abort(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let file = big_file(&folder)?;
        for [ours, theirs] in pairs().await? {
            let (transport, protocol) = connect_stream(Notes::default, ours).await?;
            let sending = spawn(transport.sendfile(&file, SendfileOptions::default()));
            turns(5).await;
            transport.abort();
            protocol.over().await;
            let failed = sending.await?.expect_err("it was aborted");
            assert!(failed.done < 8 * BIG);
            let got = read_to_end(&theirs).await;
            assert!(got.is_err() || got.is_ok_and(|got| got.len() < 8 * BIG), "nothing holds it open");
        }
        Ok::<_, io::Error>(())
    });
}

fn a_file_over_a_stream_that_is_cancelled_says_what_was_given_to_the_stream(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let mut file = big_file(&folder)?;
        for [ours, theirs] in pairs().await? {
            let (transport, protocol) = connect_stream(Notes::default, ours).await?;
            let sending = spawn(transport.sendfile(&file, SendfileOptions::default()));
            let first = theirs.receive().await?.expect("bytes").len();
            turns(5).await;
            sending.cancel("enough");
            let failed = sending.await?.expect_err("it was cancelled");
            assert!(failed.done < 8 * BIG);
            assert_eq!(file.stream_position()?, failed.done as u64);
            transport.close();
            assert_eq!(first + read_to_end(&theirs).await?.len(), failed.done);
            protocol.over().await;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_transport_that_is_over_becomes_a_stream_that_is_over(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let (transport, protocol) = connect_accepted_socket(Notes::default, ours).await?;
        transport.close();
        protocol.over().await;
        let stream = transport.into_stream();
        assert!(stream.receive().await?.is_none());
        assert_eq!(stream.send("x").await.expect_err("it is over").error.kind(), io::ErrorKind::BrokenPipe);
        stream.aclose().await?;
        drop(theirs);
        Ok::<_, io::Error>(())
    });
}

fn what_came_before_a_reset_is_received_first(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let (reader, writer) = open_stream(ours, 1000).await?;
        theirs.send("hello").await?;
        until(|| format!("{reader:?}").contains("buffered: 5")).await;
        theirs.with_socket(|socket| socket.set_linger(Some(std::time::Duration::ZERO)))?;
        drop(theirs);
        until(|| writer.transport().protocol().is_none()).await;
        let stream = TransportStream::new(reader, writer);
        assert_eq!(&stream.receive().await?.expect("bytes")[..], b"hello");
        let error = stream.receive().await.expect_err("and then that it was reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        Ok::<_, io::Error>(())
    });
}
