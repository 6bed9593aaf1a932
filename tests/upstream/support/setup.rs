//! An upstream, pointed at the servers of a test.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use roadstead::clock::Clock;
use roadstead::config::{self, Credential, Login, WayOut};
use roadstead::limits::Limits;
use roadstead::metrics::Metrics;
use roadstead::oci::{Pattern, UpstreamName};
use roadstead::secret::Secret;
use roadstead::upstream::{Lookup, UpstreamClient, Upstreams};

/// An upstream in the making.
pub(crate) struct Setup {
    pub(crate) config: config::Upstream,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) lookup: Lookup,
}

impl Setup {
    pub(crate) fn new(url: &str) -> Self {
        let limits = Limits {
            retry_pause: Duration::from_millis(5),
            token_settling: Duration::from_millis(1),
            ..Limits::default()
        };
        Self {
            config: config::Upstream {
                name: UpstreamName::parse("acme.test").expect("valid"),
                url: url.parse().expect("a URL"),
                aliases: vec![],
                hosts: vec![],
                token_hosts: vec![],
                blob_hosts: vec![],
                shares_with: vec![],
                sealed: false,
                way_out: WayOut::default(),
                connect: None,
                ca: None,
                tls_verify: true,
                library: false,
                writes: config::Writes::Refused,
                page_limit: None,
                credentials: vec![],
            },
            clock: Clock::manual(Duration::from_secs(1_700_000_000)),
            limits,
            metrics: Arc::new(Metrics::new()),
            lookup: Lookup::system(),
        }
    }

    pub(crate) fn credential(mut self, images: &str, username: &str, password: &str) -> Self {
        self.config.credentials.push(Credential {
            images: Pattern::parse(images).expect("a pattern"),
            when_rejected: roadstead::config::WhenRejected::default(),
            login: Login::Fixed {
                username: username.into(),
                password: Secret::new(password.into()),
            },
        });
        self
    }

    pub(crate) fn helper(mut self, images: &str, program: PathBuf) -> Self {
        let login = Login::Helper { program, server: "acme.test".into(), withheld: vec![] };
        self.config.credentials.push(Credential {
            images: Pattern::parse(images).expect("a pattern"),
            login,
            when_rejected: roadstead::config::WhenRejected::default(),
        });
        self
    }

    /// With variables of the environment that no helper gets.
    pub(crate) fn withholding(mut self, variables: &[&str]) -> Self {
        for credential in &mut self.config.credentials {
            if let Login::Helper { withheld, .. } = &mut credential.login {
                *withheld = variables.iter().map(ToString::to_string).collect();
            }
        }
        self
    }

    pub(crate) fn token_host(mut self, host: impl Into<String>) -> Self {
        self.config.token_hosts.push(host.into());
        self
    }

    pub(crate) fn blob_host(mut self, host: impl Into<String>) -> Self {
        self.config.blob_hosts.push(host.into());
        self
    }

    pub(crate) fn build(&self) -> Arc<UpstreamClient> {
        let (clock, metrics) = (self.clock.clone(), self.metrics.clone());
        let configs = [self.config.clone()];
        let upstreams = Upstreams::new(&configs, clock, &self.limits, metrics, &self.lookup)
            .expect("it builds");
        upstreams.get(&self.config.name).expect("it is there").clone()
    }

    /// Whether the exposition holds this line.
    pub(crate) fn metric(&self, line: &str) -> bool {
        self.metrics.render().expect("it renders").lines().any(|found| found == line)
    }
}

/// Resolves every name to loopback, and counts.
pub(crate) fn loopback_lookup() -> (Lookup, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let lookup = Lookup::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok(vec![IpAddr::from([127, 0, 0, 1])]) }
    });
    (lookup, count)
}
