//! What the recorded sequences do not show: files, servers, errors, what is left behind.

use std::cell::{Cell, OnceCell, RefCell};
use std::io::{self, Seek};
use std::rc::Rc;

use proactor::buf::Chunk;
use proactor::net::{IpVersion, TcpListener, TcpStream, UnixListener, UnixStream};
use proactor::transport::{
    Protocol, SendfileOptions, Server, StreamReaderProtocol, Transport, connect_accepted_socket,
    create_connection, create_server, create_unix_connection, create_unix_server, open_connection,
    open_stream, open_unix_connection, start_server, start_unix_server,
};
use proactor::{Closed, EventLoop, MayBeCancelled, metrics, spawn};

use crate::harness::{Cx, Folder, both_drivers, needs, tcp_pair, turns, until};

both_drivers!(
    files_have_their_place_among_writes_and_close_waits_for_them,
    a_file_is_refused_when_the_transport_closes,
    a_file_position_is_set_after_an_error_too,
    a_program_that_ends_tells_each_protocol_once,
    a_closed_loop_keeps_nothing_of_live_transports,
    nobody_is_made_for_a_connection_that_fails,
    a_connection_has_the_options_that_were_asked_for,
    a_server_listens_on_each_address_once,
    a_server_takes_listeners_over,
    a_unix_server_replaces_a_socket_and_nothing_else,
    a_factory_that_panics_costs_its_connection_only,
    the_exception_handler_hears_of_each_callback_that_fails,
    a_server_that_is_dropped_in_serve_forever_is_closed,
    names_stay_known_after_the_end,
    a_stream_server_echoes_lines,
    a_writer_that_is_dropped_sends_and_closes,
    a_handler_that_fails_costs_its_connection_only,
    a_slow_peer_holds_a_drain_up,
    a_transport_that_does_nothing_holds_no_buffer,
);

/// Notes what it is told.
#[derive(Debug, Default)]
struct Notes {
    transport: OnceCell<Transport>,
    data: RefCell<Vec<u8>>,
    lost: Cell<u32>,
    error: RefCell<Option<io::Error>>,
}

impl Protocol for Notes {
    fn connection_made(&self, transport: &Transport) {
        self.transport.set(transport.clone()).expect("made once");
    }

    fn data_received(&self, data: Chunk) {
        self.data.borrow_mut().extend_from_slice(&data);
    }

    fn connection_lost(&self, error: Option<io::Error>) {
        self.lost.set(self.lost.get() + 1);
        self.error.replace(error);
    }
}

fn first(server: &Server) -> std::net::SocketAddr {
    server.sockets()[0].as_ip().expect("a server on TCP")
}

async fn over(protocol: &Notes) {
    until(|| protocol.lost.get() > 0).await;
}

async fn read_to_end(stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    while let Some(chunk) = stream.receive().await? {
        data.extend_from_slice(&chunk);
    }
    Ok(data)
}

fn file(folder: &Folder, size: usize) -> io::Result<std::fs::File> {
    let path = folder.path("file");
    let data: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    std::fs::write(&path, data)?;
    std::fs::File::open(path)
}

fn files_have_their_place_among_writes_and_close_waits_for_them(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let file = file(&folder, 1 << 20)?;
        let (ours, theirs) = tcp_pair().await?;
        let (transport, protocol) = connect_accepted_socket(Notes::default, ours).await?;
        transport.write(vec![1; 1 << 20])?;
        let sending = spawn(transport.sendfile(&file, SendfileOptions::default()));
        turns(3).await;
        transport.write("behind")?;
        transport.pause_reading();
        transport.close();
        let data = read_to_end(&theirs).await?;
        assert_eq!(sending.await?.expect("all of it is sent"), 1 << 20);
        assert_eq!(data.len(), (2 << 20) + 6);
        assert!(data[..1 << 20].iter().all(|byte| *byte == 1));
        assert!(data[1 << 20..2 << 20].iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
        assert!(data.ends_with(b"behind"));
        over(&protocol).await;
        assert!(protocol.error.borrow().is_none());
        let mut file = file;
        assert_eq!(file.stream_position()?, 1 << 20);
        Ok::<_, io::Error>(())
    });
}

fn a_file_is_refused_when_the_transport_closes(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let file = file(&folder, 10)?;
        for ends in
            [Transport::close, Transport::abort, |transport: &Transport| transport.write_eof().unwrap()]
        {
            let (ours, _theirs) = tcp_pair().await?;
            let (transport, protocol) = connect_accepted_socket(Notes::default, ours).await?;
            ends(&transport);
            let refused = transport.sendfile(&file, SendfileOptions::default()).await.expect_err("it closes");
            assert_eq!(refused.done, 0);
            transport.close();
            over(&protocol).await;
            let refused =
                transport.sendfile(&file, SendfileOptions::default()).await.expect_err("it is over");
            assert!(refused.error.get_ref().is_some_and(|inner| inner.is::<Closed>()));
        }
        Ok::<_, io::Error>(())
    });
}

