//! One transfer for many readers.
//!
//! `flight` is the table of transfers in progress, `fill` the task that brings the bytes into a
//! staged file, once `turns` has a place for it. `resume` continues a transfer that breaks off, and
//! `tail` reads the file while it grows. `relay` passes through what cannot be stored, and verifies it with `held_back`. `continuing`
//! is how both go on after a break, `pace` how fast a transfer is.

mod continuing;
pub(crate) mod fill;
pub(crate) mod flight;
mod held_back;
pub(crate) mod pace;
pub(crate) mod relay;
mod resume;
#[cfg(test)]
mod schedules;
pub(crate) mod tail;
pub(crate) mod turns;
