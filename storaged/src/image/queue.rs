//! [`Queue`]: who may fetch or build next.
//!
//! The node has few places for what takes a network's or a processor's time, and strangers choose
//! who fills them. A contract would be the right unit to be fair between, but most images are asked
//! for by reference alone. So places go round: first between the sites that registries belong to (the
//! last two labels of a host's name, or its address), since a stranger has as many host names as he
//! likes below one that he owns; then, in one site, between the first parts of repositories'
//! names, which at the large registries are their users; then to who waits longest. One who waits
//! is passed by each other site, and each other part, once at most.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use loam_deployment::payload::OciReference;
use tokio::sync::oneshot;

/// Whose turn it is counted as.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    site: String,
    part: String,
}

impl Origin {
    pub fn of(image: &OciReference) -> Self {
        let part = image.repository().split('/').next().unwrap_or_default();
        Self {
            site: site(image.registry()),
            part: part.to_owned(),
        }
    }
}

/// `a.b.example.org:5000` as `example.org`; an address without its port.
fn site(registry: &str) -> String {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    let is_address = host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok();
    if is_address {
        return host.to_owned();
    }
    let labels: Vec<&str> = host.rsplit('.').take(2).collect();
    labels.into_iter().rev().collect::<Vec<_>>().join(".")
}

/// How many places there are.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pub all: usize,
    pub of_one_site: usize,
}

#[derive(Clone, Debug)]
pub struct Queue(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    places: Places,
    /// How many turns of each site last.
    taken: HashMap<String, usize>,
    /// By when they came.
    waiting: BTreeMap<u64, Waiting>,
    /// When a site, and a part of one, had its last turn, or when it came if it had none. Kept while
    /// somebody of it waits, so that strangers' names do not gather here. One that comes anew stands
    /// behind all who wait, so nobody gains by leaving and coming again.
    last_of_site: HashMap<String, u64>,
    last_of_part: HashMap<Origin, u64>,
    clock: u64,
}

#[derive(Debug)]
struct Waiting {
    origin: Origin,
    admit: oneshot::Sender<()>,
}

/// A place in use, free again when this is dropped.
#[derive(Debug)]
pub struct Turn {
    queue: Queue,
    origin: Origin,
}

/// A place in the line. Dropping it leaves the line.
#[derive(Debug)]
struct Ticket {
    queue: Queue,
    number: u64,
    origin: Origin,
    admitted: bool,
}

impl Queue {
    pub fn new(places: Places) -> Self {
        Self(Arc::new(Mutex::new(State {
            places,
            taken: HashMap::new(),
            waiting: BTreeMap::new(),
            last_of_site: HashMap::new(),
            last_of_part: HashMap::new(),
            clock: 0,
        })))
    }

    pub async fn turn(&self, origin: Origin) -> Turn {
        let (mut ticket, admitted) = self.enter(origin);
        // Fails only if the queue dropped its end without a turn, which it never does.
        if admitted.await.is_err() {
            std::future::pending::<()>().await;
        }
        ticket.admitted = true;
        Turn {
            queue: self.clone(),
            origin: ticket.origin.clone(),
        }
    }

    fn enter(&self, origin: Origin) -> (Ticket, oneshot::Receiver<()>) {
        let (admit, admitted) = oneshot::channel();
        let mut state = self.lock();
        let number = state.tick();
        let waiting = Waiting {
            origin: origin.clone(),
            admit,
        };
        let site = state.last_of_site.entry(origin.site.clone());
        site.or_insert(number);
        state.last_of_part.entry(origin.clone()).or_insert(number);
        state.waiting.insert(number, waiting);
        state.fill();
        let ticket = Ticket {
            queue: self.clone(),
            number,
            origin,
            admitted: false,
        };
        (ticket, admitted)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Whether somebody could have this place at once.
    pub fn is_wanted(&self) -> bool {
        let mut state = self.queue.lock();
        let state = &mut *state;
        let site = &self.origin.site;
        let limit = state.places.of_one_site;
        state.waiting.values().any(|waiting| {
            let of_site = state.taken.get(&waiting.origin.site).copied();
            waiting.origin.site == *site || of_site.unwrap_or_default() < limit
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.queue.lock().leave(&self.origin);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.admitted {
            return;
        }
        let mut state = self.queue.lock();
        if state.waiting.remove(&self.number).is_none() {
            // Admitted, and nobody was there any more to take the turn.
            state.leave(&self.origin);
        } else {
            state.forget(&self.origin);
        }
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Gives free places to those whose turn it is.
    fn fill(&mut self) {
        while self.taken.values().sum::<usize>() < self.places.all {
            let Some(number) = self.next() else { return };
            let Some(waiting) = self.waiting.remove(&number) else {
                return;
            };
            let now = self.tick();
            let origin = waiting.origin;
            *self.taken.entry(origin.site.clone()).or_default() += 1;
            self.last_of_site.insert(origin.site.clone(), now);
            self.last_of_part.insert(origin.clone(), now);
            self.forget(&origin);
            // If nobody hears it, the ticket's own drop gives the place back.
            let _ = waiting.admit.send(());
        }
    }

    fn next(&self) -> Option<u64> {
        let taken = |site: &String| self.taken.get(site).copied().unwrap_or_default();
        let turns = |origin: &Origin| {
            let site = self.last_of_site.get(&origin.site).copied();
            let part = self.last_of_part.get(origin).copied();
            (site.unwrap_or_default(), part.unwrap_or_default())
        };
        self.waiting
            .iter()
            .filter(|(_, waiting)| taken(&waiting.origin.site) < self.places.of_one_site)
            .min_by_key(|(number, waiting)| (turns(&waiting.origin), **number))
            .map(|(number, _)| *number)
    }

    fn leave(&mut self, origin: &Origin) {
        if let Some(taken) = self.taken.get_mut(&origin.site) {
            *taken -= 1;
            if *taken == 0 {
                self.taken.remove(&origin.site);
            }
        }
        self.forget(origin);
        self.fill();
    }

    /// Drops what is known of an origin if nobody of it waits.
    fn forget(&mut self, origin: &Origin) {
        let mut waiting = self.waiting.values().map(|waiting| &waiting.origin);
        if !waiting.clone().any(|other| other == origin) {
            self.last_of_part.remove(origin);
        }
        if !waiting.any(|other| other.site == origin.site) {
            self.last_of_site.remove(&origin.site);
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
