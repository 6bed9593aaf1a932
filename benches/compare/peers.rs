//! The servers that are compared, each set up as its own documentation would have it.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::content::{Content, MANIFEST};
use crate::origin::{TAG, blob_path, manifest_path};
use crate::server::{self, Server, free_addresses, roadstead, roadstead_with};
use crate::tls::Pair;

/// roadstead, and the peers that are installed.
pub(crate) async fn start(
    folder: &Path,
    origin: SocketAddr,
    blob: &Arc<Content>,
    manifest: &Arc<Content>,
) -> anyhow::Result<Vec<Server>> {
    let mut servers = vec![roadstead(folder, origin).await?];
    servers.extend(before(folder, origin, "").await?);
    if installed("nginx") {
        servers.push(nginx("nginx", folder, (blob, manifest), None).await?);
    } else {
        println!("nginx is not installed: skipped");
    }
    if installed("docker-registry") {
        servers.push(distribution(folder, origin).await?);
    } else {
        println!("docker-registry is not installed: skipped");
    }
    Ok(servers)
}

/// Those that serve over TLS, with one certificate.
pub(crate) async fn start_secure(
    folder: &Path,
    origin: SocketAddr,
    (blob, manifest): (&Content, &Content),
    pair: &Pair,
) -> anyhow::Result<Vec<Server>> {
    let Pair { certificate, key } = pair;
    let tls =
        format!("tls: {{ certificate: '{}', key: '{}' }}\n", certificate.display(), key.display());
    let mut servers = vec![roadstead_with(folder, origin, &tls).await?];
    servers.extend(before(folder, origin, &tls).await?);
    if installed("nginx") {
        for (name, lines) in
            [("nginx", ""), ("nginx-64k", "ssl_buffer_size 64k; output_buffers 2 256k;")]
        {
            let folder = folder.join(name);
            fs::create_dir(&folder)?;
            servers.push(nginx(name, &folder, (blob, manifest), Some((pair, lines))).await?);
        }
    }
    Ok(servers)
}

/// Another build of roadstead, if `ROADSTEAD_BEFORE` names one: what a change costs.
async fn before(folder: &Path, origin: SocketAddr, more: &str) -> anyhow::Result<Option<Server>> {
    let Some(program) = env::var_os("ROADSTEAD_BEFORE") else { return Ok(None) };
    let folder = folder.join("before");
    fs::create_dir(&folder)?;
    server::build("before", Path::new(&program), &folder, origin, more).await.map(Some)
}

fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Static files under the paths of a registry; over TLS with a certificate and further lines.
async fn nginx(
    name: &'static str,
    folder: &Path,
    (blob, manifest): (&Content, &Content),
    tls: Option<(&Pair, &str)>,
) -> anyhow::Result<Server> {
    let root = folder.join("static");
    let place = |path: String| root.join(path.trim_start_matches('/'));
    blob.write_to(&place(blob_path(blob)))?;
    manifest.write_to(&place(manifest_path(manifest.digest.as_str())))?;
    manifest.write_to(&place(manifest_path(TAG)))?;
    let [address, _] = free_addresses()?;
    let at = folder.display();
    // Only the superuser may name a user, and has to: the files are readable to their owner alone.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let tls = tls.map(|(Pair { certificate, key }, lines)| {
        let (certificate, key) = (certificate.display(), key.display());
        format!("ssl; ssl_protocols TLSv1.3; ssl_certificate {certificate}; ssl_certificate_key {key}; {lines}")
    });
    let tls = tls.unwrap_or_else(|| ";".to_owned());
    let config = format!(
        "daemon off; {user} worker_processes 2; pid {at}/nginx.pid; error_log {at}/nginx-error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  access_log {at}/nginx-access.log combined;\n  sendfile on; tcp_nopush on;\n  \
         keepalive_timeout 300; keepalive_requests 100000000;\n  client_body_temp_path {at}/t1; proxy_temp_path {at}/t2; \
         fastcgi_temp_path {at}/t3; uwsgi_temp_path {at}/t4; scgi_temp_path {at}/t5;\n  \
         server {{ listen {address} {tls} root {at}/static; default_type application/octet-stream;\n    \
         location ~ /manifests/ {{ default_type {MANIFEST}; }}\n  }}\n}}\n"
    );
    let path = folder.join("nginx.conf");
    fs::write(&path, config)?;
    let mut command = Command::new("nginx");
    command.arg("-e").arg(folder.join("nginx-start.log")).arg("-p").arg(folder).arg("-c").arg(path);
    Server::start(name, folder, command, address).await
}

/// CNCF distribution as a pull-through proxy of the same origin.
async fn distribution(folder: &Path, origin: SocketAddr) -> anyhow::Result<Server> {
    let [address, _] = free_addresses()?;
    let config = format!(
        "version: 0.1\nlog: {{ level: warn }}\nstorage: {{ filesystem: {{ rootdirectory: '{}/registry' }} }}\n\
         http: {{ addr: '{address}' }}\nproxy: {{ remoteurl: 'http://{origin}' }}\n",
        folder.display()
    );
    let path = folder.join("registry.yaml");
    fs::write(&path, config)?;
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(path);
    Server::start("docker-registry", folder, command, address).await
}
