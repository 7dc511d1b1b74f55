//! The cancel scope.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::error::{MayBeCancelled, TimedOut};
use crate::runtime::core::{self, Core};
use crate::runtime::polling::{Polled, Suspicion, poll_in};

/// A part of a program that can be cancelled as a whole: whatever its body waits for.
///
/// Clones are handles of the same scope, so one part of a program can cancel what another one runs. The rules are in
/// the [module's documentation](crate::cancel).
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use proactor::cancel::CancelScope;
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let scope = CancelScope::new();
///     let handle = scope.clone();
///     proactor::spawn(async move { handle.cancel() });
///     let outcome = scope.run(async {
///         proactor::sleep(Duration::from_secs(3600)).await?;
///         Ok::<_, std::io::Error>("slept well")
///     });
///     assert_eq!(outcome.await?, None);
///     assert!(scope.cancelled_caught());
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
pub struct CancelScope {
    core: Rc<Core>,
    slot: u32,
}

impl CancelScope {
    /// A scope without deadline and without shield.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[allow(clippy::new_without_default, reason = "it needs a running loop")]
    #[track_caller]
    pub fn new() -> Self {
        let core = core::current();
        let slot = core.new_scope();
        Self { core, slot }
    }

    /// A scope that cancels itself at `deadline`, on the loop's clock.
    #[must_use]
    pub fn with_deadline(self, deadline: Instant) -> Self {
        self.set_deadline(Some(deadline));
        self
    }

    /// A scope that cancels itself after `limit`, measured from this call.
    #[must_use]
    pub fn with_timeout(self, limit: Duration) -> Self {
        let deadline = self.core.clock.now().checked_add(limit);
        self.set_deadline(deadline);
        self
    }

    /// A scope that no cancel from outside reaches.
    #[must_use]
    pub fn with_shield(self) -> Self {
        self.set_shield(true);
        self
    }

    /// Runs `body` in this scope. Gives its value; `None` if it was cut short by a cancel of this scope, which ends here;
    /// or its error, which may be a cancellation that came from further out.
    ///
    /// A body that ends with a value although the scope was cancelled was successful.
    ///
    /// # Cancel safety
    /// As that of `body`.
    ///
    /// # Errors
    /// That of `body`.
    ///
    /// # Panics
    /// When it is polled, if something ran in this scope before: a scope is for one body.
    pub fn run<T, E, F>(&self, body: F) -> Scoped<F>
    where
        F: Future<Output = Result<T, E>>,
        E: MayBeCancelled,
    {
        Scoped { inside: Inside::new(self.clone(), body) }
    }

    /// Cancels the scope: everything that waits in it, and all that will. Twice is as good as once.
    pub fn cancel(&self) {
        if !self.cancel_called() {
            self.core.cancel_scope(self.slot, None);
        }
    }

    /// As [`cancel`](Self::cancel), with a message that the [`Cancelled`](crate::Cancelled) errors will carry.
    pub fn cancel_with(&self, message: &str) {
        if !self.cancel_called() {
            self.core.cancel_scope(self.slot, Some(message.into()));
        }
    }

    /// Whether this scope was cancelled, by [`cancel`](Self::cancel) or by its deadline. What happens to scopes outside of
    /// it does not count.
    pub fn cancel_called(&self) -> bool {
        self.core.cancel_requests(self.slot) > 0
    }

    /// Whether a cancellation of this scope ended here: [`run`](Self::run) gave `None`.
    pub fn cancelled_caught(&self) -> bool {
        self.core.was_caught(self.slot)
    }

    /// When the scope cancels itself; `None` for never.
    pub fn deadline(&self) -> Option<Instant> {
        self.core.deadline(self.slot)
    }

    /// Sets when the scope cancels itself, on the loop's clock, also while something runs in it. A deadline that passed
    /// cancels at once; what is cancelled stays so.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        self.core.set_deadline(self.slot, deadline);
    }

    /// Whether cancels from outside are kept out.
    #[doc(alias = "shield")]
    pub fn is_shielded(&self) -> bool {
        self.core.is_shielded(self.slot)
    }

    /// Keeps cancels from outside out, or lets them in, also while something runs in the scope.
    pub fn set_shield(&self, shield: bool) {
        self.core.shield_scope(self.slot, shield);
    }

    pub(super) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    pub(super) fn slot(&self) -> u32 {
        self.slot
    }
}

