//! Which link has the lease, and which links look for one.
//!
//! The first link that gets a lease has it until it loses it. A link whose cable is pulled keeps
//! its addresses until another link has a lease: a cable that is put back interrupts nothing.

use std::collections::BTreeSet;

/// What happened. Links are named by their index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Exactly these links are up and have a carrier.
    Ready(BTreeSet<u32>),
    /// The link's client got a lease, or renewed it, or got another.
    Leased(u32),
    /// The lease ended or was refused; the link's client looks for another.
    Lost(u32),
    /// The kernel has the lease's address no more, whatever the link's client believes.
    Gone(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a client on the link, anew if one runs.
    Start(u32),
    Stop(u32),
    /// Put the lease that came with the event in place.
    Apply(u32),
    /// Remove what the link's lease brought.
    Withdraw(u32),
}

#[derive(Debug, Default)]
pub struct Election {
    ready: BTreeSet<u32>,
    /// The link whose lease is in place.
    holder: Option<u32>,
    /// Links on which a client runs.
    clients: BTreeSet<u32>,
}

impl Election {
    pub fn holder(&self) -> Option<u32> {
        self.holder
    }

    /// A predecessor's lease is in place on `link`.
    pub fn adopt(&mut self, link: u32) {
        self.holder = Some(link);
    }

    pub fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Ready(ready) => {
                self.ready = ready;
                for link in self.clients.difference(&self.ready) {
                    actions.push(Action::Stop(*link));
                }
                self.clients = &self.clients & &self.ready;
            }
            Event::Leased(link) => {
                // A client that was stopped may have spoken just before.
                if !self.clients.contains(&link) {
                    return actions;
                }
                if let Some(before) = self.holder.filter(|holder| *holder != link) {
                    actions.push(Action::Withdraw(before));
                }
                self.holder = Some(link);
                actions.push(Action::Apply(link));
                for other in self.clients.iter().filter(|client| **client != link) {
                    actions.push(Action::Stop(*other));
                }
                self.clients = BTreeSet::from([link]);
            }
            Event::Lost(link) => {
                if self.holder == Some(link) {
                    self.holder = None;
                    actions.push(Action::Withdraw(link));
                }
            }
            Event::Gone(link) => {
                if self.holder == Some(link) {
                    self.holder = None;
                    actions.push(Action::Withdraw(link));
                    // Its client would ask again only when half of the lease is over.
                    self.clients.remove(&link);
                }
            }
        }
        self.start_clients(&mut actions);
        actions
    }

    /// The holder keeps its lease alive alone; while there is none, or its link is down, all try.
    fn start_clients(&mut self, actions: &mut Vec<Action>) {
        let wanted: BTreeSet<u32> = match self.holder {
            Some(holder) if self.ready.contains(&holder) => BTreeSet::from([holder]),
            _ => self.ready.clone(),
        };
        for link in self.clients.difference(&wanted) {
            actions.push(Action::Stop(*link));
        }
        for link in wanted.difference(&self.clients) {
            actions.push(Action::Start(*link));
        }
        self.clients = wanted;
    }
}

#[cfg(test)]
mod tests {
    use super::{Action::*, *};

    fn ready(links: &[u32]) -> Event {
        Event::Ready(links.iter().copied().collect())
    }

    #[test]
    fn the_first_lease_wins_and_the_others_stop() {
        let mut election = Election::default();
        assert_eq!(election.on(ready(&[2, 3])), [Start(2), Start(3)]);
        assert_eq!(election.on(Event::Leased(3)), [Apply(3), Stop(2)]);
        assert_eq!(election.on(Event::Leased(3)), [Apply(3)], "a renewal");
        assert_eq!(election.on(Event::Leased(2)), [], "too late");
        assert_eq!(election.on(ready(&[2, 3])), []);
    }

    #[test]
    fn a_lost_lease_is_withdrawn_and_all_look_for_another() {
        let mut election = Election::default();
        election.on(ready(&[2, 3]));
        election.on(Event::Leased(2));
        assert_eq!(election.on(Event::Lost(2)), [Withdraw(2), Start(3)]);
        assert_eq!(election.on(Event::Lost(2)), [], "its client looks already");
        assert_eq!(election.on(Event::Leased(3)), [Apply(3), Stop(2)]);
    }

    #[test]
    fn a_pulled_cable_keeps_the_address_until_another_link_has_one() {
        let mut election = Election::default();
        election.on(ready(&[2, 3]));
        election.on(Event::Leased(2));
        assert_eq!(election.on(ready(&[3])), [Stop(2), Start(3)]);
        // Put back in time: only the client starts anew, the address was never gone.
        assert_eq!(election.on(ready(&[2, 3])), [Stop(3), Start(2)]);
        assert_eq!(election.on(ready(&[3])), [Stop(2), Start(3)]);
        assert_eq!(election.on(Event::Leased(3)), [Withdraw(2), Apply(3)]);
        assert_eq!(
            election.on(ready(&[2, 3])),
            [],
            "the old one does not come back by itself"
        );
    }

    #[test]
    fn an_adopted_lease_is_confirmed_by_its_own_link_only() {
        let mut election = Election::default();
        election.adopt(2);
        assert_eq!(election.on(ready(&[2, 3])), [Start(2)]);
        assert_eq!(election.on(Event::Leased(2)), [Apply(2)]);
    }

    #[test]
    fn an_adopted_lease_that_ends_frees_the_others() {
        let mut election = Election::default();
        election.adopt(2);
        election.on(ready(&[2, 3]));
        // Its client never had a lease to lose; the kernel ends the address.
        assert_eq!(
            election.on(Event::Gone(2)),
            [Withdraw(2), Start(2), Start(3)]
        );
        assert_eq!(election.on(Event::Gone(2)), []);
        assert_eq!(election.on(Event::Leased(2)), [Apply(2), Stop(3)]);
    }
}
