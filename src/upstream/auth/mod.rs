pub(in crate::upstream) mod challenge;
pub(in crate::upstream) mod helper;
pub(in crate::upstream) mod login;
pub(in crate::upstream) mod scheme;
pub(in crate::upstream) mod token;
