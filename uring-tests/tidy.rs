//! House rules that a machine can check: headers, length, layers, unsafe code, leftovers.

use std::fs;
use std::path::{Path, PathBuf};

/// Imports go down only: a module may use those of its own layer and of the layers before it. DESIGN §2.
const LAYERS: &str = "sys buf error / driver / op / runtime / cancel context future sync
    / net fs process stream signal thread / event_loop transport compat workers / guide";

/// The only files and folders that may hold unsafe code, and all of them do.
const UNSAFE_FILES: &str = "
    src/buf/chunk.rs src/buf/mod.rs src/buf/pool.rs
    src/driver/blocking.rs src/driver/pending.rs src/driver/probe.rs src/driver/table.rs src/driver/uring.rs
    src/op/ src/runtime/remote.rs src/runtime/task.rs src/runtime/waker.rs src/signal.rs src/sys/ benches/peers/src/
    benches/raw/ examples/libcurl.rs uring-tests/choice.rs uring-tests/costs.rs uring-tests/faults.rs
    uring-tests/foreign_loops.rs uring-tests/processes.rs uring-tests/transports/peer.rs
";

/// A file of this repository.
struct Source {
    /// Relative to the repository.
    path: String,
    lines: Vec<String>,
}

impl Source {
    /// The lines without comments, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.lines.iter().map(|line| line.split("//").next().unwrap_or_default()))
    }

    /// The module below `src`: `net` for `src/net/tcp.rs`, none for `src/lib.rs` and what is not in `src`.
    fn module(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        let module = below.split('/').next()?.trim_end_matches(".rs");
        (module != "lib").then_some(module)
    }

    /// Whether a comment explains the unsafe code of line `number`: at most six lines above, or in its paragraph.
    fn is_justified(&self, number: usize) -> bool {
        let paragraph = self.lines[..number].iter().rposition(|line| line.trim().is_empty()).unwrap_or(0);
        let from = paragraph.min(number.saturating_sub(7));
        self.lines[from..number].iter().any(|line| line.contains("SAFETY") || line.contains("# Safety"))
    }
}

/// The files below these folders, or these files.
fn files(paths: &[&str]) -> Vec<Source> {
    // Other tests count descriptors, and this opens some.
    let _alone = crate::harness::alone();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    paths.iter().for_each(|path| collect(root.join(path), &mut found));
    found.sort();
    let read = |path: &PathBuf| Source {
        path: path.strip_prefix(root).unwrap_or(path).display().to_string(),
        lines: fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect(),
    };
    found.iter().map(read).collect()
}

fn collect(path: PathBuf, found: &mut Vec<PathBuf>) {
    match fs::read_dir(&path) {
        // What was built is not ours: `benches/peers` is a workspace with a folder of its own for that.
        Ok(_) if path.ends_with("target") => {}
        Ok(entries) => entries.flatten().for_each(|entry| collect(entry.path(), found)),
        Err(_) => found.push(path),
    }
}

/// The Rust files below these folders, but not this one, which holds all the words that it looks for.
fn sources(folders: &[&str]) -> Vec<Source> {
    let is_source = |file: &Source| file.path.ends_with(".rs") && file.path != "uring-tests/tidy.rs";
    files(folders).into_iter().filter(is_source).collect()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

#[track_caller]
fn assert_none(rule: &str, offences: impl IntoIterator<Item = String>) {
    let offences: Vec<String> = offences.into_iter().collect();
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}

#[test]
fn every_file_begins_with_its_purpose() {
    let files = sources(&["src", "uring-tests", "benches", "examples", "ci"]);
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "the sources are not where this test looks");
    let is_headless = |file: &&Source| !file.lines.first().is_some_and(|line| line.starts_with("//! "));
    let headless = files.iter().filter(is_headless).map(|file| format!("{}:1", file.path));
    assert_none("a file begins with `//!` and its purpose", headless);
}

#[test]
fn no_source_file_is_long() {
    let long = sources(&["src"]).into_iter().filter(|file| file.lines.len() > 600);
    let long = long.map(|file| format!("{}:{} lines", file.path, file.lines.len()));
    assert_none("a file in src has at most 600 lines", long);
}

#[test]
fn imports_go_down_only() {
    let layer_of = |module: &str| LAYERS.split('/').position(|layer| words(layer).any(|name| name == module));
    let mut offences = Vec::new();
    for file in sources(&["src"]) {
        let Some(module) = file.module() else { continue };
        // A module without a layer may use nothing: it is to be added to LAYERS.
        for (number, wanted) in crate_paths(&file) {
            if layer_of(&wanted).is_none_or(|below| layer_of(module) < Some(below)) {
                offences.push(format!("{}:{number}: `{module}` must not use `crate::{wanted}`", file.path));
            }
        }
    }
    assert_none("imports go down only, and name the module they come from", offences);
}

