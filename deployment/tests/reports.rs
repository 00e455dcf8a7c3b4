//! What holds for every report.

use std::net::IpAddr;

use loam_deployment::{
    Bytes, ChainContext, ContractId, NodeKey, SigningKey, Version, limits,
    payload::{Protocol, Publish},
    report::{self, Health, HealthState, Report, ReportError, State, Verdict, WorkloadReport},
};
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::{Index, select},
};

const CHAIN: ChainContext = ChainContext {
    chain_id: 31337,
    contract: [7; 20],
};

fn node() -> SigningKey {
    SigningKey::from_bytes(&[5; 32])
}

fn health() -> impl Strategy<Value = Health> {
    let states = select(vec![
        HealthState::Starting,
        HealthState::Healthy,
        HealthState::Unhealthy,
    ]);
    (states, any::<u64>()).prop_map(|(state, since)| Health { state, since })
}

fn workload() -> impl Strategy<Value = WorkloadReport> {
    let states = select(vec![
        State::Pending,
        State::Fetching,
        State::Starting,
        State::Running,
        State::Stopped,
        State::Failed,
    ]);
    let port = (any::<bool>(), any::<u16>(), any::<u16>()).prop_map(|(tcp, node, machine)| {
        let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        Publish {
            protocol,
            node_port: node,
            machine_port: machine,
        }
    });
    let numbers = (
        option::of(any::<i32>()),
        any::<u32>(),
        option::of(any::<u64>()),
        option::of(any::<u64>()),
        option::of(health()),
    );
    let lists = (vec(any::<IpAddr>(), 0..20), vec(port, 0..70));
    (states, "\\PC{0,400}", lists, numbers).prop_map(
        |(
            state,
            detail,
            (addresses, ports),
            (exit_status, restarts, console_position, used, health),
        )| {
            WorkloadReport {
                state,
                detail,
                addresses,
                ports,
                exit_status,
                restarts,
                console_position,
                used: used.map(Bytes),
                health,
            }
        },
    )
}

