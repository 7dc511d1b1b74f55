//! One test binary; every test runs on both drivers.

mod event_loop;
mod harness;
mod streams;
mod tasks;
mod threads;
mod tidy;
mod timers;
mod wakers;
