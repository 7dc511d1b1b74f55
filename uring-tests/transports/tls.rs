//! TLS on transports: from the beginning and from the middle of a connection on, back-pressure, files.

use std::cell::{Cell, OnceCell, RefCell};
use std::io::{self, Seek};
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use proactor::buf::Chunk;
use proactor::net::TcpStream;
use proactor::stream::tls::{TlsAttribute, TlsStream};
use proactor::stream::{
    AsyncResource, ByteReceiveStream, ByteSendStream, SocketAttribute, TypedAttributeProvider,
};
use proactor::transport::{
    Buffered, BufferedProtocol, Protocol, SendfileOptions, Server, StreamReader, StreamWriter, Tls,
    Transport, connect_accepted_socket, connect_accepted_tls, create_connection, create_server,
    create_unix_connection, create_unix_server, open_connection, open_stream, open_unix_connection,
    start_server, start_unix_server,
};
use proactor::{Busy, MayBeCancelled, SendfileNotAvailable, spawn};

use crate::harness::{Cx, Folder, both_drivers, tcp_pair, turns, until};
use crate::wrappers::tls::kernel::{once_more, streams_of_the_kernel};
use crate::wrappers::tls::{client, is_by_kernel, server};

both_drivers!(
    both_sides_speak_tls_from_the_beginning,
    streams_speak_tls_over_tcp_and_unix,
    an_accepted_connection_speaks_tls,
    it_is_said_whether_the_kernel_sends,
    live_transports_go_on_with_tls,
    live_streams_go_on_with_tls_however_quick_the_peer_is,
    what_is_sent_in_plain_behind_the_last_plain_word_is_not_believed,
    tls_inside_of_tls_works,
    a_slow_peer_makes_the_protocol_pause_and_resume,
    nothing_is_given_while_reading_is_paused,
    a_buffered_protocol_is_given_all_in_its_own_pieces,
    starting_tls_is_refused_where_it_cannot_be,
    a_start_that_is_dropped_or_closed_under_ends_the_connection,
    a_file_is_read_and_written_where_tls_is,
);

pub(super) const BIG: usize = 4 << 20;

once_more!(tls {
    streams_speak_tls_over_tcp_and_unix,
    live_transports_go_on_with_tls,
    live_streams_go_on_with_tls_however_quick_the_peer_is,
    tls_inside_of_tls_works,
    a_slow_peer_makes_the_protocol_pause_and_resume,
    a_file_is_read_and_written_where_tls_is,
});

pub(super) fn to_server() -> Tls {
    Tls::client("localhost").client_config(Arc::new(client())).kernel_send(is_by_kernel())
}

pub(super) fn of_server() -> Tls {
    Tls::server(Arc::new(server())).kernel_send(is_by_kernel())
}

/// Notes what it is told.
#[derive(Debug, Default)]
pub(super) struct Notes {
    transport: OnceCell<Transport>,
    pub(super) data: RefCell<Vec<u8>>,
    pub(super) calls: RefCell<Vec<&'static str>>,
    pub(super) lost: Cell<u32>,
    pub(super) error: RefCell<Option<io::Error>>,
}

impl Protocol for Notes {
    fn connection_made(&self, transport: &Transport) {
        self.transport.set(transport.clone()).expect("made once");
    }
    fn data_received(&self, data: Chunk) {
        self.data.borrow_mut().extend_from_slice(&data);
    }
    fn eof_received(&self) -> bool {
        self.calls.borrow_mut().push("eof");
        true // of no effect over TLS
    }
    fn connection_lost(&self, error: Option<io::Error>) {
        self.calls.borrow_mut().push("lost");
        self.lost.set(self.lost.get() + 1);
        self.error.replace(error);
    }
    fn pause_writing(&self) {
        self.calls.borrow_mut().push("pause");
    }
    fn resume_writing(&self) {
        self.calls.borrow_mut().push("resume");
    }
}

impl Notes {
    pub(super) async fn over(&self) {
        until(|| self.lost.get() > 0).await;
        turns(3).await;
        assert_eq!(self.lost.get(), 1, "exactly once");
    }

    async fn has(&self, count: usize) {
        until(|| self.data.borrow().len() >= count).await;
    }
}

pub(super) fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

pub(super) fn first(server: &Server) -> std::net::SocketAddr {
    server.sockets()[0].as_ip().expect("a server on TCP")
}

/// A transport, and a TLS stream at the other end, where it is the client.
pub(super) async fn with_stream() -> io::Result<(Transport, Rc<Notes>, TlsStream<TcpStream>)> {
    with_stream_and(of_server()).await
}

