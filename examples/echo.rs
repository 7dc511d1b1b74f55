//! Sends back whatever it receives: `cargo run --release --example echo`.

#[path = "common/args.rs"]
mod args;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use args::{Args, Program, Trouble};
use proactor::net::TcpStream;
use proactor::thread::to_thread;
use proactor::workers::{self, Workers};

const PROGRAM: Program = Program {
    name: "echo",
    about: "A TCP server that sends back whatever it receives, until the peer has sent all.",
    listen: "127.0.0.1:7007",
    operands: &[],
    options: &[(
        "--workers",
        "NUMBER",
        "1",
        "threads that serve, each with a loop of its own; 0: one for each CPU",
    )],
};

fn main() -> ExitCode {
    PROGRAM.run(start)
}

fn start(args: &Args) -> Result<(), Trouble> {
    match args.value("--workers").parse() {
        Ok(1) => args.event_loop()?.run_until_complete(serve(args))?,
        Ok(count) => serve_by_workers(args, count),
        Err(_) => Err(Trouble::Usage("--workers takes a number".to_owned())),
    }
}

/// The same handler on many cores.
fn serve_by_workers(args: &Args, count: usize) -> Result<(), Trouble> {
    let builder = Workers::builder().event_loop(args.builder()?);
    let builder = if count == 0 { builder } else { builder.count(count) };
    let server = workers::serve(args.value("--listen"), echo).workers(builder).drain(Duration::from_secs(5));
    let serving = server.on_error(|error| args::complain(error)).start()?;
    args::say(format_args!("listening on {}", serving.local_addr()));
    args::say(serving.workers().handles()[0].report());
    args.event_loop()?
        .run_until_complete(async {
            args::interrupted().await;
            // Blocks until all have ended: not in this loop, which waits for a second Ctrl-C.
            to_thread::run_sync(move || serving.shutdown()).await
        })?
        .map_err(|error| Trouble::Runtime(error.to_string()))?
        .map_err(|failed| Trouble::Runtime(failed.to_string()))
}

async fn serve(args: &Args) -> Result<(), Trouble> {
    let listener = args.listen("").await?;
    let serve = listener.serve(echo).drain(Duration::from_secs(5)).on_error(|error| args::complain(error));
    Ok(serve.until(args::interrupted()).await?)
}

/// The chunk that the kernel filled is the chunk that goes back: no byte is copied here.
async fn echo(stream: TcpStream) -> io::Result<()> {
    while let Some(chunk) = stream.receive().await? {
        stream.send(chunk).await?;
    }
    stream.close().await
}
