//! What does an echo cost the server?
//!
//! `echo::tcp` and `echo::unix`: CPU time of the server (user and system) per message of 64 bytes,
//! over 1, 50 or 1000 connections with one message under way on each. Time on the clock would measure
//! the client as much. The same client, on a bare ring and on another CPU, loads every server; with
//! one connection it is mostly the CPU's way to sleep and back that is measured.
mod common;
mod raw;
mod servers;

use common::Group;
use criterion::Criterion;
use raw::{client, os};
use servers::Server;

fn main() {
    let mut criterion = common::start("echo: what does an echo cost the server?");
    os::pin(true);
    let limit = os::raise_descriptor_limit();
    let sizes: Vec<usize> = [1, 50, 1000].into_iter().filter(|&n| 2 * n as u64 + 100 < limit).collect();
    if sizes.len() < 3 {
        println!("SKIP 1000 connections: only {limit} descriptors are allowed (ulimit -n)");
    }
    measure(&mut criterion, "echo::tcp", &sizes, Server::tcp);
    measure(&mut criterion, "echo::unix", &sizes, Server::unix);
    criterion.final_summary();
}

fn measure(criterion: &mut Criterion, name: &str, sizes: &[usize], start: impl Fn(&str) -> Option<Server>) {
    if raw::Ring::new(8).is_err() {
        println!("SKIP {name}: the client needs io_uring");
        return;
    }
    let mut group = Group::new(criterion, name);
    for &size in sizes {
        for driver in servers::names() {
            let Some(server) = start(driver) else { continue };
            let connections = (0..size).map(|_| server.connect()).collect::<Result<_, _>>();
            let mut client =
                client::Echo::new(connections.expect("the server accepts")).expect("the client starts");
            group.case(driver, size, |count| {
                os::others_cpu(|| client.run(count).expect("every message comes back"))
            });
        }
    }
    group.finish();
}