pub(super) async fn with_stream_and(tls: Tls) -> io::Result<(Transport, Rc<Notes>, TlsStream<TcpStream>)> {
    let (ours, theirs) = tcp_pair().await?;
    let theirs = TlsStream::client(theirs, "localhost").client_config(Arc::new(client())).handshake();
    let ours = connect_accepted_tls(Notes::default, ours, tls);
    let (ours, theirs) = futures_util::join!(ours, theirs);
    let (transport, protocol) = ours?;
    Ok((transport, protocol, theirs.map_err(io::Error::from)?))
}

/// Two live transports.
pub(super) async fn plain() -> io::Result<((Transport, Rc<Notes>), (Transport, Rc<Notes>))> {
    let (ours, theirs) = tcp_pair().await?;
    let ours = connect_accepted_socket(Notes::default, ours).await?;
    Ok((ours, connect_accepted_socket(Notes::default, theirs).await?))
}

pub(super) async fn close(server: Server) -> io::Result<()> {
    server.close();
    server.wait_closed().await
}

fn both_sides_speak_tls_from_the_beginning(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let mut config = server();
        config.alpn_protocols = vec![b"echo/1".to_vec()];
        let accepted = Rc::new(RefCell::new(Vec::<Rc<Notes>>::new()));
        struct Accepted(Rc<Notes>);
        impl Protocol for Accepted {
            fn connection_made(&self, transport: &Transport) {
                self.0.connection_made(transport);
            }
            fn data_received(&self, data: Chunk) {
                self.0.transport.get().expect("made").write(data.to_vec()).expect("it is open");
                self.0.data_received(data);
            }
            fn eof_received(&self) -> bool {
                self.0.eof_received()
            }
            fn connection_lost(&self, error: Option<io::Error>) {
                self.0.connection_lost(error);
            }
        }
        let all = accepted.clone();
        let make = move || {
            let notes = Rc::new(Notes::default());
            all.borrow_mut().push(notes.clone());
            Accepted(notes)
        };
        let tls = Tls::server(Arc::new(config));
        let tcp = create_server(make.clone(), "127.0.0.1:0").tls(tls.clone()).await?;
        let unix = create_unix_server(make, folder.path("socket")).tls(tls).await?;
        let mut config = client();
        config.alpn_protocols = vec![b"other".to_vec(), b"echo/1".to_vec()];
        let tls = Tls::client("localhost").client_config(Arc::new(config));
        let connections = [
            create_connection(Notes::default, first(&tcp)).tls(tls.clone()).await?,
            create_unix_connection(Notes::default, folder.path("socket")).tls(tls).await?,
        ];
        for (index, (transport, protocol)) in connections.into_iter().enumerate() {
            let data = pattern(1 << 20);
            transport.writelines(data.chunks(100_000).map(<[u8]>::to_vec))?;
            protocol.has(data.len()).await;
            assert!(*protocol.data.borrow() == data, "the data are the same");
            assert!(transport.extra(TlsAttribute::CIPHER).is_ok());
            assert_eq!(transport.extra(TlsAttribute::ALPN_PROTOCOL)?, b"echo/1");
            assert!(!transport.extra(TlsAttribute::PEER_CERTIFICATE)?.is_empty());
            assert!(!transport.extra(TlsAttribute::SERVER_SIDE)?);
            assert_eq!(transport.extra(SocketAttribute::REMOTE_PORT).is_ok(), index == 0);
            assert_eq!(transport.peername().and_then(|name| name.as_ip()).is_some(), index == 0);
            assert!(!transport.can_write_eof());
            assert_eq!(transport.write_eof().expect_err("no").kind(), io::ErrorKind::Unsupported);
            if index == 0 {
                assert!(transport.with_socket(|socket| socket.tcp_nodelay())?);
            }
            let theirs = accepted.borrow()[index].clone();
            let their_transport = theirs.transport.get().expect("made").clone();
            assert_eq!(their_transport.extra(TlsAttribute::SERVER_NAME)?, "localhost");
            transport.close();
            assert!(transport.is_closing());
            protocol.over().await;
            theirs.over().await;
            assert!(protocol.error.borrow().is_none() && theirs.error.borrow().is_none());
            assert!(theirs.calls.borrow().ends_with(&["eof", "lost"]));
            assert!(!protocol.calls.borrow().contains(&"eof"));
            assert!(transport.extra(TlsAttribute::CIPHER).is_err(), "it is over");
        }
        accepted.borrow_mut().clear();
        close(tcp).await?;
        close(unix).await
    });
}

