//! Read-only mappings of stored blobs: the zero-copy half of a warm body, and the only `unsafe` of
//! the crate.
//!
//! Why this is sound: a mapping's bytes are only ever handed to the kernel (as the source of a
//! socket write), never read by this process, so content that changed under us would be wrong bytes
//! on the wire, not undefined behaviour in Rust code that assumed otherwise. Blobs are immutable
//! once published and only ever unlinked, never truncated or written; should somebody truncate one
//! by hand all the same, the kernel answers the socket write with `EFAULT`, where a read by this
//! process would be killed by `SIGBUS`. That is why TLS, which must read, does not use this path
//! (DESIGN §14.11).
#![expect(
    unsafe_code,
    reason = "mmap, mincore and madvise have no safe form; the argument stands above and at each \
        call"
)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// How much of a mapping is made resident and handed to hyper at once, in bytes (DESIGN §14.11).
pub const SLICE: usize = 1 << 20;

/// A whole file, mapped for reading and shared with the page cache.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is read-only and lives until drop; no thread can change it through this type.
unsafe impl Send for Mapping {}
// SAFETY: as above; every method takes `&self` and only reads the two fields.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `file`; `len` must not be 0.
    pub(super) fn new(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::SHARED,
                file.as_fd(),
                0,
            )?
        };
        let start = NonNull::new(start.cast())
            .ok_or_else(|| io::Error::other("mmap gave a null address"))?;
        Ok(Self { start, len })
    }

    /// The bytes, for a write to a socket; not to be read by this process.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `start` is valid for `len` bytes until drop, and the borrow ends before that.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Whether every page of `range` is in the page cache; a write from it will then not wait for
    /// the disk.
    pub(super) fn is_resident(&self, range: &Range<usize>) -> bool {
        let (start, len) = self.pages(range);
        let mut resident = [0_u8; MAX_PAGES];
        let Some(resident) = resident.get_mut(..len.div_ceil(PAGE)) else { return false };
        // SAFETY: `start` is page-aligned inside the mapping, and `resident` has one byte for each
        // page of `len`.
        let result = unsafe { libc::mincore(start.cast(), len, resident.as_mut_ptr()) };
        result == 0 && resident.iter().all(|page| page & 1 == 1)
    }

    /// Reads the pages of `range` into the page cache and maps them; blocks on the disk.
    ///
    /// # Errors
    /// If the file is shorter than the range or cannot be read.
    pub(super) fn populate(&self, range: &Range<usize>) -> io::Result<()> {
        let (start, len) = self.pages(range);
        // SAFETY: `start` is page-aligned inside the mapping, and this advice changes no content.
        unsafe { rustix::mm::madvise(start.cast(), len, Advice::LinuxPopulateRead)? };
        Ok(())
    }

    /// The page-aligned part of the mapping that holds `range`.
    fn pages(&self, range: &Range<usize>) -> (*mut u8, usize) {
        assert!(range.start <= range.end && range.end <= self.len, "a slice lies inside its blob");
        let first = range.start / PAGE * PAGE;
        (self.start.as_ptr().wrapping_add(first), range.end - first)
    }
}

/// The unit that `mincore` counts in. Larger pages are told as several of these only where the
/// kernel's page is this size, so elsewhere residency is simply not believed (the slice is
/// populated instead).
const PAGE: usize = 4096;

/// Pages of the largest slice that is asked about, one more for its unaligned start.
const MAX_PAGES: usize = SLICE / PAGE + 1;

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the one that `mmap` gave, and no borrow of it can be left.
        let result = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok(), "unmapping a whole mapping cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::mem::ManuallyDrop;

    use super::*;

    /// Stands where a mapping would, in memory of the test's own: what is done with addresses can be
    /// checked by Miri then, which maps no files (`cargo +nightly miri test --lib store::mapping`).
    fn over(bytes: &mut [u8]) -> ManuallyDrop<Mapping> {
        let len = bytes.len();
        ManuallyDrop::new(Mapping { start: NonNull::from(bytes).cast(), len })
    }

    #[test]
    fn pages_begin_at_a_boundary_and_end_with_their_range() {
        for len in [1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 5] {
            let mut bytes = vec![7; len];
            let mapping = over(&mut bytes);
            let base = mapping.start.as_ptr();
            for start in (0..=len).filter(|at| at % PAGE < 2 || at % PAGE > PAGE - 2) {
                for end in [start, start.midpoint(len), len] {
                    let (first, pages) = mapping.pages(&(start..end));
                    let offset = first.addr() - base.addr();
                    assert_eq!(
                        (offset % PAGE, offset + pages),
                        (0, end),
                        "{start}..{end} of {len}"
                    );
                    assert!(offset <= start && start - offset < PAGE, "{start}..{end} of {len}");
                }
            }
            assert!(mapping.bytes().iter().all(|byte| *byte == 7) && mapping.bytes().len() == len);
        }
    }

    #[test]
    #[should_panic(expected = "a slice lies inside its blob")]
    fn a_range_beyond_the_end_is_refused() {
        let mut bytes = [0; 10];
        over(&mut bytes).pages(&(5..11));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri maps no files")]
    fn a_range_is_resident_once_it_is_populated() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        let content: Vec<u8> = (0..=250).cycle().take(2 * SLICE).collect();
        file.write_all(&content).expect("there is room");
        let mapping = Mapping::new(&file, content.len()).expect("a mapping");
        let range = SLICE - 5..2 * SLICE - 7;
        mapping.populate(&range).expect("the file is long enough");
        assert!(mapping.is_resident(&range));
        assert!(!mapping.is_resident(&(0..2 * SLICE)), "more than one slice is not asked about");
        assert_eq!(mapping.bytes(), content);
    }
}
