//! From the ways a client can name an image to the one upstream and repository that are meant.
//! Pure.
//!
//! Precedence (PROTOCOL §1.9): a bound host, the prefix before `/v2`, the first component of the
//! name, `ns`, the default. Before all of them, `proxy/<application>/<upstream>/…` is an
//! application's image, whatever the host (ACCESS §2.2). An upstream exists only if it is
//! configured; any other name leads nowhere and causes no look-up (SEL-1).

use std::collections::HashMap;

use crate::config;
use crate::licence::{APPLICATION_PREFIX, Slug};
use crate::oci::{CanonicalName, Namespace, Ns, Repository, UpstreamName, normal_host, split_port};

/// The configured upstreams, and every name they go by.
#[derive(Debug)]
pub(crate) struct Routes {
    entries: Vec<RoutedUpstream>,
    /// Names, aliases, and both of these with the default port; the values index `entries`.
    names: HashMap<String, usize>,
    /// Host names bound to one upstream, without port.
    bound: HashMap<String, usize>,
    default: Option<UpstreamName>,
    /// Names of the proxy itself, without port. Empty: any.
    own_hosts: Vec<String>,
    applications: Vec<Slug>,
}

/// What routing needs of an upstream.
#[derive(Debug, PartialEq, Eq)]
struct RoutedUpstream {
    upstream: UpstreamName,
    /// One-component names get `library/` (SEL-6).
    library: bool,
    writable: bool,
}

/// Where a request leads, and how its client named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub upstream: UpstreamName,
    /// As the upstream calls it.
    pub repository: Repository,
    /// The application whose image this was called: only rights to that application count.
    pub application: Option<Slug>,
    /// Whether writes go through to the upstream.
    pub writable: bool,
    visible: Visible,
}

/// What the client wrote, so that answers can be written the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Visible {
    prefix: Option<String>,
    repository: Repository,
    /// The `ns` as received, if it decided.
    ns: Option<String>,
}

/// The upstream that the signals select, and what they leave of the name.
struct Selected<'a> {
    entry: &'a RoutedUpstream,
    repository: Repository,
    by_ns: Option<&'a Namespace>,
    application: Option<Slug>,
}

impl<'a> Selected<'a> {
    fn by_name(entry: &'a RoutedUpstream, repository: Repository) -> Self {
        Self { entry, repository, by_ns: None, application: None }
    }
}

/// What the `ns` of a request stands for here.
enum NsMeaning<'a> {
    /// Absent, or one of the proxy's own names.
    Nothing,
    Upstream(&'a RoutedUpstream, &'a Namespace),
    /// A registry that is not configured; never the default one.
    Unknown,
}

impl Routes {
    pub(crate) fn new(config: &config::Config) -> Self {
        Self {
            own_hosts: config.hosts.iter().map(|host| host.name.clone()).collect(),
            applications: config
                .applications
                .iter()
                .map(|application| application.slug.clone())
                .collect(),
            ..Self::to(&config.upstreams, config.default_upstream.as_ref())
        }
    }

    fn to(upstreams: &[config::Upstream], default: Option<&UpstreamName>) -> Self {
        let (mut names, mut bound) = (HashMap::new(), HashMap::new());
        for (index, upstream) in upstreams.iter().enumerate() {
            for name in spellings(upstream) {
                names.entry(name).or_insert(index);
            }
            for host in bound_hosts(upstream) {
                bound.entry(host).or_insert(index);
            }
        }
        let entry = |upstream: &config::Upstream| RoutedUpstream {
            upstream: upstream.name.clone(),
            library: upstream.library,
            writable: upstream.writes != config::Writes::Refused,
        };
        Self {
            entries: upstreams.iter().map(entry).collect(),
            names,
            bound,
            default: default.cloned(),
            own_hosts: Vec::new(),
            applications: Vec::new(),
        }
    }

