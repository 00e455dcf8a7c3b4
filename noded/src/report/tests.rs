use std::rc::Rc;

use loam_deployment::{Bytes, payload::OciReference, report::Health};
use loam_node_api::{
    guest::MAX_CHECK_OUTPUT,
    machine::MachineHealth,
    network::{InterfaceSpec, Mac},
    storage::{ImageStatus, VolumeSpec},
};

use super::*;
use crate::fixture;

const ONE: ContractId = ContractId(1);

fn id(name: &str) -> WorkloadId {
    WorkloadId::new(ONE, name.parse().unwrap())
}

/// What is known in a round about contract 1 with a machine, a network and a volume.
struct Round {
    workloads: Workloads,
    halt: Option<Halt>,
    actual: Actual,
    plan: Plan,
    outcome: Outcome,
}

impl Round {
    fn new() -> Self {
        Self {
            workloads: fixture::workloads(&["web"], &["net"], &["data"]),
            halt: None,
            actual: Actual::default(),
            plan: Plan::default(),
            outcome: Outcome::default(),
        }
    }

    /// In which all is as wanted.
    fn running() -> Self {
        let mut round = Self::new();
        round.machine("web", MachineState::Running);
        let key = VolumeKey::Data(id("data"));
        let spec = VolumeSpec {
            size: Bytes::gib(1),
            media: loam_deployment::payload::Media::Any,
            filesystem: loam_deployment::payload::Filesystem::Ext4,
        };
        let mut volume = fixture::volume_there(&key, spec, Version(1));
        volume.used = Bytes(77);
        round.actual.volumes.insert(key, volume);
        let network = loam_node_api::network::Network {
            id: id("net"),
            spec: fixture::network(),
            bridge: "b".into(),
        };
        round.actual.networks.insert(id("net"), network);
        // Another machine's before and behind it, which are none of its own.
        for (machine, host) in [("api", 3), ("web", 2), ("zoo", 4)] {
            let tap = InterfaceId {
                machine: id(machine),
                network: id("net"),
            };
            let spec = InterfaceSpec {
                mac: Mac([2; 6]),
                addresses: vec![std::net::Ipv4Addr::new(10, 20, 0, host).into()],
                publish: round
                    .workloads
                    .machines
                    .values()
                    .next()
                    .unwrap()
                    .publish
                    .clone(),
            };
            let there = fixture::interface(&tap, spec);
            round.actual.interfaces.insert(tap, there);
        }
        round
    }

    fn machine(&mut self, name: &str, state: MachineState) {
        let machine = fixture::running(&id(name), "now", state);
        self.actual.machines.insert(id(name), machine);
    }

    fn image(&mut self, state: ImageState) {
        let image = fixture::image(1).into();
        self.actual.images.note(ImageStatus { image, state });
    }

    fn reports(&self) -> BTreeMap<Name, WorkloadReport> {
        let stated = Rc::new(self.workloads.clone().into());
        let contract = match self.halt {
            None => Contract::Run(stated),
            Some(halt) => Contract::Halted(stated, halt),
        };
        let desired = Desired {
            contracts: [(ONE, contract)].into(),
            ..Desired::default()
        };
        let findings = Findings {
            ledger: &Ledger::default(),
            desired: &desired,
            actual: &self.actual,
            plan: &self.plan,
            outcome: &self.outcome,
        };
        findings.of(ONE)
    }

    fn of(&self, name: &str) -> WorkloadReport {
        self.reports()
            .remove(&name.parse::<Name>().unwrap())
            .unwrap()
    }

    fn says(&self, name: &str) -> (State, String) {
        let report = self.of(name);
        (report.state, report.detail)
    }
}

fn said(state: State, detail: &str) -> (State, String) {
    (state, detail.to_owned())
}

