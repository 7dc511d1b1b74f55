//! proactor beside the other async runtimes of Linux: what does one operation cost, in CPU time?
//!
//! `cargo run --release` in this folder measures everything and prints a table; the pictures are in `target/peers`. See
//! `--help` for a part of it.

mod measure;
mod net;
mod peers;
mod plot;
#[path = "../../raw/mod.rs"]
mod raw;
mod record;
mod report;
mod tasks;

use measure::{Case, Plan};
use record::Record;
use report::Row;
use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const HELP: &str = "\
peers [--rows TEXT] [--peers NAME,NAME...] [--rounds N] [--slice MILLISECONDS] [--add] [--for SECONDS] [--out FOLDER]

--rows    only the rows whose names contain one of the texts between commas
--peers   only these; `ours` (io_uring), `ours-epoll` and `ours-inline` (files in the loop's thread) are ours
--rounds  how often each case is measured, in turns with the others (15)
--slice   the CPU time of a case in one round (20 ms)
--add     keeps the rounds of earlier runs with the same folder, and adds to them; rows with the fewest come first
--for     begins no round after so many seconds
--out     where the pictures, the tables and the rounds go (target/peers)
";

/// The row that is measured once, in bytes.
const MEMORY: &str = "idle memory";
/// How many idle connections that are.
const IDLE: usize = 5000;

struct Arguments {
    rows: Vec<String>,
    peers: Vec<String>,
    plan: Plan,
    add: bool,
    out: PathBuf,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let mut arguments = Arguments {
        rows: Vec::new(),
        peers: Vec::new(),
        plan: Plan { rounds: 15, slice: Duration::from_millis(20), end: None },
        add: false,
        out: target.join("peers"),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let list = |text: String| text.split(',').map(str::to_string).collect();
        match &word[..] {
            "--rows" => arguments.rows = list(value()?),
            "--peers" => arguments.peers = list(value()?),
            "--rounds" => arguments.plan.rounds = value()?.parse::<usize>()?.max(1),
            "--slice" => arguments.plan.slice = Duration::from_millis(value()?.parse::<u64>()?.max(1)),
            "--add" => arguments.add = true,
            "--for" => {
                let limit = Duration::from_secs(value()?.parse()?);
                arguments.plan.end = Some(Instant::now() + limit);
            }
            "--out" => arguments.out = value()?.into(),
            "--help" => {
                print!("{HELP}");
                std::process::exit(0);
            }
            _ => return Err(format!("what is {word}? See --help").into()),
        }
    }
    Ok(arguments)
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().collect();
    if let [_, serve, task @ ..] = &words[..]
        && serve == "--serve"
    {
        // What a measuring process starts of itself.
        return Ok(net::serve(task)?);
    }
    let arguments = arguments()?;
    // Where threads wake each other, another place each time would be most of what is measured.
    measure::pin(0);
    raw::os::raise_descriptor_limit();
    let is_peer = |name: &str| arguments.peers.is_empty() || arguments.peers.iter().any(|peer| peer == name);
    let is_row =
        |row: &str| arguments.rows.is_empty() || arguments.rows.iter().any(|text| row.contains(&text[..]));
    let mut rows: Vec<(String, Vec<Case>)> = Vec::new();
    for case in tasks::cases().into_iter().chain(net::cases()) {
        if !is_row(&case.row) || !is_peer(case.peer) {
            continue;
        }
        match rows.iter_mut().find(|row| row.0 == case.row) {
            Some(row) => row.1.push(case),
            None => rows.push((case.row.clone(), vec![case])),
        }
    }
    std::fs::create_dir_all(&arguments.out)?;
    let mut record = Record::open(&arguments.out.join("rounds.tsv"), arguments.add)?;
    let names: Vec<String> = rows.iter().map(|row| row.0.clone()).collect();
    rows.sort_by_key(|(name, _)| record.rounds(name).len());
    for (name, cases) in rows {
        if arguments.plan.is_over() {
            break;
        }
        eprintln!("{name}");
        let mut failed = None;
        measure::row(&cases, arguments.plan, |round| {
            failed = failed.take().or(record.add(&name, round).err())
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
    }
    let measured: Vec<Row<'_>> = names
        .iter()
        .map(|name| Row { name, rounds: record.rounds(name) })
        .filter(|row| !row.rounds.is_empty())
        .collect();
    let mut tables = report::tables(&measured);
    if is_row(MEMORY) && !arguments.plan.is_over() {
        eprintln!("{MEMORY}");
        tables += &report::memory(MEMORY, &net::idle_memory(IDLE, is_peer));
    }
    std::fs::write(arguments.out.join("peers.md"), &tables)?;
    if !measured.is_empty() {
        plot::write(&arguments.out.join("peers.svg"), "CPU per operation", &measured)?;
    }
    println!("{tables}");
    Ok(())
}
