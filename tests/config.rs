//! What a configuration file may say, and what people are told when it says something else.

#[path = "config/addresses.rs"]
mod addresses;
#[path = "config/secrets.rs"]
mod secrets;
#[path = "config/warnings.rs"]
mod warnings;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use roadstead::clock::Timestamp;
use roadstead::config::{
    self, ClientAuth, Config, Credential, LicenceFile, LogFormat, Login, MinFree,
    UnknownCredentials, Upstream, WhenRejected,
};
use roadstead::identity::{CertificateName, Identity};
use roadstead::licence::{Licence, LicenceId, PrivateKey, Slug};
use roadstead::secret::Secret;

const EXAMPLE: &str = include_str!("../config.example.yaml");

fn parse(text: &str) -> Result<Config, config::Problems> {
    config::parse(text, Path::new("config.yaml"), &|name| {
        (name == "SET").then(|| "from-environment".to_owned())
    })
}

fn valid(text: &str) -> Config {
    parse(text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The one problem, without the file name.
fn problem(text: &str) -> String {
    let problems = parse(text).expect_err(text);
    assert_eq!(problems.list().len(), 1, "{text}\n{problems}");
    problems.to_string().replacen("config.yaml:", "", 1).trim_start().to_owned()
}

fn only(config: &Config) -> &Upstream {
    assert_eq!(config.upstreams.len(), 1);
    &config.upstreams[0]
}

fn fixed(credential: &Credential) -> (&str, &str) {
    let Login::Fixed { username, password } = &credential.login else { panic!("{credential:?}") };
    (username, password.expose())
}

#[test]
fn the_example_says_what_holds_without_a_file() {
    assert_eq!(valid(EXAMPLE), config::builtin(&|_| None));
}

#[test]
fn the_example_holds_every_key_once_its_examples_are_taken_in() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = |name: &str| directory.path().join(name).display().to_string();
    fs::write(place("hub"), "secret\n").expect("writable");
    fs::write(place("docker.json"), r#"{"auths": {"docker.io": {"auth": "dTpw"}}}"#)
        .expect("writable");
    fs::write(place("ca.pem"), authority()).expect("writable");
    fs::write(place("acme.licence"), licence()).expect("writable");
    let text: String = EXAMPLE
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| !rest.starts_with(' ') || rest.starts_with("  "))
                .unwrap_or(line)
        })
        .flat_map(|line| [line, "\n"])
        .collect::<String>()
        .replace("/run/secrets/hub", &place("hub"))
        .replace("/etc/roadstead/docker-config.json", &place("docker.json"))
        .replace("/etc/roadstead/acme.licence", &place("acme.licence"))
        .replace("helper: ecr-login", "helper: /bin/true")
        .replace("/etc/roadstead/acme-ca.pem", &place("ca.pem"))
        .replace("HUB_PASSWORD", "SET")
        .replace("allow_inline_secrets: false", "allow_inline_secrets: true");
    let config = valid(&text);
    assert_eq!(config.upstreams.len(), 3);
    assert_eq!(config.upstreams[0].credentials.len(), 6);
    let credential =
        |images| config.upstreams[0].credentials.iter().find(|c| c.images.as_str() == images);
    assert_eq!(credential("myapp/**").map(fixed).map(|login| login.0), Some("acme-prod"));
    let when = |images| credential(images).map(|credential| credential.when_rejected);
    // Given for another upstream; a licence's refusal is final, a password's is not.
    assert_eq!(when("myapp/**"), Some(WhenRejected::Withhold));
    assert_eq!(when("acme/*"), Some(WhenRejected::ServeStale));
    let helper = Login::Helper {
        program: "/bin/true".into(),
        server: "https://index.docker.io/v1/".to_owned(),
        withheld: vec!["SET".to_owned()],
    };
    assert_eq!(credential("cloud/**").map(|credential| &credential.login), Some(&helper));
    assert_eq!(config.access.rules.len(), 2);
    assert_eq!(
        (config.applications.len(), config.tls.is_some(), config.licences.is_some()),
        (1, true, true)
    );
    // A key that the example lacks is one that the list of known keys names and the example does
    // not.
    for section in [
        "",
        "admin: {",
        "tls: {",
        "hosts: [{",
        "cache: {",
        "proxy: {",
        "upstreams: { a.test: {",
        "upstreams: { a.test: { credentials: [{",
        "access: {",
        "access: { rules: [{",
        "applications: { a: {",
        "licences: {",
        "log: {",
    ] {
        let closing: String = section
            .chars()
            .rev()
            .filter_map(|c| "}])".get("{[(".find(c)?..)?.chars().next())
            .collect();
        let message = parse(&format!("{section} unknown_key_of_this_test: 1 {closing}"))
            .expect_err(section)
            .to_string();
        let known = message
            .lines()
            .find_map(|line| line.split_once("known here: "))
            .expect("the list of keys")
            .1;
        for key in known.split(", ") {
            assert!(text.contains(&format!("{key}:")), "{key} is not in the example");
        }
    }
}