/// The first name behind each `crate::`, with its line; of `crate::{a::b, c}` it is `a` and `c`.
fn crate_paths(file: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let text: String = file.code().map(|(_, line)| format!("{line}\n")).collect();
    for (start, prefix) in text.match_indices("crate::") {
        let number = text[..start].matches('\n').count() + 1;
        let rest = &text[start + prefix.len()..];
        // Of a group, only its outermost level.
        let levels = rest.chars().scan(0, |depth, c| {
            *depth += i32::from(c == '{') - i32::from(c == '}');
            Some((*depth, c))
        });
        let group = levels.take_while(|(depth, _)| *depth > 0).filter(|(depth, _)| *depth == 1);
        let group: String = group.map(|(_, c)| c).collect();
        let paths = if group.is_empty() { words(rest).next().unwrap_or_default() } else { &group[1..] };
        let names = paths.split(',').filter_map(|path| words(path.trim()).next());
        found.extend(names.filter(|name| !name.is_empty()).map(|name| (number, name.to_owned())));
    }
    found
}

#[test]
fn only_sys_and_driver_call_the_kernel() {
    // `libc::name(`: the names of types, constants and macros are followed by something else, or in capitals.
    let is_call = |rest: &str| {
        let end = rest.find(|c: char| !matches!(c, 'a'..='z' | '0'..='9' | '_')).unwrap_or(0);
        end > 0 && rest[end..].starts_with('(')
    };
    let mut offences = Vec::new();
    for file in sources(&["src"]).iter().filter(|file| !matches!(file.module(), Some("sys" | "driver"))) {
        for (number, line) in file.code().filter(|(_, line)| line.split("libc::").skip(1).any(is_call)) {
            offences.push(format!("{}:{number}: {}", file.path, line.trim()));
        }
    }
    assert_none("system calls are made in sys and driver only", offences);
}

#[test]
fn unsafe_code_is_listed_and_justified() {
    let mut offences = Vec::new();
    let mut seen = Vec::new();
    for file in sources(&["src", "uring-tests", "benches", "examples"]) {
        let holds =
            |listed: &str| file.path == listed || listed.ends_with('/') && file.path.starts_with(listed);
        let listed = UNSAFE_FILES.split_whitespace().find(|listed| holds(listed));
        for (number, line) in file.code().filter(|(_, line)| words(line).any(|word| word == "unsafe")) {
            if listed.is_none() {
                offences.push(format!("{}:{number}: unsafe code in a file that is not listed", file.path));
                break;
            }
            seen.extend(listed);
            // The type of a function promises nothing; who calls it does.
            if !line.contains("unsafe fn(") && !file.is_justified(number) {
                offences.push(format!("{}:{number}: unsafe code without a SAFETY comment", file.path));
            }
        }
    }
    let stale = UNSAFE_FILES.split_whitespace().filter(|listed| !seen.contains(listed));
    offences.extend(stale.map(|listed| format!("{listed}:1: listed, but has no unsafe code")));
    assert_none("unsafe code stays where it is expected and says why it is sound", offences);
}

#[test]
fn nothing_is_left_behind() {
    let words = ["todo!", "unimplemented!", "dbg!", "thread::sleep"];
    let mut offences = Vec::new();
    for file in sources(&["src", "uring-tests"]) {
        let lines = file.code().filter(|(_, line)| words.iter().any(|word| line.contains(word)));
        offences.extend(lines.map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim())));
    }
    assert_none("these are for drafts only; a test waits for the event itself", offences);
}

#[test]
fn the_library_does_not_panic_for_want_of_a_standard_error() {
    let macros = [concat!("eprint", "ln!("), concat!("eprint", "!(")];
    let mut offences = Vec::new();
    for file in sources(&["src"]) {
        let lines = file.code().filter(|(_, line)| macros.iter().any(|name| line.contains(name)));
        offences.extend(lines.map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim())));
    }
    assert_none("these panic where nobody reads: use runtime::exception::say", offences);
}

#[test]
fn no_path_of_somebodys_machine() {
    let mut offences = Vec::new();
    let homes = [concat!("/ho", "me/"), concat!("/wo", "rk/")];
    let folders = ["src", "uring-tests", "benches", "examples", "ci", ".ci", "README.md", "Cargo.toml"];
    for file in files(&folders) {
        let lines =
            file.lines.iter().enumerate().filter(|(_, line)| homes.iter().any(|home| line.contains(home)));
        offences.extend(lines.map(|(index, line)| format!("{}:{}: {}", file.path, index + 1, line.trim())));
    }
    assert_none("paths that exist on one machine only", offences);
}
