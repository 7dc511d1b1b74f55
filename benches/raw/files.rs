//! Serving a file on a bare ring, by either idiom, and by sendfile(2) on a bare epoll set; and the load on it.
//!
//! A request is a length, eight bytes little-endian; the answer is so many bytes of the file. A server ends when all
//! its clients have.

use super::{Ring, tag, untag};
use io_uring::{opcode, squeue, types};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// How a bare server sends a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idiom {
    /// READ linked to SEND, in blocks of 128 KiB, which measured best.
    Read,
    /// SPLICE into a pipe of 1 MiB linked to SPLICE out of it.
    Splice,
    /// sendfile(2) when epoll says that the socket takes bytes.
    Sendfile,
}

const BLOCK: usize = 128 << 10;
const PIPE: usize = 1 << 20;

const RECEIVE: u64 = 1;
const FIRST: u64 = 2;
const SECOND: u64 = 3;

struct Connection {
    socket: OwnedFd,
    pipe: [OwnedFd; 2],
    request: &'static mut [u8; 8],
    block: &'static mut [u8],
    left: u64,
    offset: u64,
    in_pipe: u32,
}

fn failed() -> io::Error {
    io::Error::last_os_error()
}

fn pipe() -> io::Result<[OwnedFd; 2]> {
    let mut ends = [0; 2];
    // SAFETY: there is room for the two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
        return Err(failed());
    }
    // SAFETY: the argument is a number. A smaller pipe works too.
    unsafe { libc::fcntl(ends[1], libc::F_SETPIPE_SZ, PIPE) };
    // SAFETY: they are new, so they belong to nobody else.
    Ok(ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Answers all requests.
pub(crate) fn serve(idiom: Idiom, sockets: Vec<OwnedFd>, file: &OwnedFd) -> io::Result<()> {
    if idiom == Idiom::Sendfile {
        return serve_on_epoll(&sockets, file.as_raw_fd());
    }
    let mut ring = Ring::new(256)?;
    let mut connections = Vec::new();
    for socket in sockets {
        let (request, block) = (Box::leak(Box::new([0; 8])), vec![0; BLOCK].leak());
        connections.push(Connection {
            socket,
            pipe: pipe()?,
            request,
            block,
            left: 0,
            offset: 0,
            in_pipe: 0,
        });
    }
    (0..connections.len()).for_each(|i| receive(&mut ring, &mut connections, i));
    let (mut open, mut done) = (connections.len(), Vec::new());
    while open > 0 {
        ring.turn(&mut done)?;
        for entry in done.drain(..) {
            let (op, i) = untag(entry.user_data());
            let connection = &mut connections[i];
            match (op, entry.result()) {
                (RECEIVE, 8) => {
                    (connection.left, connection.offset) = (u64::from_le_bytes(*connection.request), 0);
                    connection.in_pipe = 0;
                }
                (RECEIVE, _) => {
                    open -= 1;
                    continue;
                }
                (SECOND, sent @ 1..) => {
                    connection.left -= sent as u64;
                    connection.offset += sent as u64;
                    connection.in_pipe = connection.in_pipe.saturating_sub(sent as u32);
                }
                (_, result) => return Err(io::Error::from_raw_os_error(-result)),
            }
            if connection.left == 0 {
                receive(&mut ring, &mut connections, i);
            } else {
                next(&mut ring, connection, i, idiom, file.as_raw_fd());
            }
        }
    }
    Ok(())
}

fn receive(ring: &mut Ring, connections: &mut [Connection], i: usize) {
    let connection = &mut connections[i];
    let fd = types::Fd(connection.socket.as_raw_fd());
    let entry = opcode::Recv::new(fd, connection.request.as_mut_ptr(), 8).flags(libc::MSG_WAITALL).build();
    ring.push(entry.user_data(tag(RECEIVE, i)));
}

fn next(ring: &mut Ring, connection: &mut Connection, i: usize, idiom: Idiom, file: RawFd) {
    let socket = types::Fd(connection.socket.as_raw_fd());
    let link = |entry: squeue::Entry| {
        entry.flags(squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS).user_data(tag(FIRST, i))
    };
    let second = if idiom == Idiom::Read {
        let len = connection.left.min(BLOCK as u64) as u32;
        let address = connection.block.as_mut_ptr();
        ring.push(link(opcode::Read::new(types::Fd(file), address, len).offset(connection.offset).build()));
        opcode::Send::new(socket, address, len).flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL).build()
    } else {
        let [reader, writer] = [0, 1].map(|end| types::Fd(connection.pipe[end].as_raw_fd()));
        if connection.in_pipe == 0 {
            connection.in_pipe = connection.left.min(PIPE as u64) as u32;
            let offset = connection.offset as i64;
            ring.push(link(
                opcode::Splice::new(types::Fd(file), offset, writer, -1, connection.in_pipe).build(),
            ));
        }
        opcode::Splice::new(reader, -1, socket, -1, connection.in_pipe).build()
    };
    ring.push(second.user_data(tag(SECOND, i)));
}

