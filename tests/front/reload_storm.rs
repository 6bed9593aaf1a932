//! A campaign: configuration, users, certificate and revocations are replaced at random moments, a
//! part of them broken or half-written, while clients pull and others try what they may not. No
//! allowed request fails, no forbidden one passes, and after each step exactly what was right last
//! is in use (ACCESS §8).
//!
//! `./test` runs a few steps, `RELOADS=1000` as many as that.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use roadstead::clock::Timestamp;
use roadstead::licence::{Licence, LicenceId, PrivateKey, revocation_line};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::TLS13;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::image::Image;
use crate::support::origin::{Auth, Login, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::tls::{Authority, client, handshake, handshakes};
use crate::support::vendor::{DAY, basic, slug};

/// Steps of the short campaign.
const RELOADS: u64 = 12;

const PARTS: [&str; 4] = ["configuration", "users", "tls", "revocations"];
const SECRET: &str = "registry.test/hidden/secret";

/// Between two looks of the test, and two pulls of a client.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a reload may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }

    /// A beginning of `text`, but not all of it.
    fn cut<'a>(&mut self, text: &'a str) -> &'a str {
        &text[..self.below(text.len())]
    }
}

/// What was loaded last.
#[derive(Default)]
struct Expected {
    /// A rule lets `team` pull.
    team: bool,
    /// The user `guest` exists.
    guest: bool,
    certificate: String,
    /// How many licences have been revoked; none of them is ever good again.
    revoked: usize,
}

/// The files, and what they are made of.
struct Storm {
    files: Setup,
    directory: PathBuf,
    authority: Arc<Authority>,
    hub: String,
    registry: String,
    hash: String,
    key: PrivateKey,
    random: Random,
    expected: Expected,
    /// Headers of customers whose licences are revoked, the newest last.
    revoked: Arc<Mutex<Vec<String>>>,
    replaced: usize,
    broken: usize,
}

impl Storm {
    fn new(hub: &Origin, registry: &Origin) -> Self {
        let (files, key) = (Setup::new(), PrivateKey::generate().expect("randomness"));
        let public = files.file("licence.pub", &key.public().to_pem());
        let mut storm = Self {
            files,
            directory: public.parent().expect("a folder").to_owned(),
            authority: Arc::new(Authority::new()),
            hub: hub.url().to_string(),
            registry: registry.url().to_string(),
            hash: bcrypt::hash("secret", 4).expect("a hash"),
            key,
            random: Random(0x9e37_79b9_7f4a_7c15),
            expected: Expected::default(),
            revoked: Arc::default(),
            replaced: 0,
            broken: 0,
        };
        storm.files.file("password", "first");
        storm.files.file("revoked", "");
        storm.users(false);
        storm.certificate(false);
        storm
    }

    /// The configuration: `[key, value]` each, in YAML's flow style, of which no beginning is valid.
    fn entries(&mut self, rules: &str) -> Vec<String> {
        let directory = self.directory.display();
        let quay = ["", ", quay.io: {}"][self.random.below(2)];
        let (ttl, size) = (1 + self.random.below(9), ["2MiB", "1GiB"][self.random.below(2)]);
        let (hub, registry) = (&self.hub, &self.registry);
        let login = format!("username: proxy, password_file: '{directory}/password'");
        [
            format!("cache: {{ path: CACHE, min_free: 0, tag_ttl: {ttl}m, max_size: {size} }}"),
            format!("upstreams: {{ docker.io: {{ url: '{hub}' }}, registry.test: {{ url: '{registry}', credentials: [{{ {login} }}] }}{quay} }}"),
            format!("tls: {{ certificate: '{directory}/tls.crt', key: '{directory}/tls.key' }}"),
            "hosts: [127.0.0.1]".to_owned(),
            format!("licences: {{ issuer: Acme, public_keys: ['{directory}/licence.pub'], revoked: '{directory}/revoked' }}"),
            "applications: { myapp: { images: [registry.test/myapp/*] } }".to_owned(),
            format!("access: {{ users: '{directory}/users', rules: [{rules}] }}"),
        ]
        .into()
    }

    fn rules(team: bool) -> String {
        let may = |who: &str, image: &str| {
            format!("{{ who: 'user:{who}', allow: [pull], images: ['docker.io/library/{image}'] }}")
        };
        let mut rules = vec![may("ci", "a"), may("guest", "b")];
        rules.extend(team.then(|| may("team", "b")));
        rules.join(", ")
    }

