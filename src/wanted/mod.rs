//! The one list grammar of wanted images: what is to be brought in, exported or kept. Pure.
//!
//! `content` tells by their content what bytes are: lines of the grammar (`line`), or documents
//! that other programs write (`documents`). A document is read into a `tree`, whose aliases are
//! bounded, and `kinds` knows where manifests, compose files and charts name images. A
//! [`ListReader`] takes any number of files, and ends in `WantedImages`, or in every problem that
//! was found: there is no half list.

mod content;
mod documents;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod images;
mod kinds;
mod line;
mod pin;
mod place;
mod reader;
mod trail;
mod tree;

pub(crate) use images::WantedImage;
pub(crate) use line::{ImageLine, WantedPlatforms};
pub(crate) use pin::{PinLine, PinTarget};
pub(crate) use place::{FoundAt, ListProblems};
pub(crate) use reader::ListReader;
