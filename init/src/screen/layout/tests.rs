use super::*;
use crate::screen::facts::NodeFacts;
use loam_deployment::NodeKey;
use loam_node_api::status::WorkloadLine;
use proptest::prelude::*;

fn facts() -> Facts {
    let workload = |id: &str, kind: &str, state: &str| WorkloadLine {
        id: id.parse().unwrap(),
        kind: kind.into(),
        state: state.into(),
    };
    Facts {
        status: NodeStatus {
            node: Some(NodeKey([0x3f; 32])),
            farm: Some(7),
            addresses: vec!["10.0.2.15".parse().unwrap(), "fd00::15".parse().unwrap()],
            chain: ChainState::Following { block: 1234 },
            workloads: vec![
                workload("12.net", "network", "ready"),
                workload("12.data", "volume", "ready"),
                workload("12.web", "machine", "running"),
            ],
            notices: vec!["disk QEMU_1 holds a partition table; it is not used".into()],
        },
        services: vec![
            ("storaged", "running".into()),
            ("netd", "running".into()),
            ("noded", "restarting".into()),
        ],
        machines: 1,
        machines_memory: Bytes::mib(300),
        machines_budget: Bytes::mib(1500),
        node: NodeFacts {
            uptime: Duration::from_secs(3 * 86_400 + 4 * 3600 + 5 * 60),
            cpus: 4,
            busy: 12,
            memory_total: Bytes::gib(2),
            memory_used: Bytes::mib(700),
        },
        warnings: vec!["noded: daemon ended".into()],
        phase: None,
    }
}

fn text(facts: &Facts) -> String {
    lines(facts)
        .into_iter()
        .map(|line| line.text + "\n")
        .collect()
}

#[test]
fn golden() {
    let expected = "\
Loam 0.1.0                                                          up 3 d 04:05

node      3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f
farm      7
address   10.0.2.15 fd00::15
chain     following block 1234
memory    700 of 2048 MiB used; 300 of 1500 MiB promised to 1 machine
cpu       4 x, 12 % busy
daemons   storaged running   netd running   noded restarting

network   12.net                              ready
volume    12.data                             ready
machine   12.web                              running








! disk QEMU_1 holds a partition table; it is not used
  noded: daemon ended
";
    assert_eq!(text(&facts()), expected);
}

#[test]
fn an_empty_node_says_what_it_waits_for() {
    let text = text(&Facts::default());
    assert!(
        text.contains("node      none yet: its key needs a disk\n"),
        "{text}"
    );
    assert!(text.contains("chain     connecting\n"));
    assert!(text.contains("nothing runs here yet\n"));
}

#[test]
fn what_does_not_fit_is_counted() {
    let mut facts = facts();
    let line = facts.status.workloads[0].clone();
    facts.status.workloads = vec![line; 100];
    facts.status.notices = vec!["n".into(); 9];
    facts.warnings = vec!["w".into(); 9];
    let text = text(&facts);
    assert_eq!(text.lines().count(), HEIGHT);
    assert!(text.contains("and 96 more"), "{text}");
    assert!(text.contains("! and 6 more"));
}

#[test]
fn a_new_block_or_load_is_restless_and_nothing_else() {
    let before = lines(&facts());
    let mut facts = facts();
    facts.status.chain = ChainState::Following { block: 1235 };
    facts.node.busy = 99;
    let changed: Vec<_> = before
        .iter()
        .zip(lines(&facts))
        .filter(|(a, b)| *a != b)
        .collect();
    assert_eq!(changed.len(), 2);
    assert!(changed.iter().all(|(_, after)| after.restless));
}

proptest! {
    /// Whatever tenants, servers and daemons say: 80 by 23 printable characters.
    #[test]
    fn hostile_strings_stay_inside(
        reason: String, kind: String, state: String,
        notices in prop::collection::vec(any::<String>(), 0..9),
        warnings in prop::collection::vec(any::<String>(), 0..9),
        count in 0usize..40,
        phase: Option<String>,
    ) {
        let mut facts = facts();
        facts.status.chain = ChainState::Silent { reason };
        let line = WorkloadLine { id: "1.a".parse().unwrap(), kind, state };
        facts.status.workloads = vec![line; count];
        facts.status.notices = notices;
        facts.warnings = warnings;
        facts.phase = phase;
        let lines = lines(&facts);
        prop_assert_eq!(lines.len(), HEIGHT);
        for line in lines {
            prop_assert!(line.text.len() <= WIDTH);
            prop_assert!(line.text.bytes().all(|b| (b' '..=b'~').contains(&b)));
        }
    }
}
