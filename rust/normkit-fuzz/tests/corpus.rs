//! What the fuzzer has found worth keeping, and what it once found wrong, on every run of the tests; and the first cases
//! of the differential run.

use std::path::Path;

use normkit_fuzz::Case;
use normkit_fuzz::differential::outcome;

/// Cases that take a few seconds; `NORMKIT_FUZZ_CASES` for more.
const CASES: u64 = 1000;

fn check(name: &str, bytes: &[u8]) -> bool {
    let Ok(case) = Case::from_bytes(bytes) else { return false };
    if let Err(error) = outcome(&case) {
        panic!("{name}: {error}\n{case:#?}");
    }
    true
}

#[test]
fn kept() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("there is a corpus").flatten().map(|file| file.path()).collect();
    files.sort();
    let whole = files.iter().filter(|file| check(&file.to_string_lossy(), &std::fs::read(file).expect("readable")));
    // Few are too short to be a case.
    assert!(whole.count() * 2 > files.len(), "the corpus does not fit the generator");
}

#[test]
fn first_cases() {
    let cases = std::env::var("NORMKIT_FUZZ_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES);
    let mut names = std::collections::BTreeSet::new();
    for n in 0..cases {
        let bytes = Case::bytes(1, n);
        assert!(check(&format!("case {n}"), &bytes), "case {n} has too few bytes");
        names.insert(Case::from_bytes(&bytes).expect("as before").name());
    }
    assert!(cases < CASES || names.len() == 13, "{names:?}");
}

/// That a wrong number is found, and a NaN or an infinity that should not be there or is missing.
#[test]
fn errors_are_found() {
    use normkit_fuzz::tolerance::agree;
    agree::<f32>("y", 0, 1.0, 1.0 + 1e-6, 1e-5).expect("close enough");
    for (found, expected) in [(1.0, 1.1), (f64::NAN, 1.0), (1.0, f64::NAN), (f64::INFINITY, 1.0), (1.0, f64::INFINITY)]
    {
        agree::<f32>("y", 0, found, expected, 1e-5).expect_err("wrong");
    }
    agree::<f32>("y", 0, f64::INFINITY, 3.5e38, 1e30).expect("beyond float32");
}
