//! `roadstead licence`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::licences::{ISSUE, licence, put_licence};
use crate::support::{directory, roadstead, run, text};

/// A change of a configuration's text.
type Edit<'a> = &'a dyn Fn(String) -> String;

#[test]
fn a_licence_is_made_shown_and_revoked() {
    let directory = tempfile::tempdir().expect("a directory");
    let made = licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    assert!(made.contains("acme.key") && made.contains("acme.pub"), "{made}");
    let permissions = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(directory.path().join("acme.key")).expect("a key").permissions(),
    );
    assert_eq!(permissions & 0o777, 0o600);
    let again = licence(&directory, &["keygen", "acme"]).expect_err("keys are never overwritten");
    assert!(again.contains("acme.key") && again.contains("exists"), "{again}");
    licence(&directory, &[&ISSUE[..], &["--expires", "90d", "--out", "acme.licence"]].concat())
        .expect("a licence");
    let shown = licence(&directory, &["show", "acme.licence", "--public-key", "acme.pub"])
        .expect("a good licence");
    for line in [
        "licence       acme-prod\n",
        "applications  myapp\n",
        "(90 days left)\n",
        "signature     good",
    ] {
        assert!(
            shown.contains(line) || shown.contains(&line.replace("90", "89")),
            "{line:?} is missing in\n{shown}"
        );
    }
    licence(&directory, &["keygen", "other"]).expect("a pair of keys");
    let wrong = licence(&directory, &["show", "acme.licence", "--public-key", "other.pub"])
        .expect_err("another key");
    assert!(wrong.contains("no configured key has signed it"), "{wrong}");
    licence(&directory, &["revoke", "acme-prod", "--list", "revoked", "--reason", "left us"])
        .expect("a revocation");
    licence(&directory, &["revoke", "acme-test", "--list", "revoked"]).expect("another");
    let list = fs::read_to_string(directory.path().join("revoked")).expect("a list");
    let lines: Vec<&str> = list.lines().collect();
    assert!(
        lines[0].starts_with("acme-prod 20")
            && lines[0].ends_with("Z # left us")
            && lines.len() == 2,
        "{list}"
    );
}

#[test]
fn what_cannot_be_issued_is_told_and_leaves_no_file() {
    let (directory, config) = directory(
        "hosts: [a.test]\naccess: { rules: [{ who: anonymous, allow: [pull], images: [\"**\"] }] }\n\
         applications: { worker: { images: [\"quay.io/acme/**\"] } }\n\
         licences: { issuer: Acme Inc., public_keys: [acme.pub] }\n",
    );
    licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    fs::write(directory.path().join("revoked"), "").expect("writable");
    let (_directory, other) = directory_of_vendor(&directory, "Other", "revoked");
    let (config, other) = (config.to_str().expect("text"), other.to_str().expect("text"));
    let long = "x".repeat(3_000);
    for (more, told) in [
        (&["--expires", "tomorrow"][..], "is no time"),
        (&["--expires", "2020-01-01"], "lies behind us; write a later day, or days from now"),
        (&["--expires", "0d"], "lies behind us"),
        (&["--expires", "1d", "--not-before", "2200-01-01"], "it ends before it begins"),
        (&["--expires", "90d", "--application", "My.App"], "is no application name"),
        (
            &["--expires", "90d", "--host", "https://a.test"],
            "--host: \"https://a.test\" is no host; write it without",
        ),
        (&["--expires", "90d", "--host", "a.test/myapp"], "--host: \"a.test/myapp\" is no host"),
        (&["--expires", "90d", "--email", &long], "shorten the email, which takes most of it"),
        (
            &["--expires", "90d", "--config", config],
            "has no application myapp; add it under applications, or take one of: worker",
        ),
        (
            &["--expires", "90d", "--config", other],
            "accepts no licence of \"Acme Inc.\"; write --issuer as licences.issuer there",
        ),
    ] {
        let refused = licence(&directory, &[&ISSUE[..], more, &["--out", "x.licence"]].concat())
            .expect_err(told);
        assert!(refused.contains(told), "{refused}");
        assert!(!directory.path().join("x.licence").exists());
    }
    let public = licence(
        &directory,
        &[
            "issue",
            "--key",
            "acme.pub",
            "--issuer",
            "a",
            "--id",
            "a",
            "--customer",
            "a",
            "--application",
            "a",
            "--host",
            "a",
            "--expires",
            "1d",
        ],
    )
    .expect_err("a public key signs nothing");
    assert!(public.contains("holds no PRIVATE KEY block"), "{public}");
}

