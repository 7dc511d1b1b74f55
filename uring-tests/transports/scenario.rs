//! What `record.py` does on asyncio, done here: performs a scenario and records what happens.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use proactor::buf::Chunk;
use proactor::event_loop::call_soon;
use proactor::net::{PipeReader, PipeWriter, TcpStream, UnixStream};
use proactor::transport::{
    Buffered, BufferedProtocol, DatagramProtocol, DatagramTransport, Protocol, Server, SocketAddress,
    StreamReader, StreamReaderProtocol, StreamWriter, Transport, connect_accepted_socket, connect_read_pipe,
    connect_write_pipe, create_datagram_endpoint, create_server, create_unix_server,
};
#[cfg(feature = "tls")]
use proactor::transport::{Tls, connect_accepted_tls};
use proactor::{IncompleteRead, LimitOverrun, MayBeCancelled, Task, spawn};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::harness::{patience, turns};
use crate::transports::peer::Peer;

/// Whether there is something on its way from a TCP socket that the other side's kernel has not acknowledged.
fn is_on_its_way(socket: &File) -> bool {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of_val(&info) as libc::socklen_t;
    let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
    // SAFETY: the kernel writes at most `len` bytes, which are there. What is no TCP socket gets an error.
    let answer =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, info.as_mut_ptr().cast(), &raw mut len) };
    // SAFETY: a structure of numbers, which were zeros where the kernel wrote none.
    answer == 0 && unsafe { info.assume_init() }.tcpi_unacked > 0
}

type Words = Vec<String>;

/// One scenario, as its file describes it.
#[derive(Default)]
pub(super) struct Scenario {
    pub(super) name: String,
    options: Words,
    reactions: HashMap<String, Vec<Words>>,
    steps: Vec<Words>,
}

fn words(line: &str) -> Words {
    line.split_whitespace().map(str::to_owned).collect()
}

/// All that `text` describes.
pub(super) fn scenarios(text: &str) -> Vec<Scenario> {
    let mut found: Vec<Scenario> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(line) = line.strip_prefix("= ") {
            let mut options = words(line);
            let name = options.remove(0);
            found.push(Scenario { name, options, ..Scenario::default() });
            continue;
        }
        let scenario = found.last_mut().expect("a scenario has a name");
        match line.strip_prefix("on ").and_then(|line| line.split_once(':')) {
            Some((event, actions)) => {
                scenario.reactions.insert(event.to_owned(), actions.split(';').map(words).collect());
            }
            None => scenario.steps.push(words(line)),
        }
    }
    found
}

/// The sequences that `text` holds, each with its name.
pub(super) fn sequences(text: &str) -> HashMap<String, Vec<String>> {
    let mut found: HashMap<String, Vec<String>> = HashMap::new();
    let mut name = String::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("= ") {
            Some(new) => {
                name = new.to_owned();
                found.insert(name.clone(), Vec::new());
            }
            None => found.get_mut(&name).expect("a name comes first").push(line.to_owned()),
        }
    }
    found
}

fn kind(error: Option<&io::Error>) -> &'static str {
    match error.map(io::Error::kind) {
        None => "none",
        Some(io::ErrorKind::ConnectionReset) => "ConnectionReset",
        Some(io::ErrorKind::BrokenPipe) => "BrokenPipe",
        Some(_) => "Other",
    }
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

fn text(word: &str) -> Vec<u8> {
    word.replace("\\n", "\n").into()
}

fn quoted(data: &[u8]) -> String {
    format!("\"{}\"", String::from_utf8_lossy(data).replace('\n', "\\n"))
}

