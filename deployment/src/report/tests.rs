use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::{limits, payload::Protocol};

fn workload() -> WorkloadReport {
    WorkloadReport {
        state: State::Running,
        detail: String::new(),
        addresses: vec![],
        ports: vec![],
        exit_status: None,
        restarts: 0,
        console_position: None,
        used: None,
        health: None,
    }
}

fn report(workloads: impl IntoIterator<Item = (String, WorkloadReport)>) -> Report {
    let workloads = workloads.into_iter();
    Report {
        node: NodeKey([1; 32]),
        contract: ContractId(3),
        version: Version(1),
        time: 0,
        image: String::new(),
        verdict: Verdict::Accepted,
        workloads: workloads
            .map(|(name, workload)| (name.parse().unwrap(), workload))
            .collect(),
    }
}

fn one(workload: WorkloadReport) -> Report {
    report([("web".to_owned(), workload)])
}

fn rejected(code: usize, reason: usize) -> Report {
    Report {
        verdict: Verdict::Rejected {
            code: "c".repeat(code),
            reason: "r".repeat(reason),
        },
        ..report([])
    }
}

/// A report with so many of a thing.
type Filled = fn(usize) -> Report;

/// Each thing that is limited: how many there may be, where they stand, and a report with some.
fn limited() -> Vec<(usize, &'static str, Filled)> {
    vec![
        (limits::WORKLOADS, "workloads", |n| {
            report((0..n).map(|n| (format!("w{n}"), workload())))
        }),
        (limits::IMAGE_VERSION_BYTES, "image", |n| Report {
            image: "i".repeat(n),
            ..report([])
        }),
        (limits::CODE_BYTES, "rejected_code", |n| rejected(n, 0)),
        (limits::REASON_BYTES, "rejected", |n| rejected(0, n)),
        (limits::DETAIL_BYTES, "workloads.web.detail", |n| {
            one(WorkloadReport {
                detail: "d".repeat(n),
                ..workload()
            })
        }),
        (limits::REPORT_ADDRESSES, "workloads.web.addresses", |n| {
            one(WorkloadReport {
                addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST); n],
                ..workload()
            })
        }),
        (limits::MACHINE_PORTS, "workloads.web.ports", |n| {
            let port = Publish {
                protocol: Protocol::Tcp,
                node_port: 1,
                machine_port: 1,
            };
            one(WorkloadReport {
                ports: vec![port; n],
                ..workload()
            })
        }),
    ]
}

#[test]
fn one_more_than_is_allowed_is_refused_by_its_path() {
    for (limit, path, with) in limited() {
        assert_eq!(check(&with(limit)), Ok(()), "{path}");
        let refused = check(&with(limit + 1)).unwrap_err().to_string();
        let expected = format!("{path}: has {} ", limit + 1);
        assert!(refused.contains(&expected), "{refused}");
        // It is nothing that a node would say.
        assert_eq!(
            check(&with(limit + 1).shortened()).is_ok(),
            path != "workloads"
        );
    }
}

#[test]
fn what_fits_is_not_shortened() {
    for (limit, path, with) in limited() {
        let report = with(limit);
        assert_eq!(report.clone().shortened(), report, "{path}");
    }
}

#[test]
fn a_report_has_so_many_bytes_at_most() {
    let size = |bytes| super::size(&vec![0; bytes]);
    assert_eq!(size(limits::REPORT_BYTES), Ok(()));
    for bytes in [limits::REPORT_BYTES + 1, 2 * limits::REPORT_BYTES] {
        assert_eq!(size(bytes), Err(ReportError::TooLarge { size: bytes }));
    }
}

#[test]
fn states_are_written_by_their_names() {
    let states = [
        (State::Pending, "pending"),
        (State::Fetching, "fetching"),
        (State::Starting, "starting"),
        (State::Running, "running"),
        (State::Stopped, "stopped"),
        (State::Failed, "failed"),
    ];
    for (state, name) in states {
        assert_eq!(state.as_str(), name);
    }
    let healths = [
        (HealthState::Starting, "starting"),
        (HealthState::Healthy, "healthy"),
        (HealthState::Unhealthy, "unhealthy"),
    ];
    for (state, name) in healths {
        assert_eq!(state.as_str(), name);
    }
}
