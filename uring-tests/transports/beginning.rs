//! How a scenario begins: what is made, and what it is connected with.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use proactor::net::{PipeReader, PipeWriter, TcpStream, UnixStream};
use proactor::transport::{
    Buffered, SocketAddress, StreamReader, StreamReaderProtocol, connect_accepted_socket, connect_read_pipe,
    connect_write_pipe, create_datagram_endpoint, create_server, create_unix_server,
};
#[cfg(feature = "tls")]
use proactor::{
    spawn,
    transport::{Tls, connect_accepted_tls},
};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::transports::peer::Peer;
use crate::transports::perform::Run;
use crate::transports::recorder::Recorder;

impl Run {
    fn domain(&self) -> Domain {
        if self.is("unix") { Domain::UNIX } else { Domain::IPV4 }
    }

    pub(super) fn connect(&self) -> io::Result<()> {
        let peer = Socket::new(self.domain(), Type::STREAM, None)?;
        match peer.connect(self.address.borrow().as_ref().expect("an address")) {
            Ok(()) => {
                peer.set_nonblocking(true)?;
                self.peer.replace(Some(Peer::new(File::from(OwnedFd::from(peer)))));
            }
            Err(_) => self.record("", "connection", "refused"),
        }
        Ok(())
    }

    fn recorder(&self) -> impl Fn() -> Recorder + 'static {
        let this = self.this.clone();
        move || Recorder { run: this.upgrade().expect("it runs"), prefix: "" }
    }

    async fn serve(&self, path: PathBuf) -> io::Result<()> {
        let factory = self.recorder();
        let creating = match (self.is("unix"), self.is("buffered")) {
            (true, true) => create_unix_server(move || Buffered(factory()), &path),
            (true, false) => create_unix_server(factory, &path),
            (false, true) => create_server(move || Buffered(factory()), "127.0.0.1:0"),
            (false, false) => create_server(factory, "127.0.0.1:0"),
        };
        let server = creating.start_serving(!self.is("idle")).await?;
        let address = server.sockets()[0].clone();
        let address = match address.as_ip() {
            Some(address) => address.into(),
            None => SockAddr::unix(&path)?,
        };
        self.address.replace(Some(address));
        self.server.replace(Some(server));
        Ok(())
    }

    async fn begin_datagrams(&self) -> io::Result<()> {
        let peer = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let name = peer.local_addr()?;
        let endpoint = create_datagram_endpoint(self.recorder());
        let (transport, _) = if self.is("connected") {
            endpoint.remote_addr(name).await?
        } else {
            self.target.replace(Some(SocketAddress::Ip(name)));
            endpoint.local_addr("127.0.0.1:0").await?
        };
        peer.connect(transport.sockname().and_then(SocketAddress::as_ip).expect("UDP"))?;
        peer.set_nonblocking(true)?;
        self.peer.replace(Some(Peer::new(File::from(OwnedFd::from(peer)))));
        Ok(())
    }

    async fn begin_pipe(&self) -> io::Result<()> {
        let (reader, writer) = io::pipe()?;
        let peer: OwnedFd = if self.is("pipe_in") {
            drop(connect_read_pipe(self.recorder(), PipeReader::from_fd(reader)?).await?);
            writer.into()
        } else {
            drop(connect_write_pipe(self.recorder(), PipeWriter::from_fd(writer)?).await?);
            reader.into()
        };
        SockRef::from(&peer).set_nonblocking(true)?;
        self.peer.replace(Some(Peer::new(File::from(peer))));
        Ok(())
    }

    pub(super) async fn begin(&self, path: PathBuf) -> io::Result<()> {
        if self.is("server") {
            return self.serve(path).await;
        }
        if self.is("reader") || self.is("stream") {
            let limit = self.scenario.options.last().expect("a limit").parse().expect("a number");
            self.reader.replace(Some(StreamReader::new(limit)));
        }
        if self.is("reader") {
            return Ok(());
        }
        if self.is("datagram") {
            return self.begin_datagrams().await;
        }
        if self.is("pipe_in") || self.is("pipe_out") {
            return self.begin_pipe().await;
        }
        let (ours, peer) = if self.is("unix") {
            Socket::pair(Domain::UNIX, Type::STREAM, None)?
        } else {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            let peer = std::net::TcpStream::connect(listener.local_addr()?)?;
            (listener.accept()?.0.into(), peer.into())
        };
        for end in [&ours, &peer] {
            // Small, so that what is much fits in none.
            end.set_send_buffer_size(65536)?;
            end.set_recv_buffer_size(65536)?;
        }
        peer.set_nonblocking(true)?;
        self.peer.replace(Some(Peer::new(File::from(OwnedFd::from(peer)))));
        if self.is("stream") {
            let reader = self.reader();
            let factory = move || StreamReaderProtocol::new(reader);
            let (transport, protocol) = if self.is("unix") {
                connect_accepted_socket(factory, UnixStream::from_std(ours.into())?).await?
            } else {
                connect_accepted_socket(factory, TcpStream::from_std(ours.into())?).await?
            };
            self.writer.replace(Some(Rc::new(protocol.writer(transport.clone()))));
            self.transport.replace(Some(transport));
            return Ok(());
        }
        let factory = self.recorder();
        #[cfg(feature = "tls")]
        if self.is("tls") {
            return self.begin_tls(ours.into()).await;
        }
        match (self.is("unix"), self.is("buffered")) {
            (true, true) => {
                let stream = UnixStream::from_std(ours.into())?;
                drop(connect_accepted_socket(move || Buffered(factory()), stream).await?);
            }
            (true, false) => {
                drop(connect_accepted_socket(factory, UnixStream::from_std(ours.into())?).await?)
            }
            (false, true) => {
                let stream = TcpStream::from_std(ours.into())?;
                drop(connect_accepted_socket(move || Buffered(factory()), stream).await?);
            }
            (false, false) => {
                drop(connect_accepted_socket(factory, TcpStream::from_std(ours.into())?).await?)
            }
        }
        Ok(())
    }

    #[cfg(feature = "tls")]
    async fn begin_tls(&self, ours: OwnedFd) -> io::Result<()> {
        let factory = self.recorder();
        let tls = Tls::server(crate::wrappers::tls::server().into());
        self.peer.borrow_mut().as_mut().expect("a peer").secure(false);
        let connecting = match (self.is("unix"), self.is("buffered")) {
            (true, _) => {
                let stream = UnixStream::from_std(ours.into())?;
                spawn(async { connect_accepted_tls(factory, stream, tls).await.map(drop) })
            }
            (false, true) => {
                let stream = TcpStream::from_std(ours.into())?;
                let factory = move || Buffered(factory());
                spawn(async { connect_accepted_tls(factory, stream, tls).await.map(drop) })
            }
            (false, false) => {
                let stream = TcpStream::from_std(ours.into())?;
                spawn(async { connect_accepted_tls(factory, stream, tls).await.map(drop) })
            }
        };
        self.agree().await;
        connecting.await?
    }
}
