//! What `record.py` does on asyncio, done here: performs a scenario and records what happens.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proactor::event_loop::call_soon;
#[cfg(feature = "tls")]
use proactor::transport::Tls;
use proactor::transport::{
    Buffered, DatagramTransport, Server, SocketAddress, StreamReader, StreamWriter, Transport,
};
use proactor::{Task, spawn};
use socket2::{SockAddr, SockRef};

use crate::harness::{patience, turns};
use crate::transports::peer::Peer;
use crate::transports::recorder::{Recorder, describe, kind, text, yes};
use crate::transports::scenario::Scenario;

const READS: &str = "read readexactly readline readuntil drain wait_closed";

/// A task that waits at a stream.
type Reading = Task<io::Result<Option<Bytes>>>;

pub(super) struct Run {
    pub(super) scenario: Scenario,
    pub(super) this: Weak<Self>,
    events: RefCell<Vec<String>>,
    counts: RefCell<HashMap<String, usize>>,
    total: Cell<usize>,
    pub(super) room: Cell<usize>,
    pub(super) transport: RefCell<Option<Transport>>,
    pub(super) datagrams: RefCell<Option<DatagramTransport>>,
    /// Where datagrams go to, unless the socket is connected.
    pub(super) target: RefCell<Option<SocketAddress>>,
    pub(super) peer: RefCell<Option<Peer>>,
    pub(super) server: RefCell<Option<Server>>,
    pub(super) address: RefCell<Option<SockAddr>>,
    tasks: RefCell<Vec<Task<()>>>,
    pub(super) reader: RefCell<Option<StreamReader>>,
    pub(super) writer: RefCell<Option<Rc<StreamWriter>>>,
    /// A read, or another wait of a stream.
    waiting: RefCell<Option<(String, Reading)>>,
}

/// Performs a scenario, and returns what happened. UNIX servers listen at `path`.
pub(super) async fn perform(scenario: Scenario, path: PathBuf) -> io::Result<Vec<String>> {
    let run = Rc::new_cyclic(|this| Run {
        scenario,
        this: this.clone(),
        events: RefCell::default(),
        counts: RefCell::default(),
        total: Cell::new(0),
        room: Cell::new(65536),
        transport: RefCell::default(),
        datagrams: RefCell::default(),
        target: RefCell::default(),
        peer: RefCell::default(),
        server: RefCell::default(),
        address: RefCell::default(),
        tasks: RefCell::default(),
        reader: RefCell::default(),
        writer: RefCell::default(),
        waiting: RefCell::default(),
    });
    run.perform_all(path).await?;
    let events = run.events.take();
    // What was left open, and cycles of the program.
    let waiting = run.waiting.take();
    if let Some((_, task)) = waiting {
        task.cancel("as the scenario says");
        drop(task.await);
    }
    drop((run.reader.take(), run.writer.take()));
    if let Some(transport) = run.transport.take() {
        transport.abort();
    }
    if let Some(datagrams) = run.datagrams.take() {
        datagrams.abort();
    }
    if let Some(server) = run.server.take() {
        server.close();
        server.wait_closed().await?;
    }
    for task in run.tasks.take() {
        task.await?;
    }
    Ok(events)
}

impl Run {
    pub(super) fn is(&self, option: &str) -> bool {
        self.scenario.options.iter().any(|other| other == option)
    }

    pub(super) fn record(&self, prefix: &str, event: &str, rest: &str) {
        *self.counts.borrow_mut().entry(event.to_owned()).or_default() += 1;
        let text = format!("{prefix}{event} {rest}");
        self.events.borrow_mut().push(text.trim_end().to_owned());
    }

    /// Pieces that come one after the other are one: how the kernel parts them says nothing.
    pub(super) fn data(&self, prefix: &str, mut count: usize) {
        self.total.set(self.total.get() + count);
        let mut events = self.events.borrow_mut();
        let head = format!("{prefix}data ");
        if let Some(before) = events.last().and_then(|last| last.strip_prefix(&head)?.parse::<usize>().ok()) {
            count += before;
            events.pop();
        }
        events.push(format!("{head}{count}"));
    }