    /// Whether there is a `/v2/` to ping behind this prefix (SEL-3).
    pub(crate) fn answers_ping(&self, prefix: Option<&str>) -> bool {
        prefix.is_none_or(|prefix| self.named(prefix).is_some())
    }

    /// Whether a client that asks for `name`, which leads nowhere, names a registry by path that is
    /// not configured. That is no secret, and a login would not help (ACCESS §3.3).
    pub(crate) fn is_unknown_registry(&self, prefix: Option<&str>, name: &Repository) -> bool {
        let behind = behind_proxy(name);
        let first = behind.as_ref().unwrap_or(name).split_first().0;
        let registry = prefix.unwrap_or(first);
        registry.contains('.') && self.named(registry).is_none()
    }

    /// Where `name` leads, given `Host` as received, the prefix before `/v2` and `ns`.
    ///
    /// `None` if nothing configured is meant, or if two signals disagree in a way that could pass
    /// one registry's image off as another's.
    pub(crate) fn resolve(
        &self,
        host: Option<&str>,
        prefix: Option<&str>,
        ns: &Ns,
        name: &Repository,
    ) -> Option<Route> {
        let host = host.map(normal_host);
        let ns = self.meaning(ns, host.as_deref());
        let bound = host.as_deref().and_then(|host| self.entry(&self.bound, without_port(host)));
        let selected = match (self.application(prefix, name), bound, prefix) {
            (Some((application, rest)), _, _) => self.of_application(application, rest.as_ref())?,
            (None, Some(entry), _) => self.on_bound_host(entry, prefix, &ns, name)?,
            (None, None, Some(prefix)) => self.strip(self.named(prefix)?, name)?,
            (None, None, None) => self.by_name(&ns, name)?,
        };
        let visible = Visible {
            prefix: prefix.map(str::to_owned),
            repository: name.clone(),
            ns: selected.by_ns.map(|ns| ns.as_received().to_owned()),
        };
        let repository = selected.entry.upstream_repository(selected.repository);
        let RoutedUpstream { upstream, writable, .. } = selected.entry;
        let (upstream, writable) = (upstream.clone(), *writable);
        Some(Route { upstream, repository, application: selected.application, writable, visible })
    }

    /// Where the name of an image leads that stands in a list or a manifest: its registry is an
    /// upstream, or by a name of the proxy itself what stands behind that.
    pub(crate) fn find_image(&self, image: &CanonicalName) -> Option<CanonicalName> {
        let (host, repository) = (image.upstream.as_str(), &image.repository);
        if let Some(entry) = self.named(host) {
            let repository = entry.upstream_repository(repository.clone());
            return Some(CanonicalName { upstream: entry.upstream.clone(), repository });
        }
        let bare = without_port(host);
        let is_own = self.bound.contains_key(bare) || self.own_hosts.iter().any(|own| own == bare);
        let route = self.resolve(Some(host), None, &Ns::Absent, repository).filter(|_| is_own);
        route.map(|route| route.canonical())
    }

    /// The application that `name` begins with, as `proxy/<application>`, and what follows.
    fn application(
        &self,
        prefix: Option<&str>,
        name: &Repository,
    ) -> Option<(&Slug, Option<Repository>)> {
        let behind = behind_proxy(name).filter(|_| prefix.is_none())?;
        let (first, rest) = behind.split_first();
        let slug = self.applications.iter().find(|slug| slug.as_str() == first)?;
        Some((slug, rest))
    }