/// What a read gave, in the words of the recorder.
fn describe(name: &str, result: io::Result<Option<Bytes>>) -> String {
    let error = match result {
        Ok(None) => return "over".into(),
        Ok(Some(data)) => return quoted(&data),
        Err(error) => error,
    };
    let inner = error.get_ref();
    if let Some(incomplete) = inner.and_then(|inner| inner.downcast_ref::<IncompleteRead>()) {
        let expected = incomplete.expected.map_or(String::new(), |expected| format!(" of {expected}"));
        return format!("incomplete {}{expected}", quoted(&incomplete.partial));
    }
    if let Some(overrun) = inner.and_then(|inner| inner.downcast_ref::<LimitOverrun>()) {
        return if name == "readline" { "overrun".into() } else { format!("overrun {}", overrun.consumed) };
    }
    if error.is_cancelled() {
        return "cancelled".into();
    }
    match error.kind() {
        io::ErrorKind::Unsupported => "failed".into(),
        io::ErrorKind::InvalidInput | io::ErrorKind::ResourceBusy => "refused".into(),
        _ => kind(Some(&error)).into(),
    }
}

const READS: &str = "read readexactly readline readuntil drain wait_closed";

/// A protocol that records what it is told.
struct Recorder {
    run: Rc<Run>,
    prefix: &'static str,
}

impl Recorder {
    fn data(&self, count: usize) {
        self.run.data(self.prefix, count);
        self.run.react("data");
    }

    fn is_made(&self, transport: &Transport) {
        self.run.transport.replace(Some(transport.clone()));
        self.run.record(self.prefix, "made", "");
        self.run.react("made");
    }

    fn is_at_eof(&self) -> bool {
        self.run.record(self.prefix, "eof", "");
        self.run.react("eof")
    }

    fn is_lost(&self, error: Option<io::Error>) {
        self.run.record(self.prefix, "lost", kind(error.as_ref()));
        self.run.react("lost");
    }

    fn tell(&self, event: &str) {
        self.run.record(self.prefix, event, "");
        self.run.react(event);
    }
}

impl Protocol for Recorder {
    fn connection_made(&self, transport: &Transport) {
        self.is_made(transport);
    }
    fn data_received(&self, data: Chunk) {
        self.data(data.len());
    }
    fn eof_received(&self) -> bool {
        self.is_at_eof()
    }
    fn connection_lost(&self, error: Option<io::Error>) {
        self.is_lost(error);
    }
    fn pause_writing(&self) {
        self.tell("pause");
    }
    fn resume_writing(&self) {
        self.tell("resume");
    }
}

impl DatagramProtocol for Recorder {
    fn connection_made(&self, transport: &DatagramTransport) {
        self.run.datagrams.replace(Some(transport.clone()));
        self.run.record(self.prefix, "made", "");
        self.run.react("made");
    }
    fn datagram_received(&self, data: Chunk, _: SocketAddress) {
        self.run.record(self.prefix, "datagram", &data.len().to_string());
        self.run.react("datagram");
    }
    fn error_received(&self, error: io::Error) {
        self.run.record(self.prefix, "error", kind(Some(&error)));
        self.run.react("error");
    }
    fn connection_lost(&self, error: Option<io::Error>) {
        self.is_lost(error);
    }
    fn pause_writing(&self) {
        self.tell("pause");
    }
    fn resume_writing(&self) {
        self.tell("resume");
    }
}

impl BufferedProtocol for Recorder {
    fn connection_made(&self, transport: &Transport) {
        self.is_made(transport);
    }
    fn get_buffer(&self, _: Option<usize>) -> BytesMut {
        BytesMut::with_capacity(self.run.room.get())
    }
    fn buffer_updated(&self, buffer: BytesMut, count: usize) {
        assert_eq!(buffer.len(), count);
        self.data(count);
    }
    fn eof_received(&self) -> bool {
        self.is_at_eof()
    }
    fn connection_lost(&self, error: Option<io::Error>) {
        self.is_lost(error);
    }
    fn pause_writing(&self) {
        self.tell("pause");
    }
    fn resume_writing(&self) {
        self.tell("resume");
    }
}

/// A task that waits at a stream.
type Reading = Task<io::Result<Option<Bytes>>>;

