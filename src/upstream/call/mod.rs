//! One operation to its end, whichever it is.
//!
//! `runner` finds the login, holds the operation to its deadline, and has it tried again where
//! `retry` allows; what keeps failing is remembered for a moment in `failing`. `attempt` is one try
//! with a `request` and its `response`: authorised, redirected, judged.

pub(super) mod attempt;
mod failing;
pub(super) mod request;
pub(super) mod response;
pub(super) mod retry;
pub(super) mod runner;
