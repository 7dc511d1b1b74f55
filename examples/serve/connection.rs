//! One connection: requests in, responses out in the same order, and a time-out on every wait.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, LocalBoxFuture, Shared, select};
use proactor::buf::Chunk;
use proactor::fs::File;
use proactor::net::TcpStream;
use proactor::timeout;

use crate::http::{self, Method, Parsed, Request, Status};
use crate::site::{Body, Response, Site};

/// From the first byte of a request to the end of its headers.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// A peer that takes none of what is sent for so long is given up.
const STALL_TIME: Duration = Duration::from_secs(30);
/// How long, and for how many bytes, a peer is listened to that has been told that the connection closes.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;
/// Up to this size a file is sent together with its head.
const SMALL: u64 = 64 * 1024;

/// What all connections share.
pub(crate) struct Connections {
    pub(crate) site: Site,
    /// How long a connection may wait between requests.
    pub(crate) idle: Duration,
    /// Completes when the server shuts down.
    pub(crate) stop: Shared<LocalBoxFuture<'static, ()>>,
}

/// What came in.
enum Next {
    Request(Request),
    /// Something that cannot be answered but with this status.
    Refuse(Status),
    /// The peer is done, or kept silent for too long, or the server shuts down.
    End,
}

impl Connections {
    /// Answers requests until one side closes.
    pub(crate) async fn serve(&self, stream: TcpStream) -> io::Result<()> {
        match self.answer_all(&stream).await {
            Ok(()) => stream.close().await,
            // Peers come and go: nothing that the person who runs the server could do about it.
            Err(error) if is_peers_doing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn answer_all(&self, stream: &TcpStream) -> io::Result<()> {
        let mut input = Vec::new();
        loop {
            let (request, response) = match self.next(stream, &mut input).await? {
                Next::Request(request) => {
                    let response = self.site.answer(&request).await;
                    (request, response)
                }
                Next::Refuse(status) => (Request::default(), Response::plain(status)),
                Next::End => return Ok(()),
            };
            let keep_alive = request.keep_alive && !request.has_body && self.stop.peek().is_none();
            send(stream, response, request.method, keep_alive).await?;
            if !keep_alive {
                return linger(stream).await;
            }
        }
    }

    /// The next request. `input` holds what has been received of it and of those after it.
    async fn next(&self, stream: &TcpStream, input: &mut Vec<u8>) -> io::Result<Next> {
        let mut tried = 0;
        let mut head_end = Instant::now() + HEAD_TIME;
        loop {
            // One byte past the limit is always worth it: that attempt refuses the request.
            if !input.is_empty() && (http::worth_parsing(input, tried) || input.len() > http::HEAD_LIMIT) {
                tried = input.len();
                match http::parse(input) {
                    Parsed::Complete(request, length) => {
                        input.drain(..length);
                        return Ok(Next::Request(request));
                    }
                    Parsed::Refused(status) => return Ok(Next::Refuse(status)),
                    Parsed::Partial => {}
                }
            }
            let received = if input.is_empty() {
                // A connection that waits holds no memory.
                *input = Vec::new();
                let first = self.first_chunk(stream).await?;
                head_end = Instant::now() + HEAD_TIME;
                first
            } else {
                let rest = head_end.saturating_duration_since(Instant::now());
                match timeout(rest, stream.receive()).await {
                    Ok(received) => received?,
                    Err(_) => return Ok(Next::Refuse(408)),
                }
            };
            match received {
                Some(chunk) => input.extend_from_slice(&chunk),
                None => return Ok(Next::End),
            }
        }
    }

    /// The first bytes of a request; none if the connection is to be closed instead.
    async fn first_chunk(&self, stream: &TcpStream) -> io::Result<Option<Chunk>> {
        let received = pin!(timeout(self.idle, stream.receive()));
        match select(self.stop.clone(), received).await {
            Either::Left(_) | Either::Right((Err(_), _)) => Ok(None),
            Either::Right((Ok(received), _)) => received,
        }
    }
}

async fn send(stream: &TcpStream, response: Response, method: Method, keep_alive: bool) -> io::Result<()> {
    let Response { status, fields, body } = response;
    let length = match &body {
        Body::None => None,
        Body::Text(text) => Some(text.len() as u64),
        Body::File { length, .. } => Some(*length),
    };
    let mut head = http::head(status, length, keep_alive, &fields);
    match body {
        Body::Text(text) if method != Method::Head => head.extend_from_slice(text.as_bytes()),
        Body::File { file, start, length } if method != Method::Head && length > 0 => {
            return send_file(stream, head, &file, start, length).await;
        }
        _ => {}
    }
    unless_stalled(stream.send(head)).await??;
    Ok(())
}

/// Sends a small file together with the head, through memory; what is bigger goes from the file to the socket.
async fn send_file(
    stream: &TcpStream,
    head: Vec<u8>,
    file: &File,
    start: u64,
    length: u64,
) -> io::Result<()> {
    if length <= SMALL {
        let body = Vec::with_capacity(length as usize);
        let (count, mut body) = file.read_at(body, start).await?;
        body.truncate(length as usize);
        unless_stalled(stream.send_vectored(vec![head, body])).await??;
        return if count as u64 >= length { Ok(()) } else { Err(shortened()) };
    }
    let _ = stream.write(head)?;
    let mut sending = stream.send_file(file).offset(start).count(length);
    loop {
        let before = sending.sent();
        match timeout(STALL_TIME, &mut sending).await {
            Ok(sent) => return if sent? == length { Ok(()) } else { Err(shortened()) },
            Err(_) if sending.sent() == before => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => {}
        }
    }
}

/// The length has been promised: all that is left is to break off.
fn shortened() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter while it was sent")
}

/// A send that may take `STALL_TIME`.
async fn unless_stalled<F: Future>(sent: F) -> io::Result<F::Output> {
    timeout(STALL_TIME, sent).await.map_err(|_| io::ErrorKind::TimedOut.into())
}

/// Says that no more will be sent and waits for the peer to agree. To close at once while the peer still sends
/// would reset the connection, and the peer might never see the response.
async fn linger(stream: &TcpStream) -> io::Result<()> {
    let discard = async {
        stream.shutdown_write().await?;
        let mut left = LINGER_BYTES;
        while let Some(chunk) = stream.receive().await? {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
        Ok(())
    };
    timeout(LINGER_TIME, discard).await.unwrap_or(Ok(()))
}

fn is_peers_doing(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | TimedOut)
}