fn licence() -> String {
    let at = |seconds| Timestamp::from_unix(Duration::from_secs(seconds));
    let licence = Licence {
        id: LicenceId::parse("acme-prod").expect("an id"),
        issuer: "Acme Inc.".to_owned(),
        customer: "Customer GmbH".to_owned(),
        email: None,
        applications: vec![Slug::parse("myapp").expect("a slug")],
        hosts: vec!["registry.example.com".to_owned()],
        issued: at(1_000),
        not_before: at(1_000),
        expires: at(2_000),
    };
    let token = PrivateKey::generate().and_then(|key| key.sign(&licence)).expect("a token");
    LicenceFile::write(&licence, &token)
}

fn authority() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.self_signed(&key).expect("a certificate").pem()
}

#[test]
fn without_a_file_the_well_known_registries_are_served_on_loopback() {
    let config = config::builtin(&|_| None);
    assert!(config.listen.ip().is_loopback() && config.admin.ip().is_loopback());
    assert_eq!(config.default_upstream.expect("a default").as_str(), "docker.io");
    for name in [
        "docker.io",
        "quay.io",
        "ghcr.io",
        "registry.k8s.io",
        "gcr.io",
        "mcr.microsoft.com",
        "public.ecr.aws",
    ] {
        assert!(config.upstreams.iter().any(|upstream| upstream.name.as_str() == name), "{name}");
    }
    let hub = &config.upstreams[0];
    assert_eq!((hub.url.as_str(), hub.library), ("https://registry-1.docker.io/", true));
    assert_eq!(hub.token_hosts, ["auth.docker.io"]);
    assert_eq!(config.upstreams[1].page_limit, Some(100));
    assert!(config.upstreams.iter().skip(1).all(|upstream| !upstream.library));
}

#[test]
fn values_are_read_into_their_types() {
    let config = valid(
        "listen: 0.0.0.0:80\nadmin: localhost:81\nhosts: [Mirror.Example.com]\nallow_plain_http: true\n\
         cache: { path: /data, max_size: 1000, min_free: 1GiB, tag_ttl: 0s, stale_if_error: 7d, proof_ttl: 90s, abandon_after: 500ms, scrub: 0, scrub_rate: 1MiB, pins: [nginx] }\n\
         default_upstream: ~\nshutdown_grace: 1m\nlog: { format: json, level: 'warn,roadstead=debug' }\n\
         access: { rules: [{ who: anonymous, networks: [10.0.0.0/8], allow: [pull], images: ['docker.io/**'] }] }\n",
    );
    assert_eq!(config.listen.to_string(), "0.0.0.0:80");
    assert_eq!(config.admin.to_string(), "127.0.0.1:81");
    assert_eq!(
        config.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(),
        ["mirror.example.com"]
    );
    assert_eq!((config.cache.path.to_str(), config.cache.max_size), (Some("/data"), 1000));
    assert_eq!(config.cache.min_free, MinFree::Bytes(1 << 30));
    assert_eq!(config.cache.tag_ttl, Duration::ZERO);
    assert_eq!(config.cache.abandon_after, Duration::from_millis(500));
    assert_eq!(config.default_upstream, None);
    assert_eq!(
        (config.log.format, config.log.level.as_str()),
        (LogFormat::Json, "warn,roadstead=debug")
    );
    let rule = &config.access.rules[0];
    assert!(
        rule.allow.pull
            && !rule.allow.list
            && rule.images[0].matches("docker.io/a/b")
            && !rule.images[0].matches("quay.io/a")
    );
    assert_eq!(rule.networks[0].to_string(), "10.0.0.0/8");
}

