//! Many connections: coming and going, idle, and busy all at once.

use std::cell::Cell;
use std::env;
use std::fs;
use std::future::pending;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use proactor::net::{TcpListener, TcpStream};
use proactor::{DriverChoice, EventLoop, metrics, spawn, timeout, yield_now};
use socket2::{Domain, Socket, Type};

use crate::choice::limit_descriptors;
use crate::harness::{Cx, both_drivers, many, needs, skip};

both_drivers!(
    a_hundred_thousand_short_connections_are_served_and_leave_nothing,
    thousands_of_connections_echo_at_once,
    ten_thousand_idle_connections_cost_little_memory,
);

/// A blocking connection from `127.0.0.host`, whose end is a reset, so that its port is free again at once.
fn connect_from(host: u8, to: SocketAddr) -> io::Result<StdStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into())?;
    socket.connect(&to.into())?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(socket.into())
}

fn a_hundred_thousand_short_connections_are_served_and_leave_nothing(cx: Cx) {
    const THREADS: usize = 4;
    let each = many(25_000);
    cx.run(async {
        let listener = TcpListener::builder().backlog(1024).bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let clients: Vec<_> = (0..THREADS)
            .map(|n| {
                thread::spawn(move || {
                    for round in 0..each as u32 {
                        let mut stream = connect_from(2 + n as u8, address)?;
                        stream.write_all(&round.to_be_bytes())?;
                        let mut answer = [0; 4];
                        stream.read_exact(&mut answer)?;
                        assert_eq!(answer, round.to_be_bytes());
                    }
                    Ok::<_, io::Error>(())
                })
            })
            .collect();
        let (served, open) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0_usize)));
        let mut most = 0;
        for _ in 0..THREADS * each {
            let stream = listener.accept().await?;
            let (served, open) = (served.clone(), open.clone());
            open.set(open.get() + 1);
            most = most.max(open.get());
            drop(spawn(async move {
                let chunk = stream.receive().await.expect("the client sends").expect("four bytes");
                stream.send(chunk).await.expect("the client receives");
                served.set(served.get() + 1);
                // The client ends it: by a reset, or by an end that overtook it.
                assert!(!matches!(stream.receive().await, Ok(Some(_))), "the client sends no more");
                open.set(open.get() - 1);
            }));
        }
        while open.get() > 0 {
            proactor::sleep(Duration::from_millis(1)).await?;
        }
        clients.into_iter().try_for_each(|client| client.join().expect("the client ends"))?;
        assert_eq!(served.get(), THREADS * each);
        assert!(most <= 2 * THREADS + 1100, "{most} were open at a time");
        listener.close().await
    });
}

fn thousands_of_connections_echo_at_once(cx: Cx) {
    let connections = many(3000);
    if !needs(2 * connections + 200, 0) {
        return;
    }
    cx.run(async {
        let listener = TcpListener::builder().backlog(4096).bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let clients: Vec<_> = (0..connections as u32)
            .map(|n| {
                spawn(async move {
                    let stream = TcpStream::connect(address).await?;
                    for round in 0..10 {
                        let message = (n * 10 + round).to_be_bytes();
                        stream.send(message.to_vec()).await?;
                        let mut answer = Vec::new();
                        while answer.len() < 4 {
                            answer.extend_from_slice(&stream.receive().await?.expect("an answer"));
                        }
                        assert_eq!(answer, message);
                    }
                    stream.shutdown_write().await?;
                    assert!(stream.receive().await?.is_none());
                    stream.close().await
                })
            })
            .collect();
        let mut servers = Vec::new();
        for _ in 0..connections {
            let stream = listener.accept().await?;
            servers.push(spawn(async move {
                while let Some(chunk) = stream.receive().await? {
                    stream.send(chunk).await?;
                }
                stream.close().await
            }));
        }
        for task in clients.into_iter().chain(servers) {
            task.await.map_err(io::Error::from)??;
        }
        listener.close().await
    });
}

const IDLE: usize = 10_000;

/// Which part of a test a child process plays.
const ROLE: &str = "URING_TESTS_ROLE";

struct Helper {
    process: Child,
    said: BufReader<ChildStdout>,
}

