pub(in crate::upstream) mod attempt;
pub(in crate::upstream) mod breaker;
pub(in crate::upstream) mod conversation;
pub(in crate::upstream) mod retry;
