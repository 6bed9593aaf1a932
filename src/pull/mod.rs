//! What a pull-through cache is: bytes from the store if the asker has a right to them there, else
//! from upstream once, with everybody who asks reading along.
//!
//! `blobs`, `cold`, `keeping`, `manifests`, `tags`, `moves`, `listings` and `referrers` tell the
//! stories top to bottom, `kept` those of a sealed upstream, `pushed` what the cache learns from
//! writes. `source` is where a fill's bytes come from, `transfer` the engine that brings them to many
//! readers, `facts` what is believed of upstreams, and for how long. Shared work runs in `tasks` of
//! its own; a caller that leaves changes nothing.

mod answers;
mod asker;
mod blobs;
mod cold;
mod core;
mod error;
mod facts;
mod imported;
mod interest;
mod keeping;
mod kept;
mod listings;
mod manifests;
mod moves;
mod outcome;
mod parts;
mod pushed;
mod referrers;
mod share_queues;
mod share_table;
mod shares;
mod single_flight;
mod source;
mod tags;
mod tasks;
mod transfer;

pub use answers::{BlobAnswer, BlobHead, ByteStream, Content, PieceMax};
pub use answers::{ManifestAnswer, ManifestContent, Want};
pub use asker::Asker;
pub use core::PullThrough;
pub use error::{Error, Missing, UpstreamFault};
pub use imported::ImportedTag;
pub use keeping::Arrivals;
pub use listings::TagPage;
pub use outcome::Outcome;
pub use parts::Parts;
pub use pushed::PushedManifest;
pub use referrers::{Referrers, ReferrersSource};
