//! The load on a server: closed-loop echo over standing connections, and short connections.

use super::{Buffers, Ring, tag, untag};
use io_uring::{cqueue, opcode, squeue, types};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

/// Bytes per message.
pub(crate) const MESSAGE: usize = 64;

const RECEIVE: u64 = 1;
const SEND: u64 = 2;
const CONNECT: u64 = 3;

/// Standing connections, each with at most one message under way.
pub(crate) struct Echo {
    ring: Ring,
    buffers: Buffers,
    connections: Vec<OwnedFd>,
    /// Bytes of the message under way that have not come back yet, by connection.
    missing: Vec<usize>,
    message: &'static [u8],
    done: Vec<cqueue::Entry>,
    /// When the message under way was queued, by connection.
    since: Vec<Instant>,
    /// How long each message of the last run took, in nanoseconds.
    pub(crate) times: Vec<u32>,
}

impl Echo {
    pub(crate) fn new(connections: Vec<OwnedFd>) -> io::Result<Echo> {
        Echo::with_messages(connections, MESSAGE)
    }

    /// With so many bytes per message.
    pub(crate) fn with_messages(connections: Vec<OwnedFd>, bytes: usize) -> io::Result<Echo> {
        let ring = Ring::new(4096)?;
        let count = (2 * connections.len()).next_power_of_two().clamp(64, 4096) as u16;
        let buffers = Buffers::new(&ring, count, 2048)?;
        let missing = vec![0; connections.len()];
        let message = vec![0x5a; bytes].leak();
        let since = vec![Instant::now(); connections.len()];
        let (done, times) = (Vec::new(), Vec::new());
        let mut echo = Echo { ring, buffers, connections, missing, message, done, since, times };
        (0..echo.connections.len()).for_each(|i| echo.receive(i));
        Ok(echo)
    }

    /// Sends `count` messages over all connections and returns when all have come back.
    pub(crate) fn run(&mut self, count: u64) -> io::Result<()> {
        self.times.clear();
        let mut started = count.min(self.connections.len() as u64);
        (0..started as usize).for_each(|i| self.send(i));
        let mut finished = 0;
        while finished < count {
            let mut done = std::mem::take(&mut self.done);
            self.ring.turn(&mut done)?;
            for entry in done.drain(..) {
                let (op, i) = untag(entry.user_data());
                if op != RECEIVE {
                    return Err(io::Error::from_raw_os_error(-entry.result()));
                }
                if self.received(i, &entry)? {
                    finished += 1;
                    self.times.push(nanoseconds(self.since[i]));
                    if started < count {
                        started += 1;
                        self.send(i);
                    }
                }
            }
            self.buffers.publish();
            self.done = done;
        }
        Ok(())
    }

    fn receive(&mut self, i: usize) {
        let receive = opcode::RecvMulti::new(types::Fd(self.connections[i].as_raw_fd()), Buffers::GROUP);
        self.ring.push(receive.build().user_data(tag(RECEIVE, i)));
    }

    fn send(&mut self, i: usize) {
        self.missing[i] = self.message.len();
        self.since[i] = Instant::now();
        let send = opcode::Send::new(
            types::Fd(self.connections[i].as_raw_fd()),
            self.message.as_ptr(),
            self.message.len() as u32,
        );
        let all = send.flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL).build();
        self.ring.push(all.flags(squeue::Flags::SKIP_SUCCESS).user_data(tag(SEND, i)));
    }

    /// Takes one completion; true when the message is whole.
    fn received(&mut self, i: usize, entry: &cqueue::Entry) -> io::Result<bool> {
        let n = match entry.result() {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            error if error == -libc::ENOBUFS => 0,
            error if error < 0 => return Err(io::Error::from_raw_os_error(-error)),
            n => n as usize,
        };
        if let Some(id) = cqueue::buffer_select(entry.flags()) {
            self.buffers.give_back(id);
        }
        if !cqueue::more(entry.flags()) {
            self.receive(i);
        }
        if n > self.missing[i] {
            return Err(io::Error::other("more came back than was sent"));
        }
        self.missing[i] -= n;
        Ok(n > 0 && self.missing[i] == 0)
    }
}

