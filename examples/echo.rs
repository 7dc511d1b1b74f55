//! Sends back whatever it receives: `cargo run --release --example echo`.

#[path = "common/args.rs"]
mod args;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use args::{Args, Program, Trouble};
use proactor::net::TcpStream;

const PROGRAM: Program = Program {
    name: "echo",
    about: "A TCP server that sends back whatever it receives, until the peer has sent all.",
    listen: "127.0.0.1:7007",
    operands: &[],
    options: &[],
};

fn main() -> ExitCode {
    PROGRAM.run(start)
}

fn start(args: &Args) -> Result<(), Trouble> {
    let event_loop = args.event_loop()?;
    event_loop.run_until_complete(serve(args))?
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
