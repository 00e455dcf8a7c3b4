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
        image: "0.1.0+g3a087a6d2b1f".into(),
        last_boot: None,
        status: NodeStatus {
            node: Some(NodeKey([0x3f; 32])),
            farm: Some(7),
            addresses: vec!["10.0.2.15".parse().unwrap(), "fd00::15".parse().unwrap()],
            chain: ChainState::Following { block: 1234 },
            workloads: [
                workload("12.net", "network", "ready"),
                workload("12.data", "volume", "ready"),
                workload("12.web", "machine", "running"),
            ]
            .into_iter()
            .collect(),
            notices: excerpt(&["disk QEMU_1 holds a partition table; it is not used"]),
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
        troubles: Vec::new(),
        warnings: vec!["noded: daemon ended".into()],
        phase: None,
    }
}

fn excerpt(lines: &[&str]) -> Excerpt<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
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
Loam                                                                up 3 d 04:05
image     0.1.0+g3a087a6d2b1f
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
fn what_keeps_a_node_from_its_work_is_said_first() {
    let unfit = Facts {
        troubles: vec!["switch on SVM in its setup"],
        ..facts()
    };
    let said: Vec<_> = text(&unfit)
        .lines()
        .filter(|line| line.starts_with("! "))
        .map(str::to_owned)
        .collect();
    assert_eq!(said[0], "! switch on SVM in its setup");
    assert_eq!(said.len(), 2);
}

#[test]
fn how_the_boot_before_ended_is_said_if_it_was_not_well() {
    assert!(!text(&facts()).contains("last boot"));
    let how = "ended in a crash of the kernel: Fatal exception in interrupt";
    let crashed = Facts {
        last_boot: Some(how.into()),
        ..facts()
    };
    let shown = lines(&crashed);
    assert_eq!(shown[2].text, format!("last boot {how}"));
    assert_eq!(shown.len(), HEIGHT);
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
    let line = facts.status.workloads.first[0].clone();
    facts.status.workloads = vec![line; 100].into_iter().collect();
    facts.status.notices = excerpt(&["n"; 9]);
    facts.warnings = vec!["w".into(); 9];
    let screen = text(&facts);
    assert_eq!(screen.lines().count(), HEIGHT);
    assert!(
        screen.contains("\n          and 98 more\n\n! n\n"),
        "{screen}"
    );
    assert!(
        screen.ends_with("\n! n\n! and 4 more\n  w\n  w\n  w\n"),
        "{screen}"
    );

    // What was left out before it came here counts, too.
    facts.status.workloads.first.truncate(1);
    facts.status.notices.first.truncate(1);
    facts.status.notices.more = 7;
    let screen = text(&facts);
    assert!(screen.contains("\n          and 36 more\n\n"), "{screen}");
    assert!(screen.contains("\n! n\n! and 7 more\n"), "{screen}");
}

/// What to do stands at the end of a notice and of a warning.
#[test]
fn the_longest_notice_and_warning_are_whole() {
    let copy = "/dev/nvme10n1 is left alone: it holds what pool a3d4180d-fd5b-50c1-252e-06a8b49c3752 \
        was on before, which is used on disk nvme-SAMSUNG_MZVL22T0HBLB-00B00_S677NF0RA01234 now; only \
        one of the two can be used: to go on with this one, take that one out and restart";
    let foreign = "/dev/vdb is left alone: it holds a pool of node \
        a3d4180dfd5b50c1252e06a8b49c3752cfdfb2d4b5335e4e17ea43b1e30f9cc5";
    let clock = "clockd: 2 time servers contradict the time that this node's disks have kept: \
        2099-01-01. If that is in the future, delete the file secrets/time on each of its disks";
    let mut facts = facts();
    facts.status.notices = excerpt(&[copy, foreign, foreign]);
    facts.warnings = vec![clock.to_owned()];
    let screen = text(&facts);
    let expected = "
machine   12.web                              running


! /dev/nvme10n1 is left alone: it holds what pool
    a3d4180d-fd5b-50c1-252e-06a8b49c3752 was on before, which is used on disk
    nvme-SAMSUNG_MZVL22T0HBLB-00B00_S677NF0RA01234 now; only one of the two can
    be used: to go on with this one, take that one out and restart
! and 2 more
  clockd: 2 time servers contradict the time that this node's disks have kept:
    2099-01-01. If that is in the future, delete the file secrets/time on each
    of its disks
";
    assert!(screen.ends_with(expected), "{screen}");

    facts.status.notices = excerpt(&[foreign]);
    let screen = text(&facts);
    let expected = "
! /dev/vdb is left alone: it holds a pool of node
    a3d4180dfd5b50c1252e06a8b49c3752cfdfb2d4b5335e4e17ea43b1e30f9cc5
  clockd: ";
    assert!(screen.contains(expected), "{screen}");
}

/// One of them, however long, takes neither the others' place nor that of what runs.
#[test]
fn no_notice_or_warning_takes_all_lines() {
    let mut facts = facts();
    facts.status.notices = excerpt(&[&"n".repeat(9999), "second"]);
    facts.warnings = vec!["older".to_owned(), "w ".repeat(999)];
    let lines = lines(&facts);
    let begins = |mark: &str| {
        lines
            .iter()
            .filter(|line| line.text.starts_with(mark))
            .count()
    };
    assert_eq!(begins("machine "), 1);
    assert_eq!(begins("! n"), 1);
    assert_eq!(begins("! second"), 1);
    assert!(lines.last().unwrap().text.ends_with("w w .."), "{lines:?}");
    assert!(!lines.iter().any(|line| line.text.contains("older")));
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
        facts.status.workloads = vec![line; count].into_iter().collect();
        facts.status.notices = notices.into_iter().collect();
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