fn nanoseconds(since: Instant) -> u32 {
    since.elapsed().as_nanos().try_into().unwrap_or(u32::MAX)
}

/// Short connections, a fixed number at a time: connect, one message there and back, close.
pub(crate) struct Churn {
    ring: Ring,
    to: &'static libc::sockaddr_in,
    slots: Vec<Option<OwnedFd>>,
    /// Where the answers go; one message per slot.
    answers: &'static mut [[u8; MESSAGE]],
    message: &'static [u8; MESSAGE],
    sequence: u32,
    done: Vec<cqueue::Entry>,
    /// When the connection was begun, by slot.
    since: Vec<Instant>,
    /// How long each connection of the last run took, in nanoseconds.
    pub(crate) times: Vec<u32>,
}

impl Churn {
    pub(crate) fn new(to: SocketAddrV4, slots: usize) -> io::Result<Churn> {
        // SAFETY: all zeroes is a valid sockaddr_in.
        let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_port = to.port().to_be();
        address.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
        Ok(Churn {
            ring: Ring::new(1024)?,
            to: Box::leak(Box::new(address)),
            slots: (0..slots).map(|_| None).collect(),
            answers: vec![[0; MESSAGE]; slots].leak(),
            message: Box::leak(Box::new([0x5a; MESSAGE])),
            sequence: std::process::id().wrapping_mul(7919),
            done: Vec::new(),
            since: vec![Instant::now(); slots],
            times: Vec::new(),
        })
    }

    /// Makes `count` connections and returns when the last one is closed on this side.
    pub(crate) fn run(&mut self, count: u64) -> io::Result<()> {
        self.times.clear();
        let mut started = count.min(self.slots.len() as u64);
        for i in 0..started as usize {
            self.start(i)?;
        }
        let mut finished = 0;
        while finished < count {
            let mut done = std::mem::take(&mut self.done);
            self.ring.turn(&mut done)?;
            for entry in done.drain(..) {
                let (op, i) = untag(entry.user_data());
                if op != RECEIVE || entry.result() != MESSAGE as i32 {
                    let error = io::Error::from_raw_os_error(-entry.result().min(0));
                    return Err(io::Error::other(format!("operation {op} gave {}: {error}", entry.result())));
                }
                self.slots[i] = None; // closes
                self.times.push(nanoseconds(self.since[i]));
                finished += 1;
                if started < count {
                    started += 1;
                    self.start(i)?;
                }
            }
            self.done = done;
        }
        Ok(())
    }

    fn start(&mut self, i: usize) -> io::Result<()> {
        self.since[i] = Instant::now();
        let socket = self.socket()?;
        let fd = types::Fd(socket.as_raw_fd());
        self.slots[i] = Some(socket);
        // One chain: only its last link completes, unless one fails.
        let silent = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
        let to = std::ptr::from_ref(self.to).cast();
        let connect = opcode::Connect::new(fd, to, size_of::<libc::sockaddr_in>() as u32).build();
        self.ring.push(connect.flags(silent).user_data(tag(CONNECT, i)));
        let send =
            opcode::Send::new(fd, self.message.as_ptr(), MESSAGE as u32).flags(libc::MSG_NOSIGNAL).build();
        self.ring.push(send.flags(silent).user_data(tag(SEND, i)));
        let receive =
            opcode::Recv::new(fd, self.answers[i].as_mut_ptr(), MESSAGE as u32).flags(libc::MSG_WAITALL);
        self.ring.push(receive.build().user_data(tag(RECEIVE, i)));
        Ok(())
    }

    /// A socket with a source address and port of its own: the side that closes first keeps the pair
    /// busy for a minute, and one address has too few ports for that.
    fn socket(&mut self) -> io::Result<OwnedFd> {
        loop {
            self.sequence = self.sequence.wrapping_add(1);
            let pair = self.sequence % (250 * 50_000);
            let source = Ipv4Addr::new(127, 0, 0, 2 + (pair % 250) as u8);
            let from = SocketAddr::from((source, 10_000 + (pair / 250) as u16));
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            match socket.bind(&from.into()) {
                Ok(()) => return Ok(socket.into()),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
    }
}
