//! [`Condition`]: the node's state in one word, with the next step in one sentence.
//!
//! A farmer who passes by reads no more than this. What is most in the way of work is told, and only that.

use std::{fmt, time::Duration};

use loam_node_api::{
    screen::Facts,
    status::{ChainState, NodeStatus},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Starting,
    /// Nothing will become of it before somebody does something.
    Blocked,
    /// No way to the chain.
    Offline,
    /// Something of the node itself does not run.
    Faulty,
    Registering,
    Ready,
    Stopping,
}

/// What needs longer than this after the start is not on its way any more.
const STARTING: Duration = Duration::from_secs(60);

/// The state, and what is to be done about it.
pub fn of(facts: &Facts) -> (Condition, String) {
    let starting = facts.uptime < STARTING;
    if let Some(phase) = &facts.phase {
        return (Condition::Stopping, phase.clone());
    }
    if let Some(trouble) = &facts.trouble {
        return (Condition::Blocked, trouble.clone());
    }
    let down: Vec<&str> = facts
        .daemons
        .iter()
        .filter(|daemon| !daemon.runs)
        .map(|daemon| daemon.name.as_str())
        .collect();
    if !down.is_empty() && !starting {
        let down = down.join(" and ");
        return (
            Condition::Faulty,
            format!(
                "{down} does not run. It is started again and again; if this stays so, restart the node (r), and \
                 make its medium anew if that does not help."
            ),
        );
    }
    let Some(status) = &facts.status else {
        return match starting {
            true => (Condition::Starting, "The node starts.".to_owned()),
            false => (
                Condition::Faulty,
                "noded has said nothing since the start. If this stays so, restart the node (r)."
                    .to_owned(),
            ),
        };
    };
    told(facts, status, starting)
}

/// With what noded says.
fn told(facts: &Facts, status: &NodeStatus, starting: bool) -> (Condition, String) {
    if let Some(trouble) = &status.trouble {
        return (Condition::Blocked, trouble.clone());
    }
    match &status.chain {
        ChainState::Following { .. } => {
            let mut what = "It works; there is nothing to do.".to_owned();
            if !status.notices.first.is_empty() {
                what += " Something to look at stands below.";
            }
            return (Condition::Ready, what);
        }
        ChainState::Registering { .. } => {
            let what = "The node writes itself into the chain, which takes a minute.";
            return (Condition::Registering, what.to_owned());
        }
        ChainState::Connecting | ChainState::Silent { .. } => {}
    }
    if let Some(told) = no_network(facts, status, starting) {
        return told;
    }
    match &status.chain {
        ChainState::Silent { .. } => (
            Condition::Offline,
            "No endpoint of the chain answers, so that nothing new starts; what runs goes on. See whether other \
             machines here reach the internet, or press n for a test."
                .to_owned(),
        ),
        _ => (
            Condition::Starting,
            "The node asks the chain what it is to do.".to_owned(),
        ),
    }
}

/// Why there is no address.
fn no_network(facts: &Facts, status: &NodeStatus, starting: bool) -> Option<(Condition, String)> {
    if !status.addresses.is_empty() {
        return None;
    }
    let (condition, what) = if facts.links.is_empty() {
        (
            Condition::Offline,
            "This image has no driver for any network card of this machine: plug in another one, at USB too.",
        )
    } else if facts.links.iter().all(|link| !link.carrier) {
        (
            Condition::Offline,
            "No network cable is plugged in, or nothing is at its other end: plug one in.",
        )
    } else if starting {
        (
            Condition::Starting,
            "The node asks the network for an address.",
        )
    } else {
        (
            Condition::Offline,
            "This network gives no address: is DHCP switched on in its router? Press n for a test.",
        )
    };
    Some((condition, what.to_owned()))
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "STARTING",
            Self::Blocked => "BLOCKED",
            Self::Offline => "OFFLINE",
            Self::Faulty => "FAULTY",
            Self::Registering => "REGISTERING",
            Self::Ready => "READY",
            Self::Stopping => "STOPPING",
        })
    }
}

#[cfg(test)]
mod tests {
    use loam_node_api::screen::{Daemon, Link};

    use super::*;
    use crate::home::tests::facts;

    fn silent() -> ChainState {
        ChainState::Silent {
            reason: "refused".into(),
        }
    }

