//! One transfer for many readers: `flight` is the table that everybody looks in, `fill` the task
//! that brings the bytes into a staged file, `resume` what it does when they break off, `tail` a
//! reader of the file that grows. `relay` passes through what cannot be kept.

pub(crate) mod fill;
pub(crate) mod flight;
pub(crate) mod relay;
mod resume;
pub(crate) mod tail;
pub(crate) mod turns;
