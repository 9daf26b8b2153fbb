//! A run of many numbered cases in worker processes.

mod record;

use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::Case;
use crate::common::judge::Seen;
use record::Record;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many cases.
    pub cases: u64,
    /// The first one's number.
    pub from: u64,
    /// Of all of them.
    pub seed: u64,
    /// Worker processes.
    pub jobs: u64,
    /// Where a record is written, again and again; one that is there already is gone on with.
    pub record: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        let jobs = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        Options { cases: 1_000_000, from: 0, seed: 1, jobs, record: None }
    }
}

/// More failures than this end the run.
const MOST_FAILURES: usize = 1000;

/// After so many cases the record is written.
const ROUND: u64 = 5000;

/// What came of a case: what its checks have seen, or what is wrong. Panics are caught.
///
/// # Errors
/// What is wrong.
pub fn outcome(case: &Case) -> Result<Seen, String> {
    match catch_unwind(AssertUnwindSafe(|| case.check())) {
        Ok(Ok(seen)) => Ok(seen),
        Ok(Err(error)) => Err(error.to_string()),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panic: {}", text.unwrap_or_default()))
        }
    }
}

/// Makes a case again and prints all of it; whether it is good.
pub fn replay(name: &str, bytes: &[u8]) -> bool {
    match Case::from_bytes(bytes) {
        Err(_) => {
            println!("{name}: too few bytes for a case");
            true
        }
        Ok(case) => {
            println!("{name}: {case:#?}");
            let outcome = outcome(&case);
            println!("{name}: {outcome:?}");
            outcome.is_ok()
        }
    }
}

/// A worker: a line before each case, so that a crash has a number, and one after it.
///
/// # Errors
/// Nobody reads.
pub fn work(seed: u64, [first, end, step]: [u64; 3]) -> std::io::Result<()> {
    std::panic::set_hook(Box::new(|_| ()));
    let mut out = std::io::stdout().lock();
    for n in (first..end).step_by(step as usize) {
        writeln!(out, "{n}")?;
        out.flush()?;
        let Ok(case) = Case::from_bytes(&Case::bytes(seed, n)) else { unreachable!("there are enough bytes") };
        let [x, dy] = case.types.map(crate::Type::name);
        let of = format!("{}\t{x} {dy}\t{}", case.name(), case.layout());
        match outcome(&case) {
            Ok(Seen { worst, what, numbers, .. }) => {
                writeln!(out, "ok\t{of}\t{worst}\t{what}\t{numbers}")?;
            }
            Err(error) => writeln!(out, "bad\t{of}\t{}", error.replace('\n', " "))?,
        }
        out.flush()?;
    }
    Ok(())
}

/// What a worker has said of a case.
enum Said {
    Good { of: [String; 3], worst: f64, what: String, numbers: u64 },
    Bad { text: String },
}

/// Follows a worker and its successors, until their range is done.
fn follow(program: &Path, seed: u64, [mut first, end, step]: [u64; 3], said: &mpsc::Sender<(u64, Said)>) {
    while first < end {
        let range = format!("{first}:{end}:{step}");
        let seed = seed.to_string();
        let mut worker = Command::new(program)
            .args(["--seed", &seed, "--work", &range])
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started");
        let lines = BufReader::new(worker.stdout.take().expect("it is a pipe")).lines();
        let mut current = None;
        for line in lines.map_while(Result::ok) {
            let mut words = line.split('\t').map(str::to_owned);
            let mut word = || words.next().unwrap_or_default();
            let told = match word().as_str() {
                "ok" => {
                    let (of, worst) = ([word(), word(), word()], word().parse().unwrap_or(f64::NAN));
                    Said::Good { of, worst, what: word(), numbers: word().parse().unwrap_or(0) }
                }
                "bad" => Said::Bad { text: format!("{} ({}, {}): {}", word(), word(), word(), word()) },
                number => {
                    current = number.parse().ok();
                    continue;
                }
            };
            if said.send((current.take().unwrap_or(first), told)).is_err() {
                let _ = worker.kill().and_then(|()| worker.wait());
                return;
            }
        }
        let status = worker.wait();
        // It has died in the middle of a case: go on behind that.
        let Some(n) = current else { return };
        if said.send((n, Said::Bad { text: format!("crashed: {status:?}") })).is_err() {
            return;
        }
        first = n + step;
    }
}

/// Runs all cases with `program` as worker; whether all are good.
///
/// # Errors
/// The record cannot be read or written, or is that of another run.
pub fn run(options: &Options, program: &Path) -> std::io::Result<bool> {
    let Options { cases, from, seed, jobs, .. } = *options;
    let mut record = Record::begin(options)?;
    let (end, done) = (from + cases, record.next);
    println!("{cases} cases from {from}, seed {seed}, {jobs} processes; {} are done", done - from);
    let style = "{elapsed_precise} [{bar:40}] {pos}/{len} {per_sec}, {eta} left, {msg}";
    let style = ProgressStyle::with_template(style).expect("a template");
    let bar = ProgressBar::new(cases).with_position(done - from).with_style(style).with_message("no failure");
    bar.reset_eta();
    for start in (done..end).step_by(ROUND as usize) {
        let began = Instant::now();
        let last = end.min(start + ROUND);
        round(program, seed, jobs.max(1), start..last, |n, said| {
            bar.inc(1);
            match said {
                Said::Good { of, worst, what, numbers } => record.count(of, numbers, (worst, what, n)),
                Said::Bad { text } => {
                    // Also where there is no terminal, and so no bar.
                    bar.suspend(|| {
                        println!("case {n}: {text}\n  again: make differential ARGS='--seed {seed} --case {n}'");
                    });
                    record.failures.push((n, text));
                    bar.set_message(format!("{} FAILURES", record.failures.len()));
                }
            }
            record.failures.len() < MOST_FAILURES
        });
        record.next = last;
        record.seconds += began.elapsed().as_secs_f64();
        if bar.is_hidden() {
            println!("{} of {cases} cases, {} failures, {:.0} s", last - from, record.failures.len(), record.seconds);
        }
        record.write(options)?;
        if record.failures.len() >= MOST_FAILURES {
            break;
        }
    }
    bar.finish();
    record.print();
    Ok(record.failures.is_empty())
}

/// Some cases; `heed` hears of each, and says whether to go on.
fn round(program: &Path, seed: u64, jobs: u64, cases: Range<u64>, mut heed: impl FnMut(u64, Said) -> bool) {
    let (sender, said) = mpsc::channel();
    std::thread::scope(|scope| {
        for job in 0..jobs {
            let (sender, range) = (sender.clone(), [cases.start + job, cases.end, jobs]);
            scope.spawn(move || follow(program, seed, range, &sender));
        }
        drop(sender);
        let said = said; // dropped where there are too many failures: workers end then
        for (n, of) in said {
            if !heed(n, of) {
                break;
            }
        }
    });
}