async fn echo(reader: StreamReader, writer: StreamWriter) -> io::Result<()> {
    while let line @ [_, ..] = &reader.readline().await?[..] {
        writer.write(line.to_vec())?;
        writer.drain().await?;
    }
    Ok(())
}

pub(super) fn streams_speak_tls_over_tcp_and_unix(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let tcp = start_server(echo, "127.0.0.1:0").tls(of_server()).await?;
        let unix = start_unix_server(echo, folder.path("socket")).tls(of_server()).await?;
        let connections = [
            open_connection(first(&tcp)).tls(to_server()).await?,
            open_unix_connection(folder.path("socket")).tls(to_server()).limit(100).await?,
        ];
        for (reader, writer) in connections {
            writer.writelines(["one\n", "two\n"])?;
            assert_eq!(&reader.readline().await?[..], b"one\n");
            assert_eq!(&reader.readline().await?[..], b"two\n");
            assert!(!writer.can_write_eof());
            writer.close();
            writer.wait_closed().await?;
            assert!(reader.read(1).await?.is_empty());
        }
        close(tcp).await?;
        close(unix).await
    });
}

fn an_accepted_connection_speaks_tls(cx: Cx) {
    cx.run(async {
        let (transport, protocol, theirs) = with_stream().await?;
        transport.write("hello")?;
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"hello");
        theirs.send("goodbye").await?;
        protocol.has(7).await;
        theirs.aclose().await?;
        protocol.over().await;
        assert!(protocol.error.borrow().is_none());
        Ok::<_, io::Error>(())
    });
}

fn it_is_said_whether_the_kernel_sends(cx: Cx) {
    cx.run(async {
        for on in [false, true] {
            let (transport, protocol, theirs) = with_stream_and(of_server().kernel_send(on)).await?;
            let can = on && streams_of_the_kernel().is_some();
            assert_eq!(transport.extra(TlsAttribute::KERNEL_SEND), Ok(can));
            transport.write("hello")?;
            assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"hello");
            theirs.aclose().await?;
            protocol.over().await;
            assert!(protocol.error.borrow().is_none());
        }
        Ok::<_, io::Error>(())
    });
}

pub(super) fn live_transports_go_on_with_tls(cx: Cx) {
    cx.run(async {
        let ((a, a_notes), (b, b_notes)) = plain().await?;
        a.write("starttls")?;
        b_notes.has(8).await;
        b.write("go on")?;
        a_notes.has(5).await;
        // What is written before is sent in plain, before TLS.
        b.write(pattern(BIG))?;
        a_notes.has(5 + BIG).await;
        let (one, two) = futures_util::join!(a.start_tls(to_server()), b.start_tls(of_server()));
        one?;
        two?;
        assert!(a.extra(TlsAttribute::CIPHER).is_ok() && !b.can_write_eof());
        a.write("secret")?;
        b.write("answer")?;
        b_notes.has(14).await;
        a_notes.has(11 + BIG).await;
        assert_eq!(&b_notes.data.borrow()[..], b"starttlssecret");
        assert!(a_notes.data.borrow().ends_with(b"answer"));
        a.close();
        a_notes.over().await;
        b_notes.over().await;
        assert!(a_notes.error.borrow().is_none() && b_notes.error.borrow().is_none());
        Ok::<_, io::Error>(())
    });
}

/// Starts TLS when it is told to, then echoes.
async fn talk(reader: StreamReader, writer: StreamWriter, is_slow: bool) -> io::Result<()> {
    while let line @ [_, ..] = &reader.readline().await?[..] {
        if line == b"starttls\n" {
            if is_slow {
                // The quick client's first words of TLS are in the reader already.
                turns(20).await;
            } else {
                writer.write("go on\n")?;
            }
            writer.start_tls(of_server()).await?;
        } else {
            writer.write(line.to_vec())?;
        }
    }
    Ok(())
}

pub(super) fn live_streams_go_on_with_tls_however_quick_the_peer_is(cx: Cx) {
    cx.run(async {
        for is_slow in [false, true] {
            let talk = async move |reader, writer| talk(reader, writer, is_slow).await;
            let server = start_server(talk, "127.0.0.1:0").await?;
            let (reader, writer) = open_connection(first(&server)).await?;
            writer.write("plain\n")?;
            assert_eq!(&reader.readline().await?[..], b"plain\n");
            writer.write("starttls\n")?;
            if !is_slow {
                assert_eq!(&reader.readline().await?[..], b"go on\n");
            }
            writer.start_tls(to_server()).await?;
            writer.write("secret\n")?;
            assert_eq!(&reader.readline().await?[..], b"secret\n");
            writer.close();
            writer.wait_closed().await?;
            close(server).await?;
        }
        Ok::<_, io::Error>(())
    });
}

