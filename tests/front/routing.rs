//! The ways in: which upstream, and which repository of it, a request means (PROTOCOL §1.9).

use http::Method;
use roadstead::config::{Host, UnknownCredentials};

use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup};
use crate::support::vendor::Vendor;

/// Docker Hub as the default and Quay, each with an alias and a bound host.
async fn two_upstreams() -> (Origin, Origin, Proxy) {
    let (hub, quay) = (Origin::start().await, Origin::start().await);
    let mut setup = Setup::new();
    let upstream = setup.upstream("docker.io", &hub);
    upstream.aliases = ["index.docker.io", "registry-1.docker.io", "hub"].map(str::to_owned).into();
    let upstream = setup.upstream("quay.io", &quay);
    upstream.aliases = vec!["q".into()];
    upstream.hosts = vec!["quay.mirror.example".into()];
    setup.config.hosts = vec![open_host("mirror.example"), open_host("127.0.0.1")];
    let proxy = setup.start().await;
    (hub, quay, proxy)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Hub(&'static str),
    Quay(&'static str),
    Nobody,
}
use Asked::{Hub, Nobody, Quay};

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_leads_to_its_upstream_and_repository() {
    let (hub, quay, proxy) = two_upstreams().await;
    let rows = [
        ("/v2/acme/app/manifests/{t}", "", Hub("acme/app")),
        ("/v2/nginx/manifests/{t}", "", Hub("library/nginx")),
        ("/v2/library/nginx/manifests/{t}", "", Hub("library/nginx")),
        ("/v2/docker.io/nginx/manifests/{t}", "", Hub("library/nginx")),
        ("/v2/hub/acme/app/manifests/{t}", "", Hub("acme/app")),
        ("/v2/docker.io/acme/app/manifests/{t}?ns=docker.io", "", Hub("acme/app")),
        ("/v2/acme/app/manifests/{t}?ns=docker.io", "", Hub("acme/app")),
        ("/v2/nginx/manifests/{t}?ns=registry-1.docker.io", "", Hub("library/nginx")),
        ("/v2/acme/app/manifests/{t}?ns=Index.Docker.IO", "", Hub("acme/app")),
        ("/v2/quay.io/acme/app/manifests/{t}", "", Quay("acme/app")),
        ("/v2/q/app/manifests/{t}", "", Quay("app")),
        ("/quay.io/v2/acme/app/manifests/{t}", "", Quay("acme/app")),
        ("/q/v2/app/manifests/{t}", "", Quay("app")),
        ("/v2/acme/app/manifests/{t}?ns=quay.io", "", Quay("acme/app")),
        ("/v2/acme/app/manifests/{t}?ns=quay.io:80", "", Quay("acme/app")),
        ("/v2/acme/app/manifests/{t}?ns=quay.io.", "", Quay("acme/app")),
        ("/v2/quay.io/acme/app/manifests/{t}?ns=docker.io", "", Quay("acme/app")),
        ("/v2/quay.io/acme/app/manifests/{t}?ns=evil.example", "", Quay("acme/app")),
        ("/v2/acme/app/manifests/{t}?ns=mirror.example", "mirror.example", Hub("acme/app")),
        ("/v2/acme/app/manifests/{t}", "quay.mirror.example", Quay("acme/app")),
        ("/v2/acme/app/manifests/{t}", "Quay.Mirror.Example.:5000", Quay("acme/app")),
        ("/v2/quay.io/acme/app/manifests/{t}", "quay.mirror.example", Quay("acme/app")),
        ("/v2/docker.io/acme/app/manifests/{t}", "quay.mirror.example", Quay("docker.io/acme/app")),
        ("/v2/acme/app/manifests/{t}?ns=docker.io", "quay.mirror.example", Nobody),
        ("/v2/acme/app/manifests/{t}?ns=evil.example", "", Nobody),
        ("/v2/acme/app/manifests/{t}?ns=quay.io&ns=docker.io", "", Nobody),
        ("/v2/acme/app/manifests/{t}?ns=a/b", "", Nobody),
        ("/v2/acme/app/manifests/{t}?ns=user@quay.io", "", Nobody),
        ("/v2/evil.example/acme/app/manifests/{t}", "", Nobody),
        ("/evil.example/v2/acme/app/manifests/{t}", "", Nobody),
        ("/v2/quay.io/manifests/{t}", "", Nobody),
    ];
    for (n, (path, host, expected)) in rows.into_iter().enumerate() {
        let path = path.replace("{t}", &format!("t{n}"));
        let headers: &[_] = if host.is_empty() { &[] } else { &[("host", host)] };
        let answer = proxy.request(Method::GET, &path, headers).await;
        let asked = |origin: &Origin| {
            origin.requests().iter().find(|r| r.path.ends_with(&format!("/t{n}"))).cloned()
        };
        let seen = (asked(&hub).map(|r| r.path), asked(&quay).map(|r| r.path));
        let at = |repository| Some(format!("/v2/{repository}/manifests/t{n}"));
        let wanted = match expected {
            Hub(repository) => (at(repository), None),
            Quay(repository) => (None, at(repository)),
            Nobody => (None, None),
        };
        assert_eq!(seen, wanted, "{path} at {host:?}");
        assert_eq!(answer.status, 404, "{path} at {host:?}");
        if expected == Nobody {
            assert_eq!(answer.code(), "NAME_UNKNOWN", "{path} at {host:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_registry_causes_no_lookup_and_no_connection() {
    let (hub, quay) = (Origin::start().await, Origin::start().await);
    let mut setup = Setup::of(&hub);
    setup.upstream("quay.io", &quay);
    setup.upstream("named.example", &quay).url =
        "https://registry.named.example".parse().expect("a URL");
    let proxy = setup.start().await;
    for path in [
        "/v2/acme/app/manifests/v1?ns=evil.example",
        "/v2/evil.example/acme/app/manifests/v1",
        "/evil.example/v2/acme/app/manifests/v1",
        "/v2/127.0.0.1:1/acme/app/manifests/v1",
        "/v2/acme/app/manifests/v1?ns=127.0.0.1:1",
    ] {
        assert!(matches!(proxy.get(path).await.status, 400 | 404), "{path}");
    }
    assert_eq!((hub.connections(), quay.connections()), (0, 0));
    assert_eq!(proxy.metric("roadstead_upstream_requests_total", &[]), 0);
    assert_eq!(proxy.lookups(), Vec::<String>::new());
    assert_eq!(
        proxy.get("/v2/named.example/acme/app/manifests/v1").await.status,
        502,
        "a configured one is looked up"
    );
    assert!(
        !proxy.lookups().is_empty()
            && proxy.lookups().iter().all(|name| name == "registry.named.example")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ns_is_echoed_when_it_decided_and_never_sent_on() {
    let (_hub, quay, proxy) = two_upstreams().await;
    let layer = quay.blob("acme/app", 1, 100);
    let path = format!("/v2/acme/app/blobs/{}", layer.digest);
    let by_ns = proxy.get(&format!("{path}?ns=quay.io")).await;
    assert_eq!((by_ns.status, by_ns.header("oci-namespace")), (200, Some("quay.io")));
    assert!(quay.requests().iter().all(|request| !request.query.contains("ns=")));
    let by_path = proxy.get(&format!("/v2/quay.io/acme/app/blobs/{}", layer.digest)).await;
    assert_eq!((by_path.status, by_path.header("oci-namespace")), (200, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_refused_with_the_methods_that_work() {
    let (hub, quay, proxy) = two_upstreams().await;
    for (method, path) in [
        (Method::POST, "/v2/acme/app/blobs/uploads/"),
        (Method::PUT, "/v2/acme/app/manifests/v1"),
        (Method::PATCH, "/v2/acme/app/blobs/uploads/x"),
        (Method::DELETE, "/v2/quay.io/acme/app/manifests/v1"),
        (Method::POST, "/v2/acme/app/blobs/uploads/?ns=quay.io&mount=MOUNT&from=b"),
    ] {
        let path = &path.replace("MOUNT", &format!("sha256:{}", "0".repeat(64)));
        let answer = proxy.request(method.clone(), path, &[]).await;
        assert_eq!(answer.refusal(), (405, "UNSUPPORTED".into()), "{method} {path}");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{method} {path}");
    }
    assert_eq!((hub.connections(), quay.connections()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_is_not_offered() {
    let (hub, _quay, proxy) = two_upstreams().await;
    assert_eq!(proxy.get("/v2/_catalog").await.refusal(), (404, "UNSUPPORTED".into()));
    assert_eq!(hub.connections(), 0);
}

/// A name of the proxy where an unknown credential is as good as none.
fn open_host(name: &str) -> Host {
    Host {
        name: name.to_owned(),
        port: None,
        plain_http: false,
        unknown_credentials: UnknownCredentials::Anonymous,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_by_path_that_is_not_configured_is_404_for_strangers_too() {
    let vendor = Vendor::start().await;
    let customer = vendor.customer("acme-prod", &["myapp"]);
    for path in [
        "/v2/evil.example/acme/app/manifests/1",
        "/v2/evil.example/acme/app/tags/list",
        "/evil.example/v2/acme/app/manifests/1",
    ] {
        for authorization in ["", &customer] {
            let headers: &[_] =
                if authorization.is_empty() { &[] } else { &[("authorization", authorization)] };
            let answer = vendor.proxy.request(Method::GET, path, headers).await;
            assert_eq!(answer.refusal(), (404, "NAME_UNKNOWN".into()), "{path}");
            assert_eq!(answer.header("www-authenticate"), None, "{path}");
        }
    }
    let push = vendor.proxy.request(Method::POST, "/v2/evil.example/a/blobs/uploads/", &[]).await;
    assert_eq!(push.refusal(), (404, "NAME_UNKNOWN".into()));
    // What may be there for somebody is for others as if it may not.
    for path in [
        "/v2/registry.test/hidden/secret/manifests/1.0",
        "/v2/registry.test/missing/image/manifests/1.0",
        "/v2/proxy/myapp/quay.io/acme/api/manifests/2.0",
        "/v2/proxy/nobodys/quay.io/acme/api/manifests/2.0",
    ] {
        assert_eq!(vendor.proxy.get(path).await.status, 401, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_ipv6_are_names_and_upstreams() {
    let quay = Origin::on("[::1]:0").await;
    let layer = quay.blob("acme/app", 1, 100);
    let mut setup = Setup::new();
    setup.upstream(&quay.authority(), &quay).aliases = vec!["acme".to_owned()];
    setup.config.hosts = vec![open_host("[::1]"), open_host("127.0.0.1")];
    let proxy = setup.start().await;
    let path = format!("/v2/acme/acme/app/blobs/{}", layer.digest);
    for (host, status) in [
        ("[::1]:5000", 200),
        ("[::1]", 200),
        ("[0:0:0::1]:5000", 200),
        ("127.0.0.1:5000", 200),
        ("[::2]:5000", 421),
        ("::1", 421),
        ("[::1", 421),
    ] {
        let answer = proxy.request(Method::GET, &path, &[("host", host)]).await;
        assert_eq!(answer.status, status, "{host}");
    }
    assert_eq!(quay.blob_gets(&layer.digest), 1);
    let name = quay.authority();
    assert!(name.starts_with("[::1]:"), "{name}");
    assert!(proxy.metric("roadstead_upstream_requests_total", &[("upstream", &name)]) > 0);
}

/// DNS rebinding: a web page whose name leads to this machine reaches a listener on loopback.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_has_its_name_lead_to_loopback_reads_nothing() {
    let origin = Origin::start().await;
    let layer = origin.blob("acme/app", 1, 100);
    let mut setup = Setup::new();
    setup.upstream("registry.test", &origin);
    setup.config.admin_hosts = vec!["roadstead.monitoring.svc".to_owned()];
    let proxy = setup.start().await;
    let path = format!("/v2/registry.test/acme/app/blobs/{}", layer.digest);
    for (host, clients, admin) in [
        ("evil.example", 421, 421),
        ("evil.example:5001", 421, 421),
        ("127.0.0.1.evil.example", 421, 421),
        ("localhost.evil.example", 421, 421),
        ("roadstead.monitoring.svc:5001", 421, 200),
        ("Localhost:5000", 200, 200),
        ("127.0.0.1:5000", 200, 200),
        ("10.1.2.3:5000", 200, 200),
        ("[::1]:5000", 200, 200),
        ("registry.test", 421, 421),
    ] {
        let pulled = proxy.request(Method::GET, &path, &[("host", host)]).await;
        assert_eq!(pulled.status, clients, "{host}");
        for path in ["/metrics", "/licences", "/healthz", "/nowhere"] {
            let answer = proxy.admin_called(host, path).await;
            let expected = if path == "/nowhere" && admin == 200 { 404 } else { admin };
            assert_eq!(answer.status, expected, "{host} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_port_stands_in_the_realm_though_the_balancer_lost_it() {
    let vendor = Vendor::start_with(|setup| {
        setup.config.hosts.push(Host { port: Some(8443), ..open_host("registry.example.com") });
        setup.config.hosts[1].unknown_credentials = UnknownCredentials::Refused;
    })
    .await;
    for host in ["registry.example.com", "registry.example.com:8443"] {
        let answer = vendor.proxy.request(Method::GET, "/v2/", &[("host", host)]).await;
        let challenge = answer.header("www-authenticate").unwrap_or_default().to_owned();
        assert!(
            challenge.contains("realm=\"https://registry.example.com:8443/token\""),
            "{host}: {challenge}"
        );
    }
}
