//! A docker credential helper, which is a shell script.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// Prints the login of `robot`, whose password is `hunter2`.
pub(crate) const LOGIN: &str = r#"echo '{"ServerURL":"x","Username":"robot","Secret":"hunter2"}'"#;

/// A helper and the folder in which it works.
pub(crate) struct Helper(TempDir);

impl Helper {
    /// A helper that notes each run and what it was asked, and goes on with `script`.
    pub(crate) fn new(script: &str) -> Self {
        let helper = Self(TempDir::new().expect("a folder"));
        let folder = helper.0.path().display();
        let text = format!("#!/bin/sh\ncd '{folder}'\necho \"$@ $(cat)\" >> runs\n{script}\n");
        fs::write(helper.path("text"), text).expect("writable");
        // By another process: a file that this one has open for writing cannot be run while another
        // test forks.
        let installed =
            Command::new("install").args([helper.path("text"), helper.program()]).status();
        assert!(installed.expect("install runs").success());
        helper
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.path("docker-credential-test")
    }

    pub(crate) fn runs(&self) -> Vec<String> {
        fs::read_to_string(self.path("runs"))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("writable");
    }
}
