//! One operation to its end, whichever it is.
//!
//! `runner` finds the login, holds the operation to its deadline and to the `breaker`, and has it
//! tried again where `retry` allows. `attempt` is one try: authorised, redirected, judged.

pub(super) mod attempt;
pub(super) mod breaker;
pub(super) mod retry;
pub(super) mod runner;
