//! A licence of any time, also one that the command would refuse to issue.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use roadstead::clock::{Clock, Timestamp};
use roadstead::config::LicenceFile;
use roadstead::licence::{Licence, LicenceId, PrivateKey, Slug};

/// Puts a licence into the directory, as `licences/<id>`; it is issued and begins at the first day
/// from now and is good for an hour after the second.
pub(crate) fn put_licence(
    directory: impl AsRef<Path>,
    id: &str,
    host: &str,
    applications: &[&str],
    days: Range<i64>,
) {
    let hour = 3600;
    let now = i64::try_from(Clock::system().now().unix().as_secs()).expect("a small number");
    let at = |days: i64, more| {
        Timestamp::from_unix(Duration::from_secs(
            u64::try_from(now + 24 * hour * days + more).expect("after 1970"),
        ))
    };
    let licence = Licence {
        id: LicenceId::parse(id).expect(id),
        issuer: "Acme Inc.".to_owned(),
        customer: "Customer GmbH".to_owned(),
        email: None,
        applications: applications.iter().map(|slug| Slug::parse(slug).expect(slug)).collect(),
        hosts: vec![host.to_owned()],
        issued: at(days.start, 0),
        not_before: at(days.start, 0),
        expires: at(days.end, hour),
    };
    let token = PrivateKey::generate().and_then(|key| key.sign(&licence)).expect("a token");
    let folder = directory.as_ref().join("licences");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(id), LicenceFile::write(&licence, &token)).expect("writable");
}
