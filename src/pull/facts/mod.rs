pub(in crate::pull) mod freshness;
pub(in crate::pull) mod membership;
pub(in crate::pull) mod negative;
