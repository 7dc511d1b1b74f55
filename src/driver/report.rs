//! Chooses the driver at run time, and says which one it is and why.

use std::env;
use std::fmt;
use std::fs;
use std::io;

use crate::driver::probe::{self, Features};

/// Which driver a loop shall use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[non_exhaustive]
pub enum DriverChoice {
    /// io_uring where it is the modern one (6.1-class kernels and later), else epoll. The environment variable
    /// `PROACTOR_DRIVER` (`auto`, `io_uring` or `epoll`) decides before that.
    #[default]
    Auto,
    /// io_uring, or an error that says what to do.
    IoUring,
    /// epoll and a pool of threads.
    Epoll,
}

/// Which driver a loop uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DriverKind {
    /// Operations are submitted to a ring.
    IoUring,
    /// Operations are tried when epoll says that they can go on.
    Epoll,
}

impl DriverKind {
    /// All drivers that there are.
    #[doc(alias = "get_all_backends")]
    pub const ALL: [Self; 2] = [Self::IoUring, Self::Epoll];

    /// Whether a loop with this driver could be made here.
    ///
    /// # Errors
    /// Why not, and what to do: the error that [`Builder::build`](crate::Builder::build) gives if this driver is asked for
    /// by name. Short memory or descriptors are found out only there.
    ///
    /// # Examples
    /// ```
    /// for driver in proactor::DriverKind::ALL {
    ///     match driver.can_run() {
    ///         Ok(()) => println!("{driver} can run"),
    ///         Err(reason) => println!("{driver} cannot run: {reason}"),
    ///     }
    /// }
    /// ```
    pub fn can_run(self) -> io::Result<()> {
        match self {
            Self::IoUring => ring_features().map(drop),
            Self::Epoll => Ok(()),
        }
    }
}

impl From<DriverKind> for DriverChoice {
    fn from(kind: DriverKind) -> Self {
        match kind {
            DriverKind::IoUring => Self::IoUring,
            DriverKind::Epoll => Self::Epoll,
        }
    }
}

/// What the ring here has, if it is one that the driver can use at all.
fn ring_features() -> io::Result<&'static Features> {
    let features = probe::features().map_err(|error| refusal(&error))?;
    match features.missing() {
        Some(missing) => Err(io::Error::new(io::ErrorKind::Unsupported, too_old(missing))),
        None => Ok(features),
    }
}

