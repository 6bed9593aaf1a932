//! Whether files are what they were.

use std::fmt;
use std::path::PathBuf;

use aws_lc_rs::digest;

use super::reading::read_all;

/// What a file holds, or that it cannot be read, in a form that can be compared: neither times nor
/// sizes tell for sure, and a mounted secret changes behind a link. Shows nothing of itself, since
/// the hash of a short password gives it away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of what was read, or could not be.
    pub(crate) fn of<E: fmt::Display>(read: &Result<impl AsRef<[u8]>, E>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        match read {
            Ok(bytes) => context.update(bytes.as_ref()),
            Err(error) => context.update(format!("\0{error}").as_bytes()),
        }
        Self::end(context)
    }

    /// Of files, and of the files in folders, as they are now.
    pub(crate) fn of_all(paths: &[PathBuf]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for path in paths {
            let read = read_all(path).map(|files| {
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
        Self::end(context)
    }

    fn end(context: digest::Context) -> Self {
        let mut print = [0; 32];
        print.copy_from_slice(context.finish().as_ref());
        Self(print)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::files::read_bytes;

    #[test]
    fn a_print_differs_as_soon_as_anything_does_and_shows_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text");
        let missing = Fingerprint::of(&read_bytes(&path));
        fs::write(&path, "").expect("writable");
        let empty = Fingerprint::of(&read_bytes(&path));
        fs::write(&path, "a").expect("writable");
        let full = Fingerprint::of(&read_bytes(&path));
        assert!(missing != empty && empty != full && missing != full);
        assert_eq!(full, Fingerprint::of(&Ok::<_, String>("a")));
        assert_eq!(format!("{full:?}"), "Fingerprint(…)");
    }
}