struct Run {
    scenario: Scenario,
    this: Weak<Self>,
    events: RefCell<Vec<String>>,
    counts: RefCell<HashMap<String, usize>>,
    total: Cell<usize>,
    room: Cell<usize>,
    transport: RefCell<Option<Transport>>,
    datagrams: RefCell<Option<DatagramTransport>>,
    /// Where datagrams go to, unless the socket is connected.
    target: RefCell<Option<SocketAddress>>,
    peer: RefCell<Option<Peer>>,
    server: RefCell<Option<Server>>,
    address: RefCell<Option<SockAddr>>,
    tasks: RefCell<Vec<Task<()>>>,
    reader: RefCell<Option<StreamReader>>,
    writer: RefCell<Option<Rc<StreamWriter>>>,
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

impl Scenario {
    /// Whether this build can perform it.
    pub(super) fn is_possible(&self) -> bool {
        cfg!(feature = "tls") || !self.options.iter().any(|option| option == "tls" || option == "plain")
    }
}

impl Run {
    fn is(&self, option: &str) -> bool {
        self.scenario.options.iter().any(|other| other == option)
    }

    fn record(&self, prefix: &str, event: &str, rest: &str) {
        *self.counts.borrow_mut().entry(event.to_owned()).or_default() += 1;
        let text = format!("{prefix}{event} {rest}");
        self.events.borrow_mut().push(text.trim_end().to_owned());
    }

