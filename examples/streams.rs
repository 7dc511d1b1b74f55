//! Lines in upper case, with asyncio's streams: `cargo run --release --example streams`.

#[path = "common/args.rs"]
mod args;

use std::io;
use std::process::ExitCode;

use args::{Args, Program, Trouble};
use proactor::transport::{
    Server, StreamReader, StreamReaderProtocol, StreamWriter, create_server, create_unix_server,
    open_connection, open_unix_connection,
};

const PROGRAM: Program = Program {
    name: "streams",
    about: "A server that sends back each line in upper case, or with --connect a client of such a server. An address \
            without a colon is the path of a UNIX socket.",
    listen: "127.0.0.1:7008",
    operands: &[],
    options: &[("--connect", "ADDR", "", "sends the lines of standard input there, and prints the answers")],
};

/// The longest line.
const LIMIT: usize = 1 << 21;

fn main() -> ExitCode {
    PROGRAM.run(start)
}

fn start(args: &Args) -> Result<(), Trouble> {
    let connect = args.value("--connect");
    let event_loop = args.event_loop()?;
    if connect.is_empty() {
        event_loop.run_until_complete(serve(args.value("--listen")))?
    } else {
        Ok(event_loop.run_until_complete(client(connect))??)
    }
}

async fn listen(address: &str) -> io::Result<Server> {
    let make = StreamReaderProtocol::serving(LIMIT, upper);
    if address.contains(':') {
        create_server(make, address).await
    } else {
        create_unix_server(make, address).await
    }
}

async fn serve(address: &str) -> Result<(), Trouble> {
    let refused = |error| Trouble::Usage(format!("cannot listen on {address}: {error}"));
    let server = listen(address).await.map_err(refused)?;
    args::say(format_args!("listening on {}", server.sockets()[0]));
    args::say(proactor::current()?.report());
    args::interrupted().await;
    server.close();
    Ok(server.wait_closed().await?)
}

/// One connection, until its peer has sent all.
async fn upper(reader: StreamReader, writer: StreamWriter) -> io::Result<()> {
    loop {
        let line = reader.readline().await?;
        if line.is_empty() {
            writer.close();
            return writer.wait_closed().await;
        }
        writer.write(line.to_ascii_uppercase())?;
        writer.drain().await?;
    }
}

async fn client(address: &str) -> io::Result<()> {
    let (reader, writer) = if address.contains(':') {
        open_connection(address).await?
    } else {
        open_unix_connection(address).await?
    };
    let text = proactor::thread::to_thread::run_sync(|| io::read_to_string(io::stdin())).await??;
    // The answers are taken meanwhile: else both sides would wait for the other to read.
    let answers = proactor::spawn(async move { reader.read_to_end().await });
    for line in text.split_inclusive('\n') {
        writer.write(line.to_owned())?;
        writer.drain().await?;
    }
    writer.write_eof()?;
    args::say(String::from_utf8_lossy(&answers.await??).trim_end());
    writer.close();
    writer.wait_closed().await
}