fn too_old(missing: &str) -> String {
    format!("this kernel's io_uring lacks {missing}: it is too old; use a 6.1 or later kernel, or epoll")
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

/// Which driver a loop uses, which features of the kernel it found, and why it was chosen.
///
/// Its `Display` is meant for a person: print it when a server starts.
#[derive(Debug, Clone)]
pub struct DriverReport {
    driver: DriverKind,
    reason: String,
    features: Vec<(&'static str, bool)>,
}

impl DriverReport {
    /// The driver in use.
    pub fn driver(&self) -> DriverKind {
        self.driver
    }

    /// Why it is this one.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The features of the kernel's io_uring that were looked for, and whether they are there. Empty where the kernel
    /// offers no ring at all.
    pub fn features(&self) -> impl Iterator<Item = (&'static str, bool)> + '_ {
        self.features.iter().copied()
    }
}

impl fmt::Display for DriverReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "driver: {} ({})", self.driver, self.reason)?;
        for (label, present) in [("features", true), ("not here", false)] {
            let names: Vec<_> =
                self.features().filter(|(_, p)| *p == present).map(|(name, _)| name).collect();
            if !names.is_empty() {
                write!(f, "\n{label}: {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}

/// What was asked for, and by whom.
fn asked(choice: DriverChoice) -> io::Result<(DriverChoice, &'static str)> {
    if choice != DriverChoice::Auto {
        return Ok((choice, "asked for by the program"));
    }
    let by = "asked for by PROACTOR_DRIVER";
    match env::var("PROACTOR_DRIVER") {
        Err(env::VarError::NotPresent) => Ok((DriverChoice::Auto, "")),
        Ok(value) => match value.as_str() {
            "" | "auto" => Ok((DriverChoice::Auto, "")),
            "io_uring" => Ok((DriverChoice::IoUring, by)),
            "epoll" => Ok((DriverChoice::Epoll, by)),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("PROACTOR_DRIVER={other}: use auto, io_uring or epoll"),
            )),
        },
        Err(env::VarError::NotUnicode(_)) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "PROACTOR_DRIVER is not readable text: use auto, io_uring or epoll",
        )),
    }
}

/// Makes the backend that `choice` and the kernel lead to. `make` gets the ring's features, or `None` for epoll.
pub(crate) fn choose<B>(
    choice: DriverChoice,
    make: impl Fn(Option<&Features>) -> io::Result<B>,
) -> io::Result<(B, Features, DriverReport)> {
    let (choice, by) = asked(choice)?;
    let report = |driver, reason: String, features: Option<&Features>| DriverReport {
        driver,
        reason,
        features: features.map(Features::list).unwrap_or_default(),
    };
    let epoll = |reason: String, features: Option<&Features>| {
        make(None).map(|backend| (backend, Features::default(), report(DriverKind::Epoll, reason, features)))
    };
    // Read before anything is asked of the kernel: under some seccomp profiles the question itself is fatal.
    if choice == DriverChoice::Epoll {
        return epoll(by.to_owned(), None);
    }
    let forced = choice == DriverChoice::IoUring;
    let features = match probe::features() {
        _ if forced => ring_features()?,
        Ok(features) => features,
        Err(error) => return epoll(format!("no io_uring: {}", refusal(&error)), None),
    };
    if let Some(missing) = features.missing() {
        return epoll(too_old(missing), Some(features));
    }
    if !forced && !features.is_modern() {
        let why = "this kernel's io_uring is older than 6.1-class, where epoll is as fast and safer; \
                   PROACTOR_DRIVER=io_uring forces it";
        return epoll(why.to_owned(), Some(features));
    }
    let reason = if forced { by } else { "the kernel has a modern ring" };
    match make(Some(features)) {
        Ok(backend) => {
            Ok((backend, features.clone(), report(DriverKind::IoUring, reason.to_owned(), Some(features))))
        }
        Err(error) if forced => Err(refusal(&error)),
        Err(error) => epoll(format!("no ring could be made: {}", refusal(&error)), Some(features)),
    }
}

/// What the kernel said when a ring was asked for, with the remedy.
fn refusal(error: &io::Error) -> io::Error {
    let remedy = match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            "this kernel or sandbox has no io_uring; a kernel from 5.11 on, built with CONFIG_IO_URING, \
             has it, and a seccomp profile may hide it"
        }
        Some(libc::EPERM) => match sysctl_disabled().as_deref() {
            Some("2") => "the sysctl kernel.io_uring_disabled is 2; set it to 0",
            Some("1") => {
                "the sysctl kernel.io_uring_disabled is 1; set it to 0, or put the user into the group that \
                 kernel.io_uring_group names"
            }
            _ => {
                "a seccomp profile denies it, as the default ones of Docker and Kubernetes do; allow io_uring_setup, \
                 io_uring_enter and io_uring_register there"
            }
        },
        Some(libc::EACCES) => {
            "a security module (SELinux, AppArmor, Landlock …) denies it; allow io_uring there"
        }
        Some(libc::EINVAL) => "this kernel accepts none of the ring's set-up flags; it is too old",
        Some(libc::ENOMEM) => {
            "no memory for the ring: raise RLIMIT_MEMLOCK (ulimit -l) or the memory limit of the \
             container, or ask for fewer ring_entries"
        }
        Some(libc::EMFILE) => "too many open files in this process: raise RLIMIT_NOFILE (ulimit -n)",
        Some(libc::ENFILE) => "too many open files in the system: raise the sysctl fs.file-max",
        _ => return io::Error::new(error.kind(), format!("io_uring cannot be used: {error}")),
    };
    io::Error::new(error.kind(), format!("io_uring cannot be used: {error}: {remedy}"))
}

fn sysctl_disabled() -> Option<String> {
    let value = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    Some(value.trim().to_owned())
}
