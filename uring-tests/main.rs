//! One test binary; every test runs on both drivers.

mod harness;
mod streams;
mod tidy;