    /// Pieces that come one after the other are one: how the kernel parts them says nothing.
    fn data(&self, prefix: &str, mut count: usize) {
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
    fn react(&self, event: &str) -> bool {
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

    fn reader(&self) -> StreamReader {
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
        let on_its_way = || self.peer.borrow().as_ref().is_some_and(|peer| is_on_its_way(peer.plain()));
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

    fn domain(&self) -> Domain {
        if self.is("unix") { Domain::UNIX } else { Domain::IPV4 }
    }

    fn connect(&self) -> io::Result<()> {
        let peer = Socket::new(self.domain(), Type::STREAM, None)?;
        match peer.connect(self.address.borrow().as_ref().expect("an address")) {
            Ok(()) => {
                peer.set_nonblocking(true)?;
                self.peer.replace(Some(Peer::new(File::from(OwnedFd::from(peer)))));
            }
            Err(_) => self.record("", "connection", "refused"),
        }
        Ok(())
    }

    fn recorder(&self) -> impl Fn() -> Recorder + 'static {
        let this = self.this.clone();
        move || Recorder { run: this.upgrade().expect("it runs"), prefix: "" }
    }

    async fn serve(&self, path: PathBuf) -> io::Result<()> {
        let factory = self.recorder();
        let creating = match (self.is("unix"), self.is("buffered")) {
            (true, true) => create_unix_server(move || Buffered(factory()), &path),
            (true, false) => create_unix_server(factory, &path),
            (false, true) => create_server(move || Buffered(factory()), "127.0.0.1:0"),
            (false, false) => create_server(factory, "127.0.0.1:0"),
        };
        let server = creating.start_serving(!self.is("idle")).await?;
        let address = server.sockets()[0].clone();
        let address = match address.as_ip() {
            Some(address) => address.into(),
            None => SockAddr::unix(&path)?,
        };
        self.address.replace(Some(address));
        self.server.replace(Some(server));
        Ok(())
    }

    async fn begin_datagrams(&self) -> io::Result<()> {
        let peer = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let name = peer.local_addr()?;
        let endpoint = create_datagram_endpoint(self.recorder());
        let (transport, _) = if self.is("connected") {
            endpoint.remote_addr(name).await?
        } else {
            self.target.replace(Some(SocketAddress::Ip(name)));
            endpoint.local_addr("127.0.0.1:0").await?
        };
        peer.connect(transport.sockname().and_then(SocketAddress::as_ip).expect("UDP"))?;
        peer.set_nonblocking(true)?;
        self.peer.replace(Some(Peer::new(File::from(OwnedFd::from(peer)))));
        Ok(())
    }

    async fn begin_pipe(&self) -> io::Result<()> {
        let (reader, writer) = io::pipe()?;
        let peer: OwnedFd = if self.is("pipe_in") {
            drop(connect_read_pipe(self.recorder(), PipeReader::from_fd(reader)?).await?);
            writer.into()
        } else {
            drop(connect_write_pipe(self.recorder(), PipeWriter::from_fd(writer)?).await?);
            reader.into()
        };
        SockRef::from(&peer).set_nonblocking(true)?;
        self.peer.replace(Some(Peer::new(File::from(peer))));
        Ok(())
    }

    async fn begin(&self, path: PathBuf) -> io::Result<()> {
        if self.is("server") {
            return self.serve(path).await;
        }
        if self.is("reader") || self.is("stream") {
            let limit = self.scenario.options.last().expect("a limit").parse().expect("a number");
            self.reader.replace(Some(StreamReader::new(limit)));
        }
        if self.is("reader") {
            return Ok(());
        }
        if self.is("datagram") {
            return self.begin_datagrams().await;
        }
        if self.is("pipe_in") || self.is("pipe_out") {
            return self.begin_pipe().await;
        }
        let (ours, peer) = if self.is("unix") {
            Socket::pair(Domain::UNIX, Type::STREAM, None)?
        } else {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            let peer = std::net::TcpStream::connect(listener.local_addr()?)?;
            (listener.accept()?.0.into(), peer.into())
        };
        for end in [&ours, &peer] {
            // Small, so that what is much fits in none.
            end.set_send_buffer_size(65536)?;
            end.set_recv_buffer_size(65536)?;
        }
        peer.set_nonblocking(true)?;
        self.peer.replace(Some(Peer::new(File::from(OwnedFd::from(peer)))));
        if self.is("stream") {
            let reader = self.reader();
            let factory = move || StreamReaderProtocol::new(reader);
            let (transport, protocol) = if self.is("unix") {
                connect_accepted_socket(factory, UnixStream::from_std(ours.into())?).await?
            } else {
                connect_accepted_socket(factory, TcpStream::from_std(ours.into())?).await?
            };
            self.writer.replace(Some(Rc::new(protocol.writer(transport.clone()))));
            self.transport.replace(Some(transport));
            return Ok(());
        }
        let factory = self.recorder();
        #[cfg(feature = "tls")]
        if self.is("tls") {
            return self.begin_tls(ours.into()).await;
        }
        match (self.is("unix"), self.is("buffered")) {
            (true, true) => {
                let stream = UnixStream::from_std(ours.into())?;
                drop(connect_accepted_socket(move || Buffered(factory()), stream).await?);
            }
            (true, false) => {
                drop(connect_accepted_socket(factory, UnixStream::from_std(ours.into())?).await?)
            }
            (false, true) => {
                let stream = TcpStream::from_std(ours.into())?;
                drop(connect_accepted_socket(move || Buffered(factory()), stream).await?);
            }
            (false, false) => {
                drop(connect_accepted_socket(factory, TcpStream::from_std(ours.into())?).await?)
            }
        }
        Ok(())
    }

    #[cfg(feature = "tls")]
    async fn begin_tls(&self, ours: OwnedFd) -> io::Result<()> {
        let factory = self.recorder();
        let tls = Tls::server(crate::wrappers::tls::server().into());
        self.peer.borrow_mut().as_mut().expect("a peer").secure(false);
        let connecting = match (self.is("unix"), self.is("buffered")) {
            (true, _) => {
                let stream = UnixStream::from_std(ours.into())?;
                spawn(async { connect_accepted_tls(factory, stream, tls).await.map(drop) })
            }
            (false, true) => {
                let stream = TcpStream::from_std(ours.into())?;
                let factory = move || Buffered(factory());
                spawn(async { connect_accepted_tls(factory, stream, tls).await.map(drop) })
            }
            (false, false) => {
                let stream = TcpStream::from_std(ours.into())?;
                spawn(async { connect_accepted_tls(factory, stream, tls).await.map(drop) })
            }
        };
        self.agree().await;
        connecting.await?
    }

    /// Waits until the peer has agreed on TLS; the transport may know that before or after it.
    #[cfg(feature = "tls")]
    async fn agree(&self) {
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