    /// `change` is made to a node that works.
    fn after(change: impl FnOnce(&mut Facts, &mut NodeStatus)) -> (Condition, String) {
        let mut facts = facts();
        let mut status = facts.status.take().unwrap();
        status.notices = Default::default();
        change(&mut facts, &mut status);
        of(&Facts {
            status: Some(status),
            ..facts
        })
    }

    #[test]
    fn a_node_that_works_says_so_and_whether_there_is_something_to_see() {
        let (word, what) = after(|_, _| ());
        assert_eq!((word, what.contains("below")), (Condition::Ready, false));
        let (word, what) =
            after(|_, status| status.notices = ["look".to_owned()].into_iter().collect());
        assert_eq!((word, what.contains("below")), (Condition::Ready, true));
        let (word, _) = after(|_, status| status.chain = ChainState::Registering { block: 1 });
        assert_eq!(word, Condition::Registering);
    }

    /// Each hides all that come after it.
    #[test]
    fn what_is_most_in_the_way_is_told() {
        let mut all = facts();
        all.links = vec![Link {
            name: "eth0".into(),
            carrier: false,
            speed: None,
        }];
        all.daemons[1].runs = false;
        all.phase = Some("going down".into());
        all.trouble = Some("no virtualisation".into());
        let status = all.status.as_mut().unwrap();
        status.trouble = Some("no disk".into());
        status.addresses.clear();
        status.chain = silent();
        let mut seen = Vec::new();
        let mut tell = |all: &Facts| {
            let (word, what) = of(all);
            seen.push(format!("{word}: {what}"));
        };
        tell(&all);
        all.phase = None;
        tell(&all);
        all.trouble = None;
        tell(&all);
        all.daemons[1].runs = true;
        tell(&all);
        all.status.as_mut().unwrap().trouble = None;
        tell(&all);
        all.links[0].carrier = true;
        tell(&all);
        all.status.as_mut().unwrap().addresses = facts().status.unwrap().addresses;
        tell(&all);
        let begins = [
            "STOPPING: going down",
            "BLOCKED: no virtualisation",
            "FAULTY: netd does not run.",
            "BLOCKED: no disk",
            "OFFLINE: No network cable",
            "OFFLINE: This network gives no address",
            "OFFLINE: No endpoint of the chain answers",
        ];
        for (said, begin) in seen.iter().zip(begins) {
            assert!(said.starts_with(begin), "{said}");
        }
        assert_eq!(seen.len(), begins.len());
    }

    #[test]
    fn what_is_on_its_way_after_the_start_is_no_fault() {
        let start = |facts: &mut Facts| facts.uptime = STARTING - Duration::from_secs(1);
        let (word, what) = after(|facts, status| {
            start(facts);
            status.addresses.clear();
            status.chain = ChainState::Connecting;
        });
        assert_eq!(word, Condition::Starting);
        assert!(what.starts_with("The node asks the network"));
        let (word, _) = after(|facts, status| {
            start(facts);
            facts.daemons = vec![Daemon {
                name: "noded".into(),
                state: "waiting".into(),
                runs: false,
            }];
            status.chain = ChainState::Connecting;
        });
        assert_eq!(word, Condition::Starting);

        let mut mute = Facts::default();
        assert_eq!(of(&mute).0, Condition::Starting);
        mute.uptime = STARTING;
        assert_eq!(of(&mute).0, Condition::Faulty);
    }

    #[test]
    fn a_machine_without_a_card_and_one_without_a_cable_are_told_apart() {
        let offline = |links: Vec<Link>| {
            after(|facts, status| {
                facts.links = links;
                status.addresses.clear();
                status.chain = silent();
            })
        };
        let (word, what) = offline(Vec::new());
        assert_eq!(word, Condition::Offline);
        assert!(what.contains("driver"));
        let link = |carrier| Link {
            name: "eth0".into(),
            carrier,
            speed: None,
        };
        assert!(offline(vec![link(false), link(false)]).1.contains("cable"));
        assert!(offline(vec![link(false), link(true)]).1.contains("DHCP"));
        // An answer of the chain is proof that there is a way to it.
        let (word, _) = after(|_, status| status.addresses.clear());
        assert_eq!(word, Condition::Ready);
    }
}
