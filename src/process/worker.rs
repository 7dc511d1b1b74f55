//! Worker processes: what is said between the two sides, and what the worker does.

use std::io::{self, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;

use crate::driver::workers::{Job, Workers};
use crate::error::panic_message;
use crate::process::to_process::Function;
use crate::sys::process::{exit_now, take_stdin};
use crate::thread::{THREADS, Work};

/// What a worker is called, so that it knows that it is one. A name is not passed on to what it starts itself.
const MARK: &str = "proactor-worker";

/// A request is this, the name of a function and its argument: the length of the name, and that of the argument.
pub(crate) fn request_header(name: &str, argument: &[u8]) -> Vec<u8> {
    let mut header = (name.len() as u64).to_le_bytes().to_vec();
    header.extend((argument.len() as u64).to_le_bytes());
    header.extend(name.as_bytes());
    header
}

/// An answer is one byte that says which, a length, and that many bytes.
pub(crate) const ANSWER_HEADER: usize = 9;

/// What the bytes of an answer are.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Answer {
    Result,
    /// The function panicked: with this text.
    Panic,
    /// The worker has no function of that name.
    Unknown,
}

impl Answer {
    /// Reads a header: which answer, and how many bytes follow.
    pub(crate) fn parse(header: &[u8]) -> Option<(Self, u64)> {
        let (which, length) = header.split_first_chunk::<1>()?;
        let which = [Self::Result, Self::Panic, Self::Unknown].into_iter().find(|a| *a as u8 == which[0])?;
        Some((which, u64::from_le_bytes(length.try_into().ok()?)))
    }
}

// ---- in the program ----

/// A worker process. Dropped, it is killed, and reaped by a thread.
pub(crate) struct Process(Option<Child>);

impl Process {
    /// Starts the program that runs again, as a worker that listens at its standard input; with the other end of that.
    pub(crate) fn start(arguments: &[String]) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        // Not the path of the program, which another version may have taken over by now.
        let mut command = Command::new("/proc/self/exe");
        command.arg0(MARK).args(arguments);
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        // An interrupt from the keyboard is for the program; its workers end with it.
        command.process_group(0);
        command.spawn().map(|child| (Self(Some(child)), ours))
    }

    pub(crate) fn kill(&mut self) {
        if let Some(child) = &mut self.0 {
            // Only a process that has been reaped cannot be killed.
            let _ = child.kill();
        }
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Kills the process if it did not end by itself, and blocks until it is gone.
    pub(crate) fn end(mut self) -> io::Result<ExitStatus> {
        self.kill();
        self.0.take().map_or_else(|| Ok(ExitStatus::default()), |mut child| child.wait())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let Some(mut child) = self.0.take() else { return };
        let reap = Work::new(move || drop(child.wait()));
        // Without a thread it is done here: the end of a killed process is near.
        if let Err(refused) = Workers::submit(&*THREADS, reap) {
            refused.into_job().run();
        }
    }
}

// ---- in the worker ----

struct Request {
    name: String,
    argument: Vec<u8>,
}

pub(crate) fn is_worker() -> bool {
    std::env::args_os().next().is_some_and(|name| name == MARK)
}

/// Does what the program asks for until it is gone.
pub(crate) fn serve(functions: &[Function]) -> ! {
    let failed = match take_stdin().map(UnixStream::from).and_then(|socket| answer(functions, socket)) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    // Nobody would read it on standard output.
    let _ = writeln!(io::stderr(), "{MARK}: {failed}");
    exit_now(1)
}

fn answer(functions: &[Function], mut socket: UnixStream) -> io::Result<std::convert::Infallible> {
    let reader = socket.try_clone()?;
    let (requests, queue) = mpsc::channel();
    // Beside the function that runs, so that the end of the program ends the worker in the middle of it.
    std::thread::Builder::new().name(MARK.to_owned()).spawn(move || listen(reader, &requests))?;
    loop {
        let Ok(request) = queue.recv() else { exit_now(0) };
        let (which, bytes) = match functions.iter().find(|function| function.name() == request.name) {
            Some(function) => match catch_unwind(AssertUnwindSafe(|| function.call(request.argument))) {
                Ok(result) => (Answer::Result, result),
                Err(panic) => {
                    let panic = ManuallyDrop::new(panic); // it might panic again when it is dropped
                    let text = panic_message(&**panic).unwrap_or("(no message)");
                    (Answer::Panic, text.as_bytes().to_vec())
                }
            },
            None => (Answer::Unknown, request.name.into_bytes()),
        };
        let mut message = vec![which as u8];
        message.extend((bytes.len() as u64).to_le_bytes());
        socket.write_all(&message)?;
        socket.write_all(&bytes)?;
    }
}

fn listen(mut socket: UnixStream, requests: &mpsc::Sender<Request>) {
    while let Ok(request) = read_request(&mut socket) {
        if requests.send(request).is_err() {
            break;
        }
    }
    exit_now(0)
}

fn read_request(socket: &mut UnixStream) -> io::Result<Request> {
    let mut lengths = [[0; 8]; 2];
    socket.read_exact(lengths.as_flattened_mut())?;
    let [name, argument] = lengths.map(u64::from_le_bytes);
    let name = String::from_utf8(read(socket, name)?).map_err(io::Error::other)?;
    Ok(Request { name, argument: read(socket, argument)? })
}

fn read(socket: &mut UnixStream, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match socket.take(length).read_to_end(&mut bytes)? as u64 == length {
        true => Ok(bytes),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
