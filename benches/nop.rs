//! What does the smallest trip through the kernel cost?
//!
//! - `nop::nop`: a NOP: into the kernel and back, and nothing else. Under epoll there is no such
//!   operation: what is left is the way through the runtime.
//! - `nop::ping`: one byte over a UNIX pair inside one loop: a send and a receive.
//! - `nop::read`: one byte of a cached file: an operation without readiness (a pool's, under epoll).
mod common;
mod raw;

use common::{Group, RAW, loops};
use criterion::Criterion;
use io_uring::{opcode, types};
use proactor::fs::File;
use proactor::net::UnixStream;
use proactor::nop;
use raw::{Buffers, Ring, tag};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

fn main() {
    let mut criterion = common::start("nop: what does the smallest trip through the kernel cost?");
    nops(&mut criterion);
    ping(&mut criterion);
    read(&mut criterion);
    criterion.final_summary();
}

fn nops(criterion: &mut Criterion) {
    let mut group = Group::new(criterion, "nop::nop");
    for (name, event_loop) in loops() {
        group.case(name, 1, |count| {
            let body = async {
                let start = Instant::now();
                for _ in 0..count {
                    nop().await?;
                }
                Ok::<_, io::Error>(start.elapsed())
            };
            event_loop.run_until_complete(body).and_then(|result| result).expect("nothing is done")
        });
    }
    if let Ok(mut ring) = Ring::new(64) {
        let mut done = Vec::new();
        group.case(RAW, 1, |count| {
            let start = Instant::now();
            for _ in 0..count {
                ring.push(opcode::Nop::new().build());
                ring.turn(&mut done).expect("the ring turns");
                done.clear();
            }
            start.elapsed()
        });
    }
    group.finish();
}

fn ping(criterion: &mut Criterion) {
    let mut group = Group::new(criterion, "nop::ping");
    for (name, event_loop) in loops() {
        group.case(name, 1, |count| {
            let body = async {
                let (a, b) = UnixStream::pair()?;
                let start = Instant::now();
                for _ in 0..count {
                    a.send(&b"."[..]).await?;
                    b.receive().await?;
                }
                Ok::<_, io::Error>(start.elapsed())
            };
            event_loop.run_until_complete(body).and_then(|result| result).expect("a pair of sockets talks")
        });
    }
    raw_ping(&mut group);
    group.finish();
}

fn raw_ping(group: &mut Group<'_>) {
    let Ok(mut ring) = Ring::new(64) else { return };
    let mut buffers = Buffers::new(&ring, 16, 4096).expect("receive buffers");
    let (a, b) = std::os::unix::net::UnixStream::pair().expect("a pair");
    ring.push(opcode::RecvMulti::new(types::Fd(b.as_raw_fd()), Buffers::GROUP).build());
    let mut done = Vec::new();
    group.case(RAW, 1, |count| {
        let start = Instant::now();
        for _ in 0..count {
            ring.push(
                opcode::Send::new(types::Fd(a.as_raw_fd()), b".".as_ptr(), 1).build().user_data(tag(1, 0)),
            );
            let mut received = false;
            let mut sent = false;
            while !(received && sent) {
                ring.turn(&mut done).expect("the ring turns");
                for entry in done.drain(..) {
                    assert_eq!(entry.result(), 1);
                    match io_uring::cqueue::buffer_select(entry.flags()) {
                        Some(id) => {
                            buffers.give_back(id);
                            received = true;
                        }
                        None => sent = true,
                    }
                }
            }
            buffers.publish();
        }
        start.elapsed()
    });
}

fn read(criterion: &mut Criterion) {
    let path = std::env::current_exe().expect("this program is a file");
    let mut group = Group::new(criterion, "nop::read");
    for (name, event_loop) in loops() {
        group.case(name, 1, |count| {
            let body = async {
                let file = File::open(&path).await?;
                let mut buffer = vec![0; 1];
                let start = Instant::now();
                for _ in 0..count {
                    (_, buffer) = file.read_at(buffer, 0).await?;
                }
                Ok::<_, io::Error>(start.elapsed())
            };
            event_loop.run_until_complete(body).and_then(|result| result).expect("a file is read")
        });
    }
    if let Ok(mut ring) = Ring::new(64) {
        let file = std::fs::File::open(&path).expect("a file opens");
        let buffer: &'static mut [u8; 1] = Box::leak(Box::new([0]));
        let mut done = Vec::new();
        group.case(RAW, 1, |count| {
            let start = Instant::now();
            for _ in 0..count {
                ring.push(opcode::Read::new(types::Fd(file.as_raw_fd()), buffer.as_mut_ptr(), 1).build());
                ring.turn(&mut done).expect("the ring turns");
                done.clear();
            }
            start.elapsed()
        });
    }
    group.finish();
}
