//! What has to hold of lists, whatever somebody writes.

use super::ListReader;
use crate::oci::ImageQuery;

/// Bytes end in images whose lines are read again as they are, or in problems that say where they
/// are.
pub(crate) fn lists(data: &[u8]) {
    let mut reader = ListReader::default();
    reader.read("list", data);
    let lines = data.split(|byte| *byte == b'\n').count();
    let wanted = match reader.finish() {
        Ok(wanted) => wanted,
        Err(problems) => {
            assert!(!problems.told().is_empty());
            for (at, message) in problems.told() {
                assert!(!message.is_empty() && message.chars().count() < 2000, "{message}");
                assert!(at.line.is_none_or(|line| (1..=lines).contains(&line)), "{at}");
            }
            return;
        }
    };
    let mut printed = String::new();
    for image in wanted.list() {
        assert!(!image.places.is_empty());
        for at in &image.places {
            assert!(at.line.is_some() || at.path.is_some(), "{at}");
            assert!(at.line.is_none_or(|line| (1..=lines).contains(&line)), "{at}");
        }
        let query = ImageQuery::parse(&image.line.image.to_string()).expect("it was printed");
        assert!(query.meets(&image.line.image));
        printed.extend([image.line.to_string(), "\n".to_owned()]);
    }
    let mut again = ListReader::default();
    again.read("list", printed.as_bytes());
    let again = again.finish().expect("what is printed is read again");
    let lines = |wanted: &super::images::WantedImages| {
        wanted.list().iter().map(|image| image.line.clone()).collect::<Vec<_>>()
    };
    assert_eq!(lines(&again), lines(&wanted));
}
