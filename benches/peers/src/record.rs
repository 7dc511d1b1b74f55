//! The rounds of this run and of earlier ones, in a file: a line for each round of a row.

use crate::measure::{Round, Sample};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

pub(crate) struct Record {
    file: File,
    rounds: BTreeMap<String, Vec<Round>>,
}

impl Record {
    /// Begins with what the file holds if `add`, else with nothing.
    pub(crate) fn open(path: &Path, add: bool) -> io::Result<Record> {
        let mut rounds = BTreeMap::<String, Vec<Round>>::new();
        let text = if add { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        for line in text.lines() {
            let (row, round) = read(line).ok_or_else(|| io::Error::other(format!("what is {line}?")))?;
            rounds.entry(row.into()).or_default().push(round);
        }
        let file = OpenOptions::new().create(true).append(add).truncate(!add).write(true).open(path)?;
        Ok(Record { file, rounds })
    }

    pub(crate) fn add(&mut self, row: &str, round: Round) -> io::Result<()> {
        let mut line = row.to_string();
        for sample in &round {
            line += &format!("\t{} {:.1} {:.0}", sample.peer, sample.ns, sample.p99);
        }
        writeln!(self.file, "{line}")?;
        self.rounds.entry(row.into()).or_default().push(round);
        Ok(())
    }

    pub(crate) fn rounds(&self, row: &str) -> &[Round] {
        self.rounds.get(row).map_or(&[], Vec::as_slice)
    }
}

fn read(line: &str) -> Option<(&str, Round)> {
    let mut parts = line.split('\t');
    let row = parts.next()?;
    let sample = |part: &str| {
        let mut words = part.split(' ');
        let (peer, ns, p99) = (words.next()?, words.next()?, words.next()?);
        Some(Sample { peer: peer.into(), ns: ns.parse().ok()?, p99: p99.parse().ok()? })
    };
    Some((row, parts.map(sample).collect::<Option<_>>()?))
}