    /// `<upstream>/<repository>` of an application; anything less leads nowhere.
    fn of_application(
        &self,
        application: &Slug,
        rest: Option<&Repository>,
    ) -> Option<Selected<'_>> {
        let (upstream, repository) = rest?.split_first();
        let selected = Selected::by_name(self.named(upstream)?, repository?);
        Some(Selected { application: Some(application.clone()), ..selected })
    }

    /// The first component, with or without `proxy/` before it (SEL-4), then `ns`, then the
    /// default.
    fn by_name<'a>(&'a self, ns: &NsMeaning<'a>, name: &Repository) -> Option<Selected<'a>> {
        let behind = behind_proxy(name).filter(|rest| self.named(rest.split_first().0).is_some());
        let name = behind.as_ref().unwrap_or(name);
        match self.named(name.split_first().0) {
            Some(entry) => self.strip(entry, name),
            None => self.by_ns_or_default(ns, name),
        }
    }

    /// A bound host serves its upstream only. Where another signal names a different one, the name
    /// leads nowhere: serving either would pass one registry's image off as the other's.
    fn on_bound_host<'a>(
        &self,
        entry: &'a RoutedUpstream,
        prefix: Option<&str>,
        ns: &NsMeaning<'_>,
        name: &Repository,
    ) -> Option<Selected<'a>> {
        let prefix_agrees = prefix.is_none_or(|prefix| self.named(prefix) == Some(entry));
        let ns_agrees = match ns {
            NsMeaning::Nothing => true,
            NsMeaning::Upstream(named, _) => *named == entry,
            NsMeaning::Unknown => false,
        };
        if prefix_agrees && ns_agrees { self.strip(entry, name) } else { None }
    }

    /// Takes one leading name of `entry` off `name`. The name of any other upstream stays: behind a
    /// prefix or on a bound host it is a part of the repository.
    fn strip<'a>(&self, entry: &'a RoutedUpstream, name: &Repository) -> Option<Selected<'a>> {
        let (first, rest) = name.split_first();
        let repository = if self.named(first) == Some(entry) { rest? } else { name.clone() };
        Some(Selected::by_name(entry, repository))
    }

    /// On the default route a first component with a dot is a registry that is not configured
    /// (DESIGN §14.13).
    fn by_ns_or_default<'a>(
        &'a self,
        ns: &NsMeaning<'a>,
        name: &Repository,
    ) -> Option<Selected<'a>> {
        let (entry, by_ns) = match ns {
            NsMeaning::Upstream(entry, ns) => (*entry, Some(*ns)),
            NsMeaning::Nothing if !name.split_first().0.contains('.') => {
                (self.default_entry()?, None)
            }
            NsMeaning::Nothing | NsMeaning::Unknown => return None,
        };
        Some(Selected { by_ns, ..Selected::by_name(entry, name.clone()) })
    }

    fn meaning<'a>(&'a self, ns: &'a Ns, host: Option<&str>) -> NsMeaning<'a> {
        match ns {
            Ns::Absent => NsMeaning::Nothing,
            Ns::Unusable => NsMeaning::Unknown,
            Ns::Named(ns) => match self.named(ns.normal()) {
                Some(entry) => NsMeaning::Upstream(entry, ns),
                None if self.is_own_name(ns.normal(), host) => NsMeaning::Nothing,
                None => NsMeaning::Unknown,
            },
        }
    }

    /// Whether the client means this proxy by `name`. With a port other than the one that the
    /// client connected to it is another server on the same machine.
    fn is_own_name(&self, name: &str, host: Option<&str>) -> bool {
        let bare = without_port(name);
        let any_name =
            self.own_hosts.is_empty() && host.is_some_and(|host| without_port(host) == bare);
        let known = any_name
            || self.bound.contains_key(bare)
            || self.own_hosts.iter().any(|own| own == bare);
        known && (name == bare || host == Some(name))
    }

    fn named(&self, name: &str) -> Option<&RoutedUpstream> {
        self.entry(&self.names, name)
    }

    fn entry(&self, index: &HashMap<String, usize>, name: &str) -> Option<&RoutedUpstream> {
        index.get(name).and_then(|index| self.entries.get(*index))
    }

    fn default_entry(&self) -> Option<&RoutedUpstream> {
        self.entries.iter().find(|entry| Some(&entry.upstream) == self.default.as_ref())
    }
}

