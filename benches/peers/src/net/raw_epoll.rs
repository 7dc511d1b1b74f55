//! Servers on a bare epoll set, written by hand: the floor of drivers that wait for readiness.

use super::{Job, child, raw_ring};
use crate::raw::files::Idiom;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

pub(super) fn serve(job: &Job<'_>) -> io::Result<()> {
    match job.kind {
        "echo" => echo(child::announce_tcp()?),
        "unix" => echo(UnixListener::bind(child::announce_path()?)?),
        "udp" => echo_udp(&child::announce_udp()?),
        "sink" => sink(child::announce_tcp()?),
        _ => raw_ring::serve_files(job, Idiom::Sendfile),
    }
}

/// An epoll set, with the number of a descriptor in each event.
struct Set {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Set {
    fn new() -> io::Result<Set> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is new, so it belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Set { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; 1024] })
    }

    /// Told of again and again while there is something to read.
    fn add(&self, fd: RawFd) -> io::Result<()> {
        let mut event =
            libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLRDHUP) as u32, u64: fd as u64 };
        // SAFETY: the event is a local.
        let added = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        if added < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The descriptors that are readable, at least one.
    fn wait(&mut self) -> impl Iterator<Item = RawFd> + use<'_> {
        let (events, room) = (self.events.as_mut_ptr(), self.events.len() as i32);
        // SAFETY: there is room for so many events.
        let count = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events, room, -1) };
        let count = usize::try_from(count).unwrap_or(0);
        self.events[..count].iter().map(|event| event.u64 as RawFd)
    }
}

/// TCP and UNIX alike.
trait Listener: AsRawFd {
    type Stream: Read + Write + AsRawFd;

    fn accept(&self) -> io::Result<Self::Stream>;
    fn set_nonblocking(&self) -> io::Result<()>;
    fn set_stream_nonblocking(stream: &Self::Stream) -> io::Result<()>;
}

macro_rules! listener {
    ($listener:ty, $stream:ty) => {
        impl Listener for $listener {
            type Stream = $stream;

            fn accept(&self) -> io::Result<$stream> {
                Ok(<$listener>::accept(self)?.0)
            }

            fn set_nonblocking(&self) -> io::Result<()> {
                <$listener>::set_nonblocking(self, true)
            }

            fn set_stream_nonblocking(stream: &$stream) -> io::Result<()> {
                stream.set_nonblocking(true)
            }
        }
    };
}

listener!(TcpListener, std::net::TcpStream);
listener!(UnixListener, std::os::unix::net::UnixStream);

/// Accepts, and calls `ready` with each stream that is readable, which says whether it stays.
fn serve_streams<L: Listener>(
    listener: L,
    mut ready: impl FnMut(&mut L::Stream) -> io::Result<bool>,
) -> io::Result<()> {
    let mut set = Set::new()?;
    listener.set_nonblocking()?;
    set.add(listener.as_raw_fd())?;
    // By descriptor, which the kernel keeps small.
    let mut streams: Vec<Option<L::Stream>> = Vec::new();
    let mut readable = Vec::new();
    loop {
        readable.extend(set.wait());
        for fd in readable.drain(..) {
            if fd == listener.as_raw_fd() {
                while let Ok(stream) = listener.accept() {
                    L::set_stream_nonblocking(&stream)?;
                    set.add(stream.as_raw_fd())?;
                    let place = stream.as_raw_fd() as usize;
                    if streams.len() <= place {
                        streams.resize_with(place + 1, || None);
                    }
                    streams[place] = Some(stream);
                }
            } else if let Some(stream) = &mut streams[fd as usize]
                && !ready(stream)?
            {
                streams[fd as usize] = None; // closes
            }
        }
    }
}

/// One receive and one send for each event. A message that does not fit is sent while others wait: the client takes
/// each before it sends the next, so there is none.
fn echo<L: Listener>(listener: L) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    serve_streams(listener, |stream| match stream.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(n) => stream.write_all(&buffer[..n]).map(|()| true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        Err(_) => Ok(false),
    })
}

fn sink(listener: TcpListener) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    serve_streams(listener, |stream| match stream.read(&mut buffer) {
        Ok(0) => stream.write_all(b"e").map(|()| false),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        Err(_) => Ok(false),
    })
}

/// recvfrom(2) and sendto(2) until there is nothing.
fn echo_udp(socket: &UdpSocket) -> io::Result<()> {
    let mut set = Set::new()?;
    socket.set_nonblocking(true)?;
    set.add(socket.as_raw_fd())?;
    let mut buffer = vec![0; 16 << 10];
    loop {
        set.wait().for_each(drop);
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..n], from)?;
        }
    }
}
