//! One user at a time, and an error for a second.

use std::cell::Cell;
use std::rc::Rc;

use crate::error::Busy;

/// Makes sure that one task at a time uses something: a second one gets an error instead of a wait. A clone is another
/// handle of the same guard.
///
/// # Examples
/// ```
/// use proactor::sync::ResourceGuard;
///
/// let guard = ResourceGuard::new("reading from");
/// let reading = guard.enter()?;
/// assert_eq!(guard.enter().unwrap_err().action(), "reading from");
/// drop(reading);
/// guard.enter()?;
/// # Ok::<_, proactor::Busy>(())
/// ```
#[derive(Debug, Clone)]
pub struct ResourceGuard {
    action: &'static str,
    is_used: Rc<Cell<bool>>,
}

impl ResourceGuard {
    /// Guards against two tasks `action` the same thing, for example `reading from`.
    pub fn new(action: &'static str) -> Self {
        Self { action, is_used: Rc::default() }
    }

    /// The thing is in use until what this returns is dropped.
    ///
    /// # Errors
    /// [`Busy`], with the action, if it is in use already.
    #[doc(alias = "__enter__")]
    pub fn enter(&self) -> Result<InUse, Busy> {
        if self.is_used.replace(true) {
            return Err(Busy::new(self.action));
        }
        Ok(InUse { is_used: self.is_used.clone() })
    }
}

impl Default for ResourceGuard {
    fn default() -> Self {
        Self::new("using")
    }
}

/// Something is in use until this is dropped; see [`ResourceGuard`].
#[derive(Debug)]
#[must_use = "the use ends when this is dropped"]
pub struct InUse {
    is_used: Rc<Cell<bool>>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.is_used.set(false);
    }
}
