//! The real clients. Each function pulls one image through `mirror` with storage of its own that is
//! new and empty, and fails unless what arrived is `image`. None of them holds a credential; a
//! [`Client`] does.

mod buildah;
mod containerd;
mod docker;
mod podman;
mod skopeo;

use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use buildah::Buildah;
pub(crate) use containerd::{Containerd, containerd};
pub(crate) use docker::{Docker, docker};
pub(crate) use podman::{Podman, podman};
pub(crate) use skopeo::{Skopeo, archive, skopeo};

use crate::support::image::Image;
use crate::support::process::Need;
use crate::support::sandbox::Sandbox;

/// A client that can log in, with storage of its own that is new and empty.
pub(crate) trait Client {
    const NEEDS: &'static [Need];

    async fn start(sandbox: &Sandbox, folder: &Path) -> Self;

    fn login(&self, host: &str, user: &str, password: &str) -> Command;

    fn pull(&self, name: &str) -> Command;

    /// Fails unless `image` was pulled as `name`.
    async fn holds(&self, name: &str, image: &Image);

    /// The file that holds logins, or says which helper does: `auths` and `credHelpers`.
    fn logins(&self) -> PathBuf;
}

/// A client that can push as well.
pub(crate) trait Pusher: Client {
    /// Takes the image of a docker-archive, as `name`, which stands in there.
    fn load(&self, archive: &Path, name: &str) -> Command;

    fn tag(&self, name: &str, other: &str) -> Command;

    fn push(&self, name: &str) -> Command;
}
