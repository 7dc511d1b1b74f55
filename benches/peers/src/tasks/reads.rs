//! Random reads of 4 KiB from a file that is cached, so many at a time.

use super::runtime::Runtime;
use crate::measure::{Clock, Cost};
use crate::peers::{Compio, Glommio, Monoio, Smol, Tokio};
use crate::tasks::ours::Driver;
use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

pub(super) const BYTES: usize = 4096;

pub(crate) trait ReadFile: Runtime {
    type File: 'static;

    fn open(path: PathBuf) -> impl Future<Output = Self::File>;

    /// Reads into a buffer with room for [`BYTES`], and gives it back, full.
    fn read(file: &Self::File, buffer: Vec<u8>, offset: u64) -> impl Future<Output = Vec<u8>>;
}

pub(crate) async fn reads<R: ReadFile>(depth: usize, operations: u64) -> Cost {
    let path = crate::net::file().expect("there is room for a file");
    let blocks = std::fs::metadata(&path).expect("the file is there").len() / BYTES as u64;
    let file = Rc::new(R::open(path).await);
    let left = Rc::new(Cell::new(operations));
    let clock = Clock::start();
    let readers: Vec<_> = (0..depth as u64)
        .map(|reader| {
            let (file, left) = (file.clone(), left.clone());
            R::spawn(async move {
                let mut random = Random::new(reader);
                let mut buffer = Vec::with_capacity(BYTES);
                while let Some(rest) = left.get().checked_sub(1) {
                    left.set(rest);
                    buffer.clear();
                    buffer = R::read(&file, buffer, random.below(blocks) * BYTES as u64).await;
                    assert_eq!(buffer.len(), BYTES);
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await;
    }
    clock.cost(operations)
}

/// Numbers that look random, the same in every run (xorshift).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(0x9e37_79b9_7f4a_7c15 ^ (seed + 1))
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// For runtimes that read files in threads: the whole of what such a thread does.
fn read_blocking(file: &File, mut buffer: Vec<u8>, offset: u64) -> Vec<u8> {
    buffer.resize(BYTES, 0);
    file.read_exact_at(&mut buffer, offset).expect("the file is long enough");
    buffer
}

impl<D: Driver> ReadFile for D {
    type File = proactor::fs::File;

    async fn open(path: PathBuf) -> Self::File {
        proactor::fs::File::open(path).await.expect("the file is there")
    }

    async fn read(file: &Self::File, buffer: Vec<u8>, offset: u64) -> Vec<u8> {
        file.read_at(buffer, offset).await.expect("the file is long enough").1
    }
}

impl ReadFile for Tokio {
    type File = Arc<File>;

    async fn open(path: PathBuf) -> Self::File {
        Arc::new(File::open(path).expect("the file is there"))
    }

    async fn read(file: &Self::File, buffer: Vec<u8>, offset: u64) -> Vec<u8> {
        let file = file.clone();
        tokio::task::spawn_blocking(move || read_blocking(&file, buffer, offset)).await.expect("it runs")
    }
}

impl ReadFile for Smol {
    type File = Arc<File>;

    async fn open(path: PathBuf) -> Self::File {
        Arc::new(File::open(path).expect("the file is there"))
    }

    async fn read(file: &Self::File, buffer: Vec<u8>, offset: u64) -> Vec<u8> {
        let file = file.clone();
        blocking::unblock(move || read_blocking(&file, buffer, offset)).await
    }
}

impl ReadFile for Monoio {
    type File = monoio::fs::File;

    async fn open(path: PathBuf) -> Self::File {
        monoio::fs::File::open(path).await.expect("the file is there")
    }

    async fn read(file: &Self::File, buffer: Vec<u8>, offset: u64) -> Vec<u8> {
        let (read, buffer) = file.read_at(buffer, offset).await;
        read.expect("the file is long enough");
        buffer
    }
}

impl ReadFile for Compio {
    type File = compio::fs::File;

    async fn open(path: PathBuf) -> Self::File {
        compio::fs::File::open(path).await.expect("the file is there")
    }

    async fn read(file: &Self::File, buffer: Vec<u8>, offset: u64) -> Vec<u8> {
        let compio::buf::BufResult(read, buffer) =
            compio::io::AsyncReadAt::read_at(file, buffer, offset).await;
        read.expect("the file is long enough");
        buffer
    }
}

impl ReadFile for Glommio {
    type File = glommio::io::BufferedFile;

    async fn open(path: PathBuf) -> Self::File {
        glommio::io::BufferedFile::open(path).await.expect("the file is there")
    }

    /// It brings a buffer of its own.
    async fn read(file: &Self::File, mut buffer: Vec<u8>, offset: u64) -> Vec<u8> {
        let read = file.read_at(offset, BYTES).await.expect("the file is long enough");
        buffer.extend_from_slice(&read);
        buffer
    }
}
