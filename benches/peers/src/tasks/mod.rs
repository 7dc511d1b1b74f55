//! What tasks cost, and what it costs them to wait for each other, for threads and for a cancel.
//!
//! A scenario is written once, over the traits in [`runtime`]; a peer implements those of which it has the thing, in the
//! way that its documentation recommends.

pub(crate) mod compio;
mod futures;
pub(crate) mod glommio;
pub(crate) mod monoio;
pub(crate) mod ours;
mod pipes;
mod raw;
mod reads;
pub(crate) mod runtime;
mod scenarios;
pub(crate) mod smol;
pub(crate) mod tokio;

use crate::measure::{Case, Cost};
use pipes::Pipe;
use reads::ReadFile;
use runtime::{
    Cancel, CancelReceives, Channel, Event, FromThread, Lock, Oneshot, Runtime, Semaphore, Timeout, ToThread,
};

const READS: &str = "file read 4 KiB, at a time";
const PIPES: &str = "pipe there and back, bytes";

/// All rows of this part, in the order of the table.
pub(crate) fn cases() -> Vec<Case> {
    let mut rows = Rows(Vec::new());
    rows.0.extend([1, 32, 128].map(raw::reads));
    rows.0.extend([64, 4096].map(raw::pipes));
    rows.of_ours::<ours::Ring>();
    rows.of_ours::<ours::Epoll>();
    rows.of_tokio();
    rows.of_smol();
    rows.of_futures();
    rows.of_monoio();
    rows.of_compio();
    rows.of_glommio();
    rows.0
}

struct Rows(Vec<Case>);

