//! What is kept of a run.

use std::collections::BTreeMap;
use std::path::Path;

use normkit::Isa;
use serde_json::{Value, json};

use super::{Options, Tallies, Tally};

/// Tallies by function.
fn by_function(tallies: &Tallies) -> BTreeMap<&str, Tally> {
    let mut all: BTreeMap<&str, Tally> = BTreeMap::new();
    for ((function, _), of) in tallies {
        let all = all.entry(function).or_default();
        all.cases += of.cases;
        all.numbers += of.numbers;
        if of.worst.0 > all.worst.0 {
            all.worst = of.worst.clone();
        }
    }
    all
}

/// A table for the eye.
pub fn print(tallies: &Tallies, failures: &[(u64, String)], seconds: f64) {
    println!("{:<32} {:>9} {:>13}  largest error ÷ tolerance", "function", "cases", "numbers");
    for (function, Tally { cases, numbers, worst: (worst, what, n) }) in by_function(tallies) {
        println!("{function:<32} {cases:>9} {numbers:>13}  {worst:.3} ({what}, case {n})");
    }
    println!("{} failures in {seconds:.0} s", failures.len());
}

/// A file for the shelf.
pub fn write(
    path: &Path,
    options: &Options,
    tallies: &Tallies,
    failures: &[(u64, String)],
    seconds: f64,
) -> std::io::Result<()> {
    let tally = |of: &Tally| {
        let (worst, what, case) = &of.worst;
        json!({ "cases": of.cases, "numbers": of.numbers, "largest_error_in_tolerances": worst, "of": what, "case": case })
    };
    let mut types: BTreeMap<&str, BTreeMap<&str, Value>> = BTreeMap::new();
    for ((function, pair), of) in tallies {
        types.entry(function).or_default().insert(pair, tally(of));
    }
    let record = json!({
        "seed": options.seed,
        "from": options.from,
        "cases": options.cases,
        "seconds": seconds.round(),
        "instruction_sets": Isa::available().iter().map(|isa| isa.name()).collect::<Vec<_>>(),
        "failures": failures.iter().map(|(n, text)| json!({ "case": n, "text": text })).collect::<Vec<_>>(),
        "functions": by_function(tallies).iter().map(|(name, of)| (*name, tally(of))).collect::<BTreeMap<_, _>>(),
        "types_of_x_and_dy": types,
    });
    std::fs::write(path, format!("{record:#}\n"))
}
