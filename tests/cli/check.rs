//! `roadstead check`: everything that is wrong or doubtful, at once and with its place.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{Serving, directory, roadstead, run, text};

/// Exit code, stdout, and stderr without the configuration's name.
fn check(directory: &TempDir, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = run(roadstead(&["check"]).args(arguments).current_dir(directory.path()));
    (output.status.code(), text(&output.stdout), text(&output.stderr).replace("config.yaml:", ""))
}

/// Puts a certificate and its key into the directory, as `tls.crt` and `tls.key`.
fn put_pair(directory: &Path, name: &str, edit: impl FnOnce(&mut CertificateParams)) -> String {
    let key = KeyPair::generate().expect("a key");
    let mut parameters = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    edit(&mut parameters);
    let certificate = parameters.self_signed(&key).expect("a certificate").pem();
    fs::write(directory.join("tls.crt"), &certificate).expect("writable");
    fs::write(directory.join("tls.key"), key.serialize_pem()).expect("writable");
    certificate
}

#[test]
fn the_file_stands_by_itself_or_behind_config() {
    let (directory, _) = directory("");
    for arguments in [&["config.yaml"][..], &["--config", "config.yaml"], &["--config=config.yaml"]]
    {
        let (code, stdout, stderr) = check(&directory, arguments);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(stdout.starts_with("config.yaml is valid: "), "{stdout}");
    }
    for arguments in [&[][..], &["config.yaml", "--config", "config.yaml"]] {
        assert_eq!(check(&directory, arguments).0, Some(2), "{arguments:?}");
    }
}

#[test]
fn files_that_cannot_be_used_are_told_at_their_keys_with_all_other_mistakes() {
    let (directory, _) = directory(
        "tls:\n  certificate: gone.crt\n  key: gone.key\n  client_ca: gone.ca\n\
         access:\n  users: users\n  rules: [{ who: anonymous, allow: [pull], images: [\"**\"] }]\n\
         applications: { myapp: { images: [\"quay.io/acme/**\"] } }\n\
         licences:\n  issuer: Acme Inc.\n  public_keys: [gone.pub,\n    users]\n  revoked: revoked\n\
         lisen: x\n",
    );
    fs::write(directory.path().join("users"), "ci:plain\n").expect("writable");
    let (code, _, told) = check(&directory, &["config.yaml"]);
    assert_eq!(code, Some(64), "{told}");
    let expected = [
        "6: tls.certificate: cannot read gone.crt: ",
        "7: tls.key: cannot read gone.key: ",
        "8: tls.client_ca: cannot read gone.ca: ",
        "10: access.users: users:1: ci: the hash is neither bcrypt nor argon2id",
        "15: licences.public_keys[0]: cannot read gone.pub: ",
        "16: licences.public_keys[1]: users holds no PUBLIC KEY block",
        "17: licences.revoked: cannot read revoked: ",
        "18: lisen: unknown key",
    ];
    assert_eq!(told.lines().count(), expected.len(), "{told}");
    for (line, expected) in told.lines().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
}

#[test]
fn a_certificate_is_judged_by_what_its_clients_will_say() {
    let (directory, _) = directory(
        "tls: { certificate: tls.crt, key: tls.key }\n\
         hosts: [registry.example.com,\n  other.example.com, \"http://localhost\"]\n\
         upstreams: { quay.io: { hosts: [quay.example.com] } }\n\
         access: { rules: [{ who: anonymous, allow: [pull], images: [\"**\"] }] }\n",
    );
    let all = ["registry.example.com", "other.example.com", "*.example.com"];
    let judge = |names: &[&str], edit: &dyn Fn(&mut CertificateParams)| {
        put_pair(directory.path(), "registry.example.com", |parameters| {
            let more =
                CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
            parameters.subject_alt_names = more.expect("names").subject_alt_names;
            edit(parameters);
        });
        let (code, stdout, told) = check(&directory, &["config.yaml"]);
        assert_eq!((code, stdout.contains("is valid")), (Some(0), true), "{told}");
        told
    };
    assert_eq!(judge(&all, &|_| {}), "");
    assert_eq!(judge(&["*.example.com"], &|_| {}), "");
    for (edit, expected) in [
        (
            &(|parameters: &mut CertificateParams| {
                parameters.not_after = rcgen::date_time_ymd(2020, 1, 1);
            }) as &dyn Fn(&mut CertificateParams),
            "5: warning: tls.certificate: the certificate ended on 2020-01-01T00:00:01Z; clients refuse it\n",
        ),
        (
            &|parameters| parameters.not_before = rcgen::date_time_ymd(3000, 1, 1),
            "5: warning: tls.certificate: the certificate is not good before 3000-01-01T00:00:00Z; clients refuse it\n",
        ),
        (
            &|parameters| parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            "5: warning: tls.certificate: the first certificate is that of an authority; some clients refuse it as a server's: the server's own has to stand first\n",
        ),
    ] {
        assert_eq!(judge(&all, edit), expected);
    }
    assert_eq!(
        judge(&["registry.example.com"], &|_| {}),
        "7: warning: hosts[1]: the certificate is not for other.example.com (subjectAltName); clients refuse it\n\
         8: warning: upstreams.quay.io.hosts: the certificate is not for quay.example.com (subjectAltName); clients refuse it\n"
    );
    let other = KeyPair::generate().expect("a key").serialize_pem();
    fs::write(directory.path().join("tls.key"), other).expect("writable");
    let (code, _, told) = check(&directory, &["config.yaml"]);
    assert_eq!(code, Some(64), "{told}");
    assert!(
        told.starts_with("5: tls: tls.certificate and tls.key do not belong together"),
        "{told}"
    );
}

#[test]
fn rights_of_users_that_do_not_exist_are_doubtful() {
    let (directory, _) = directory(
        "access:\n  users: users\n  rules:\n    - { who: \"user:ci\", allow: [pull], images: [\"**\"] }\n    \
         - { who: \"user:ic\", allow: [pull], images: [\"**\"] }\n\
         applications: { app: { images: [\"quay.io/a/*\"], publishers: [\"user:cd\"] } }\n",
    );
    let hash = bcrypt::hash("secret", 4).expect("a hash");
    fs::write(directory.path().join("users"), format!("ci:{hash}\n")).expect("writable");
    let (code, _, told) = check(&directory, &["config.yaml"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        told,
        "9: warning: access.rules[1]: there is no user ic in users; `htpasswd -B users ic` makes one\n\
         10: warning: applications.app.publishers: there is no user cd in users; `htpasswd -B users cd` makes one\n"
    );
}

#[test]
fn doubts_are_logged_at_a_start_and_keep_nothing_from_it() {
    let mut serving = Serving::start("shutdown_grace: 2h\nupstreams: { quay.io: }\n", &[]);
    let lines = serving.until("serving").join("\n");
    assert!(lines.contains("WARN") && lines.contains("5: warning: shutdown_grace: "), "{lines}");
    serving.signal(Signal::TERM);
    assert_eq!(serving.end().0, Some(0));
}
