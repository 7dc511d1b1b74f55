//! The errors of a task group, all in one.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::error::{Cancelled, MayBeCancelled};

/// What went wrong in a task group: the errors of its body and of its children, in the order in which they came. Or, if
/// nothing did, that the group was cancelled from outside.
///
/// Converts into [`io::Error`] if its errors do: one error into itself, several into one that holds them all.
#[doc(alias = "ExceptionGroup")]
pub struct ErrorGroup<E> {
    errors: Vec<E>,
    cancelled: Option<Cancelled>,
}

impl<E> ErrorGroup<E> {
    pub(super) fn new(errors: Vec<E>) -> Self {
        Self { errors, cancelled: None }
    }

    /// The errors. None, if the group was only cancelled.
    pub fn errors(&self) -> &[E] {
        &self.errors
    }

    /// The errors, to keep.
    pub fn into_errors(self) -> Vec<E> {
        self.errors
    }
}

impl<E: MayBeCancelled + 'static> ErrorGroup<E> {
    /// Every error that is no group itself: those of nested groups instead of the groups. Groups are seen through where
    /// they have the same type of errors, or were converted into [`io::Error`].
    ///
    /// # Examples
    /// ```
    /// use std::io;
    /// use proactor::cancel::task_group;
    ///
    /// # fn main() -> io::Result<()> {
    /// proactor::run(async {
    ///     let failed = task_group(async |outer| {
    ///         outer.start_soon(async {
    ///             task_group(async |inner| {
    ///                 inner.start_soon(async { Err(io::Error::other("one")) });
    ///                 inner.start_soon(async { Err(io::Error::other("two")) });
    ///                 Ok::<_, io::Error>(())
    ///             })
    ///             .await?;
    ///             Ok(())
    ///         });
    ///         Ok::<_, io::Error>(())
    ///     });
    ///     let error = failed.await.unwrap_err();
    ///     let texts: Vec<_> = error.leaves().iter().map(ToString::to_string).collect();
    ///     assert_eq!(texts, ["one", "two"]);
    ///     Ok::<_, io::Error>(())
    /// })
    /// # }
    /// ```
    pub fn leaves(&self) -> Vec<&(dyn StdError + 'static)> {
        let mut leaves = Vec::new();
        self.collect(&mut leaves);
        leaves
    }

    fn collect<'a>(&'a self, leaves: &mut Vec<&'a (dyn StdError + 'static)>) {
        for error in &self.errors {
            let error = error.as_error();
            let inner: &(dyn StdError + 'static) =
                match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                    Some(inner) => inner,
                    None => error,
                };
            if let Some(group) = inner.downcast_ref::<Self>() {
                group.collect(leaves);
            } else if let Some(group) = inner.downcast_ref::<ErrorGroup<io::Error>>() {
                group.collect(leaves);
            } else {
                leaves.push(error);
            }
        }
    }
}

impl<E: MayBeCancelled> fmt::Display for ErrorGroup<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.errors.as_slice(), &self.cancelled) {
            ([], Some(cancelled)) => write!(f, "task group {cancelled}"),
            ([error], _) => write!(f, "{}", error.as_error()),
            (errors, _) => {
                write!(f, "{} errors in a task group: ", errors.len())?;
                for (index, error) in errors.iter().enumerate() {
                    write!(f, "{}{}", if index > 0 { "; " } else { "" }, error.as_error())?;
                }
                Ok(())
            }
        }
    }
}

impl<E: MayBeCancelled> fmt::Debug for ErrorGroup<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.cancelled.iter())
            .entries(self.errors.iter().map(MayBeCancelled::as_error))
            .finish()
    }
}

impl<E: MayBeCancelled + 'static> StdError for ErrorGroup<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match (self.errors.first(), &self.cancelled) {
            (Some(error), _) => Some(error.as_error()),
            (None, Some(cancelled)) => Some(cancelled),
            (None, None) => None,
        }
    }
}

impl<E> From<Cancelled> for ErrorGroup<E> {
    fn from(cancelled: Cancelled) -> Self {
        Self { errors: Vec::new(), cancelled: Some(cancelled) }
    }
}

impl<E: MayBeCancelled + 'static> MayBeCancelled for ErrorGroup<E> {
    fn as_error(&self) -> &(dyn StdError + 'static) {
        self
    }

    fn is_cancelled(&self) -> bool {
        self.errors.is_empty()
    }
}

impl<E: Into<io::Error>> From<ErrorGroup<E>> for io::Error {
    fn from(group: ErrorGroup<E>) -> Self {
        let mut errors: Vec<io::Error> = group.errors.into_iter().map(Into::into).collect();
        match (errors.pop(), group.cancelled) {
            (Some(only), _) if errors.is_empty() => only,
            (Some(last), _) => {
                errors.push(last);
                io::Error::other(ErrorGroup::new(errors))
            }
            (None, cancelled) => cancelled.unwrap_or_default().into(),
        }
    }
}

/// A child that was started with [`TaskGroup::start`](crate::cancel::TaskGroup::start) ended without saying that it had
/// started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, thiserror::Error)]
#[error("the task ended without calling TaskStatus::started")]
#[non_exhaustive]
pub struct NotStarted;

impl From<NotStarted> for io::Error {
    fn from(error: NotStarted) -> Self {
        Self::other(error)
    }
}
