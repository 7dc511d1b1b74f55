//! The servers that `echo`, `churn` and `transport` measure, each on a thread of its own.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

use crate::common::{DRIVERS, RAW, event_loop};
use crate::raw::{self, os};
use proactor::DriverChoice;
use proactor::buf::Chunk;
use proactor::net::{Family, Stream, TcpListener, UnixListener, UnixStream};
use proactor::transport::{Protocol, StreamReader, StreamWriter, Transport, create_server, start_server};
use std::cell::OnceCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// The servers in the order in which they are measured.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    [RAW].into_iter().chain(DRIVERS.map(|(name, _)| name))
}

/// By which of our interfaces a server echoes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Face {
    Plain,
    Protocol,
    Stream,
}

/// The driver and the interface in a name such as `protocol/io_uring`; of the driver alone, the plain one.
fn choice(name: &str) -> Option<(DriverChoice, Face)> {
    let (face, driver) = match name.split_once('/') {
        None => (Face::Plain, name),
        Some(("protocol", driver)) => (Face::Protocol, driver),
        Some((_, driver)) => (Face::Stream, driver),
    };
    DRIVERS.iter().find(|(name, _)| *name == driver).map(|(_, choice)| (*choice, face))
}

/// Where a server listens, or is to listen.
pub(crate) enum Address {
    Tcp(SocketAddrV4),
    Unix(PathBuf),
}

/// A running server; dropping it stops it and waits for its end.
pub(crate) struct Server {
    address: Address,
    stop: Option<StdUnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts the named server on a free port of 127.0.0.1; none where its driver cannot run.
    pub(crate) fn tcp(name: &str) -> Option<Server> {
        // Reno: some systems default to BBR, which paces what it sends even on loopback. What is
        // accepted inherits both options.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).ok()?;
        let _ = socket.set_tcp_congestion(b"reno");
        socket.set_tcp_nodelay(true).ok()?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into()).ok()?;
        socket.listen(4096).ok()?;
        let address = Address::Tcp(socket.local_addr().ok()?.as_socket_ipv4()?);
        Server::start(name, address, socket.into())
    }

    /// Starts the named server on a socket in the folder for temporary files.
    pub(crate) fn unix(name: &str) -> Option<Server> {
        let path = std::env::temp_dir().join(format!("proactor-bench-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = StdUnixListener::bind(&path).ok()?;
        Server::start(name, Address::Unix(path), listener.into())
    }

    fn start(name: &str, address: Address, listener: OwnedFd) -> Option<Server> {
        let (choice, is_tokio) = (choice(name), name == "tokio");
        let (stop, stopped) = StdUnixStream::pair().ok()?;
        let (ready, is_ready) = channel();
        let tcp = matches!(address, Address::Tcp(_));
        let body = move || {
            os::pin(false);
            let result = match choice {
                Some((choice, face)) => ours(choice, face, tcp, listener, stopped, &ready),
                None if is_tokio => tokio_echo(listener, stopped, &ready),
                None => floor(listener, stopped, ready),
            };
            result.expect("the server runs until it is stopped");
        };
        let thread = std::thread::spawn(body);
        let runs = is_ready.recv().unwrap_or(false);
        let server = Server { address, stop: Some(stop), thread: Some(thread) };
        runs.then_some(server)
    }

    pub(crate) fn tcp_address(&self) -> Option<SocketAddrV4> {
        match &self.address {
            Address::Tcp(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }

    /// One blocking connection.
    pub(crate) fn connect(&self) -> io::Result<OwnedFd> {
        match &self.address {
            Address::Unix(path) => StdUnixStream::connect(path).map(OwnedFd::from),
            Address::Tcp(address) => {
                let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
                let _ = socket.set_tcp_congestion(b"reno");
                socket.set_tcp_nodelay(true)?;
                socket.connect(&(*address).into())?;
                Ok(socket.into())
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None; // the server sees the end of this stream
        let _ = self.thread.take().map(JoinHandle::join);
        if let Address::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn floor(listener: OwnedFd, stopped: StdUnixStream, ready: Sender<bool>) -> io::Result<()> {
    let possible = raw::Ring::new(8).is_ok();
    let _ = ready.send(possible);
    if possible { raw::server::serve(listener, stopped.into()) } else { Ok(()) }
}

fn tokio_echo(listener: OwnedFd, stopped: StdUnixStream, ready: &Sender<bool>) -> io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(async {
        let listener = std::net::TcpListener::from(listener);
        listener.set_nonblocking(true)?;
        stopped.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut stopped = tokio::net::UnixStream::from_std(stopped)?;
        let _ = ready.send(true);
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    let mut buffer = vec![0; 16 << 10];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        if stream.write_all(&buffer[..count]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        stopped.read_u8().await.map(drop).or(Ok(()))
    }))
}

/// Echoes as a protocol.
#[derive(Default)]
struct Echo(OnceCell<Transport>);

impl Protocol for Echo {
    fn connection_made(&self, transport: &Transport) {
        let _ = self.0.set(transport.clone());
    }

    fn data_received(&self, data: Chunk) {
        if let Some(transport) = self.0.get() {
            let _ = transport.write(data);
        }
    }
}

async fn stream_echo(reader: StreamReader, writer: StreamWriter) -> io::Result<()> {
    loop {
        let data = reader.read(64 << 10).await?;
        if data.is_empty() {
            return Ok(());
        }
        writer.write(data)?;
        writer.drain().await?;
    }
}

fn ours(
    choice: DriverChoice,
    face: Face,
    tcp: bool,
    listener: OwnedFd,
    stopped: StdUnixStream,
    ready: &Sender<bool>,
) -> io::Result<()> {
    let Ok(event_loop) = event_loop(choice) else {
        let _ = ready.send(false);
        return Ok(());
    };
    event_loop.run_until_complete(async {
        let stopped = UnixStream::from_std(stopped)?;
        let stopped = async { stopped.receive().await };
        let nowhere = Vec::<SocketAddr>::new();
        let server = match face {
            Face::Plain => None,
            Face::Protocol => Some(create_server(Echo::default, nowhere)),
            Face::Stream => Some(start_server(stream_echo, nowhere)),
        };
        if let Some(server) = server {
            let server = server.listener(TcpListener::from_std(listener.into())?).backlog(4096).await?;
            let _ = ready.send(true);
            let _ = stopped.await;
            server.close();
            return server.wait_closed().await;
        }
        let _ = ready.send(true);
        if tcp {
            TcpListener::from_std(listener.into())?.serve(echo).until(stopped).await
        } else {
            UnixListener::from_std(listener.into())?.serve(echo).until(stopped).await
        }
    })?
}

async fn echo<F: Family>(stream: Stream<F>) -> io::Result<()> {
    while let Some(chunk) = stream.receive().await? {
        stream.send(chunk).await?;
    }
    Ok(())
}
