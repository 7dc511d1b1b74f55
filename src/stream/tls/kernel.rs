//! Sending by the kernel: where a TCP connection has its keys there ("kTLS"), what is sent goes to the socket as it is.
//!
//! `rustls` still receives, and what it has to say goes out as records of their own type. Two things it did that nobody
//! else does now: to count the records, since keys are good for so many of them, and to go over to new keys, which
//! Linux takes from 6.14 on. Where it does not, sending ends.

use std::any::Any;
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use rustls::SupportedCipherSuite;

use crate::buf::IoBuf;
use crate::driver::Key;
use crate::error::Failed;
use crate::fs::File;
use crate::net::SendFile;
use crate::net::TcpStream;
use crate::net::shared::Shared;
use crate::op::net::{Medium, SendAll};
use crate::stream::ByteStream;
use crate::stream::tls::session::Session;
use crate::stream::tls::stream::TlsStream;
use crate::sys::kernel_tls::{self, Cipher};

/// No record that the kernel makes of much is smaller than a page. (Most are four.)
const RECORD_MIN: u64 = 4096;

/// How much of a file is sent before the records are counted again.
const PORTION: u64 = 256 << 20;

pub(crate) struct KernelSend {
    /// The socket of the stream below.
    shared: Rc<Shared>,
    cipher: Cipher,
    /// Keys are good for so many records.
    limit: u64,
    /// So many may be sent before the kernel is asked how many there were.
    left: Cell<u64>,
    /// Those of sends that may be on their way still, dropped by whoever waited: the kernel has not counted them.
    unseen: Cell<u64>,
    /// The peer asked for new keys, and this kernel takes none.
    is_stuck: Cell<bool>,
    /// What a task sends, to be cancelled when the stream is closed.
    sender: Cell<Option<Key>>,
}

/// The task that sends is gone, or done.
struct Sender<'a>(&'a KernelSend);

impl Drop for Sender<'_> {
    fn drop(&mut self) {
        self.0.sender.set(None);
    }
}

/// So many at most, for so many bytes.
fn records(bytes: u64) -> u64 {
    bytes.div_ceil(RECORD_MIN)
}

fn no_other_keys() -> io::Error {
    let text = "the kernel sends here, and takes no new keys for that (Linux 6.14 does)";
    io::Error::new(io::ErrorKind::Unsupported, text)
}

/// The socket that the kernel can send on, if this stream is one.
pub(crate) fn socket<S: 'static>(stream: &S) -> Option<Rc<Shared>> {
    (stream as &dyn Any).downcast_ref().map(|tcp: &TcpStream| tcp.shared.clone())
}

fn give_to_kernel(shared: Rc<Shared>, session: &mut Session) -> Option<KernelSend> {
    if shared.outbound.is_busy() {
        return None;
    }
    let (keys, cipher) = session.give_keys_away()?;
    let give = shared.descriptor.with(|fd| {
        // Made possible and not used, it changes nothing.
        kernel_tls::enable(fd)?;
        kernel_tls::set_send_keys(fd, &keys)
    });
    give.ok()?;
    shared.medium.set(Medium::Records);
    let limit = match session.connection().negotiated_cipher_suite()? {
        SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
        SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
    };
    // Of CHACHA20-POLY1305, of which Linux before 5.16 does not tell, nobody needs to ask.
    let left = Cell::new(if limit == u64::MAX { limit } else { 0 });
    let unseen = Cell::new(0);
    let (is_stuck, sender) = (Cell::new(false), Cell::new(None));
    Some(KernelSend { shared, cipher, limit, left, unseen, is_stuck, sender })
}

