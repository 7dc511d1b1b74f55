//! The client of each scenario. It stays connected from round to round.

use super::Scenario;
use super::child::Address;
use crate::measure::p99;
use crate::raw::client::{Churn, Echo};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

pub(crate) enum Load {
    Echo(Echo),
    Churn(Churn),
    Bulk { address: Address, connections: usize, bytes: usize },
    Files { connections: Vec<TcpStream>, bytes: u64 },
}

impl Load {
    pub(crate) fn new(scenario: Scenario, address: &Address) -> io::Result<Load> {
        let Some(inet) = address.inet() else { return unix(scenario, address) };
        let tcp = |_| connect(address);
        Ok(match scenario {
            Scenario::Echo { connections, bytes } => {
                let connections = (0..connections).map(tcp).map(|stream| stream.map(OwnedFd::from));
                Load::Echo(Echo::with_messages(connections.collect::<io::Result<_>>()?, bytes)?)
            }
            Scenario::Udp { sockets, bytes } => {
                let sockets = (0..sockets).map(|_| {
                    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                    socket.connect(inet)?;
                    Ok(OwnedFd::from(socket))
                });
                Load::Echo(Echo::with_messages(sockets.collect::<io::Result<_>>()?, bytes)?)
            }
            Scenario::Churn { at_a_time } => Load::Churn(Churn::new(inet, at_a_time)?),
            Scenario::Bulk { connections, bytes } => {
                Load::Bulk { address: address.clone(), connections, bytes }
            }
            Scenario::Files { connections, bytes } => {
                Load::Files { connections: (0..connections).map(tcp).collect::<io::Result<_>>()?, bytes }
            }
            Scenario::Unix { .. } => return Err(io::Error::other("this server listens on TCP")),
        })
    }

    /// Performs about so many operations.
    pub(crate) fn run(&mut self, operations: u64) -> io::Result<Done> {
        match self {
            Load::Echo(echo) => {
                echo.run(operations)?;
                Ok(Done { operations, p99: p99(&mut echo.times) })
            }
            Load::Churn(churn) => {
                churn.run(operations)?;
                Ok(Done { operations, p99: p99(&mut churn.times) })
            }
            Load::Bulk { address, connections, bytes } => {
                let each = operations.div_ceil(*connections as u64);
                let (address, bytes) = (&*address, *bytes);
                let sends = (0..*connections).map(|_| move || send_bulk(&connect(address)?, each, bytes));
                together(sends)?;
                Ok(Done { operations: each * *connections as u64, p99: Duration::ZERO })
            }
            Load::Files { connections, bytes } => {
                let each = operations.div_ceil(connections.len() as u64);
                let bytes = *bytes;
                let times = together(connections.iter().map(|stream| move || fetch(stream, each, bytes)))?;
                let p99 = p99(&mut times.concat());
                Ok(Done { operations: each * connections.len() as u64, p99 })
            }
        }
    }
}

/// What a client has done, and how long 99 of 100 operations took at most.
pub(crate) struct Done {
    pub(crate) operations: u64,
    pub(crate) p99: Duration,
}

impl Address {
    fn inet(&self) -> Option<std::net::SocketAddrV4> {
        match self {
            Address::Inet(address) => Some(*address),
            Address::Path(_) => None,
        }
    }
}

fn unix(scenario: Scenario, address: &Address) -> io::Result<Load> {
    let (Scenario::Unix { connections, bytes }, Address::Path(path)) = (scenario, address) else {
        return Err(io::Error::other("this server listens on a path"));
    };
    // The path was told before there was a socket.
    let end = Instant::now() + Duration::from_secs(5);
    while let Err(error) = UnixStream::connect(path) {
        if Instant::now() > end {
            return Err(error);
        }
    }
    let connections = (0..connections).map(|_| UnixStream::connect(path).map(OwnedFd::from));
    Ok(Load::Echo(Echo::with_messages(connections.collect::<io::Result<_>>()?, bytes)?))
}

fn connect(address: &Address) -> io::Result<TcpStream> {
    let address = address.inet().ok_or_else(|| io::Error::other("this server listens on a path"))?;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    let _ = socket.set_tcp_congestion(b"reno");
    socket.set_tcp_nodelay(true)?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// Each in a thread of its own, on the CPU of this one.
fn together<T: Send>(
    work: impl Iterator<Item = impl FnOnce() -> io::Result<T> + Send>,
) -> io::Result<Vec<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = work.map(|work| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a client does not panic")).collect()
    })
}

fn send_bulk(mut stream: &TcpStream, count: u64, bytes: usize) -> io::Result<()> {
    let chunk = vec![0x5a; bytes];
    for _ in 0..count {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_exact(&mut [0])
}

/// Requests the file so often, and lets the kernel throw away what comes: a client that copies would be most of what
/// there is to wait for. Returns the nanoseconds that each took.
fn fetch(mut stream: &TcpStream, count: u64, bytes: u64) -> io::Result<Vec<u32>> {
    let mut times = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        stream.write_all(&bytes.to_le_bytes())?;
        let mut left = bytes as usize;
        while left > 0 {
            // SAFETY: with MSG_TRUNC, TCP discards the bytes and writes nothing to the pointer.
            let n = unsafe { libc::recv(stream.as_raw_fd(), std::ptr::null_mut(), left, libc::MSG_TRUNC) };
            match n {
                1.. => left -= n as usize,
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => return Err(io::Error::last_os_error()),
            }
        }
        times.push(begin.elapsed().as_nanos().try_into().unwrap_or(u32::MAX));
    }
    Ok(times)
}
