//! Reads of a file and messages through pipes on a bare ring: the floor of these rows.
//!
//! # Safety
//! What a submission points at is leaked, or outlives the last completion, for which each function waits.

use super::reads::{BYTES, Random};
use crate::measure::{Case, Clock, Cost};
use crate::raw::{Ring, tag, untag};
use io_uring::{opcode, squeue, types};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsRawFd;

pub(super) fn reads(depth: usize) -> Case {
    let run = move |operations| {
        // A loop that has turned, as in the others.
        random_reads(depth, operations / 8 + 1).and_then(|_| random_reads(depth, operations))
    };
    let run = move |operations| run(operations).expect("the file is long enough");
    Case { row: format!("{} {depth}", super::READS), peer: "raw", run: Box::new(run) }
}

fn random_reads(depth: usize, operations: u64) -> io::Result<Cost> {
    let path = crate::net::file()?;
    let blocks = std::fs::metadata(&path)?.len() / BYTES as u64;
    let file = std::fs::File::open(path)?;
    let mut ring = Ring::new(256)?;
    let mut buffers = vec![[0_u8; BYTES]; depth];
    let mut random: Vec<Random> = (0..depth as u64).map(Random::new).collect();
    let mut done = Vec::new();
    let (mut started, mut finished) = (0, 0);
    let clock = Clock::start();
    let mut idle: Vec<usize> = (0..depth).collect();
    while finished < operations {
        while started < operations
            && let Some(i) = idle.pop()
        {
            let fd = types::Fd(file.as_raw_fd());
            let read = opcode::Read::new(fd, buffers[i].as_mut_ptr(), BYTES as u32);
            let offset = random[i].below(blocks) * BYTES as u64;
            ring.push(read.offset(offset).build().user_data(tag(0, i)));
            started += 1;
        }
        ring.turn(&mut done)?;
        for entry in done.drain(..) {
            assert_eq!(entry.result(), BYTES as i32);
            finished += 1;
            idle.push(untag(entry.user_data()).1);
        }
    }
    Ok(clock.cost(operations))
}

pub(super) fn pipes(bytes: usize) -> Case {
    let run = move |operations| {
        there_and_back(bytes, operations / 8 + 1).and_then(|_| there_and_back(bytes, operations))
    };
    let run = move |operations| run(operations).expect("both ends are open");
    Case { row: format!("{} {bytes}", super::PIPES), peer: "raw", run: Box::new(run) }
}

/// Both readers always read, a turn of the ring for each message.
fn there_and_back(bytes: usize, operations: u64) -> io::Result<Cost> {
    let pipes: [(PipeReader, PipeWriter); 2] = [io::pipe()?, io::pipe()?];
    let mut ring = Ring::new(64)?;
    // One read is still under way at the end.
    let mut buffers = [vec![0x5a_u8; bytes].leak(), vec![0; bytes].leak()];
    let mut done = Vec::new();
    let clock = Clock::start();
    let mut left = operations;
    let read = |ring: &mut Ring, i: usize, buffer: &mut [u8]| {
        let fd = types::Fd(pipes[i].0.as_raw_fd());
        let read = opcode::Read::new(fd, buffer.as_mut_ptr(), buffer.len() as u32).offset(u64::MAX);
        ring.push(read.build().user_data(tag(0, i)));
    };
    let write = |ring: &mut Ring, i: usize, buffer: &[u8]| {
        let fd = types::Fd(pipes[i].1.as_raw_fd());
        let write = opcode::Write::new(fd, buffer.as_ptr(), buffer.len() as u32).offset(u64::MAX);
        ring.push(write.build().flags(squeue::Flags::SKIP_SUCCESS).user_data(tag(1, i)));
    };
    // Pipe 0 leads there, pipe 1 back. What was read from one is written to the other from the same buffer.
    write(&mut ring, 0, buffers[0]);
    (0..2).for_each(|i| read(&mut ring, i, buffers[1 - i]));
    loop {
        ring.turn(&mut done)?;
        for entry in done.drain(..) {
            assert_eq!(entry.result(), bytes as i32);
            let i = untag(entry.user_data()).1;
            left -= u64::from(i == 1);
            if left == 0 {
                return Ok(clock.cost(operations));
            }
            write(&mut ring, 1 - i, buffers[1 - i]);
            read(&mut ring, i, buffers[1 - i]);
        }
    }
}