impl Helper {
    fn start(role: &str) -> Self {
        let mut process = Command::new(env::current_exe().expect("a path"))
            .args(["--exact", "load::in_a_child", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child runs");
        let said = BufReader::new(process.stdout.take().expect("a pipe"));
        Self { process, said }
    }

    /// What it says after the mark.
    fn answer(&mut self) -> String {
        let mut line = String::new();
        while self.said.read_line(&mut line).expect("a pipe") > 0 {
            if let Some((_, answer)) = line.split_once("<<<") {
                return answer.trim().to_owned();
            }
            line.clear();
        }
        panic!("the child ended without an answer");
    }

    /// Lets it end and waits for that.
    fn end(mut self) {
        drop(self.process.stdin.take());
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).expect("a pipe");
        assert!(self.process.wait().expect("a child").success());
    }
}

/// Not a test by itself: what the children of the other tests do.
#[test]
fn in_a_child() {
    let Ok(role) = env::var(ROLE) else { return };
    match role.split(' ').collect::<Vec<_>>()[..] {
        ["clients", address] => {
            let idle = many(IDLE);
            if limit_descriptors(1 << 20) < idle as u64 + 100 {
                println!("<<<SKIP");
                return;
            }
            let address = address.parse().expect("an address");
            let streams: Vec<_> = (0..idle)
                .map(|n| connect_from(2 + (n / 5000) as u8, address).expect("a connection"))
                .collect();
            println!("<<<{}", streams.len());
            // Until the other side has measured.
            io::stdin().read_to_end(&mut Vec::new()).expect("a pipe");
        }
        ["server", driver] => {
            let choice = if driver == "io_uring" { DriverChoice::IoUring } else { DriverChoice::Epoll };
            println!("<<<{}", serve_idle(choice).expect("it serves"));
        }
        _ => panic!("no such role: {role}"),
    }
}

/// Bytes of this process that are in memory and its own.
fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/smaps_rollup").expect("this kernel has it");
    let line = text.lines().find(|line| line.starts_with("Anonymous:")).expect("a line");
    let kilobytes = line.split_whitespace().nth(1).expect("a number");
    kilobytes.parse::<usize>().expect("a number") * 1024
}

/// Serves connections of a child that say nothing; answers with what each of them costs.
fn serve_idle(choice: DriverChoice) -> io::Result<String> {
    let idle = many(IDLE);
    if limit_descriptors(1 << 20) < idle as u64 + 200 {
        return Ok("SKIP".to_owned());
    }
    let event_loop = EventLoop::builder().driver(choice).build()?;
    event_loop.run_until_complete(async {
        let listener = TcpListener::builder().backlog(4096).bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        // What is made once is made before.
        let client = TcpStream::connect(address).await?;
        let server = listener.accept().await?;
        client.send("x").await?;
        server.send(server.receive().await?.expect("a byte")).await?;
        drop((client.receive().await?, client, server));
        let buffers = metrics().buffers_total;
        let before = resident();
        let mut clients = Helper::start(&format!("clients {address}"));
        for _ in 0..idle {
            let stream = timeout(Duration::from_secs(60), listener.accept()).await??;
            drop(spawn(async move {
                let _ = stream.receive().await;
                pending::<()>().await;
            }));
        }
        if clients.answer() == "SKIP" {
            return Ok("SKIP".to_owned());
        }
        for _ in 0..100 {
            proactor::nop().await?;
            yield_now().await;
        }
        let cost = resident().saturating_sub(before) / idle;
        let now = metrics();
        assert_eq!(now.tasks, idle);
        assert_eq!(now.buffers_total, buffers, "idle connections hold no buffers");
        assert_eq!(now.buffers_in_use, 0);
        clients.end();
        Ok(cost.to_string())
    })?
}

fn ten_thousand_idle_connections_cost_little_memory(cx: Cx) {
    let mut server = Helper::start(if cx.is_uring() { "server io_uring" } else { "server epoll" });
    let answer = server.answer();
    server.end();
    if answer == "SKIP" {
        skip(&format!("fewer than {} descriptors are allowed", many(IDLE)));
        return;
    }
    let bytes: usize = answer.parse().expect("a number");
    println!("{} idle connections: {bytes} bytes of memory each", many(IDLE));
    assert!(bytes <= 1024, "{bytes} bytes for each idle connection");
}