#[test]
fn what_runs_is_told_with_its_addresses_and_ports_as_they_are() {
    let mut round = Round::running();
    let web = round.of("web");
    assert_eq!((web.state, web.detail.as_str()), (State::Running, ""));
    assert_eq!(
        web.addresses,
        ["10.20.0.2".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(web.ports.len(), 1);
    assert_eq!(web.exit_status, None);
    let data = round.of("data");
    assert_eq!((data.state, data.used), (State::Running, Some(Bytes(77))));
    assert_eq!(round.says("net"), said(State::Running, ""));
    // Ports that do not lead there yet are not told.
    for tap in round.actual.interfaces.values_mut() {
        tap.spec.publish.clear();
    }
    assert!(round.of("web").ports.is_empty());
}

#[test]
fn what_is_not_there_yet_says_what_it_waits_for() {
    let mut round = Round::new();
    for name in ["web", "data", "net"] {
        assert_eq!(round.says(name), said(State::Pending, ""), "{name}");
    }
    round.image(ImageState::Fetching {
        done: Bytes(4),
        total: Some(Bytes(10)),
        waits_for: None,
        failed_before: None,
    });
    assert_eq!(round.says("web"), said(State::Fetching, "fetching 40 %"));
    round.image(ImageState::Fetching {
        done: Bytes(4),
        total: None,
        waits_for: Some("asked later (429)".into()),
        failed_before: None,
    });
    assert_eq!(round.says("web"), said(State::Pending, "asked later (429)"));
    let again = |waits_for: Option<&str>| ImageState::Fetching {
        done: Bytes(4),
        total: None,
        waits_for: waits_for.map(str::to_owned),
        failed_before: Some("no such layer".into()),
    };
    for (waits_for, state, now) in [
        (None, State::Fetching, "fetching"),
        (Some("others first"), State::Pending, "others first"),
    ] {
        round.image(again(waits_for));
        let detail = format!("{now}; before that, no such layer");
        assert_eq!(round.says("web"), said(state, &detail));
    }
    round.image(ImageState::Failed("no route".into()));
    assert_eq!(round.says("web"), said(State::Failed, "no route"));
    // Another's registry has brought it.
    let image = fixture::image(1).to_string();
    let (_, digest) = image.split_once('@').unwrap();
    let image: OciReference = format!("other.example/web@{digest}").parse().unwrap();
    let image = image.into();
    let state = ImageState::Ready { path: "/i".into() };
    round.actual.images.note(ImageStatus { image, state });
    assert_eq!(round.says("web"), said(State::Pending, ""));
    let machine = Resource::Machine(id("web"));
    round
        .outcome
        .waiting
        .insert(machine.clone(), "stopping".into());
    assert_eq!(round.says("web"), said(State::Pending, "stopping"));
    round.outcome.failed.insert(machine, "no space".into());
    assert_eq!(round.says("web"), said(State::Failed, "no space"));
    let volume = Resource::Volume(VolumeKey::Data(id("data")));
    round.outcome.failed.insert(volume, "no disk".into());
    assert_eq!(round.says("data"), said(State::Failed, "no disk"));
    // There, but not to be used.
    let mut round = Round::running();
    let volumes = round.actual.volumes.values_mut();
    volumes.for_each(|volume| volume.path = None);
    assert_eq!(round.says("data"), said(State::Pending, ""));
}

#[test]
fn the_health_of_a_machine_that_runs_is_told_and_why_its_check_fails() {
    let mut round = Round::running();
    let with = |round: &mut Round, state, output: &str| {
        let health = Health { state, since: 5 };
        let output = output.to_owned();
        for machine in round.actual.machines.values_mut() {
            machine.health = Some(MachineHealth {
                health,
                output: output.clone(),
            });
        }
        let web = round.of("web");
        (web.state, web.health, web.detail)
    };
    let health = |state| Some(Health { state, since: 5 });
    for state in [HealthState::Starting, HealthState::Healthy] {
        let expected = (State::Running, health(state), String::new());
        assert_eq!(with(&mut round, state, ""), expected);
    }
    let output = "o".repeat(MAX_CHECK_OUTPUT);
    let (state, told, detail) = with(&mut round, HealthState::Unhealthy, &output);
    assert_eq!(
        (state, told),
        (State::Running, health(HealthState::Unhealthy))
    );
    assert_eq!(detail, format!("its check fails: {output}"));
    assert!(detail.len() <= limits::DETAIL_BYTES);
    // Only of this version, and of what runs.
    round.plan.outdated.insert(id("web"), "now".into());
    assert_eq!(with(&mut round, HealthState::Healthy, "").1, None);
    round.plan.outdated.clear();
    round.machine("web", MachineState::Stopping);
    assert_eq!(with(&mut round, HealthState::Healthy, "").1, None);
    round.halt = Some(Halt::Suspended);
    round.machine("web", MachineState::Running);
    assert_eq!(with(&mut round, HealthState::Healthy, "").1, None);
}

#[test]
fn each_state_of_a_machine_has_its_word() {
    let exit = |status| MachineState::Exited(Exit::PoweredOff { status });
    for (state, expected, status) in [
        (MachineState::Booting, said(State::Starting, ""), None),
        (MachineState::Paused, said(State::Running, ""), None),
        (
            MachineState::Stopping,
            said(State::Pending, "stopping"),
            None,
        ),
        (exit(None), said(State::Stopped, ""), None),
        (exit(Some(0)), said(State::Stopped, ""), Some(0)),
        (
            exit(Some(3)),
            said(State::Failed, "its command ended with status 3"),
            Some(3),
        ),
        (
            MachineState::Exited(Exit::Killed),
            said(State::Stopped, "ended by force"),
            None,
        ),
        (
            MachineState::Exited(Exit::Failed("vmm".into())),
            said(State::Failed, "vmm"),
            None,
        ),
        (
            MachineState::Exited(Exit::NotStarted("no disk".into())),
            said(State::Failed, "no disk"),
            None,
        ),
        (
            MachineState::Ending(Exit::PoweredOff { status: Some(0) }),
            said(State::Stopped, ENDING),
            Some(0),
        ),
        (
            MachineState::Ending(Exit::Failed("vmm".into())),
            said(State::Failed, &format!("{ENDING}; vmm")),
            None,
        ),
    ] {
        let mut round = Round::running();
        round.machine("web", state.clone());
        assert_eq!(round.says("web"), expected, "{state:?}");
        assert_eq!(round.of("web").exit_status, status, "{state:?}");
    }
}

/// As one does whose kernel panics in every life.
#[test]
fn a_guest_that_comes_up_after_a_reset_says_so() {
    let mut round = Round::running();
    round.machine("web", MachineState::Booting);
    round.actual.machines.get_mut(&id("web")).unwrap().resets = 3;
    let reset = said(State::Starting, "its guest has reset itself");
    assert_eq!(round.says("web"), reset);
}

#[test]
fn a_machine_that_was_started_again_says_how_it_ended_before() {
    let mut round = Round::running();
    let mut told = |state, ends| {
        round.machine("web", state);
        round.actual.machines.get_mut(&id("web")).unwrap().ends = ends;
        let report = round.of("web");
        (report.restarts, report.detail)
    };
    let ends = |count, last| Some(EarlierEnds { count, last });
    let status = |status| Exit::PoweredOff { status };
    for (ended, how) in [
        (status(Some(12)), "its command ended with status 12"),
        (status(Some(0)), "its command ended with status 0"),
        (status(None), "it powered off"),
        (
            Exit::Failed("the VMM was killed".into()),
            "the VMM was killed",
        ),
    ] {
        for state in [MachineState::Booting, MachineState::Running] {
            let once = (1, format!("started again once; before that, {how}"));
            assert_eq!(told(state.clone(), ends(1, ended.clone())), once);
            let often = (7, format!("started again 7 times; before that, {how}"));
            assert_eq!(told(state, ends(7, ended.clone())), often);
        }
    }
    // How this life ended stands first.
    let over = MachineState::Exited(status(Some(3)));
    let this = (1, "its command ended with status 3".to_owned());
    assert_eq!(told(over, ends(1, status(Some(2)))), this);
    assert_eq!(told(MachineState::Running, None), (0, String::new()));

    // What else is to be said of it stays.
    let web = round.actual.machines.get_mut(&id("web")).unwrap();
    (web.state, web.resets) = (MachineState::Booting, 1);
    web.ends = ends(1, status(Some(2)));
    let reset = "its guest has reset itself; started again once; before that, its command ended with status 2";
    assert_eq!(round.says("web"), said(State::Starting, reset));
    // Another version's ends are none of this one's.
    round.plan.outdated.insert(id("web"), "now".into());
    assert_eq!(round.of("web").restarts, 0);
    let runs_on = said(State::Pending, "an earlier version runs on");
    assert_eq!(round.says("web"), runs_on);
}

/// A machine may be back before its owner could be told that it was away: then that is the news.
#[test]
fn that_a_machine_was_started_again_is_worth_a_report() {
    let round = Round::running();
    let report = |restarts| {
        let mut workloads = round.reports();
        workloads
            .get_mut(&"web".parse::<Name>().unwrap())
            .unwrap()
            .restarts = restarts;
        Report {
            node: NodeKey([1; 32]),
            contract: ONE,
            version: Version(1),
            time: 0,
            image: String::new(),
            verdict: Verdict::Accepted,
            workloads,
        }
    };
    assert!(says_the_same(&report(1), &report(1)));
    assert!(!says_the_same(&report(1), &report(2)));
}

#[test]
fn a_new_version_says_why_it_does_not_run_while_the_old_one_does() {
    let mut round = Round::running();
    round.plan.outdated.insert(id("web"), "now".into());
    let runs_on = said(State::Pending, "an earlier version runs on");
    assert_eq!(round.says("web"), runs_on);
    round.image(ImageState::Failed("no route".into()));
    let failed = said(State::Failed, "no route; an earlier version runs on");
    assert_eq!(round.says("web"), failed);
    // What it has is told all the same.
    assert_eq!(round.of("web").ports.len(), 1);
    round.plan.problems.insert(id("web"), "port taken".into());
    let failed = said(State::Failed, "port taken; an earlier version runs on");
    assert_eq!(round.says("web"), failed);
    round.plan.problems.clear();
    round.machine("web", MachineState::Stopping);
    assert_eq!(round.says("web"), said(State::Pending, "stopping"));
    round.machine("web", MachineState::Ending(Exit::Killed));
    assert_eq!(round.says("web"), said(State::Pending, ENDING));
    // Once the new one is there, it is the new one's state that counts.
    round
        .actual
        .machines
        .get_mut(&id("web"))
        .unwrap()
        .fingerprint = "new".into();
    round.actual.machines.get_mut(&id("web")).unwrap().state = MachineState::Running;
    assert_eq!(round.says("web"), said(State::Running, ""));
    // And of one that ended, that it ended.
    let web = round.actual.machines.get_mut(&id("web")).unwrap();
    web.state = MachineState::Exited(Exit::Killed);
    assert_eq!(round.says("web"), said(State::Stopped, "ended by force"));
}

/// `loam deploy` waits for what a report says of its version.
#[test]
fn how_the_version_before_ended_is_not_told_of_the_next() {
    for status in [0, 1] {
        let mut round = Round::running();
        let ended = Exit::PoweredOff {
            status: Some(status),
        };
        round.machine("web", MachineState::Exited(ended));
        assert_eq!(round.of("web").exit_status, Some(status));
        round.plan.outdated.insert(id("web"), "now".into());
        round.image(ImageState::Fetching {
            done: Bytes(1),
            total: None,
            waits_for: None,
            failed_before: None,
        });
        let web = round.of("web");
        assert_eq!((web.state, web.exit_status), (State::Fetching, None));
        round.image(ImageState::Failed("no route".into()));
        assert_eq!(round.says("web"), said(State::Failed, "no route"));
    }
}

#[test]
fn a_machine_that_runs_but_cannot_have_a_port_says_so() {
    let mut round = Round::running();
    round.plan.problems.insert(id("web"), "port taken".into());
    assert_eq!(round.says("web"), said(State::Failed, "port taken"));
}

#[test]
fn a_halted_machine_says_why_it_does_not_run() {
    let ended = "its deployment was valid until 9 (seconds since 1970)";
    let suspended = "the contract is suspended";
    for (halt, why) in [
        (Halt::Suspended, suspended),
        (Halt::Ended(UnixTime(9)), ended),
    ] {
        let mut round = Round::running();
        round.halt = Some(halt);
        assert_eq!(
            round.says("web"),
            said(State::Pending, &format!("stopping: {why}"))
        );
        round.machine("web", MachineState::Exited(Exit::Killed));
        assert_eq!(round.says("web"), said(State::Stopped, why));
        round.actual.machines.clear();
        assert_eq!(round.says("web"), said(State::Stopped, why));
    }
}

#[test]
fn volumes_that_are_kept_without_being_named_are_told_as_far_as_there_is_room() {
    let mut round = Round::running();
    let unproved = [
        (VolumeKey::Data(id("old")), Version(7)),
        // Not a workload of anybody's, and another contract's.
        (
            crate::desired::root_key(&id("web"), &fixture::image(9)),
            Version(7),
        ),
        (VolumeKey::Data("2.other".parse().unwrap()), Version(7)),
    ];
    round.plan.unproved = unproved.into();
    let reports = round.reports();
    assert_eq!(reports.len(), 4);
    assert_eq!(
        round.says("old"),
        said(
            State::Stopped,
            "is kept, though version 1 does not name it: version 7 did"
        )
    );
    for n in 0..100 {
        let name: Name = format!("v{n}").parse().unwrap();
        let key = VolumeKey::Data(WorkloadId::new(ONE, name));
        round.plan.unproved.insert(key, Version(7));
    }
    assert_eq!(round.reports().len(), limits::WORKLOADS);
}

#[test]
fn what_changes_all_the_while_is_not_worth_a_transaction() {
    let report = |change: &dyn Fn(&mut Report)| {
        let mut round = Round::running();
        round.image(ImageState::Ready { path: "/i".into() });
        let mut report = Report {
            node: NodeKey([1; 32]),
            contract: ONE,
            version: Version(1),
            time: 5,
            image: String::new(),
            verdict: Verdict::Accepted,
            workloads: round.reports(),
        };
        change(&mut report);
        report
    };
    let web = |report: &mut Report, change: &dyn Fn(&mut WorkloadReport)| {
        change(
            report
                .workloads
                .get_mut(&"web".parse::<Name>().unwrap())
                .unwrap(),
        );
    };
    let same = report(&|_| {});
    assert!(says_the_same(&same, &report(&|r| r.time = 9)));
    assert!(says_the_same(
        &same,
        &report(&|r| web(r, &|w| w.used = Some(Bytes(9))))
    ));
    assert!(says_the_same(
        &same,
        &report(&|r| web(r, &|w| w.console_position = Some(9)))
    ));
    assert!(!says_the_same(
        &same,
        &report(&|r| web(r, &|w| w.detail = "x".into()))
    ));
    assert!(!says_the_same(
        &same,
        &report(&|r| web(r, &|w| w.exit_status = Some(1)))
    ));
    let health = |state, since| {
        let health = Some(Health { state, since });
        report(&move |r| web(r, &|w| w.health = health))
    };
    let healthy = health(HealthState::Healthy, 1);
    assert!(says_the_same(&healthy, &health(HealthState::Healthy, 2)));
    assert!(!says_the_same(&healthy, &health(HealthState::Unhealthy, 1)));
    assert!(!says_the_same(&healthy, &same));
    assert!(!says_the_same(&same, &report(&|r| r.workloads.clear())));
    let fetching = |how: &str| {
        let how = how.to_owned();
        report(&move |r| {
            web(r, &|w| {
                w.state = State::Fetching;
                w.detail.clone_from(&how);
            })
        })
    };
    assert!(says_the_same(
        &fetching("fetching 4 %"),
        &fetching("fetching 5 %")
    ));
    assert!(!says_the_same(&fetching("fetching"), &same));
}

#[test]
fn the_screen_says_a_verdict_in_words() {
    assert_eq!(verdict_word(&Verdict::Accepted), "accepted");
    let rejected = Verdict::Rejected {
        code: "port".into(),
        reason: "no".into(),
    };
    assert_eq!(verdict_word(&rejected), "rejected: no");
}