    /// What the proxy begins with.
    fn first_text(&mut self) -> String {
        self.entries(&Self::rules(false)).join("\n")
    }

    fn configuration(&mut self, proxy: &Proxy, broken: bool) {
        let team = self.random.below(2) == 0;
        let mut entries = self.entries(&Self::rules(team));
        let path = proxy.directory().join("config.yaml");
        let kind = if broken { self.random.below(6) } else { usize::MAX };
        match kind {
            0 => entries.push("upstreamz: {}".to_owned()),
            1 => drop(entries.pop()),
            2 => {
                let all = "{ who: anonymous, allow: [pull], images: ['**'] }, ";
                entries.pop();
                entries.push(
                    self.entries(&format!("{all}{}", Self::rules(team))).pop().expect("access"),
                );
            }
            _ => {}
        }
        let cache = proxy.directory().join("cache");
        let text = format!("{{ listen: 127.0.0.1:0, admin: 127.0.0.1:0, {} }}", entries.join(", "));
        let text = text.replace("CACHE", &cache.display().to_string());
        match kind {
            3 => std::fs::remove_file(path).unwrap_or_default(),
            4 => write(&path, self.random.cut(&text)),
            5 => write(&path, "\0\u{feff}: ["),
            _ if broken => write(&path, &text),
            _ => {
                // Somebody looks while it is being written, or not.
                write(&path, self.random.cut(&text));
                if self.random.below(2) == 0 {
                    proxy.reload();
                }
                write(&path, &text);
                self.expected.team = team;
            }
        }
    }

    fn users(&mut self, broken: bool) {
        let guest = self.random.below(2) == 0;
        let line = |name: &str| format!("{name}:{}\n", self.hash);
        let guests = if guest { line("guest") } else { String::new() };
        let text = format!("{}{}{guests}", line("ci"), line("team"));
        let path = self.directory.join("users");
        match self.random.below(3) {
            _ if !broken => {
                self.files.file("users", &text);
                self.expected.guest = guest;
            }
            0 => std::fs::remove_file(path).unwrap_or_default(),
            1 => write(&path, &text[..self.hash.len() - 5]),
            _ => write(&path, &format!("nonsense\n{text}")),
        }
    }

    fn certificate(&mut self, broken: bool) {
        let (certificate, key) = self.authority.issue("registry.test");
        match self.random.below(3) {
            _ if !broken => {
                self.files.file("tls.crt", &certificate);
                self.files.file("tls.key", &key);
                self.expected.certificate = certificate;
            }
            // Of another key.
            0 => drop(self.files.file("tls.crt", &certificate)),
            1 => drop(self.files.file("tls.key", self.random.cut(&key))),
            _ => drop(self.files.file("tls.crt", "")),
        }
    }

    /// One more licence is revoked, in a list that may have lost all others.
    fn revocations(&mut self, proxy: &Proxy, broken: bool) {
        let path = self.directory.join("revoked");
        if broken && self.random.below(2) == 0 {
            return std::fs::remove_file(path).unwrap_or_default();
        }
        let id = format!("customer-{}", self.expected.revoked);
        let revoked = revocation_line(
            &LicenceId::parse(&id).expect("an id"),
            proxy.clock().now(),
            Some("storm"),
        );
        let wrong = if broken { "customer yesterday\n" } else { "" };
        self.files.file("revoked", &format!("{wrong}{revoked}"));
        let licence = self.licence(&id, proxy.clock().now());
        self.revoked.lock().expect("no panic").push(licence);
        self.expected.revoked += 1;
    }

    /// The header of a customer whose licence began a day ago.
    fn licence(&self, id: &str, now: Timestamp) -> String {
        let now = Timestamp::from_unix(Duration::from_secs(now.unix().as_secs()));
        let yesterday = Timestamp::from_unix(now.unix().saturating_sub(DAY));
        let licence = Licence {
            id: LicenceId::parse(id).expect("an id"),
            issuer: "Acme".to_owned(),
            customer: "Customer".to_owned(),
            email: None,
            applications: vec![slug("myapp")],
            hosts: vec!["127.0.0.1".to_owned()],
            issued: yesterday,
            not_before: yesterday,
            expires: now.plus(300 * DAY),
        };
        basic(id, &self.key.sign(&licence).expect("a licence"))
    }

