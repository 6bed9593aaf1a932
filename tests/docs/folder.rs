//! A folder in which commands of the documents run: with the program on the `PATH`, and with the
//! files that configurations name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// The password is `demo`.
const USER: &str = "ci:$2y$10$CSDtCwCuaGHRsL/q0ubfvuY6BCO4RpG41k7L1.6nhOHE/i2nxxp7G\n";

pub(crate) struct Folder(TempDir);

/// What a command has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) success: bool,
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Folder {
    /// With nothing in it but programs.
    pub(crate) fn empty() -> Self {
        let folder = tempfile::tempdir().expect("the system has a temporary folder");
        let programs = folder.path().join("bin");
        fs::create_dir(&programs).expect("the folder is the test's own");
        for name in ["roadstead", "docker-credential-roadstead"] {
            symlink(env!("CARGO_BIN_EXE_roadstead"), programs.join(name))
                .expect("the folder is the test's own");
        }
        Self(folder)
    }

    /// With everything that the configurations in the documents name, a signing key, and a licence.
    pub(crate) fn of_a_vendor() -> Self {
        let folder = Self::empty();
        let made = rcgen::generate_simple_self_signed(vec!["registry.example.com".to_owned()])
            .expect("the name is a valid one");
        for name in ["tls.crt", "clients.pem", "acme-ca.pem"] {
            folder.write(name, &made.cert.pem());
        }
        folder.write("tls.key", &made.signing_key.serialize_pem());
        folder.write("htpasswd", USER);
        folder.write("revoked", "");
        for name in ["hub", "quay", "registry", "proxy"] {
            folder.write(name, "secret\n");
        }
        let said = folder.shell(
            "roadstead licence keygen licence\nroadstead licence keygen other\n\
             mv other.pub licence-2027.pub\nmkdir licences\n\
             roadstead licence issue --key licence.key --issuer 'Acme Inc.' --id customer-prod \
             --customer 'Customer GmbH' --application myapp --host registry.example.com \
             --expires 365d --out licences/customer-prod.licence",
        );
        assert!(said.success, "{said:?}");
        folder
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("the folder is the test's own");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Writes `config.yaml`. What the configuration has in the folders of a server is in this one.
    pub(crate) fn write_config(&self, config: &str) {
        let here = self.path().display().to_string();
        let folders = ["/etc/roadstead", "/run/secrets", "/var/lib/roadstead"];
        let config =
            folders.iter().fold(config.to_owned(), |text, there| text.replace(there, &here));
        self.write("config.yaml", &config);
    }

    /// A shell with `code`, which ends at the first command that fails.
    pub(crate) fn command(&self, code: &str) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let programs = std::iter::once(self.path().join("bin")).chain(std::env::split_paths(&path));
        let path = std::env::join_paths(programs).expect("temporary folders have no colon");
        let mut command = Command::new("sh");
        command.args(["-euc", code]).current_dir(self.path()).env("PATH", path);
        for name in ["RUST_LOG", "ROADSTEAD_CONFIG", "ROADSTEAD_LICENCE"] {
            command.env_remove(name);
        }
        command.env("REGISTRY_PASSWORD", "secret");
        command
    }

    /// Runs `code` to its end.
    pub(crate) fn shell(&self, code: &str) -> Said {
        let output = self.command(code).output().expect("there is a shell");
        let text = |bytes| String::from_utf8(bytes).expect("programs write text");
        Said {
            success: output.status.success(),
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}
