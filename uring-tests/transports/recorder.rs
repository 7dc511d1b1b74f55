//! A protocol that records what it is told, in the words of `record.py`.

use std::io;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use proactor::buf::Chunk;
use proactor::transport::{
    BufferedProtocol, DatagramProtocol, DatagramTransport, Protocol, SocketAddress, Transport,
};
use proactor::{IncompleteRead, LimitOverrun, MayBeCancelled};

use crate::transports::perform::Run;

pub(super) fn kind(error: Option<&io::Error>) -> &'static str {
    match error.map(io::Error::kind) {
        None => "none",
        Some(io::ErrorKind::ConnectionReset) => "ConnectionReset",
        Some(io::ErrorKind::BrokenPipe) => "BrokenPipe",
        Some(_) => "Other",
    }
}

pub(super) fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

pub(super) fn text(word: &str) -> Vec<u8> {
    word.replace("\\n", "\n").into()
}

fn quoted(data: &[u8]) -> String {
    format!("\"{}\"", String::from_utf8_lossy(data).replace('\n', "\\n"))
}

/// What a read gave, in the words of the recorder.
pub(super) fn describe(name: &str, result: io::Result<Option<Bytes>>) -> String {
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

/// A protocol that records what it is told.
pub(super) struct Recorder {
    pub(super) run: Rc<Run>,
    pub(super) prefix: &'static str,
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