fn what_is_sent_in_plain_behind_the_last_plain_word_is_not_believed(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let (reader, writer) = open_stream(ours, 1000).await?;
        theirs.send("starttls\ninjected\n").await?;
        assert_eq!(&reader.readline().await?[..], b"starttls\n");
        let error = writer.start_tls(of_server()).await.expect_err("this is no TLS");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(reader.readline().await.is_err(), "nothing of it is read");
        assert!(writer.wait_closed().await.is_err());
        Ok::<_, io::Error>(())
    });
}

pub(super) fn tls_inside_of_tls_works(cx: Cx) {
    cx.run(async {
        let ((a, a_notes), (b, b_notes)) = plain().await?;
        for round in 1..=2 {
            let (one, two) = futures_util::join!(a.start_tls(to_server()), b.start_tls(of_server()));
            one?;
            two?;
            a.write(pattern(BIG))?;
            b_notes.has(round * BIG).await;
        }
        assert!(b_notes.data.borrow()[BIG..] == pattern(BIG));
        b.close();
        b_notes.over().await;
        a_notes.over().await;
        Ok::<_, io::Error>(())
    });
}

pub(super) fn a_slow_peer_makes_the_protocol_pause_and_resume(cx: Cx) {
    cx.run(async {
        let (transport, protocol, theirs) = with_stream().await?;
        transport.with_socket(|socket| socket.set_send_buffer_size(4096))?;
        transport.set_write_buffer_limits(Some(1000), Some(10))?;
        transport.write(pattern(BIG))?;
        assert_eq!(*protocol.calls.borrow(), ["pause"]);
        assert!(transport.write_buffer_size() > 1000);
        turns(5).await;
        assert_eq!(*protocol.calls.borrow(), ["pause"], "the peer does not read");
        let mut got = Vec::new();
        while got.len() < BIG {
            got.extend_from_slice(&theirs.receive().await?.expect("bytes"));
        }
        assert!(got == pattern(BIG));
        until(|| protocol.calls.borrow().len() == 2).await;
        assert_eq!(*protocol.calls.borrow(), ["pause", "resume"]);
        assert_eq!(transport.write_buffer_size(), 0);
        // Closed while it is told to pause: all is sent, and it is told to resume before the end.
        transport.write(pattern(BIG))?;
        transport.close();
        let reading = spawn(async move {
            let mut count = 0;
            while let Some(chunk) = theirs.receive().await? {
                count += chunk.len();
            }
            theirs.aclose().await?;
            Ok::<_, io::Error>(count)
        });
        assert_eq!(reading.await??, BIG);
        protocol.over().await;
        assert!(protocol.error.borrow().is_none());
        assert_eq!(*protocol.calls.borrow(), ["pause", "resume", "pause", "resume", "lost"]);
        Ok::<_, io::Error>(())
    });
}

fn nothing_is_given_while_reading_is_paused(cx: Cx) {
    cx.run(async {
        let (transport, protocol, theirs) = with_stream().await?;
        transport.pause_reading();
        theirs.send("later").await?;
        turns(10).await;
        assert!(protocol.data.borrow().is_empty() && !transport.is_reading());
        transport.resume_reading();
        protocol.has(5).await;
        transport.close();
        assert!(theirs.receive().await?.is_none());
        theirs.aclose().await?;
        protocol.over().await;
        Ok::<_, io::Error>(())
    });
}

/// Takes seven bytes at a time.
#[derive(Default)]
struct Sevens {
    data: RefCell<Vec<u8>>,
    lost: Cell<bool>,
}

impl BufferedProtocol for Sevens {
    fn get_buffer(&self, _: Option<usize>) -> BytesMut {
        BytesMut::with_capacity(7)
    }
    fn buffer_updated(&self, buffer: BytesMut, count: usize) {
        assert!(buffer.len() == count && (1..=7).contains(&count));
        self.data.borrow_mut().extend_from_slice(&buffer);
    }
    fn connection_lost(&self, _: Option<io::Error>) {
        self.lost.set(true);
    }
}

