//! Pipe transports beyond what the recorded sequences show: what is refused, named pipes, other files, what is left.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::rc::Rc;

use proactor::buf::Chunk;
use proactor::net::{PipeReader, PipeWriter, UnixStream, pipe};
use proactor::transport::{Protocol, SendfileOptions, Transport, connect_read_pipe, connect_write_pipe};
use proactor::{metrics, spawn};

use crate::harness::{Cx, Folder, both_drivers, turns, until};

both_drivers!(
    what_a_pipe_cannot_do_is_refused,
    a_pipe_carries_much_in_order,
    an_idle_write_pipe_does_nothing_until_its_reader_goes,
    a_write_pipe_that_is_closed_leaves_no_watch,
    a_socket_is_a_pipe_too,
    a_file_is_written_and_closed,
    a_loop_that_closes_keeps_no_pipe,
);

#[derive(Debug, Default)]
struct Notes {
    data: RefCell<Vec<u8>>,
    lost: Cell<u32>,
    failed: Cell<bool>,
}

impl Protocol for Notes {
    fn data_received(&self, data: Chunk) {
        self.data.borrow_mut().extend_from_slice(&data);
    }
    fn connection_lost(&self, error: Option<io::Error>) {
        self.lost.set(self.lost.get() + 1);
        self.failed.set(error.is_some());
    }
}

async fn over(protocol: &Rc<Notes>) {
    until(|| protocol.lost.get() > 0).await;
    turns(3).await;
    assert_eq!(protocol.lost.get(), 1, "exactly once");
}

fn what_a_pipe_cannot_do_is_refused(cx: Cx) {
    let folder = Folder::new();
    std::fs::write(folder.path("file"), "something").expect("a file");
    cx.run(async {
        let unsupported = |error: io::Error| error.kind() == io::ErrorKind::Unsupported;
        let (reader, writer) = pipe().await?;
        let (reading, read_notes) = connect_read_pipe(Notes::default, reader).await?;
        let (writing, write_notes) = connect_write_pipe(Notes::default, writer).await?;
        assert!(!reading.can_write_eof() && writing.can_write_eof());
        assert!(unsupported(reading.write("where to?").expect_err("it is read")));
        assert!(unsupported(reading.write_eof().expect_err("it is read")));
        let file = std::fs::File::open(folder.path("file"))?;
        for transport in [&reading, &writing] {
            let refused = transport.sendfile(&file, SendfileOptions::default()).await.expect_err("a pipe");
            assert!(unsupported(refused.error));
        }
        assert!(reading.sockname().is_none() && reading.peername().is_none());
        writing.close();
        over(&write_notes).await;
        over(&read_notes).await;
        Ok::<_, io::Error>(())
    });
}

fn a_pipe_carries_much_in_order(cx: Cx) {
    cx.run(async {
        let (reader, writer) = pipe().await?;
        let (_, read_notes) = connect_read_pipe(Notes::default, reader).await?;
        let (writing, write_notes) = connect_write_pipe(Notes::default, writer).await?;
        let data: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8).collect();
        writing.writelines(data.chunks(10_000).map(<[u8]>::to_vec))?;
        writing.write_eof()?;
        over(&write_notes).await;
        over(&read_notes).await;
        assert!(*read_notes.data.borrow() == data);
        assert!(!read_notes.failed.get() && !write_notes.failed.get());
        Ok::<_, io::Error>(())
    });
}

fn an_idle_write_pipe_does_nothing_until_its_reader_goes(cx: Cx) {
    cx.run(async {
        let (reader, writer) = pipe().await?;
        let (transport, protocol) = connect_write_pipe(Notes::default, writer).await?;
        transport.write("something")?;
        turns(20).await;
        assert!(!transport.is_closing());
        assert_eq!(&reader.receive().await?.expect("bytes")[..], b"something");
        turns(20).await;
        assert!(!transport.is_closing());
        drop(reader);
        over(&protocol).await;
        assert!(!protocol.failed.get(), "all was sent");
        Ok::<_, io::Error>(())
    });
}

fn a_write_pipe_that_is_closed_leaves_no_watch(cx: Cx) {
    cx.run(async {
        for ends in [Transport::close, Transport::abort] {
            let (reader, writer) = pipe().await?;
            let (transport, protocol) = connect_write_pipe(Notes::default, writer).await?;
            turns(3).await;
            ends(&transport);
            over(&protocol).await;
            // The end comes only when the descriptor is closed, and nothing holds it.
            assert!(reader.receive().await?.is_none());
            drop(reader);
            until(|| metrics().in_flight <= 1).await;
        }
        Ok::<_, io::Error>(())
    });
}

fn a_socket_is_a_pipe_too(cx: Cx) {
    cx.run(async {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let theirs = UnixStream::from_std(theirs)?;
        let (transport, protocol) = connect_write_pipe(Notes::default, PipeWriter::from_fd(ours)?).await?;
        transport.write("something")?;
        assert_eq!(&theirs.receive().await?.expect("bytes")[..], b"something");
        drop(theirs);
        over(&protocol).await;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let theirs = UnixStream::from_std(theirs)?;
        let (_, protocol) = connect_read_pipe(Notes::default, PipeReader::from_fd(ours)?).await?;
        theirs.send("something").await?;
        drop(theirs);
        over(&protocol).await;
        assert_eq!(&protocol.data.borrow()[..], b"something");
        Ok::<_, io::Error>(())
    });
}

fn a_file_is_written_and_closed(cx: Cx) {
    let folder = Folder::new();
    let path = folder.path("file");
    cx.run(async {
        let writer = PipeWriter::from_fd(std::fs::File::create(&path)?)?;
        let (transport, protocol) = connect_write_pipe(Notes::default, writer).await?;
        transport.write("something")?;
        turns(5).await;
        assert!(!transport.is_closing(), "nobody watches a file");
        transport.close();
        over(&protocol).await;
        let mut text = String::new();
        std::fs::File::open(&path)?.read_to_string(&mut text)?;
        assert_eq!(text, "something");
        Ok::<_, io::Error>(())
    });
}

fn a_loop_that_closes_keeps_no_pipe(cx: Cx) {
    cx.run_and_keep(async {
        let (reader, writer) = pipe().await.expect("a pipe");
        let (transport, _) = connect_write_pipe(Notes::default, writer).await.expect("made");
        transport.write(vec![0; 1 << 20]).expect("it is open");
        let (other_reader, other_writer) = pipe().await.expect("a pipe");
        drop(spawn(connect_read_pipe(Notes::default, other_reader)));
        turns(3).await;
        drop((reader, other_writer));
    });
}
