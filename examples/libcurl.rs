//! A C library in our loop: libcurl fetches pages, all at once. `cargo run --example libcurl -- URL...`
#![allow(unsafe_code)]
//!
//! libcurl does its own I/O. It tells which descriptors it wants to be watched, and when it wants to be called though
//! nothing happens; `add_reader`, `add_writer` and `call_later` are made for that. What it fetches is awaited like
//! anything else, with a limit of time, and a transfer that is given up is taken back from it.
//!
//! # Safety
//! The functions are those of libcurl's manual, with the types of its headers, which have been the same since 7.16. All of
//! them are called in one thread. Each address that libcurl gets is that of something in an `Rc` that its owner here holds
//! until the handle that knows the address is gone.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io::{self, Write};
use std::mem::transmute_copy;
use std::process::ExitCode;
use std::rc::{Rc, Weak};
use std::time::Duration;

use proactor::cancel::{fail_after, task_group};
use proactor::compat::{add_reader, add_writer, remove_reader, remove_writer};
use proactor::event_loop::{TimerHandle, call_later};
use proactor::sync::Event;

/// How long a page may take.
const LIMIT: Duration = Duration::from_secs(10);

// From curl/curl.h and curl/multi.h.
const OPT_WRITEDATA: c_int = 10001;
const OPT_URL: c_int = 10002;
const OPT_PRIVATE: c_int = 10103;
const OPT_WRITEFUNCTION: c_int = 20011;
const INFO_RESPONSE_CODE: c_int = 0x20_0002;
const INFO_PRIVATE: c_int = 0x10_0015;
const MOPT_SOCKETFUNCTION: c_int = 20001;
const MOPT_SOCKETDATA: c_int = 10002;
const MOPT_TIMERFUNCTION: c_int = 20004;
const MOPT_TIMERDATA: c_int = 10005;
const POLL_IN: c_int = 1;
const POLL_OUT: c_int = 2;
const SELECT_IN: c_int = 1;
const SELECT_OUT: c_int = 2;
const SOCKET_TIMEOUT: c_int = -1;
const MESSAGE_DONE: c_int = 1;

type Handle = *mut c_void;

#[repr(C)]
struct Message {
    kind: c_int,
    easy: Handle,
    result: c_int,
}

/// The functions that are used here.
///
/// # Safety
/// To call them, as libcurl's manual has it: with handles that are alive, and options that fit their values.
struct Functions {
    easy_init: unsafe extern "C" fn() -> Handle,
    easy_setopt: unsafe extern "C" fn(Handle, c_int, ...) -> c_int,
    easy_getinfo: unsafe extern "C" fn(Handle, c_int, ...) -> c_int,
    easy_strerror: unsafe extern "C" fn(c_int) -> *const c_char,
    easy_cleanup: unsafe extern "C" fn(Handle),
    multi_init: unsafe extern "C" fn() -> Handle,
    multi_setopt: unsafe extern "C" fn(Handle, c_int, ...) -> c_int,
    multi_add_handle: unsafe extern "C" fn(Handle, Handle) -> c_int,
    multi_remove_handle: unsafe extern "C" fn(Handle, Handle) -> c_int,
    multi_socket_action: unsafe extern "C" fn(Handle, c_int, c_int, *mut c_int) -> c_int,
    multi_info_read: unsafe extern "C" fn(Handle, *mut c_int) -> *const Message,
    multi_cleanup: unsafe extern "C" fn(Handle) -> c_int,
}

impl Functions {
    /// Loads the library that the program `curl` uses too: nothing is needed to build this example.
    fn load() -> io::Result<Self> {
        // SAFETY: loading libcurl runs no code of ours.
        let library = unsafe { libc::dlopen(c"libcurl.so.4".as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "libcurl.so.4 is not there: install curl"));
        }
        let find = |name: &CStr| {
            // SAFETY: the library stays loaded, and the name ends with a zero.
            let address = unsafe { libc::dlsym(library, name.as_ptr()) };
            if address.is_null() {
                Err(io::Error::other(format!("libcurl has no {name:?}")))
            } else {
                Ok(address)
            }
        };
        macro_rules! function {
            ($name:literal) => {{
                let address = find($name)?;
                // SAFETY: a function of that name has the type that the field gives it, and a pointer to it the size of
                // an address.
                unsafe { transmute_copy(&address) }
            }};
        }
        Ok(Self {
            easy_init: function!(c"curl_easy_init"),
            easy_setopt: function!(c"curl_easy_setopt"),
            easy_getinfo: function!(c"curl_easy_getinfo"),
            easy_strerror: function!(c"curl_easy_strerror"),
            easy_cleanup: function!(c"curl_easy_cleanup"),
            multi_init: function!(c"curl_multi_init"),
            multi_setopt: function!(c"curl_multi_setopt"),
            multi_add_handle: function!(c"curl_multi_add_handle"),
            multi_remove_handle: function!(c"curl_multi_remove_handle"),
            multi_socket_action: function!(c"curl_multi_socket_action"),
            multi_info_read: function!(c"curl_multi_info_read"),
            multi_cleanup: function!(c"curl_multi_cleanup"),
        })
    }
}