impl Clone for CancelScope {
    fn clone(&self) -> Self {
        self.core.add_scope_use(self.slot);
        Self { core: self.core.clone(), slot: self.slot }
    }
}

impl Drop for CancelScope {
    fn drop(&mut self) {
        self.core.drop_scope_use(self.slot);
    }
}

impl fmt::Debug for CancelScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelScope")
            .field("cancel_called", &self.cancel_called())
            .field("cancelled_caught", &self.cancelled_caught())
            .field("shielded", &self.is_shielded())
            .field("deadline", &self.deadline())
            .finish_non_exhaustive()
    }
}

pin_project_lite::pin_project! {
    /// A body in its scope. The scope is entered at the first poll, and left by `leave` or when this is dropped.
    pub(super) struct Inside<F> {
        scope: CancelScope,
        #[pin]
        body: Option<F>,
        entered: bool,
        suspicion: Suspicion,
    }

    impl<F> PinnedDrop for Inside<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // What the body holds goes first: it may hold scopes inside of this one.
            this.body.set(None);
            if *this.entered {
                this.scope.core.leave_scope(this.scope.slot);
            }
        }
    }
}

/// How the body of a scope ended.
pub(super) enum Ended<T> {
    /// With its own output.
    Returned(T),
    /// It waited for something foreign and was dropped.
    Dropped,
}

impl<F: Future> Inside<F> {
    pub(super) fn new(scope: CancelScope, body: F) -> Self {
        Self { scope, body: Some(body), entered: false, suspicion: Suspicion::default() }
    }

    pub(super) fn scope(&self) -> &CancelScope {
        &self.scope
    }

    /// Tells the scope where it is being polled, and by whom.
    pub(super) fn enter(self: Pin<&mut Self>, cx: &Context<'_>) {
        let this = self.project();
        let core = &this.scope.core;
        assert!(core::is_current(core), "a scope is polled in the loop where it was made");
        if !*this.entered {
            assert!(!core.was_entered(this.scope.slot), "a scope is for one body: make another one");
            *this.entered = true;
            core.enter_scope(this.scope.slot);
        }
        core.poll_scope(this.scope.slot, cx.waker());
    }

    /// Polls the body. Says also whether a cancellation would end in this scope.
    pub(super) fn poll_body(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<(Ended<F::Output>, bool)> {
        self.as_mut().enter(cx);
        let mut this = self.project();
        let (core, slot) = (&this.scope.core, this.scope.slot);
        let polled = poll_in(core, slot, this.suspicion, cx, |cx| {
            let body = this.body.as_mut().as_pin_mut();
            body.expect("a future was polled after it had completed").poll(cx)
        });
        let ended = match polled {
            Polled::Pending => return Poll::Pending,
            Polled::Ready(output) => Ended::Returned(output),
            Polled::Foreign => Ended::Dropped,
        };
        let catches = core.catches(slot);
        this.body.set(None);
        Poll::Ready((ended, catches))
    }

    pub(super) fn leave(self: Pin<&mut Self>) {
        let this = self.project();
        if std::mem::take(this.entered) {
            this.scope.core.leave_scope(this.scope.slot);
        }
    }
}

pin_project_lite::pin_project! {
    /// The future of [`CancelScope::run`] and [`move_on_after`].
    #[must_use = "futures do nothing unless awaited"]
    pub struct Scoped<F> {
        #[pin]
        inside: Inside<F>,
    }
}

impl<T, E, F> Future for Scoped<F>
where
    F: Future<Output = Result<T, E>>,
    E: MayBeCancelled,
{
    type Output = Result<Option<T>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut inside = self.project().inside;
        let (ended, catches) = ready!(inside.as_mut().poll_body(cx));
        let scope = inside.scope();
        let output = match ended {
            Ended::Returned(Ok(value)) => Ok(Some(value)),
            Ended::Returned(Err(error)) if !(catches && error.is_cancelled()) => Err(error),
            Ended::Dropped if !catches => Err(scope.core.answer(scope.slot).into()),
            Ended::Returned(Err(_)) | Ended::Dropped => {
                scope.core.set_caught(scope.slot);
                Ok(None)
            }
        };
        inside.leave();
        Poll::Ready(output)
    }
}

impl<F> fmt::Debug for Scoped<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoped").field("scope", &self.inside.scope).finish_non_exhaustive()
    }
}