#[test]
fn the_way_out_is_that_of_the_top_unless_an_upstream_has_its_own() {
    let set = |name: &str| match name {
        "https_proxy" => Some("http://env.test:1".to_owned()),
        "PROXY_PASSWORD" => Some("hunter2".to_owned()),
        _ => None,
    };
    let read = |text: &str| config::parse(text, Path::new("config.yaml"), &set).expect(text);
    let config = read(
        "proxy: { url: 'http://top.test:3128', username: me, password_env: PROXY_PASSWORD, \
         no_proxy: [.corp.test, 10.0.0.0/8] }\n\
         upstreams:\n  quay.io:\n  docker.io: { proxy: none, connect: '10.0.0.5:443' }\n  \
         ghcr.io: { proxy: 'https://own.test' }\n  a.test: { proxy: environment }\n",
    );
    let url = |upstream: &Upstream| {
        upstream.way_out.https.as_ref().map(|proxy| proxy.url.as_str().to_owned())
    };
    let urls: Vec<_> = config.upstreams.iter().map(url).collect();
    let some = |url: &str| Some(url.to_owned());
    assert_eq!(
        urls,
        [
            some("http://top.test:3128/"),
            None,
            some("https://own.test/"),
            some("http://env.test:1/")
        ]
    );
    let top = &config.upstreams[0].way_out;
    assert_eq!((top.direct.len(), &top.http), (2, &top.https));
    let shown = top.https.as_ref().and_then(|proxy| proxy.authorization.as_ref());
    assert_eq!(shown.map(Secret::expose), Some("Basic bWU6aHVudGVyMg=="));
    assert_eq!(config.upstreams[1].connect.as_ref().map(ToString::to_string), some("10.0.0.5:443"));
    assert_eq!(config.ignored_variables, Vec::<&str>::new());
    let presets = read("proxy: http://top.test:3128");
    assert!(presets.upstreams.iter().all(|upstream| upstream.way_out.https.is_some()));
}

#[test]
fn variables_that_are_not_followed_are_noted() {
    let set = |name: &str| {
        ["HTTPS_PROXY", "http_proxy"].contains(&name).then(|| "http://p.test".to_owned())
    };
    let ignored = |text: &str| {
        let config = config::parse(text, Path::new("config.yaml"), &set).expect(text);
        config.ignored_variables
    };
    assert_eq!(ignored(""), ["HTTPS_PROXY", "http_proxy"]);
    assert_eq!(config::builtin(&set).ignored_variables, ["HTTPS_PROXY", "http_proxy"]);
    for text in ["proxy: none", "proxy: environment", "proxy: http://p.test:3128"] {
        assert_eq!(ignored(text), Vec::<&str>::new(), "{text}");
    }
}

#[test]
fn a_well_known_name_brings_what_is_not_given() {
    let config =
        valid("upstreams:\n  docker.io:\n    url: http://127.0.0.1:9\n    aliases: [hub]\n");
    let hub = only(&config);
    assert_eq!(hub.url.as_str(), "http://127.0.0.1:9/");
    assert_eq!((hub.aliases.as_slice(), hub.library), (["hub".to_owned()].as_slice(), true));
    assert_eq!(hub.token_hosts, ["auth.docker.io"]);
    assert_eq!(only(&valid("upstreams: { quay.io: }")).page_limit, Some(100));
}