fn a_file_position_is_set_after_an_error_too(cx: Cx) {
    if !needs(0, 200) {
        return;
    }
    let folder = Folder::new();
    cx.run(async {
        let mut file = file(&folder, 64 << 20)?;
        let (ours, theirs) = tcp_pair().await?;
        let (transport, protocol) = connect_accepted_socket(Notes::default, ours).await?;
        let sending = spawn(transport.sendfile(&file, SendfileOptions::default()));
        let _ = theirs.receive().await?;
        transport.abort();
        let failed = sending.await?.expect_err("it was aborted");
        assert!(failed.done < 64 << 20);
        over(&protocol).await;
        assert_eq!(file.stream_position()?, failed.done as u64);
        Ok::<_, io::Error>(())
    });
}

fn a_program_that_ends_tells_each_protocol_once(cx: Cx) {
    EventLoop::set_policy(Some(cx.builder()));
    let ran = proactor::run(async {
        let (ours, first) = tcp_pair().await?;
        let (_, waiting) = connect_accepted_socket(Notes::default, ours).await?;
        let (ours, second) = tcp_pair().await?;
        let (transport, paused) = connect_accepted_socket(Notes::default, ours).await?;
        transport.pause_reading();
        let (ours, third) = tcp_pair().await?;
        let (transport, sending) = connect_accepted_socket(Notes::default, ours).await?;
        transport.write(vec![0; 16 << 20])?;
        transport.close();
        turns(3).await;
        Ok::<_, io::Error>(([waiting, paused, sending], [first, second, third]))
    });
    EventLoop::set_policy(None);
    let (protocols, peers) = ran.expect("it runs");
    for protocol in protocols {
        assert_eq!(protocol.lost.get(), 1);
        assert!(protocol.error.borrow().as_ref().is_some_and(MayBeCancelled::is_cancelled));
    }
    drop(peers);
}

fn a_closed_loop_keeps_nothing_of_live_transports(cx: Cx) {
    let kept = Rc::new(RefCell::new(None));
    let keep = kept.clone();
    cx.run_and_keep(async move {
        let (ours, theirs) = tcp_pair().await.expect("a connection");
        let (transport, protocol) = connect_accepted_socket(Notes::default, ours).await.expect("a transport");
        transport.write(vec![0; 16 << 20]).expect("it is open");
        keep.replace(Some((transport, Rc::downgrade(&protocol), theirs)));
    });
    let (transport, protocol, theirs) = kept.take().expect("what was kept");
    assert!(protocol.upgrade().is_none(), "nobody keeps the protocol");
    assert!(transport.is_closing() && transport.protocol().is_none());
    transport.write("into the void").expect("nothing happens");
    transport.close();
    assert_eq!(transport.write_buffer_size(), 0);
    drop(theirs);
}

fn nobody_is_made_for_a_connection_that_fails(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        listener.close().await?;
        let make = || -> Notes { panic!("nobody is connected") };
        let refused = create_connection(make, address).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let missing = create_unix_connection(make, folder.path("nothing")).await.expect_err("nobody listens");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let none = create_connection(make, address).ip_version(IpVersion::V6).await.expect_err("no address");
        assert_eq!(none.kind(), io::ErrorKind::AddrNotAvailable);
        Ok::<_, io::Error>(())
    });
}

fn a_connection_has_the_options_that_were_asked_for(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let connect = create_connection(Notes::default, address).local_addr("127.0.0.2:0");
        let (transport, protocol) = connect.ip_version(IpVersion::V4).interleave(1).await?;
        let peer = listener.accept().await?;
        assert_eq!(peer.peer_addr()?.ip().to_string(), "127.0.0.2");
        assert_eq!(transport.sockname().and_then(|name| name.as_ip()), Some(peer.peer_addr()?));
        assert!(transport.with_socket(|socket| socket.tcp_nodelay())?);
        assert!(protocol.transport.get() == Some(&transport));
        transport.abort();
        over(&protocol).await;
        Ok::<_, io::Error>(())
    });
}

fn a_server_listens_on_each_address_once(cx: Cx) {
    cx.run(async {
        let free = TcpListener::bind("127.0.0.1:0").await?;
        let address = free.local_addr()?;
        free.close().await?;
        let other = ("127.0.0.2", address.port());
        let server = create_server(Notes::default, vec![address, address]).host(address).host(other).await?;
        assert_eq!(server.sockets().len(), 2);
        for address in server.sockets() {
            drop(TcpStream::connect(address.as_ip().expect("TCP")).await?);
        }
        let taken = create_server(Notes::default, address).await.expect_err("it is taken");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        server.close();
        assert!(server.sockets().is_empty());
        server.wait_closed().await?;
        // Its address is free again; and two may share one if both say so.
        let first = create_server(Notes::default, address).reuse_port(true).backlog(5).await?;
        let second = create_server(Notes::default, address).reuse_port(true).await?;
        for server in [first, second] {
            server.close();
            server.wait_closed().await?;
        }
        turns(3).await;
        Ok::<_, io::Error>(())
    });
}

