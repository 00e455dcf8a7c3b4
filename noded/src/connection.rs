//! A connection to a daemon lasts no longer than the socket at its path.
//!
//! A process that was killed while one of its threads waits for a disk in the kernel keeps its
//! descriptors for as long: who is connected hears of no end, and its listener takes connections that
//! nobody serves. init removes its socket when it sees the daemon at its end, and the successor makes
//! another. By that sign all that was asked over the old one ends with an error, as if the kernel had
//! closed it.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tarpc::client::NewClient;
use tokio::time::sleep;
use tracing::warn;

/// Between two looks at the socket. Most connections are closed before the first; the lookout's are
/// always open, and a look at a file in memory takes microseconds.
const LOOK: Duration = Duration::from_secs(1);

/// The socket at a path.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    seen: Option<FileId>,
}

/// Of a file, and of no later one in its place, which may get the same number. That a socket's mode
/// is set once it listens leaves it the same.
#[derive(Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    number: u64,
    made: (i64, i64),
}

impl SocketFile {
    /// To be asked before the connection is made: if the socket is replaced in between, it breaks once
    /// for nothing, and never stays with the old one.
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            seen: FileId::of(path),
        }
    }

    /// Whether the same is still there.
    fn is_there(&self) -> bool {
        self.seen.is_some() && self.seen == FileId::of(&self.path)
    }

    async fn gone(&self) {
        while self.is_there() {
            sleep(LOOK).await;
        }
    }

    /// Carries the calls of the client until it is dropped or the socket is gone.
    pub fn carry<C, D, E>(self, client: NewClient<C, D>) -> C
    where
        D: Future<Output = Result<(), E>> + Send + 'static,
        E: std::error::Error + Send + 'static,
    {
        let NewClient { client, dispatch } = client;
        tokio::spawn(async move {
            tokio::select! {
                end = dispatch => if let Err(error) = end {
                    warn!(socket = %self.path.display(), %error, "a connection broke");
                },
                // What waits for an answer gets an error: its connection is shut down.
                () = self.gone() => {}
            }
        });
        client
    }
}

impl FileId {
    fn of(path: &Path) -> Option<Self> {
        let file = fs::symlink_metadata(path).ok()?;
        Some(Self {
            device: file.dev(),
            number: file.ino(),
            made: (file.mtime(), file.mtime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt, net::UnixListener};

    use super::*;

    #[test]
    fn a_socket_that_is_replaced_is_there_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(!SocketFile::at(&path).is_there());
        let _listener = UnixListener::bind(&path).unwrap();
        let socket = SocketFile::at(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let _connection = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(socket.is_there());
        fs::remove_file(&path).unwrap();
        assert!(!socket.is_there());
        // No successor is made within a tick of the kernel's clock.
        std::thread::sleep(Duration::from_millis(20));
        let _successor = UnixListener::bind(&path).unwrap();
        assert!(!socket.is_there());
        assert!(SocketFile::at(&path).is_there());
    }
}
