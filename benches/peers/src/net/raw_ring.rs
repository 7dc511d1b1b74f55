//! Servers on a bare ring, each in the idiom that measured best: the floor.
//!
//! # Safety
//! What a submission points at is leaked, or lives in a server that never ends.

use super::{Job, child};
use crate::raw::{Buffers, Ring, files, server, tag, untag};
use io_uring::{cqueue, opcode, types};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Up to here READ and SEND need less than two splices.
const READ_MAX: usize = 64 << 10;

const ACCEPT: u64 = 1;
const RECEIVE: u64 = 2;
const SEND: u64 = 3;
const CLOSE: u64 = 4;

pub(super) fn serve(job: &Job<'_>) -> io::Result<()> {
    let echo = |listener| {
        let (stop, _never) = UnixStream::pair()?;
        server::serve(listener, stop.into())
    };
    match job.kind {
        "echo" => echo(child::announce_tcp()?.into()),
        "unix" => echo(std::os::unix::net::UnixListener::bind(child::announce_path()?)?.into()),
        "udp" => echo_udp(&child::announce_udp()?.into()),
        "sink" => sink(&child::announce_tcp()?.into()),
        _ => {
            let idiom = if job.bytes > READ_MAX { files::Idiom::Splice } else { files::Idiom::Read };
            serve_files(job, idiom)
        }
    }
}

/// Takes the connections that there will be, and answers on them.
pub(super) fn serve_files(job: &Job<'_>, idiom: files::Idiom) -> io::Result<()> {
    let listener = child::announce_tcp()?;
    let accept = |_| Ok::<_, io::Error>(OwnedFd::from(listener.accept()?.0));
    let sockets = (0..job.connections).map(accept).collect::<io::Result<_>>()?;
    files::serve(idiom, sockets, &std::fs::File::open(&job.file)?.into())
}

/// Multishot accept; a receive at a time for each connection, into a buffer of its own.
fn sink(listener: &OwnedFd) -> io::Result<()> {
    const BUFFER: usize = 256 << 10;
    let mut ring = Ring::new(256)?;
    let accept = |ring: &mut Ring| {
        let accept = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd()));
        ring.push(accept.build().user_data(tag(ACCEPT, 0)));
    };
    let receive = |ring: &mut Ring, fd: usize, buffer: &mut [u8]| {
        let receive = opcode::Recv::new(types::Fd(fd as RawFd), buffer.as_mut_ptr(), buffer.len() as u32);
        ring.push(receive.build().user_data(tag(RECEIVE, fd)));
    };
    accept(&mut ring);
    // By descriptor, which the kernel keeps small.
    let mut buffers: Vec<&'static mut [u8]> = Vec::new();
    let mut done: Vec<cqueue::Entry> = Vec::new();
    loop {
        ring.turn(&mut done)?;
        for entry in done.drain(..) {
            match (untag(entry.user_data()), entry.result()) {
                ((ACCEPT, _), fd @ 0..) => {
                    let fd = fd as usize;
                    while buffers.len() <= fd {
                        buffers.push(vec![0; BUFFER].leak());
                    }
                    receive(&mut ring, fd, buffers[fd]);
                    if !cqueue::more(entry.flags()) {
                        accept(&mut ring);
                    }
                }
                ((RECEIVE, fd), 1..) => receive(&mut ring, fd, buffers[fd]),
                ((RECEIVE, fd), _) => {
                    let send = opcode::Send::new(types::Fd(fd as RawFd), b"e".as_ptr(), 1).build();
                    ring.push(send.user_data(tag(SEND, fd)));
                }
                ((SEND, fd), _) => {
                    let close = opcode::Close::new(types::Fd(fd as RawFd)).build();
                    ring.push(close.user_data(tag(CLOSE, fd)));
                }
                _ => {}
            }
        }
    }
}

/// Multishot receive of messages into provided buffers; each goes back from the buffer it came in.
fn echo_udp(socket: &OwnedFd) -> io::Result<()> {
    let mut ring = Ring::new(4096)?;
    let mut buffers = Buffers::new(&ring, 1024, 4096)?;
    // SAFETY: zeroes are a valid header.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
    let header: &'static libc::msghdr = Box::leak(Box::new(header));
    let receive = |ring: &mut Ring| {
        let receive = opcode::RecvMsgMulti::new(types::Fd(socket.as_raw_fd()), header, Buffers::GROUP);
        ring.push(receive.build().user_data(tag(RECEIVE, 0)));
    };
    receive(&mut ring);
    let mut done: Vec<cqueue::Entry> = Vec::new();
    loop {
        ring.turn(&mut done)?;
        for entry in done.drain(..) {
            let (op, id) = untag(entry.user_data());
            if op == SEND {
                buffers.give_back(id as u16);
                continue;
            }
            if let (n @ 1.., Some(id)) = (entry.result(), cqueue::buffer_select(entry.flags())) {
                // SAFETY: the kernel has filled so much of the buffer, which is ours until it is given back.
                let filled = unsafe { std::slice::from_raw_parts(buffers.at(id), n as usize) };
                let message = types::RecvMsgOut::parse(filled, header).expect("the kernel's own format");
                let (data, name) = (message.payload_data(), message.name_data());
                let fd = types::Fd(socket.as_raw_fd());
                let send = opcode::Send::new(fd, data.as_ptr(), data.len() as u32)
                    .dest_addr(name.as_ptr().cast())
                    .dest_addr_len(name.len() as u32);
                ring.push(send.build().user_data(tag(SEND, id as usize)));
            }
            if !cqueue::more(entry.flags()) {
                receive(&mut ring);
            }
        }
        buffers.publish();
    }
}
