//! `roadstead serve`

use std::env;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{self, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tracing::{info, warn};

use super::check::load;
use super::failure::CommandFailure;
use super::output::tell;
use crate::app::{App, Environment};
use crate::config::{Config, LogFormat, Upstream};
use crate::oci::UpstreamName;
use crate::telemetry::{self, Logging, Overrides, Telemetry};

/// How long the runtime may take to end after everything is closed: it waits for blocking calls
/// that have not returned.
const RUNTIME_SHUTDOWN_MAX: Duration = Duration::from_secs(1);

/// Connections that wait to be accepted, if the system allows as many (`net.core.somaxconn`).
const ACCEPT_QUEUE: u32 = 4096;

#[derive(Debug, clap::Args)]
pub(super) struct ServeArguments {
    /// Configuration file. Without one: the well-known registries, on loopback.
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_CONFIG")]
    config: Option<PathBuf>,
    /// Log lines for people or for machines; replaces log.format.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormatArgument>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogFormatArgument {
    Human,
    Json,
}

impl From<LogFormatArgument> for LogFormat {
    fn from(format: LogFormatArgument) -> Self {
        match format {
            LogFormatArgument::Human => Self::Human,
            LogFormatArgument::Json => Self::Json,
        }
    }
}

pub(super) fn run(arguments: &ServeArguments) -> Result<(), CommandFailure> {
    let (mut config, warnings) = load(arguments.config.as_deref())?;
    let format = arguments.log_format.map(LogFormat::from);
    let overrides = Overrides { format, filter: env::var("RUST_LOG").ok() };
    let (telemetry, logging) = telemetry::install(&config.log, overrides)?;
    config.log.format = format.unwrap_or(config.log.format);
    for warning in warnings.to_string().lines() {
        warn!("{warning}");
    }
    raise_descriptor_limit();
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let reloadable = arguments.config.as_deref().map(|file| (file, logging));
    let served = runtime.block_on(serve(reloadable, &config, &telemetry));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_MAX);
    Ok(served?)
}

async fn serve(
    reloadable: Option<(&Path, Logging)>,
    config: &Config,
    telemetry: &Telemetry,
) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let clients = bind("listen", config.listen)?;
    let admin = bind("admin", config.admin)?;
    let mut app = App::start(config, environment())?;
    if let Some((file, logging)) = reloadable {
        app.watch(file.to_owned(), Some(logging));
    }
    let reload = app.reload();
    let dropped = app.metrics().access_log_dropped.clone();
    telemetry.on_dropped(move |lines| dropped.inc_by(lines));
    announce(config, clients.local_addr()?, admin.local_addr()?);
    let (first, shutdown) = oneshot::channel::<()>();
    let stop = async {
        let name = signals.next(&reload).await;
        info!(signal = name, "stopping: not ready any more; a second signal ends it at once");
        drop(first);
        signals.next(&reload).await
    };
    tokio::select! {
        () = app.run(clients, admin, async { drop(shutdown.await) }) => {
            info!("stopped");
            Ok(())
        }
        name = stop => {
            Err(anyhow!("stopped at once by a second signal ({name}); transfers were cut"))
        }
    }
}

fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    listen_at(address).map_err(|error| {
        let remedy = remedy(&error, address);
        anyhow!("cannot listen on {address}: {error}; {remedy} as {key} in the configuration")
    })
}

/// What to do about an address that cannot be listened on; the sentence ends with the key.
fn remedy(error: &io::Error, address: SocketAddr) -> String {
    let kind = error.kind();
    if kind == ErrorKind::PermissionDenied {
        return format!(
            "a port below 1024, as {}, takes the capability CAP_NET_BIND_SERVICE \
             (AmbientCapabilities= of systemd, or setcap): give that, or another port",
            address.port()
        );
    }
    let remedy = if kind == ErrorKind::AddrInUse {
        "end the process that does, or give another address"
    } else if kind == ErrorKind::AddrNotAvailable {
        "no interface of this machine has it: give one that `ip address` shows, or 0.0.0.0"
    } else {
        "give another address"
    };
    remedy.to_owned()
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart need not wait until the connections of the process before are forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_QUEUE)
}

/// Raises the soft limit of descriptors to the hard one. Shells and service managers set it to
/// 1,024, for programs of the past; each client takes one or two.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, limit = limit.current, "the limit of file descriptors cannot be raised");
    }
}

/// The defaults, with no more clients than leave a quarter of the descriptors to the admin listener,
/// to files and to upstreams.
fn environment() -> Environment {
    let mut environment = Environment::default();
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let clients = usize::try_from(descriptors / 4 * 3).unwrap_or(usize::MAX).max(1);
    environment.limits.connections = environment.limits.connections.min(clients);
    environment
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The name of the next signal that ends the process; SIGHUP asks for a reload instead.
    async fn next(&mut self, reload: &Notify) -> &'static str {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.hangup.recv() => reload.notify_one(),
            }
        }
    }
}

