//! Out of a network whose only way out is a proxy: everything goes through it, nothing beside it,
//! and what it says is not taken for the registry's word.

use std::net::SocketAddr;
use std::time::Duration;

use roadstead::config::{DialTarget, DirectHost, ForwardProxy, Upstream, WayOut};
use roadstead::secret::Secret;
use url::Url;

use crate::support::forward::{Forward, Says};
use crate::support::image::Image;
use crate::support::origin::{Auth, Bearer, Fault, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::tls::{Authority, acceptor, in_front_of};
use crate::support::{eventually, soon};

/// `me:hunter2`.
const LOGIN: &str = "Basic bWU6aHVudGVyMg==";

/// A registry at `https://acme.test` that only the proxy of the network can reach.
struct Network {
    origin: Origin,
    image: Image,
    forward: Forward,
    authority: Authority,
    /// The registry, with TLS.
    secure: SocketAddr,
}

impl Network {
    async fn new() -> Self {
        Self::behind(Forward::start().await).await
    }

    async fn behind(forward: Forward) -> Self {
        let image = Image::new(1, &[300_000]);
        let origin = Origin::with("a/b", "v1", &image).await;
        let authority = Authority::new();
        let plain = origin.authority().parse().expect("an address");
        let secure = in_front_of(plain, acceptor(authority.issue("acme.test"))).await;
        forward.knows("acme.test:443", secure);
        forward.knows("acme.test", plain);
        Self { origin, image, forward, authority, secure }
    }

    fn way_out(&self, scheme: &str, login: Option<&str>) -> WayOut {
        let url = Url::parse(&format!("{scheme}://{}", self.forward.address)).expect("a URL");
        let authorization = login.map(|value| Secret::new(value.to_owned()));
        let ca = (scheme == "https").then(|| self.authority.pem().into_bytes());
        let proxy = ForwardProxy { url, authorization, ca };
        WayOut { http: Some(proxy.clone()), https: Some(proxy), direct: Vec::new() }
    }

    /// A roadstead in this network; `change` has the last word about its upstream.
    async fn proxy(&self, change: impl FnOnce(&mut Upstream)) -> Proxy {
        let mut setup = Setup::new();
        let upstream = setup.upstream("acme.test", &self.origin);
        upstream.url = Url::parse("https://acme.test").expect("a URL");
        upstream.ca = Some(self.authority.pem().into_bytes());
        upstream.way_out = self.way_out("http", None);
        change(upstream);
        setup.start().await
    }

    async fn pulls(&self, proxy: &Proxy) {
        let got = proxy.get(&manifest("a/b", "v1")).await;
        assert_eq!(got.body, self.image.manifest.bytes, "{got:?}");
        let layer = &self.image.layers[0];
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
        assert_eq!(proxy.lookups(), Vec::<String>::new(), "names are the proxy's to look up");
    }
}

/// How often requests got no answer for this cause.
fn unanswered(proxy: &Proxy, cause: &str) -> i64 {
    proxy.metric("roadstead_upstream_unanswered_total", &[("cause", cause)])
}

fn breaker_open(proxy: &Proxy) -> i64 {
    proxy.metric("roadstead_upstream_breaker_open", &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_token_and_storage_are_reached_through_the_proxy() {
    let network = Network::new().await;
    for host in ["auth.acme.test", "cdn.example"] {
        let plain = network.origin.authority().parse().expect("an address");
        let tls = acceptor(network.authority.issue(host));
        network.forward.knows(&format!("{host}:443"), in_front_of(plain, tls).await);
    }
    let realm = Some("https://auth.acme.test/token".to_owned());
    network.origin.require(Auth::Bearer(Bearer { realm, ..Bearer::default() }));
    let storage = Fault::Redirect("https://cdn.example/storage/{digest}".to_owned());
    network.origin.fault(On::kind(Kind::Blob), storage);
    let proxy =
        network.proxy(|upstream| upstream.token_hosts.push("auth.acme.test".to_owned())).await;
    network.pulls(&proxy).await;
    let lines = ["CONNECT acme.test:443", "CONNECT auth.acme.test:443", "CONNECT cdn.example:443"];
    assert_eq!(network.forward.lines(), lines);
    assert!(
        network.forward.asked().iter().all(|asked| !asked.headers.contains_key("authorization"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_is_shown_to_the_proxy_alone() {
    let network = Network::new().await;
    network.forward.wants(LOGIN);
    let proxy =
        network.proxy(|upstream| upstream.way_out = network.way_out("http", Some(LOGIN))).await;
    network.pulls(&proxy).await;
    let seen = network.origin.requests();
    assert!(seen.iter().all(|request| request.header("proxy-authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_speaks_tls_is_verified_by_its_own_authority() {
    let authority = Authority::new();
    let forward = Forward::with(Some(acceptor(authority.issue("proxy.test")))).await;
    let network = Network { authority, ..Network::behind(forward).await };
    // The registry's certificate is of the other authority, which the proxy is not trusted by.
    let secure = acceptor(network.authority.issue("acme.test"));
    let plain = network.origin.authority().parse().expect("an address");
    network.forward.knows("acme.test:443", in_front_of(plain, secure).await);
    let trusted = network.proxy(|upstream| upstream.way_out = network.way_out("https", None)).await;
    network.pulls(&trusted).await;
    let untrusted = network
        .proxy(|upstream| {
            upstream.way_out = network.way_out("https", None);
            for proxy in [&mut upstream.way_out.http, &mut upstream.way_out.https] {
                proxy.as_mut().expect("there is one").ca = None;
            }
            // Neither the upstream's authority nor its leave not to verify is about the proxy.
            upstream.tls_verify = false;
        })
        .await;
    let answer = untrusted.get(&manifest("a/b", "v1")).await;
    assert_eq!(answer.status, 502);
    assert!(answer.message().ends_with("the outbound proxy cannot be reached"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_proxy_says_is_not_the_registrys_word() {
    let network = Network::new().await;
    let proxy = network.proxy(|_| ()).await;
    network.pulls(&proxy).await;
    eventually("it is stored", || proxy.has_stored(&network.image.layers[0].digest)).await;
    proxy.clock().advance(Duration::from_hours(1));
    network.origin.hang_up();
    for (says, cause, clause) in [
        (407, "proxy_login", "the outbound proxy wants another login (407)"),
        (403, "proxy_forbids", "the outbound proxy does not let us go there (403)"),
        (400, "proxy_failed", "the outbound proxy cannot get there"),
    ] {
        network.forward.says(Says::Status(says));
        for n in 1..5 {
            let answer = proxy.get(&manifest("a/b", format!("never-{says}-{n}"))).await;
            assert_eq!(answer.refusal(), (502, "UNAVAILABLE".into()));
            let message = format!("the upstream registry cannot be reached: {clause}");
            assert_eq!(answer.message(), message);
            assert_eq!(unanswered(&proxy, cause), n, "{cause}: each asks once");
        }
        assert_eq!(breaker_open(&proxy), 0, "{says} is no fault of the upstream");
        let stale = proxy.get(&manifest("a/b", "v1")).await;
        assert_eq!(stale.body, network.image.manifest.bytes, "served stale");
        // The stale answer has asked, too.
        network.forward.says(Says::Connects);
        proxy.clock().advance(Duration::from_hours(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_the_proxy_does_not_reach_is_down() {
    for status in [502, 503, 504] {
        let network = Network::new().await;
        let proxy = network.proxy(|_| ()).await;
        network.forward.says(Says::Status(status));
        for n in 0..3 {
            let answer = proxy.get(&manifest("a/b", format!("v{n}"))).await;
            assert!(answer.message().ends_with("the outbound proxy cannot get there"));
        }
        assert_eq!(breaker_open(&proxy), 1, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_silent_is_told_from_a_registry_that_is() {
    let network = Network::new().await;
    network.forward.says(Says::Nothing);
    let mut setup = Setup::new();
    setup.limits.connect = Duration::from_millis(50);
    let upstream = setup.upstream("acme.test", &network.origin);
    upstream.url = Url::parse("https://acme.test").expect("a URL");
    upstream.way_out = network.way_out("http", None);
    let proxy = setup.start().await;
    let answer = proxy.get(&manifest("a/b", "v1")).await;
    assert_eq!(answer.status, 502);
    assert!(answer.message().ends_with("the outbound proxy does not answer"));
    assert_eq!(unanswered(&proxy, "proxy_silent"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_down_is_left_alone_for_a_moment_and_is_no_fault_of_the_upstream() {
    let network = Network::new().await;
    let gone = {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        socket
    };
    let address = gone.local_addr().expect("it is bound");
    let proxy = network
        .proxy(|upstream| {
            let url = Url::parse(&format!("http://{address}")).expect("a URL");
            let gone = ForwardProxy { url, authorization: None, ca: None };
            upstream.way_out.https = Some(gone);
        })
        .await;
    for n in 1..5 {
        let answer = proxy.get(&manifest("a/b", format!("v{n}"))).await;
        assert!(answer.message().ends_with("the outbound proxy cannot be reached"));
        assert_eq!(unanswered(&proxy, "proxy_unreachable"), n);
    }
    assert_eq!(breaker_open(&proxy), 0);
    // It comes up: at first nobody looks.
    let listener = gone.listen(16).expect("the port is ours");
    proxy.get(&manifest("a/b", "v6")).await;
    let looked = tokio::time::timeout(Duration::from_millis(20), listener.accept()).await;
    assert!(looked.is_err(), "it is left alone");
    proxy.clock().advance(Duration::from_secs(2));
    let (_, accepted) = tokio::join!(
        async {
            tokio::time::timeout(Duration::from_secs(10), proxy.get("/v2/a/b/tags/list")).await
        },
        async {
            let accepted = soon("it is tried again", listener.accept()).await;
            accepted.map(|(stream, _)| drop(stream))
        }
    );
    accepted.expect("a connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_goes_to_the_proxy_as_whole_urls() {
    let network = Network::new().await;
    network.forward.wants(LOGIN);
    let with = async |login: Option<&str>| {
        network
            .proxy(|upstream| {
                upstream.url = Url::parse("http://acme.test").expect("a URL");
                upstream.way_out = network.way_out("http", login);
            })
            .await
    };
    let proxy = with(Some(LOGIN)).await;
    network.pulls(&proxy).await;
    let lines = network.forward.lines();
    assert!(lines[0].ends_with(" http://acme.test/v2/a/b/manifests/v1"), "{lines:?}");
    let stranger = with(None).await;
    let answer = stranger.get(&manifest("a/b", "v1")).await;
    assert!(answer.message().ends_with("wants another login (407)"), "{}", answer.message());
    for (status, end) in [(403, "does not let us go there (403)"), (503, "cannot get there")] {
        network.forward.says(Says::Status(status));
        let answer = proxy.get(&manifest("a/b", format!("v{status}"))).await;
        assert_eq!(answer.status, 502);
        assert!(answer.message().ends_with(end), "{}", answer.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_no_proxy_and_other_addresses_are_dialled_directly() {
    let network = Network::new().await;
    let port = network.secure.port();
    let connect = |text: String| Some(DialTarget::parse(&text).expect("a target"));
    let direct = network
        .proxy(|upstream| {
            upstream.way_out.direct = vec![DirectHost::parse("127.0.0.0/8").expect("valid")];
            upstream.connect = connect(format!("127.0.0.1:{port}"));
        })
        .await;
    network.pulls(&direct).await;
    assert_eq!(network.forward.connections(), 0);

    // The same without any proxy; the name of the URL is what the certificate has to be for.
    let moved = network
        .proxy(|upstream| {
            upstream.way_out = WayOut::default();
            upstream.connect = connect(format!("127.0.0.1:{port}"));
        })
        .await;
    network.pulls(&moved).await;
    let other = network
        .proxy(|upstream| {
            upstream.url = Url::parse("https://other.test").expect("a URL");
            upstream.way_out = WayOut::default();
            upstream.connect = connect(format!("127.0.0.1:{port}"));
        })
        .await;
    let answer = other.get(&manifest("a/b", "v1")).await;
    assert!(answer.message().ends_with("its certificate is for another name"));

    // Through a proxy it is told the other address.
    network.forward.knows("moved.test:8443", network.secure);
    let told = network.proxy(|upstream| upstream.connect = connect("moved.test:8443".into())).await;
    network.pulls(&told).await;
    assert_eq!(network.forward.lines(), ["CONNECT moved.test:8443"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_holds_for_the_upstreams_own_origin_only() {
    let network = Network::new().await;
    let elsewhere = Fault::Redirect("https://acme.test:8443/storage/{digest}".to_owned());
    network.origin.fault(On::kind(Kind::Blob), elsewhere);
    let port = network.secure.port();
    let proxy = network
        .proxy(|upstream| {
            upstream.way_out = WayOut::default();
            upstream.connect = DialTarget::parse(&format!("127.0.0.1:{port}")).ok();
        })
        .await;
    let layer = &network.image.layers[0];
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.status, 502);
    assert_eq!(proxy.lookups()[0], "acme.test", "another port is another origin");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leads_through_the_proxy_into_an_internal_network() {
    let canary = Origin::start().await;
    let port = canary.authority().rsplit_once(':').expect("a port").1.to_owned();
    let network = Network::new().await;
    let proxy = network.proxy(|_| ()).await;
    for (n, location) in [
        format!("http://127.0.0.1:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        format!("https://0x7f.1:{port}/"),
        format!("https://2130706433:{port}/"),
        format!("https://127.0.0.1.:{port}/"),
        format!("https://[::1]:{port}/"),
        format!("https://[::ffff:127.0.0.1]:{port}/"),
        format!("https://[64:ff9b::7f00:1]:{port}/"),
        format!("https://0.0.0.0:{port}/"),
        format!("https://10.0.0.1:{port}/"),
        format!("https://93.184.216.34:{port}/"),
        format!("https://localhost:{port}/"),
        format!("https://LOCALHOST.:{port}/"),
        format!("https://a.localhost:{port}/"),
        format!("https://registry:{port}/"),
        format!("https://printer.local:{port}/"),
        format!("https://x.svc.cluster.local:{port}/"),
        format!("https://robot@cdn.example:{port}/"),
        format!("//127.0.0.1:{port}/"),
        format!("http://cdn.example:{port}/"),
        format!("ftp://127.0.0.1:{port}/"),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "https://metadata/computeMetadata".to_owned(),
        "https://metadata.google.internal/computeMetadata".to_owned(),
        "https://metadata.google.internal./computeMetadata".to_owned(),
        "https://instance-data.ec2.internal/".to_owned(),
        "https://metadata.tencentyun.com/".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        let layer = network.origin.blob("a/b", 1000 + n as u64, 1000);
        network.origin.repair();
        network.origin.fault(On::path(&layer.digest), Fault::Redirect(location.clone()));
        for answer in [
            proxy.get(&blob("a/b", &layer.digest)).await,
            proxy.head(&blob("a/b", &layer.digest)).await,
        ] {
            assert_eq!(answer.status, 502, "{location}");
        }
        let realm = Some(location.clone());
        network.origin.require(Auth::Bearer(Bearer { realm, ..Bearer::default() }));
        assert_eq!(proxy.get(&manifest("a/b", format!("t{n}"))).await.status, 502, "{location}");
        network.origin.require(Auth::Open);
    }
    assert_eq!(canary.connections(), 0);
    assert_eq!(network.forward.lines(), ["CONNECT acme.test:443"]);
    assert_eq!(proxy.lookups(), Vec::<String>::new());
}
