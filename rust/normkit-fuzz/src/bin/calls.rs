//! The fuzz target: any bytes are a call, see `normkit_fuzz`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use normkit_fuzz::Case;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(case) = Case::from_bytes(bytes) {
        if let Err(error) = case.check() {
            panic!("{error}\n{case:#?}");
        }
    }
});