fn serve_on_epoll(sockets: &[OwnedFd], file: RawFd) -> io::Result<()> {
    // SAFETY: takes no pointer.
    let set = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if set < 0 {
        return Err(failed());
    }
    // SAFETY: it is new, so it belongs to nobody else.
    let set = unsafe { OwnedFd::from_raw_fd(set) };
    for (i, socket) in sockets.iter().enumerate() {
        socket2::SockRef::from(socket).set_nonblocking(true)?;
        let flags = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events: flags, u64: i as u64 };
        // SAFETY: the event is a local.
        unsafe { libc::epoll_ctl(set.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &raw mut event) };
    }
    let mut states = vec![(0_usize, 0_i64); sockets.len()];
    let mut open = sockets.len();
    // SAFETY: zeroes are valid events.
    let mut events: [libc::epoll_event; 64] = unsafe { std::mem::zeroed() };
    while open > 0 {
        // SAFETY: there is room for so many events.
        let count = unsafe { libc::epoll_wait(set.as_raw_fd(), events.as_mut_ptr(), 64, -1) };
        for event in &events[..usize::try_from(count).unwrap_or(0)] {
            let i = event.u64 as usize;
            open -= usize::from(!answer(sockets[i].as_raw_fd(), file, &mut states[i])?);
        }
    }
    Ok(())
}

/// Goes on until the socket is not ready; false at the end of the connection.
fn answer(socket: RawFd, file: RawFd, (left, offset): &mut (usize, i64)) -> io::Result<bool> {
    loop {
        let mut request = [0_u8; 8];
        let result = if *left > 0 {
            // SAFETY: the offset is the caller's.
            unsafe { libc::sendfile64(socket, file, offset, *left) }
        } else {
            // SAFETY: there is room for so many bytes.
            unsafe { libc::recv(socket, request.as_mut_ptr().cast(), 8, 0) }
        };
        match result {
            sent @ 1.. if *left > 0 => *left -= sent as usize,
            8 => (*left, *offset) = (u64::from_le_bytes(request) as usize, 0),
            0 => return Ok(false),
            _ if failed().kind() == io::ErrorKind::WouldBlock => return Ok(true),
            _ => return Err(failed()),
        }
    }
}

/// Clients that ask for a file again and again, each on a connection of its own, and throw away what comes.
pub(crate) struct Client {
    sockets: Vec<OwnedFd>,
    missing: Vec<u64>,
    size: u64,
}

impl Client {
    pub(crate) fn new(sockets: Vec<OwnedFd>, size: usize) -> Client {
        Client { missing: vec![0; sockets.len()], sockets, size: size as u64 }
    }

    fn ask(&mut self, i: usize) -> io::Result<()> {
        let request = self.size.to_le_bytes();
        let fd = self.sockets[i].as_raw_fd();
        // SAFETY: eight bytes are passed.
        let sent = unsafe { libc::send(fd, request.as_ptr().cast(), 8, libc::MSG_NOSIGNAL) };
        self.missing[i] = self.size;
        if sent == 8 { Ok(()) } else { Err(failed()) }
    }

    /// Asks `count` times and returns when all is there.
    pub(crate) fn run(&mut self, count: u64) -> io::Result<()> {
        let mut started = count.min(self.sockets.len() as u64);
        (0..started as usize).try_for_each(|i| self.ask(i))?;
        let mut finished = 0;
        let entry =
            |socket: &OwnedFd| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut polls: Vec<libc::pollfd> = self.sockets.iter().map(entry).collect();
        while finished < count {
            // SAFETY: the length is that of the list.
            if unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as _, -1) } < 0 {
                return Err(failed());
            }
            for (i, poll) in polls.iter().enumerate() {
                if poll.revents == 0 || self.missing[i] == 0 {
                    continue;
                }
                // SAFETY: with MSG_TRUNC a TCP socket drops the bytes, and writes none.
                let received = unsafe {
                    libc::recv(
                        poll.fd,
                        std::ptr::null_mut(),
                        self.missing[i].min(4 << 20) as usize,
                        libc::MSG_TRUNC | libc::MSG_DONTWAIT,
                    )
                };
                if received <= 0 {
                    return Err(failed());
                }
                self.missing[i] -= received as u64;
                if self.missing[i] == 0 {
                    finished += 1;
                    if started < count {
                        started += 1;
                        self.ask(i)?;
                    }
                }
            }
        }
        Ok(())
    }
}
