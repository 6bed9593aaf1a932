//! The socket's file, and who may speak to it.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

/// After a failure to accept, which is a shortage of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening socket, whose file goes with it.
#[derive(Debug)]
pub(super) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// # Errors
    /// Those of the system; `AlreadyExists` if something else than a socket is in its place.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        match path.symlink_metadata() {
            // The directory is locked: whoever made it is gone.
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
            Ok(_) => return Err(ErrorKind::AlreadyExists.into()),
            Err(_) => {}
        }
        let socket = Self { listener: UnixListener::bind(path)?, path: path.to_path_buf() };
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(socket)
    }

    /// The next one who may give commands.
    pub(super) async fn accept(&self) -> Option<UnixStream> {
        match self.listener.accept().await {
            Ok((stream, _)) => may_command(&stream).then_some(stream),
            Err(error) => {
                tracing::warn!(%error, "a command cannot be taken");
                tokio::time::sleep(PAUSE).await;
                None
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

/// This user and root. Before its permissions are set, and where a volume ignores them, others may
/// reach the socket.
fn may_command(stream: &UnixStream) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == ours || peer.uid() == 0)
}
