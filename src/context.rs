//! Values that belong to a task and its children, and values that belong to a loop.
//!
//! | asyncio, AnyIO | here |
//! |---|---|
//! | `contextvars.ContextVar` | [`ContextVar`] |
//! | `anyio.lowlevel.RunVar` | [`RunVar`] |

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::runtime::core;
use crate::runtime::here;
use crate::runtime::task::Values;

/// Which variable it is, given at the first use, since a `static` cannot count.
#[derive(Debug, Default)]
struct Id(OnceLock<u64>);

impl Id {
    fn get(&self) -> u64 {
        static IDS: AtomicU64 = AtomicU64::new(0);
        *self.0.get_or_init(|| IDS.fetch_add(1, Ordering::Relaxed))
    }
}

fn downcast<T: Clone + 'static>(value: &Rc<dyn Any>) -> T {
    value.downcast_ref::<T>().expect("a variable holds values of its type").clone()
}

/// What a variable was before it was set, to bring that back.
#[must_use = "to let the value be, drop it: `drop(var.set(value))`"]
pub struct Token<T> {
    variable: u64,
    before: Option<Rc<dyn Any>>,
    kind: PhantomData<T>,
}

impl<T> fmt::Debug for Token<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

/// A variable that each task has a value of: children begin with the values that their parent has at that moment, and
/// what one task sets no other one sees.
///
/// # Examples
/// ```
/// use proactor::context::ContextVar;
///
/// static REQUEST: ContextVar<u32> = ContextVar::new("request");
///
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     drop(REQUEST.set(1));
///     let child = proactor::spawn(async {
///         let inherited = REQUEST.get();
///         drop(REQUEST.set(2));
///         (inherited, REQUEST.get())
///     });
///     assert_eq!(child.await?, (Some(1), Some(2)));
///     assert_eq!(REQUEST.get(), Some(1));
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
pub struct ContextVar<T> {
    name: &'static str,
    id: Id,
    kind: PhantomData<fn() -> T>,
}

impl<T: Clone + 'static> ContextVar<T> {
    /// A variable without a value, for a `static`. The name is for debug output.
    pub const fn new(name: &'static str) -> Self {
        Self { name, id: Id(OnceLock::new()), kind: PhantomData }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its value in this task; `None` if neither the task nor one that it descends from has set one, and outside of
    /// tasks.
    pub fn get(&self) -> Option<T> {
        let id = self.id.get();
        with_values(|values| {
            let found = values.take();
            let value = found.as_ref().and_then(|found| found.get(&id).cloned());
            values.set(found);
            value
        })
        .flatten()
        .map(|value| downcast(&value))
    }

    /// Sets its value in this task, and in the children that it will have. Give the token to [`reset`](Self::reset) to
    /// take it back.
    ///
    /// # Panics
    /// Outside of a task, as in a callback.
    pub fn set(&self, value: T) -> Token<T> {
        let variable = self.id.get();
        Token { variable, before: replace(variable, Some(Rc::new(value))), kind: PhantomData }
    }

    /// Brings back the value from before a [`set`](Self::set).
    ///
    /// # Panics
    /// If the token is from another variable; outside of a task.
    pub fn reset(&self, token: Token<T>) {
        assert_eq!(token.variable, self.id.get(), "a token is for the variable that it came from");
        drop(replace(token.variable, token.before));
    }
}

impl<T> fmt::Debug for ContextVar<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ContextVar").field(&self.name).finish()
    }
}

fn with_values<R>(f: impl FnOnce(&Cell<Option<Values>>) -> R) -> Option<R> {
    core::try_current()?.with_info(here::task(), |info| f(&info.values))
}

/// Sets or removes a value of this task; returns the one before. Nothing is borrowed when values are dropped.
fn replace(variable: u64, value: Option<Rc<dyn Any>>) -> Option<Rc<dyn Any>> {
    with_values(|values| {
        let mut map = values.take().unwrap_or_default();
        let own = Rc::make_mut(&mut map);
        let before = match value {
            Some(value) => own.insert(variable, value),
            None => own.remove(&variable),
        };
        values.set(Some(map));
        before
    })
    .expect("a context variable is set inside a task")
}

/// The values of one loop.
#[derive(Default)]
struct OfLoop(RefCell<HashMap<u64, Rc<dyn Any>>>);

/// A variable that each event loop has a value of.
///
/// # Examples
/// ```
/// use proactor::context::RunVar;
///
/// static CONNECTIONS: RunVar<u32> = RunVar::new("connections");
///
/// # fn main() -> std::io::Result<()> {
/// for _ in 0..2 {
///     proactor::run(async {
///         assert_eq!(CONNECTIONS.get(), None, "each loop begins without a value");
///         drop(CONNECTIONS.set(7));
///         assert_eq!(proactor::spawn(async { CONNECTIONS.get() }).await?, Some(7));
///         Ok::<_, std::io::Error>(())
///     })?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct RunVar<T> {
    name: &'static str,
    id: Id,
    kind: PhantomData<fn() -> T>,
}

impl<T: Clone + 'static> RunVar<T> {
    /// A variable without a value, for a `static`. The name is for debug output.
    pub const fn new(name: &'static str) -> Self {
        Self { name, id: Id(OnceLock::new()), kind: PhantomData }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its value in this thread's loop.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn get(&self) -> Option<T> {
        let values = core::current().locals.get(OfLoop::default);
        let value = values.0.borrow().get(&self.id.get()).cloned();
        value.map(|value| downcast(&value))
    }

    /// Sets its value in this thread's loop. Give the token to [`reset`](Self::reset) to take it back.
    ///
    /// # Panics
    /// If no event loop runs on this thread.
    #[track_caller]
    pub fn set(&self, value: T) -> Token<T> {
        let variable = self.id.get();
        let values = core::current().locals.get(OfLoop::default);
        let before = values.0.borrow_mut().insert(variable, Rc::new(value));
        Token { variable, before, kind: PhantomData }
    }

    /// Brings back the value from before a [`set`](Self::set).
    ///
    /// # Panics
    /// If the token is from another variable; if no event loop runs on this thread.
    #[track_caller]
    pub fn reset(&self, token: Token<T>) {
        assert_eq!(token.variable, self.id.get(), "a token is for the variable that it came from");
        let values = core::current().locals.get(OfLoop::default);
        let set = match token.before {
            Some(before) => values.0.borrow_mut().insert(token.variable, before),
            None => values.0.borrow_mut().remove(&token.variable),
        };
        drop(set);
    }
}

impl<T> fmt::Debug for RunVar<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RunVar").field(&self.name).finish()
    }
}
