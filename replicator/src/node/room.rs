//! A state directory without room: the node waits until there is some, as it
//! does where its folder has none.
//!
//! The index ended with what it had made durable before, and the next life
//! compares the folder with that, as after a crash: what changes meanwhile is
//! found then. Peers see a node that is away.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use tokio::sync::{mpsc, watch};

use crate::status::control::{Asked, Request, Response};

/// How often room is looked for.
const PAUSE: Duration = Duration::from_secs(1);

/// What counts as room: several times what one commit of the index writes.
const ROOM_BYTES: u64 = 16 << 20;

/// The file that is made to see whether there is room, and taken away again.
const PROBE: &str = "room.probe";

/// Waits for room, and answers those who ask meanwhile. False where the node is
/// to end.
pub(super) async fn wait(
    state_dir: &Path,
    stop: &mut watch::Receiver<bool>,
    questions: &mut mpsc::Receiver<Asked>,
) -> bool {
    let reason = format!(
        "no space left in {}: this node neither sends nor receives until there are {} MiB of room there, and goes on by itself then",
        state_dir.display(),
        ROOM_BYTES >> 20,
    );
    tracing::error!("{reason}");
    let mut look = tokio::time::interval(PAUSE);
    while !*stop.borrow_and_update() {
        tokio::select! {
            _ = stop.changed() => {}
            Some((request, answer)) = questions.recv() => {
                let response = match request {
                    Request::Ping => Response::Pong { pid: std::process::id() },
                    _ => Response::Refused { reason: reason.clone() },
                };
                // Who asked may have gone away.
                let _ = answer.send(response);
            }
            _ = look.tick() => {
                if has_room(state_dir) {
                    tracing::info!("there is room in the state directory again");
                    return true;
                }
            }
        }
    }
    false
}

/// By taking it: a quota is not among what a file system says is free.
fn has_room(state_dir: &Path) -> bool {
    let path = state_dir.join(PROBE);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
    let taken = file.and_then(|file| {
        match fallocate(&file, FallocateFlags::empty(), 0, ROOM_BYTES) {
            // It cannot be asked: the next life finds out.
            Err(Errno::OPNOTSUPP) => Ok(()),
            taken => taken.map_err(io::Error::from),
        }
    });
    // Also what a full disk left of it.
    let _ = fs::remove_file(&path);
    taken.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_found_and_nothing_is_left_of_the_search() {
        let folder = tempfile::tempdir().unwrap();
        let (_stop, mut stopped) = watch::channel(false);
        let (_asked, mut questions) = mpsc::channel(1);
        assert!(wait(folder.path(), &mut stopped, &mut questions).await);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn who_waits_answers_and_ends_when_told() {
        let nowhere = Path::new("/nonexistent/state");
        let (stop, mut stopped) = watch::channel(false);
        let (asked, mut questions) = mpsc::channel(1);
        let waiting =
            tokio::spawn(async move { wait(nowhere, &mut stopped, &mut questions).await });
        let (answer, answered) = tokio::sync::oneshot::channel();
        asked.send((Request::Status, answer)).await.unwrap();
        let Response::Refused { reason } = answered.await.unwrap() else { panic!() };
        assert!(reason.contains("no space left in /nonexistent/state"), "{reason}");
        stop.send(true).unwrap();
        assert!(!waiting.await.unwrap());
    }
}
