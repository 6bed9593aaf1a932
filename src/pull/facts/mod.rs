//! What is believed of upstreams, and for how long.
//!
//! Losing a fact is safe: without it upstream is asked again. Believing one for too long is not. So
//! each fact has a time, and `writes` knows which of them a push has outdated.

mod confirmation;
pub(crate) mod freshness;
pub(crate) mod lists;
pub(crate) mod membership;
pub(crate) mod negative;
pub(crate) mod provisional;
pub(crate) mod sizes;
pub(crate) mod subject;
pub(crate) mod writes;

/// Bytes of facts of each kind in memory: some 20,000.
const FACTS_BYTES: u64 = 8 << 20;
