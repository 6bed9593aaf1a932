//! A host name, a certificate and an `/etc` that hold for the programs of one test and for nobody
//! else.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::{PATIENCE, run};

/// What the certificate is for.
pub(crate) const HOST: &str = "vendor.test";

/// Takes a folder for `/etc` and becomes another program; the mount is gone with it.
const ENTER: &str = r#"mount --bind "$0" /etc && exec "$@""#;

/// A private view of the machine, in a mount namespace of its own: [`HOST`] is this machine, its
/// certificate is trusted, and what programs leave in `/etc` or at home vanishes with the test.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    folder: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    environment: Vec<(OsString, OsString)>,
    /// The network namespace of its programs; none: the machine's.
    network: Option<PathBuf>,
}

impl Sandbox {
    pub(crate) async fn make(folder: &Path) -> Self {
        let folder = folder.join("site");
        fs::create_dir(&folder).expect("the folder is the test's own");
        let mut copy = Command::new("cp");
        copy.args(["--archive", "/etc"]).arg(&folder);
        run("cp", &folder, copy).await;
        let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()])
            .expect("the name is a valid one");
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        for (file, text) in [
            (&certificate, made.cert.pem()),
            (&key, made.signing_key.serialize_pem()),
            (&folder.join("etc/hosts"), format!("127.0.0.1 localhost {HOST}\n")),
        ] {
            fs::write(file, text).expect("the folder is the test's own");
        }
        // Docker, podman, skopeo and containerd are written in Go, which reads it.
        let environment = vec![("SSL_CERT_FILE".into(), certificate.clone().into())];
        Self { folder, certificate, key, environment, network: None }
    }

    /// With a further variable.
    pub(crate) fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// With its programs in this network namespace.
    pub(crate) fn within(mut self, network: &Path) -> Self {
        self.network = Some(network.to_owned());
        self
    }

    /// What programs there find under that path in `/etc`.
    pub(crate) fn etc(&self, path: &str) -> PathBuf {
        self.folder.join("etc").join(path)
    }

    /// For podman and its kin; docker trusts loopback anyway.
    pub(crate) fn trust_plain_http(&self, host: &str) {
        let text = format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n");
        fs::write(self.etc("containers/registries.conf"), text)
            .expect("the folder is the test's own");
    }

    /// Runs `program` there. Whatever it mounts vanishes with it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = match &self.network {
            None => Command::new("unshare"),
            Some(network) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", network.display())).arg("unshare");
                command
            }
        };
        command.args(["--mount", "--propagation", "private", "sh", "-c", ENTER]).arg(self.etc(""));
        command.arg(program).env("HOME", &self.folder).envs(self.environment.iter().cloned());
        command
    }

    /// A client of the tests' own there, for plain HTTP as well.
    pub(crate) fn client(&self, port: u16) -> reqwest::Client {
        let pem = fs::read(&self.certificate).expect("it was written");
        let certificate = reqwest::Certificate::from_pem(&pem).expect("rcgen writes PEM");
        let trusting = reqwest::Client::builder().no_proxy().tls_certs_only([certificate]);
        let near = trusting.resolve(HOST, ([127, 0, 0, 1], port).into()).timeout(PATIENCE);
        near.build().expect("one certificate can be trusted")
    }
}
