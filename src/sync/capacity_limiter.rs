//! A number of tokens, with a list of who holds one.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::error::{Cancelled, MayBeCancelled, Unbalanced, WouldBlock};
use crate::runtime::scope::What;
use crate::runtime::{TaskId, current_task_id};
use crate::sync::wait::{Attempt, Source, Wait};
use crate::sync::waiters::Waiters;

/// Who holds a token of a [`CapacityLimiter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Borrower {
    /// The [`CapacityToken`] of this number, counted from 1 in each limiter.
    #[non_exhaustive]
    Token {
        /// Its number.
        number: u64,
        /// The task that asked for it.
        task: Option<TaskId>,
    },
    /// A task.
    Task(TaskId),
    /// Whatever the program means by this number.
    Number(u64),
    /// Whatever the program means by this name.
    Name(&'static str),
}

impl From<TaskId> for Borrower {
    fn from(id: TaskId) -> Self {
        Self::Task(id)
    }
}

impl From<u64> for Borrower {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&'static str> for Borrower {
    fn from(name: &'static str) -> Self {
        Self::Name(name)
    }
}

/// Limits how much is done at a time: a number of tokens that can be changed while they are in use, and a list of who
/// borrowed one. A clone is another handle of the same limiter.
///
/// It is fair: a token goes to whoever waits for one the longest, and nobody takes it in passing.
///
/// # Examples
/// ```
/// use proactor::sync::CapacityLimiter;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let limiter = CapacityLimiter::new(1);
///     let token = limiter.acquire().await?;
///     assert!(limiter.acquire_nowait().is_err());
///     limiter.set_total_tokens(2);
///     limiter.acquire_on_behalf_of("the cleaner").await?;
///     assert_eq!(limiter.available_tokens(), 0);
///     limiter.release_on_behalf_of("the cleaner")?;
///     assert!(limiter.release_on_behalf_of("the cleaner").is_err());
///     drop(token);
///     assert_eq!(limiter.borrowed_tokens(), 0);
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct CapacityLimiter {
    shared: Rc<Shared>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Waits,
    Holds,
}

struct Shared {
    total: Cell<usize>,
    borrowed: Cell<usize>,
    borrowers: RefCell<HashMap<Borrower, Standing>>,
    /// Nobody waits while a token is available.
    waiters: Waiters<Borrower>,
    /// Tokens made by [`CapacityLimiter::acquire`] so far.
    tokens_made: Cell<u64>,
}

/// What is known about a [`CapacityLimiter`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CapacityLimiterStatistics {
    /// Tokens that somebody holds.
    pub borrowed_tokens: usize,
    /// All tokens; [`CapacityLimiter::UNLIMITED`] for any number.
    pub total_tokens: usize,
    /// Who holds a token, in no order.
    pub borrowers: Vec<Borrower>,
    /// Futures that wait for a token.
    pub tasks_waiting: usize,
}

impl CapacityLimiter {
    /// A total that is never reached.
    #[doc(alias = "inf")]
    pub const UNLIMITED: usize = usize::MAX;

    /// A limiter of `total_tokens` tokens, or of any number: [`UNLIMITED`](Self::UNLIMITED).
    pub fn new(total_tokens: usize) -> Self {
        Self {
            shared: Rc::new(Shared {
                total: Cell::new(total_tokens),
                borrowed: Cell::new(0),
                borrowers: RefCell::default(),
                waiters: Waiters::default(),
                tokens_made: Cell::new(0),
            }),
        }
    }

    /// Completes with a token. Dropping it gives it back.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the token goes to the next who waits. The place in the queue is given up.
    ///
    /// # Errors
    /// [`Cancelled`], if the wait is cancelled.
    pub fn acquire(&self) -> AcquireToken {
        let borrower = self.next_token();
        AcquireToken { wait: self.borrow_for(borrower) }
    }

    /// Takes a token if one is available.
    ///
    /// # Errors
    /// [`WouldBlock`], if none is.
    pub fn acquire_nowait(&self) -> Result<CapacityToken, WouldBlock> {
        let borrower = self.next_token();
        if self.take(borrower) {
            return Ok(CapacityToken { limiter: self.clone(), borrower });
        }
        Err(WouldBlock)
    }

