//! Properties of the plan, against a model of the daemons.

use proptest::{collection::btree_map, option, prelude::*, sample::select};

use loam_deployment::{Bytes, Version, payload::Volume as VolumeAsked};
use loam_node_api::{
    machine::Machine as ActualMachine,
    network::{Interface, Network},
    storage::{ImageState, ImageStatus, Volume},
};

use super::*;
use crate::{desired::Contract, fixture, step::Resource};

/// What a faithful daemon does with a step.
fn model(actual: &mut Actual, step: &Step) {
    match step {
        Step::MachineStop(id) => {
            if let Some(machine) = actual.machines.get_mut(id) {
                machine.state = MachineState::Exited(Exit::Killed);
            }
        }
        Step::MachineForget(id) => {
            let machine = actual.machines.remove(id);
            assert!(
                machine.is_none_or(|m| matches!(m.state, MachineState::Exited(_))),
                "{id} was forgotten while it ran"
            );
        }
        Step::InterfaceDelete(id) => {
            assert!(
                !runs(actual, &id.machine),
                "the tap of {} went while it ran",
                id.machine
            );
            actual.interfaces.remove(id);
        }
        Step::NetworkDelete(id) => {
            assert!(
                actual.interfaces.keys().all(|i| i.network != *id),
                "{id} is in use"
            );
            actual.networks.remove(id);
        }
        Step::VolumeDelete(key, _) => {
            if let VolumeKey::Root { machine, .. } = key {
                // Only the layer that the machine now boots may be in use.
                let used = actual.machines.get(machine).is_some_and(|m| {
                    !matches!(m.state, MachineState::Exited(_)) && m.fingerprint.is_empty()
                });
                assert!(!used, "{key} is in use");
            }
            actual.volumes.remove(key);
        }
        Step::ImageEnsure(image) => {
            actual.images.note(ImageStatus {
                image: image.clone(),
                state: ImageState::Ready { path: "/i".into() },
            });
        }
        Step::VolumeEnsure(key, spec, version) => {
            let volume = actual.volumes.entry(key.clone()).or_insert_with(|| Volume {
                key: key.clone(),
                spec: spec.clone(),
                path: "/v".into(),
                used: Bytes(0),
                version: *version,
            });
            volume.spec.size = volume.spec.size.max(spec.size);
        }
        Step::NetworkEnsure(id, spec) => {
            let (id, spec) = (id.clone(), spec.clone());
            actual.networks.insert(
                id.clone(),
                Network {
                    id,
                    spec,
                    bridge: "b".into(),
                },
            );
        }
        Step::InterfaceEnsure(id, spec) => {
            assert!(
                actual.networks.contains_key(&id.network),
                "no network for {}",
                id.machine
            );
            let (id, spec) = (id.clone(), spec.clone());
            actual.interfaces.insert(
                id.clone(),
                Interface {
                    id,
                    spec,
                    tap: "t".into(),
                    namespace: None,
                    in_force: true,
                },
            );
        }
        Step::MachineStart(plan) => {
            assert!(
                !actual.machines.contains_key(&plan.id),
                "{} is there",
                plan.id
            );
            for resource in needs(plan) {
                let there = match &resource {
                    Resource::Image(image) => actual.images.ready(image).is_some(),
                    Resource::Volume(key) => actual.volumes.contains_key(key),
                    Resource::Interface(id) => actual.interfaces.contains_key(id),
                    _ => true,
                };
                assert!(there, "{} lacks {resource:?}", plan.id);
            }
            actual.machines.insert(
                plan.id.clone(),
                machine(&plan.id, &fingerprint(&plan.content), MachineState::Running),
            );
        }
        Step::ImageDelete(image) => {
            actual.images.attempts.remove(image);
            actual.images.ready.remove(image.digest());
        }
    }
}

fn runs(actual: &Actual, id: &WorkloadId) -> bool {
    actual
        .machines
        .get(id)
        .is_some_and(|m| !matches!(m.state, MachineState::Exited(_)))
}

fn needs(plan: &MachinePlan) -> Vec<Resource> {
    let content = &plan.content;
    let mut needs = vec![Resource::Image(content.image.clone())];
    needs.extend(
        content
            .volumes()
            .map(|disk| Resource::Volume(disk.volume.clone())),
    );
    needs.extend(
        content
            .interfaces
            .iter()
            .map(|i| Resource::Interface(i.id.clone())),
    );
    needs
}

