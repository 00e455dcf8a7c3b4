//! [`Voice`]: what a VMM says: whether it runs at all, by its event pipe and by its standard error.

use std::{os::fd::OwnedFd, time::Duration};

use anyhow::Context;
use loam_node_api::WorkloadId;
use tokio::sync::mpsc;

use super::{launcher::News, lifecycle::Input};
use crate::{
    event::Event,
    lines::Lines,
    log::{Log, Source},
    spawn::Outcome,
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

/// The pipes of a process, ready to be listened to.
#[derive(Debug)]
pub struct Ears {
    events: Lines,
    stderr: Lines,
}

impl Voice {
    pub fn ears(&self, events: OwnedFd, stderr: OwnedFd) -> anyhow::Result<Ears> {
        Ok(Ears {
            events: Lines::new(events, MAX_EVENT).context("listening to its events")?,
            stderr: Lines::new(stderr, MAX_LOG_LINE).context("listening to its log")?,
        })
    }

    /// Listens until the process has closed both pipes.
    pub fn listen(self, ears: Ears, outcome: Outcome) {
        let (id, log) = (self.id.clone(), self.log.clone());
        tokio::task::spawn_local(log_lines(id, log, ears.stderr));
        tokio::task::spawn_local(async move {
            match outcome.wait().await {
                Ok(()) => {
                    self.tell(News::Executed).await;
                    self.forward(ears.events).await;
                }
                Err(error) => {
                    let what = format!("starting loam-vmm: {error}");
                    self.tell(News::Life(Input::Broken(what))).await;
                }
            }
        });
    }

    async fn forward(self, mut events: Lines) {
        while let Some(line) = events.next().await {
            match serde_json::from_slice(&line) {
                Ok(event) => {
                    tracing::debug!(machine = %self.id, ?event, "event");
                    self.tell(News::Life(Input::Event(event))).await;
                }
                Err(error) => {
                    let what = format!("the VMM sent an event that makes no sense: {error}");
                    self.tell(News::Life(Input::Broken(what))).await;
                    return;
                }
            }
        }
        self.tell(News::Life(Input::EventsClosed)).await;
    }

    async fn tell(&self, news: News) {
        let event = Event::Machine {
            id: self.id.clone(),
            launch: self.launch,
            news,
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