/// A configuration that sells myapp and has its keys and its list in `directory`.
fn directory_of_vendor(directory: &TempDir, issuer: &str, list: &str) -> (TempDir, PathBuf) {
    let at = |name: &str| directory.path().join(name).display().to_string();
    crate::support::directory(&format!(
        "access: {{ rules: [{{ who: anonymous, allow: [pull], images: [\"**\"] }}] }}\n\
         applications: {{ myapp: {{ images: [\"quay.io/acme/**\"] }} }}\n\
         licences: {{ issuer: {issuer}, public_keys: [{}], revoked: {} }}\n",
        at("acme.pub"),
        at(list)
    ))
}

#[test]
fn a_revocation_goes_to_the_list_of_the_configuration_and_is_shown() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::create_dir(directory.path().join("lists")).expect("a folder");
    fs::write(directory.path().join("list"), "left-open 2026-01-01T00:00:00Z").expect("writable");
    licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    licence(&directory, &[&ISSUE[..], &["--expires", "90d", "--out", "acme.licence"]].concat())
        .expect("a licence");
    for (list, written) in [("list", "list"), ("lists", "lists/roadstead"), ("new", "new")] {
        let (_vendor, config) = directory_of_vendor(&directory, "Acme Inc.", list);
        let config = config.to_str().expect("text");
        if list != "list" {
            fs::write(directory.path().join(written), "").expect("writable");
        }
        let show = || {
            licence(&directory, &["show", "acme.licence", "--config", config])
                .expect("signed by their key")
        };
        assert!(show().contains(" days left)\nsignature     good, by key"), "{}", show());
        let said = licence(&directory, &["revoke", "acme-prod", "--config", config])
            .expect("a revocation");
        let file = directory.path().join(written);
        assert!(said.starts_with(&format!("{}: acme-prod 20", file.display())), "{said}");
        let text = fs::read_to_string(file).expect("the list");
        assert!(text.lines().last().is_some_and(|line| line.starts_with("acme-prod 20")), "{text}");
        let refused = licence(&directory, &["show", "acme.licence", "--config", config])
            .expect_err("a revoked licence");
        assert!(refused.contains("licence acme-prod was revoked on 20"), "{refused}");
    }
    let list = fs::read_to_string(directory.path().join("list")).expect("the list");
    assert!(list.starts_with("left-open 2026-01-01T00:00:00Z\nacme-prod 20"), "two lines: {list}");
}

#[test]
fn a_licence_is_shown_as_the_proxy_would_take_it() {
    let directory = tempfile::tempdir().expect("a directory");
    licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    licence(&directory, &[&ISSUE[..], &["--expires", "90d", "--out", "acme.licence"]].concat())
        .expect("a licence");
    let (_vendor, other) = directory_of_vendor(&directory, "Other", "revoked");
    let (_empty, none) = crate::support::directory("");
    let show = |config: &Path| {
        licence(&directory, &["show", "acme.licence", "--config", &config.display().to_string()])
    };
    fs::write(directory.path().join("revoked"), "").expect("writable");
    for (file, told) in [(&other, "its issuer is not ours"), (&none, "accepts no licences")] {
        let refused = show(file).expect_err(told);
        assert!(refused.contains(told), "{refused}");
    }
    fs::write(directory.path().join("revoked"), "acme-prod soon\n").expect("writable");
    assert!(show(&other).expect_err("a wrong list").contains("revoked:1: "));
}

/// A configuration with our key and list, and what `edit` makes of it.
fn edited(directory: &TempDir, edit: impl Fn(String) -> String) -> (TempDir, String) {
    let (vendor, config) = directory_of_vendor(directory, "Acme Inc.", "revoked");
    let text = fs::read_to_string(&config).expect("readable");
    fs::write(&config, edit(text)).expect("writable");
    (vendor, config.to_str().expect("text").to_owned())
}