/// All transfers of this loop.
struct Curl {
    call: Functions,
    multi: Handle,
    timer: Cell<Option<TimerHandle>>,
    myself: Weak<Curl>,
}

/// One transfer, as the callbacks see it.
#[derive(Default)]
struct Transfer {
    body: RefCell<Vec<u8>>,
    result: Cell<c_int>,
    done: Event,
}

/// The handle of a transfer, which libcurl works at until this is dropped.
struct Easy {
    curl: Rc<Curl>,
    handle: Handle,
    /// Its address is known to libcurl.
    transfer: Rc<Transfer>,
}

impl Curl {
    fn new() -> io::Result<Rc<Self>> {
        let call = Functions::load()?;
        // SAFETY: it takes no arguments.
        let multi = unsafe { (call.multi_init)() };
        if multi.is_null() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let curl =
            Rc::new_cyclic(|myself| Self { call, multi, timer: Cell::default(), myself: myself.clone() });
        let data: *const Self = &raw const *curl;
        // SAFETY: this option takes a function of this type.
        unsafe { (curl.call.multi_setopt)(multi, MOPT_SOCKETFUNCTION, watch as *const c_void) };
        // SAFETY: and this one an address, which is good as long as `multi`: they are dropped together.
        unsafe { (curl.call.multi_setopt)(multi, MOPT_SOCKETDATA, data) };
        // SAFETY: as the first.
        unsafe { (curl.call.multi_setopt)(multi, MOPT_TIMERFUNCTION, wake_later as *const c_void) };
        // SAFETY: as the second.
        unsafe { (curl.call.multi_setopt)(multi, MOPT_TIMERDATA, data) };
        Ok(curl)
    }

    /// Tells libcurl that a descriptor is ready, or that its time has come; and who is done because of that.
    fn act(&self, socket: c_int, ready: c_int) {
        let mut running = 0;
        // SAFETY: `multi` is alive.
        unsafe { (self.call.multi_socket_action)(self.multi, socket, ready, &raw mut running) };
        loop {
            let mut left = 0;
            // SAFETY: `multi` is alive.
            let message = unsafe { (self.call.multi_info_read)(self.multi, &raw mut left) };
            // SAFETY: it is null, or good until the next call.
            let Some(message) = (unsafe { message.as_ref() }) else { return };
            if message.kind != MESSAGE_DONE {
                continue;
            }
            let (easy, result) = (message.easy, message.result);
            let mut transfer: *const Transfer = std::ptr::null();
            // SAFETY: this takes the address of a pointer, and gives what was set as OPT_PRIVATE.
            unsafe { (self.call.easy_getinfo)(easy, INFO_PRIVATE, &raw mut transfer) };
            // SAFETY: the transfer lives until its handle is cleaned up.
            let Some(transfer) = (unsafe { transfer.as_ref() }) else { continue };
            transfer.result.set(result);
            transfer.done.set();
        }
    }

    /// Fetches a page: its status and its content.
    async fn get(self: Rc<Self>, url: &str) -> io::Result<(c_long, Vec<u8>)> {
        let easy = Easy::new(self, url)?;
        easy.transfer.done.wait().await?;
        match easy.transfer.result.get() {
            0 => Ok((easy.status(), easy.transfer.body.take())),
            code => Err(io::Error::other(easy.curl.sentence(code))),
        }
    }

    fn sentence(&self, code: c_int) -> String {
        // SAFETY: any number will do.
        let text = unsafe { (self.call.easy_strerror)(code) };
        // SAFETY: it is a string that lives as long as the library.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

impl Drop for Curl {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.cancel();
        }
        // SAFETY: every `Easy` holds this, so none is left. The callbacks may be called once more.
        unsafe { (self.call.multi_cleanup)(self.multi) };
    }
}

