//! Datagram transports beyond what the recorded sequences show: addresses, options, UNIX sockets, limits, ends.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::rc::Rc;

use proactor::buf::Chunk;
use proactor::net::{UdpSocket, UnixDatagram};
use proactor::stream::{SocketAttribute, TypedAttributeProvider};
use proactor::transport::{DatagramProtocol, DatagramTransport, SocketAddress, create_datagram_endpoint};
use proactor::{EventLoop, MayBeCancelled, spawn};

use crate::harness::{Cx, Folder, both_drivers, turns, until};

both_drivers!(
    an_endpoint_has_the_addresses_and_options_that_were_asked_for,
    several_endpoints_share_a_port,
    an_endpoint_without_an_address_is_refused,
    unix_endpoints_have_paths_or_none,
    an_endpoint_takes_a_socket_over,
    a_full_queue_makes_the_protocol_pause_and_resume,
    a_close_sends_what_is_queued_and_an_abort_does_not,
    what_cannot_be_sent_is_refused_and_nothing_is_sent_after_the_end,
    each_datagram_that_fails_is_told_of,
    a_protocol_is_replaced,
    the_exception_handler_hears_of_a_callback_that_fails_and_the_transport_goes_on,
    a_program_that_ends_tells_each_protocol_once,
    an_endpoint_that_is_given_up_is_closed,
    a_closed_loop_keeps_nothing,
);

#[derive(Debug, Default)]
struct Notes {
    transport: OnceCell<DatagramTransport>,
    data: RefCell<Vec<(Vec<u8>, SocketAddress)>>,
    calls: RefCell<Vec<&'static str>>,
    errors: RefCell<Vec<io::Error>>,
    lost: Cell<u32>,
    error: RefCell<Option<io::Error>>,
}

impl DatagramProtocol for Notes {
    fn connection_made(&self, transport: &DatagramTransport) {
        self.transport.set(transport.clone()).expect("made once");
    }
    fn datagram_received(&self, data: Chunk, source: SocketAddress) {
        self.data.borrow_mut().push((data.to_vec(), source));
    }
    fn error_received(&self, error: io::Error) {
        self.errors.borrow_mut().push(error);
    }
    fn connection_lost(&self, error: Option<io::Error>) {
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
    async fn has(&self, count: usize) {
        until(|| self.data.borrow().len() >= count).await;
    }
    async fn over(&self) {
        until(|| self.lost.get() > 0).await;
        turns(3).await;
        assert_eq!(self.lost.get(), 1, "exactly once");
    }
}

fn ip(transport: &DatagramTransport) -> std::net::SocketAddr {
    transport.sockname().and_then(SocketAddress::as_ip).expect("UDP")
}

fn an_endpoint_has_the_addresses_and_options_that_were_asked_for(cx: Cx) {
    cx.run(async {
        let peer = UdpSocket::bind("127.0.0.1:0").await?;
        let (transport, protocol) = create_datagram_endpoint(Notes::default)
            .local_addr("127.0.0.1:0")
            .remote_addr(peer.local_addr()?)
            .broadcast(true)
            .await?;
        assert!(ip(&transport).ip().is_loopback());
        assert_eq!(transport.peername().and_then(SocketAddress::as_ip), Some(peer.local_addr()?));
        assert!(transport.with_socket(|socket| socket.broadcast())?);
        assert_eq!(transport.extra(SocketAttribute::LOCAL_PORT)?, ip(&transport).port());
        transport.sendto("hello", None)?;
        let (data, source) = peer.receive_from().await?;
        assert_eq!((&data[..], source), (&b"hello"[..], ip(&transport)));
        peer.send_to("", ip(&transport)).await?;
        peer.send_to("answer", ip(&transport)).await?;
        protocol.has(2).await;
        assert!(protocol.data.borrow()[0].0.is_empty(), "a datagram may be empty");
        assert_eq!(protocol.data.borrow()[1].1.as_ip(), Some(peer.local_addr()?));
        transport.close();
        protocol.over().await;
        assert!(transport.with_socket(|socket| socket.broadcast()).is_err());
        let none =
            create_datagram_endpoint(Notes::default).local_addr("127.0.0.1:0").remote_addr("[::1]:9").await;
        assert!(none.is_err(), "of two families");
        Ok::<_, io::Error>(())
    });
}

fn several_endpoints_share_a_port(cx: Cx) {
    cx.run(async {
        let (a, a_notes) =
            create_datagram_endpoint(Notes::default).local_addr("127.0.0.1:0").reuse_port(true).await?;
        let address = ip(&a);
        let (b, b_notes) =
            create_datagram_endpoint(Notes::default).local_addr(address).reuse_port(true).await?;
        assert_eq!(ip(&b), address);
        assert!(create_datagram_endpoint(Notes::default).local_addr(address).await.is_err());
        a.close();
        b.close();
        a_notes.over().await;
        b_notes.over().await;
        Ok::<_, io::Error>(())
    });
}

fn an_endpoint_without_an_address_is_refused(cx: Cx) {
    cx.run(async {
        let error = create_datagram_endpoint(Notes::default).await.expect_err("nowhere");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        Ok::<_, io::Error>(())
    });
}

fn unix_endpoints_have_paths_or_none(cx: Cx) {
    let folder = Folder::new();
    let path = folder.path("socket");
    // Left behind by somebody.
    drop(std::os::unix::net::UnixDatagram::bind(&path).expect("a socket"));
    cx.run(async {
        let (server, server_notes) = create_datagram_endpoint(Notes::default).local_path(&path).await?;
        assert_eq!(server.sockname().and_then(|name| name.as_unix()?.as_pathname()), Some(&*path));
        let (client, client_notes) = create_datagram_endpoint(Notes::default)
            .local_path(folder.path("client"))
            .remote_path(&path)
            .await?;
        client.sendto("question", None)?;
        server_notes.has(1).await;
        let (data, source) = server_notes.data.borrow_mut().remove(0);
        assert_eq!(data, b"question");
        assert_eq!(source.as_unix().and_then(|name| name.as_pathname()), Some(&*folder.path("client")));
        server.sendto("answer", Some(&source))?;
        client_notes.has(1).await;
        client.sendto("again", client.peername())?;
        server_notes.has(1).await;
        // Of one without a name.
        let nameless = UnixDatagram::unbound()?;
        nameless.send_to("hello", &path).await?;
        server_notes.has(2).await;
        assert!(server_notes.data.borrow()[1].1.as_unix().is_some_and(|name| name.is_unnamed()));
        // Nobody is there any more.
        server.close();
        server_notes.over().await;
        client.sendto("lost", None)?;
        until(|| !client_notes.errors.borrow().is_empty()).await;
        client.close();
        client_notes.over().await;
        let file = folder.path("file");
        std::fs::write(&file, "not a socket")?;
        assert!(create_datagram_endpoint(Notes::default).local_path(&file).await.is_err());
        assert!(file.exists());
        Ok::<_, io::Error>(())
    });
}

fn an_endpoint_takes_a_socket_over(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixDatagram::pair()?;
        let (transport, protocol) = create_datagram_endpoint(Notes::default).socket(ours).await?;
        theirs.send("hello").await?;
        protocol.has(1).await;
        transport.sendto("answer", None)?;
        assert_eq!(&theirs.receive().await?[..], b"answer");
        transport.close();
        protocol.over().await;
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let (transport, protocol) = create_datagram_endpoint(Notes::default).socket(socket).await?;
        transport.abort();
        protocol.over().await;
        Ok::<_, io::Error>(())
    });
}

