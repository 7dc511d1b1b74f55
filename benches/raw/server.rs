//! An echo server on a bare ring: multishot accept, multishot receive, one send in flight.

use super::{Buffers, Ring, tag, untag};
use io_uring::{cqueue, opcode, squeue, types};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1;
const SEND: u64 = 2;
const CLOSE: u64 = 3;
const STOP: u64 = 4;

#[derive(Default)]
struct Connection {
    /// Received, not yet sent back: (buffer, length). The first is in the kernel's hands.
    queue: VecDeque<(u16, u32)>,
    receiving: bool,
    ended: bool,
}

struct Server {
    ring: Ring,
    buffers: Buffers,
    /// Indexed by descriptor, which the kernel keeps small.
    connections: Vec<Connection>,
    listener: OwnedFd,
}

/// Serves until the other end of `stop` is closed.
pub(crate) fn serve(listener: OwnedFd, stop: OwnedFd) -> io::Result<()> {
    let ring = Ring::new(4096)?;
    let buffers = Buffers::new(&ring, 1024, 4096)?;
    let mut server = Server { ring, buffers, connections: Vec::new(), listener };
    server.accept();
    let last: &'static mut [u8; 1] = Box::leak(Box::new([0]));
    let read = opcode::Read::new(types::Fd(stop.as_raw_fd()), last.as_mut_ptr(), 1);
    server.ring.push(read.build().user_data(tag(STOP, 0)));
    let mut done: Vec<cqueue::Entry> = Vec::new();
    loop {
        server.ring.turn(&mut done)?;
        for entry in done.drain(..) {
            let (op, fd) = untag(entry.user_data());
            match op {
                ACCEPT => server.accepted(&entry),
                RECEIVE => server.received(fd, &entry),
                SEND => server.sent(fd, entry.result()),
                STOP => return Ok(()),
                _ => {} // a close that failed
            }
        }
        server.buffers.publish();
    }
}

impl Server {
    fn accept(&mut self) {
        let accept = opcode::AcceptMulti::new(types::Fd(self.listener.as_raw_fd()));
        self.ring.push(accept.build().user_data(tag(ACCEPT, 0)));
    }

    fn accepted(&mut self, entry: &cqueue::Entry) {
        if let Ok(fd) = usize::try_from(entry.result()) {
            if self.connections.len() <= fd {
                self.connections.resize_with(fd + 1, Connection::default);
            }
            self.connections[fd].ended = false;
            self.receive(fd);
        }
        if !cqueue::more(entry.flags()) {
            self.accept();
        }
    }

    fn receive(&mut self, fd: usize) {
        self.connections[fd].receiving = true;
        let receive = opcode::RecvMulti::new(types::Fd(fd as RawFd), Buffers::GROUP);
        self.ring.push(receive.build().user_data(tag(RECEIVE, fd)));
    }

    fn received(&mut self, fd: usize, entry: &cqueue::Entry) {
        let connection = &mut self.connections[fd];
        connection.receiving = cqueue::more(entry.flags());
        match (entry.result(), cqueue::buffer_select(entry.flags())) {
            (n @ 1.., Some(id)) => {
                connection.queue.push_back((id, n as u32));
                let idle = connection.queue.len() == 1;
                if !connection.receiving {
                    self.receive(fd);
                }
                if idle {
                    self.send(fd);
                }
            }
            (error, _) if error == -libc::ENOBUFS => self.receive(fd),
            _ => {
                connection.ended = true;
                self.close_if_done(fd);
            }
        }
    }

    fn send(&mut self, fd: usize) {
        let Some(&(id, len)) = self.connections[fd].queue.front() else { return };
        let send = opcode::Send::new(types::Fd(fd as RawFd), self.buffers.at(id), len);
        let all = send.flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        self.ring.push(all.build().user_data(tag(SEND, fd)));
    }

    fn sent(&mut self, fd: usize, result: i32) {
        let connection = &mut self.connections[fd];
        if let Some((id, _)) = connection.queue.pop_front() {
            self.buffers.give_back(id);
        }
        if result < 0 {
            connection.ended = true;
            connection.queue.drain(..).for_each(|(id, _)| self.buffers.give_back(id));
        }
        self.send(fd);
        self.close_if_done(fd);
    }

    fn close_if_done(&mut self, fd: usize) {
        let connection = &self.connections[fd];
        if connection.ended && !connection.receiving && connection.queue.is_empty() {
            let close = opcode::Close::new(types::Fd(fd as RawFd)).build();
            self.ring.push(close.flags(squeue::Flags::SKIP_SUCCESS).user_data(tag(CLOSE, fd)));
        }
    }
}
