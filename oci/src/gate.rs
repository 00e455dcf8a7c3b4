//! [`Gate`]: what holds up or ends the transfers of one attempt, each where it may be held up.

use tokio::sync::watch;

#[derive(Debug, Default)]
pub struct Gate(watch::Sender<Passage>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Passage {
    #[default]
    Open,
    /// For a while.
    Closed,
    Halted,
}

/// The transfer ended because its attempt does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the transfer was ended")]
pub struct Halted;

impl Gate {
    pub fn let_pass(&self) {
        self.set(Passage::Open);
    }

    pub fn close(&self) {
        self.set(Passage::Closed);
    }

    pub fn halt(&self) {
        self.set(Passage::Halted);
    }

    /// Returns once transfers may go on.
    pub async fn open(&self) -> Result<(), Halted> {
        let mut passage = self.0.subscribe();
        let passage = passage.wait_for(|passage| *passage != Passage::Closed);
        match passage.await.as_deref() {
            Ok(Passage::Open) => Ok(()),
            _ => Err(Halted),
        }
    }

    /// Returns once they may not.
    pub async fn closed(&self) {
        let mut passage = self.0.subscribe();
        // The sender is `self`, so it is there for as long as we wait.
        let _ = passage.wait_for(|passage| *passage != Passage::Open).await;
    }

    /// Nothing opens a gate that has been halted.
    fn set(&self, to: Passage) {
        self.0.send_if_modified(|passage| {
            let changes = *passage != Passage::Halted && *passage != to;
            if changes {
                *passage = to;
            }
            changes
        });
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn passes_waits_and_ends() {
        let gate = Gate::default();
        assert_eq!(gate.open().now_or_never(), Some(Ok(())));
        assert_eq!(gate.closed().now_or_never(), None);
        gate.close();
        assert_eq!(gate.open().now_or_never(), None);
        assert_eq!(gate.closed().now_or_never(), Some(()));
        gate.let_pass();
        assert_eq!(gate.open().now_or_never(), Some(Ok(())));
        gate.halt();
        gate.let_pass();
        assert_eq!(gate.open().now_or_never(), Some(Err(Halted)));
        assert_eq!(gate.closed().now_or_never(), Some(()));
    }
}
