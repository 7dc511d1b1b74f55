//! What things cost: heap allocations, copied bytes and system calls in steady state, counted.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, OnceCell};
use std::fmt::Debug;
use std::future::{Future, pending};
use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proactor::buf::Chunk;
use proactor::fs::File;
use proactor::net::{Family, Stream, TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixStream, pipe};
use proactor::stream::memory_object_stream;
use proactor::sync::{CapacityLimiter, Event, Lock, Queue, Semaphore};
use proactor::transport::{Buffered, BufferedProtocol, Protocol, Transport, connect_accepted_socket};
use proactor::{event_loop, metrics, nop, sleep, spawn, timeout, yield_now};

use crate::harness::{Cx, Folder, both_drivers, many, needs};
use crate::processes::child;

both_drivers!(
    a_tcp_echo_allocates_nothing,
    a_unix_echo_allocates_nothing,
    a_datagram_echo_allocates_nothing,
    a_pipe_allocates_nothing,
    many_connections_at_once_allocate_nothing,
    a_receive_into_an_own_buffer_allocates_nothing,
    sleeping_and_time_limits_allocate_nothing,
    nops_yields_and_wakes_allocate_nothing,
    locks_queues_and_streams_allocate_nothing,
    a_task_is_one_allocation,
    a_callback_is_one_allocation,
    protocols_receive_and_write_without_allocating,
    a_connection_is_a_few_allocations_and_gives_all_of_them_back,
    an_echoed_chunk_is_sent_from_where_it_was_received,
    buffers_come_back_and_the_pool_does_not_grow,
    a_turn_of_the_loop_is_one_enter,
    datagrams_cost_nothing_but_the_enters,
    steady_state_makes_no_other_call_than_the_enter,
);

/// Counts the allocations of each thread, so that tests do not disturb each other.
struct Counting;

thread_local! {
    static MADE: Cell<usize> = const { Cell::new(0) };
    static FREED: Cell<usize> = const { Cell::new(0) };
}

