//! Streams and listeners in a storm: every byte arrives once and in its order, whoever connects is served.

use std::future::Future;
use std::io;
use std::path::Path;
use std::rc::Rc;

use proactor::fs::File;
use proactor::net::{Family, Listener, Stream};
use proactor::sync::Event;
use proactor::{Failed, MayBeCancelled, Task, spawn};

use super::{End, Storm, assert_cancelled, join, pause};

/// The most that is sent at a time.
const MOST: usize = 300_000;

/// What a stream carries: at each position the byte of this table, round and round.
pub(super) struct Pattern {
    table: Vec<u8>,
    /// One round of it, and as much again as may be sent at a time.
    file: File,
}

impl Pattern {
    pub(super) fn new(file: &Path) -> io::Result<Rc<Self>> {
        // A prime length: no buffer size hides a shift.
        let table: Vec<u8> = (0..65_521_u32).map(|at| (at.wrapping_mul(0x9E37_79B1) >> 21) as u8).collect();
        let rounds: Vec<u8> = table.iter().cycle().take(table.len() + MOST).copied().collect();
        std::fs::write(file, rounds)?;
        Ok(Rc::new(Self { table, file: File::from_std(std::fs::File::open(file)?) }))
    }

    async fn send_by<F: Family>(&self, stream: &Stream<F>, from: u64, len: usize) -> Result<(), Failed<()>> {
        let offset = from % self.table.len() as u64;
        let sent = stream.send_file(&self.file).offset(offset).count(len as u64).await?;
        assert_eq!(sent, len as u64, "the file is long enough");
        Ok(())
    }

    fn pieces(&self, from: u64, len: usize) -> impl Iterator<Item = &[u8]> {
        let (mut at, mut left) = ((from % self.table.len() as u64) as usize, len);
        std::iter::from_fn(move || {
            let count = left.min(self.table.len() - at);
            let piece = &self.table[at..at + count];
            (at, left) = (0, left - count);
            (count > 0).then_some(piece)
        })
    }

    pub(super) fn bytes(&self, from: u64, len: usize) -> Vec<u8> {
        self.pieces(from, len).flatten().copied().collect()
    }

    #[track_caller]
    pub(super) fn check(&self, from: u64, mut bytes: &[u8]) {
        for piece in self.pieces(from, bytes.len()) {
            assert!(bytes[..piece.len()] == *piece, "wrong bytes behind {from}");
            bytes = &bytes[piece.len()..];
        }
    }
}

/// What a send that failed says.
fn told<B>(failed: Failed<B>) -> (io::Error, usize) {
    (failed.error, failed.done)
}

pub(super) async fn sends<F: Family>(
    storm: Rc<Storm>,
    stream: Rc<Stream<F>>,
    pattern: Rc<Pattern>,
) -> io::Result<u64> {
    let (mut random, mut sent) = (storm.random(), 0);
    while storm.goes_on() {
        let len = match random.below(40) {
            0 => MOST - random.below(100_000),
            1..8 => 1 + random.below(9000),
            _ => 1 + random.below(300),
        };
        let bytes = pattern.bytes(sent, len);
        if random.below(10) == 0 {
            stream.write(bytes)?;
            sent += len as u64;
            let flushes = stream.clone();
            match storm.cut("flush", &mut random, async move { flushes.flush().await }).await {
                End::Answered(Err(error)) => assert_cancelled(&error),
                End::Answered(Ok(())) => storm.note_success("flush"),
                End::Dropped => {}
            }
            // A send that has to queue may be dropped before it has begun, and nobody could say which of both.
            stream.flush().await?;
            continue;
        }
        let (sends, way) = (stream.clone(), random.below(8));
        let pattern = pattern.clone();
        let name = if way == 2 { "send_file" } else { "send" };
        let operation = async move {
            match way {
                0 | 1 => {
                    let parts: Vec<Vec<u8>> = bytes.chunks(1 + bytes.len() / 3).map(<[u8]>::to_vec).collect();
                    sends.send_vectored(parts).await.map(drop).map_err(told)
                }
                2 => pattern.send_by(&sends, sent, len).await.map_err(told),
                _ => sends.send(bytes).await.map(drop).map_err(told),
            }
        };
        match storm.cut(name, &mut random, operation).await {
            End::Answered(Ok(())) => {
                storm.note_success(name);
                sent += len as u64;
            }
            End::Answered(Err((error, done))) => {
                assert_cancelled(&error);
                assert!(done < len);
                sent += done as u64;
            }
            // It goes on by itself; when it has the turn no more, the next can begin.
            End::Dropped => {
                sent += len as u64;
                stream.send(Vec::new()).await?;
            }
        }
    }
    stream.shutdown_write().await?;
    Ok(sent)
}

