//! Carries TCP connections to another address: `cargo run --release --example proxy -- HOST:PORT`.

#[path = "common/args.rs"]
mod args;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use args::{Args, Program, Trouble};
use futures_util::future::try_join;
use proactor::net::TcpStream;

const PROGRAM: Program = Program {
    name: "proxy",
    about: "A TCP proxy: each connection it accepts is carried to TARGET, both ways at once.",
    listen: "127.0.0.1:7008",
    operands: &[("TARGET", "where the connections go: HOST:PORT")],
    options: &[],
};

/// How long a connection to the target may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    PROGRAM.run(start)
}

fn start(args: &Args) -> Result<(), Trouble> {
    let target = args.operand(0).unwrap_or_default().to_string_lossy().into_owned();
    let has_port = target.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !has_port {
        return Err(Trouble::Usage(format!("TARGET {target} is not HOST:PORT")));
    }
    let event_loop = args.event_loop()?;
    event_loop.run_until_complete(serve(args, target))?
}

async fn serve(args: &Args, target: String) -> Result<(), Trouble> {
    let listener = args.listen("").await?;
    let serve = listener.serve(async move |client| carry(client, &target).await);
    let serve = serve.drain(Duration::from_secs(5)).on_error(|error| args::complain(error));
    Ok(serve.until(args::interrupted()).await?)
}

async fn carry(client: TcpStream, target: &str) -> io::Result<()> {
    let server = proactor::timeout(CONNECT_LIMIT, TcpStream::connect(target)).await??;
    // Both directions in one task. A failure of either ends both: half a connection that can no longer be
    // answered would otherwise wait for ever.
    try_join(copy(&client, &server), copy(&server, &client)).await?;
    Ok(())
}

/// One direction. Its end of stream is passed on, so that the other direction can still answer.
async fn copy(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    from.copy_to(to).await?;
    to.shutdown_write().await
}