/// Reports of any size, many of them over the limits.
fn any_report() -> impl Strategy<Value = Report> {
    let verdict = prop_oneof![
        Just(Verdict::Accepted),
        ("\\PC{0,60}", "\\PC{0,2000}")
            .prop_map(|(code, reason)| Verdict::Rejected { code, reason }),
    ];
    let workloads = btree_map(
        "[a-z][a-z0-9-]{0,35}".prop_map(|name| name.parse().expect("a name")),
        workload(),
        0..65,
    );
    (any::<(u64, u64, u64)>(), verdict, workloads).prop_map(
        |((contract, version, time), verdict, workloads)| Report {
            node: NodeKey(node().verifying_key().to_bytes()),
            contract: ContractId(contract),
            version: Version(version),
            time,
            image: String::new(),
            verdict,
            workloads,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn shortened_reports_always_fit_and_keep_what_counts(report in any_report()) {
        let short = report.clone().shortened();
        let bytes = report::sign(&short, &CHAIN, &node());
        let bytes = bytes.unwrap_or_else(|error| panic!("{error}"));
        prop_assert!(bytes.len() <= limits::REPORT_BYTES);
        prop_assert_eq!(report::verify(&bytes, &CHAIN, &report.node), Ok(short.clone()));

        prop_assert_eq!(short.workloads.len(), report.workloads.len());
        for (name, workload) in &report.workloads {
            let WorkloadReport {
                state, exit_status, restarts, console_position, used, health, ..
            } = workload;
            let short = &short.workloads[name];
            prop_assert_eq!(
                (short.state, short.exit_status, short.console_position, short.used),
                (*state, *exit_status, *console_position, *used)
            );
            prop_assert!(
                (short.health == *health && short.restarts == *restarts)
                    || (short.health.is_none() && short.restarts == 0)
            );
        }
    }

    #[test]
    fn any_flipped_bit_is_refused(report in any_report(), bits in vec(any::<Index>(), 8)) {
        let bytes = report::sign(&report.shortened(), &CHAIN, &node()).expect("signed");
        for bit in bits {
            let bit = bit.index(bytes.len() * 8);
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let verified =
                report::verify(&flipped, &CHAIN, &NodeKey(node().verifying_key().to_bytes()));
            prop_assert!(verified.is_err(), "bit {}", bit);
        }
    }
}

#[test]
fn the_longest_report_there_can_be_is_shortened_to_fit() {
    let workload = WorkloadReport {
        state: State::Starting,
        detail: "é".repeat(1000),
        addresses: vec![[0xfd; 16].into(); 100],
        ports: vec![
            Publish {
                protocol: Protocol::Tcp,
                node_port: u16::MAX,
                machine_port: u16::MAX
            };
            100
        ],
        exit_status: Some(i32::MIN),
        restarts: u32::MAX,
        console_position: Some(u64::MAX),
        used: Some(Bytes(u64::MAX)),
        health: Some(Health {
            state: HealthState::Unhealthy,
            since: u64::MAX,
        }),
    };
    let name = |n: usize| format!("w{n:0>35}").parse().expect("a name");
    let report = Report {
        node: NodeKey(node().verifying_key().to_bytes()),
        contract: ContractId(u64::MAX),
        version: Version(u64::MAX),
        time: u64::MAX,
        image: String::new(),
        verdict: Verdict::Rejected {
            code: "expired".to_owned(),
            reason: "é".repeat(5000),
        },
        workloads: (0..limits::WORKLOADS)
            .map(|n| (name(n), workload.clone()))
            .collect(),
    };
    assert!(matches!(
        report::sign(&report, &CHAIN, &node()),
        Err(ReportError::Field(_) | ReportError::TooLarge { .. })
    ));
    let short = report.shortened();
    let bytes = report::sign(&short, &CHAIN, &node()).expect("fits");
    assert_eq!(report::verify(&bytes, &CHAIN, &short.node), Ok(short));
}

#[test]
fn as_many_machines_as_there_may_be_keep_their_health_and_restarts() {
    let workload = WorkloadReport {
        state: State::Starting,
        detail: "é".repeat(1000),
        addresses: vec![[0xfd; 16].into(); 16],
        exit_status: Some(i32::MIN),
        restarts: u32::MAX,
        health: Some(Health {
            state: HealthState::Unhealthy,
            since: u64::MAX,
        }),
        ..WorkloadReport::default()
    };
    let name = |n: usize| format!("w{n:0>35}").parse().expect("a name");
    let report = Report {
        node: NodeKey(node().verifying_key().to_bytes()),
        contract: ContractId(u64::MAX),
        version: Version(u64::MAX),
        time: u64::MAX,
        image: String::new(),
        verdict: Verdict::Accepted,
        workloads: (0..limits::WORKLOADS)
            .map(|n| (name(n), workload.clone()))
            .collect(),
    };
    let short = report.shortened();
    report::sign(&short, &CHAIN, &node()).expect("fits");
    assert!(
        short
            .workloads
            .values()
            .all(|told| told.health == workload.health && told.restarts == workload.restarts)
    );
}

#[test]
fn a_short_report_is_left_as_it_is() {
    let report = Report {
        node: NodeKey(node().verifying_key().to_bytes()),
        contract: ContractId(1),
        version: Version(1),
        time: 1,
        image: String::new(),
        verdict: Verdict::Rejected {
            code: "expired".to_owned(),
            reason: "no".to_owned(),
        },
        workloads: Default::default(),
    };
    assert_eq!(report.clone().shortened(), report);
}

#[test]
fn only_the_node_itself_can_sign_its_reports() {
    let stranger = SigningKey::from_bytes(&[6; 32]);
    let report = Report {
        node: NodeKey(node().verifying_key().to_bytes()),
        contract: ContractId(1),
        version: Version(1),
        time: 1,
        image: String::new(),
        verdict: Verdict::Accepted,
        workloads: Default::default(),
    };
    assert!(matches!(
        report::sign(&report, &CHAIN, &stranger),
        Err(ReportError::WrongNode { .. })
    ));
}
