//! Panics behind a test: in a task or on a disk thread, where no assertion would see them.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

static HOOK: Once = Once::new();
static SEEN: AtomicUsize = AtomicUsize::new(0);

/// Panics so far on threads that are no test's own. Tests that run at the same time share the
/// blame.
pub(crate) fn behind_the_tests() -> usize {
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            if thread
                .name()
                .is_some_and(|name| name.starts_with("tokio") || name.starts_with("roadstead"))
            {
                SEEN.fetch_add(1, Ordering::SeqCst);
            }
            usual(panic);
        }));
    });
    SEEN.load(Ordering::SeqCst)
}
