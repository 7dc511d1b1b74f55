//! Typed attributes: what a stream knows beside its bytes, found through any number of wrappers.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::rc::Rc;

use socket2::{Domain, SockAddr};

use crate::error::TypedAttributeLookupError;

/// The name of an attribute, and with it the type of its value. Equal names mean the same attribute.
///
/// # Examples
/// A set of attributes is a type with constants:
/// ```
/// use proactor::stream::{Attribute, Attributes, TypedAttributeProvider};
///
/// struct LineAttribute;
/// impl LineAttribute {
///     const SPEED: Attribute<u32> = Attribute::new("LineAttribute::SPEED");
///     const PHONE: Attribute<String> = Attribute::new("LineAttribute::PHONE");
/// }
///
/// struct Line { speed: u32 }
/// impl TypedAttributeProvider for Line {
///     fn extra_attributes(&self) -> Attributes<'_> {
///         Attributes::new().with(LineAttribute::SPEED, || Some(self.speed))
///     }
/// }
///
/// let line = Line { speed: 1200 };
/// assert_eq!(line.extra(LineAttribute::SPEED)?, 1200);
/// assert!(line.extra(LineAttribute::PHONE).is_err());
/// # Ok::<_, proactor::TypedAttributeLookupError>(())
/// ```
#[doc(alias = "TypedAttributeSet")]
#[doc(alias = "typed_attribute")]
pub struct Attribute<T> {
    name: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T> Attribute<T> {
    /// An attribute of this name, by custom that of its set and its own.
    pub const fn new(name: &'static str) -> Self {
        Self { name, value: PhantomData }
    }

    /// The name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl<T> Clone for Attribute<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Attribute<T> {}

impl<T> fmt::Debug for Attribute<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attribute({})", self.name)
    }
}

type Ask<'a> = Box<dyn Fn() -> Option<Box<dyn Any>> + 'a>;

/// The attributes of a provider, each with a function that gives its value.
#[derive(Default)]
pub struct Attributes<'a> {
    entries: Vec<(&'static str, Ask<'a>)>,
}

impl<'a> Attributes<'a> {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// These, and `attribute`, in place of one of the same name. Where `value` gives `None`, there is none after all.
    #[must_use]
    pub fn with<T: 'static>(mut self, attribute: Attribute<T>, value: impl Fn() -> Option<T> + 'a) -> Self {
        self.set(attribute.name, Box::new(move || Some(Box::new(value()?))));
        self
    }

    /// These and `others`, which are taken where both have one of a name.
    #[must_use]
    pub fn merged(mut self, others: Self) -> Self {
        others.entries.into_iter().for_each(|(name, value)| self.set(name, value));
        self
    }

    fn set(&mut self, name: &'static str, value: Ask<'a>) {
        self.entries.retain(|(other, _)| *other != name);
        self.entries.push((name, value));
    }

    /// Those that `of` finds in `provider`, which lives as long as they do.
    pub(crate) fn of_shared<P: ?Sized + 'static>(
        provider: &Rc<P>,
        of: fn(&P) -> Attributes<'_>,
    ) -> Attributes<'static> {
        let shared = |name| -> (&'static str, Ask<'static>) {
            let provider = provider.clone();
            (name, Box::new(move || of(&provider).ask(name)))
        };
        Attributes { entries: of(provider).names().map(shared).collect() }
    }

    fn ask(&self, name: &str) -> Option<Box<dyn Any>> {
        let (_, value) = self.entries.iter().find(|(other, _)| *other == name)?;
        value()
    }

    /// The value of `attribute`, if it is there.
    pub fn get<T: 'static>(&self, attribute: Attribute<T>) -> Option<T> {
        self.ask(attribute.name)?.downcast().ok().map(|value| *value)
    }

    /// The names of all.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.entries.iter().map(|(name, _)| *name)
    }
}

impl fmt::Debug for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// Something that has [attributes](Attribute).
pub trait TypedAttributeProvider {
    /// All of them. A wrapper gives those of what it wraps too, and its own where both have one.
    fn extra_attributes(&self) -> Attributes<'_> {
        Attributes::new()
    }

    /// The value of `attribute`. For a default, `unwrap_or` it.
    ///
    /// # Errors
    /// If there is none.
    #[doc(alias = "get_extra_info")]
    fn extra<T: 'static>(&self, attribute: Attribute<T>) -> Result<T, TypedAttributeLookupError>
    where
        Self: Sized,
    {
        self.extra_attributes().get(attribute).ok_or(TypedAttributeLookupError::new(attribute.name))
    }
}

/// What sockets know.
#[derive(Debug)]
pub enum SocketAttribute {}

impl SocketAttribute {
    /// The address family.
    pub const FAMILY: Attribute<Domain> = Attribute::new("SocketAttribute::FAMILY");
    /// The address of this side.
    pub const LOCAL_ADDRESS: Attribute<SockAddr> = Attribute::new("SocketAttribute::LOCAL_ADDRESS");
    /// The port of this side, of an IP socket.
    pub const LOCAL_PORT: Attribute<u16> = Attribute::new("SocketAttribute::LOCAL_PORT");
    /// The address of the other side, where there is one.
    #[doc(alias = "peername")]
    pub const REMOTE_ADDRESS: Attribute<SockAddr> = Attribute::new("SocketAttribute::REMOTE_ADDRESS");
    /// The port of the other side, of an IP socket.
    pub const REMOTE_PORT: Attribute<u16> = Attribute::new("SocketAttribute::REMOTE_PORT");
    /// The number of the descriptor, for calls that leave the state of the socket alone.
    pub const RAW_SOCKET: Attribute<RawFd> = Attribute::new("SocketAttribute::RAW_SOCKET");
}

/// The attributes of a socket, as far as it can tell.
pub(crate) fn of_socket<'a>(
    number: RawFd,
    local: impl Fn() -> Option<SockAddr> + Clone + 'a,
    remote: impl Fn() -> Option<SockAddr> + Clone + 'a,
) -> Attributes<'a> {
    let port = |address: SockAddr| address.as_socket().map(|address| address.port());
    let (family, local_port, remote_port) = (local.clone(), local.clone(), remote.clone());
    Attributes::new()
        .with(SocketAttribute::FAMILY, move || family().map(|address| address.domain()))
        .with(SocketAttribute::LOCAL_PORT, move || local_port().and_then(port))
        .with(SocketAttribute::LOCAL_ADDRESS, local)
        .with(SocketAttribute::REMOTE_PORT, move || remote_port().and_then(port))
        .with(SocketAttribute::REMOTE_ADDRESS, remote)
        .with(SocketAttribute::RAW_SOCKET, move || Some(number))
}
