//! One target of `roadstead::fuzzing` under libFuzzer: the one that `FUZZ_TARGET` names.

#![no_main]

use std::sync::OnceLock;

use roadstead::fuzzing::{TARGETS, FuzzTarget};

fn chosen() -> FuzzTarget {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    *target.unwrap_or_else(|| panic!("FUZZ_TARGET is one of {}", names.join(", ")))
}

// libFuzzer calls a function and passes nothing but the bytes.
static TARGET: OnceLock<FuzzTarget> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.get_or_init(chosen).1(data));