/// Whether it is `issue` or `show`: what a proxy would refuse is refused, with what to do.
#[test]
fn applications_hosts_and_keys_are_those_of_the_configuration() {
    let directory = tempfile::tempdir().expect("a directory");
    licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    licence(&directory, &["keygen", "other"]).expect("a pair of keys");
    fs::write(directory.path().join("revoked"), "").expect("writable");
    let more = ["--expires", "90d", "--host", "images.example.com"];
    licence(&directory, &[&ISSUE[..], &more, &["--out", "acme.licence"]].concat())
        .expect("a licence");
    let hosts =
        |names| move |text: String| text.replace("access:", &format!("hosts: {names}\naccess:"));
    let tools = |text: String| text.replace("{ myapp:", "{ tools:");
    let key = |text: String| text.replace("acme.pub", "other.pub");
    let bound = |text: String| {
        text + "upstreams: { quay.io: { hosts: [registry.example.com] } }\n" + "hosts: [a.test]\n"
    };
    let none =
        "does not answer to registry.example.com, images.example.com; add the name under hosts";
    let cases: [(Edit<'_>, Option<&str>, Option<&str>); 6] = [
        (&hosts("[images.example.com]"), None, None),
        (&bound, None, None),
        (&hosts("[a.test]"), Some(none), Some(none)),
        (&hosts("[]"), None, None),
        (
            &tools,
            Some("has no application myapp; add it under applications, or take one of: tools"),
            Some("has no application myapp"),
        ),
        (
            &key,
            Some("does not know the key acme.key; add its public key to licences.public_keys"),
            Some("no configured key has signed it"),
        ),
    ];
    for (edit, issued, shown) in cases {
        let (_vendor, config) = edited(&directory, edit);
        let out = directory.path().join("new.licence");
        let config = ["--config", config.as_str()];
        let issue = [&ISSUE[..], &more, &config, &["--out", "new.licence"]].concat();
        let show = [&["show", "acme.licence"][..], &config].concat();
        for (arguments, told) in [(issue, issued), (show, shown)] {
            match (licence(&directory, &arguments), told) {
                (Ok(_), None) => {}
                (Err(refused), Some(told)) => assert!(refused.contains(told), "{told}: {refused}"),
                (other, told) => panic!("{told:?}: {other:?}"),
            }
        }
        assert_eq!(out.exists(), issued.is_none());
        let _ = fs::remove_file(out);
    }
}

/// Within one second, and also if a list has a moment that is a little ahead.
#[test]
fn a_licence_that_is_issued_after_a_revocation_is_good_or_is_not_issued() {
    let directory = tempfile::tempdir().expect("a directory");
    licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    let list = directory.path().join("revoked");
    fs::write(&list, "").expect("writable");
    let (_vendor, config) = directory_of_vendor(&directory, "Acme Inc.", "revoked");
    let config = ["--config", config.to_str().expect("text")];
    let show = |file: &str| licence(&directory, &[&["show", file][..], &config].concat());
    let issue = |file: &str, more: &[&str]| {
        let out = ["--expires", "90d", "--out", file];
        licence(&directory, &[&ISSUE[..], &out, more].concat())
    };
    let revoke = |more: &[&str]| {
        licence(&directory, &[&["revoke", "acme-prod"][..], more].concat()).expect("a revocation")
    };
    issue("first", &[]).expect("a licence");
    revoke(&config);
    for (file, more) in [("second", &[][..]), ("third", &config)] {
        issue(file, more).expect("a licence");
        assert!(show(file).expect(file).contains(" days left)"));
        assert!(show("first").is_err());
        revoke(&["--list", "revoked"]);
        assert!(show(file).expect_err("revoked").contains("was revoked on"));
    }
    let in_the_list = |ahead: u64| {
        let at = roadstead::clock::Clock::system().now().plus(Duration::from_secs(ahead));
        let time = roadstead::licence::calendar::format(at);
        fs::write(&list, format!("acme-prod {time}\n")).expect("writable");
    };
    in_the_list(30);
    issue("fourth", &config).expect("issued after that moment");
    assert!(show("fourth").is_ok());
    in_the_list(3600);
    let refused = issue("fifth", &config).expect_err("no licence would be good");
    assert!(refused.contains("acme-prod is revoked until 20"), "{refused}");
    assert!(!directory.path().join("fifth").exists());
}

#[test]
fn show_tells_people_apart_from_the_answer_when_a_licence_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let new = "; ask Acme Inc. for a new one\n";
    for (id, days, code, state, told) in [
        ("good", -1..20, 0, "(20 days left)", None),
        (
            "ending",
            -1..13,
            0,
            "(13 days left)",
            Some(("roadstead: licence ending ends in 13 days, on 20", new)),
        ),
        (
            "ended",
            -9..-1,
            1,
            "(expired)",
            Some(("roadstead: it would not be accepted: licence ended expired on 20", new)),
        ),
        (
            "next",
            1..50,
            1,
            "(not before 20",
            Some((
                "roadstead: it would not be accepted: licence next begins on 20",
                ", and is refused until then\n",
            )),
        ),
    ] {
        put_licence(&directory, id, "registry.example.com", &["myapp"], days);
        let output =
            run(roadstead(&["licence", "show"]).arg(directory.path().join("licences").join(id)));
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.code() == Some(code) && stdout.contains(state), "{stdout}");
        match told {
            Some((begin, end)) => {
                assert!(stderr.starts_with(begin) && stderr.ends_with(end), "{stderr}");
            }
            None => assert_eq!(stderr, ""),
        }
    }
}

