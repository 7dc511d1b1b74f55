//! An HTTP/1.1 static file server: `cargo run --release --example serve -- DIR`.
//!
//! `main.rs` starts and stops it, `connection.rs` answers the requests of one connection, `http.rs` reads request
//! heads and writes response heads, `site.rs` finds what a request asks for, `listing.rs` shows a directory.

#[path = "../common/args.rs"]
mod args;
mod connection;
mod http;
mod listing;
mod site;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use args::{Args, Program, Trouble};
use connection::Connections;
use futures_util::FutureExt;
use site::Site;

const PROGRAM: Program = Program {
    name: "serve",
    about: "Serves the files of a directory over HTTP/1.1, until Ctrl-C.",
    listen: "127.0.0.1:8080",
    operands: &[("DIR", "directory to serve; nothing outside it is ever sent")],
    options: &[
        ("--connections", "NUMBER", "1000", "connections open at the same time"),
        ("--idle", "SECONDS", "30", "how long a connection may wait between requests"),
        ("--drain", "SECONDS", "10", "how long responses may still take after Ctrl-C"),
    ],
};

fn main() -> ExitCode {
    PROGRAM.run(start)
}

fn start(args: &Args) -> Result<(), Trouble> {
    let dir = Path::new(args.operand(0).unwrap_or_default());
    let site = Site::new(dir)
        .map_err(|error| Trouble::Usage(format!("{} cannot be served: {error}", dir.display())))?;
    let connections_max = number(args, "--connections")? as usize;
    let idle = Duration::from_secs(number(args, "--idle")?);
    let drain = Duration::from_secs(number(args, "--drain")?);

    let event_loop = args.event_loop()?;
    event_loop.run_until_complete(async {
        let listener = args.listen("http://").await?;
        // Shared by the listener, which then accepts no more, and by the connections, which then stop waiting for
        // further requests.
        let stop = args::interrupted().boxed_local().shared();
        let connections = Connections { site, idle, stop: stop.clone() };
        let serve = listener
            .serve(async move |stream| connections.serve(stream).await)
            .max_connections(connections_max)
            .drain(drain)
            .on_error(|error| args::complain(error));
        serve.until(stop).await?;
        Ok::<_, Trouble>(())
    })?
}

fn number(args: &Args, name: &str) -> Result<u64, Trouble> {
    let value = args.value(name);
    let number = value.parse().ok().filter(|number| (1..=1_000_000).contains(number));
    number.ok_or_else(|| Trouble::Usage(format!("{name} {value}: not a number from 1 to 1000000")))
}
