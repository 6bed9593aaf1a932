//! Pushing to the private registry behind us (PROTOCOL §3.9, ACCESS §7).

mod addresses;
mod coherence;
mod digests;
mod failures;
mod images;
mod pressure;
mod races;
mod refusals;
mod rights;
mod sealed;
mod shares;
mod turns;