#[test]
fn a_revocation_takes_one_list_and_a_valid_id() {
    let (directory, config) = directory("");
    let config = config.to_str().expect("text");
    let (list, missing) = (["--list", "revoked"], ["--config", config]);
    for (arguments, code, told) in [
        (&["acme"][..], 2, "<--list <FILE>|--config <FILE>>"),
        (&[&["acme"][..], &list, &missing].concat(), 2, "cannot be used with"),
        (
            &[&["acme"][..], &missing].concat(),
            1,
            "has no licences.revoked; add it, as revoked: /etc/roadstead/revoked",
        ),
        (&[&["ACME"][..], &list].concat(), 1, "\"ACME\" is no licence id; use at most 63"),
        (&[&["acme x"][..], &list].concat(), 1, "is no licence id"),
        (&["acme", "--config", "gone.yaml"], 64, "gone.yaml: cannot be read"),
    ] {
        let output =
            run(roadstead(&["licence", "revoke"]).args(arguments).current_dir(directory.path()));
        let stderr = text(&output.stderr);
        assert!(
            output.status.code() == Some(code) && stderr.contains(told),
            "{arguments:?}: {stderr}"
        );
    }
    assert!(!directory.path().join("revoked").exists());
}

#[test]
fn openssl_reads_our_keys_and_we_read_its() {
    let directory = tempfile::tempdir().expect("a directory");
    licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    let openssl = |arguments: &[&str]| {
        run(Command::new("openssl").args(arguments).current_dir(directory.path()))
    };
    let public = openssl(&["pkey", "-in", "acme.key", "-pubout"]);
    assert_eq!(
        text(&public.stdout),
        fs::read_to_string(directory.path().join("acme.pub")).expect("a key")
    );
    assert!(openssl(&["genpkey", "-algorithm", "ed25519", "-out", "theirs.key"]).status.success());
    let arguments: Vec<&str> =
        ISSUE.iter().map(|word| if *word == "acme.key" { "theirs.key" } else { word }).collect();
    licence(&directory, &[&arguments[..], &["--expires", "1d"]].concat())
        .expect("a licence by their key");
}

#[test]
fn a_pull_secret_holds_the_login_in_each_clients_form() {
    let directory = tempfile::tempdir().expect("a directory");
    licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    licence(&directory, &[&ISSUE[..], &["--expires", "90d", "--out", "acme.licence"]].concat())
        .expect("a licence");
    let secret = |format| {
        licence(&directory, &["pull-secret", "acme.licence", "--format", format]).expect(format)
    };
    let docker: serde_json::Value = serde_json::from_str(&secret("docker")).expect("JSON");
    let entry = &docker["auths"]["registry.example.com"];
    assert_eq!(entry["username"], "acme-prod");
    let auth = entry["auth"].as_str().expect("text");
    assert!(secret("hosts").contains(&format!("authorization = \"Basic {auth}\"")));
    let kubernetes = secret("kubernetes");
    assert!(
        kubernetes.contains("kind: Secret\n")
            && kubernetes.contains("type: kubernetes.io/dockerconfigjson\n")
    );
}
