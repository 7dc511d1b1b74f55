//! Messages in a storm: each comes once and in its order, and none that was not sent; no descriptor is left.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use proactor::net::{DatagramFamily, DatagramSocket, UnixSeqpacket};
use proactor::sync::Event;
use proactor::{Failed, Task, spawn};

use super::{End, Storm, assert_cancelled, join, pause};

/// The number of the last message.
const LAST: u64 = u64::MAX;

fn message(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(len.max(8), number as u8);
    bytes
}

#[track_caller]
fn number(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    assert!(bytes[8..].iter().all(|byte| *byte == number as u8), "message {number} was damaged");
    number
}

/// What became of the messages of one sender.
#[derive(Default)]
struct Fates {
    sent: BTreeSet<u64>,
    /// Cancelled before they were sent.
    unsent: BTreeSet<u64>,
}

impl Fates {
    fn note(&mut self, storm: &Storm, number: u64, end: End<io::Result<()>>) {
        match end {
            End::Answered(Ok(())) => {
                storm.note_success("send message");
                self.sent.insert(number);
            }
            End::Answered(Err(error)) => {
                assert_cancelled(&error);
                self.unsent.insert(number);
            }
            End::Dropped => {} // one or the other
        }
    }

    #[track_caller]
    fn check(&self, received: &[u64], may_lose: bool) {
        assert!(received.is_sorted_by(|a, b| a < b), "messages overtook each other, or came twice");
        let received: BTreeSet<u64> = received.iter().copied().collect();
        assert!(received.is_disjoint(&self.unsent), "what was cancelled was sent");
        assert!(may_lose || self.sent.is_subset(&received), "messages were lost");
    }
}

async fn speaks(storm: Rc<Storm>, socket: Rc<UnixSeqpacket>) -> io::Result<Fates> {
    let (mut random, mut fates) = (storm.random(), Fates::default());
    for number in 0.. {
        if !storm.goes_on() {
            break;
        }
        let bytes = message(number, random.below(3000));
        let (sends, with_fds) = (socket.clone(), random.below(4) == 0);
        let operation = async move {
            if with_fds {
                let fds = [(); 2].map(|()| File::open("/dev/null").map(OwnedFd::from));
                let fds = fds.into_iter().collect::<io::Result<Vec<_>>>()?;
                return sends.send_fds(bytes, fds).await.map(drop).map_err(|Failed { error, .. }| error);
            }
            sends.send(bytes).await.map(drop).map_err(io::Error::from)
        };
        let end = storm.cut("send message", &mut random, operation).await;
        fates.note(&storm, number, end);
    }
    socket.shutdown_write().await?;
    Ok(fates)
}

async fn listens(storm: Rc<Storm>, socket: Rc<UnixSeqpacket>) -> io::Result<Vec<u64>> {
    let (mut random, mut received) = (storm.random(), Vec::new());
    socket.expect_fds(1 + random.below(2));
    loop {
        if !storm.goes_on() {
            while let Some(bytes) = socket.receive().await? {
                received.push(number(&bytes));
            }
            return Ok(received);
        }
        pause(random.below(3)).await;
        let (receives, way) = (socket.clone(), random.below(3));
        let operation = async move {
            let bytes = match way {
                0 => {
                    let (count, mut buf) = receives.receive_into(Vec::with_capacity(4000)).await?;
                    buf.truncate(count);
                    (count > 0).then_some(buf)
                }
                1 => receives.receive_fds().await?.map(|(bytes, _fds)| bytes.to_vec()),
                _ => receives.receive().await?.map(|bytes| bytes.to_vec()),
            };
            Ok::<_, io::Error>(bytes)
        };
        match storm.cut("receive message", &mut random, operation).await {
            End::Answered(Ok(Some(bytes))) => {
                storm.note_success("receive message");
                received.push(number(&bytes));
            }
            End::Answered(Ok(None)) => return Ok(received),
            End::Answered(Err(error)) => assert_cancelled(&error),
            End::Dropped => {}
        }
    }
}

/// One side sends messages, some with descriptors, and the other receives them.
pub(super) fn confers(storm: &Rc<Storm>, pair: (UnixSeqpacket, UnixSeqpacket)) -> Task<io::Result<()>> {
    let storm = storm.clone();
    spawn(async move {
        let speaker = spawn(speaks(storm.clone(), Rc::new(pair.0)));
        let listener = spawn(listens(storm, Rc::new(pair.1)));
        let (fates, received) = (join(speaker).await?, join(listener).await?);
        fates.check(&received, false);
        Ok(())
    })
}

async fn posts<F: DatagramFamily>(
    storm: Rc<Storm>,
    socket: Rc<DatagramSocket<F>>,
    done: Event,
) -> io::Result<Fates> {
    let (mut random, mut fates) = (storm.random(), Fates::default());
    for number in 0.. {
        if !storm.goes_on() {
            break;
        }
        let (sends, bytes) = (socket.clone(), message(number, random.below(2000)));
        let operation =
            async move { sends.send(bytes).await.map(drop).map_err(|Failed { error, .. }| error) };
        let end = storm.cut("send datagram", &mut random, operation).await;
        fates.note(&storm, number, end);
    }
    // It may be lost, too.
    while !done.is_set() {
        socket.send(message(LAST, 0)).await?;
        pause(3).await;
    }
    Ok(fates)
}

async fn collects<F: DatagramFamily>(
    storm: Rc<Storm>,
    socket: Rc<DatagramSocket<F>>,
) -> io::Result<Vec<u64>> {
    let (mut random, mut received) = (storm.random(), Vec::new());
    loop {
        pause(random.below(2)).await;
        let (receives, into) = (socket.clone(), random.below(3) == 0);
        let operation = async move {
            if into {
                return Ok::<_, io::Error>(receives.receive_into(Vec::with_capacity(4000)).await?.1);
            }
            Ok(receives.receive().await?.to_vec())
        };
        match storm.cut("receive datagram", &mut random, operation).await {
            End::Answered(Ok(bytes)) if number(&bytes) == LAST => return Ok(received),
            End::Answered(Ok(bytes)) => {
                storm.note_success("receive datagram");
                received.push(number(&bytes));
            }
            End::Answered(Err(error)) => assert_cancelled(&error),
            End::Dropped => {}
        }
    }
}

/// One side sends datagrams, and the other receives them.
pub(super) fn corresponds<F: DatagramFamily>(
    storm: &Rc<Storm>,
    pair: (DatagramSocket<F>, DatagramSocket<F>),
    may_lose: bool,
) -> Task<io::Result<()>> {
    let storm = storm.clone();
    spawn(async move {
        let done = Event::new();
        let (here, there) = (Rc::new(pair.0), Rc::new(pair.1));
        let poster = spawn(posts(storm.clone(), here, done.clone()));
        let received = join(spawn(collects(storm, there.clone()))).await?;
        done.set();
        join(poster).await?.check(&received, may_lose);
        // Not before: who sends to nobody is refused.
        drop(there);
        Ok(())
    })
}
