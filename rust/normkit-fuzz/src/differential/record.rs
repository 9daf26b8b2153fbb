//! What is kept of a run.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::process::Command;

use normkit::Isa;
use serde_json::{Value, json};

use super::Options;

/// Results of some cases.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    cases: u64,
    numbers: u64,
    /// The largest error in units of its tolerance, whose, and in which case.
    worst: (f64, String, u64),
}

impl Tally {
    fn add(&mut self, cases: u64, numbers: u64, worst: (f64, String, u64)) {
        self.cases += cases;
        self.numbers += numbers;
        if worst.0 > self.worst.0 {
            self.worst = worst;
        }
    }
}

/// By function and types, layout or nothing more.
type Tallies = BTreeMap<(String, String), Tally>;

/// What is known of the cases before `next`.
#[derive(Debug, Default)]
pub struct Record {
    /// The first case that has not been made.
    pub next: u64,
    /// Number and message.
    pub failures: Vec<(u64, String)>,
    /// Of all rounds together.
    pub seconds: f64,
    /// Whose code the cases were made with.
    commits: Vec<String>,
    types: Tallies,
    layouts: Tallies,
}

/// The sections of a file, and what a key consists of.
const SECTIONS: [&str; 2] = ["by_types_of_x_and_dy", "by_layout_of_x"];

impl Record {
    /// An empty one, or what the file says.
    pub fn begin(options: &Options) -> Result<Record> {
        let Options { from, cases, seed, record, .. } = options;
        let commit = said("git", &["describe", "--always", "--dirty", "--abbrev=40"]).unwrap_or_default();
        let new = Record { next: *from, commits: vec![commit.clone()], ..Record::default() };
        let Some(path) = record.as_deref().filter(|path| path.exists()) else { return Ok(new) };
        let file: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        let unfinished = file["next"].as_u64().is_some_and(|next| next < from + cases);
        if [&file["seed"], &file["from"]] != [&json!(seed), &json!(from)] || !unfinished {
            let text = format!("{} is the record of another run: give --record another name", path.display());
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rows = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut commits: Vec<String> = rows(&file["commits"]).iter().map(text).collect();
        if commits.last() != Some(&commit) {
            commits.push(commit);
        }
        let section = |name: &str| {
            let mut tallies = Tallies::new();
            for row in rows(&file[name]) {
                let worst = (row[4].as_f64().unwrap_or(0.0), text(&row[5]), number(&row[6]));
                tallies.entry((text(&row[0]), text(&row[1]))).or_default().add(number(&row[2]), number(&row[3]), worst);
            }
            tallies
        };
        Ok(Record {
            next: number(&file["next"]).max(*from),
            failures: rows(&file["failures"]).iter().map(|row| (number(&row[0]), text(&row[1]))).collect(),
            seconds: file["seconds"].as_f64().unwrap_or(0.0),
            commits,
            types: section(SECTIONS[0]),
            layouts: section(SECTIONS[1]),
        })
    }

    /// Takes note of a good case of a function, its types and its layout.
    pub fn count(&mut self, [function, types, layout]: [String; 3], numbers: u64, worst: (f64, String, u64)) {
        self.types.entry((function.clone(), types)).or_default().add(1, numbers, worst.clone());
        self.layouts.entry((function, layout)).or_default().add(1, numbers, worst);
    }

    /// A table for the eye.
    pub fn print(&self) {
        let mut all = BTreeMap::<&str, Tally>::new();
        for ((function, _), of) in &self.layouts {
            all.entry(function).or_default().add(of.cases, of.numbers, of.worst.clone());
        }
        println!("{:<32} {:>9} {:>13}  largest error ÷ tolerance", "function", "cases", "numbers");
        for (function, Tally { cases, numbers, worst: (worst, what, n) }) in all {
            println!("{function:<32} {cases:>9} {numbers:>13}  {worst:.3} ({what}, case {n})");
        }
        println!("{} failures in {:.0} s", self.failures.len(), self.seconds);
    }

    /// A file for the shelf, with a line for each row.
    pub fn write(&self, options: &Options) -> Result<()> {
        let Options { from, cases, seed, record: Some(path), .. } = options else { return Ok(()) };
        let head = json!({
            "date": said("date", &["-u", "+%FT%TZ"]),
            "commits": self.commits,
            "debug_assertions": cfg!(debug_assertions),
            "instruction_sets": Isa::available().iter().map(|isa| isa.name()).collect::<Vec<_>>(),
            "seed": seed,
            "from": from,
            "cases": cases,
            "next": self.next,
            "seconds": self.seconds.round(),
            "row": "function, key, cases, numbers compared, largest error in tolerances, whose, in which case",
        });
        let mut lines: Vec<String> = Vec::new();
        for (name, value) in head.as_object().into_iter().flatten() {
            lines.push(format!("  {}: {value}", json!(name)));
        }
        let mut section = |name: &str, rows: Vec<Value>| {
            let rows: Vec<String> = rows.iter().map(|row| format!("\n    {row}")).collect();
            lines.push(format!("  {}: [{}\n  ]", json!(name), rows.join(",")));
        };
        section("failures", self.failures.iter().map(|(n, text)| json!([n, text])).collect());
        for (name, tallies) in SECTIONS.iter().zip([&self.types, &self.layouts]) {
            let row =
                |((function, key), Tally { cases, numbers, worst: (worst, what, n) }): (&(String, String), &Tally)| {
                    json!([function, key, cases, numbers, worst, what, n])
                };
            section(name, tallies.iter().map(row).collect());
        }
        replace(path, &format!("{{\n{}\n}}\n", lines.join(",\n")))
    }
}

/// Writes a file as a whole or not at all.
fn replace(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("part");
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&beside, text)?;
    std::fs::rename(beside, path)
}

/// What a program prints.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
