//! Reading what a configuration points to, never without a bound; and writing keys, licences and
//! revocations.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Far above any configuration, certificate bundle or password.
const LARGEST: u64 = 4 << 20;

/// Files in a folder of lists.
const MOST_FILES: usize = 1000;

/// The whole file.
///
/// # Errors
/// Those of the system, and `InvalidData` above 4 MiB.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 4 MiB"));
    }
    Ok(bytes)
}

/// The whole file as text.
///
/// # Errors
/// Those of [`read`], and `InvalidData` if it is not UTF-8.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// A password: the file's text without the line ends that editors add.
pub(crate) fn secret(path: &Path) -> Result<Secret, String> {
    let text = text_of(path)?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        Err(format!("{} is empty", path.display()))
    } else {
        Ok(Secret::new(password.to_owned()))
    }
}

/// The text of a file that is read apart from the configuration.
///
/// # Errors
/// A sentence that names the file.
pub fn text_of(path: &Path) -> Result<String, String> {
    read_text(path).map_err(|error| cannot_read(path, &error))
}

/// The file itself, or whatever a folder holds that is not hidden, by name. Folders in it are among
/// them, so that what was meant to be read is not passed over in silence.
///
/// # Errors
/// A sentence that names the folder, if it cannot be read or holds more than a thousand files.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let cannot = |error: io::Error| cannot_read(path, &error);
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(cannot)? {
        let file = entry.map_err(cannot)?.path();
        if !file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            files.push(file);
        }
        if files.len() > MOST_FILES {
            return Err(format!(
                "{} holds more than {MOST_FILES} files; put them together",
                path.display()
            ));
        }
    }
    files.sort();
    Ok(files)
}

/// The texts of [`files_of`].
///
/// # Errors
/// A sentence that names the file that cannot be read.
pub fn texts_of(path: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    files_of(path)?.into_iter().map(|file| text_of(&file).map(|text| (file, text))).collect()
}

/// The secret that keys of our own come from: the text of the file, which is made, for its owner
/// alone, if there is none.
///
/// # Errors
/// A sentence that names the file.
pub fn key_of(path: &Path) -> Result<Secret, String> {
    let cannot =
        |error: io::Error| format!("cannot create the key file {}: {error}", path.display());
    match read_text(path) {
        Ok(text) => Ok(Secret::new(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut random = Zeroizing::new([0; 32]);
            SystemRandom::new()
                .fill(random.as_mut())
                .map_err(|_| "the system gives no randomness".to_owned())?;
            let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(random.as_ref()));
            if let Some(folder) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(cannot)?;
            }
            let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            match created {
                Ok(mut file) => file
                    .write_all(text.as_bytes())
                    .and_then(|()| file.sync_all())
                    .map_err(cannot)?,
                // A replica that shares the folder was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return key_of(path),
                Err(error) => return Err(cannot(error)),
            }
            Ok(Secret::new(text.as_str().to_owned()))
        }
        Err(error) => Err(cannot_read(path, &error)),
    }
}

/// What some files hold, or that they cannot be read, in a form that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// Reads the files, and the files in folders.
pub fn fingerprint(paths: &[PathBuf]) -> Fingerprint {
    let mut context = digest::Context::new(&digest::SHA256);
    for path in paths {
        let read = texts_of(path).map(|files| {
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
    Fingerprint(print)
}

/// Writes a file that must not exist yet, with these permissions.
///
/// # Errors
/// A sentence that names the file.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).and_then(
        |mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        },
    );
    written.map_err(|error| format!("cannot create {}: {error}", path.display()))
}

/// Adds whole lines to the end of a file, or begins it, and waits until they are on disk. A last
/// line that an editor left open is ended first.
///
/// # Errors
/// A sentence that names the file.
pub fn append(path: &Path, lines: &str) -> Result<(), String> {
    let written =
        OpenOptions::new().read(true).append(true).create(true).mode(0o644).open(path).and_then(
            |mut file| {
                let end = if ends_open(&mut file)? { "\n" } else { "" };
                file.write_all(format!("{end}{lines}").as_bytes())?;
                file.sync_all()
            },
        );
    written.map_err(|error| format!("cannot write to {}: {error}", path.display()))
}

/// Whether the last line has no end.
fn ends_open(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// PEM with at least one certificate, each usable as an authority.
pub(crate) fn authority(path: &Path) -> Result<Vec<u8>, String> {
    let pem = read(path).map_err(|error| cannot_read(path, &error))?;
    let path = path.display();
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("{path} is not PEM: {error}"))?;
        store
            .add(certificate)
            .map_err(|error| format!("{path} holds a certificate that is none: {error}"))?;
    }
    if store.is_empty() { Err(format!("{path} holds no certificate in PEM form")) } else { Ok(pem) }
}

/// Whether there is a file that somebody may run.
///
/// # Errors
/// A sentence that names it.
pub(crate) fn check_program(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let metadata =
        fs::metadata(path).map_err(|error| format!("cannot find the program {shown}: {error}"))?;
    if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
        Ok(())
    } else {
        Err(format!("{shown} is no program: it has to be a file with leave to run it (chmod +x)"))
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_folder_of_lists_is_passed_over_in_silence() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["b", "a", ".hidden"] {
            fs::write(path(name), name).expect("a file");
        }
        assert_eq!(files_of(folder.path()), Ok(vec![path("a"), path("b")]));
        for i in 0..2 * MOST_FILES {
            fs::write(path(&format!(".{i}")), "").expect("a file");
        }
        assert_eq!(
            files_of(folder.path()).map(|files| files.len()),
            Ok(2),
            "hidden ones take no place"
        );
        fs::create_dir(path("c")).expect("a folder");
        assert!(texts_of(folder.path()).expect_err("a folder is no list").contains("/c"));
        for i in 0..MOST_FILES {
            fs::write(path(&format!("d{i}")), "").expect("a file");
        }
        assert!(files_of(folder.path()).expect_err("too many").contains("more than 1000"));
    }

    #[test]
    fn what_is_added_begins_a_line_of_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("list");
        for (before, expected) in [
            (None, "new\n"),
            (Some(""), "new\n"),
            (Some("old\n"), "old\nnew\n"),
            (Some("old"), "old\nnew\n"),
            (Some("\n"), "\nnew\n"),
        ] {
            if let Some(before) = before {
                fs::write(&path, before).expect("writable");
            }
            append(&path, "new\n").expect("writable");
            assert_eq!(fs::read_to_string(&path).expect("readable"), expected, "{before:?}");
        }
        let refused = append(folder.path(), "new\n").expect_err("a folder");
        assert!(refused.contains(&folder.path().display().to_string()), "{refused}");
    }
}