impl RoutedUpstream {
    fn upstream_repository(&self, name: Repository) -> Repository {
        let official = self.library && name.split_first().1.is_none();
        if official { name.under("library") } else { name }
    }
}

impl Route {
    pub(crate) fn canonical(&self) -> CanonicalName {
        CanonicalName { upstream: self.upstream.clone(), repository: self.repository.clone() }
    }

    /// The repository as this client calls it: what stands in the body of a tag list (TAG-1).
    pub(crate) fn visible_name(&self) -> &Repository {
        &self.visible.repository
    }

    /// The value of `OCI-Namespace`: the `ns` as received, if it decided (SEL-10).
    pub(crate) fn echo_ns(&self) -> Option<&str> {
        self.visible.ns.as_deref()
    }

    /// A path under [`Route::visible_name`], with or without a query, as this client has to ask for
    /// it to come back to the same upstream: the prefix before it and `ns` behind it (TAG-3).
    pub(crate) fn visible_target(&self, path: &str) -> String {
        let prefix =
            self.visible.prefix.as_ref().map(|prefix| format!("/{prefix}")).unwrap_or_default();
        let separator = if path.contains('?') { '&' } else { '?' };
        let ns =
            self.visible.ns.as_ref().map(|ns| format!("{separator}ns={ns}")).unwrap_or_default();
        format!("{prefix}{path}{ns}")
    }
}

/// The name and aliases of an upstream, bare and with a default port (PROTOCOL §1.9,
/// "Normalisation").
fn spellings(upstream: &config::Upstream) -> Vec<String> {
    let default_ports: &[&str] =
        if upstream.url.scheme() == "http" { &[":443", ":80"] } else { &[":443"] };
    let given =
        std::iter::once(upstream.name.as_str()).chain(upstream.aliases.iter().map(String::as_str));
    given
        .flat_map(|name| {
            let bare =
                default_ports.iter().find_map(|port| name.strip_suffix(port)).unwrap_or(name);
            let ports = if split_port(bare).1.is_some() { &[] } else { default_ports };
            let with_port = ports.iter().map(move |port| format!("{bare}{port}"));
            std::iter::once(bare.to_owned()).chain(with_port)
        })
        .collect()
}

/// A host that equals an upstream's name is bound to it (ACCESS §1.4); hosts are looked up without
/// port, so a name that has one never is.
fn bound_hosts(upstream: &config::Upstream) -> impl Iterator<Item = String> {
    upstream.hosts.iter().cloned().chain(std::iter::once(upstream.name.as_str().to_owned()))
}

/// What follows a leading `proxy/`.
fn behind_proxy(name: &Repository) -> Option<Repository> {
    let (first, rest) = name.split_first();
    rest.filter(|_| first == APPLICATION_PREFIX)
}