impl<S: ByteStream + 'static> TlsStream<S> {
    /// Who sends instead of the session, if the kernel does.
    pub(crate) fn kernel(&self) -> Option<(&KernelSend, &Rc<Shared>)> {
        let kernel = self.kernel.get()?;
        Some((kernel, &kernel.shared))
    }

    /// Leaves sending to the kernel, if it can do that with the socket of the stream below. When the handshake is done, and
    /// all of it is sent.
    pub(crate) fn offer_to_kernel(&self, shared: Rc<Shared>) {
        let mut session = self.session.borrow_mut();
        match give_to_kernel(shared, &mut session) {
            Some(kernel) => drop(self.kernel.set(Box::new(kernel))),
            None => session.keep_keys(),
        }
    }

    /// Gives the socket what the session has to say. `before_bytes`: bytes of the stream follow.
    pub(crate) fn put_records(
        &self,
        kernel: &KernelSend,
        shared: &Rc<Shared>,
        before_bytes: bool,
    ) -> io::Result<usize> {
        let records = self.session.borrow_mut().records(before_bytes);
        for record in records {
            if record.next_keys.is_some() {
                if kernel.is_stuck.get() || !takes_other_keys(shared) {
                    // It is not told, so the peer goes on with the keys that it knows.
                    kernel.is_stuck.set(true);
                    continue;
                }
                kernel.left.set(kernel.limit);
                kernel.unseen.set(0);
            }
            shared.write_record(record)?;
        }
        Ok(shared.outbound.bytes())
    }

    /// Before so many bytes are sent.
    fn begin_bytes(&self, kernel: &KernelSend, shared: &Rc<Shared>, bytes: u64) -> io::Result<()> {
        self.check_send()?;
        self.session.borrow().check_send()?;
        if !shared.outbound.is_busy() {
            kernel.unseen.set(0);
        }
        self.put_records(kernel, shared, true)?;
        if kernel.is_stuck.get() {
            return Err(no_other_keys());
        }
        let records = records(bytes);
        if kernel.left.get() <= records
            && self.count(kernel, shared) <= records
            && !self.renew(kernel, shared)
        {
            self.session.borrow_mut().end();
            self.put_records(kernel, shared, false)?;
            let text = "the keys of this TLS connection are used up: nothing more can be sent";
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, text));
        }
        kernel.left.set(kernel.left.get().saturating_sub(records));
        Ok(())
    }

    /// The same, where [`count`](Self::count) does not find them among what waits.
    fn begin_send(&self, kernel: &KernelSend, shared: &Rc<Shared>, bytes: u64) -> io::Result<()> {
        self.begin_bytes(kernel, shared, bytes)?;
        kernel.unseen.set(kernel.unseen.get() + records(bytes));
        Ok(())
    }

    /// How many records may be sent, as the kernel counts them.
    fn count(&self, kernel: &KernelSend, shared: &Rc<Shared>) -> u64 {
        let sent = shared.descriptor.with(|fd| kernel_tls::records_sent(fd, kernel.cipher));
        // What waits, and what is on its way, is not among them yet.
        let more = shared.outbound.bytes() as u64 + kernel.unseen.get();
        let left = kernel.limit.saturating_sub(sent.unwrap_or(u64::MAX)).saturating_sub(more);
        kernel.left.set(left);
        left
    }

    /// Goes over to new keys. False if that cannot be done.
    fn renew(&self, kernel: &KernelSend, shared: &Rc<Shared>) -> bool {
        takes_other_keys(shared)
            && self.session.borrow_mut().renew_keys().is_ok()
            && self.put_records(kernel, shared, false).is_ok()
    }

    /// As [`TlsStream::renew_keys`].
    pub(crate) fn renew_kernel_keys(&self, kernel: &KernelSend, shared: &Rc<Shared>) -> io::Result<()> {
        if !takes_other_keys(shared) && self.session.borrow().can_renew_keys() {
            return Err(no_other_keys());
        }
        self.session.borrow_mut().renew_keys()?;
        self.put_records(kernel, shared, false).map(drop)
    }

    pub(crate) async fn send_by_kernel<B: IoBuf>(
        &self,
        (kernel, shared): (&KernelSend, &Rc<Shared>),
        buf: B,
    ) -> Result<B, Failed<B>> {
        if let Err(error) = self.begin_send(kernel, shared, buf.len() as u64) {
            return Err(Failed::new(error, buf, 0));
        }
        let _sender = Sender(kernel);
        let mut sending = shared.send(SendAll::new(shared.clone(), buf));
        let sent = poll_fn(|cx| {
            let polled = Pin::new(&mut sending).poll(cx);
            kernel.sender.set(sending.key());
            polled
        });
        sent.await.map_err(|failed| self.unless_closed(failed))
    }

    /// Queues bytes; how many are queued now.
    pub(crate) fn write_by_kernel(
        &self,
        (kernel, shared): (&KernelSend, &Rc<Shared>),
        data: Bytes,
    ) -> io::Result<usize> {
        self.begin_bytes(kernel, shared, data.len() as u64)?;
        shared.write(data)
    }

    /// As `TlsStream::send_file`; `None` if that has to be read. What splice(2) leaves of a record stays with the kernel
    /// until more comes, so it is told how much there is.
    pub(crate) async fn send_file_by_kernel(
        &self,
        (kernel, shared): (&KernelSend, &Rc<Shared>),
        file: &File,
        offset: u64,
        count: Option<u64>,
    ) -> io::Result<Option<u64>> {
        let found = file.metadata().await?;
        if !found.is_file() || found.len() <= offset {
            return Ok(None);
        }
        let all = count.unwrap_or(u64::MAX).min(found.len() - offset);
        let mut sent = 0;
        while sent < all {
            let portion = (all - sent).min(PORTION);
            self.begin_send(kernel, shared, portion)?;
            let _sender = Sender(kernel);
            let mut sending = SendFile::new(shared, file.into()).offset(offset + sent).count(portion);
            let done = poll_fn(|cx| {
                let polled = Pin::new(&mut sending).poll(cx);
                kernel.sender.set(sending.key());
                polled
            });
            let done = done.await.map_err(|failed| self.unless_closed(failed))?;
            sent += done;
            if done < portion {
                break; // the file has become shorter
            }
        }
        Ok(Some(sent))
    }

    /// The stream was closed meanwhile: whoever sends is told that, however the send was ended for it.
    fn unless_closed<B>(&self, failed: Failed<B>) -> Failed<B> {
        match self.check_open() {
            Ok(()) => failed,
            Err(closed) => Failed::new(closed, failed.buf, failed.done),
        }
    }

    /// The stream is being closed: what a task sends ends where it is.
    pub(crate) fn end_sender(&self) {
        if let Some((kernel, shared)) = self.kernel()
            && let Some(key) = kernel.sender.take()
        {
            shared.driver().cancel(key);
        }
    }
}

fn takes_other_keys(shared: &Shared) -> bool {
    shared.descriptor.with(|fd| Ok(kernel_tls::takes_other_keys(fd))).unwrap_or(false)
}