    /// Completes when `borrower` holds a token; [`release_on_behalf_of`](Self::release_on_behalf_of) gives it back.
    ///
    /// # Cancel safety
    /// *Nothing is lost*: the token goes to the next who waits. The place in the queue is given up.
    ///
    /// # Errors
    /// [`BorrowError::Cancelled`], if the wait is cancelled; [`BorrowError::AlreadyBorrowing`], if `borrower` holds a
    /// token already or waits for one.
    pub fn acquire_on_behalf_of(&self, borrower: impl Into<Borrower>) -> AcquireOnBehalfOf {
        AcquireOnBehalfOf { wait: self.borrow_for(borrower.into()) }
    }

    /// Lets `borrower` have a token if one is available.
    ///
    /// # Errors
    /// [`BorrowError::WouldBlock`], if none is; [`BorrowError::AlreadyBorrowing`], if `borrower` holds a token already or
    /// waits for one.
    pub fn acquire_on_behalf_of_nowait(&self, borrower: impl Into<Borrower>) -> Result<(), BorrowError> {
        let borrower = borrower.into();
        if self.shared.borrowers.borrow().contains_key(&borrower) {
            return Err(BorrowError::AlreadyBorrowing);
        }
        if self.take(borrower) { Ok(()) } else { Err(WouldBlock.into()) }
    }

    /// Gives back the token that `borrower` holds.
    ///
    /// # Errors
    /// [`Unbalanced`], if it holds none.
    #[doc(alias = "release")]
    pub fn release_on_behalf_of(&self, borrower: impl Into<Borrower>) -> Result<(), Unbalanced> {
        let borrower = borrower.into();
        if self.shared.borrowers.borrow().get(&borrower) != Some(&Standing::Holds) {
            return Err(Unbalanced::new("this borrower holds no token of the limiter"));
        }
        self.give_back(borrower);
        Ok(())
    }

    /// All tokens, borrowed or not.
    pub fn total_tokens(&self) -> usize {
        self.shared.total.get()
    }

    /// Changes the number of tokens. More tokens go to those who wait. With fewer than are borrowed nobody gets any until
    /// enough came back.
    pub fn set_total_tokens(&self, total_tokens: usize) {
        self.shared.total.set(total_tokens);
        self.hand_out();
    }

    /// Tokens that somebody holds.
    pub fn borrowed_tokens(&self) -> usize {
        self.shared.borrowed.get()
    }

    /// Tokens that can be had without waiting.
    pub fn available_tokens(&self) -> usize {
        match self.total_tokens() {
            Self::UNLIMITED => Self::UNLIMITED,
            total => total.saturating_sub(self.borrowed_tokens()),
        }
    }

    /// Who holds a token and how many wait for one.
    pub fn statistics(&self) -> CapacityLimiterStatistics {
        let borrowers = self.shared.borrowers.borrow();
        let holders = borrowers.iter().filter(|(_, standing)| **standing == Standing::Holds);
        CapacityLimiterStatistics {
            borrowed_tokens: self.borrowed_tokens(),
            total_tokens: self.total_tokens(),
            borrowers: holders.map(|(borrower, _)| *borrower).collect(),
            tasks_waiting: self.shared.waiters.len(),
        }
    }

    fn next_token(&self) -> Borrower {
        let number = self.shared.tokens_made.get() + 1;
        self.shared.tokens_made.set(number);
        Borrower::Token { number, task: current_task_id() }
    }

    fn borrow_for(&self, borrower: Borrower) -> Wait<Borrowing> {
        Wait::new(Borrowing { limiter: self.clone(), borrower }, borrower)
    }

    fn note(&self, borrower: Borrower, standing: Standing) {
        self.shared.borrowers.borrow_mut().insert(borrower, standing);
    }

    /// A token for `borrower`, if one is available.
    fn take(&self, borrower: Borrower) -> bool {
        let is_available = self.available_tokens() > 0;
        if is_available {
            self.note(borrower, Standing::Holds);
            self.shared.borrowed.set(self.borrowed_tokens() + 1);
        }
        is_available
    }

