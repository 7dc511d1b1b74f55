//! Sends back whatever it receives over TLS: `cargo run --release --features tls --example tls_echo -- CERT KEY`.

#[path = "common/args.rs"]
mod args;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use args::{Args, Program, Trouble};
use proactor::net::TcpStream;
use proactor::stream::tls::{TlsStream, load_cert_chain, server_config};
use proactor::stream::{AsyncResource, ByteReceiveStream, ByteSendStream};

const PROGRAM: Program = Program {
    name: "tls_echo",
    about: "A TLS server that sends back whatever it receives, until the peer has sent all.",
    listen: "127.0.0.1:7443",
    operands: &[
        ("CERT", "PEM file with the server's certificate, and those that vouch for it"),
        ("KEY", "PEM file with its private key"),
    ],
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
    let usage = |error: std::io::Error| Trouble::Usage(error.to_string());
    let file = |index| args.operand(index).ok_or(Trouble::Usage("CERT and KEY are needed".into()));
    let (chain, key) = load_cert_chain(file(0)?, file(1)?).map_err(usage)?;
    let config = Arc::new(server_config(chain, key).map_err(usage)?);
    let listener = args.listen("").await?;
    // The handshake is a part of each connection: a slow one holds nobody up.
    let echo = async move |tcp: TcpStream| {
        let tls = TlsStream::server(tcp, config.clone()).handshake_timeout(Duration::from_secs(10));
        let tls = tls.handshake().await?;
        while let Some(chunk) = tls.receive().await? {
            tls.send(chunk).await?;
        }
        tls.aclose().await
    };
    let serve = listener.serve(echo).drain(Duration::from_secs(5)).on_error(|error| args::complain(error));
    Ok(serve.until(args::interrupted()).await?)
}