fn a_server_takes_listeners_over(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let unix = UnixListener::bind(folder.path("socket")).await?;
        let nowhere = Vec::<std::net::SocketAddr>::new();
        let server = create_server(Notes::default, nowhere).listener(tcp).listener(unix).await?;
        assert_eq!(server.sockets().len(), 2);
        drop(TcpStream::connect(first(&server)).await?);
        drop(UnixStream::connect(folder.path("socket")).await?);
        server.close();
        server.wait_closed().await
    });
}

fn a_unix_server_replaces_a_socket_and_nothing_else(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let path = folder.path("socket");
        drop(std::os::unix::net::UnixListener::bind(&path)?); // its file stays
        let server = create_unix_server(Notes::default, &path).await?;
        assert_eq!(server.sockets()[0].as_unix().and_then(|name| name.as_pathname()), Some(&*path));
        let (transport, protocol) = create_unix_connection(Notes::default, &path).await?;
        transport.close();
        over(&protocol).await;
        server.close();
        server.wait_closed().await?;
        std::fs::write(folder.path("file"), "precious")?;
        let taken = create_unix_server(Notes::default, folder.path("file")).await.expect_err("no socket");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read_to_string(folder.path("file"))?, "precious");
        Ok::<_, io::Error>(())
    });
}

fn a_factory_that_panics_costs_its_connection_only(cx: Cx) {
    cx.run(async {
        let count = Cell::new(0);
        let make = move || {
            count.set(count.get() + 1);
            if count.get() == 1 {
                std::panic::resume_unwind(Box::new("the first one"));
            }
            StreamReaderProtocol::on_connected(proactor::transport::StreamReader::new(10), |_, writer| {
                writer.write("hello").expect("it is open");
            })
        };
        let server = create_server(make, "127.0.0.1:0").await?;
        let unlucky = TcpStream::connect(first(&server)).await?;
        assert!(unlucky.receive().await.ok().flatten().is_none());
        let lucky = TcpStream::connect(first(&server)).await?;
        assert_eq!(read_to_end(&lucky).await?, b"hello");
        server.close();
        server.wait_closed().await
    });
}

/// Fails in one of its callbacks.
struct Failing(&'static str);

impl Failing {
    fn at(&self, callback: &str) {
        if self.0 == callback {
            std::panic::resume_unwind(Box::new("as it was asked"));
        }
    }
}

impl Protocol for Failing {
    fn connection_made(&self, _: &Transport) {
        self.at("connection_made");
    }
    fn data_received(&self, _: Chunk) {
        self.at("data_received");
    }
    fn eof_received(&self) -> bool {
        self.at("eof_received");
        false
    }
    fn connection_lost(&self, _: Option<io::Error>) {
        self.at("connection_lost");
    }
    fn pause_writing(&self) {
        self.at("pause_writing");
    }
    fn resume_writing(&self) {
        self.at("resume_writing");
    }
}

fn the_exception_handler_hears_of_each_callback_that_fails(cx: Cx) {
    let callbacks = [
        "connection_made",
        "data_received",
        "eof_received",
        "connection_lost",
        "pause_writing",
        "resume_writing",
    ];
    for callback in callbacks {
        let event_loop = cx.builder().build().expect("a loop");
        let heard = Rc::new(RefCell::new(Vec::new()));
        let log = heard.clone();
        event_loop
            .set_exception_handler(Some(Rc::new(move |context| log.borrow_mut().push(context.to_string()))));
        let ran = event_loop.run_until_complete(async {
            let (ours, theirs) = tcp_pair().await?;
            let (transport, _) = connect_accepted_socket(|| Failing(callback), ours).await?;
            transport.write(vec![0; 8 << 20])?;
            theirs.send("something").await?;
            theirs.shutdown_write().await?;
            while let Ok(Some(_)) = theirs.receive().await {}
            until(|| transport.protocol().is_none()).await;
            Ok::<_, io::Error>(())
        });
        ran.expect("the loop runs").expect("it works");
        let expected = match callback {
            "data_received" | "eof_received" => {
                format!("fatal error: protocol.{callback}() call failed: panicked: as it was asked")
            }
            _ => format!("protocol.{callback}() failed: panicked: as it was asked"),
        };
        let heard = heard.borrow();
        assert!(matches!(&heard[..], [only] if only.starts_with(&expected)), "{callback}: {heard:?}");
    }
}

fn a_server_that_is_dropped_in_serve_forever_is_closed(cx: Cx) {
    cx.run(async {
        let server = create_server(Notes::default, "127.0.0.1:0").start_serving(false).await?;
        let forever = spawn(server.serve_forever());
        until(|| server.is_serving()).await;
        assert!(server.serve_forever().await.is_err(), "one is enough");
        assert!(server.is_serving(), "who is refused closes nothing");
        forever.cancel("enough");
        assert!(forever.await?.expect_err("cancelled").is_cancelled());
        assert!(!server.is_serving());
        server.wait_closed().await?;
        assert!(server.serve_forever().await.is_err(), "it is closed");
        Ok::<_, io::Error>(())
    });
}

fn names_stay_known_after_the_end(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let peer = theirs.local_addr()?;
        let (transport, protocol) = connect_accepted_socket(Notes::default, ours).await?;
        theirs.set_linger(Some(std::time::Duration::ZERO))?;
        drop(theirs);
        over(&protocol).await;
        assert_eq!(transport.peername().and_then(|name| name.as_ip()), Some(peer));
        assert!(transport.with_socket(|socket| socket.tcp_nodelay()).is_err());
        Ok::<_, io::Error>(())
    });
}

