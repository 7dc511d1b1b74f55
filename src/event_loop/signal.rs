//! Callbacks for signals.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::Location;
use std::rc::Rc;

use crate::event_loop::{open, running};
use crate::runtime::EventLoop;
use crate::runtime::calls::GivenAt;
use crate::runtime::core::Core;
use crate::runtime::readiness::Direction;
use crate::signal::Catcher;

type Callback = Rc<RefCell<dyn FnMut()>>;

/// The handler of one signal.
struct Handler {
    catcher: Catcher,
    callback: RefCell<(Callback, GivenAt)>,
    removed: Cell<bool>,
}

/// The handlers of a loop, by signal.
#[derive(Default)]
struct Handlers(RefCell<HashMap<i32, Rc<Handler>>>);

impl Handler {
    /// Calls the callback once for each time that the signal came.
    fn run(&self, core: &Core) {
        let mut caught = VecDeque::new();
        self.catcher.take(&mut caught);
        for _ in caught {
            if self.removed.get() {
                return;
            }
            let (callback, given_at) = self.callback.borrow().clone();
            core.run_callback(Some(given_at), move || (*callback.borrow_mut())());
        }
    }
}

fn add(core: &Rc<Core>, signal: i32, callback: Callback, given_at: GivenAt) -> io::Result<()> {
    let handlers = open(core)?.locals.get(Handlers::default);
    let known = handlers.0.borrow().get(&signal).cloned();
    if let Some(handler) = known {
        // What has come already goes to the new one.
        let before = handler.callback.replace((callback, given_at));
        drop(before);
        return Ok(());
    }
    let callback = RefCell::new((callback, given_at));
    let handler = Rc::new(Handler { catcher: Catcher::new(&[signal])?, callback, removed: Cell::new(false) });
    let (weak, ours) = (Rc::downgrade(core), Rc::downgrade(&handler));
    let run = move || {
        if let Some((core, handler)) = weak.upgrade().zip(ours.upgrade()) {
            handler.run(&core);
        }
    };
    core.add_watch(handler.catcher.number(), Direction::Read, Rc::new(RefCell::new(run)), given_at)?;
    handlers.0.borrow_mut().insert(signal, handler);
    Ok(())
}

fn remove(core: &Rc<Core>, signal: i32) -> bool {
    if core.closed.get() {
        return false;
    }
    let handlers = core.locals.get(Handlers::default);
    let removed = handlers.0.borrow_mut().remove(&signal);
    if let Some(handler) = &removed {
        handler.removed.set(true);
        core.remove_watch(handler.catcher.number(), Direction::Read);
    }
    removed.is_some()
}

impl EventLoop {
    /// As [`add_signal_handler`], of this loop.
    ///
    /// # Errors
    /// As [`add_signal_handler`], and if this loop is closed.
    #[track_caller]
    pub fn add_signal_handler(&self, signal: i32, callback: impl FnMut() + 'static) -> io::Result<()> {
        add(&self.core, signal, Rc::new(RefCell::new(callback)), Location::caller())
    }

    /// As [`remove_signal_handler`], of this loop. False for a closed loop.
    pub fn remove_signal_handler(&self, signal: i32) -> bool {
        remove(&self.core, signal)
    }
}

/// Calls `callback` in the loop whenever `signal` comes, instead of the callback that was there. Others who listen for the
/// signal, in this loop (by [receivers](crate::signal::open_signal_receiver)) or anywhere in the process, do so as before.
///
/// # Errors
/// As [`open_signal_receiver`](crate::signal::open_signal_receiver).
///
/// # Examples
/// ```
/// use proactor::event_loop;
/// # fn main() -> std::io::Result<()> {
/// proactor::run(async {
///     let reload = proactor::sync::Event::new();
///     let asked = reload.clone();
///     event_loop::add_signal_handler(libc::SIGHUP, move || asked.set())?;
///     # std::process::Command::new("sh").args(["-c", "kill -HUP $PPID"]).status()?;
///     // Somebody sends one: `kill -HUP` and our number.
///     reload.wait().await?;
///     assert!(event_loop::remove_signal_handler(libc::SIGHUP)?);
///     assert!(event_loop::add_signal_handler(libc::SIGKILL, || ()).is_err(), "nobody can catch that");
///     Ok::<_, std::io::Error>(())
/// })
/// # }
/// ```
#[track_caller]
pub fn add_signal_handler(signal: i32, callback: impl FnMut() + 'static) -> io::Result<()> {
    add(&running()?, signal, Rc::new(RefCell::new(callback)), Location::caller())
}

/// Takes the callback of a signal back. Returns whether there was one. The signal does not do again what it does by
/// default: see [`signal`](crate::signal).
///
/// # Errors
/// If no event loop runs on this thread.
pub fn remove_signal_handler(signal: i32) -> io::Result<bool> {
    Ok(remove(&running()?, signal))
}