fn announce(config: &Config, clients: SocketAddr, admin: SocketAddr) {
    if config.log.format == LogFormat::Human {
        tell(&banner(config, clients, admin));
    }
    let (cache, upstreams) = (cache_path(config), names(config));
    info!(%clients, %admin, cache = %cache.display(), %upstreams, "serving");
    if !config.ignored_variables.is_empty() {
        warn!(
            variables = config.ignored_variables.join(", "),
            "these variables name a proxy and are not followed; say proxy: environment to do so, or \
             proxy: none"
        );
    }
    for upstream in config.upstreams.iter().filter(|upstream| !upstream.tls_verify) {
        warn!(
            upstream = upstream.name.as_str(),
            "tls_verify is false: whoever sits on the way to this upstream can read its \
             credentials and change its tags"
        );
    }
}

/// What it does and how to try it, for whoever started it by hand.
fn banner(config: &Config, clients: SocketAddr, admin: SocketAddr) -> String {
    let upstream = config
        .default_upstream
        .as_ref()
        .or(config.upstreams.first().map(|upstream| &upstream.name));
    let image = match upstream.map(UpstreamName::as_str) {
        Some("docker.io") | None => "docker.io/library/alpine".to_owned(),
        Some(name) => format!("{name}/REPOSITORY"),
    };
    let (scheme, host) = callable(config, clients);
    format!(
        "roadstead {version}\n  clients    {listening}://{clients}\n  admin      http://{admin}/metrics\n  \
         cache      {cache}\n  upstreams  {upstreams}\n\nTry it:\n  docker pull {host}/{image}\n  \
         curl {scheme}://{host}/v2/{image}/tags/list\n",
        version = env!("CARGO_PKG_VERSION"),
        listening = if config.tls.is_some() { "https" } else { "http" },
        cache = cache_path(config).display(),
        upstreams = names(config),
    )
}

/// How clients call the proxy: by the first of its names, else by an address to try from this
/// machine.
fn callable(config: &Config, clients: SocketAddr) -> (&'static str, String) {
    let own_tls = config.tls.is_some();
    let Some(host) = config.hosts.first() else {
        return (if own_tls { "https" } else { "http" }, reachable(clients).to_string());
    };
    let scheme = if own_tls || !host.plain_http { "https" } else { "http" };
    // Where neither has TLS, somebody in front has it, on a port of their own.
    let own_port = (own_tls || host.plain_http).then_some(clients.port());
    let goes_without_saying = if scheme == "https" { 443 } else { 80 };
    match host.port.or(own_port).filter(|port| *port != goes_without_saying) {
        Some(port) => (scheme, format!("{}:{port}", host.name)),
        None => (scheme, host.name.clone()),
    }
}

/// An address to try from this machine: every interface includes loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => {
            SocketAddr::from(([127, 0, 0, 1], v4.port()))
        }
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            SocketAddr::from(([127, 0, 0, 1], v6.port()))
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}

fn cache_path(config: &Config) -> PathBuf {
    path::absolute(&config.cache.path).unwrap_or_else(|_| config.cache.path.clone())
}

fn names(config: &Config) -> String {
    let name = |upstream: &Upstream| match &config.default_upstream {
        Some(default) if *default == upstream.name => format!("{default} (default)"),
        Some(_) | None => upstream.name.to_string(),
    };
    config.upstreams.iter().map(name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect(text)
    }

    #[test]
    fn the_banner_says_where_and_how() {
        let text =
            banner(&config::builtin(&|_| None), address("0.0.0.0:5000"), address("127.0.0.1:5001"));
        for line in [
            "  clients    http://0.0.0.0:5000\n",
            "  admin      http://127.0.0.1:5001/metrics\n",
            "/roadstead-data\n",
            "  upstreams  docker.io (default), quay.io, ",
            "  docker pull 127.0.0.1:5000/docker.io/library/alpine\n",
            "  curl http://127.0.0.1:5000/v2/docker.io/library/alpine/tags/list\n",
        ] {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
    }

    #[test]
    fn the_banner_calls_the_proxy_by_the_first_of_its_names() {
        for (hosts, called) in [
            ("[registry.example.com, other.example.com]", "https://registry.example.com/v2/"),
            ("[\"registry.example.com:8443\"]", "https://registry.example.com:8443/v2/"),
            ("[\"http://localhost\"]", "http://localhost:5000/v2/"),
        ] {
            let text = format!("hosts: {hosts}\nupstreams: {{ quay.io: }}");
            let config = config::parse(&text, Path::new("c"), &|_| None).expect("valid");
            let text = banner(&config, address("127.0.0.1:5000"), address("127.0.0.1:5001"));
            assert!(text.contains(&format!("curl {called}")), "{text}");
            assert!(text.contains("clients    http://127.0.0.1:5000"), "{text}");
        }
    }

    #[test]
    fn what_to_do_depends_on_why_an_address_cannot_be_listened_on() {
        for (kind, part) in [
            (ErrorKind::PermissionDenied, "CAP_NET_BIND_SERVICE"),
            (ErrorKind::AddrInUse, "end the process"),
            (ErrorKind::AddrNotAvailable, "ip address"),
        ] {
            let told = remedy(&io::Error::from(kind), address("0.0.0.0:443"));
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn the_banner_names_an_upstream_that_exists() {
        let config =
            config::parse("upstreams: { quay.io: }", Path::new("c"), &|_| None).expect("valid");
        let text = banner(&config, address("[::]:5000"), address("127.0.0.1:5001"));
        assert!(text.contains("docker pull 127.0.0.1:5000/quay.io/REPOSITORY\n"), "{text}");
        assert!(text.contains("upstreams  quay.io\n"), "{text}");
    }
}