fn a_stream_server_echoes_lines(cx: Cx) {
    let folder = Folder::new();
    cx.run(async {
        let echo = async |reader: proactor::transport::StreamReader,
                          writer: proactor::transport::StreamWriter| {
            while let line @ [_, ..] = &reader.readline().await?[..] {
                writer.write(line.to_vec())?;
                writer.drain().await?;
            }
            Ok::<_, io::Error>(())
        };
        let tcp = start_server(echo, "127.0.0.1:0").await?;
        let unix = start_unix_server(echo, folder.path("socket")).await?;
        let connections = [
            open_connection(first(&tcp)).await?,
            open_unix_connection(folder.path("socket")).await?,
            open_stream(TcpStream::connect(first(&tcp)).await?, 10).await?,
        ];
        for (reader, writer) in connections {
            writer.writelines(["one\n", "two\n", "rest"])?;
            writer.write_eof()?;
            assert_eq!(&reader.readline().await?[..], b"one\n");
            assert_eq!(&reader.read_to_end().await?[..], b"two\nrest");
            writer.close();
            writer.wait_closed().await?;
        }
        for server in [tcp, unix] {
            server.close();
            server.wait_closed().await?;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_writer_that_is_dropped_sends_and_closes(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let (reader, writer) = open_stream(ours, 10).await?;
        writer.write(vec![7; 8 << 20])?;
        drop(writer);
        assert_eq!(read_to_end(&theirs).await?.len(), 8 << 20);
        assert!(reader.read(1).await?.is_empty());
        Ok::<_, io::Error>(())
    });
}

fn a_handler_that_fails_costs_its_connection_only(cx: Cx) {
    cx.run(async {
        let server = start_server(
            async |reader, writer| match &reader.readline().await?[..] {
                b"panic\n" => std::panic::resume_unwind(Box::new("as it was asked")),
                b"fail\n" => Err(io::Error::other("as it was asked")),
                _ => writer.write("well"),
            },
            "127.0.0.1:0",
        );
        let server = server.await?;
        for (line, answer) in [("panic\n", ""), ("fail\n", ""), ("other\n", "well")] {
            let (reader, writer) = open_connection(first(&server)).await?;
            writer.write(line)?;
            assert_eq!(&reader.read_to_end().await?[..], answer.as_bytes());
        }
        server.close();
        server.wait_closed().await
    });
}

fn a_slow_peer_holds_a_drain_up(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let (_reader, writer) = open_stream(ours, 10).await?;
        writer.transport().with_socket(|socket| socket.set_send_buffer_size(4096))?;
        writer.write(vec![7; 8 << 20])?;
        let drain = spawn(writer.drain());
        turns(5).await;
        assert!(!drain.is_finished());
        let reading = spawn(async move { read_to_end(&theirs).await });
        drain.await??;
        assert!(writer.transport().write_buffer_size() <= writer.transport().write_buffer_limits().low);
        writer.close();
        writer.wait_closed().await?;
        assert_eq!(reading.await??.len(), 8 << 20);
        Ok::<_, io::Error>(())
    });
}

fn a_transport_that_does_nothing_holds_no_buffer(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = tcp_pair().await?;
        let (transport, protocol) = connect_accepted_socket(Notes::default, ours).await?;
        theirs.send("something").await?;
        until(|| protocol.data.borrow().len() == 9).await;
        assert_eq!(metrics().buffers_in_use, 0);
        transport.close();
        over(&protocol).await;
        Ok::<_, io::Error>(())
    });
}