impl Easy {
    fn new(curl: Rc<Curl>, url: &str) -> io::Result<Self> {
        let url = CString::new(url)?;
        // SAFETY: it takes no arguments.
        let handle = unsafe { (curl.call.easy_init)() };
        if handle.is_null() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let easy = Self { curl, handle, transfer: Rc::default() };
        let (call, data) = (&easy.curl.call, Rc::as_ptr(&easy.transfer));
        // SAFETY: this option takes a string, which is copied.
        unsafe { (call.easy_setopt)(handle, OPT_URL, url.as_ptr()) };
        // SAFETY: this one a function of this type.
        unsafe { (call.easy_setopt)(handle, OPT_WRITEFUNCTION, keep as *const c_void) };
        // SAFETY: this one an address, which is good as long as the handle: they are dropped together.
        unsafe { (call.easy_setopt)(handle, OPT_WRITEDATA, data) };
        // SAFETY: as the one before.
        unsafe { (call.easy_setopt)(handle, OPT_PRIVATE, data) };
        // SAFETY: both are alive. The transfer begins when the timer that is asked for now has fired.
        let code = unsafe { (call.multi_add_handle)(easy.curl.multi, handle) };
        if code == 0 { Ok(easy) } else { Err(io::Error::other(format!("libcurl refuses: {code}"))) }
    }

    fn status(&self) -> c_long {
        let mut status: c_long = 0;
        // SAFETY: this takes the address of a long.
        unsafe { (self.curl.call.easy_getinfo)(self.handle, INFO_RESPONSE_CODE, &raw mut status) };
        status
    }
}

impl Drop for Easy {
    fn drop(&mut self) {
        let call = &self.curl.call;
        // SAFETY: both are alive, and no callback of libcurl is below on the stack: handles belong to tasks.
        unsafe { (call.multi_remove_handle)(self.curl.multi, self.handle) };
        // SAFETY: it is not used any more.
        unsafe { (call.easy_cleanup)(self.handle) };
    }
}

/// CURLMOPT_SOCKETFUNCTION: what to watch this descriptor for from now on.
extern "C" fn watch(_: Handle, socket: c_int, what: c_int, data: *const Curl, _: Handle) -> c_int {
    // SAFETY: this address was set for it, and its owner is alive.
    let curl = unsafe { &*data }.myself.clone();
    let told = |ready| {
        let curl = curl.clone();
        move || {
            if let Some(curl) = curl.upgrade() {
                curl.act(socket, ready);
            }
        }
    };
    let watched = if what & POLL_IN != 0 {
        add_reader(&socket, told(SELECT_IN))
    } else {
        remove_reader(&socket).map(drop)
    };
    let watched = watched.and(if what & POLL_OUT != 0 {
        add_writer(&socket, told(SELECT_OUT))
    } else {
        remove_writer(&socket).map(drop)
    });
    if watched.is_ok() { 0 } else { -1 }
}

/// CURLMOPT_TIMERFUNCTION: when to call libcurl though nothing happens; a negative number for never.
extern "C" fn wake_later(_: Handle, milliseconds: c_long, data: *const Curl) -> c_int {
    // SAFETY: this address was set for it, and its owner is alive.
    let curl = unsafe { &*data };
    if let Some(before) = curl.timer.take() {
        before.cancel();
    }
    if let Ok(milliseconds) = u64::try_from(milliseconds) {
        let myself = curl.myself.clone();
        let wake = move || {
            if let Some(curl) = myself.upgrade() {
                curl.act(SOCKET_TIMEOUT, 0);
            }
        };
        match call_later(Duration::from_millis(milliseconds), wake) {
            Ok(timer) => curl.timer.set(Some(timer)),
            Err(_) => return -1,
        }
    }
    0
}

/// CURLOPT_WRITEFUNCTION: a part of the page.
extern "C" fn keep(bytes: *const u8, size: usize, count: usize, data: *const Transfer) -> usize {
    // SAFETY: this address was set for it, and its owner is alive.
    let transfer = unsafe { &*data };
    // SAFETY: libcurl gives so many bytes.
    let bytes = unsafe { std::slice::from_raw_parts(bytes, size * count) };
    transfer.body.borrow_mut().extend_from_slice(bytes);
    bytes.len()
}

async fn fetch_all(urls: Vec<String>) -> io::Result<()> {
    let curl = Curl::new()?;
    let fetched = task_group(async |group| {
        for url in urls {
            let curl = curl.clone();
            group.start_soon(async move {
                let said = match fail_after(LIMIT, curl.get(&url)).await {
                    Ok((status, body)) => format!("{url}: {status}, {} bytes", body.len()),
                    Err(error) => format!("{url}: {error}"),
                };
                writeln!(io::stdout(), "{said}")
            });
        }
        Ok(())
    });
    fetched.await.map(drop).map_err(io::Error::other)
}

fn main() -> ExitCode {
    let urls: Vec<String> = std::env::args().skip(1).collect();
    if urls.is_empty() || urls[0].starts_with('-') {
        let _ = writeln!(io::stderr(), "usage: libcurl URL...");
        return ExitCode::from(2);
    }
    match proactor::run(fetch_all(urls)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "libcurl: {error}");
            ExitCode::FAILURE
        }
    }
}
