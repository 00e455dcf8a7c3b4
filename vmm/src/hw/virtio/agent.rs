//! The VMM's end of the agent port: lines from guest init, each a [`GuestEvent`].

use std::time::{Duration, Instant};

use loam_node_api::guest::GuestEvent;

use crate::{
    events::{Notice, Notices},
    pace::Pace,
};

/// As the interface says; a longer line is no event.
pub const LINE_LIMIT: usize = 4096;
/// A guest that talks nonsense must not flood the log.
const MOST_COMPLAINTS: u32 = 4;

#[derive(Debug)]
pub struct Agent {
    notices: Notices,
    line: Vec<u8>,
    /// The line has become too long; its rest is skipped.
    overlong: bool,
    complaints: u32,
    /// A guest has little to say; what it repeats beyond this is not even passed on.
    heard: u32,
    /// What it says of its health comes again and again, and so has a pace.
    health: Pace,
}

/// Events from one guest that are passed on; a life has three, and lives are told up to eight;
/// the first says also that it begins.
const MOST_EVENTS: u32 = 8 * 4;

/// Guest init tells its health once in [`HEALTH_PAUSE`](loam_node_api::guest::HEALTH_PAUSE). Twice as
/// often is passed on, as this thread may see late what came in time.
const HEALTH_AT_ONCE: u32 = 4;
const HEALTH_EVERY: Duration = Duration::from_secs(30);

impl Agent {
    pub fn new(notices: Notices) -> Self {
        Self {
            notices,
            line: Vec::new(),
            overlong: false,
            complaints: 0,
            heard: 0,
            health: Pace::new(HEALTH_AT_ONCE, HEALTH_EVERY, Instant::now()),
        }
    }

    /// Bytes from the guest, cut anywhere.
    pub fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line();
            } else if self.line.len() < LINE_LIMIT {
                self.line.push(*byte);
            } else {
                self.overlong = true;
            }
        }
    }

    /// The port was closed: what began is not finished.
    pub fn forget(&mut self) {
        self.line.clear();
        self.overlong = false;
    }

    fn end_line(&mut self) {
        let event = if self.overlong {
            None
        } else {
            serde_json::from_slice::<GuestEvent>(&self.line).ok()
        };
        let heard = event.as_ref().is_some_and(|event| self.hears(event));
        match event {
            Some(event) if heard => self.notices.send(Notice::Guest(event)),
            Some(_) => {}
            None if self.complaints < MOST_COMPLAINTS => {
                self.complaints += 1;
                tracing::warn!("guest init sent a line that is no event; ignored");
            }
            None => {}
        }
        self.forget();
    }

    fn hears(&mut self, event: &GuestEvent) -> bool {
        if let GuestEvent::Health { .. } = event {
            return self.health.take(Instant::now()).is_ok();
        }
        self.heard = self.heard.saturating_add(1);
        self.heard <= MOST_EVENTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events;

    #[test]
    fn events_come_in_pieces() {
        let (notices, board) = events::notices().unwrap();
        let mut agent = Agent::new(notices);
        agent.take(b"{\"event\":\"sta");
        assert_eq!(board.next(), None);
        agent.take(b"rted\"}\n{\"event\":\"exited\",\"status\":3}\n");
        assert_eq!(board.next(), Some(Notice::Guest(GuestEvent::Started)));
        let exited = GuestEvent::Exited { status: 3 };
        assert_eq!(board.next(), Some(Notice::Guest(exited)));
    }

    #[test]
    fn health_has_a_pace_of_its_own() {
        let (notices, board) = events::notices().unwrap();
        let mut agent = Agent::new(notices);
        for _ in 0..10_000 {
            agent.take(b"{\"event\":\"health\",\"healthy\":true,\"output\":\"\"}\n");
        }
        let told = std::iter::from_fn(|| board.next()).count();
        assert_eq!(told, HEALTH_AT_ONCE as usize);
        // And what it says otherwise is heard.
        agent.take(b"{\"event\":\"exited\",\"status\":0}\n");
        let exited = GuestEvent::Exited { status: 0 };
        assert_eq!(board.next(), Some(Notice::Guest(exited)));
    }

    #[test]
    fn nonsense_and_overlong_lines_are_skipped() {
        let (notices, board) = events::notices().unwrap();
        let mut agent = Agent::new(notices);
        agent.take(b"hello\n\xff\xfe\n\n");
        agent.take(&vec![b' '; 1 << 20]);
        agent.take(b"{\"event\":\"started\"}\n");
        assert_eq!(board.next(), None);
        agent.take(b"{\"event\":\"started\"}\n");
        assert_eq!(board.next(), Some(Notice::Guest(GuestEvent::Started)));
    }
}
