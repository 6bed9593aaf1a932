//! From the ways a client can name an image to the one upstream and repository that are meant. Pure.
//!
//! Precedence (PROTOCOL §1.9): a bound host, the prefix before `/v2`, the first component of the name, `ns`, the default.
//! An upstream exists only if it is configured; any other name leads nowhere and causes no look-up (SEL-1).

use std::collections::HashMap;

use crate::config;
use crate::oci::{CanonicalName, Namespace, Ns, Repository, UpstreamName, normal_host};

/// The configured upstreams, and every name they go by.
#[derive(Debug)]
pub struct Routes {
    entries: Vec<Entry>,
    /// Names, aliases, and both of these with the default port; the values index `entries`.
    names: HashMap<String, usize>,
    /// Host names bound to one upstream, without port.
    bound: HashMap<String, usize>,
    default: Option<UpstreamName>,
    /// Names of the proxy itself, without port. Empty: whatever a client calls it.
    own_hosts: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    upstream: UpstreamName,
    /// One-component names get `library/` (SEL-6).
    library: bool,
}

/// Where a request leads, and how its client named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub upstream: UpstreamName,
    /// As the upstream calls it.
    pub repository: Repository,
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
    entry: &'a Entry,
    repository: Repository,
    by_ns: Option<&'a Namespace>,
}

/// What an `ns` stands for here.
enum Meaning<'a> {
    /// Absent, or one of the proxy's own names.
    Nothing,
    Upstream(&'a Entry, &'a Namespace),
    /// A registry that is not configured; never the default one.
    Unknown,
}

impl Routes {
    /// `own_hosts` are in lower case, without port.
    pub fn new(upstreams: &[config::Upstream], default: Option<&UpstreamName>, own_hosts: &[String]) -> Self {
        let (mut names, mut bound) = (HashMap::new(), HashMap::new());
        for (index, upstream) in upstreams.iter().enumerate() {
            for name in spellings(upstream) {
                names.entry(name).or_insert(index);
            }
            for host in bound_hosts(upstream) {
                bound.entry(host).or_insert(index);
            }
        }
        let entry = |upstream: &config::Upstream| Entry { upstream: upstream.name.clone(), library: upstream.library };
        Self {
            entries: upstreams.iter().map(entry).collect(),
            names,
            bound,
            default: default.cloned(),
            own_hosts: own_hosts.to_vec(),
        }
    }

    /// Whether there is a `/v2/` to ping behind this prefix (SEL-3).
    pub fn answers_ping(&self, prefix: Option<&str>) -> bool {
        prefix.is_none_or(|prefix| self.named(prefix).is_some())
    }

    /// Where `name` leads, given `Host` as received, the prefix before `/v2` and `ns`.
    ///
    /// `None` if nothing configured is meant, or if two signals disagree in a way that could pass one registry's
    /// image off as another's.
    pub fn resolve(&self, host: Option<&str>, prefix: Option<&str>, ns: &Ns, name: &Repository) -> Option<Route> {
        let host = host.map(normal_host);
        let ns = self.meaning(ns, host.as_deref());
        let bound = host.as_deref().and_then(|host| self.entry(&self.bound, without_port(host)));
        let selected = match (bound, prefix) {
            (Some(entry), _) => self.on_bound_host(entry, prefix, &ns, name)?,
            (None, Some(prefix)) => self.strip(self.named(prefix)?, name)?,
            (None, None) => match self.named(name.split_first().0) {
                Some(entry) => self.strip(entry, name)?,
                None => self.by_ns_or_default(&ns, name)?,
            },
        };
        let visible = Visible {
            prefix: prefix.map(str::to_owned),
            repository: name.clone(),
            ns: selected.by_ns.map(|ns| ns.as_received().to_owned()),
        };
        let repository = selected.entry.upstream_repository(selected.repository);
        Some(Route { upstream: selected.entry.upstream.clone(), repository, visible })
    }