/// Runs `body` for at most `limit`, measured from this call. Then it is cancelled, and this gives `None`.
///
/// # Cancel safety
/// As that of `body`.
///
/// # Errors
/// That of `body`.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use proactor::cancel::move_on_after;
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let nothing = move_on_after(Duration::from_millis(1), async {
///         proactor::sleep(Duration::from_secs(3600)).await?;
///         Ok::<_, std::io::Error>(42)
///     });
///     assert_eq!(nothing.await?, None);
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[track_caller]
pub fn move_on_after<T, E, F>(limit: Duration, body: F) -> Scoped<F>
where
    F: Future<Output = Result<T, E>>,
    E: MayBeCancelled,
{
    CancelScope::new().with_timeout(limit).run(body)
}

/// As [`move_on_after`], until a moment on the loop's clock.
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn move_on_at<T, E, F>(deadline: Instant, body: F) -> Scoped<F>
where
    F: Future<Output = Result<T, E>>,
    E: MayBeCancelled,
{
    CancelScope::new().with_deadline(deadline).run(body)
}

/// Runs `body` for at most `limit`, measured from this call. Then it is cancelled, and this fails with [`TimedOut`].
///
/// Other than [`timeout`](crate::timeout), it does not drop the body: what it waits for is asked to end, and its clean-up
/// can wait.
///
/// # Cancel safety
/// As that of `body`.
///
/// # Errors
/// That of `body`, or [`TimedOut`].
///
/// # Panics
/// If no event loop runs on this thread.
#[doc(alias = "wait_for")]
#[track_caller]
pub fn fail_after<T, E, F>(limit: Duration, body: F) -> FailAfter<F>
where
    F: Future<Output = Result<T, E>>,
    E: MayBeCancelled + From<TimedOut>,
{
    FailAfter { scoped: move_on_after(limit, body) }
}

/// As [`fail_after`], until a moment on the loop's clock.
///
/// # Panics
/// If no event loop runs on this thread.
#[track_caller]
pub fn fail_at<T, E, F>(deadline: Instant, body: F) -> FailAfter<F>
where
    F: Future<Output = Result<T, E>>,
    E: MayBeCancelled + From<TimedOut>,
{
    FailAfter { scoped: move_on_at(deadline, body) }
}

pin_project_lite::pin_project! {
    /// The future of [`fail_after`].
    #[must_use = "futures do nothing unless awaited"]
    #[derive(Debug)]
    pub struct FailAfter<F> {
        #[pin]
        scoped: Scoped<F>,
    }
}

impl<T, E, F> Future for FailAfter<F>
where
    F: Future<Output = Result<T, E>>,
    E: MayBeCancelled + From<TimedOut>,
{
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match ready!(self.project().scoped.poll(cx)) {
            Ok(Some(value)) => Poll::Ready(Ok(value)),
            Ok(None) => Poll::Ready(Err(TimedOut.into())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

/// Runs `body` where no cancel reaches it: the place for clean-up that has to wait. Give it a limit of its own
/// ([`move_on_after`]) if it may take long.
///
/// # Cancel safety
/// As that of `body`: a shield is no help against being dropped.
///
/// # Panics
/// If no event loop runs on this thread.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use proactor::cancel::{move_on_after, shielded};
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let outcome = move_on_after(Duration::from_millis(1), async {
///         let slept = proactor::sleep(Duration::from_secs(3600)).await;
///         shielded(async {
///             // It can wait here, although everything around is cancelled.
///             proactor::sleep(Duration::from_millis(1)).await
///         })
///         .await?;
///         slept
///     });
///     assert_eq!(outcome.await?, None);
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[track_caller]
pub fn shielded<F: Future>(body: F) -> Shielded<F> {
    Shielded { inside: Inside::new(CancelScope::new().with_shield(), body) }
}

pin_project_lite::pin_project! {
    /// The future of [`shielded`].
    #[must_use = "futures do nothing unless awaited"]
    pub struct Shielded<F> {
        #[pin]
        inside: Inside<F>,
    }
}

impl<F: Future> Future for Shielded<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut inside = self.project().inside;
        let (ended, _) = ready!(inside.as_mut().poll_body(cx));
        inside.leave();
        match ended {
            Ended::Returned(output) => Poll::Ready(output),
            Ended::Dropped => unreachable!("nobody has a handle to cancel this scope, and its shield stays"),
        }
    }
}

impl<F> fmt::Debug for Shielded<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shielded").finish_non_exhaustive()
    }
}
