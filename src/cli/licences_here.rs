//! The licences on this machine, for programs that ask in place of people: docker's helper and
//! kubelet's provider (ACCESS §6). What is wrong with one of them goes to stderr and hides none of
//! the others. Signatures are not checked: there is no key here.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::output::tell;
use crate::clock::Timestamp;
use crate::config::{self, LicenceFile};
use crate::files;
use crate::licence::{Licence, Revocations, Slug, Standing, calendar};

/// Where licences are looked for, beside what `ROADSTEAD_LICENCE` names.
const LICENCE_FOLDER: &str = "/etc/roadstead/licences";

/// A request names one server or image.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;

/// What the caller wrote to stdin, to its end.
///
/// # Errors
/// A sentence, if it cannot be read or is longer than 64 KiB.
pub(super) fn request() -> Result<String, String> {
    let mut text = String::new();
    let read = io::stdin().take(REQUEST_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| format!("cannot read the request: {error}"))?;
    if text.len() as u64 > REQUEST_BYTES_MAX {
        return Err(format!("the request is longer than {REQUEST_BYTES_MAX} bytes"));
    }
    Ok(text)
}

/// Every licence that can be read; complaints about the others begin with `program`.
pub(super) fn licences(program: &str) -> Vec<LicenceFile> {
    let given = std::env::var_os("ROADSTEAD_LICENCE").map(PathBuf::from);
    let folder = Path::new(LICENCE_FOLDER);
    let is_there = folder.is_dir() || files::is_forbidden(folder);
    let paths = given.into_iter().chain(is_there.then(|| folder.to_owned()));
    let complain = |path: &Path, message: String| {
        tell(&format!("{program}: {message}{}", remedy(path).unwrap_or_default()));
    };
    let mut found = Vec::new();
    for path in paths {
        let files =
            files::list_files(&path).inspect_err(|message| complain(&path, message.clone()));
        for file in files.unwrap_or_default() {
            match config::read_licence(&file) {
                Ok(licence) => found.push(licence),
                Err(message) => complain(&file, message),
            }
        }
    }
    found
}

/// What to do about a file that is another user's alone: clients run these programs as whoever runs
/// the client.
fn remedy(path: &Path) -> Option<String> {
    files::is_forbidden(path).then(|| {
        format!(
            "; a licence serves the users who can read it: as root, run chmod a+rX {}, and chmod \
             a+x on the folders above it",
            path.display()
        )
    })
}

/// The licences that name this host; a port is part of its name.
pub(super) fn of_host<'a>(
    licences: &'a [LicenceFile],
    host: &str,
) -> impl Iterator<Item = &'a LicenceFile> {
    licences
        .iter()
        .filter(move |file| file.licence.hosts.iter().any(|own| own.eq_ignore_ascii_case(host)))
}

/// The order in which licences of one host are preferred, the greatest first: a good one, one that
/// begins later, one that has ended (presented all the same, so that the server explains); of
/// equals the one that was issued last.
pub(super) fn rank(licence: &Licence, now: Timestamp) -> impl Ord + use<> {
    let good = licence.term().standing(&Revocations::default(), now) == Standing::Good;
    (good, now < licence.expires, licence.issued)
}

/// What people should hear of good licences that name the same host for other applications, where
/// only one of them can be presented: their images are not found.
pub(super) fn shadowed(
    licences: &[LicenceFile],
    host: &str,
    chosen: &Licence,
    now: Timestamp,
) -> Option<String> {
    let good = |licence: &&Licence| {
        licence.term().standing(&Revocations::default(), now) == Standing::Good
    };
    let missing: Vec<String> = of_host(licences, host)
        .map(|file| &file.licence)
        .filter(good)
        .flat_map(|other| other.applications.iter().map(move |slug| (slug, &other.id)))
        .filter(|(slug, _)| !chosen.applications.contains(slug))
        .map(|(slug, id)| format!("{slug} ({id})"))
        .collect();
    let applications: Vec<&str> = chosen.applications.iter().map(Slug::as_str).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "several licences here are for {host}, and a client presents one: {} ({}), so images \
             of {} are not found; ask {} for one licence for all of them",
            chosen.id,
            applications.join(", "),
            missing.join(", "),
            chosen.issuer
        )
    })
}

/// What people should hear about the end of a licence: from 14 days before it, and afterwards.
pub(super) fn notice(licence: &Licence, now: Timestamp) -> Option<String> {
    let Licence { id, issuer, expires, .. } = licence;
    let day = calendar::day(*expires);
    let when = if now >= *expires {
        format!("expired on {day}")
    } else {
        match licence.term().days_left(now)? {
            0 => format!("ends within a day, at {}", calendar::format(*expires)),
            1 => format!("ends in 1 day, on {day}"),
            days => format!("ends in {days} days, on {day}"),
        }
    };
    Some(format!("licence {id} {when}; ask {issuer} for a new one"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::licence::LicenceId;
    use crate::secret::Secret;

    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(Duration::from_secs(seconds))
    }

    fn file(id: &str, host: &str, issued: u64, begins: u64, expires: u64) -> LicenceFile {
        let licence = Licence {
            id: LicenceId::parse(id).expect(id),
            issuer: "Acme Inc.".to_owned(),
            customer: "Customer".to_owned(),
            email: None,
            applications: vec![Slug::parse("myapp").expect("a slug")],
            hosts: vec![host.to_owned()],
            issued: at(issued),
            not_before: at(begins),
            expires: at(expires),
        };
        LicenceFile { licence, token: Secret::new("token".to_owned()) }
    }

    #[test]
    fn a_good_one_comes_first_and_then_the_latest() {
        let all = [
            file("old", "a.test", 1, 1, 5_000),
            file("new", "A.test", 2, 2, 5_000),
            file("ended", "a.test", 3, 3, 900),
            file("later", "a.test", 4, 2_000, 9_000),
            file("other", "b.test", 9, 9, 5_000),
            file("only-ended", "c.test", 1, 1, 900),
            file("later-than-ended", "d.test", 1, 2_000, 9_000),
            file("ended-before", "d.test", 2, 2, 900),
        ];
        for (host, expected) in [
            ("a.test", Some("new")),
            ("b.test", Some("other")),
            ("c.test", Some("only-ended")),
            ("d.test", Some("later-than-ended")),
            ("a.test:5000", None),
            ("e.test", None),
        ] {
            let chosen = of_host(&all, host).max_by_key(|file| rank(&file.licence, at(1_000)));
            assert_eq!(chosen.map(|file| file.licence.id.as_str()), expected, "{host}");
        }
    }

    #[test]
    fn the_end_is_told_two_weeks_before_and_ever_after() {
        let licence = file("acme", "a.test", 1, 1, 100 * DAY).licence;
        for (now, expected) in [
            (86 * DAY - 1, None),
            (86 * DAY, Some("ends in 14 days, on 1970-04-11")),
            (99 * DAY, Some("ends in 1 day, on 1970-04-11")),
            (99 * DAY + 1, Some("ends within a day, at 1970-04-11T00:00:00Z")),
            (100 * DAY, Some("expired on 1970-04-11")),
            (500 * DAY, Some("expired on 1970-04-11")),
        ] {
            let expected =
                expected.map(|when| format!("licence acme {when}; ask Acme Inc. for a new one"));
            assert_eq!(notice(&licence, at(now)), expected, "{now}");
        }
    }
}
