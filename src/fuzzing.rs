//! Fuzz targets: functions that take any bytes and fail where a rule does not hold for them. They
//! stand beside what they are about, each in the `fuzzing` module of its room.
//!
//! `cargo test` runs each with the inputs in `fuzz/corpus` and with some thousand variations of
//! them; `fuzz/run` lets libFuzzer look for more. Part of no build but those two.

/// A name and what is called with the bytes.
pub type FuzzTarget = (&'static str, fn(&[u8]));

pub const TARGETS: [FuzzTarget; 11] = [
    ("names", |data| with_text(data, crate::oci::fuzzing::names)),
    ("endpoints", |data| with_text(data, crate::oci::fuzzing::endpoints)),
    ("ranges", crate::oci::fuzzing::ranges),
    ("manifests", crate::oci::fuzzing::manifests),
    ("challenges", crate::upstream::fuzzing::challenge),
    ("gate", crate::upstream::fuzzing::gate),
    ("addresses", crate::upstream::fuzzing::addresses),
    ("configuration", |data| with_text(data, crate::config::fuzzing::configuration)),
    ("licences", crate::licence::fuzzing::licences),
    ("tokens", crate::access::fuzzing::tokens),
    ("lists", crate::wanted::fuzzing::lists),
];

fn with_text(data: &[u8], target: fn(&str)) {
    if let Ok(text) = str::from_utf8(data) {
        target(text);
    }
}

/// `good` with changes: of each three bytes of `changes` the first two say where, the third what:
/// an even one flips a bit, an odd one puts another byte there, drops one, or ends the text.
pub(crate) fn changed(good: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let (changes, _) = changes.as_chunks::<3>();
    for [high, low, what] in changes {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % bytes.len().max(1);
        match what {
            _ if bytes.is_empty() => {}
            0xff => bytes.truncate(at),
            0xfd => drop(bytes.remove(at)),
            0xfb => bytes.insert(at, b'='),
            odd if odd % 2 == 1 => bytes[at] = *odd / 2,
            even => bytes[at] ^= 1 << (even / 2 % 8),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};
    use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

    use super::*;

    /// Variations for each target; a debug build does them all in some seconds.
    const VARIATIONS: u32 = 2_000;

    /// The committed inputs of a target.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let entries = fs::read_dir(&folder).expect("every target has inputs");
        let files = entries.map(|entry| fs::read(entry.expect("an entry").path()));
        files.collect::<Result<_, _>>().expect("readable inputs")
    }

    /// Where, how many bytes are dropped there, and what is put there.
    type Edit = (Index, usize, Vec<u8>);

    fn vary(mut input: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
        for (at, dropped, put) in edits {
            let at = at.index(input.len() + 1);
            let end = (at + dropped).min(input.len());
            input.splice(at..end, put.iter().copied());
        }
        input
    }

    /// Runs one target; a failure shows the smallest input that was found for it.
    fn run(name: &str) {
        let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
        let corpus = corpus(name);
        for input in &corpus {
            target(input);
        }
        let piece = prop_oneof![vec(any::<u8>(), 0..4), "[ -~]{0,3}".prop_map(String::into_bytes)];
        let edits = vec((any::<Index>(), 0_usize..4, piece), 0..5);
        let mut config = ProptestConfig::with_cases(VARIATIONS);
        config.failure_persistence = None;
        // The same every time: a change fails by its own fault, and the long runs look further.
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(config, rng);
        let ran = runner.run(&(select(corpus), edits), |(input, edits)| {
            target(&vary(input, &edits));
            Ok(())
        });
        ran.expect("the rules hold");
    }

    macro_rules! short {
        ($($name:ident),*) => {$(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*};
    }
    short!(
        names,
        endpoints,
        ranges,
        manifests,
        challenges,
        gate,
        addresses,
        configuration,
        licences,
        tokens,
        lists
    );
}
