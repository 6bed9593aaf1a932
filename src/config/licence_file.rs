//! The licence file: YAML for people around one signed token (ACCESS §4.1). Only the token counts,
//! and whatever stands beside it has to agree.

use std::fmt::Write;
use std::path::Path;

use super::document;
use super::place::{Place, Report};
use super::problem::Problems;
use crate::files;
use crate::licence::{Licence, Slug, calendar, unverified, unwrapped};
use crate::secret::Secret;

const KEYS: &[&str] =
    &["version", "id", "customer", "email", "applications", "hosts", "issued", "expires", "token"];

/// Bytes of a licence file at most.
const LICENCE_FILE_MAX: usize = 16 * 1024;

/// A licence as a customer holds it. The signature is not checked: there is no key where licences
/// are used.
#[derive(Clone, Debug, PartialEq)]
pub struct LicenceFile {
    pub licence: Licence,
    pub token: Secret,
}

/// Reads a licence file.
///
/// # Errors
/// Everything that is wrong with it, a line each; never with anything of the token.
pub fn read_licence(path: &Path) -> Result<LicenceFile, String> {
    parse(&files::read_text(path)?, path)
}

/// Reads the text of a licence file; `path` only names it in problems.
///
/// # Errors
/// Those of [`read_licence`].
pub(super) fn parse(text: &str, path: &Path) -> Result<LicenceFile, String> {
    if text.len() > LICENCE_FILE_MAX {
        return Err(format!(
            "{} is larger than {LICENCE_FILE_MAX} bytes; a licence file takes two thousand",
            path.display()
        ));
    }
    let root = document::read(text)
        .map_err(|error| format!("{} is not valid YAML: {error}", path.display()))?;
    let report = Report::default();
    let file = file(&Place::root(&root, &report));
    let (problems, files_read) = report.end(text);
    match file {
        Some(file) if problems.is_empty() => Ok(file),
        _ => Err(Problems::new(path, problems, files_read).to_string()),
    }
}

fn file(root: &Place<'_>) -> Option<LicenceFile> {
    let fields = root.fields(KEYS);
    let Some(token) = fields.get("token") else {
        root.problem("has no token, so it is no licence; ask whoever sent it for the whole file");
        return None;
    };
    let text = unwrapped(token.noted(token.text())?);
    let licence = token.noted(unverified(&text).map_err(|refusal| refusal.to_string()))?;
    if fields.get("version").is_none_or(|version| version.amount().as_deref() != Ok("1")) {
        fields
            .get("version")
            .unwrap_or(root)
            .problem("should say version: 1; a newer roadstead may know others");
    }
    let slugs: Vec<String> = licence.applications.iter().map(Slug::to_string).collect();
    for (key, expected) in [
        ("id", Some(licence.id.to_string())),
        ("customer", Some(licence.customer.clone())),
        ("email", licence.email.clone()),
        ("issued", Some(calendar::format(licence.issued))),
        ("expires", Some(calendar::format(licence.expires))),
        ("applications", Some(slugs.join(", "))),
        ("hosts", Some(licence.hosts.join(", "))),
    ] {
        let Some(place) = fields.get(key) else { continue };
        let said = if place.is_list() {
            place.parsed(|text| Ok(text.to_owned())).join(", ")
        } else {
            place.amount().ok()?
        };
        if Some(&said) != expected.as_ref() {
            place.problem(format!(
                "differs from the token, which says {}; only the token counts, so ask for a new \
                 licence instead of editing",
                expected.as_deref().unwrap_or("nothing")
            ));
        }
    }
    Some(LicenceFile { licence, token: Secret::new(text.into_owned()) })
}

