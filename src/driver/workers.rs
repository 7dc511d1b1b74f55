//! Threads that work off a queue: made when there is more to do than they can, ended when they had nothing to do for a
//! while.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::ops::Deref;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::sys::fork;

/// How long a thread without work stays.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// One piece of work. It must not panic.
pub(crate) trait Job: Send + 'static {
    fn run(self);
}

impl Job for Box<dyn FnOnce() + Send> {
    fn run(self) {
        self();
    }
}

/// Why a job was not taken, and the job.
pub(crate) enum Refused<J> {
    Closed(J),
    /// There is no thread, and none could be made.
    NoThread(J, io::Error),
}

impl<J> Refused<J> {
    pub(crate) fn into_job(self) -> J {
        match self {
            Self::Closed(job) | Self::NoThread(job, _) => job,
        }
    }
}

/// A queue and its threads. They share it by `&'static` or `Arc`.
pub(crate) struct Workers<J> {
    /// The threads get this name, and a number.
    name: Cow<'static, str>,
    queue: Mutex<Queue<J>>,
    news: Condvar,
}

struct Queue<J> {
    jobs: VecDeque<J>,
    threads: usize,
    idle: usize,
    /// The most threads at a time; further jobs wait their turn.
    threads_max: usize,
    threads_made: usize,
    /// No job is taken any more; the threads end after those that are queued.
    closed: bool,
    /// Who waits for the last thread to end.
    watchers: Vec<Waker>,
    /// In which process the threads are.
    forks: u32,
}

impl<J: Job> Workers<J> {
    /// For a `static`.
    pub(crate) const fn new(name: &'static str, threads_max: usize) -> Self {
        Self::in_process(Cow::Borrowed(name), threads_max, 0)
    }

    /// For one that is made while the process runs.
    pub(crate) fn named(name: String, threads_max: usize) -> Self {
        Self::in_process(Cow::Owned(name), threads_max, fork::generation())
    }

    const fn in_process(name: Cow<'static, str>, threads_max: usize, forks: u32) -> Self {
        let queue = Queue {
            jobs: VecDeque::new(),
            threads: 0,
            idle: 0,
            threads_max,
            threads_made: 0,
            closed: false,
            watchers: Vec::new(),
            forks,
        };
        Self { name, queue: Mutex::new(queue), news: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<J>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let forks = fork::generation();
        if queue.forks != forks {
            // A forked child has none of the parent's threads, and must not do the parent's work.
            #[allow(clippy::mem_forget, reason = "they belong to the parent")]
            std::mem::forget(std::mem::take(&mut queue.jobs));
            (queue.threads, queue.idle, queue.forks) = (0, 0, forks);
        }
        queue
    }

    /// Hands `job` to a thread.
    pub(crate) fn submit<H>(this: &H, job: J) -> Result<(), Refused<J>>
    where
        H: Deref<Target = Self> + Clone + Send + 'static,
    {
        let mut queue = this.lock();
        if queue.closed {
            return Err(Refused::Closed(job));
        }
        queue.jobs.push_back(job);
        if queue.idle >= queue.jobs.len() {
            this.news.notify_one();
            return Ok(());
        }
        if queue.threads >= queue.threads_max {
            return Ok(());
        }
        let name = format!("{}-{}", this.name, queue.threads_made);
        let theirs = this.clone();
        match std::thread::Builder::new().name(name).spawn(move || theirs.work()) {
            Ok(_) => {
                queue.threads += 1;
                queue.threads_made += 1;
            }
            // Out of threads: the ones there are will come to it. Without any, it fails instead of waiting for ever.
            Err(_) if queue.threads > 0 => {}
            Err(error) => {
                let job = queue.jobs.pop_back().expect("it was just put there");
                return Err(Refused::NoThread(job, error));
            }
        }
        Ok(())
    }

    /// Takes back the first job that `wanted` says, if no thread has begun it.
    pub(crate) fn take_back(&self, wanted: impl FnMut(&J) -> bool) -> Option<J> {
        let mut queue = self.lock();
        let found = queue.jobs.iter().position(wanted)?;
        queue.jobs.remove(found)
    }

    /// The most threads at a time, for jobs from now on.
    pub(crate) fn set_threads_max(&self, count: usize) {
        self.lock().threads_max = count;
    }

    /// Takes no jobs any more; those that are queued are done.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.news.notify_all();
    }

    /// Ready when it is closed and its last thread has ended.
    pub(crate) fn poll_ended(&self, cx: &Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone(); // foreign code, so before the lock
        let mut queue = self.lock();
        if queue.closed && queue.threads == 0 {
            return Poll::Ready(());
        }
        let is_known = queue.watchers.iter().any(|known| known.will_wake(&waker));
        if !is_known {
            queue.watchers.push(waker);
        }
        Poll::Pending
    }

    fn work(&self) {
        let mut queue = self.lock();
        loop {
            while let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job.run();
                queue = self.lock();
            }
            if queue.closed {
                break;
            }
            queue.idle += 1;
            let (guard, waited) =
                self.news.wait_timeout(queue, IDLE_MAX).unwrap_or_else(PoisonError::into_inner);
            queue = guard;
            queue.idle -= 1;
            if waited.timed_out() && queue.jobs.is_empty() {
                break;
            }
        }
        queue.threads -= 1;
        let is_last = queue.closed && queue.threads == 0;
        let watchers = if is_last { std::mem::take(&mut queue.watchers) } else { Vec::new() };
        drop(queue);
        watchers.into_iter().for_each(Waker::wake);
    }
}