    fn give_back(&self, borrower: Borrower) {
        self.shared.borrowers.borrow_mut().remove(&borrower);
        self.shared.borrowed.set(self.borrowed_tokens() - 1);
        self.hand_out();
    }

    /// Available tokens go to those who wait.
    fn hand_out(&self) {
        while self.available_tokens() > 0
            && let Some((borrower, wake)) = self.shared.waiters.grant()
        {
            self.take(borrower);
            drop(wake);
        }
    }
}

impl fmt::Debug for CapacityLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CapacityLimiter")
            .field("borrowed_tokens", &self.borrowed_tokens())
            .field("total_tokens", &self.total_tokens())
            .field("tasks_waiting", &self.shared.waiters.len())
            .finish_non_exhaustive()
    }
}

/// A token for one borrower.
struct Borrowing {
    limiter: CapacityLimiter,
    borrower: Borrower,
}

impl Source for Borrowing {
    type Value = Borrower;
    type Error = BorrowError;

    const WHAT: What = What(&"a token of a limiter");

    fn waiters(&self) -> &Waiters<Borrower> {
        &self.limiter.shared.waiters
    }

    fn attempt(&self, borrower: Borrower) -> Attempt<Borrower, BorrowError> {
        match self.limiter.acquire_on_behalf_of_nowait(borrower) {
            Ok(()) => Attempt::Done,
            Err(BorrowError::WouldBlock(_)) => {
                self.limiter.note(borrower, Standing::Waits);
                Attempt::Wait(borrower)
            }
            Err(error) => Attempt::Refused(borrower, error),
        }
    }

    fn left(&self, was_granted: bool) {
        if was_granted {
            self.limiter.give_back(self.borrower);
        } else {
            self.limiter.shared.borrowers.borrow_mut().remove(&self.borrower);
        }
    }
}

/// Why somebody was not lent a token on behalf of a borrower.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BorrowError {
    /// The wait was cancelled.
    #[error("{0}")]
    Cancelled(#[from] Cancelled),
    /// No token is available.
    #[error("{0}")]
    WouldBlock(#[from] WouldBlock),
    /// The borrower holds a token already or waits for one.
    #[error("this borrower holds a token of the limiter already")]
    AlreadyBorrowing,
}

impl MayBeCancelled for BorrowError {
    fn as_error(&self) -> &(dyn Error + 'static) {
        self
    }
}

impl From<BorrowError> for io::Error {
    fn from(error: BorrowError) -> Self {
        match error {
            BorrowError::Cancelled(cancelled) => cancelled.into(),
            BorrowError::WouldBlock(would_block) => would_block.into(),
            BorrowError::AlreadyBorrowing => Self::new(io::ErrorKind::InvalidInput, error),
        }
    }
}

/// The future of [`CapacityLimiter::acquire`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct AcquireToken {
    wait: Wait<Borrowing>,
}

impl Future for AcquireToken {
    type Output = Result<CapacityToken, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let acquired = Pin::new(&mut self.wait).poll(cx);
        acquired.map(|acquired| match acquired {
            Ok(()) => {
                let Borrowing { limiter, borrower } = self.wait.source();
                Ok(CapacityToken { limiter: limiter.clone(), borrower: *borrower })
            }
            Err((_, BorrowError::Cancelled(cancelled))) => Err(cancelled),
            Err((_, error)) => unreachable!("no token is asked for twice: {error}"),
        })
    }
}

/// The future of [`CapacityLimiter::acquire_on_behalf_of`].
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct AcquireOnBehalfOf {
    wait: Wait<Borrowing>,
}

impl Future for AcquireOnBehalfOf {
    type Output = Result<(), BorrowError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.wait).poll(cx).map_err(|(_, error)| error)
    }
}

/// A token of a [`CapacityLimiter`], which goes back when this is dropped.
#[derive(Debug)]
#[must_use = "the token goes back when this is dropped"]
pub struct CapacityToken {
    limiter: CapacityLimiter,
    borrower: Borrower,
}

impl Drop for CapacityToken {
    fn drop(&mut self) {
        // An error: somebody released it already, by `release_on_behalf_of`.
        let _ = self.limiter.release_on_behalf_of(self.borrower);
    }
}
