//! [`Supervision`]: which daemon runs, waits or is to be started, and when.
//!
//! Pure: it is told what happened and when, and says what to do.

use std::{
    fmt,
    time::{Duration, Instant},
};

use rustix::process::Pid;

use super::{backoff::Backoff, definition::Service};
use crate::preload::Group;

/// An end takes the kernel moments. What takes longer waits for a disk, and its successor does not wait
/// for it.
const LINGERING: Duration = Duration::from_secs(5);

/// Of one daemon. Each keeps its memory, and its threads that wait, in the group of its successors: after so
/// many the disk is waited for.
const MOST_LINGER: usize = 4;

#[derive(Debug)]
pub struct Supervision {
    services: Vec<Supervised>,
    stopping: bool,
}

#[derive(Debug)]
struct Supervised {
    service: &'static Service,
    state: State,
    backoff: Backoff,
    /// When it was first seen at its end, while it is still running for all that was heard.
    at_its_end: Option<Instant>,
    /// Predecessors that are not reaped yet.
    lingering: Vec<Pid>,
}

/// A daemon that is no more, and when it is started again.
pub type Ended = (&'static str, Option<Duration>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// For what it needs.
    Waiting,
    Running {
        pid: Pid,
        since: Instant,
    },
    /// It ended, and is started again then.
    Restarting {
        at: Instant,
    },
    Stopped,
    /// The image has no such program, and the node does without.
    Absent,
}

impl Supervision {
    pub fn new(services: impl IntoIterator<Item = &'static Service>) -> Self {
        let supervised = |service| Supervised {
            service,
            state: State::Waiting,
            backoff: Backoff::default(),
            at_its_end: None,
            lingering: Vec::new(),
        };
        Self {
            services: services.into_iter().map(supervised).collect(),
            stopping: false,
        }
    }