fn machine(id: &WorkloadId, fingerprint: &str, state: MachineState) -> ActualMachine {
    ActualMachine {
        id: id.clone(),
        fingerprint: fingerprint.into(),
        state,
        age_seconds: 0,
        resets: 0,
        console_position: 0,
    }
}

fn carry_out(actual: &mut Actual, plan: &Plan) {
    for step in &plan.steps {
        model(actual, step);
    }
}

/// The desired state said over again, in other words than the planner's.
fn check(desired: &Desired, actual: &Actual, problems: &BTreeMap<WorkloadId, String>) {
    let mut volumes = BTreeSet::new();
    let mut networks = BTreeSet::new();
    let mut running = BTreeSet::new();
    for (contract, workloads, run) in desired.stated() {
        let id = |name: &Name| WorkloadId::new(contract, name.clone());
        for (name, VolumeAsked { size, .. }) in &workloads.volumes {
            let key = VolumeKey::Data(id(name));
            assert!(actual.volumes[&key].spec.size >= *size);
            volumes.insert(key);
        }
        for (name, spec) in &workloads.networks {
            assert_eq!(actual.networks[&id(name)].spec, *spec);
            networks.insert(id(name));
        }
        for (name, machine) in &workloads.machines {
            volumes.insert(root_key(&id(name), &machine.image));
            assert!(actual.images.ready(&machine.image).is_some());
            if !run || problems.contains_key(&id(name)) {
                continue;
            }
            running.insert(id(name));
            let there = &actual.machines[&id(name)];
            if machine.restart == Restart::Always {
                assert!(
                    !matches!(there.state, MachineState::Exited(_)),
                    "{} ended",
                    id(name)
                );
            }
            for attachment in &machine.networks {
                let interface = &actual.interfaces[&InterfaceId {
                    machine: id(name),
                    network: id(&attachment.network),
                }];
                assert!(!interface.spec.addresses.is_empty());
            }
        }
    }
    let kept = desired.kept();
    for key in actual.volumes.keys() {
        assert!(
            kept.contains(&key.contract()) || volumes.contains(key),
            "left over: {key}"
        );
    }
    for id in actual.networks.keys() {
        assert!(
            kept.contains(&id.contract) || networks.contains(id),
            "left over: {id}"
        );
    }
    for id in actual.machines.keys() {
        assert!(
            kept.contains(&id.contract) || running.contains(id),
            "left over: {id}"
        );
    }
    for id in actual.interfaces.keys() {
        let machine = &id.machine;
        assert!(
            kept.contains(&machine.contract) || running.contains(machine),
            "left over tap"
        );
    }
    // No two machines of one network have one address.
    let mut seen = BTreeSet::new();
    for interface in actual.interfaces.values() {
        if kept.contains(&interface.id.machine.contract) {
            continue;
        }
        for address in &interface.spec.addresses {
            assert!(
                seen.insert((interface.id.network.clone(), *address)),
                "{address} twice"
            );
        }
    }
}

fn names() -> impl Strategy<Value = Name> {
    select(vec!["a", "b", "c"]).prop_map(|name| name.parse().unwrap())
}

fn machines() -> impl Strategy<Value = Machine> {
    (
        1u8..3,
        1u32..3,
        any::<bool>(),
        any::<bool>(),
        select(vec!["10.20.0.9", "10.20.0.2"]),
        option::of(Just(())),
    )
        .prop_map(|(image, cpus, net, vol, address, fixed)| {
            let mut machine = fixture::machine(
                if net { &["n"] } else { &[] },
                if vol { &["v"] } else { &[] },
            );
            machine.image = fixture::image(image);
            machine.cpus = cpus;
            if fixed.is_some()
                && let Some(attachment) = machine.networks.first_mut()
            {
                attachment.address = Some(address.parse().unwrap());
            }
            machine
        })
}

