//! Sends each datagram back to where it came from: `cargo run --release --example udp_echo`.

#[path = "common/args.rs"]
mod args;

use std::future::poll_fn;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;

use args::{Args, Program, Trouble};
use proactor::MayBeCancelled;
use proactor::cancel::task_group;
use proactor::net::UdpSocket;
use proactor::stream::AsyncResource;

const PROGRAM: Program = Program {
    name: "udp_echo",
    about: "A UDP server that sends each datagram back to where it came from, and says which ones nobody took.",
    listen: "127.0.0.1:7007",
    operands: &[],
    options: &[],
};

/// Answers that may wait in the socket; then the server receives no more until some of them are sent, and the kernel
/// drops what finds no room: that is how UDP says that it is too much.
const WAITING_MAX: usize = 1 << 20;
/// Datagrams taken at a time.
const BATCH: usize = 64;

fn main() -> ExitCode {
    PROGRAM.run(start)
}

fn start(args: &Args) -> Result<(), Trouble> {
    args.event_loop()?.run_until_complete(serve(args))?
}

async fn serve(args: &Args) -> Result<(), Trouble> {
    let wanted = args.value("--listen");
    let refused = |error| Trouble::Usage(format!("cannot listen on {wanted}: {error}"));
    let socket = UdpSocket::bind(wanted).await.map_err(refused)?;
    socket.set_receive_errors(true)?;
    args::say(format_args!("listening on {}", socket.local_addr()?));
    args::say(proactor::current()?.report());
    let socket = Rc::new(socket);
    let (echoing, watching) = (socket.clone(), socket.clone());
    let served = task_group(async |group| {
        group.start_soon(async move { echo(&echoing).await });
        group.start_soon(async move { tell_of_errors(&watching).await });
        args::interrupted().await;
        // Each of the two is told at its next wait.
        group.cancel_scope().cancel();
        Ok::<_, io::Error>(())
    });
    served.await.map_err(io::Error::from)?;
    // What was written still goes out.
    Ok(socket.aclose().await?)
}

/// The buffer that the kernel filled is the one that goes back: no byte is copied here.
async fn echo(socket: &UdpSocket) -> io::Result<()> {
    let mut batch = Vec::new();
    loop {
        socket.receive_batch(&mut batch, BATCH).await?;
        for message in batch.drain(..) {
            let source = message.source()?;
            socket.write_to(message.into_data(), source)?;
        }
        match poll_fn(|cx| socket.poll_flush(cx, WAITING_MAX)).await {
            Err(error) if error.is_cancelled() => return Err(error),
            // One of them could not be sent, and the others were.
            Err(error) => args::complain(format_args!("an answer was not sent: {error}")),
            Ok(()) => {}
        }
    }
}

/// What became of answers that nobody took.
async fn tell_of_errors(socket: &UdpSocket) -> io::Result<()> {
    loop {
        let error = socket.receive_error().await?;
        args::complain(format_args!("to {}: {}", error.destination, error.to_io_error()));
    }
}
