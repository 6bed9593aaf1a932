//! Whose bytes are given to whom: what a credential has brought is another upstream's only when that
//! has sent it itself, or is trusted by name (DESIGN §14.1).

use roadstead::config::{self, Credential};
use roadstead::oci::{Digest, Pattern, UpstreamName};
use roadstead::secret::Secret;

use crate::support::content::Blob;
use crate::support::eventually;
use crate::support::image::{Image, OCI_MANIFEST};
use crate::support::origin::{Auth, Fault, Gate, Login, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};

const LOGIN: Login = Login { username: "ci", password: "secret" };

fn credential() -> Credential {
    let login = config::Login::Fixed {
        username: LOGIN.username.to_owned(),
        password: Secret::new(LOGIN.password.to_owned()),
    };
    let images = Pattern::parse("**").expect("a glob");
    Credential { images, login, when_rejected: config::WhenRejected::default() }
}

/// A private registry, which is the default, and another one, `other.test`.
struct Two {
    private: Origin,
    other: Origin,
    image: Image,
    proxy: Proxy,
}

impl Two {
    /// The image was pulled from the private one.
    async fn start(edit: impl FnOnce(&mut Setup)) -> Self {
        let image = Image::new(1, &[300_000]);
        let private = Origin::with("acme/app", "v1", &image).await;
        private.require(Auth::Basic(LOGIN));
        let other = Origin::start().await;
        let mut setup = Setup::new();
        setup.upstream("private.test", &private).credentials = vec![credential()];
        setup.upstream("other.test", &other);
        edit(&mut setup);
        let proxy = setup.start().await;
        let two = Self { private, other, image, proxy };
        assert_eq!(two.pull("private.test/acme/app").await, [200; 3]);
        for digest in two.digests() {
            eventually("it is stored", || two.proxy.has_stored(digest)).await;
        }
        two
    }

    fn digests(&self) -> [&Digest; 2] {
        [&self.image.manifest.digest, &self.image.layers[0].digest]
    }

    /// By tag, by digest, and the layer.
    async fn pull(&self, name: &str) -> [u16; 3] {
        let [by_digest, layer] = self.digests();
        let paths = [manifest(name, "v1"), manifest(name, by_digest), blob(name, layer)];
        let mut statuses = [0; 3];
        for (status, path) in statuses.iter_mut().zip(paths) {
            let answer = self.proxy.get(&path).await;
            if answer.status == 200 && path.contains("/blobs/") {
                assert_eq!(answer.digest(), *layer);
            }
            *status = answer.status;
        }
        statuses
    }

    /// The other registry says of everything that it has it, and has nothing.
    fn lie(&self) {
        let [of_manifest, _] = self.digests();
        for path in ["v1".to_owned(), of_manifest.to_string()] {
            let claim = || On::path(format!("evil/app/manifests/{path}")).heads();
            self.other.fault(claim(), Fault::Instead(200, OCI_MANIFEST, bytes_of(&self.image)));
            let digest = Some(of_manifest.to_string());
            self.other.fault(claim(), Fault::Header("Docker-Content-Digest", digest));
        }
        claim(&self.other, &self.image.layers[0]);
    }
}

/// This registry says that it has the layer, and does not.
fn claim(origin: &Origin, layer: &Blob) {
    let head = On::path(format!("evil/app/blobs/{}", layer.digest)).heads();
    origin.fault(head, Fault::Instead(200, "application/octet-stream", layer.bytes()));
}

fn bytes_of(image: &Image) -> bytes::Bytes {
    image.manifest.bytes.clone()
}

