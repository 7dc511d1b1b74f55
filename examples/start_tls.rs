//! A connection that goes on with TLS: `cargo run --release --features tls --example start_tls -- CERT KEY`.

#[path = "common/args.rs"]
mod args;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use args::{Args, Program, Trouble};
use proactor::stream::tls::rustls::RootCertStore;
use proactor::stream::tls::{client_config, load_cert_chain, server_config};
use proactor::transport::{
    StreamReader, StreamReaderProtocol, StreamWriter, Tls, create_server, open_connection,
};

const PROGRAM: Program = Program {
    name: "start_tls",
    about: "A server that sends back each line in upper case, and goes on with TLS behind the line STARTTLS, as mail \
            servers do. With --connect a client of such a server, CERT and KEY being those of whom it trusts.",
    listen: "127.0.0.1:7025",
    operands: &[
        ("CERT", "PEM file with the server's certificate, and those that vouch for it"),
        ("KEY", "PEM file with its private key"),
    ],
    options: &[(
        "--connect",
        "ADDR",
        "",
        "sends the lines of standard input there, over TLS, and prints the answers",
    )],
};

/// The longest line.
const LIMIT: usize = 1 << 21;

fn main() -> ExitCode {
    PROGRAM.run(start)
}

fn start(args: &Args) -> Result<(), Trouble> {
    let usage = |error: io::Error| Trouble::Usage(error.to_string());
    let file = |index| args.operand(index).ok_or(Trouble::Usage("CERT and KEY are needed".into()));
    let (chain, key) = load_cert_chain(file(0)?, file(1)?).map_err(usage)?;
    let (connect, event_loop) = (args.value("--connect"), args.event_loop()?);
    if !connect.is_empty() {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(chain);
        let tls = Tls::client("localhost").client_config(Arc::new(client_config(roots)));
        return Ok(event_loop.run_until_complete(client(connect, tls))??);
    }
    let config = Arc::new(server_config(chain, key).map_err(usage)?);
    event_loop.run_until_complete(async {
        let serve = move |reader, writer| upper(reader, writer, Tls::server(config.clone()));
        let server =
            create_server(StreamReaderProtocol::serving(LIMIT, serve), args.value("--listen")).await?;
        args::say(format_args!("listening on {}", server.sockets()[0]));
        args::interrupted().await;
        server.close();
        Ok(server.wait_closed().await?)
    })?
}

/// One connection, until its peer has sent all.
async fn upper(reader: StreamReader, writer: StreamWriter, tls: Tls) -> io::Result<()> {
    let mut tls = Some(tls);
    loop {
        let line = reader.readline().await?;
        if line.is_empty() {
            writer.close();
            return writer.wait_closed().await;
        }
        match tls.take_if(|_| line == "STARTTLS\n") {
            Some(tls) => {
                writer.write("go on\n")?;
                writer.start_tls(tls).await?;
            }
            None => drop(writer.write(line.to_ascii_uppercase())?),
        }
        writer.drain().await?;
    }
}

async fn client(address: &str, tls: Tls) -> io::Result<()> {
    let (reader, writer) = open_connection(address).await?;
    writer.write("in plain\nSTARTTLS\n")?;
    for expected in ["IN PLAIN\n", "go on\n"] {
        if reader.readline().await? != expected {
            return Err(io::Error::other("the server does not speak like this"));
        }
    }
    writer.start_tls(tls).await?;
    let text = proactor::thread::to_thread::run_sync(|| io::read_to_string(io::stdin())).await??;
    let count = text.len();
    // TLS ends in both directions at once, so the answers are counted; and taken meanwhile.
    let answers = proactor::spawn(async move { reader.readexactly(count).await });
    for line in text.split_inclusive('\n') {
        writer.write(line.to_owned())?;
        writer.drain().await?;
    }
    args::say(String::from_utf8_lossy(&answers.await??).trim_end());
    writer.close();
    writer.wait_closed().await
}
