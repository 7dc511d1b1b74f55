//! What the example programs share: a small command line, exit codes, and stopping on Ctrl-C.

// Not every program uses all of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use proactor::net::TcpListener;
use proactor::{Builder, DriverChoice, EventLoop};

/// What a program is called and what it takes beside `--listen`, `--driver` and `--help`.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// The default of `--listen`.
    pub(crate) listen: &'static str,
    /// Name and meaning of each operand; all are required.
    pub(crate) operands: &'static [(&'static str, &'static str)],
    /// Further options: name, name of the value, default, meaning.
    pub(crate) options: &'static [(&'static str, &'static str, &'static str, &'static str)],
}

/// The parsed command line.
pub(crate) struct Args {
    operands: Vec<OsString>,
    values: BTreeMap<&'static str, String>,
}

/// Why a program ends early: one sentence, and whose fault it was.
pub(crate) enum Trouble {
    /// The command line asks for something impossible: exit code 2.
    Usage(String),
    /// Something failed later: exit code 1.
    Runtime(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Runtime(error.to_string())
    }
}

impl Program {
    /// The whole of `main`: parses, starts, turns trouble into a sentence and an exit code.
    pub(crate) fn run(&self, start: impl FnOnce(&Args) -> Result<(), Trouble>) -> ExitCode {
        let given: Vec<OsString> = std::env::args_os().skip(1).collect();
        // Only what stands before `--` is an option: a directory may be called `--help`.
        let mut options = given.iter().take_while(|arg| *arg != "--");
        if options.any(|arg| arg == "--help" || arg == "-h") {
            say(self);
            return ExitCode::SUCCESS;
        }
        match self.parse(given).and_then(|args| start(&args)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(Trouble::Usage(sentence)) => {
                complain(format_args!("{}: {sentence} (--help says more)", self.name));
                ExitCode::from(2)
            }
            Err(Trouble::Runtime(sentence)) => {
                complain(format_args!("{}: {sentence}", self.name));
                ExitCode::from(1)
            }
        }
    }

    /// Every option with its default, the shared ones first.
    fn options(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str, &'static str)> {
        let shared = [
            ("--listen", "ADDR", self.listen, "address and port to listen on; port 0 takes a free one"),
            ("--driver", "DRIVER", "auto", "auto, io_uring or epoll; auto heeds PROACTOR_DRIVER"),
        ];
        shared.into_iter().chain(self.options.iter().copied())
    }

    fn parse(&self, given: Vec<OsString>) -> Result<Args, Trouble> {
        let mut values: BTreeMap<_, _> =
            self.options().map(|(name, _, default, _)| (name, default.to_owned())).collect();
        let mut operands = Vec::new();
        let mut given = given.into_iter();
        let mut options_over = false;
        while let Some(arg) = given.next() {
            if options_over || !arg.as_encoded_bytes().starts_with(b"-") {
                operands.push(arg);
                continue;
            }
            if arg == "--" {
                options_over = true;
                continue;
            }
            let text = arg.to_string_lossy();
            let (wanted, attached) = match text.split_once('=') {
                Some((wanted, value)) => (wanted, Some(value.to_owned())),
                None => (&*text, None),
            };
            let Some((name, value_name, ..)) = self.options().find(|(name, ..)| *name == wanted) else {
                return Err(Trouble::Usage(format!("unknown option {wanted}")));
            };
            let value = attached.or_else(|| given.next().map(|next| next.to_string_lossy().into_owned()));
            let value = value.ok_or_else(|| Trouble::Usage(format!("{name} needs a value: {value_name}")))?;
            values.insert(name, value);
        }
        if let Some((missing, _)) = self.operands.get(operands.len()) {
            return Err(Trouble::Usage(format!("{missing} is missing")));
        }
        if let Some(extra) = operands.get(self.operands.len()) {
            return Err(Trouble::Usage(format!("{} is one argument too many", extra.display())));
        }
        Ok(Args { operands, values })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\nusage: {} [OPTIONS]", self.about, self.name)?;
        for (name, _) in self.operands {
            write!(f, " {name}")?;
        }
        writeln!(f, "\n")?;
        for (name, meaning) in self.operands {
            writeln!(f, "  {name:<24} {meaning}")?;
        }
        for (name, value, default, meaning) in self.options() {
            writeln!(f, "  {:<24} {meaning} [{default}]", format!("{name} {value}"))?;
        }
        write!(f, "  {:<24} print this", "--help")
    }
}

impl Args {
    /// An operand that `Program::operands` names.
    pub(crate) fn operand(&self, index: usize) -> Option<&OsStr> {
        self.operands.get(index).map(OsString::as_os_str)
    }

    /// The value of an option, or its default.
    pub(crate) fn value(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// A loop with the driver that was asked for.
    pub(crate) fn event_loop(&self) -> Result<EventLoop, Trouble> {
        Ok(self.builder()?.build()?)
    }

    /// How such loops are made.
    pub(crate) fn builder(&self) -> Result<Builder, Trouble> {
        let choice = match self.value("--driver") {
            "auto" => DriverChoice::Auto,
            "io_uring" => DriverChoice::IoUring,
            "epoll" => DriverChoice::Epoll,
            other => return Err(Trouble::Usage(format!("--driver {other}: not auto, io_uring or epoll"))),
        };
        Ok(EventLoop::builder().driver(choice))
    }

    /// Binds `--listen` and says where the program can be reached, and by which driver.
    pub(crate) async fn listen(&self, scheme: &str) -> Result<TcpListener, Trouble> {
        let wanted = self.value("--listen");
        let refused = |error| Trouble::Usage(format!("cannot listen on {wanted}: {error}"));
        let listener = TcpListener::bind(wanted).await.map_err(refused)?;
        say(format_args!("listening on {scheme}{}", listener.local_addr()?));
        say(proactor::current()?.report());
        Ok(listener)
    }
}

/// Completes at Ctrl-C. Whoever does not want to wait for the open connections presses it again.
pub(crate) async fn interrupted() {
    if let Err(error) = proactor::signal::ctrl_c().await {
        complain(format_args!("cannot wait for Ctrl-C: {error}"));
        std::future::pending::<()>().await;
    }
    complain("finishing what is open; Ctrl-C again to end at once");
    proactor::spawn(async {
        if proactor::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
}

/// Prints a line. Unlike `println!` it does not panic when the reader is gone (`serve . | head -1`).
pub(crate) fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// The same on standard error.
pub(crate) fn complain(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
