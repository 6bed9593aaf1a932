//! What this machine runs out of, as the system says it.

use std::io;

/// Whether descriptors of the process or the system, memory, or local ports are what is missing.
/// That says nothing about the file, the peer or the registry that was wanted.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| shortages.contains(&code))
}