#[test]
fn any_other_name_says_where_it_is_and_brings_nothing() {
    let config = valid(
        "upstreams: { 'localhost:5005': { url: 'http://localhost:5005', tls_verify: false, page_limit: 7 } }",
    );
    let upstream = only(&config);
    assert_eq!(
        (upstream.name.as_str(), upstream.url.as_str()),
        ("localhost:5005", "http://localhost:5005/")
    );
    assert!(
        !upstream.tls_verify
            && !upstream.library
            && upstream.aliases.is_empty()
            && upstream.token_hosts.is_empty()
    );
    assert_eq!((upstream.page_limit, config.default_upstream.as_ref()), (Some(7), None));
    assert_eq!(
        only(&valid("upstreams: { registry.acme.test: {} }")).url.as_str(),
        "https://registry.acme.test/"
    );
}

#[test]
fn passwords_come_from_files_the_environment_and_docker() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        fs::write(&path, content).expect("writable");
        path.display().to_string()
    };
    let password = file("password", "from-file\r\n");
    let docker = file(
        "config.json",
        r#"{"auths": {"https://index.docker.io/v1/": {"auth": "aHViOmZyb20tZG9ja2Vy"}}}"#,
    );
    let config = valid(&format!(
        "allow_inline_secrets: true\nupstreams:\n  docker.io:\n    credentials:\n\
         \x20     - {{ docker_config: {docker} }}\n\
         \x20     - {{ images: 'a/*', username: file, password_file: {password} }}\n\
         \x20     - {{ images: 'a/longer/**', username: env, password_env: SET }}\n\
         \x20     - {{ images: 'a/b', username: inline, password: from-text }}\n"
    ));
    let found: Vec<_> = only(&config)
        .credentials
        .iter()
        .map(|c| (c.images.as_str(), fixed(c).0, fixed(c).1))
        .collect();
    assert_eq!(
        found,
        [
            ("a/longer/**", "env", "from-environment"),
            ("a/*", "file", "from-file"),
            ("a/b", "inline", "from-text"),
            ("**", "hub", "from-docker"),
        ]
    );
}

/// The credential of the only upstream in `text`, with this `PATH`.
fn login(text: &str, path: &Path) -> Result<Login, String> {
    let path = path.display().to_string();
    let config = config::parse(text, Path::new("config.yaml"), &|name| {
        (name == "PATH").then(|| path.clone())
    });
    config
        .map(|config| only(&config).credentials[0].login.clone())
        .map_err(|problems| problems.to_string())
}