fn a_buffered_protocol_is_given_all_in_its_own_pieces(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let theirs = TlsStream::client(theirs, "localhost").client_config(Arc::new(client())).handshake();
        let ours = connect_accepted_tls(|| Buffered(Sevens::default()), ours, of_server());
        let (ours, theirs) = futures_util::join!(ours, theirs);
        let ((_transport, protocol), theirs) = (ours?, theirs.map_err(io::Error::from)?);
        theirs.send(pattern(100_000)).await?;
        until(|| protocol.data.borrow().len() == 100_000).await;
        assert!(*protocol.data.borrow() == pattern(100_000));
        theirs.send("the end").await?;
        theirs.aclose().await?;
        until(|| protocol.lost.get()).await;
        assert!(protocol.data.borrow().ends_with(b"the end"));
        Ok::<_, io::Error>(())
    });
}

fn starting_tls_is_refused_where_it_cannot_be(cx: Cx) {
    cx.run(async {
        let ((a, a_notes), (b, b_notes)) = plain().await?;
        b.pause_reading(); // else its protocol would be given the beginning of TLS
        let starting = spawn(a.start_tls(to_server()));
        turns(3).await;
        let busy = |error: io::Error| error.get_ref().is_some_and(|inner| inner.is::<Busy>());
        assert!(busy(a.write("too soon").expect_err("between plain and TLS")));
        assert!(busy(a.start_tls(to_server()).await.expect_err("twice")));
        assert!(busy(a.write_eof().expect_err("between")));
        b.start_tls(of_server()).await?;
        starting.await??;
        b.resume_reading();
        b.close();
        assert!(b.start_tls(of_server()).await.is_err(), "it closes");
        a_notes.over().await;
        b_notes.over().await;
        let ((a, a_notes), (b, b_notes)) = plain().await?;
        a.write_eof()?;
        let error = a.start_tls(to_server()).await.expect_err("nothing can be written");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        a.close();
        b.close();
        a_notes.over().await;
        b_notes.over().await;
        Ok::<_, io::Error>(())
    });
}

fn a_start_that_is_dropped_or_closed_under_ends_the_connection(cx: Cx) {
    cx.run(async {
        let ((a, a_notes), (b, b_notes)) = plain().await?;
        let starting = spawn(a.start_tls(to_server()));
        turns(3).await;
        starting.cancel("enough");
        assert!(starting.await?.expect_err("cancelled").is_cancelled());
        a_notes.over().await;
        until(|| b_notes.calls.borrow().contains(&"eof")).await;
        b.close();
        b_notes.over().await;
        for ends in [Transport::close, Transport::abort] {
            let ((a, a_notes), (b, b_notes)) = plain().await?;
            let starting = spawn(a.start_tls(to_server()));
            turns(3).await;
            ends(&a);
            a_notes.over().await;
            assert!(a_notes.error.borrow().is_none());
            assert!(starting.await?.is_err());
            b.close();
            b_notes.over().await;
        }
        Ok::<_, io::Error>(())
    });
}

pub(super) fn a_file_is_read_and_written_where_tls_is(cx: Cx) {
    let folder = Folder::new();
    std::fs::write(folder.path("file"), pattern(1 << 20)).expect("a file");
    cx.run(async {
        let mut file = std::fs::File::open(folder.path("file"))?;
        let (transport, protocol, theirs) = with_stream().await?;
        let mut no = SendfileOptions::default();
        no.fallback = false;
        let refused = transport.sendfile(&file, no).await.expect_err("the kernel cannot");
        assert!(refused.error.get_ref().is_some_and(|inner| inner.is::<SendfileNotAvailable>()));
        transport.write("before")?;
        let mut options = SendfileOptions::default();
        (options.offset, options.count) = (10, Some(1 << 19));
        let sending = spawn(transport.sendfile(&file, options));
        turns(2).await;
        transport.write("behind")?;
        assert!(transport.sendfile(&file, options).await.is_err(), "one at a time");
        transport.close();
        let mut got = Vec::new();
        while let Some(chunk) = theirs.receive().await? {
            got.extend_from_slice(&chunk);
        }
        theirs.aclose().await?;
        assert_eq!(sending.await?.expect("all of it"), 1 << 19);
        assert!(got.starts_with(b"before") && got.ends_with(b"behind"));
        assert!(got[6..got.len() - 6] == pattern(1 << 20)[10..10 + (1 << 19)]);
        assert_eq!(file.stream_position()?, 10 + (1 << 19));
        protocol.over().await;
        assert!(protocol.error.borrow().is_none());
        Ok::<_, io::Error>(())
    });
}
