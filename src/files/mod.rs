//! Small files: what a configuration points to is read whole, but never without a bound, and
//! compared with what it was; keys, licences and revocations are written.

mod fingerprint;
mod places;
mod reading;
mod writing;

pub(crate) use fingerprint::Fingerprint;
pub(crate) use places::{check_executable, check_place, disk_size, is_forbidden, link_at};
pub(crate) use reading::{
    cannot_read, list_files, read_bytes, read_large_once, read_large_utf8, read_once, read_stream,
    read_text, read_text_once, read_utf8, utf8,
};
pub(crate) use writing::{
    append_lines, create, create_private, remove_half_written, replace_private, set_aside,
};
