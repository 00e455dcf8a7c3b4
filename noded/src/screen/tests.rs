use loam_deployment::{
    Bytes, ContractId, FarmId, Name, Version, limits,
    payload::Media,
    report::{State, Verdict, WorkloadReport},
};
use loam_node_api::{
    farm::{FarmSource, NamedFarm},
    network::Missing,
    status::MAX_TEXT,
    transport::MAX_FRAME,
};

use super::*;
use crate::{desired::Contract, fixture};

fn disk(device: &str, state: DiskState) -> Disk {
    Disk {
        id: device.to_owned(),
        device: format!("/dev/{device}").into(),
        size: Bytes::gib(1),
        media: Media::Ssd,
        state,
    }
}

fn report(contract: u64, verdict: Verdict, workloads: &[(&str, State, &str)]) -> Report {
    let told = |(name, state, detail): &(&str, State, &str)| {
        let workload = WorkloadReport {
            state: *state,
            detail: (*detail).to_owned(),
            ..WorkloadReport::default()
        };
        (name.parse().unwrap(), workload)
    };
    Report {
        node: NodeKey([7; 32]),
        contract: ContractId(contract),
        version: Version(3),
        time: 0,
        image: String::new(),
        verdict,
        workloads: workloads.iter().map(told).collect(),
    }
}

const NINE: NamedFarm = NamedFarm {
    number: FarmId(9),
    source: FarmSource::Dhcp,
};

fn rejected(reason: &str) -> Verdict {
    Verdict::Rejected {
        code: "code".to_owned(),
        reason: reason.to_owned(),
    }
}

#[test]
fn workloads_are_counted_by_kind_and_what_became_of_them() {
    let workloads = fixture::workloads(&["api", "web"], &["net"], &["data"]);
    let told = [
        ("api", State::Pending, ""),
        ("data", State::Running, ""),
        ("net", State::Stopped, ""),
        ("web", State::Failed, "no memory"),
    ];
    let mut screen = Screen {
        node: Some(NodeKey([7; 32])),
        farm: Choice {
            farm: Some(NINE),
            ..Choice::default()
        },
        chain: ChainState::Following { block: 4 },
        trouble: Some("no disk".to_owned()),
        disks: vec![
            disk("vda", DiskState::Pool("uuid".to_owned())),
            disk("vdb", DiskState::Pool("uuid".to_owned())),
            disk("vdc", DiskState::Foreign("an ext4 file system".to_owned())),
            disk("vdd", DiskState::Failed("it does not answer".to_owned())),
            disk("vde", DiskState::Unfit("too small".to_owned())),
        ],
        reports: vec![
            report(1, Verdict::Accepted, &told),
            report(
                2,
                Verdict::Accepted,
                &[("x", State::Fetching, ""), ("y", State::Starting, "")],
            ),
        ],
        ..Screen::default()
    };
    screen.uplink.addresses = vec!["10.0.2.15/24".parse().unwrap()];
    let stated = Contract::Run(std::rc::Rc::new(workloads.into()));
    screen.desired.contracts.insert(ContractId(1), stated);
    let none = |kind: &str| WorkloadCount {
        kind: kind.to_owned(),
        ..WorkloadCount::default()
    };
    let mut status = screen.status();
    status.notices = Excerpt::default();
    assert_eq!(
        status,
        NodeStatus {
            node: Some(NodeKey([7; 32])),
            farm: Some(NINE),
            addresses: vec!["10.0.2.15".parse().unwrap()],
            chain: ChainState::Following { block: 4 },
            trouble: Some("no disk".to_owned()),
            disks: DiskCount {
                used: 2,
                size: Bytes::gib(2),
                left_alone: 1,
                failed: 1,
                unfit: 1,
            },
            workloads: vec![
                // Of contracts that cannot be read any more.
                WorkloadCount {
                    coming: 2,
                    ..none("")
                },
                WorkloadCount {
                    coming: 1,
                    failed: 1,
                    ..none("machine")
                },
                WorkloadCount {
                    stopped: 1,
                    ..none("network")
                },
                WorkloadCount {
                    running: 1,
                    ..none("volume")
                },
            ],
            notices: Excerpt::default(),
        }
    );
}