fn count(counter: &'static std::thread::LocalKey<Cell<usize>>) {
    // A thread that ends has no counter any more.
    let _ = counter.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is passed on to the allocator of the system; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(&MADE);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        count(&FREED);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(address, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(&MADE);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(&MADE);
        count(&FREED);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(address, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often this thread asked for memory while `work` ran; and gave some back.
async fn allocations<T, E: Debug>(work: impl Future<Output = Result<T, E>>) -> (usize, usize) {
    let before = (MADE.get(), FREED.get());
    work.await.expect("it works");
    (MADE.get() - before.0, FREED.get() - before.1)
}

/// Rounds before anything is counted: queues and tables have their size by then.
const WARM: usize = 300;
static ROUNDS: LazyLock<usize> = LazyLock::new(|| many(1000));

async fn tcp_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    let server = listener.accept().await?;
    Ok((client, server))
}

/// There and back again, each side sending the chunk that it received.
async fn echo<F: Family>(client: &Stream<F>, server: &Stream<F>, rounds: usize) -> io::Result<()> {
    client.send("ping ping ping").await?;
    for _ in 0..rounds {
        let chunk = server.receive().await?.expect("bytes");
        server.send(chunk).await?;
        let chunk = client.receive().await?.expect("bytes");
        client.send(chunk).await?;
    }
    assert_eq!(&server.receive().await?.expect("bytes")[..], b"ping ping ping");
    Ok(())
}

async fn echo_allocates_nothing<F: Family>(client: Stream<F>, server: Stream<F>) -> io::Result<()> {
    echo(&client, &server, WARM).await?;
    assert_eq!(allocations(echo(&client, &server, *ROUNDS)).await, (0, 0));
    Ok(())
}

fn a_tcp_echo_allocates_nothing(cx: Cx) {
    cx.run(async {
        let (client, server) = tcp_pair().await?;
        echo_allocates_nothing(client, server).await
    });
}

fn a_unix_echo_allocates_nothing(cx: Cx) {
    cx.run(async {
        let (client, server) = UnixStream::pair()?;
        echo_allocates_nothing(client, server).await
    });
}

/// A client and a server, which answers each datagram with what it received.
async fn datagram_echo(client: &UdpSocket, server: &UdpSocket, rounds: usize) -> io::Result<()> {
    client.send("ping ping ping").await?;
    for _ in 0..rounds {
        let (chunk, source) = server.receive_from().await?;
        server.send_to(chunk, source).await?;
        let chunk = client.receive().await?;
        client.send(chunk).await?;
    }
    assert_eq!(&server.receive().await?[..], b"ping ping ping");
    Ok(())
}

fn a_datagram_echo_allocates_nothing(cx: Cx) {
    cx.run(async {
        let server = UdpSocket::bind("127.0.0.1:0").await?;
        let client = UdpSocket::connect(server.local_addr()?).await?;
        datagram_echo(&client, &server, WARM).await?;
        assert_eq!(allocations(datagram_echo(&client, &server, *ROUNDS)).await, (0, 0));
        let (ours, theirs) = UnixDatagram::pair()?;
        let rounds = async |rounds: usize| {
            for _ in 0..rounds {
                ours.send("ping").await?;
                theirs.send(theirs.receive().await?).await?;
                assert_eq!(&ours.receive().await?[..], b"ping");
            }
            Ok::<_, io::Error>(())
        };
        rounds(WARM).await?;
        assert_eq!(allocations(rounds(*ROUNDS)).await, (0, 0));
        Ok::<_, io::Error>(())
    });
}

fn a_pipe_allocates_nothing(cx: Cx) {
    cx.run(async {
        let (reader, writer) = pipe().await?;
        let rounds = async |rounds: usize| {
            for _ in 0..rounds {
                writer.send("ping").await?;
                assert_eq!(&reader.receive().await?.expect("bytes")[..], b"ping");
            }
            Ok::<_, io::Error>(())
        };
        rounds(WARM).await?;
        assert_eq!(allocations(rounds(*ROUNDS)).await, (0, 0));
        Ok::<_, io::Error>(())
    });
}

/// On the ring each of these is an entry, and nothing but the enter is a system call: one receive is armed once, and each
/// datagram is one send.
fn datagrams_cost_nothing_but_the_enters(cx: Cx) {
    if !cx.is_uring() || !cx.has("multishot receive") {
        return;
    }
    cx.run(async {
        let server = UdpSocket::bind("127.0.0.1:0").await?;
        let client = UdpSocket::connect(server.local_addr()?).await?;
        datagram_echo(&client, &server, WARM).await?;
        let before = metrics();
        datagram_echo(&client, &server, *ROUNDS).await?;
        let after = metrics();
        let entries = |name| after.submitted_of(name) - before.submitted_of(name);
        let sends = entries("send") + entries("sendmsg");
        assert_eq!((sends, entries("recvmsg")), (2 * *ROUNDS as u64 + 1, 0));
        let all = |metrics: &proactor::Metrics| metrics.submitted().map(|(_, count)| count).sum::<u64>();
        let others = all(&after) - all(&before) - sends;
        assert!(others <= 4, "{others} other entries");
        let enters = after.enters - before.enters;
        assert!(enters <= 4 * *ROUNDS as u64 + 20, "{enters} enters for {} rounds", *ROUNDS);
        Ok::<_, io::Error>(())
    });
}

/// The kernel itself sees to it: in a process that would end by another call.
fn steady_state_makes_no_other_call_than_the_enter(cx: Cx) {
    if cx.is_uring() && cx.has("multishot receive") {
        child(cx, "only-enters");
    }
}

pub(crate) fn only_enters(cx: Cx) -> Result<(), String> {
    let folder = Folder::new();
    let (small, big) = (folder.path("small"), folder.path("big"));
    std::fs::write(&small, vec![1; 16 << 10]).expect("a file");
    std::fs::write(&big, vec![2; 1 << 20]).expect("a file");
    cx.run(async {
        let (tcp_client, tcp_server) = tcp_pair().await?;
        let (unix_client, unix_server) = UnixStream::pair()?;
        let server = UdpSocket::bind("127.0.0.1:0").await?;
        let client = UdpSocket::connect(server.local_addr()?).await?;
        let (reader, writer) = pipe().await?;
        let (small, big) = (File::open(&small).await?, File::open(&big).await?);
        let (ours, theirs) = tcp_pair().await?;
        let received = async |len: usize| {
            let mut left = len;
            while left > 0 {
                left -= theirs.receive().await?.expect("bytes").len();
            }
            Ok::<_, io::Error>(())
        };
        let rounds = async |rounds: usize| {
            echo(&tcp_client, &tcp_server, rounds).await?;
            echo(&unix_client, &unix_server, rounds).await?;
            datagram_echo(&client, &server, rounds).await?;
            for round in 0..rounds {
                writer.send("ping").await?;
                assert_eq!(&reader.receive().await?.expect("bytes")[..], b"ping");
                let (file, len) = if round % 2 == 0 { (&small, 16 << 10) } else { (&big, 1 << 20) };
                let (sent, received) = futures_util::join!(ours.send_file(file), received(len));
                assert_eq!(sent?, len as u64);
                received?;
                sleep(Duration::from_nanos(100)).await?;
                spawn(yield_now()).await?;
            }
            Ok::<_, io::Error>(())
        };
        rounds(WARM).await?;
        // The clock is read without the kernel where it can; and the end of the process is one.
        let allowed =
            [libc::SYS_io_uring_enter, libc::SYS_clock_gettime, libc::SYS_write, libc::SYS_exit_group];
        if let Err(error) = crate::faults::allow_only(&allowed) {
            return Ok::<_, io::Error>(Err(error.to_string()));
        }
        rounds(*ROUNDS / 5).await?;
        crate::faults::done_under_a_filter()
    })
}

fn many_connections_at_once_allocate_nothing(cx: Cx) {
    if !needs(120, 0) {
        return;
    }
    const CONNECTIONS: usize = 50;
    cx.run(async {
        let mut clients = Vec::new();
        let mut servers = Vec::new();
        for _ in 0..CONNECTIONS {
            let (client, server) = tcp_pair().await?;
            clients.push(client);
            servers.push(spawn(async move {
                while let Some(chunk) = server.receive().await? {
                    server.send(chunk).await?;
                }
                Ok::<_, io::Error>(())
            }));
        }
        let all_at_once = async |rounds: usize| {
            for _ in 0..rounds {
                for client in &clients {
                    client.send("ping").await?;
                }
                for client in &clients {
                    assert_eq!(&client.receive().await?.expect("bytes")[..], b"ping");
                }
            }
            Ok::<_, io::Error>(())
        };
        all_at_once(WARM / 3).await?;
        assert_eq!(allocations(all_at_once(*ROUNDS / 10)).await, (0, 0));
        drop(clients);
        for server in servers {
            server.await.map_err(io::Error::from)??;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_receive_into_an_own_buffer_allocates_nothing(cx: Cx) {
    cx.run(async {
        let (client, server) = tcp_pair().await?;
        let mut buf = Vec::with_capacity(100);
        let mut rounds = async |rounds: usize| {
            for _ in 0..rounds {
                client.send("ping").await?;
                let (count, filled) = server.receive_into(std::mem::take(&mut buf)).await?;
                assert_eq!((count, &filled[..]), (4, &b"ping"[..]));
                buf = server.send(filled).await?;
                assert_eq!(&client.receive().await?.expect("bytes")[..], b"ping");
            }
            Ok::<_, io::Error>(())
        };
        rounds(WARM).await?;
        assert_eq!(allocations(rounds(*ROUNDS)).await, (0, 0));
        Ok::<_, io::Error>(())
    });
}

/// Answers each ping with a pong; the buffered one keeps its buffer.
#[derive(Default)]
struct Pong {
    transport: OnceCell<Transport>,
    buffer: Cell<BytesMut>,
}

impl Pong {
    fn answer(&self, data: &[u8]) {
        assert_eq!(data, b"ping");
        let transport = self.transport.get().expect("made");
        transport.write(Bytes::from_static(b"pong")).expect("it is open");
    }
}

impl Protocol for Pong {
    fn connection_made(&self, transport: &Transport) {
        self.transport.set(transport.clone()).expect("made once");
    }
    fn data_received(&self, data: Chunk) {
        self.answer(&data);
    }
}

impl BufferedProtocol for Pong {
    fn connection_made(&self, transport: &Transport) {
        self.transport.set(transport.clone()).expect("made once");
    }
    fn get_buffer(&self, _: Option<usize>) -> BytesMut {
        let buffer = self.buffer.take();
        if buffer.capacity() == 0 { BytesMut::with_capacity(4096) } else { buffer }
    }
    fn buffer_updated(&self, buffer: BytesMut, count: usize) {
        self.answer(&buffer[..count]);
        self.buffer.set(buffer);
    }
}

fn protocols_receive_and_write_without_allocating(cx: Cx) {
    async fn pings(client: &TcpStream, rounds: usize) -> io::Result<()> {
        for _ in 0..rounds {
            client.send("ping").await?;
            assert_eq!(&client.receive().await?.expect("bytes")[..], b"pong");
        }
        Ok(())
    }
    cx.run(async {
        for buffered in [false, true] {
            let (client, server) = tcp_pair().await?;
            if buffered {
                drop(connect_accepted_socket(|| Buffered(Pong::default()), server).await?);
            } else {
                drop(connect_accepted_socket(Pong::default, server).await?);
            }
            pings(&client, WARM).await?;
            assert_eq!(allocations(pings(&client, *ROUNDS)).await, (0, 0), "buffered: {buffered}");
            client.shutdown_write().await?;
            assert!(client.receive().await?.is_none());
        }
        Ok::<_, io::Error>(())
    });
}

fn sleeping_and_time_limits_allocate_nothing(cx: Cx) {
    cx.run(async {
        let (client, server) = UnixStream::pair()?;
        let rounds = async |rounds: usize| {
            for _ in 0..rounds {
                sleep(Duration::ZERO).await?;
                sleep(Duration::from_nanos(100)).await?;
                assert!(timeout(Duration::from_nanos(100), pending::<()>()).await.is_err());
                client.send("x").await?;
                let chunk = timeout(Duration::from_secs(60), server.receive()).await??;
                assert_eq!(chunk.expect("a byte").len(), 1);
                // The loser stays armed.
                assert!(timeout(Duration::ZERO, server.receive()).await.is_err());
            }
            Ok::<_, io::Error>(())
        };
        rounds(WARM).await?;
        assert_eq!(allocations(rounds(*ROUNDS)).await, (0, 0));
        Ok::<_, io::Error>(())
    });
}

fn nops_yields_and_wakes_allocate_nothing(cx: Cx) {
    cx.run(async {
        let rounds = async |rounds: usize| {
            for _ in 0..rounds {
                nop().await?;
                yield_now().await;
            }
            Ok::<_, io::Error>(())
        };
        rounds(WARM).await?;
        assert_eq!(allocations(rounds(*ROUNDS)).await, (0, 0));
        Ok::<_, io::Error>(())
    });
}

fn locks_queues_and_streams_allocate_nothing(cx: Cx) {
    cx.run(async {
        let (lock, semaphore, event) = (Lock::new(0), Semaphore::new(1), Event::new());
        let (limiter, queue) = (CapacityLimiter::new(1), Queue::new(1));
        let (sender, receiver) = memory_object_stream(0);
        // Each of two futures waits for the other, again and again.
        let rounds = async |rounds: usize| {
            let side = async |is_first: bool| {
                for n in 0..rounds {
                    *lock.acquire().await? += n;
                    let guard = lock.acquire().await?;
                    yield_now().await;
                    drop(guard);
                    let _permit = semaphore.acquire().await?;
                    let _token = limiter.acquire().await?;
                    yield_now().await;
                    match is_first {
                        true => event.set(),
                        false => event.clear(),
                    }
                }
                Ok::<_, io::Error>(())
            };
            let producer = async {
                for n in 0..rounds {
                    queue.put(n).await?;
                    sender.send(n).await?;
                }
                Ok::<_, io::Error>(())
            };
            let consumer = async {
                for n in 0..rounds {
                    assert_eq!(queue.get().await?, n);
                    queue.task_done()?;
                    assert_eq!(receiver.receive().await?, n);
                }
                Ok::<_, io::Error>(())
            };
            futures_util::try_join!(side(true), side(false), producer, consumer)
        };
        rounds(WARM).await?;
        assert_eq!(allocations(rounds(*ROUNDS)).await, (0, 0));
        Ok::<_, io::Error>(())
    });
}

fn a_task_is_one_allocation(cx: Cx) {
    cx.run(async {
        let rounds = async |rounds: usize| {
            for n in 0..rounds {
                assert_eq!(spawn(async move { n }).await?, n);
                let (a, b) = (spawn(yield_now()), spawn(yield_now()));
                a.await?;
                b.await?;
            }
            Ok::<_, proactor::JoinError>(())
        };
        rounds(WARM).await.map_err(io::Error::from)?;
        assert_eq!(allocations(rounds(*ROUNDS)).await, (3 * *ROUNDS, 3 * *ROUNDS));
        Ok::<_, io::Error>(())
    });
}

fn a_callback_is_one_allocation(cx: Cx) {
    cx.run(async {
        let rounds = async |rounds: usize| {
            for n in 0..rounds {
                // A box of what it holds; one that holds nothing needs none.
                event_loop::call_soon(move || assert!(n < *ROUNDS))?;
                event_loop::call_later(Duration::ZERO, move || assert!(n < *ROUNDS))?;
                let far = event_loop::call_later(Duration::from_secs(100), move || assert!(n < *ROUNDS))?;
                event_loop::call_soon(|| ())?;
                sleep(Duration::ZERO).await?;
                assert!(far.cancel());
            }
            Ok::<_, io::Error>(())
        };
        rounds(WARM).await?;
        assert_eq!(allocations(rounds(*ROUNDS)).await, (3 * *ROUNDS, 3 * *ROUNDS));
        Ok::<_, io::Error>(())
    });
}

fn a_connection_is_a_few_allocations_and_gives_all_of_them_back(cx: Cx) {
    cx.run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let rounds = async |rounds: usize| {
            for _ in 0..rounds {
                let client = TcpStream::connect(address).await?;
                let server = listener.accept().await?;
                client.send("ping").await?;
                server.send(server.receive().await?.expect("bytes")).await?;
                assert_eq!(client.receive().await?.expect("bytes").len(), 4);
                // The client's end goes first and is reset, so that no port stays behind.
                client.set_linger(Some(Duration::ZERO))?;
                client.close().await?;
                drop(server.receive().await);
                server.close().await?;
            }
            Ok::<_, io::Error>(())
        };
        rounds(WARM).await?;
        let (made, freed) = allocations(rounds(*ROUNDS)).await;
        println!("{} allocations per accepted and connected pair", made as f64 / *ROUNDS as f64);
        assert_eq!(made, freed, "all of them come back");
        assert!(made <= 10 * *ROUNDS, "{made} allocations for {} pairs of connections", *ROUNDS);
        Ok::<_, io::Error>(())
    });
}

fn an_echoed_chunk_is_sent_from_where_it_was_received(cx: Cx) {
    cx.run(async {
        let (client, server) = tcp_pair().await?;
        let mut places = std::collections::BTreeSet::new();
        for round in 0..500_u32 {
            client.send(round.to_be_bytes().to_vec()).await?;
            let chunk = server.receive().await?.expect("bytes");
            assert_eq!(&chunk[..], round.to_be_bytes());
            let received_at = chunk.as_ptr();
            let chunk = server.send(chunk).await?;
            assert_eq!(chunk.as_ptr(), received_at, "the buffer of the receive is the buffer of the send");
            assert_eq!(&chunk[..], round.to_be_bytes());
            places.insert(received_at.addr());
            drop(chunk);
            assert_eq!(&client.receive().await?.expect("bytes")[..], round.to_be_bytes());
        }
        // Pooled, not fresh each time.
        assert!(places.len() <= metrics().buffers_total, "{} places", places.len());
        Ok::<_, io::Error>(())
    });
}

fn buffers_come_back_and_the_pool_does_not_grow(cx: Cx) {
    cx.run(async {
        let (client, server) = tcp_pair().await?;
        echo(&client, &server, WARM).await?;
        let before = metrics();
        assert_eq!(before.buffers_in_use, 0);
        echo(&client, &server, *ROUNDS).await?;
        let after = metrics();
        assert_eq!(after.buffers_in_use, 0);
        assert_eq!(after.buffers_total, before.buffers_total);
        client.send("held").await?;
        let chunk = server.receive().await?.expect("bytes");
        assert_eq!(metrics().buffers_in_use, 1, "a chunk that is held keeps its buffer");
        drop(chunk);
        assert_eq!(metrics().buffers_in_use, 0);
        Ok::<_, io::Error>(())
    });
}

fn a_turn_of_the_loop_is_one_enter(cx: Cx) {
    if !needs(230, 0) {
        return;
    }
    let multishot = cx.has("multishot receive");
    cx.run(async {
        // One connection: each leg is a turn at most, and a turn is one call at most.
        let (client, server) = tcp_pair().await?;
        echo(&client, &server, WARM).await?;
        let before = metrics();
        echo(&client, &server, *ROUNDS).await?;
        let after = metrics();
        let (enters, legs) = (after.enters - before.enters, 2 * *ROUNDS as u64 + 2);
        println!("one connection: {:.2} enters per leg", enters as f64 / legs as f64);
        // On epoll a turn looks for events although its send was answered at once. On the ring one enter does all of
        // it, but for the few times that the kernel parts a send from the receive it leads to; without multishot
        // receive a poll says that there is something, and a second enter receives it.
        let most = if multishot { legs * 3 / 2 } else { 2 * legs } + 20;
        assert!(enters <= most, "{enters} enters for {legs} legs");
        if cx.is_uring() {
            let completions = after.completions - before.completions;
            let each = if multishot { 2 } else { 3 };
            let expected = each * (legs - 1)..=each * legs + 20;
            assert!(expected.contains(&completions), "{completions} completions for {legs} legs");
        }
        // Many connections: what is ready together goes together.
        let mut pairs = Vec::new();
        for _ in 0..100 {
            pairs.push(UnixStream::pair()?);
        }
        let turns = async |rounds: usize| {
            for _ in 0..rounds {
                let echoes: Vec<_> = pairs
                    .iter()
                    .map(|(client, server)| async move {
                        client.send("ping").await?;
                        server.send(server.receive().await?.expect("bytes")).await?;
                        client.receive().await.map(drop)
                    })
                    .collect();
                for echoed in futures_util::future::join_all(echoes).await {
                    echoed?;
                }
            }
            Ok::<_, io::Error>(())
        };
        turns(3).await?;
        let before = metrics();
        turns(50).await?;
        let enters = metrics().enters - before.enters;
        println!("100 connections: {:.4} enters per echo", enters as f64 / 5000.0);
        assert!(enters <= 50 * 12, "{enters} enters for 50 rounds of 100 connections");
        Ok::<_, io::Error>(())
    });
}
