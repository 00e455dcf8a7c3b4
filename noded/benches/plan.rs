//! How long a plan takes for a full node, when there is nothing to do and when all is to be made.
//!
//! `cargo bench -p loam-noded --bench plan`. Prints the shortest of several runs, as what else the
//! machine does only adds to it, and how the time grows from 1,000 to 10,000 deployments: about
//! tenfold as long as nothing is quadratic.

use std::{
    collections::{BTreeMap, BTreeSet},
    hint::black_box,
    rc::Rc,
    time::{Duration, Instant},
};

use loam_deployment::{
    Bytes, ContractId, Name, Version,
    payload::{
        Filesystem, Media, NetworkAttachment, OciReference, Protocol, Publish, Restart, Volume,
    },
};
use loam_node_api::{
    machine::{Machine as ActualMachine, MachineState},
    network::{Interface, Network, NetworkSpec},
    storage::{ImageState, ImageStatus, Volume as ActualVolume},
};
use loam_noded::{
    actual::Actual,
    course::Outcome,
    desired::{Contract, Desired, Machine, Workloads},
    ledger::Ledger,
    plan::{Memory, Plan, plan},
    report::Findings,
    step::Step,
};

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn image() -> OciReference {
    let text = format!("registry.example/hello@sha256:{}", "01".repeat(32));
    text.parse().expect("an image")
}

/// A machine with a volume on a network, and a port of its own as far as there are enough.
fn workloads(number: u64) -> Workloads {
    let publish = u16::try_from(1024 + number)
        .into_iter()
        .map(|node_port| Publish {
            protocol: Protocol::Tcp,
            node_port,
            machine_port: 80,
        });
    let machine = Machine {
        image: image(),
        image_login: None,
        cpus: 1,
        memory: Bytes::mib(256),
        root: Bytes::mib(512),
        command: vec!["/hello".into()],
        env: [("TOKEN".into(), "x".repeat(64))].into(),
        ssh_keys: vec![],
        volumes: [(name("data"), "/data".into())].into(),
        networks: vec![NetworkAttachment {
            network: name("private"),
            address: None,
        }],
        publish: publish.collect(),
        restart: Restart::Always,
    };
    let volume = Volume {
        size: Bytes::gib(1),
        media: Media::Any,
        filesystem: Filesystem::Ext4,
        encrypted: false,
    };
    let network = NetworkSpec {
        ipv4: "10.20.0.0/24".parse().expect("a subnet"),
        ipv6: None,
        nat: true,
    };
    Workloads {
        version: Version(1),
        machines: [(name("web"), machine)].into(),
        volumes: [(name("data"), volume)].into(),
        networks: [(name("private"), network)].into(),
    }
}

fn desired(count: u64) -> Desired {
    let contract = |n| {
        let stated = Rc::new(workloads(n).into());
        (ContractId(n), Contract::Run(stated))
    };
    Desired {
        contracts: (1..=count).map(contract).collect(),
        cancelled: BTreeSet::new(),
    }
}

/// What is there when every step of a plan from nothing was done.
fn done(plan: &Plan) -> Actual {
    let mut actual = Actual::default();
    for task in &plan.tasks {
        match task.step.clone() {
            Step::ImageEnsure(request) => actual.images.note(ImageStatus {
                image: request.image(),
                state: ImageState::Ready { path: "/i".into() },
            }),
            Step::VolumeEnsure(key, spec, version) => {
                let volume = ActualVolume {
                    key: key.clone(),
                    spec,
                    path: Some("/v".into()),
                    used: Bytes(0),
                    version,
                };
                actual.volumes.insert(key, volume);
            }
            Step::NetworkEnsure(id, spec) => {
                let network = Network {
                    id: id.clone(),
                    spec,
                    bridge: "b".into(),
                };
                actual.networks.insert(id, network);
            }
            Step::InterfaceEnsure(id, spec) => {
                let interface = Interface {
                    id: id.clone(),
                    spec,
                    tap: "t".into(),
                    namespace: None,
                    in_force: true,
                };
                actual.interfaces.insert(id, interface);
            }
            Step::MachineStart(plan) => {
                let machine = ActualMachine {
                    id: plan.id.clone(),
                    fingerprint: plan.fingerprint,
                    state: MachineState::Running,
                    age_seconds: 0,
                    health: None,
                    resets: 0,
                    ends: None,
                    console_position: 0,
                };
                actual.machines.insert(plan.id, machine);
            }
            step => unreachable!("from nothing, no {step}"),
        }
    }
    actual
}

fn shortest<T>(mut run: impl FnMut() -> T) -> Duration {
    let time = |()| {
        let start = Instant::now();
        black_box(run());
        start.elapsed()
    };
    let runs = std::iter::repeat_n((), 9).map(time);
    runs.min().unwrap_or_default()
}

fn main() {
    let memory = Memory::default();
    let mut times = BTreeMap::new();
    for count in [1_000, 10_000] {
        let desired = desired(count);
        let empty = Actual::default();
        let first = plan(&desired, &empty, &memory);
        let actual = done(&first);
        let idle = plan(&desired, &actual, &memory);
        assert!(idle.tasks.is_empty(), "nothing is to be done");
        let findings = Findings {
            ledger: &Ledger::default(),
            desired: &desired,
            actual: &actual,
            plan: &idle,
            outcome: &Outcome::default(),
        };
        for (what, time) in [
            (
                "nothing to do",
                shortest(|| plan(&desired, &actual, &memory)),
            ),
            ("from empty", shortest(|| plan(&desired, &empty, &memory))),
            (
                "workloads reported",
                shortest(|| {
                    desired
                        .contracts
                        .keys()
                        .map(|id| findings.of(*id).len())
                        .sum::<usize>()
                }),
            ),
        ] {
            println!(
                "{count:>6} deployments, {what:<20} {:>9.2} ms",
                time.as_secs_f64() * 1e3
            );
            times.entry(what).or_insert_with(Vec::new).push(time);
        }
    }
    for (what, times) in times {
        if let [small, large] = times[..] {
            let ratio = large.as_secs_f64() / small.as_secs_f64();
            println!("10,000 to 1,000, {what:<20} {ratio:>9.1} times");
        }
    }
}