    /// Replaces one or two parts.
    fn step(&mut self, proxy: &Proxy) {
        let first = self.random.below(4);
        let second = (first + self.random.below(4)) % 4;
        for part in [first, second].into_iter().take(if first == second { 1 } else { 2 }) {
            let broken = self.random.below(4) == 0;
            match part {
                0 => self.configuration(proxy, broken),
                1 => self.users(broken),
                2 => self.certificate(broken),
                _ => self.revocations(proxy, broken),
            }
            self.replaced += 1;
            self.broken += usize::from(broken);
            if self.random.below(2) == 0 {
                proxy.reload();
            }
        }
    }

    /// Exactly what was right last is in use.
    async fn check(&self, proxy: &Proxy, asker: &Asker) {
        let b = manifest("library/b", 1);
        for (user, allowed) in [("team", self.expected.team), ("guest", self.expected.guest)] {
            let status = asker.ask(&basic(user, "secret"), &b).await.0;
            assert_eq!(status == 200, allowed, "{user}: {status}");
        }
        let newest = self.revoked.lock().expect("no panic").last().cloned();
        if let Some(newest) = newest {
            let status = asker.ask(&newest, &manifest("registry.test/myapp/worker", 1)).await.0;
            assert_eq!(status, 401, "revoked");
        }
        let connector = handshakes(&self.authority, &[&TLS13], b"http/1.1", None);
        let stream = handshake(&connector, proxy).await.expect("a handshake");
        let shown = stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone();
        let expected = CertificateDer::from_pem_slice(self.expected.certificate.as_bytes());
        assert!(shown == expected.expect("PEM"), "another certificate");
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("writable");
}

/// Asks, on connections with the certificate of their moment.
#[derive(Clone)]
struct Asker {
    authority: Arc<Authority>,
    base: String,
    client: reqwest::Client,
}

impl Asker {
    fn new(authority: Arc<Authority>, base: String) -> Self {
        let client = client(&authority, None, true);
        Self { authority, base, client }
    }

    /// The same with a new connection.
    fn anew(&self) -> Self {
        Self::new(Arc::clone(&self.authority), self.base.clone())
    }

    async fn ask(&self, authorization: &str, path: &str) -> (u16, Bytes) {
        let mut request = self.client.get(format!("{}{path}", self.base));
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        let answer = request.send().await.unwrap_or_else(|error| panic!("{path}: {error:?}"));
        let status = answer.status().as_u16();
        (status, answer.bytes().await.unwrap_or_else(|error| panic!("{path}: {error:?}")))
    }

