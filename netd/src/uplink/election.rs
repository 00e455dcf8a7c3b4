//! Which link has the lease, and which links look for one.
//!
//! The first link that gets a lease has it until it loses it, or until another gets one that leads out
//! where the first does not: a cable to a LAN without a router takes nobody off the world. A link whose
//! cable is pulled keeps its addresses until another link has a lease that is as good: a cable that is
//! put back interrupts nothing.

use std::collections::BTreeSet;

/// What happened. Links are named by their index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Exactly these links are up and have a carrier.
    Ready(BTreeSet<u32>),
    /// The link's client got a lease, or renewed it, or got another.
    Leased {
        link: u32,
        /// The lease has a default route.
        leads_out: bool,
    },
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
    /// The lease that came with the event is not to be put in place: another link's is as good.
    PassOver(u32),
    /// Remove what the link's lease brought.
    Withdraw(u32),
}

/// The link whose lease is in place.
#[derive(Clone, Copy, Debug)]
struct Holder {
    link: u32,
    leads_out: bool,
}

#[derive(Debug, Default)]
pub struct Election {
    ready: BTreeSet<u32>,
    holder: Option<Holder>,
    /// Links on which a client runs.
    clients: BTreeSet<u32>,
    /// Of these, who have a lease that was passed over. None of them leads out, or it would have been
    /// taken.
    passed_over: BTreeSet<u32>,
}

impl Election {
    pub fn holder(&self) -> Option<u32> {
        self.holder.map(|holder| holder.link)
    }