fn without_port(host: &str) -> &str {
    match split_port(host) {
        (name, Some(port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{PageQuery, tags_path};

    /// `name url aliases hosts`, lists separated by commas, `-` for none.
    fn upstream(line: &str) -> config::Upstream {
        let words: Vec<&str> = line.split_whitespace().collect();
        let list =
            |text: &str| text.split(',').filter(|word| *word != "-").map(str::to_owned).collect();
        config::Upstream {
            name: UpstreamName::parse(words[0]).expect(line),
            url: words[1].parse().expect(line),
            aliases: list(words[2]),
            hosts: list(words[3]),
            token_hosts: vec![],
            blob_hosts: vec![],
            shares_with: vec![],
            sealed: false,
            way_out: config::WayOut::default(),
            connect: None,
            ca: None,
            tls_verify: true,
            library: words[0] == "docker.io",
            writes: config::Writes::Refused,
            page_limit: None,
            credentials: vec![],
        }
    }

    const UPSTREAMS: [&str; 5] = [
        "docker.io https://registry-1.docker.io \
         index.docker.io,registry-1.docker.io,registry.hub.docker.com hub.mirror.test",
        "quay.io https://quay.io - quay.mirror.test",
        "acme.test http://acme.test acme -",
        "localhost:5001 https://localhost:5001 local -",
        "private.test https://private.internal - -",
    ];

    fn routes(default: Option<&str>, own_hosts: &[&str]) -> Routes {
        let upstreams = UPSTREAMS.map(upstream);
        let default = default.map(|name| UpstreamName::parse(name).expect(name));
        let own_hosts = own_hosts.iter().map(|host| (*host).to_owned()).collect();
        let applications = ["myapp", "other"].map(|slug| Slug::parse(slug).expect(slug)).into();
        Routes { own_hosts, applications, ..Routes::to(&upstreams, default.as_ref()) }
    }

    fn hub_mirror() -> Routes {
        routes(Some("docker.io"), &["mirror.test"])
    }

    /// Resolves `[host|][/prefix/v2/]name[?ns=…]`.
    fn resolve(routes: &Routes, line: &str) -> Option<Route> {
        let (host, rest) =
            line.split_once('|').map_or((None, line), |(host, rest)| (Some(host), rest));
        let (prefix, rest) = match rest.strip_prefix('/').and_then(|rest| rest.split_once("/v2/")) {
            Some((prefix, rest)) => (Some(prefix), rest),
            None => (None, rest),
        };
        let (name, query) =
            rest.split_once('?').map_or((rest, None), |(name, query)| (name, Some(query)));
        routes.resolve(host, prefix, &Ns::parse(query), &Repository::parse(name).expect(line))
    }

    fn canonical(routes: &Routes, line: &str) -> String {
        resolve(routes, line)
            .map_or_else(|| "none".to_owned(), |route| route.canonical().to_string())
    }

    fn assert_table(routes: &Routes, table: &[(&str, &str)]) {
        for (line, expected) in table {
            assert_eq!(canonical(routes, line), *expected, "{line}");
        }
    }

    #[test]
    fn each_signal_alone_selects() {
        assert_table(
            &hub_mirror(),
            &[
                ("mirror.test|a/b", "docker.io/a/b"),
                ("a/b", "docker.io/a/b"),
                ("quay.mirror.test|a/b", "quay.io/a/b"),
                ("QUAY.mirror.Test.:8443|a/b", "quay.io/a/b"),
                ("private.test|a/b", "private.test/a/b"),
                ("/quay.io/v2/a/b", "quay.io/a/b"),
                ("/acme/v2/a/b", "acme.test/a/b"),
                ("quay.io/a/b", "quay.io/a/b"),
                ("acme/a/b", "acme.test/a/b"),
                ("a/b?ns=quay.io", "quay.io/a/b"),
                ("a/b?ns=acme", "acme.test/a/b"),
            ],
        );
    }

    #[test]
    fn names_that_are_not_configured_lead_nowhere() {
        assert_table(
            &hub_mirror(),
            &[
                ("/evil.example/v2/a/b", "none"),
                ("evil.example/a/b", "none"),
                ("evil.example", "none"),
                ("a/b?ns=evil.example", "none"),
                ("a/b?ns=", "none"),
                ("a/b?ns=quay.io&ns=quay.io", "none"),
                ("a/b?ns=quay.io/x", "none"),
                ("evil.example|a/b", "docker.io/a/b"),
                ("a/evil.example/b", "docker.io/a/evil.example/b"),
            ],
        );
        assert_table(
            &routes(None, &[]),
            &[
                ("a/b", "none"),
                ("quay.io/a", "quay.io/a"),
                ("a?ns=docker.io", "docker.io/library/a"),
            ],
        );
        assert_table(&routes(Some("gone.test"), &[]), &[("a/b", "none")]);
    }

    #[test]
    fn one_component_gets_library_on_docker_hub_only() {
        assert_table(
            &hub_mirror(),
            &[
                ("nginx", "docker.io/library/nginx"),
                ("docker.io/nginx", "docker.io/library/nginx"),
                ("docker.io/library/nginx", "docker.io/library/nginx"),
                ("nginx?ns=docker.io", "docker.io/library/nginx"),
                ("hub.mirror.test|nginx", "docker.io/library/nginx"),
                ("/docker.io/v2/nginx", "docker.io/library/nginx"),
                ("a/nginx", "docker.io/a/nginx"),
                ("quay.io/nginx", "quay.io/nginx"),
                ("nginx?ns=quay.io", "quay.io/nginx"),
            ],
        );
    }

    #[test]
    fn names_of_an_upstream_are_normalised() {
        assert_table(
            &hub_mirror(),
            &[
                ("a/b?ns=index.docker.io", "docker.io/a/b"),
                ("a/b?ns=registry-1.docker.io", "docker.io/a/b"),
                ("registry.hub.docker.com/a/b", "docker.io/a/b"),
                ("a/b?ns=Quay.IO.", "quay.io/a/b"),
                ("a/b?ns=quay.io:443", "quay.io/a/b"),
                ("a/b?ns=quay.io%3A443", "quay.io/a/b"),
                ("a/b?ns=quay.io:80", "none"),
                ("a/b?ns=acme.test:80", "acme.test/a/b"),
                ("a/b?ns=acme.test:443", "acme.test/a/b"),
                ("a/b?ns=localhost:5001", "localhost:5001/a/b"),
                ("local/a/b", "localhost:5001/a/b"),
                ("a/b?ns=localhost", "none"),
            ],
        );
    }

    /// PROTOCOL §1.9, "Ambiguity table", row by row.
    #[test]
    fn signals_that_meet_are_settled_as_the_ambiguity_table_says() {
        assert_table(
            &hub_mirror(),
            &[
                // prefix and ns name the same upstream: stripped once
                ("docker.io/a/b?ns=docker.io", "docker.io/a/b"),
                ("docker.io/docker.io/b?ns=docker.io", "docker.io/docker.io/b"),
                // prefix and ns differ: the path wins
                ("quay.io/a/b?ns=docker.io", "quay.io/a/b"),
                // ns is one of our own names
                ("mirror.test|a/b?ns=mirror.test", "docker.io/a/b"),
                ("mirror.test:5000|a/b?ns=mirror.test:5000", "docker.io/a/b"),
                ("a/b?ns=quay.mirror.test", "docker.io/a/b"),
                // ns unknown, no prefix
                ("foo/bar?ns=evil.example", "none"),
                // path prefix decided, ns unknown, different or broken
                ("quay.io/a/b?ns=evil.example", "quay.io/a/b"),
                ("quay.io/a/b?ns=a&ns=b", "quay.io/a/b"),
                // host bound, ns names another registry
                ("quay.mirror.test|a/b?ns=docker.io", "none"),
                ("quay.mirror.test|a/b?ns=evil.example", "none"),
                ("quay.mirror.test|a/b?ns=a/b", "none"),
                ("quay.mirror.test|a/b?ns=quay.io", "quay.io/a/b"),
                ("quay.mirror.test|a/b?ns=quay.mirror.test", "quay.io/a/b"),
                // host bound, path starts with an alias of the same upstream
                ("quay.mirror.test|quay.io/a/b", "quay.io/a/b"),
                ("quay.mirror.test|quay.io/quay.io/b", "quay.io/quay.io/b"),
                // host bound, path starts with an alias of another upstream, or of none
                ("quay.mirror.test|docker.io/a/b", "quay.io/docker.io/a/b"),
                ("quay.mirror.test|evil.example/a", "quay.io/evil.example/a"),
                // an alias and nothing behind it
                ("docker.io", "none"),
                ("acme?ns=quay.io", "none"),
                ("quay.mirror.test|quay.io", "none"),
                // an image that is really called quay.io/x, by ns and on its bound host
                ("quay.io/x?ns=docker.io", "quay.io/x"),
                ("hub.mirror.test|quay.io/x", "docker.io/quay.io/x"),
            ],
        );
    }

    #[test]
    fn the_prefix_before_the_version_beats_path_and_ns_but_not_the_host() {
        assert_table(
            &hub_mirror(),
            &[
                ("/quay.io/v2/a/b?ns=docker.io", "quay.io/a/b"),
                ("/quay.io/v2/a/b?ns=evil.example", "quay.io/a/b"),
                ("/quay.io/v2/docker.io/a", "quay.io/docker.io/a"),
                ("/quay.io/v2/quay.io/a", "quay.io/a"),
                ("/quay.io/v2/quay.io", "none"),
                ("quay.mirror.test|/quay.io/v2/a/b", "quay.io/a/b"),
                ("quay.mirror.test|/docker.io/v2/a/b", "none"),
                ("quay.mirror.test|/evil.example/v2/a/b", "none"),
            ],
        );
    }

    #[test]
    fn a_port_makes_a_name_somebody_elses_unless_the_client_used_it() {
        let any_name = routes(Some("docker.io"), &[]);
        assert_table(
            &any_name,
            &[
                ("cache:5000|a/b?ns=cache:5000", "docker.io/a/b"),
                ("cache:5000|a/b?ns=cache", "docker.io/a/b"),
                ("cache:5000|a/b?ns=cache:6000", "none"),
                ("cache:5000|a/b?ns=other", "none"),
                ("[::1]:5000|a/b", "docker.io/a/b"),
                ("localhost:5001|a/b", "docker.io/a/b"),
            ],
        );
        assert_table(
            &hub_mirror(),
            &[
                ("mirror.test:5000|a/b?ns=mirror.test:6000", "none"),
                ("cache:5000|a/b?ns=cache", "none"),
                ("quay.mirror.test:x|a/b", "docker.io/a/b"),
            ],
        );
    }

    #[test]
    fn answers_name_the_image_as_the_client_did() {
        let page = PageQuery::parse(Some("n=5&last=b")).expect("valid");
        for (line, name, ns, link) in [
            ("nginx", "nginx", None, "/v2/nginx/tags/list?n=5&last=b"),
            (
                "docker.io/nginx",
                "docker.io/nginx",
                None,
                "/v2/docker.io/nginx/tags/list?n=5&last=b",
            ),
            ("/acme/v2/a/b", "a/b", None, "/acme/v2/a/b/tags/list?n=5&last=b"),
            ("a/b?ns=Quay.IO", "a/b", Some("Quay.IO"), "/v2/a/b/tags/list?n=5&last=b&ns=Quay.IO"),
            (
                "a?ns=localhost%3A5001",
                "a",
                Some("localhost:5001"),
                "/v2/a/tags/list?n=5&last=b&ns=localhost:5001",
            ),
            (
                "quay.io/a/b?ns=docker.io",
                "quay.io/a/b",
                None,
                "/v2/quay.io/a/b/tags/list?n=5&last=b",
            ),
            ("mirror.test|a/b?ns=mirror.test", "a/b", None, "/v2/a/b/tags/list?n=5&last=b"),
            ("quay.mirror.test|a/b?ns=quay.io", "a/b", None, "/v2/a/b/tags/list?n=5&last=b"),
        ] {
            let route = resolve(&hub_mirror(), line).expect(line);
            assert_eq!((route.visible_name().as_str(), route.echo_ns()), (name, ns), "{line}");
            assert_eq!(route.visible_target(&tags_path(route.visible_name(), &page)), link);
        }
        let route = resolve(&hub_mirror(), "a/b?ns=quay.io").expect("quay");
        assert_eq!(route.visible_target("/v2/a/b/tags/list"), "/v2/a/b/tags/list?ns=quay.io");
    }

    /// ACCESS §2.2.
    #[test]
    fn behind_proxy_a_slug_is_an_application_and_a_registry_is_that_registry() {
        let table = [
            ("proxy/myapp/quay.io/acme/api", "quay.io/acme/api", Some("myapp")),
            ("proxy/other/acme/a", "acme.test/a", Some("other")),
            ("proxy/myapp/docker.io/nginx", "docker.io/library/nginx", Some("myapp")),
            ("proxy/myapp/quay.io/quay.io/a", "quay.io/quay.io/a", Some("myapp")),
            ("private.test|proxy/myapp/quay.io/acme/api", "quay.io/acme/api", Some("myapp")),
            (
                "private.test|proxy/myapp/quay.io/acme/api?ns=docker.io",
                "quay.io/acme/api",
                Some("myapp"),
            ),
            ("proxy/myapp", "none", None),
            ("proxy/myapp/quay.io", "none", None),
            ("proxy/myapp/evil.example/a", "none", None),
            ("proxy/myapp/other/a", "none", None),
            ("proxy/quay.io/a/b", "quay.io/a/b", None),
            ("proxy/nginx?ns=quay.io", "quay.io/proxy/nginx", None),
            ("proxy/nginx", "docker.io/proxy/nginx", None),
            ("proxy/unknown/quay.io/a", "docker.io/proxy/unknown/quay.io/a", None),
            ("private.test|proxy/quay.io/a", "private.test/proxy/quay.io/a", None),
            ("/quay.io/v2/proxy/myapp/quay.io/a", "quay.io/proxy/myapp/quay.io/a", None),
            ("myapp/quay.io/a", "docker.io/myapp/quay.io/a", None),
        ];
        for (line, expected, application) in table {
            let route = resolve(&hub_mirror(), line);
            assert_eq!(canonical(&hub_mirror(), line), expected, "{line}");
            assert_eq!(
                route.as_ref().and_then(|route| route.application.as_ref()).map(Slug::as_str),
                application,
                "{line}"
            );
        }
        let route =
            resolve(&hub_mirror(), "proxy/myapp/docker.io/nginx").expect("an application's image");
        assert_eq!(route.visible_name().as_str(), "proxy/myapp/docker.io/nginx");
    }

    #[test]
    fn a_registry_that_is_not_configured_is_told_from_a_repository_that_is_not_there() {
        let routes = hub_mirror();
        for (prefix, name, unknown) in [
            (None, "evil.example/a", true),
            (None, "proxy/evil.example/a", true),
            (None, "quay.io/a", false),
            (None, "a/evil.example", false),
            (None, "acme/a", false),
            (Some("evil.example"), "a", true),
            (Some("quay.io"), "evil.example/a", false),
            (Some("hub"), "a", false),
        ] {
            let name = Repository::parse(name).expect(name);
            assert_eq!(routes.is_unknown_registry(prefix, &name), unknown, "{prefix:?} {name}");
        }
    }

    #[test]
    fn writes_go_through_to_an_upstream_that_takes_them() {
        for (writes, writable) in [
            (config::Writes::Refused, false),
            (config::Writes::Passed, true),
            (config::Writes::Kept, true),
        ] {
            let upstream = config::Upstream { writes, ..upstream(UPSTREAMS[1]) };
            let route = resolve(&Routes::to(&[upstream], None), "quay.io/a/b").expect("quay");
            assert_eq!(route.writable, writable, "{writes:?}");
        }
    }

    #[test]
    fn only_known_prefixes_answer_the_ping() {
        let routes = hub_mirror();
        for (prefix, expected) in [
            (None, true),
            (Some("docker.io"), true),
            (Some("acme"), true),
            (Some("evil.example"), false),
            (Some(""), false),
        ] {
            assert_eq!(routes.answers_ping(prefix), expected, "{prefix:?}");
        }
    }
}