#[test]
fn what_a_farmer_should_look_at_is_told_in_its_order() {
    let screen = Screen {
        trouble: Some("storaged does not answer".to_owned()),
        disks: vec![
            disk("vda", DiskState::Pool("uuid".to_owned())),
            disk("vdb", DiskState::Foreign("an ext4 file system".to_owned())),
            disk("vdc", DiskState::Failed("it does not answer".to_owned())),
            disk("vdd", DiskState::Unfit("too small".to_owned())),
            disk("sda", DiskState::Unfit(REMOVABLE.to_owned())),
        ],
        reports: vec![
            report(1, rejected("too large"), &[]),
            // What ran before goes on.
            report(2, rejected("too large"), &[("a", State::Running, "")]),
        ],
        ..Screen::default()
    };
    let notices = screen.status().notices;
    assert_eq!(
        notices.first,
        [
            "/dev/vdb is left alone: it holds an ext4 file system",
            "/dev/vdc failed: it does not answer",
            "/dev/vdd is not used: too small",
            "contract 1 version 3 rejected: too large",
        ]
    );
    assert_eq!(notices.more, 0);
}

#[test]
fn what_there_is_to_know_of_the_farm_is_told() {
    let mut screen = Screen::default();
    assert_eq!(screen.status().trouble, None, "it may still be named");
    screen.farm.settled = true;
    let trouble = screen.status().trouble.unwrap();
    for way in ["--farm", "loam.farm=", "DHCP"] {
        assert!(trouble.contains(way), "{trouble}");
    }
    screen.trouble = Some("no disk".to_owned());
    assert_eq!(screen.status().trouble.as_deref(), Some("no disk"));
    screen.farm.notices = vec!["the network names farm 9".to_owned()];
    assert_eq!(screen.status().notices.first, screen.farm.notices);
}

#[test]
fn what_the_network_lacks_is_told() {
    let mut screen = Screen {
        endpoints: vec!["192.0.2.7".into(), "rpc.example.org".into()],
        ..Screen::default()
    };
    let notices = |screen: &Screen| screen.status().notices.first;
    screen.uplink.missing = Some(Missing::Dhcpv6Server);
    let server = "the router says that addresses come by DHCPv6, and no server answers";
    assert_eq!(notices(&screen), [server]);
    screen.uplink.missing = None;
    screen.uplink.addresses = vec!["2001:db8::2/64".parse().unwrap()];
    let silent = ChainState::Silent {
        reason: "unreachable".into(),
    };
    screen.chain = silent.clone();
    let only = "this network gives IPv6 addresses only: an endpoint of the chain must have one \
                too, and none of these answers: 192.0.2.7, rpc.example.org";
    assert_eq!(notices(&screen), [only]);
    // That none answers is not known before, and not true later.
    let answers = [
        ChainState::Connecting,
        ChainState::Registering { block: 1 },
        ChainState::Following { block: 1 },
    ];
    for state in answers {
        screen.chain = state;
        assert!(notices(&screen).is_empty());
    }
    screen.chain = silent;
    screen
        .uplink
        .addresses
        .push("192.0.2.2/24".parse().unwrap());
    assert!(notices(&screen).is_empty());
}

/// Many contracts, each with all the workloads and words that it may have.
#[test]
fn the_largest_status_fits_a_frame() {
    let long = "\"".repeat(2 * MAX_TEXT);
    let names: Vec<_> = (0..limits::WORKLOADS)
        .map(|n| format!("w{n:0>width$}", width = Name::MAX_LEN - 1))
        .collect();
    let workloads: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), State::Failed, long.as_str()))
        .collect();
    let reports: Vec<_> = (0..100)
        .flat_map(|contract| {
            [
                report(u64::MAX - contract, Verdict::Accepted, &workloads),
                report(contract, rejected(&long), &[]),
            ]
        })
        .collect();
    let screen = Screen {
        chain: ChainState::Silent {
            reason: long.clone(),
        },
        trouble: Some(long.clone()),
        reports,
        ..Screen::default()
    };
    let status = screen.status();
    let size = serde_json::to_vec(&status).unwrap().len();
    assert!(size < MAX_FRAME / 4, "{size}");
    assert_eq!(status.workloads[0].failed, 100 * limits::WORKLOADS);
    let Excerpt { first, more } = &status.notices;
    assert_eq!(first.len() + more, 100);
}