    /// A bound host serves its upstream only; other signals may agree with it or end the matter.
    fn on_bound_host<'a>(
        &self,
        entry: &'a Entry,
        prefix: Option<&str>,
        ns: &Meaning<'_>,
        name: &Repository,
    ) -> Option<Selected<'a>> {
        let prefix_agrees = prefix.is_none_or(|prefix| self.named(prefix) == Some(entry));
        let ns_agrees = match ns {
            Meaning::Nothing => true,
            Meaning::Upstream(named, _) => *named == entry,
            Meaning::Unknown => false,
        };
        if prefix_agrees && ns_agrees { self.strip(entry, name) } else { None }
    }

    /// Takes one leading name of `entry` off `name`; the names of other upstreams are literal here.
    fn strip<'a>(&self, entry: &'a Entry, name: &Repository) -> Option<Selected<'a>> {
        let (first, rest) = name.split_first();
        let repository = if self.named(first) == Some(entry) { rest? } else { name.clone() };
        Some(Selected { entry, repository, by_ns: None })
    }

    /// On the default route a first component with a dot is a registry that is not configured (DESIGN §14.13).
    fn by_ns_or_default<'a>(&'a self, ns: &Meaning<'a>, name: &Repository) -> Option<Selected<'a>> {
        let (entry, by_ns) = match ns {
            Meaning::Upstream(entry, ns) => (*entry, Some(*ns)),
            Meaning::Nothing if !name.split_first().0.contains('.') => (self.default_entry()?, None),
            Meaning::Nothing | Meaning::Unknown => return None,
        };
        Some(Selected { entry, repository: name.clone(), by_ns })
    }

    fn meaning<'a>(&'a self, ns: &'a Ns, host: Option<&str>) -> Meaning<'a> {
        match ns {
            Ns::Absent => Meaning::Nothing,
            Ns::Unusable => Meaning::Unknown,
            Ns::Named(ns) => match self.named(ns.normal()) {
                Some(entry) => Meaning::Upstream(entry, ns),
                None if self.is_own_name(ns.normal(), host) => Meaning::Nothing,
                None => Meaning::Unknown,
            },
        }
    }

    /// A port other than the one that the client connected to belongs to somebody else.
    fn is_own_name(&self, name: &str, host: Option<&str>) -> bool {
        let bare = without_port(name);
        let any_name = self.own_hosts.is_empty() && host.is_some_and(|host| without_port(host) == bare);
        let known = any_name || self.bound.contains_key(bare) || self.own_hosts.iter().any(|own| own == bare);
        known && (name == bare || host == Some(name))
    }

    fn named(&self, name: &str) -> Option<&Entry> {
        self.entry(&self.names, name)
    }

    fn entry(&self, index: &HashMap<String, usize>, name: &str) -> Option<&Entry> {
        index.get(name).and_then(|index| self.entries.get(*index))
    }

    fn default_entry(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| Some(&entry.upstream) == self.default.as_ref())
    }
}

impl Entry {
    fn upstream_repository(&self, name: Repository) -> Repository {
        let official = self.library && name.split_first().1.is_none();
        if official { name.under("library") } else { name }
    }
}

impl Route {
    pub fn canonical(&self) -> CanonicalName {
        CanonicalName { upstream: self.upstream.clone(), repository: self.repository.clone() }
    }

    /// The repository as this client calls it: what stands in the body of a tag list (TAG-1).
    pub fn visible_name(&self) -> &Repository {
        &self.visible.repository
    }

    /// The value of `OCI-Namespace`: the `ns` as received, if it decided (SEL-10).
    pub fn echo_ns(&self) -> Option<&str> {
        self.visible.ns.as_deref()
    }

    /// A path under [`Route::visible_name`], with or without a query, as this client has to ask for it to come back
    /// to the same upstream: the prefix before it and `ns` behind it (TAG-3).
    pub fn visible_target(&self, path: &str) -> String {
        let prefix = self.visible.prefix.as_ref().map(|prefix| format!("/{prefix}")).unwrap_or_default();
        let separator = if path.contains('?') { '&' } else { '?' };
        let ns = self.visible.ns.as_ref().map(|ns| format!("{separator}ns={ns}")).unwrap_or_default();
        format!("{prefix}{path}{ns}")
    }
}

/// The name and aliases of an upstream, bare and with the default port of its scheme (PROTOCOL §1.9, "Normalisation").
fn spellings(upstream: &config::Upstream) -> Vec<String> {
    let default_port = if upstream.url.scheme() == "http" { ":80" } else { ":443" };
    let given = std::iter::once(upstream.name.as_str()).chain(upstream.aliases.iter().map(String::as_str));
    given
        .flat_map(|name| {
            let bare = name.strip_suffix(default_port).unwrap_or(name);
            let with_port = (!bare.contains(':')).then(|| format!("{bare}{default_port}"));
            std::iter::once(bare.to_owned()).chain(with_port)
        })
        .collect()
}

/// A host that equals an upstream's name is bound to it; one that has a port is not a host (ACCESS §1.4).
fn bound_hosts(upstream: &config::Upstream) -> impl Iterator<Item = String> {
    let name = Some(upstream.name.as_str()).filter(|name| !name.contains(':'));
    upstream.hosts.iter().map(String::as_str).chain(name).map(str::to_owned)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some(_) | None => host,
    }
}