fn a_full_queue_makes_the_protocol_pause_and_resume(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixDatagram::pair()?;
        let (transport, protocol) = create_datagram_endpoint(Notes::default).socket(ours).await?;
        transport.set_write_buffer_limits(Some(10_000), Some(100))?;
        let count = 2000;
        for index in 0..count {
            transport.sendto(vec![index as u8; 1000], None)?;
        }
        assert_eq!(*protocol.calls.borrow(), ["pause"]);
        assert!(transport.write_buffer_size() > 10_000);
        for index in 0..count {
            let data = theirs.receive().await?;
            assert!(data.len() == 1000 && data[0] == index as u8, "in order");
        }
        until(|| protocol.calls.borrow().len() == 2).await;
        assert_eq!(*protocol.calls.borrow(), ["pause", "resume"]);
        assert_eq!(transport.write_buffer_size(), 0);
        transport.close();
        protocol.over().await;
        assert!(protocol.errors.borrow().is_empty());
        Ok::<_, io::Error>(())
    });
}

fn a_close_sends_what_is_queued_and_an_abort_does_not(cx: Cx) {
    cx.run(async {
        for aborts in [false, true] {
            let (ours, theirs) = UnixDatagram::pair()?;
            let (transport, protocol) = create_datagram_endpoint(Notes::default).socket(ours).await?;
            for _ in 0..1000 {
                transport.sendto(vec![7; 1000], None)?;
            }
            if aborts {
                transport.abort();
                assert_eq!(transport.write_buffer_size(), 0);
                protocol.over().await;
                continue;
            }
            transport.close();
            turns(3).await;
            assert!(transport.is_closing() && protocol.lost.get() == 0);
            for _ in 0..1000 {
                assert_eq!(theirs.receive().await?.len(), 1000);
            }
            protocol.over().await;
            assert!(protocol.error.borrow().is_none());
        }
        Ok::<_, io::Error>(())
    });
}

