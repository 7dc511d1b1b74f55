//! A storm of cancels: operations of all kinds are cut short at random moments, by scopes, tasks, deadlines and drops, and
//! in the end every byte, connection, item and permit is accounted for.
//!
//! `URING_TESTS_SEED` repeats a run (the threads of the kernel and of the pool are not repeated), `URING_TESTS_STORM` sets
//! how many operations there are.

mod messages;
mod others;
mod relays;
mod streams;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::env;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{Either, select};
use proactor::cancel::{CancelScope, move_on_after, shielded};
use proactor::fs::File;
use proactor::net::{
    TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixSeqpacket, UnixStream, pipe,
};
use proactor::sync::{Lock, Semaphore};
use proactor::{Cancelled, MayBeCancelled, Task, nop, spawn, yield_now};

use crate::harness::{Cx, Folder, Random, both_drivers, many, needs, patience, tcp_pair, until};
use messages::{confers, corresponds};
use others::{locks, naps, object_streams, permits, queues, writes};
use relays::relayed;
use streams::{Pattern, converses, meets};

both_drivers!(a_storm_of_cancels_loses_nothing);

/// Operations in all, and the time that they may take.
struct Storm {
    seed: u64,
    left: Cell<u64>,
    end: Instant,
    stories: Cell<u64>,
    done: RefCell<BTreeMap<&'static str, [u64; 3]>>,
}

impl Drop for Storm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the storm broke something: URING_TESTS_SEED={}", self.seed);
        }
    }
}

impl Storm {
    fn new() -> Rc<Self> {
        let number = |name: &str| env::var(name).ok().map(|text| text.parse().expect("a number"));
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let seed = number("URING_TESTS_SEED").unwrap_or(clock.as_nanos() as u64);
        let asked = number("URING_TESTS_STORM");
        // A longer one was asked for: it takes its time.
        let limit = if asked.is_some() { Duration::from_secs(86_400) } else { patience(20) };
        Rc::new(Self {
            seed,
            left: Cell::new(asked.unwrap_or(many(200_000) as u64)),
            end: Instant::now() + limit,
            stories: Cell::new(0),
            done: RefCell::default(),
        })
    }

    /// The random numbers of one more task.
    fn random(&self) -> Random {
        self.stories.set(self.stories.get() + 1);
        let mixed = (self.seed ^ self.stories.get()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = Random(mixed | 1);
        (0..8).for_each(|_| _ = random.below(2));
        random
    }

    /// Whether there is time for one more operation.
    fn goes_on(&self) -> bool {
        let left = self.left.get();
        let goes_on = left > 0 && (!left.is_multiple_of(64) || Instant::now() < self.end);
        self.left.set(if goes_on { left - 1 } else { 0 });
        goes_on
    }

    /// Cuts an operation short, in one way or another.
    async fn cut<F>(&self, what: &'static str, random: &mut Random, operation: F) -> End<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let (turns, more) = (random.below(6), random.below(4));
        let end = match random.below(6) {
            0 => by_scope(turns, operation).await,
            1 => by_task(turns, operation).await,
            2 => by_deadline(random.below(300) as u64, operation).await,
            3 => by_drop(turns, operation).await,
            4 => by_scope_and_drop(turns, more, operation).await,
            _ => by_both(turns, random.below(300) as u64, operation).await,
        };
        let mut done = self.done.borrow_mut();
        done.entry(what).or_default()[usize::from(matches!(end, End::Dropped))] += 1;
        end
    }

    fn note_success(&self, what: &'static str) {
        self.done.borrow_mut().entry(what).or_default()[2] += 1;
    }
}

/// What came of an operation.
enum End<T> {
    Answered(T),
    /// It had begun, and its future was dropped.
    Dropped,
}

/// Some turns of the loop, with or without a way through the kernel.
async fn pause(turns: usize) {
    for turn in 0..turns {
        if turn % 3 == 1 {
            let _ = nop().await;
        } else {
            yield_now().await;
        }
    }
}

/// Operations of this crate always answer, so `scope` never drops this one.
async fn answer<T>(scope: &CancelScope, operation: impl Future<Output = T>) -> End<T> {
    let mut answer = None;
    let body = async {
        answer = Some(operation.await);
        Ok::<_, Cancelled>(())
    };
    assert_eq!(scope.run(body).await, Ok(Some(())), "an answer is a success");
    End::Answered(answer.expect("it answered"))
}

async fn by_scope<T>(turns: usize, operation: impl Future<Output = T>) -> End<T> {
    let scope = CancelScope::new();
    let handle = scope.clone();
    drop(spawn(async move {
        pause(turns).await;
        handle.cancel();
    }));
    answer(&scope, operation).await
}

async fn by_task<F: Future + 'static>(turns: usize, operation: F) -> End<F::Output> {
    let task = spawn(operation);
    pause(turns).await;
    task.cancel("the storm");
    End::Answered(task.await.expect("it answered"))
}

async fn by_deadline<T>(micros: u64, operation: impl Future<Output = T>) -> End<T> {
    answer(&CancelScope::new().with_timeout(Duration::from_micros(micros)), operation).await
}