#[test]
fn a_helper_is_found_on_the_path_or_by_its_own_and_asked_for_the_host() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("docker-credential-acme");
    // A program that nobody runs: a start finds helpers, and leaves them alone.
    fs::write(&program, "").expect("writable");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("ours");
    let text = |upstream: &str, keys: &str| {
        format!("upstreams: {{ {upstream}: {{ credentials: [{{ {keys} }}] }} }}")
    };
    let asked_for = |server: &str| {
        let (program, server) = (program.clone(), server.to_owned());
        Ok(Login::Helper { program, server, withheld: vec![] })
    };
    let absolute = format!("helper: {}", program.display());
    for (upstream, server) in [
        ("quay.io", "quay.io"),
        ("\"localhost:5005\"", "localhost:5005"),
        ("docker.io", "https://index.docker.io/v1/"),
    ] {
        for keys in ["helper: acme", &absolute] {
            assert_eq!(login(&text(upstream, keys), directory.path()), asked_for(server), "{keys}");
        }
    }
    let elsewhere = "upstreams: { acme.test: { url: 'https://acme.internal:5000', credentials: [{ helper: acme }] } }";
    assert_eq!(login(elsewhere, directory.path()), asked_for("acme.internal:5000"));

    let docker = directory.path().join("config.json");
    let keys = format!("docker_config: {}", docker.display());
    for (json, upstream, server) in [
        (r#"{"credHelpers": {"quay.io": "acme"}, "credsStore": "none"}"#, "quay.io", "quay.io"),
        (r#"{"auths": {"quay.io": {}}, "credsStore": "acme"}"#, "quay.io", "quay.io"),
        (r#"{"credHelpers": {"docker.io": "acme"}}"#, "docker.io", "https://index.docker.io/v1/"),
        (r#"{"credsStore": "acme"}"#, "docker.io", "https://index.docker.io/v1/"),
    ] {
        fs::write(&docker, json).expect("writable");
        assert_eq!(login(&text(upstream, &keys), directory.path()), asked_for(server), "{json}");
    }
    fs::write(&docker, r#"{"credsStore": "other"}"#).expect("writable");
    let message =
        login(&text("quay.io", &keys), directory.path()).expect_err("there is no such program");
    let expected = format!(
        "config.yaml:1: upstreams.quay.io.credentials[0].docker_config: {} names a helper: there is no program \
         docker-credential-other on the PATH; install it, or write its absolute path",
        docker.display()
    );
    assert_eq!(message, expected);
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let text = "\
listen: 5000
cache:
  max_size: 100G
  maxsize: 1
  tag_ttl: 5
upstreams:
  docker.io:
    credentials:
      - { username: robot, password: hunter2 }
      - { username: robot, password_file: /nonexistent/file, images: a* }
  Quay.io: {}
  acme.test:
    url: https://acme.test/v2
    aliases: [docker.io, a/b]
    tls_verify: yes
cache: {}
log:
  level: loud
";
    let problems = parse(text).expect_err("much is wrong").to_string();
    insta::assert_snapshot!(problems, @r#"
config.yaml:1: listen: "5000" is not an IP address with a port; write 127.0.0.1:5000 (every interface: 0.0.0.0:5000)
config.yaml:3: cache.max_size: "100G" is no size; write a whole number of bytes or one with KiB, MiB, GiB or TiB, as 100GiB
config.yaml:4: cache.maxsize: unknown key; did you mean max_size?
config.yaml:5: cache.tag_ttl: "5" is no duration; write a whole number with ms, s, m, h or d, as 5m
config.yaml:9: upstreams.docker.io.credentials[0].password: a secret stands in the file; use password_file or password_env, or say allow_inline_secrets: true
config.yaml:10: upstreams.docker.io.credentials[1].password_file: cannot read /nonexistent/file: No such file or directory (os error 2)
config.yaml:10: upstreams.docker.io.credentials[1].images: in "a*", * stands for a whole component, as in acme/*
config.yaml:11: upstreams.Quay.io: write it as quay.io
config.yaml:13: upstreams.acme.test.url: has more than scheme, host and port; write https://host or https://host:port, without /v2
config.yaml:14: upstreams.acme.test.aliases: docker.io stands for docker.io already; a name belongs to one upstream
config.yaml:14: upstreams.acme.test.aliases[1]: "a/b" cannot stand first in an image name; use letters and digits joined by . _ or -, as acme
config.yaml:15: upstreams.acme.test.tls_verify: should be true or false, without quotes, not text
config.yaml:16: cache: is given more than once; keep one
config.yaml:18: log.level: "loud" is no level; write off, error, warn, info, debug or trace, or as info,roadstead=debug
"#);
    assert!(!problems.contains("hunter2"));
}

#[test]
fn each_mistake_has_its_own_message() {
    let cases = include_str!("config_mistakes.txt").trim_end();
    for case in cases.split("\n---\n") {
        let (text, expected) = case.split_once("\n=> ").expect("a mistake and its message");
        assert_eq!(problem(text), expected, "{text}");
    }
}

#[test]
fn what_a_refusal_tells_to_write_is_accepted() {
    let message = problem("listen: 0.0.0.0:5000\nallow_plain_http: true\n");
    let advice = message.split_once("write ").expect("advice").1;
    let config = valid(&format!("listen: 0.0.0.0:5000\nallow_plain_http: true\n{advice}\n"));
    assert!(config.access.rules[0].allow.pull && config.access.rules[0].allow.list);
}

#[test]
fn a_file_that_is_missing_or_no_yaml_is_one_problem() {
    let missing = config::load(Path::new("/nonexistent/config.yaml")).expect_err("missing");
    assert_eq!(
        missing.to_string(),
        "/nonexistent/config.yaml: cannot be read: No such file or directory (os error 2)"
    );
    assert!(problem("listen: [\n").starts_with("2: is not valid YAML:"));
    assert!(problem("a: &a [*a]\n").contains("is not valid YAML"));
    let two = problem("listen: 127.0.0.1:5000\n---\nlisten: 127.0.0.1:5001\n");
    assert_eq!(two.trim_end(), "2: begins a second YAML document; keep one of them");
}

#[test]
fn an_empty_section_is_no_way_to_turn_it_on() {
    for text in ["tls:\nlisten: 0.0.0.0:443\nlicences: ~\n", "tls: {}\nlicences:\n"] {
        let told = parse(text).expect_err(text).to_string();
        for missing in ["tls: has no certificate", "tls: has no key", "licences: has no issuer"] {
            assert!(told.contains(missing), "{missing} in {told}");
        }
    }
}

#[test]
fn what_is_sold_is_not_open_to_everyone() {
    let sold = "applications: { myapp: { images: [\"quay.io/a/**\"], publishers: [\"certificate:dns:a.test\"] } }\n\
                tls: { certificate: a, key: b, client_ca: c }\n";
    assert!(valid(sold).access.rules.is_empty(), "without licences, too");
}

#[test]
fn identities_and_applications_are_read_into_their_types() {
    let config = valid(
        "tls: { certificate: a.crt, key: a.key, client_ca: ca.pem, client_auth: required }\n\
         hosts: [registry.example.com, { name: mirror.example.com, unknown_credentials: anonymous }, \"http://localhost\"]\n\
         upstreams: { registry.test: , quay.io: }\n\
         access:\n  users: users\n  trusted_proxies: [10.0.0.0/8]\n  rules:\n\
         \x20   - { who: \"user:a@b.test\", allow: [pull, push], images: [\"quay.io/**\"] }\n\
         \x20   - { who: \"licence:acme\", allow: [delete], applications: [myapp] }\n\
         \x20   - { who: \"certificate:dns:n.test\", allow: [list], images: [\"**\"], applications: [myapp] }\n\
         applications: { myapp: { images: [\"registry.test/myapp/**\"], publishers: [\"user:ci\"] } }\n\
         licences: { issuer: Acme Inc., public_keys: [a.pub, b.pub], revoked: revoked }\n",
    );
    let hosts: Vec<_> =
        config.hosts.iter().map(|host| (host.name.as_str(), host.plain_http)).collect();
    assert_eq!(
        hosts,
        [("registry.example.com", false), ("mirror.example.com", false), ("localhost", true)]
    );
    assert_eq!(config.hosts[1].unknown_credentials, UnknownCredentials::Anonymous);
    let tls = config.tls.expect("tls");
    assert_eq!(
        (tls.client_auth, tls.client_ca.as_deref()),
        (ClientAuth::Required, Some(Path::new("ca.pem")))
    );
    let who: Vec<_> = config.access.rules.iter().map(|rule| rule.who.clone()).collect();
    let certificate = Identity::Certificate(CertificateName::Dns("n.test".to_owned()));
    assert_eq!((&who[0], &who[2]), (&Identity::User("a@b.test".to_owned()), &certificate));
    assert!(config.access.rules[0].allow.push && !config.access.rules[0].allow.delete);
    assert_eq!(config.access.rules[1].applications[0].as_str(), "myapp");
    assert_eq!(config.applications[0].publishers, [Identity::User("ci".to_owned())]);
    assert_eq!(config.licences.expect("licences").public_keys.len(), 2);
}

#[test]
fn what_a_rejected_login_means_is_chosen_for_the_whole_upstream() {
    for (chosen, expected) in
        [("withhold", WhenRejected::Withhold), ("serve_stale", WhenRejected::ServeStale)]
    {
        let text = format!(
            "allow_inline_secrets: true\nupstreams: {{ quay.io: {{ when_rejected: {chosen}, \
             credentials: [{{ username: u, password: p }}] }} }}"
        );
        assert_eq!(only(&valid(&text)).credentials[0].when_rejected, expected);
    }
}