impl LicenceFile {
    /// The text of a licence file.
    pub fn write(licence: &Licence, token: &str) -> String {
        let slugs: Vec<&str> = licence.applications.iter().map(Slug::as_str).collect();
        let mut text = format!(
            "# A licence for {}. Whoever has this file can pull: keep it as you keep a \
             password.\nversion: 1\n\
             id: {}\ncustomer: {}\n",
            slugs.join(", "),
            quoted(licence.id.as_str()),
            quoted(&licence.customer)
        );
        if let Some(email) = &licence.email {
            let _ = writeln!(text, "email: {}", quoted(email));
        }
        let list =
            |items: &[&str]| items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ");
        let hosts: Vec<&str> = licence.hosts.iter().map(String::as_str).collect();
        let (issued, expires) =
            (calendar::format(licence.issued), calendar::format(licence.expires));
        let _ = writeln!(
            text,
            "applications: [{}]\nhosts: [{}]\nissued: \"{issued}\"\nexpires: \"{expires}\"\ntoken: \
             {token}",
            list(&slugs),
            list(&hosts)
        );
        text
    }
}

/// YAML's double quotes take JSON's escapes.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;
    use crate::licence::{LicenceId, PrivateKey};

    fn written() -> (Licence, String) {
        let at = |seconds| Timestamp::from_unix(Duration::from_secs(seconds));
        let licence = Licence {
            id: LicenceId::parse("007").expect("an id"),
            issuer: "Acme Inc.".to_owned(),
            customer: "Müller \"&\" Söhne: GmbH #1".to_owned(),
            email: Some("ops@acme.test".to_owned()),
            applications: vec![
                Slug::parse("myapp").expect("a slug"),
                Slug::parse("null").expect("a slug"),
            ],
            hosts: vec!["registry.example.com".to_owned()],
            issued: at(1_000),
            not_before: at(1_000),
            expires: at(2_000),
        };
        let token = PrivateKey::generate().and_then(|key| key.sign(&licence)).expect("a token");
        let text = LicenceFile::write(&licence, &token);
        (licence, text)
    }

    fn problem(text: &str) -> String {
        parse(text, Path::new("acme.licence")).expect_err(text)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (licence, text) = written();
        assert_eq!(parse(&text, Path::new("f")).expect(&text).licence, licence);
        let token = text.lines().find(|line| line.starts_with("token: ")).expect("a token");
        assert_eq!(
            parse(&format!("version: 1\n{token}\n"), Path::new("f")).expect("enough").licence,
            licence
        );
    }

    #[test]
    fn a_token_that_was_wrapped_on_its_way_is_read() {
        let (licence, text) = written();
        let token = text.split_once("token: ").expect("a token").1.trim().to_owned();
        let (head, tail) = token.split_at(76);
        for (token, of) in [
            (format!("{head}\r\n  {tail}"), "folded lines"),
            (format!("|\n  {head}\n  {tail}\n"), "a block"),
            (format!("\" {head} {tail}\\n\""), "quotes and blanks"),
            (format!("{head}\u{a0}{tail}"), "a blank of a word processor"),
        ] {
            let read = parse(&format!("version: 1\ntoken: {token}\n"), Path::new("f")).expect(of);
            assert_eq!(
                (read.licence, read.token.expose()),
                (licence.clone(), &*[head, tail].concat())
            );
        }
    }

    #[test]
    fn whatever_differs_from_the_token_is_an_error() {
        let (_, text) = written();
        for (from, to, key) in [
            ("id: \"007\"", "id: \"008\"", "id"),
            ("ops@acme", "eve@acme", "email"),
            ("\"null\"]", "\"other\"]", "applications"),
            ("hosts: [\"registry.example.com\"]", "hosts: [evil.example]", "hosts"),
            ("00:33:20", "00:33:21", "expires"),
            ("version: 1", "version: 2", "version"),
            ("version: 1\n", "version: 1\nlimit: 3\n", "limit"),
        ] {
            assert!(text.contains(from), "{from} in {text}");
            let told = problem(&text.replace(from, to));
            assert!(
                told.contains(&format!(" {key}: ")) && told.starts_with("acme.licence:"),
                "{told}"
            );
        }
        assert!(problem("version: 1\n").contains("has no token"));
        assert!(problem("version: 1\ntoken: a.b.c\n").contains("claims"));
        assert!(problem("[").contains("not valid YAML"));
    }
}