fn shares_with(setup: &mut Setup, name: &str) {
    setup.config.upstreams[0].shares_with = vec![UpstreamName::parse(name).expect("a name")];
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_only_says_that_it_has_it_is_given_nothing() {
    let mut two = Two::start(|_| {}).await;
    two.lie();
    for restarted in [false, true] {
        assert_eq!(two.pull("other.test/evil/app").await, [404; 3], "restarted: {restarted}");
        let [of_manifest, layer] = two.digests();
        // A HEAD tells what that upstream says, which its readers may know.
        two.proxy.head(&blob("other.test/evil/app", layer)).await;
        two.proxy.head(&manifest("other.test/evil/app", of_manifest)).await;
        two.proxy.head(&manifest("other.test/evil/app", "v1")).await;
        assert_eq!(two.pull("other.test/evil/app").await, [404; 3], "once it is proven too");
        let part = two.proxy.get_range(&blob("other.test/evil/app", layer), "bytes=0-9").await;
        assert_eq!(part.status, 404);
        two.proxy.restart().await;
    }
    assert_eq!(two.pull("private.test/acme/app").await, [200; 3], "and nobody else loses it");
    assert_eq!(two.private.blob_gets(two.digests()[1]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_with_a_credential_of_its_own_is_believed_no_more() {
    let two = Two::start(|setup| setup.config.upstreams[1].credentials = vec![credential()]).await;
    two.other.require(Auth::Basic(LOGIN));
    two.lie();
    assert_eq!(two.pull("other.test/evil/app").await, [404; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_has_sent_itself_it_is_given_from_the_cache() {
    let mut two = Two::start(|_| {}).await;
    two.other.push("acme/app", "v1", &two.image);
    let used = two.proxy.metric("roadstead_store_bytes", &[]);
    assert_eq!(two.pull("other.test/acme/app").await, [200; 3]);
    let layer = two.image.layers[0].digest.clone();
    assert_eq!(two.other.blob_gets(&layer), 1, "hashed once");
    noted(&two.proxy).await;
    assert_eq!(two.proxy.metric("roadstead_store_bytes", &[]), used, "and not stored twice");
    assert_eq!(two.pull("other.test/acme/app").await, [200; 3]);
    // Also from another repository of it, which proves its right with a HEAD.
    two.other.push("acme/fork", "v1", &two.image);
    assert_eq!(two.pull("other.test/acme/fork").await, [200; 3]);
    two.proxy.restart().await;
    assert_eq!(two.pull("other.test/acme/app").await, [200; 3]);
    assert_eq!(two.other.blob_gets(&layer), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_named_is_believed_and_no_other() {
    let two = Two::start(|setup| shares_with(setup, "other.test")).await;
    two.other.push("acme/app", "v1", &two.image);
    assert_eq!(two.pull("other.test/acme/app").await, [200; 3]);
    let layer = &two.image.layers[0].digest;
    assert_eq!(two.other.blob_gets(layer), 0, "the right is proven, and the bytes are here");

    // It is a word of the one whose bytes they are.
    let two = Two::start(|setup| {
        let mut names = setup.config.upstreams.iter().map(|upstream| upstream.name.clone());
        let private = names.next().expect("two upstreams");
        setup.config.upstreams[1].shares_with = vec![private];
    })
    .await;
    two.lie();
    assert_eq!(two.pull("other.test/evil/app").await, [404; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_without_a_credential_is_everybodys() {
    let image = Image::new(1, &[300_000]);
    let (open, other) = (Origin::with("a/b", "v1", &image).await, Origin::start().await);
    other.push("c/d", "v1", &image);
    other.require(Auth::Basic(LOGIN));
    let mut setup = Setup::new();
    setup.upstream("open.test", &open);
    setup.upstream("private.test", &other).credentials = vec![credential()];
    let proxy = setup.start().await;
    let layer = &image.layers[0].digest;
    assert_eq!(proxy.get(&manifest("open.test/a/b", "v1")).await.status, 200);
    assert_eq!(proxy.get(&blob("open.test/a/b", layer)).await.status, 200);
    eventually("it is stored", || proxy.has_stored(layer)).await;
    assert_eq!(proxy.get(&manifest("private.test/c/d", "v1")).await.status, 200);
    assert_eq!(proxy.get(&blob("private.test/c/d", layer)).await.digest(), *layer);
    assert_eq!(other.blob_gets(layer), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_credential_has_brought_is_public_once_anybody_gives_it_without_one() {
    let two = Two::start(|setup| {
        let third = setup.config.upstreams[1].clone();
        let name = UpstreamName::parse("third.test").expect("a name");
        setup.config.upstreams.push(config::Upstream {
            name,
            credentials: vec![credential()],
            ..third
        });
    })
    .await;
    two.other.push("acme/app", "v1", &two.image);
    assert_eq!(two.pull("other.test/acme/app").await, [200; 3]);
    let layer = &two.image.layers[0].digest;
    noted(&two.proxy).await;
    assert_eq!(two.pull("third.test/acme/app").await, [200; 3]);
    assert_eq!(two.other.blob_gets(layer), 1, "the same registry by another name, by HEAD alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_others_wait_for_is_joined_by_readers_of_its_own_upstream_alone() {
    let private = Origin::start().await;
    let layer: Blob = private.blob("acme/app", 1, 4 << 20);
    private.require(Auth::Basic(LOGIN));
    let other = Origin::start().await;
    let gate = private.hold_at(&layer.digest, 1 << 20);
    let mut setup = Setup::new();
    setup.upstream("private.test", &private).credentials = vec![credential()];
    setup.upstream("other.test", &other);
    let proxy = setup.start().await;
    let mut first = proxy.open(&blob("private.test/acme/app", &layer.digest)).await;
    first.read(1).await;
    claim(&other, &layer);
    assert_eq!(proxy.open(&blob("other.test/evil/app", &layer.digest)).await.status(), 404);
    gate.open();
    assert_eq!(first.finish().await.digest(), layer.digest);
    assert_eq!(proxy.get(&blob("private.test/acme/app", &layer.digest)).await.status, 200);
}

/// The private registry, with its login or without, and the other one.
fn written(private: &Origin, other: &Origin, credentials: &str) -> String {
    let (private, other) = (private.url(), other.url());
    format!(
        "cache: {{ path: CACHE }}\nupstreams:\n  private.test: {{ url: '{private}'{credentials} }}\n  \
         other.test: {{ url: '{other}' }}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_login_has_brought_any_part_of_stays_private_when_logins_change_meanwhile() {
    // The login goes while the answer that it has brought is on its way, or comes when a part of
    // the bytes is here.
    for begins_with_login in [true, false] {
        let (private, other) = (Origin::start().await, Origin::start().await);
        let layer: Blob = private.blob("acme/app", 1, 4 << 20);
        let (gate, once) = (Gate::new(), || On::path(&layer.digest).gets().once());
        if begins_with_login {
            private.require(Auth::Basic(LOGIN));
            let answered = On::path(&layer.digest).gets();
            private.fault(answered, Fault::HoldHead(gate.clone()));
        } else {
            private.fault(once(), Fault::HoldAt(1 << 20, gate.clone()));
            private.fault(once(), Fault::CutAfter(2 << 20));
        }
        let beside = Setup::new();
        let password = beside.file("password", LOGIN.password).display().to_string();
        let text = |with_login: bool| {
            let login = format!(", credentials: [{{ username: ci, password_file: '{password}' }}]");
            written(&private, &other, if with_login { &login } else { "" })
        };
        let proxy = Setup::written(&text(begins_with_login)).start().await;
        let path = blob("private.test/acme/app", &layer.digest);
        let (answer, ()) = tokio::join!(proxy.get(&path), async {
            eventually("it is under way", || gate.reached() > 0).await;
            if !begins_with_login {
                private.require(Auth::Basic(LOGIN));
            }
            assert_eq!(proxy.reconfigure(&text(!begins_with_login)).await, (1, 0));
            gate.open();
        });
        assert_eq!(answer.digest(), layer.digest);
        eventually("it is stored", || proxy.has_stored(&layer.digest)).await;
        noted(&proxy).await;
        claim(&other, &layer);
        let theirs = proxy.get(&blob("other.test/evil/app", &layer.digest)).await;
        assert_eq!(theirs.status, 404, "begins with login: {begins_with_login}");
    }
}

/// A proxy whose records were lost since it has pulled a layer from `first.test`, beside which there
/// is another upstream.
struct Forgetful {
    first: Origin,
    layer: Digest,
    proxy: Proxy,
}

impl Forgetful {
    async fn start(edit: impl FnOnce(&mut Setup)) -> Self {
        let image = Image::new(1, &[300_000]);
        let (first, other) = (Origin::with("a/b", "v1", &image).await, Origin::start().await);
        let mut setup = Setup::new();
        setup.upstream("first.test", &first);
        setup.upstream("other.test", &other).credentials = vec![credential()];
        edit(&mut setup);
        let proxy = setup.start().await;
        let mut it = Self { first, layer: image.layers[0].digest.clone(), proxy };
        it.pull().await;
        eventually("it is stored", || it.proxy.has_stored(&it.layer)).await;
        it.proxy.stop().await;
        lose_records(&it.proxy);
        it.proxy.start().await;
        it
    }

    /// How often it was downloaded by then.
    async fn pull(&self) -> usize {
        let answer = self.proxy.get(&blob("first.test/a/b", &self.layer)).await;
        assert_eq!(answer.digest(), self.layer);
        noted(&self.proxy).await;
        self.first.blob_gets(&self.layer)
    }
}

/// Of an upstream that may be asked without any login, nothing is another's secret.
#[tokio::test(flavor = "multi_thread")]
async fn lost_records_cost_downloads_only_where_it_may_be_what_a_login_has_brought() {
    for with_login in [false, true] {
        let it = Forgetful::start(|setup| {
            setup.config.upstreams[1].credentials.truncate(usize::from(with_login));
        })
        .await;
        let downloads = if with_login { 2 } else { 1 };
        assert_eq!([it.pull().await, it.pull().await], [downloads; 2]);
    }
}

/// Of content that is hashed while its reader follows, nothing is recorded before that.
#[tokio::test(flavor = "multi_thread")]
async fn lost_records_cost_large_content_one_download_whenever_it_restarts_again() {
    for read_again in [true, false] {
        let mut it = Forgetful::start(|setup| setup.limits.manifest = 100_000).await;
        for _ in 0..=usize::from(read_again) {
            assert_eq!(it.pull().await, 2, "nobody is known to have sent it");
        }
        it.proxy.restart().await;
        assert_eq!(it.pull().await, 2, "read again: {read_again}");
    }
}

/// Downloads have ended, and what they bring is recorded.
async fn noted(proxy: &Proxy) {
    eventually("it is noted", || proxy.metric("roadstead_fills_in_flight", &[]) == 0).await;
}

fn lose_records(proxy: &Proxy) {
    for suffix in ["", "-wal", "-shm"] {
        let file = proxy.directory().join(format!("cache/records.sqlite{suffix}"));
        drop(std::fs::remove_file(file));
    }
}