/// In a task that is cancelled while a scope's deadline comes.
async fn by_both<F: Future + 'static>(turns: usize, micros: u64, operation: F) -> End<F::Output> {
    let task = spawn(async move {
        let mut answer = None;
        let limited = move_on_after(Duration::from_micros(micros), async {
            answer = Some(operation.await);
            Ok::<_, Cancelled>(())
        });
        assert!(limited.await.is_ok());
        answer.expect("it answered")
    });
    pause(turns).await;
    task.cancel("the storm");
    End::Answered(task.await.expect("it answered"))
}

async fn by_drop<T>(turns: usize, operation: impl Future<Output = T>) -> End<T> {
    let mut operation = pin!(operation);
    if let Poll::Ready(answer) = poll_fn(|cx| Poll::Ready(operation.as_mut().poll(cx))).await {
        return End::Answered(answer);
    }
    match select(pin!(pause(turns)), operation).await {
        Either::Left(((), _dropped)) => End::Dropped,
        Either::Right((answer, _)) => End::Answered(answer),
    }
}

/// Dropped between the request to cancel and its answer, or behind that.
async fn by_scope_and_drop<T>(turns: usize, more: usize, operation: impl Future<Output = T>) -> End<T> {
    let scope = CancelScope::new();
    let mut end = End::Dropped;
    let body = async {
        let mut operation = pin!(operation);
        let polled = poll_fn(|cx| Poll::Ready(operation.as_mut().poll(cx))).await;
        if let Poll::Ready(answer) = polled {
            end = End::Answered(answer);
            return Ok(());
        }
        shielded(pause(turns)).await;
        scope.cancel();
        shielded(pause(more)).await;
        Ok::<_, Cancelled>(())
    };
    assert_eq!(scope.run(body).await, Ok(Some(())));
    end
}

#[track_caller]
fn assert_cancelled(error: &impl MayBeCancelled) {
    assert!(error.is_cancelled(), "{}", error.as_error());
}

/// The result of a task; its panic is raised again.
async fn join<T>(task: Task<io::Result<T>>) -> io::Result<T> {
    match task.await {
        Ok(result) => result,
        Err(error) => match error.resume_panic() {
            Ok(never) => match never {},
            Err(error) => Err(error.into()),
        },
    }
}

fn a_storm_of_cancels_loses_nothing(cx: Cx) {
    if !needs(600, 300) {
        return;
    }
    let (storm, folder) = (Storm::new(), Folder::new());
    cx.run_with(cx.builder(), async {
        let pattern = Pattern::new(&folder.path("pattern"))?;
        let mut tasks = Vec::new();
        for number in 0..6 {
            let pair = UnixStream::pair()?;
            if number % 2 == 0 {
                pair.0.with_socket(|socket| socket.set_send_buffer_size(4096))?;
            }
            tasks.push(converses(&storm, pair, &pattern));
            tasks.push(converses(&storm, tcp_pair().await?, &pattern));
        }
        tasks.push(relayed(&storm, tcp_pair().await?, pipe().await?, UnixStream::pair()?, &pattern));
        tasks.push(relayed(&storm, UnixStream::pair()?, pipe().await?, tcp_pair().await?, &pattern));
        for _ in 0..2 {
            tasks.push(confers(&storm, UnixSeqpacket::pair()?));
            tasks.push(corresponds(&storm, UnixDatagram::pair()?, false));
            let there = UdpSocket::bind("127.0.0.1:0").await?;
            let here = UdpSocket::connect(there.local_addr()?).await?;
            tasks.push(corresponds(&storm, (here, there), true));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        // Few: each connection leaves its port occupied for a minute.
        tasks.push(meets(&storm, listener, 1000, move || TcpStream::connect(address)));
        let path = folder.path("socket");
        let listener = UnixListener::bind(&path).await?;
        tasks.push(meets(&storm, listener, u32::MAX, move || UnixStream::connect(path.clone())));
        for name in ["one", "two"] {
            let file = File::create(folder.path(name)).await?;
            tasks.push(spawn(writes(storm.clone(), file, pattern.clone())));
        }
        for capacity in [1, 4] {
            tasks.push(spawn(queues(storm.clone(), capacity)));
        }
        for capacity in [0, 3] {
            tasks.push(spawn(object_streams(storm.clone(), capacity)));
        }
        let (lock, entered) = (Lock::new(0), Rc::new(Cell::new(0)));
        let (semaphore, inside) = (Semaphore::bounded(3, 3), Rc::new(Cell::new(0)));
        for _ in 0..4 {
            tasks.push(spawn(naps(storm.clone())));
            tasks.push(spawn(locks(storm.clone(), lock.clone(), entered.clone())));
            tasks.push(spawn(permits(storm.clone(), semaphore.clone(), inside.clone())));
        }
        for task in tasks {
            join(task).await?;
        }
        assert_eq!(*lock.acquire_nowait()?, entered.get());
        assert_eq!((semaphore.value(), inside.get()), (3, 0));
        // Operations that were dropped may be on their way still; the harness looks when they have come back.
        until(|| proactor::metrics().tasks == 0).await;
        Ok::<_, io::Error>(())
    });
    if env::var_os("URING_TESTS_STORM").is_some() {
        eprintln!("answered, dropped, successful: {:#?}", storm.done.borrow());
    }
}
