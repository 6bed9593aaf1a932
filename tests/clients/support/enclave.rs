//! A network without any way out but the proxy at its edge: a network namespace, and Debian's
//! tinyproxy on the one address outside that can be reached from within.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::process::{Need, PATIENCE, Process, poll};
use super::sandbox::Sandbox;

pub(crate) const NEEDS: [Need; 4] =
    [Need::Root, Need::Program("ip"), Need::Program("nsenter"), Need::Program("tinyproxy")];

/// A namespace with loopback and one wire; gone when dropped.
#[derive(Debug)]
pub(crate) struct Enclave {
    name: String,
    /// This machine's end of the wire.
    pub(crate) outside: Ipv4Addr,
    /// The end within.
    pub(crate) inside: Ipv4Addr,
}

/// One number for each in this process.
static MADE: AtomicU8 = AtomicU8::new(0);

impl Enclave {
    pub(crate) fn make() -> Self {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        // Of a network for benchmarks, which nobody routes (RFC 2544); two processes of tests
        // rarely meet, and the second then fails to take the address.
        let third = u8::try_from(process % 256).expect("below 256");
        let at = |last: u8| Ipv4Addr::new(198, 18, third, 4 * number + last);
        let enclave = Self { name: format!("rs{process}x{number}"), outside: at(1), inside: at(2) };
        let Self { name, outside, inside } = &enclave;
        for line in [
            format!("netns add {name}"),
            format!("link add {name}o type veth peer name {name}i netns {name}"),
            format!("address add {outside}/30 dev {name}o"),
            format!("link set {name}o up"),
            format!("-netns {name} address add {inside}/30 dev {name}i"),
            format!("-netns {name} link set {name}i up"),
            format!("-netns {name} link set lo up"),
        ] {
            assert!(ip(&line), "ip {line}");
        }
        enclave
    }

    /// Programs of the sandbox are within from now on.
    pub(crate) fn take(&self, sandbox: Sandbox) -> Sandbox {
        sandbox.within(&PathBuf::from(format!("/run/netns/{}", self.name)))
    }
}

impl Drop for Enclave {
    fn drop(&mut self) {
        // The wire goes with it.
        ip(&format!("netns del {}", self.name));
    }
}

fn ip(line: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(line.split(' ')).stdin(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// tinyproxy at the edge, which lets CONNECT to one port pass, perhaps after a login.
#[derive(Debug)]
pub(crate) struct Edge {
    process: Process,
    pub(crate) address: SocketAddr,
}

impl Edge {
    /// `sandbox` is one outside; `login` is a user and a password.
    pub(crate) async fn start(
        enclave: &Enclave,
        sandbox: &Sandbox,
        folder: &Path,
        (port, login): (u16, Option<&str>),
    ) -> Self {
        let free = TcpListener::bind((enclave.outside, 0)).expect("the address is ours");
        let address = free.local_addr().expect("it is bound");
        drop(free);
        let login = login.map_or_else(String::new, |login| format!("BasicAuth {login}\n"));
        let file = folder.join("tinyproxy.conf");
        let text = format!(
            "Port {}\nListen {}\nTimeout 60\nMaxClients 50\nLogLevel Connect\nAllow {}\n\
             ConnectPort {port}\n{login}",
            address.port(),
            enclave.outside,
            enclave.inside,
        );
        fs::write(&file, text).expect("the folder is the test's own");
        let mut command = sandbox.command("tinyproxy");
        command.arg("-d").arg("-c").arg(file);
        let process = Process::start("tinyproxy", folder, command);
        let listens = async || TcpStream::connect(address).await.ok();
        poll("tinyproxy", PATIENCE, listens).await;
        Self { process, address }
    }

    /// Its log.
    pub(crate) fn log(&self) -> String {
        self.process.out() + &self.process.err()
    }
}

/// TLS on loopback, with the certificate of a sandbox, in front of a server that speaks without.
#[derive(Debug)]
pub(crate) struct TlsFront {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl TlsFront {
    pub(crate) async fn of(sandbox: &Sandbox, server: SocketAddr) -> Self {
        let certificate = CertificateDer::from_pem_file(&sandbox.certificate).expect("PEM");
        let key = PrivateKeyDer::from_pem_file(&sandbox.key).expect("PEM");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a pair");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    let Ok(mut here) = acceptor.accept(stream).await else { return };
                    let Ok(mut there) = TcpStream::connect(server).await else { return };
                    let _ended = copy_bidirectional(&mut here, &mut there).await;
                });
            }
        });
        Self { address, _tasks: tasks }
    }
}