fn workloads() -> impl Strategy<Value = Workloads> {
    (btree_map(names(), machines(), 0..4), 1u64..4, any::<bool>()).prop_map(
        |(mut machines, size, nat)| {
            // What verification guarantees: a fixed address is asked for once.
            let mut fixed = BTreeSet::new();
            for machine in machines.values_mut() {
                for attachment in &mut machine.networks {
                    attachment.address = attachment.address.filter(|a| fixed.insert(*a));
                }
            }
            let mut network = fixture::network();
            network.nat = nat;
            Workloads {
                version: Version(1),
                machines,
                volumes: [("v".parse().unwrap(), fixture::volume(Bytes::gib(size)))].into(),
                networks: [("n".parse().unwrap(), network)].into(),
            }
        },
    )
}

fn contracts() -> impl Strategy<Value = Contract> {
    prop_oneof![
        6 => workloads().prop_map(Contract::Run),
        1 => workloads().prop_map(Contract::Suspended),
        1 => Just(Contract::Keep),
    ]
}

fn desired_states() -> impl Strategy<Value = Desired> {
    btree_map((1u64..4).prop_map(ContractId), contracts(), 0..4).prop_map(wanting)
}

/// With these contracts; all others are cancelled.
fn wanting(contracts: BTreeMap<ContractId, Contract>) -> Desired {
    let others = (1..10)
        .map(ContractId)
        .filter(|id| !contracts.contains_key(id));
    Desired {
        cancelled: others.collect(),
        contracts,
    }
}

/// Any state that earlier deployments can have led to, with machines ended and taps lost.
fn actual_states() -> impl Strategy<Value = Actual> {
    (desired_states(), any::<u64>()).prop_map(|(desired, damage)| {
        let mut actual = Actual::default();
        carry_out(
            &mut actual,
            &plan(&desired, &Actual::default(), &BTreeSet::new()),
        );
        for (index, machine) in actual.machines.values_mut().enumerate() {
            match damage >> (2 * index) & 3 {
                0 => machine.state = MachineState::Exited(Exit::PoweredOff { status: Some(1) }),
                1 => machine.state = MachineState::Booting,
                _ => {}
            }
        }
        if damage >> 32 & 1 == 1 {
            actual.interfaces.pop_first();
        }
        if damage >> 33 & 1 == 1 {
            actual.images.ready.pop_first();
        }
        actual
    })
}

proptest! {
    #[test]
    fn leads_to_the_desired_state_and_then_to_nothing(
        desired in desired_states(),
        mut actual in actual_states(),
    ) {
        let first = plan(&desired, &actual, &BTreeSet::new());
        carry_out(&mut actual, &first);
        check(&desired, &actual, &first.problems);
        let second = plan(&desired, &actual, &BTreeSet::new());
        prop_assert_eq!(second.steps, vec![]);
    }

    #[test]
    fn a_kept_contract_is_never_touched(
        mut desired in desired_states(),
        actual in actual_states(),
        contract in (1u64..4).prop_map(ContractId),
    ) {
        desired.contracts.insert(contract, Contract::Keep);
        for step in plan(&desired, &actual, &BTreeSet::new()).steps {
            let touched = match step.resource() {
                Resource::Machine(id) | Resource::Network(id) => id.contract,
                Resource::Interface(id) => id.machine.contract,
                Resource::Volume(key) => key.contract(),
                Resource::Image(_) => {
                    prop_assert!(!matches!(step, Step::ImageDelete(_)), "{} while kept", step);
                    continue;
                }
            };
            prop_assert_ne!(touched, contract);
        }
    }

    #[test]
    fn one_contract_does_not_move_another(
        mut desired in desired_states(),
        mut actual in actual_states(),
        other in contracts(),
    ) {
        let first = plan(&desired, &actual, &BTreeSet::new());
        carry_out(&mut actual, &first);
        desired.contracts.insert(ContractId(9), other);
        for step in plan(&desired, &actual, &BTreeSet::new()).steps {
            let touched = match step.resource() {
                Resource::Machine(id) | Resource::Network(id) => id.contract,
                Resource::Interface(id) => id.machine.contract,
                Resource::Volume(key) => key.contract(),
                Resource::Image(_) => continue,
            };
            prop_assert_eq!(touched, ContractId(9));
        }
    }

    #[test]
    fn a_held_machine_is_not_started(desired in desired_states(), actual in actual_states()) {
        let held: BTreeSet<_> = desired
            .stated()
            .flat_map(|(contract, workloads, _)| {
                workloads.machines.keys().map(move |name| WorkloadId::new(contract, name.clone()))
            })
            .collect();
        for step in plan(&desired, &actual, &held).steps {
            prop_assert!(!matches!(step, Step::MachineStart(_)), "{}", step);
        }
    }

    /// With any step failing, what does not wait for it still goes on, and in a sound order.
    #[test]
    fn a_failed_step_stops_only_what_waits_for_it(
        desired in desired_states(),
        mut actual in actual_states(),
        failing: prop::sample::Index,
    ) {
        let whole = plan(&desired, &actual, &BTreeSet::new());
        if whole.steps.is_empty() {
            return Ok(());
        }
        let failing = failing.index(whole.steps.len());
        let mut blocked = BTreeSet::new();
        for (index, step) in whole.steps.iter().enumerate() {
            if index == failing || blocked.iter().any(|resource| step.waits_for(resource)) {
                blocked.insert(step.resource());
            } else {
                // The model asserts that everything a step needs is there.
                model(&mut actual, step);
            }
        }
        // Once nothing fails any more, the state is reached all the same.
        let rest = plan(&desired, &actual, &BTreeSet::new());
        carry_out(&mut actual, &rest);
        check(&desired, &actual, &rest.problems);
    }
}

