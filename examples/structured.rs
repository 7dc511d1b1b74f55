//! What structured concurrency is good for: `cargo run --example structured`.
//!
//! A buyer asks three suppliers for their price, all at once, over TCP. First all goes well; then one of them fails;
//! then one is slow, and there is a deadline. However it ends, every conversation that was begun is ended politely, and
//! when the program goes on, nothing of it is still running.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use proactor::MayBeCancelled;
use proactor::cancel::{TaskStatus, move_on_after, shielded, task_group};
use proactor::net::{TcpListener, TcpStream};
use proactor::sync::Event;

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Quick,
    Slow,
    Rude,
}

const SUPPLIERS: [(&str, u32); 3] = [("Ada", 30), ("Ben", 25), ("Cem", 28)];
const LIMIT: Duration = Duration::from_millis(200);

/// Answers one buyer. A slow supplier thinks for an hour; a rude one hangs up.
async fn answer(name: &str, price: u32, manner: Manner, stream: TcpStream) -> io::Result<()> {
    while let Some(words) = stream.receive().await? {
        match &words[..] {
            b"price?" if manner == Manner::Rude => return Ok(()),
            b"price?" if manner == Manner::Slow => println!("  {name} thinks it over"),
            b"price?" => drop(stream.send(price.to_string()).await?),
            b"bye" => println!("  {name} was told goodbye"),
            _ => return Err(io::Error::other("not understood")),
        }
    }
    Ok(())
}

/// Asks one supplier. Whatever happens, also a cancel, the supplier is told goodbye: that waits, so it is shielded.
async fn ask(address: SocketAddr) -> io::Result<u32> {
    let stream = TcpStream::connect(address).await?;
    let price = async {
        stream.send("price?").await?;
        let words = stream.receive().await?.ok_or_else(|| io::Error::other("the supplier hung up"))?;
        String::from_utf8_lossy(&words).parse().map_err(io::Error::other)
    };
    let outcome = price.await;
    shielded(async {
        stream.send("bye").await?;
        stream.close().await
    })
    .await
    .or_else(|error| if outcome.is_err() { Ok(()) } else { Err(error) })?;
    outcome
}

/// The lowest price of all suppliers: one task for each, and none is left when this is over.
async fn lowest(addresses: &[SocketAddr]) -> io::Result<u32> {
    let best = Rc::new(std::cell::Cell::new(u32::MAX));
    task_group(async |group| {
        for &address in addresses {
            let best = best.clone();
            group.start_soon(async move {
                best.set(best.get().min(ask(address).await?));
                Ok(())
            });
        }
        Ok::<_, io::Error>(())
    })
    .await?;
    Ok(best.get())
}

/// Opens three suppliers, runs `buy` with their addresses, and closes them.
async fn market(manner: Manner, buy: impl AsyncFnOnce(&[SocketAddr]) -> io::Result<()>) -> io::Result<()> {
    let closing = Event::new();
    task_group(async |market| {
        let mut addresses = Vec::new();
        for (index, (name, price)) in SUPPLIERS.into_iter().enumerate() {
            let manner = if index == 1 { manner } else { Manner::Quick };
            let closing = closing.clone();
            // Goes on when the supplier listens, with its address.
            let supplier = async move |status: TaskStatus<SocketAddr, io::Error>| {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                status.started(listener.local_addr()?);
                let handler = async move |stream| answer(name, price, manner, stream).await;
                listener.serve(handler).drain(LIMIT).until(closing.wait()).await
            };
            addresses.push(market.start(supplier).await?);
        }
        let bought = buy(&addresses).await;
        closing.set();
        bought
    })
    .await?;
    Ok(())
}

async fn business() -> io::Result<()> {
    println!("All goes well:");
    market(Manner::Quick, async |suppliers| {
        println!("  the lowest price is {}", lowest(suppliers).await?);
        Ok(())
    })
    .await?;

    println!("One fails, so the others need not go on:");
    market(Manner::Rude, async |suppliers| {
        match lowest(suppliers).await {
            // A cancel from outside is not ours to handle.
            Err(error) if error.is_cancelled() => return Err(error),
            outcome => println!("  no price: {}", outcome.expect_err("one of them is rude")),
        }
        Ok(())
    })
    .await?;

    println!("One is slow, and there is a deadline:");
    market(Manner::Slow, async |suppliers| {
        match move_on_after(LIMIT, lowest(suppliers)).await? {
            Some(price) => println!("  the lowest price is {price}"),
            None => println!("  not all answered within {LIMIT:?}"),
        }
        Ok(())
    })
    .await?;

    println!("Still running: {} task", proactor::all_tasks().len());
    Ok(())
}

fn main() -> ExitCode {
    if std::env::args().len() > 1 {
        println!("structured: shows cancel scopes and task groups; it takes no arguments");
        let asked = std::env::args().nth(1).is_some_and(|arg| arg == "--help" || arg == "-h");
        return if asked { ExitCode::SUCCESS } else { ExitCode::from(2) };
    }
    match proactor::run(business()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("structured: {error}");
            ExitCode::FAILURE
        }
    }
}
