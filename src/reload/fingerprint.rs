//! Whether files have changed, by what they hold: neither times nor sizes tell for sure, and a
//! mounted secret changes behind a link.

use std::path::PathBuf;

use aws_lc_rs::digest;

use crate::files;

/// What some files hold, or that they cannot be read, in a form that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Reads the files, and the files in folders.
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for path in paths {
            let read = files::read_all(path).map(|files| {
                for (file, text) in files {
                    context.update(file.as_os_str().as_encoded_bytes());
                    context.update(&(text.len() as u64).to_be_bytes());
                    context.update(text.as_bytes());
                }
            });
            if let Err(message) = read {
                context.update(message.as_bytes());
            }
        }
        let mut print = [0; 32];
        print.copy_from_slice(context.finish().as_ref());
        Self(print)
    }
}
