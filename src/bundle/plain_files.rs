//! Files that somebody else may have made.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// A small file of a bundle.
pub(super) fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    let told = |error: String| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name}: {error}")
    };
    let mut bytes = Vec::new();
    let read = open_plain(path).map_err(told)?.take(max + 1).read_to_end(&mut bytes);
    read.map_err(|error| told(error.to_string()))?;
    if bytes.len() as u64 > max {
        return Err(told(format!("it is larger than {} MiB", max >> 20)));
    }
    Ok(bytes)
}

/// Opens what has to be a file: no link, pipe or device.
pub(super) fn open_plain(path: &Path) -> Result<File, String> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let opened = File::options().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| error.to_string())?;
    let found = file.metadata().map_err(|error| error.to_string())?;
    if found.is_file() { Ok(file) } else { Err("it is no plain file".to_owned()) }
}