pub(super) async fn receives<F: Family>(
    storm: Rc<Storm>,
    stream: Rc<Stream<F>>,
    pattern: Rc<Pattern>,
) -> io::Result<u64> {
    let (mut random, mut received) = (storm.random(), 0);
    loop {
        if !storm.goes_on() {
            // The storm is over: the rest comes in peace.
            while let Some(chunk) = stream.receive().await? {
                pattern.check(received, &chunk);
                received += chunk.len() as u64;
            }
            return Ok(received);
        }
        pause(random.below(3)).await;
        let receives = stream.clone();
        let got = if random.below(3) == 0 {
            let buf = vec![0; 1 + random.below(5000)];
            let operation = async move {
                receives
                    .receive_into(buf)
                    .await
                    .map(|(count, buf)| buf[..count].to_vec())
                    .map_err(io::Error::from)
            };
            storm.cut("receive_into", &mut random, operation).await
        } else {
            let operation = async move {
                receives.receive().await.map(|chunk| chunk.map_or(Vec::new(), |chunk| chunk.to_vec()))
            };
            storm.cut("receive", &mut random, operation).await
        };
        match got {
            End::Answered(Ok(bytes)) if bytes.is_empty() => return Ok(received),
            End::Answered(Ok(bytes)) => {
                storm.note_success("receive");
                pattern.check(received, &bytes);
                received += bytes.len() as u64;
            }
            End::Answered(Err(error)) => assert_cancelled(&error),
            End::Dropped => {}
        }
    }
}

pub(super) fn converses<F: Family>(
    storm: &Rc<Storm>,
    pair: (Stream<F>, Stream<F>),
    pattern: &Rc<Pattern>,
) -> Task<io::Result<()>> {
    let (a, b) = (Rc::new(pair.0), Rc::new(pair.1));
    let (storm, pattern) = (storm.clone(), pattern.clone());
    spawn(async move {
        // Both directions at once.
        let there = [
            spawn(sends(storm.clone(), a.clone(), pattern.clone())),
            spawn(sends(storm.clone(), b.clone(), pattern.clone())),
        ];
        let back =
            [spawn(receives(storm.clone(), b, pattern.clone())), spawn(receives(storm.clone(), a, pattern))];
        for (sender, receiver) in there.into_iter().zip(back) {
            let (sent, received) = (join(sender).await?, join(receiver).await?);
            assert_eq!(sent, received, "bytes were lost or doubled");
        }
        Ok(())
    })
}

async fn serves<F: Family>(storm: Rc<Storm>, listener: Rc<Listener<F>>, done: Event) -> io::Result<()> {
    let mut random = storm.random();
    let mut greetings = Vec::new();
    while !done.is_set() {
        let accepts = listener.clone();
        match storm.cut("accept", &mut random, async move { accepts.accept().await }).await {
            End::Answered(Ok(stream)) => {
                storm.note_success("accept");
                // Its peer may be gone already.
                greetings.push(spawn(async move { drop(stream.send("hello").await) }));
            }
            End::Answered(Err(error)) => assert_cancelled(&error),
            End::Dropped => {}
        }
    }
    for greeting in greetings {
        greeting.await?;
    }
    Ok(())
}

async fn connects<F, C>(storm: Rc<Storm>, share: u32, connect: impl Fn() -> C) -> io::Result<()>
where
    F: Family,
    C: Future<Output = io::Result<Stream<F>>> + 'static,
{
    let mut random = storm.random();
    for _ in 0..share {
        if !storm.goes_on() {
            break;
        }
        match storm.cut("connect", &mut random, connect()).await {
            End::Answered(Ok(stream)) => {
                storm.note_success("connect");
                let greeting = stream.receive().await?.expect("whoever is connected is served");
                assert_eq!(&greeting[..], b"hello");
            }
            End::Answered(Err(error)) => {
                // A full queue of a UNIX listener refuses at once.
                assert!(error.is_cancelled() || error.kind() == io::ErrorKind::WouldBlock, "{error}");
            }
            End::Dropped => {}
        }
    }
    Ok(())
}

pub(super) fn meets<F, C>(
    storm: &Rc<Storm>,
    listener: Listener<F>,
    share: u32,
    connect: impl Fn() -> C + Clone + 'static,
) -> Task<io::Result<()>>
where
    F: Family,
    C: Future<Output = io::Result<Stream<F>>> + 'static,
{
    let storm = storm.clone();
    spawn(async move {
        let (listener, done) = (Rc::new(listener), Event::new());
        let servers = [0; 2].map(|_| spawn(serves(storm.clone(), listener.clone(), done.clone())));
        let clients = [0; 3].map(|_| spawn(connects(storm.clone(), share, connect.clone())));
        for client in clients {
            join(client).await?;
        }
        done.set();
        for server in servers {
            join(server).await?;
        }
        Ok(())
    })
}
