//! [`Stop`]: the wish that an attempt ends.

use tokio::sync::watch;

/// Seen by what works, and heard by what waits.
#[derive(Clone, Debug, Default)]
pub struct Stop(watch::Sender<bool>);

impl Stop {
    pub fn set(&self) {
        self.0.send_replace(true);
    }

    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it is set.
    pub async fn wait(&self) {
        // The sender is `self`, so it is there for as long as we wait.
        let _ = self.0.subscribe().wait_for(|set| *set).await;
    }
}