    /// Does what the scenario says for an event. Returns whether it is to keep the connection open.
    pub(super) fn react(&self, event: &str) -> bool {
        let mut keeps = false;
        for action in self.scenario.reactions.get(event).into_iter().flatten() {
            match action[0].as_str() {
                "keep" => keeps = true,
                "panic" => std::panic::resume_unwind(Box::new("as the scenario says")),
                _ => self.act(action),
            }
        }
        keeps
    }

    fn act(&self, action: &[String]) {
        let words: Vec<&str> = action[1..].iter().map(String::as_str).collect();
        if self.act_on(&action[0], &words).is_err() {
            self.record("", "refused", &action[0]);
        }
    }

    pub(super) fn reader(&self) -> StreamReader {
        self.reader.borrow().clone().expect("a scenario with a reader")
    }

    fn transport(&self) -> Transport {
        self.transport.borrow().clone().expect("the connection was made")
    }

    /// What is done to a transport of datagrams; false if that is nothing of it.
    fn act_on_datagrams(&self, action: &str, words: &[&str]) -> io::Result<bool> {
        let Some(transport) = self.datagrams.borrow().clone() else { return Ok(false) };
        let number = |index: usize| words[index].parse::<usize>().ok();
        match action {
            "sendto" => {
                let elsewhere = SocketAddress::Ip(([127, 0, 0, 1], 9).into());
                let peer = self.target.borrow().clone();
                let target = if words.len() > 1 { Some(elsewhere) } else { peer };
                transport.sendto(vec![0; number(0).expect("a number")], target.as_ref())?;
            }
            "close" => transport.close(),
            "abort" => transport.abort(),
            "limits" => transport.set_write_buffer_limits(number(0), number(1))?,
            "ask" => {
                let limits = transport.write_buffer_limits();
                let answer = match words[0] {
                    "closing" => yes(transport.is_closing()).to_owned(),
                    "peername" => yes(transport.peername().is_some()).to_owned(),
                    "limits" => format!("{} {}", limits.low, limits.high),
                    "size" => transport.write_buffer_size().to_string(),
                    what => panic!("nobody knows {what}"),
                };
                self.record("", "ask", &format!("{} {answer}", words[0]));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn act_on(&self, action: &str, words: &[&str]) -> io::Result<()> {
        if self.act_on_datagrams(action, words)? {
            return Ok(());
        }
        let number = |index: usize| words[index].parse::<usize>().ok();
        let bytes = |word: &&str| vec![0_u8; word.parse().expect("a number")];
        match action {
            "write" => self.transport().write(bytes(&words[0]))?,
            "writelines" => self.transport().writelines(words.iter().map(bytes))?,
            "write_eof" => self.transport().write_eof()?,
            "close" => self.transport().close(),
            "abort" => self.transport().abort(),
            "pause" => self.transport().pause_reading(),
            "resume" => self.transport().resume_reading(),
            "limits" => self.transport().set_write_buffer_limits(number(0), number(1))?,
            "switch" => {
                let run = self.this.upgrade().expect("it runs");
                let other = Recorder { run, prefix: "b." };
                match words {
                    ["buffered"] => self.transport().set_protocol(Rc::new(Buffered(other))),
                    _ => self.transport().set_protocol(Rc::new(other)),
                }
            }
            "room" => self.room.set(number(0).expect("a number")),
            "feed" => self.reader().feed_data(&text(words[0])),
            "feed_eof" => self.reader().feed_eof(),
            "fail" => self.reader().set_exception(io::ErrorKind::Unsupported.into()),
            "soon" => {
                let (this, name) = (self.this.clone(), words[0].to_owned());
                drop(call_soon(move || {
                    if let Some(run) = this.upgrade() {
                        run.record("", "soon", &name);
                    }
                })?);
            }
            "ask" => self.record("", "ask", &format!("{} {}", words[0], self.answer(words[0]))),
            _ => panic!("there is no action {action}"),
        }
        Ok(())
    }

    fn answer(&self, what: &str) -> String {
        let transport = || self.transport();
        match what {
            "closing" => yes(transport().is_closing()).into(),
            "reading" => yes(transport().is_reading()).into(),
            "size" => transport().write_buffer_size().to_string(),
            "buffered" => yes(transport().write_buffer_size() > 0).into(),
            "limits" => {
                let limits = transport().write_buffer_limits();
                format!("{} {}", limits.low, limits.high)
            }
            "can_eof" => yes(transport().can_write_eof()).into(),
            "peername" => yes(transport().peername().is_some()).into(),
            "protocol" => yes(transport().protocol().is_some()).into(),
            "serving" => yes(self.server.borrow().as_ref().is_some_and(Server::is_serving)).into(),
            "at_eof" => yes(self.reader().at_eof()).into(),
            "exception" => yes(self.reader().exception().is_some()).into(),
            _ => panic!("nobody knows {what}"),
        }
    }

    /// Turns the loop until `condition` holds; false if it does not.
    async fn until(&self, mut condition: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + patience(10);
        while !condition() {
            if Instant::now() > end {
                return false;
            }
            turns(1).await;
            std::thread::yield_now();
        }
        true
    }

    async fn until_event(&self, event: &str, count: usize) {
        let happened = match event {
            "data" => self.until(|| self.total.get() >= count).await,
            _ => self.until(|| self.counts.borrow().get(event).is_some_and(|had| *had >= count)).await,
        };
        if !happened {
            self.record("", "never", event);
        }
    }

    /// Reads that many bytes, or all there are up to the end.
    async fn peer_read(&self, want: usize) {
        let (mut count, mut end) = (0, String::new());
        let mut buffer = vec![0; 1 << 20];
        let done = || {
            let mut peer = self.peer.borrow_mut();
            let peer = peer.as_mut().expect("a peer");
            while count < want {
                let room = buffer.len().min(want - count);
                match peer.read(&mut buffer[..room]) {
                    Ok(0) => " end".clone_into(&mut end),
                    Ok(more) => {
                        count += more;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        " cut off".clone_into(&mut end)
                    }
                    Err(error) => end = format!(" {}", kind(Some(&error))),
                }
                break;
            }
            true
        };
        if !self.until(done).await {
            " never".clone_into(&mut end);
        }
        // The peer and the transport do things at the same time: what the transport does at its leisure comes first.
        self.idle().await;
        self.record("", "peer", &format!("got {count}{end}"));
    }

    async fn idle(&self) {
        turns(20).await;
    }

    /// What the peer did has arrived, as far as the other side takes it. On loopback that is nearly always so at once, but
    /// where a kernel's thread has to get to it, on a machine with much else to do, it takes a while.
    async fn arrived(&self) {
        let end = Instant::now() + Duration::from_millis(200);
        let on_its_way = || self.peer.borrow().as_ref().is_some_and(Peer::has_sent_more);
        while on_its_way() && Instant::now() < end {
            turns(1).await;
        }
    }

    async fn peer_does(&self, what: &str, word: Option<&String>) -> io::Result<()> {
        let number = || word.map_or(usize::MAX, |word| word.parse().expect("a number"));
        match what {
            "send" => self.peer.borrow_mut().as_mut().expect("a peer").write_all(&vec![0; number()])?,
            "say" => {
                let data = text(word.expect("a text"));
                self.peer.borrow_mut().as_mut().expect("a peer").write_all(&data)?;
            }
            "eof" => {
                let peer = self.peer.borrow();
                SockRef::from(peer.as_ref().expect("a peer").plain()).shutdown(Shutdown::Write)?;
            }
            "close" => drop(self.peer.take()),
            "reset" => {
                let peer = self.peer.take().expect("a peer");
                SockRef::from(peer.plain()).set_linger(Some(Duration::ZERO))?;
            }
            "read" | "drain" => self.peer_read(number()).await,
            #[cfg(feature = "tls")]
            "end_tls" => self.peer.borrow_mut().as_mut().expect("a peer").end_tls()?,
            _ => panic!("a peer does not {what}"),
        }
        self.arrived().await;
        Ok(())
    }

    async fn server_does(&self, what: &str) -> io::Result<()> {
        let server = self.server.borrow().clone().expect("a server");
        match what {
            "start" => {
                if server.start_serving().is_err() {
                    self.record("", "refused", "start");
                }
            }
            "close" => server.close(),
            "wait" => server.wait_closed().await?,
            "forever" => {
                let this = self.this.clone();
                self.tasks.borrow_mut().push(spawn(async move {
                    let over = server.serve_forever().await;
                    if let Some(run) = this.upgrade() {
                        run.record("", "forever", "is over");
                    }
                    drop(over);
                }));
            }
            _ => panic!("a server does not {what}"),
        }
        Ok(())
    }

    /// Waits until the peer has agreed on TLS; the transport may know that before or after it.
    #[cfg(feature = "tls")]
    pub(super) async fn agree(&self) {
        let shakes = || self.peer.borrow_mut().as_mut().is_some_and(Peer::shakes_hands);
        assert!(self.until(shakes).await, "they do not agree");
    }

    #[cfg(feature = "tls")]
    async fn start_tls(&self, is_server: bool, peer_can: bool) -> io::Result<()> {
        let tls = if is_server {
            Tls::server(crate::wrappers::tls::server().into())
        } else {
            Tls::client("localhost").client_config(crate::wrappers::tls::client().into())
        };
        let starting = spawn(self.transport().start_tls(tls));
        if peer_can {
            self.peer.borrow_mut().as_mut().expect("a peer").secure(!is_server);
            self.agree().await;
        } else {
            self.peer.borrow_mut().as_mut().expect("a peer").write_all(&b"hello\r\n".repeat(10))?;
        }
        let outcome = match starting.await? {
            Ok(()) => "over",
            Err(_) => "failed",
        };
        self.record("", "start_tls", outcome);
        Ok(())
    }

    async fn read(&self, name: &str, words: &[String]) -> io::Result<()> {
        let reader = self.reader();
        let writer = self.writer.borrow().clone();
        let (wait, name) = (name.to_owned(), name.to_owned());
        let words = words.to_vec();
        let mut task = spawn(async move {
            let number = || words[0].parse::<usize>().expect("a number");
            let writer = || writer.as_ref().expect("a scenario with a writer");
            match wait.as_str() {
                "read" if words[0] == "-1" => reader.read_to_end().await.map(Some),
                "read" => reader.read(number()).await.map(Some),
                "readexactly" => reader.readexactly(number()).await.map(Some),
                "readline" => reader.readline().await.map(Some),
                "readuntil" => {
                    reader.readuntil(&text(words.first().map_or("", String::as_str))).await.map(Some)
                }
                "drain" => writer().drain().await.map(|()| None),
                _ => writer().wait_closed().await.map(|()| None),
            }
        });
        self.idle().await;
        if task.is_finished() {
            self.record("", &name, &describe(&name, (&mut task).await?));
        } else {
            self.record("", &name, "waits");
            self.waiting.replace(Some((name, task)));
        }
        Ok(())
    }

    async fn look_at_waiting(&self) -> io::Result<()> {
        let over = self.waiting.borrow_mut().take_if(|(_, task)| task.is_finished());
        if let Some((name, task)) = over {
            self.record("", &name, &describe(&name, task.await?));
        }
        Ok(())
    }

    async fn perform_all(&self, path: PathBuf) -> io::Result<()> {
        self.begin(path).await?;
        for step in &self.scenario.steps {
            match (step[0].as_str(), step.get(1)) {
                ("until", Some(event)) => {
                    let count = step.get(2).map_or(1, |word| word.parse().expect("a number"));
                    self.until_event(event, count).await;
                }
                ("idle", None) => self.idle().await,
                ("peer", Some(what)) => self.peer_does(what, step.get(2)).await?,
                ("server", Some(what)) => self.server_does(what).await?,
                ("connect", None) => self.connect()?,
                #[cfg(feature = "tls")]
                ("start_tls", Some(side)) => self.start_tls(side == "server", step.len() == 2).await?,
                ("cancel", None) => {
                    if let Some((_, task)) = &*self.waiting.borrow() {
                        task.cancel("as the scenario says");
                    }
                }
                (name, _) if READS.split(' ').any(|read| read == name) => self.read(name, &step[1..]).await?,
                _ => self.act(step),
            }
            if self.reader.borrow().is_some() {
                self.idle().await;
                self.look_at_waiting().await?;
            }
        }
        self.idle().await;
        drop(self.peer.take());
        Ok(())
    }
}
