//! What does a short connection cost the server?
//!
//! `churn::tcp`: CPU time of the server (user and system) per connection that sends 64 bytes, gets
//! them back and closes; 32 at a time. The client is the same for every server, on another CPU.
mod common;
mod raw;
mod servers;

use common::Group;
use criterion::Criterion;
use raw::{client, os};
use servers::Server;

const AT_A_TIME: usize = 32;

fn main() {
    let mut criterion = common::start("churn: what does a short connection cost the server?");
    os::pin(true);
    measure(&mut criterion);
    criterion.final_summary();
}

fn measure(criterion: &mut Criterion) {
    if raw::Ring::new(8).is_err() {
        println!("SKIP churn::tcp: the client needs io_uring");
        return;
    }
    let mut group = Group::new(criterion, "churn::tcp");
    for driver in servers::names() {
        let Some(server) = Server::tcp(driver) else { continue };
        let Some(address) = server.tcp_address() else { continue };
        let mut client = client::Churn::new(address, AT_A_TIME).expect("the client starts");
        group.case(driver, AT_A_TIME, |count| {
            os::others_cpu(|| client.run(count).expect("every message comes back"))
        });
    }
    group.finish();
}