impl Rows {
    /// A row with one number, which says what there is so many of.
    fn add<R, F>(&mut self, row: &str, size: usize, scenario: impl Fn(usize, u64) -> F + Copy + 'static)
    where
        R: Runtime,
        F: Future<Output = Cost> + 'static,
    {
        let run = move |operations| {
            R::block_on(async move {
                scenario(size, operations / 8 + 1).await; // memory that is there already, and a loop that has turned
                scenario(size, operations).await
            })
        };
        self.0.push(Case { row: format!("{row} {size}"), peer: R::NAME, run: Box::new(run) });
    }

    fn every<R: Runtime>(&mut self) {
        self.add::<R, _>("spawn, join", 1, scenarios::spawn::<R>);
        self.add::<R, _>("spawn, join", 1000, scenarios::spawn::<R>);
        self.add::<R, _>("yield", 1, scenarios::yields::<R>);
        self.add::<R, _>("yield", 100, scenarios::yields::<R>);
        for size in [1, 100, 10_000] {
            self.add::<R, _>("group of", size, scenarios::group::<R>);
        }
    }

    fn cancel<R: Cancel>(&mut self) {
        for size in [100, 10_000] {
            self.add::<R, _>("cancel tasks", size, scenarios::cancel_tasks::<R>);
        }
    }

    fn cancel_receives<R: CancelReceives>(&mut self) {
        for size in [100, 1000] {
            self.add::<R, _>("cancel receives", size, scenarios::cancel_receives::<R>);
        }
    }

    fn lock<R: Lock>(&mut self) {
        self.add::<R, _>("lock, tasks", 1, scenarios::lock::<R>);
        self.add::<R, _>("lock, tasks", 10, scenarios::lock::<R>);
    }

    fn semaphore<R: Semaphore>(&mut self) {
        self.add::<R, _>("semaphore, tasks", 1, scenarios::semaphore::<R>);
        self.add::<R, _>("semaphore, tasks", 10, scenarios::semaphore::<R>);
    }

    fn channel<R: Channel>(&mut self, row: &str, sizes: &[usize]) {
        for &size in sizes {
            self.add::<R, _>(row, size, scenarios::channel::<R>);
        }
    }

    fn event<R: Event>(&mut self) {
        self.add::<R, _>("event, waiters", 1, scenarios::event::<R>);
        self.add::<R, _>("event, waiters", 100, scenarios::event::<R>);
    }

    fn oneshot<R: Oneshot>(&mut self) {
        self.add::<R, _>("future set", 1, scenarios::oneshot::<R>);
    }

    fn timeout<R: Timeout>(&mut self) {
        self.add::<R, _>("timeout around a yield", 1, scenarios::timeout::<R>);
    }

    fn threads_to_loop<R: FromThread>(&mut self) {
        for size in [1, 64, 1024] {
            self.add::<R, _>("thread to loop, stream", size, scenarios::from_thread::<R>);
        }
        self.add::<R, _>("thread to loop, one by one", 1, scenarios::from_thread_and_back::<R>);
    }

    fn loop_to_thread<R: ToThread>(&mut self) {
        self.add::<R, _>("function in a thread", 1, scenarios::to_thread::<R>);
    }

    fn reads<R: ReadFile>(&mut self) {
        for depth in [1, 32, 128] {
            self.add::<R, _>(READS, depth, reads::reads::<R>);
        }
    }

    fn pipes<R: Pipe>(&mut self) {
        for bytes in [64, 4096] {
            self.add::<R, _>(PIPES, bytes, pipes::pipes::<R>);
        }
    }

    fn of_ours<R>(&mut self)
    where
        R: Cancel
            + CancelReceives
            + Lock
            + Semaphore
            + Channel
            + Event
            + Oneshot
            + Timeout
            + FromThread
            + ToThread,
        R: ours::Driver,
    {
        self.every::<R>();
        self.cancel::<R>();
        self.cancel_receives::<R>();
        self.lock::<R>();
        self.semaphore::<R>();
        self.channel::<R>("stream", &[0, 1, 64]);
        self.channel::<ours::ByQueue<R>>("queue", &[1, 64]);
        self.event::<R>();
        self.oneshot::<R>();
        self.timeout::<R>();
        self.threads_to_loop::<R>();
        self.loop_to_thread::<R>();
        self.reads::<R>();
        self.pipes::<R>();
    }

    fn of_tokio(&mut self) {
        self.every::<tokio::Tokio>();
        self.cancel::<tokio::Tokio>();
        self.cancel_receives::<tokio::Tokio>();
        self.lock::<tokio::Tokio>();
        self.semaphore::<tokio::Tokio>();
        self.channel::<tokio::Tokio>("stream", &[1, 64]);
        self.channel::<tokio::Tokio>("queue", &[1, 64]);
        self.event::<tokio::Tokio>();
        self.oneshot::<tokio::Tokio>();
        self.timeout::<tokio::Tokio>();
        self.threads_to_loop::<tokio::Tokio>();
        self.loop_to_thread::<tokio::Tokio>();
        self.reads::<tokio::Tokio>();
        self.pipes::<tokio::Tokio>();
    }

    fn of_smol(&mut self) {
        self.every::<smol::Smol>();
        self.cancel::<smol::Smol>();
        self.cancel_receives::<smol::Smol>();
        self.lock::<smol::Smol>();
        self.semaphore::<smol::Smol>();
        self.channel::<smol::WithFlume>("stream", &[0]);
        self.channel::<smol::Smol>("stream", &[1, 64]);
        self.channel::<smol::Smol>("queue", &[1, 64]);
        self.event::<smol::Smol>();
        self.oneshot::<smol::Smol>();
        self.timeout::<smol::Smol>();
        self.threads_to_loop::<smol::Smol>();
        self.loop_to_thread::<smol::Smol>();
        self.reads::<smol::Smol>();
        self.pipes::<smol::Smol>();
    }

    fn of_futures(&mut self) {
        self.every::<futures::Futures>();
        self.lock::<futures::Futures>();
        self.channel::<futures::Futures>("stream", &[0, 1, 64]);
        self.channel::<futures::Futures>("queue", &[1, 64]);
        self.oneshot::<futures::Futures>();
    }

    fn of_monoio(&mut self) {
        self.every::<monoio::Monoio>();
        self.cancel_receives::<monoio::Monoio>();
        self.semaphore::<monoio::Monoio>();
        self.channel::<monoio::Monoio>("stream", &[1, 64]);
        self.channel::<monoio::Monoio>("queue", &[1, 64]);
        self.oneshot::<monoio::Monoio>();
        self.timeout::<monoio::Monoio>();
        self.threads_to_loop::<monoio::Monoio>();
        self.loop_to_thread::<monoio::Monoio>();
        self.reads::<monoio::Monoio>();
    }

    fn of_compio(&mut self) {
        self.every::<compio::Compio>();
        self.cancel::<compio::Compio>();
        self.cancel_receives::<compio::Compio>();
        self.timeout::<compio::Compio>();
        self.threads_to_loop::<compio::Compio>();
        self.loop_to_thread::<compio::Compio>();
        self.reads::<compio::Compio>();
        self.pipes::<compio::Compio>();
    }

    fn of_glommio(&mut self) {
        self.every::<glommio::Glommio>();
        self.cancel::<glommio::Glommio>();
        self.cancel_receives::<glommio::Glommio>();
        self.lock::<glommio::Glommio>();
        self.semaphore::<glommio::Glommio>();
        self.channel::<glommio::Glommio>("stream", &[1, 64]);
        self.channel::<glommio::Glommio>("queue", &[1, 64]);
        self.timeout::<glommio::Glommio>();
        self.threads_to_loop::<glommio::Glommio>();
        self.loop_to_thread::<glommio::Glommio>();
        self.reads::<glommio::Glommio>();
    }
}
