//! Descriptors of the program: readers and writers, waits, and what becomes of them when a descriptor is closed.

mod callbacks;
mod closed;
mod load;
mod waits;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use proactor::{metrics, sleep};

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().expect("a pair");
    a.set_nonblocking(true).expect("an option");
    b.set_nonblocking(true).expect("an option");
    (a, b)
}

/// How often something happened.
#[derive(Clone, Default)]
struct Count(Rc<Cell<usize>>);

impl Count {
    fn get(&self) -> usize {
        self.0.get()
    }

    fn up(&self) -> impl Fn() + use<> {
        let count = self.0.clone();
        move || count.set(count.get() + 1)
    }
}

type Log = Rc<RefCell<Vec<&'static str>>>;

fn note(log: &Log, entry: &'static str) -> impl Fn() + use<> {
    let log = log.clone();
    move || log.borrow_mut().push(entry)
}

/// How often the loop asked the kernel while `future` ran.
async fn enters_during<T>(future: impl Future<Output = T>) -> u64 {
    let before = metrics().enters;
    future.await;
    metrics().enters - before
}

async fn nap() {
    sleep(Duration::from_millis(20)).await.expect("nobody cancels");
}

/// Pairs until the first end of one has this number.
fn pair_with_number(number: RawFd) -> ((UnixStream, UnixStream), Vec<UnixStream>) {
    let mut aside = Vec::new();
    for _ in 0..100 {
        let (a, b) = pair();
        if a.as_raw_fd() == number {
            return ((a, b), aside);
        }
        if b.as_raw_fd() == number {
            return ((b, a), aside);
        }
        aside.extend([a, b]);
    }
    panic!("the number {number} was not used again");
}

fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
}