    /// Those to start now: what they need is there (`ready` says so of a socket, `loaded` of modules), and their
    /// back-off is over.
    pub fn due(
        &self,
        now: Instant,
        ready: impl Fn(&str) -> bool,
        loaded: impl Fn(Group) -> bool,
    ) -> Vec<&'static Service> {
        let due = |supervised: &&Supervised| match supervised.state {
            State::Waiting => true,
            State::Restarting { at } => at <= now,
            State::Running { .. } | State::Stopped | State::Absent => false,
        };
        let offered = |socket: &str| {
            let from = self
                .services
                .iter()
                .find(|other| other.service.socket == Some(socket));
            from.is_none_or(|from| matches!(from.state, State::Running { .. })) && ready(socket)
        };
        // What a daemon needs is asked for at its first start only: those that use it reconnect.
        let served = |supervised: &&Supervised| {
            let service = supervised.service;
            supervised.state != State::Waiting
                || service.needs.iter().all(|socket| offered(socket))
                    && service.modules.is_none_or(&loaded)
        };
        if self.stopping {
            return Vec::new();
        }
        self.services
            .iter()
            .filter(due)
            .filter(served)
            .map(|s| s.service)
            .collect()
    }

    pub fn started(&mut self, name: &str, pid: Pid, now: Instant) {
        if let Some(supervised) = self.find(|s| s.service.name == name) {
            supervised.state = State::Running { pid, since: now };
        }
    }

    /// It is never started.
    pub fn absent(&mut self, name: &str) {
        if let Some(supervised) = self.find(|s| s.service.name == name) {
            supervised.state = State::Absent;
        }
    }

    /// Its start failed: as good as an end at once.
    pub fn not_started(&mut self, name: &str, now: Instant) {
        if let Some(supervised) = self.find(|s| s.service.name == name) {
            let delay = supervised.backoff.next(Duration::ZERO);
            supervised.state = State::Restarting { at: now + delay };
        }
    }

    /// The daemon that this process was, if it was one, and when it is started again.
    pub fn ended(&mut self, pid: Pid, now: Instant) -> Option<Ended> {
        let stopping = self.stopping;
        let is = |s: &Supervised| matches!(s.state, State::Running { pid: its, .. } if its == pid);
        let supervised = self.find(is)?;
        let State::Running { since, .. } = supervised.state else {
            return None;
        };
        let name = supervised.service.name;
        supervised.at_its_end = None;
        if stopping {
            supervised.state = State::Stopped;
            return Some((name, None));
        }
        let delay = supervised
            .backoff
            .next(now.saturating_duration_since(since));
        supervised.state = State::Restarting { at: now + delay };
        Some((name, Some(delay)))
    }

    /// Looks which are at their ends, and returns those that were not before: they serve nobody any more.
    pub fn look(
        &mut self,
        now: Instant,
        is_at_its_end: impl Fn(Pid) -> bool,
    ) -> Vec<&'static Service> {
        let mut new = Vec::new();
        for supervised in &mut self.services {
            let State::Running { pid, .. } = supervised.state else {
                continue;
            };
            if !is_at_its_end(pid) {
                supervised.at_its_end = None;
            } else if supervised.at_its_end.is_none() {
                supervised.at_its_end = Some(now);
                new.push(supervised.service);
            }
        }
        new
    }

    /// Those that were at their ends for a while and are not reaped: they have ended as far as all others
    /// are concerned.
    pub fn give_up(&mut self, now: Instant) -> Vec<Ended> {
        let mut given_up = Vec::new();
        for supervised in &mut self.services {
            let State::Running { pid, .. } = supervised.state else {
                continue;
            };
            let late = supervised
                .at_its_end
                .is_some_and(|since| now.saturating_duration_since(since) >= LINGERING);
            if late && supervised.lingering.len() < MOST_LINGER {
                supervised.lingering.push(pid);
                given_up.push(pid);
            }
        }
        let ended = |pid| self.ended(pid, now);
        given_up.into_iter().filter_map(ended).collect()
    }

    /// The daemon that this process was, if its end came to its end after it was given up.
    pub fn gone(&mut self, pid: Pid) -> Option<&'static str> {
        let supervised = self.find(|s| s.lingering.contains(&pid))?;
        supervised.lingering.retain(|lingering| *lingering != pid);
        Some(supervised.service.name)
    }

    /// From now on nothing is started. Returns what runs, in the reverse order of their starts.
    pub fn stop(&mut self) -> Vec<Pid> {
        self.stopping = true;
        for supervised in &mut self.services {
            if !matches!(supervised.state, State::Running { .. } | State::Absent) {
                supervised.state = State::Stopped;
            }
        }
        self.running().into_iter().rev().collect()
    }

    pub fn running(&self) -> Vec<Pid> {
        let pid = |s: &Supervised| match s.state {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        };
        self.services.iter().filter_map(pid).collect()
    }

    /// When a back-off is over next, or one that is at its end is given up.
    pub fn deadline(&self) -> Option<Instant> {
        let at = |s: &Supervised| match s.state {
            State::Restarting { at } => Some(at),
            State::Running { .. } if s.lingering.len() < MOST_LINGER => {
                s.at_its_end.map(|since| since + LINGERING)
            }
            _ => None,
        };
        self.services.iter().filter_map(at).min()
    }

    /// Whether any waits for what it needs, which comes without an event.
    pub fn waits(&self) -> bool {
        !self.stopping && self.services.iter().any(|s| s.state == State::Waiting)
    }

    /// Of all that this image has.
    pub fn states(&self) -> impl Iterator<Item = (&'static str, State)> {
        let there = self.services.iter().filter(|s| s.state != State::Absent);
        there.map(|s| (s.service.name, s.state))
    }

    fn find(&mut self, is: impl Fn(&Supervised) -> bool) -> Option<&mut Supervised> {
        self.services.iter_mut().find(|supervised| is(supervised))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Running { .. } => "running",
            Self::Restarting { .. } => "restarting",
            Self::Stopped => "stopped",
            Self::Absent => "absent",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::definition::SERVICES;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    fn names(services: Vec<&'static Service>) -> Vec<&'static str> {
        services.into_iter().map(|service| service.name).collect()
    }

    #[test]
    fn a_daemon_waits_for_its_own_modules_alone() {
        let mut supervision = Supervision::new(SERVICES);
        let now = Instant::now();
        let due = |supervision: &Supervision, loaded: &[Group]| {
            names(supervision.due(now, |_| true, |group| loaded.contains(&group)))
        };
        assert!(due(&supervision, &[Group::Machines]).is_empty());
        assert_eq!(due(&supervision, &[Group::Networks]), ["netd"]);
        assert_eq!(due(&supervision, &[Group::Pools]), ["storaged"]);
        for (n, name) in ["storaged", "netd"].into_iter().enumerate() {
            supervision.started(name, Pid::from_raw(n as i32 + 2).unwrap(), now);
        }
        assert_eq!(due(&supervision, &[]), ["clockd"]);
        assert_eq!(due(&supervision, &[Group::Machines]), ["clockd", "noded"]);
        // It has had them.
        let end = Pid::from_raw(2).unwrap();
        let (_, delay) = supervision.ended(end, now).unwrap();
        let later = now + delay.unwrap();
        assert_eq!(
            names(supervision.due(later, |_| false, |_| false)),
            ["storaged"]
        );
    }

    #[test]
    fn noded_waits_for_both_sockets() {
        let now = Instant::now();
        let mut supervision = Supervision::new(SERVICES);
        // A socket that a killed predecessor left is not yet its daemon.
        assert_eq!(
            names(supervision.due(now, |_| true, |_| true)),
            ["storaged", "netd"]
        );
        supervision.started("storaged", pid(10), now);
        supervision.started("netd", pid(11), now);
        assert!(
            supervision
                .due(now, |socket| socket.contains("storaged"), |_| true)
                .is_empty()
        );
        assert!(supervision.waits());
        assert_eq!(
            names(supervision.due(now, |_| true, |_| true)),
            ["clockd", "noded"]
        );
        supervision.started("clockd", pid(13), now);
        supervision.started("noded", pid(12), now);
        assert!(!supervision.waits());
        assert!(supervision.due(now, |_| true, |_| true).is_empty());
    }

    #[test]
    fn what_ends_is_started_again_later_and_alone() {
        let now = Instant::now();
        let mut supervision = all_running(now);
        let (name, delay) = supervision.ended(pid(10), now).unwrap();
        assert_eq!(name, "storaged");
        assert!(supervision.due(now, |_| true, |_| true).is_empty());
        let at = now + delay.unwrap();
        assert_eq!(supervision.deadline(), Some(at));
        assert_eq!(
            names(supervision.due(at, |_| false, |_| true)),
            ["storaged"]
        );
        assert_eq!(
            supervision.ended(pid(10), now),
            None,
            "it is no longer that process"
        );
        assert_eq!(supervision.ended(pid(99), now), None);
    }

    #[test]
    fn noded_restarts_without_waiting_for_the_others() {
        let now = Instant::now();
        let mut supervision = all_running(now);
        supervision.ended(pid(10), now);
        supervision.ended(pid(12), now);
        let later = now + Duration::from_secs(60);
        assert_eq!(
            names(supervision.due(later, |_| false, |_| true)),
            ["storaged", "noded"]
        );
    }

    #[test]
    fn a_start_that_fails_is_tried_again() {
        let now = Instant::now();
        let mut supervision = Supervision::new(SERVICES);
        supervision.not_started("netd", now);
        assert_eq!(
            names(supervision.due(now, |_| true, |_| true)),
            ["storaged"]
        );
        assert_eq!(
            names(supervision.due(now + Duration::from_secs(1), |_| true, |_| true)),
            ["storaged", "netd"]
        );
    }

    #[test]
    fn stopping_starts_nothing() {
        let now = Instant::now();
        let mut supervision = all_running(now);
        supervision.ended(pid(11), now);
        assert_eq!(supervision.stop(), [pid(12), pid(13), pid(10)]);
        assert_eq!(supervision.ended(pid(12), now), Some(("noded", None)));
        assert!(
            supervision
                .due(now + Duration::from_secs(99), |_| true, |_| true)
                .is_empty()
        );
        assert_eq!(supervision.deadline(), None);
        supervision.ended(pid(10), now);
        supervision.ended(pid(13), now);
        assert!(supervision.running().is_empty());
    }

    #[test]
    fn what_the_image_lacks_is_not_tried_nor_waited_for() {
        let now = Instant::now();
        let mut supervision = Supervision::new(SERVICES);
        supervision.started("storaged", pid(10), now);
        supervision.started("netd", pid(11), now);
        supervision.absent("clockd");
        assert_eq!(names(supervision.due(now, |_| true, |_| true)), ["noded"]);
        supervision.started("noded", pid(12), now);
        assert!(!supervision.waits());
        assert_eq!(supervision.deadline(), None);
        assert!(supervision.states().all(|(name, _)| name != "clockd"));
    }

    #[test]
    fn what_the_kernel_does_not_let_go_of_has_a_successor() {
        let now = Instant::now();
        let mut supervision = all_running(now);
        let stuck = |stuck: i32| move |its: Pid| its == pid(stuck);
        assert_eq!(look_and_give_up(&mut supervision, now, stuck(10)), []);
        let later = now + LINGERING;
        assert_eq!(supervision.deadline(), Some(later));
        let almost = later - Duration::from_millis(1);
        assert_eq!(look_and_give_up(&mut supervision, almost, stuck(10)), []);
        let given_up = look_and_give_up(&mut supervision, later, stuck(10));
        let [("storaged", Some(delay))] = given_up[..] else {
            panic!("{given_up:?}");
        };
        assert_eq!(
            names(supervision.due(later + delay, |_| true, |_| true)),
            ["storaged"]
        );
        supervision.started("storaged", pid(20), later);
        assert_eq!(
            look_and_give_up(&mut supervision, later + LINGERING, stuck(10)),
            []
        );

        // When it is reaped at last, its successor goes on.
        assert_eq!(supervision.ended(pid(10), later), None);
        assert_eq!(supervision.gone(pid(10)), Some("storaged"));
        assert_eq!(supervision.gone(pid(10)), None);
        assert!(supervision.running().contains(&pid(20)));
    }

    #[test]
    fn a_daemon_is_seen_at_its_end_once() {
        let now = Instant::now();
        let mut supervision = all_running(now);
        assert_eq!(names(supervision.look(now, |_| false)), [""; 0]);
        let is_storaged = |its| its == pid(10);
        assert_eq!(names(supervision.look(now, is_storaged)), ["storaged"]);
        let later = now + LINGERING;
        assert_eq!(names(supervision.look(later, is_storaged)), [""; 0]);
        supervision.ended(pid(10), later).unwrap();
        supervision.started("storaged", pid(20), later);
        // Its successor is another.
        let is_successor = |its| its == pid(20);
        assert_eq!(names(supervision.look(later, is_successor)), ["storaged"]);
    }

    #[test]
    fn an_end_that_comes_soon_is_an_end_like_others() {
        let now = Instant::now();
        let mut supervision = all_running(now);
        assert_eq!(
            look_and_give_up(&mut supervision, now, |its| its == pid(10)),
            []
        );
        supervision.ended(pid(10), now).unwrap();
        supervision.started("storaged", pid(20), now);
        // The time of its predecessor is not counted as its own.
        let later = now + LINGERING;
        assert_eq!(
            look_and_give_up(&mut supervision, later, |its| its == pid(20)),
            []
        );
        assert_eq!(supervision.gone(pid(10)), None);
    }

    #[test]
    fn only_so_many_are_given_up_before_one_of_them_is_gone() {
        let mut now = Instant::now();
        let mut supervision = all_running(now);
        let mut last = 10;
        let mut give_up = |supervision: &mut Supervision| {
            let mut given_up = look_and_give_up(supervision, now, |its| its == pid(last));
            now += LINGERING;
            given_up.extend(look_and_give_up(supervision, now, |its| its == pid(last)));
            if !given_up.is_empty() {
                last += 100;
                supervision.started("storaged", pid(last), now);
            }
            given_up.len()
        };
        for _ in 0..MOST_LINGER {
            assert_eq!(give_up(&mut supervision), 1);
        }
        assert_eq!(give_up(&mut supervision), 0);
        assert_eq!(supervision.deadline(), None, "the loop must not spin");
        assert_eq!(supervision.gone(pid(10)), Some("storaged"));
        assert_eq!(give_up(&mut supervision), 1);
    }

    #[test]
    fn the_node_s_end_does_not_wait_for_what_the_kernel_does_not_let_go_of() {
        let now = Instant::now();
        let mut supervision = all_running(now);
        supervision.stop();
        for number in [11, 12, 13] {
            supervision.ended(pid(number), now);
        }
        look_and_give_up(&mut supervision, now, |_| true);
        let given_up = look_and_give_up(&mut supervision, now + LINGERING, |_| true);
        assert_eq!(given_up, [("storaged", None)]);
        assert!(supervision.running().is_empty());
    }

    fn look_and_give_up(
        supervision: &mut Supervision,
        now: Instant,
        is_at_its_end: impl Fn(Pid) -> bool,
    ) -> Vec<Ended> {
        supervision.look(now, is_at_its_end);
        supervision.give_up(now)
    }

    fn all_running(now: Instant) -> Supervision {
        let mut supervision = Supervision::new(SERVICES);
        supervision.started("storaged", pid(10), now);
        supervision.started("netd", pid(11), now);
        supervision.started("clockd", pid(13), now);
        supervision.started("noded", pid(12), now);
        supervision
    }
}