fn what_cannot_be_sent_is_refused_and_nothing_is_sent_after_the_end(cx: Cx) {
    cx.run(async {
        let peer = UdpSocket::bind("127.0.0.1:0").await?;
        let (transport, protocol) =
            create_datagram_endpoint(Notes::default).local_addr("127.0.0.1:0").await?;
        let invalid =
            |result: io::Result<()>| result.expect_err("refused").kind() == io::ErrorKind::InvalidInput;
        assert!(invalid(transport.sendto("to nobody", None)));
        let (one, _other) = std::os::unix::net::UnixDatagram::pair()?;
        let unix = SocketAddress::Unix(Rc::new(one.local_addr()?));
        assert!(invalid(transport.sendto("elsewhere", Some(&unix))));
        let target = SocketAddress::Ip(peer.local_addr()?);
        transport.close();
        transport.sendto("too late", Some(&target))?;
        protocol.over().await;
        transport.sendto("far too late", Some(&target))?;
        transport.close();
        transport.abort();
        assert!(protocol.errors.borrow().is_empty());
        let nothing = proactor::cancel::move_on_after(std::time::Duration::ZERO, peer.receive());
        assert!(nothing.await?.is_none());
        Ok::<_, io::Error>(())
    });
}

fn each_datagram_that_fails_is_told_of(cx: Cx) {
    cx.run(async {
        let (transport, notes) = create_datagram_endpoint(Notes::default).local_addr("127.0.0.1:0").await?;
        let to = SocketAddress::Ip(ip(&transport));
        // Two are too big.
        transport.sendto(vec![0; 70_000], Some(&to))?;
        transport.sendto("fits", Some(&to))?;
        transport.sendto(vec![0; 80_000], Some(&to))?;
        notes.has(1).await;
        until(|| notes.errors.borrow().len() == 2).await;
        let errno = |error: &io::Error| error.raw_os_error();
        assert!(notes.errors.borrow().iter().all(|error| errno(error) == Some(libc::EMSGSIZE)));
        transport.close();
        notes.over().await;
        Ok::<_, io::Error>(())
    });
}

fn a_protocol_is_replaced(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixDatagram::pair()?;
        let (transport, first) = create_datagram_endpoint(Notes::default).socket(ours).await?;
        let second = Rc::new(Notes::default());
        transport.set_protocol(second.clone());
        theirs.send("hello").await?;
        second.has(1).await;
        transport.close();
        second.over().await;
        assert!(first.data.borrow().is_empty() && first.lost.get() == 0);
        assert!(transport.protocol().is_none());
        transport.set_protocol(first);
        assert!(transport.protocol().is_none(), "it is over");
        Ok::<_, io::Error>(())
    });
}

/// Fails when it is given something.
#[derive(Debug, Default)]
struct Failing(Cell<u32>);

impl DatagramProtocol for Failing {
    fn datagram_received(&self, _: Chunk, _: SocketAddress) {
        self.0.set(self.0.get() + 1);
        std::panic::resume_unwind(Box::new("as it was asked"));
    }
}

fn the_exception_handler_hears_of_a_callback_that_fails_and_the_transport_goes_on(cx: Cx) {
    cx.run(async {
        let heard = Rc::new(RefCell::new(Vec::new()));
        let log = heard.clone();
        EventLoop::running()?
            .set_exception_handler(Some(Rc::new(move |context| log.borrow_mut().push(context.clone()))));
        let (ours, theirs) = UnixDatagram::pair()?;
        let (transport, protocol) = create_datagram_endpoint(Failing::default).socket(ours).await?;
        theirs.send("one").await?;
        theirs.send("two").await?;
        until(|| protocol.0.get() == 2).await;
        assert!(!transport.is_closing());
        let context = heard.borrow_mut().remove(0);
        let expected = "protocol.datagram_received() failed: panicked: as it was asked";
        assert_eq!(context.to_string(), expected);
        let about = context.about.expect("about something");
        assert_eq!(about.downcast_ref::<DatagramTransport>(), Some(&transport));
        transport.close();
        until(|| transport.protocol().is_none()).await;
        assert_eq!(heard.borrow().len(), 1);
        heard.borrow_mut().clear();
        Ok::<_, io::Error>(())
    });
}

fn a_program_that_ends_tells_each_protocol_once(cx: Cx) {
    EventLoop::set_policy(Some(cx.builder()));
    let ran = proactor::run(async {
        let (_, protocol) = create_datagram_endpoint(Notes::default).local_addr("127.0.0.1:0").await?;
        Ok::<_, io::Error>(protocol)
    });
    EventLoop::set_policy(None);
    let protocol = ran.expect("it runs");
    assert_eq!(protocol.lost.get(), 1);
    assert!(protocol.error.borrow().as_ref().is_some_and(MayBeCancelled::is_cancelled));
}

fn an_endpoint_that_is_given_up_is_closed(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = UnixDatagram::pair()?;
        let creating = spawn(async move { create_datagram_endpoint(Notes::default).socket(ours).await });
        creating.cancel("enough");
        assert!(creating.await.map_or(true, |made| made.is_err()));
        // It is closed a little later: until then the first few find room.
        while theirs.send("is anybody there?").await.is_ok() {
            turns(1).await;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_closed_loop_keeps_nothing(cx: Cx) {
    cx.run_and_keep(async {
        let (ours, theirs) = UnixDatagram::pair().expect("two sockets");
        let made = create_datagram_endpoint(Notes::default).socket(ours).await;
        let (transport, _) = made.expect("made");
        for _ in 0..1000 {
            transport.sendto(vec![7; 1000], None).expect("queued");
        }
        drop(theirs);
    });
}
