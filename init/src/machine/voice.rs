//! [`Voice`]: what a VMM says, by its event pipe and its standard error.

use std::{os::fd::OwnedFd, time::Duration};

use anyhow::Context;
use loam_node_api::WorkloadId;
use tokio::sync::mpsc;

use super::lifecycle::Input;
use crate::{
    event::Event,
    lines::Lines,
    log::{Log, Source},
};

/// The longest event carries a reason for the tenant; guest init's own lines are 4 KiB at most.
const MAX_EVENT: usize = 8 << 10;

/// A VMM says little. What is above this many lines is read (its writes must not fail) but slowly
/// and for nothing, so that a VMM that was taken over cannot keep PID 1 busy or fill the log.
const MAX_LOG_LINES: u32 = 500;
const MAX_LOG_LINE: usize = 2 << 10;
const SLOW: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Voice {
    pub id: WorkloadId,
    /// Which process of the machine this is.
    pub launch: u32,
    pub sender: mpsc::Sender<Event>,
    pub log: Log,
}

impl Voice {
    /// Listens until the process has closed both pipes.
    pub fn listen(self, events: OwnedFd, stderr: OwnedFd) -> anyhow::Result<()> {
        let events = Lines::new(events, MAX_EVENT).context("listening to its events")?;
        let stderr = Lines::new(stderr, MAX_LOG_LINE).context("listening to its log")?;
        tokio::task::spawn_local(log_lines(self.id.clone(), self.log.clone(), stderr));
        tokio::task::spawn_local(self.forward(events));
        Ok(())
    }

    async fn forward(self, mut events: Lines) {
        while let Some(line) = events.next().await {
            match serde_json::from_slice(&line) {
                Ok(event) => {
                    tracing::debug!(machine = %self.id, ?event, "event");
                    self.tell(Input::Event(event)).await;
                }
                Err(error) => {
                    let what = format!("the VMM sent an event that makes no sense: {error}");
                    self.tell(Input::Broken(what)).await;
                    return;
                }
            }
        }
        self.tell(Input::EventsClosed).await;
    }

    async fn tell(&self, input: Input) {
        let event = Event::Machine {
            id: self.id.clone(),
            launch: self.launch,
            input,
        };
        // The main loop ends only with the node.
        let _ = self.sender.send(event).await;
    }
}

async fn log_lines(id: WorkloadId, log: Log, mut stderr: Lines) {
    let source = Source::Machine(id);
    let mut left = MAX_LOG_LINES;
    while let Some(line) = stderr.next().await {
        match left {
            0 => tokio::time::sleep(SLOW).await,
            1 => log.line(&source, b"(it says too much; no more of it is kept)"),
            _ => log.line(&source, &line),
        }
        left = left.saturating_sub(1);
    }
}