#[test]
fn publishing_another_port_restarts_no_machine() {
    let mut desired = Desired::default();
    let workloads = fixture::workloads(&["web"], &["net"], &["data"]);
    desired
        .contracts
        .insert(ContractId(1), Contract::Run(workloads.clone()));
    let mut actual = Actual::default();
    let first = plan(&desired, &actual, &BTreeSet::new());
    carry_out(&mut actual, &first);

    let mut changed = workloads;
    for machine in changed.machines.values_mut() {
        machine.publish[0].node_port = 9090;
    }
    desired
        .contracts
        .insert(ContractId(1), Contract::Run(changed));
    let steps = plan(&desired, &actual, &BTreeSet::new()).steps;
    assert!(
        matches!(steps[..], [Step::InterfaceEnsure(..)]),
        "{steps:?}"
    );
}

#[test]
fn another_image_gets_another_root_layer_and_keeps_the_volume() {
    let mut desired = Desired::default();
    let workloads = fixture::workloads(&["web"], &["net"], &["data"]);
    desired
        .contracts
        .insert(ContractId(1), Contract::Run(workloads.clone()));
    let mut actual = Actual::default();
    let first = plan(&desired, &actual, &BTreeSet::new());
    carry_out(&mut actual, &first);

    let mut changed = workloads;
    for machine in changed.machines.values_mut() {
        machine.image = fixture::image(2);
    }
    desired
        .contracts
        .insert(ContractId(1), Contract::Run(changed));
    let steps: Vec<_> = plan(&desired, &actual, &BTreeSet::new())
        .steps
        .iter()
        .map(Step::to_string)
        .collect();
    let root_deleted = steps
        .iter()
        .position(|s| s == "delete root layer of 1.web")
        .unwrap();
    let stopped = steps
        .iter()
        .position(|s| s == "stop machine 1.web")
        .unwrap();
    assert!(stopped < root_deleted, "{steps:?}");
    assert!(
        !steps.iter().any(|s| s.contains("volume 1.data")),
        "{steps:?}"
    );
}

#[test]
fn a_machine_that_succeeded_is_left_ended_when_its_policy_says_so() {
    for (policy, status, again) in [
        (Restart::Always, Some(0), true),
        (Restart::OnFailure, Some(0), false),
        (Restart::OnFailure, Some(3), true),
        (Restart::Never, Some(3), false),
    ] {
        let mut workloads = fixture::workloads(&["job"], &[], &[]);
        for machine in workloads.machines.values_mut() {
            machine.restart = policy;
        }
        let desired = wanting([(ContractId(1), Contract::Run(workloads))].into());
        let mut actual = Actual::default();
        let first = plan(&desired, &actual, &BTreeSet::new());
        carry_out(&mut actual, &first);
        for machine in actual.machines.values_mut() {
            machine.state = MachineState::Exited(Exit::PoweredOff { status });
        }
        let steps = plan(&desired, &actual, &BTreeSet::new()).steps;
        assert_eq!(!steps.is_empty(), again, "{policy:?} {status:?}: {steps:?}");
    }
}