    /// A predecessor's lease is in place on `link`.
    pub fn adopt(&mut self, link: u32, leads_out: bool) {
        self.holder = Some(Holder { link, leads_out });
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
            Event::Leased { link, leads_out } => {
                // A client that was stopped may have spoken just before.
                if !self.clients.contains(&link) {
                    return actions;
                }
                let other = self.holder.filter(|holder| holder.link != link);
                if other.is_some() && !self.would_win(leads_out) {
                    self.passed_over.insert(link);
                    actions.push(Action::PassOver(link));
                } else {
                    actions.extend(other.map(|before| Action::Withdraw(before.link)));
                    self.passed_over.remove(&link);
                    self.holder = Some(Holder { link, leads_out });
                    actions.push(Action::Apply(link));
                }
            }
            Event::Lost(link) => {
                self.passed_over.remove(&link);
                if self.holder() == Some(link) {
                    self.holder = None;
                    actions.push(Action::Withdraw(link));
                }
            }
            Event::Gone(link) => {
                if self.holder() == Some(link) {
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

    /// Whether a lease of a link that is ready is better than the one in place: first whether it leads out
    /// counts, then whether the cable is in. Of equals, the one in place stays.
    fn would_win(&self, leads_out: bool) -> bool {
        let in_place = |holder: Holder| (holder.leads_out, self.ready.contains(&holder.link));
        self.holder.map(in_place) < Some((leads_out, true))
    }

    /// A holder that leads out keeps its lease alive alone; while there is none, or its link is down, all
    /// try.
    fn start_clients(&mut self, actions: &mut Vec<Action>) {
        let alone = |holder: &Holder| holder.leads_out && self.ready.contains(&holder.link);
        let wanted = match self.holder.filter(alone) {
            Some(holder) => BTreeSet::from([holder.link]),
            None => self.ready.clone(),
        };
        for link in self.clients.difference(&wanted) {
            actions.push(Action::Stop(*link));
        }
        self.passed_over = &self.passed_over & &wanted;
        if self.would_win(false) {
            // Their clients would tell of the leases that they have only when these are renewed.
            for link in std::mem::take(&mut self.passed_over) {
                self.clients.remove(&link);
            }
        }
        for link in wanted.difference(&self.clients) {
            actions.push(Action::Start(*link));
        }
        self.clients = wanted;
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::{btree_set, vec},
        prelude::*,
    };

    use super::{Action::*, *};

    fn ready(links: &[u32]) -> Event {
        Event::Ready(links.iter().copied().collect())
    }

    fn leased(link: u32) -> Event {
        Event::Leased {
            link,
            leads_out: true,
        }
    }

    fn leased_inside(link: u32) -> Event {
        Event::Leased {
            link,
            leads_out: false,
        }
    }

    #[test]
    fn the_first_lease_wins_and_the_others_stop() {
        let mut election = Election::default();
        assert_eq!(election.on(ready(&[2, 3])), [Start(2), Start(3)]);
        assert_eq!(election.on(leased(3)), [Apply(3), Stop(2)]);
        assert_eq!(election.on(leased(3)), [Apply(3)], "a renewal");
        assert_eq!(election.on(leased(2)), [], "too late");
        assert_eq!(election.on(ready(&[2, 3])), []);
    }

    #[test]
    fn a_lost_lease_is_withdrawn_and_all_look_for_another() {
        let mut election = Election::default();
        election.on(ready(&[2, 3]));
        election.on(leased(2));
        assert_eq!(election.on(Event::Lost(2)), [Withdraw(2), Start(3)]);
        assert_eq!(election.on(Event::Lost(2)), [], "its client looks already");
        assert_eq!(election.on(leased(3)), [Apply(3), Stop(2)]);
    }

    #[test]
    fn a_pulled_cable_keeps_the_address_until_another_link_has_one() {
        let mut election = Election::default();
        election.on(ready(&[2, 3]));
        election.on(leased(2));
        assert_eq!(election.on(ready(&[3])), [Stop(2), Start(3)]);
        // Put back in time: only the client starts anew, the address was never gone.
        assert_eq!(election.on(ready(&[2, 3])), [Stop(3), Start(2)]);
        assert_eq!(election.on(ready(&[3])), [Stop(2), Start(3)]);
        assert_eq!(election.on(leased(3)), [Withdraw(2), Apply(3)]);
        assert_eq!(
            election.on(ready(&[2, 3])),
            [],
            "the old one does not come back by itself"
        );
    }

    #[test]
    fn an_adopted_lease_is_confirmed_by_its_own_link_only() {
        let mut election = Election::default();
        election.adopt(2, true);
        assert_eq!(election.on(ready(&[2, 3])), [Start(2)]);
        assert_eq!(election.on(leased(2)), [Apply(2)]);
    }

    #[test]
    fn an_adopted_lease_that_ends_frees_the_others() {
        let mut election = Election::default();
        election.adopt(2, true);
        election.on(ready(&[2, 3]));
        // Its client never had a lease to lose; the kernel ends the address.
        assert_eq!(
            election.on(Event::Gone(2)),
            [Withdraw(2), Start(2), Start(3)]
        );
        assert_eq!(election.on(Event::Gone(2)), []);
        assert_eq!(election.on(leased(2)), [Apply(2), Stop(3)]);
    }

    #[test]
    fn a_lease_that_leads_nowhere_gives_way_to_one_that_leads_out() {
        let mut election = Election::default();
        election.on(ready(&[2, 3, 4]));
        // The others go on looking, also while it is renewed.
        assert_eq!(election.on(leased_inside(2)), [Apply(2)]);
        assert_eq!(election.on(leased_inside(2)), [Apply(2)]);
        // One that is no better changes nothing.
        assert_eq!(election.on(leased_inside(3)), [PassOver(3)]);
        assert_eq!(election.on(leased_inside(3)), [PassOver(3)]);
        let won = [Withdraw(2), Apply(3), Stop(2), Stop(4)];
        assert_eq!(election.on(leased(3)), won);
        assert_eq!(election.holder(), Some(3));
        assert_eq!(election.on(leased_inside(2)), [], "too late");
        assert_eq!(election.on(ready(&[2, 3, 4])), []);
    }

    #[test]
    fn a_lease_that_was_passed_over_is_asked_for_anew_when_it_is_the_best() {
        let mut election = Election::default();
        election.on(ready(&[2, 3]));
        election.on(leased_inside(2));
        election.on(leased_inside(3));
        assert_eq!(election.on(Event::Lost(2)), [Withdraw(2), Start(3)]);
        assert_eq!(election.on(leased_inside(3)), [Apply(3)]);
        assert_eq!(election.on(leased_inside(2)), [PassOver(2)]);
        // The cable of the holder is pulled: of two that lead nowhere, the one that is there.
        assert_eq!(election.on(ready(&[2])), [Stop(3), Start(2)]);
        assert_eq!(election.on(leased_inside(2)), [Withdraw(3), Apply(2)]);
        // What was lost since is looked for already.
        election.on(ready(&[2, 3]));
        election.on(leased_inside(3));
        assert_eq!(election.on(Event::Lost(3)), []);
        assert_eq!(election.on(Event::Lost(2)), [Withdraw(2)]);
    }

    #[test]
    fn a_lease_that_leads_out_no_more_is_kept_while_others_look() {
        let mut election = Election::default();
        election.on(ready(&[2, 3]));
        election.on(leased(2));
        assert_eq!(election.on(leased_inside(2)), [Apply(2), Start(3)]);
        assert_eq!(election.on(leased_inside(3)), [PassOver(3)]);
        assert_eq!(election.on(leased(2)), [Apply(2), Stop(3)]);
    }

    #[test]
    fn a_pulled_cable_that_led_out_is_not_given_up_for_one_that_leads_nowhere() {
        let mut election = Election::default();
        election.on(ready(&[2, 3]));
        election.on(leased(2));
        election.on(ready(&[3]));
        assert_eq!(election.on(leased_inside(3)), [PassOver(3)]);
        // Put back in time, it was never gone; else the other is what there is.
        assert_eq!(election.on(ready(&[2, 3])), [Stop(3), Start(2)]);
        election.on(ready(&[3]));
        election.on(leased_inside(3));
        assert_eq!(election.on(Event::Gone(2)), [Withdraw(2), Start(3)]);
        assert_eq!(election.on(leased_inside(3)), [Apply(3)]);
    }

    #[test]
    fn an_adopted_lease_that_leads_nowhere_is_not_alone() {
        let mut election = Election::default();
        election.adopt(2, false);
        assert_eq!(election.on(ready(&[2, 3])), [Start(2), Start(3)]);
        assert_eq!(election.on(leased_inside(3)), [PassOver(3)]);
        assert_eq!(election.on(leased(3)), [Withdraw(2), Apply(3), Stop(2)]);
    }

    #[test]
    fn a_link_alone_has_whatever_lease_it_gets() {
        let mut election = Election::default();
        assert_eq!(election.on(ready(&[2])), [Start(2)]);
        for event in [leased_inside(2), leased(2), leased_inside(2)] {
            assert_eq!(election.on(event), [Apply(2)]);
        }
        assert_eq!(election.on(Event::Lost(2)), [Withdraw(2)]);
        assert_eq!(election.on(leased_inside(2)), [Apply(2)]);
        assert_eq!(election.on(Event::Gone(2)), [Withdraw(2), Start(2)]);
    }

    fn event() -> impl Strategy<Value = Event> {
        let link = || 0u32..3;
        prop_oneof![
            1 => btree_set(link(), 0..4).prop_map(Event::Ready),
            4 => (link(), any::<bool>()).prop_map(|(link, leads_out)| Event::Leased { link, leads_out }),
            1 => link().prop_map(Event::Lost),
            1 => link().prop_map(Event::Gone),
        ]
    }

    proptest! {
        /// Whatever happens, another link takes over only from one that is worse, and all look as long as
        /// none leads out.
        #[test]
        fn the_uplink_changes_only_for_the_better(events in vec(event(), 0..60)) {
            let mut election = Election::default();
            for event in events {
                let before = election.holder;
                let actions = election.on(event.clone());
                let taken = actions.iter().any(|action| matches!(action, Withdraw(_)));
                if let (Some(before), Some(now)) = (before, election.holder)
                    && before.link != now.link
                {
                    let pulled = !election.ready.contains(&before.link);
                    let better = now.leads_out && (!before.leads_out || pulled);
                    prop_assert!(better || pulled && !before.leads_out, "{event:?}");
                    prop_assert!(taken);
                }
                let out = election.holder.filter(|holder| holder.leads_out);
                match out.filter(|holder| election.ready.contains(&holder.link)) {
                    Some(holder) => prop_assert_eq!(&election.clients, &BTreeSet::from([holder.link])),
                    None => prop_assert_eq!(&election.clients, &election.ready),
                }
                prop_assert!(election.passed_over.is_subset(&election.clients));
                prop_assert!(election.passed_over.is_empty() || !election.would_win(false));
            }
        }
    }
}
