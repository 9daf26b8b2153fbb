//! A long differential run: numbered random calls against the oracle, in worker processes, so that a crash is a failure
//! like any other. `--case N` makes one of them again.

use std::process::ExitCode;

use lexopt::prelude::{Long, ValueExt};
use normkit_fuzz::Case;
use normkit_fuzz::differential::{Options, replay, run, work};

const HELP: &str = "differential [--cases N] [--from N] [--seed N] [--jobs N] [--record FILE]
differential --case N [--seed N] [--save FILE]   # one case again, printed; its bytes for the corpus
differential --file FILE...                      # cases of the corpus";

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut options = Options::default();
    let (mut case, mut save, mut files, mut worker) = (None, None, Vec::new(), None);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("cases") => options.cases = arguments.value()?.parse()?,
            Long("from") => options.from = arguments.value()?.parse()?,
            Long("seed") => options.seed = arguments.value()?.parse()?,
            Long("jobs") => options.jobs = arguments.value()?.parse()?,
            Long("record") => options.record = Some(arguments.value()?.into()),
            Long("case") => case = Some(arguments.value()?.parse::<u64>()?),
            Long("save") => save = Some(arguments.value()?),
            Long("file") => files.extend(arguments.values()?),
            // First case, end, step: for the workers.
            Long("work") => {
                worker = Some(arguments.value()?.parse_with(|text| {
                    let numbers: Result<Vec<u64>, _> = text.split(':').map(str::parse).collect();
                    numbers.ok().and_then(|numbers| <[u64; 3]>::try_from(numbers).ok()).ok_or("three numbers")
                })?)
            }
            Long("help") => {
                println!("{HELP}");
                return Ok(ExitCode::SUCCESS);
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    if let Some(range) = worker {
        work(options.seed, range)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut good = true;
    if let Some(n) = case {
        let bytes = Case::bytes(options.seed, n);
        if let Some(path) = save {
            std::fs::write(path, &bytes)?;
        }
        good = replay(&format!("case {n}"), &bytes);
    } else if !files.is_empty() {
        for file in files {
            good &= replay(&file.to_string_lossy(), &std::fs::read(&file)?);
        }
    } else {
        good = run(&options, &std::env::current_exe()?)?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
