//! The real clients. Each function pulls one image through `mirror` with storage of its own that is new and empty, and
//! fails unless what arrived is `image`. None of them holds a credential.

mod containerd;
mod docker;
mod podman;
mod skopeo;

pub(crate) use containerd::containerd;
pub(crate) use docker::docker;
pub(crate) use podman::podman;
pub(crate) use skopeo::skopeo;
