//! One test binary; every test runs on both drivers.

#![allow(
    clippy::async_yields_async,
    clippy::unit_arg,
    reason = "tests hand tasks out of futures, and checks around as values"
)]

mod bulk;
mod cancel;
mod choice;
mod cold_files;
mod compat;
mod contract;
mod copy;
mod costs;
mod datagrams;
mod event_loop;
mod exceptions;
mod faces;
mod faults;
mod file_streams;
mod foreign_loops;
mod futures;
mod harness;
mod load;
mod names;
mod network_errors;
mod ops;
mod pipe_copies;
mod pipes;
mod pressure;
mod processes;
mod readiness;
mod regressions;
mod send_file;
mod serving;
mod shutdown;
mod signals;
mod sockets;
mod storm;
mod streams;
mod sync;
mod tasks;
mod threads;
mod tidy;
mod timers;
mod to_process;
mod transports;
mod unix_sockets;
mod waiting;
mod wakers;
mod workers;
mod wrappers;