    /// All of an image; every byte has to be right.
    async fn pull(&self, authorization: &str, repository: &str, image: &Image) {
        let mut expected = vec![(manifest(repository, 1), image.manifest.bytes.clone())];
        for layer in &image.layers {
            expected.push((blob(repository, &layer.digest), layer.bytes()));
        }
        for (path, bytes) in expected {
            let (status, body) = self.ask(authorization, &path).await;
            assert_eq!(
                status,
                200,
                "{path}: {}",
                String::from_utf8_lossy(&body[..body.len().min(300)])
            );
            assert!(body == bytes, "{path}: {} bytes", body.len());
        }
    }
}

/// Everything on disk has been looked at since this was called. A first round may have begun before.
async fn settle(proxy: &Proxy) {
    let looks = || PARTS.map(|part| proxy.metric("roadstead_reloads_total", &[("part", part)]));
    for _ in 0..2 {
        let before = looks();
        proxy.reload();
        let end = Instant::now() + PATIENCE;
        while !looks().iter().zip(before).all(|(now, before)| *now > before) {
            assert!(Instant::now() < end, "not everything is looked at");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Until it is stopped: what nobody may have, and what those may not have any more who are revoked.
async fn try_what_is_forbidden(
    asker: Asker,
    forbidden: [(String, String); 8],
    revoked: Arc<Mutex<Vec<String>>>,
    stopped: Arc<AtomicBool>,
    counted: Arc<AtomicU64>,
) {
    let mut random = Random(7);
    while !stopped.load(Ordering::Relaxed) {
        let trying = asker.anew();
        tokio::time::sleep(PAUSE).await;
        // The newest may not be loaded yet.
        let taken_back = {
            let revoked = revoked.lock().expect("no panic");
            let known = revoked.len().saturating_sub(1);
            (known > 0).then(|| revoked[random.below(known)].clone())
        };
        let taken_back =
            taken_back.map(|header| (header, manifest("registry.test/myapp/worker", 1)));
        for (authorization, path) in forbidden.iter().chain(&taken_back) {
            let (status, _) = trying.ask(authorization, path).await;
            assert!(matches!(status, 401 | 403 | 404 | 429), "{path}: {status}");
            // Whoever has guessed too often is not even judged.
            counted.fetch_add(u64::from(status != 429), Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_reloads_fails_nothing_that_is_allowed_and_lets_nothing_else_pass() {
    let told = std::env::var("RELOADS").ok();
    let steps = told.map_or(RELOADS, |told| told.parse().expect("RELOADS is a number"));
    let (a, worker) = (Image::new(1, &[900_000, 200_000]), Image::new(3, &[300_000]));
    let hidden = Image::new(4, &[70_000]);
    let hub = Origin::with("library/a", "1", &a).await;
    hub.push("library/b", "1", &Image::new(2, &[1000]));
    let registry = Origin::with("myapp/worker", "1", &worker).await;
    registry.push("hidden/secret", "1", &hidden);
    registry.require(Auth::Basic(Login { username: "proxy", password: "first" }));

    let mut storm = Storm::new(&hub, &registry);
    let mut setup = Setup::written(&storm.first_text());
    setup.limits.watch = Duration::from_millis(20);
    setup.limits.good_again = Duration::from_hours(24);
    let proxy = setup.start().await;
    let base = format!("https://{}", proxy.authority());
    let asker = Asker::new(Arc::clone(&storm.authority), base);
    let (ci, customer) = (basic("ci", "secret"), storm.licence("good", proxy.clock().now()));
    // What is asked for below other names, or by others, once its bytes are here.
    let secret = &hidden.layers[0].digest;
    let forbidden = [
        (String::new(), manifest("library/a", 1)),
        (ci.clone(), manifest(SECRET, 1)),
        (ci.clone(), blob("library/a", secret)),
        (ci.clone(), manifest("registry.test/myapp/worker", 1)),
        (customer.clone(), manifest(SECRET, 1)),
        (customer.clone(), manifest("library/a", 1)),
        (basic("ci", "wrong"), manifest("library/a", 1)),
        (basic("nobody", "secret"), manifest("library/b", 1)),
    ];

    let stop = Arc::new(AtomicBool::new(false));
    let (pulls, probes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut busy = JoinSet::new();
    for (authorization, repository, image) in
        [(ci, "library/a", a), (customer, "registry.test/myapp/worker", worker)]
    {
        let (asker, stop, pulls) = (asker.clone(), Arc::clone(&stop), Arc::clone(&pulls));
        busy.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                asker.anew().pull(&authorization, repository, &image).await;
                tokio::time::sleep(PAUSE).await;
                pulls.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let (trying, stopped, counted) = (asker.clone(), Arc::clone(&stop), Arc::clone(&probes));
    let revoked = Arc::clone(&storm.revoked);
    busy.spawn(try_what_is_forbidden(trying, forbidden, revoked, stopped, counted));
    let began = Instant::now();
    for step in 0..steps {
        storm.step(&proxy);
        settle(&proxy).await;
        storm.check(&proxy, &asker.anew()).await;
        // Tags and rights are asked for again.
        proxy.clock().advance(Duration::from_mins(10));
        assert!(busy.try_join_next().is_none(), "step {step}: somebody has ended");
    }
    stop.store(true, Ordering::Relaxed);
    busy.join_all().await;
    let outcome = |word| proxy.metric("roadstead_reloads_total", &[("outcome", word)]);
    println!(
        "reloads: {steps} steps replaced {} parts, {} of them broken; {} loaded, {} refused; {} pulls, all right; {} tries of others, all refused; {} s",
        storm.replaced,
        storm.broken,
        outcome("loaded"),
        outcome("refused"),
        pulls.load(Ordering::Relaxed),
        probes.load(Ordering::Relaxed),
        began.elapsed().as_secs()
    );
    let [pulls, probes] = [pulls, probes].map(|count| count.load(Ordering::Relaxed));
    assert!(pulls > 0 && probes > 0, "{pulls} and {probes}");
}
