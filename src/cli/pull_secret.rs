//! A licence in the form that a client without a login takes (ACCESS §6.3).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::config::LicenceFile;

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum PullSecretFormat {
    /// A Secret for imagePullSecrets.
    Kubernetes,
    /// docker's config.json.
    Docker,
    /// containerd's hosts.toml, one for each host.
    Hosts,
}

pub(super) fn write(file: &LicenceFile, format: PullSecretFormat, name: &str) -> String {
    let pair = format!("{}:{}", file.licence.id, file.token.expose());
    let auth = BASE64_STANDARD.encode(pair);
    let hosts = file.licence.hosts.iter();
    let docker = || {
        let entry = |host: &String| {
            let password = file.token.expose();
            (
                host.clone(),
                json!({ "username": file.licence.id.as_str(), "password": password, "auth": auth }),
            )
        };
        let auths: serde_json::Map<_, _> = hosts.clone().map(entry).collect();
        json!({ "auths": auths }).to_string()
    };
    match format {
        PullSecretFormat::Docker => docker() + "\n",
        PullSecretFormat::Kubernetes => format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\ntype: kubernetes.io/dockerconfigjson\ndata:\n  \
             .dockerconfigjson: {}\n",
            BASE64_STANDARD.encode(docker())
        ),
        PullSecretFormat::Hosts => hosts
            .map(|host| {
                format!(
                    "# /etc/containerd/certs.d/{host}/hosts.toml\nserver = \"https://{host}\"\n\n\
                     [host.\"https://{host}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  \
                     [host.\"https://{host}\".header]\n    authorization = \"Basic {auth}\"\n"
                )
            })
            .collect::<Vec<_>>()
            .join("\n"),
    }
}
