//! Properties of the plan, against a model of the daemons that refuses what they refuse.

mod logins;
mod updates;
mod world;

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};

use self::world::{Chance, World, desired_states, run};
use super::*;
use crate::{
    desired::{Contract, Kept},
    fixture,
};

proptest! {
    /// From whatever earlier deployments led to, with steps failing on the way.
    #[test]
    fn leads_to_the_desired_state_and_then_to_nothing(
        mut world in world::worlds(),
        desired in desired_states(20),
        chance in any::<u64>(),
    ) {
        // Some rounds in which anything may fail, then as many as it takes.
        let mut chance = Chance::some(chance);
        for _ in 0..4 {
            world.round(&desired, &mut chance);
        }
        let plan = world.settle(&desired);
        world.check(&desired, &plan);
    }

    /// What was reached once is left alone, whatever another contract does beside it.
    #[test]
    fn one_contract_does_not_move_another(
        mut world in world::worlds(),
        mut desired in desired_states(20),
        other in world::contracts(20),
    ) {
        world.settle(&desired);
        desired.contracts.insert(ContractId(9), other);
        for _ in 0..6 {
            for task in &world.plan(&desired).tasks {
                let touched = match task.step.resource() {
                    Resource::Machine(id) | Resource::Network(id) => id.contract,
                    Resource::Interface(id) => id.machine.contract,
                    Resource::Volume(key) => key.contract(),
                    Resource::Image(image) => match image.only_for {
                        Some(contract) => contract,
                        None => continue,
                    },
                };
                prop_assert_eq!(touched, ContractId(9), "{}", task.step);
            }
            world.round(&desired, &mut Chance::none());
        }
    }

    #[test]
    fn what_is_kept_or_unknown_is_never_touched(
        world in world::worlds(),
        mut desired in desired_states(20),
        contract in (1u64..4).prop_map(ContractId),
        refused in any::<bool>(),
    ) {
        desired.contracts.remove(&contract);
        desired.cancelled.remove(&contract);
        if refused {
            desired.contracts.insert(contract, Contract::Keep(Kept::default()));
        }
        for task in &world.plan(&desired).tasks {
            let touched = match task.step.resource() {
                Resource::Machine(id) | Resource::Network(id) => id.contract,
                Resource::Interface(id) => id.machine.contract,
                Resource::Volume(key) => key.contract(),
                Resource::Image(_) => continue,
            };
            prop_assert_ne!(touched, contract, "{}", task.step);
        }
    }

    #[test]
    fn a_held_machine_is_not_started(world in world::worlds(), desired in desired_states(20)) {
        let held: BTreeSet<_> = desired
            .contracts
            .iter()
            .filter_map(|(id, contract)| Some((*id, contract.stated()?.0)))
            .flat_map(|(id, workloads)| {
                workloads.machines.keys().map(move |name| WorkloadId::new(id, name.clone()))
            })
            .collect();
        let memory = Memory {
            held,
            ..Memory::default()
        };
        for task in &plan(&desired, &world.actual, &memory).tasks {
            if let Step::MachineStart(start) = &task.step {
                // A machine that runs is replaced all the same.
                prop_assert!(runs(&start.id, &world.actual), "{}", task.step);
            }
        }
    }

    /// To pass over who is at rest changes no plan: neither on the way, nor at its end.
    #[test]
    fn who_is_at_rest_needs_no_look(
        mut world in world::worlds(),
        mut desired in desired_states(20),
        other in world::contracts(20),
        chance in any::<u64>(),
    ) {
        let mut chance = Chance::some(chance);
        for round in 0..8 {
            let asked = world.admissible(&desired);
            let survey = Survey::of_all(&asked, &world.actual, &world.memory.stopped);
            let all = plan_surveyed(survey, &asked, &world.actual, &world.memory.held);
            prop_assert_eq!(plan(&asked, &world.actual, &world.memory), all);
            if round == 3 {
                world.settle(&desired);
            }
            if round == 5 {
                // One that comes later wants what others have.
                desired.contracts.insert(ContractId(9), other.clone());
            }
            world.round(&desired, &mut chance);
        }
    }

    /// Every step waits only for what comes before it in the plan.
    #[test]
    fn tasks_are_in_order(world in world::worlds(), desired in desired_states(20)) {
        for (index, task) in world.plan(&desired).tasks.iter().enumerate() {
            prop_assert!(task.after.iter().all(|before| *before < index));
        }
    }

    /// Any chain or circle of ports and addresses that changes hands comes to its end.
    #[test]
    fn ports_and_addresses_change_hands_in_any_circle(
        before in Just((0..6u8).collect::<Vec<_>>()).prop_shuffle(),
        after in Just((0..6u8).collect::<Vec<_>>()).prop_shuffle(),
        restart in vec(any::<bool>(), 6),
        chance in any::<u64>(),
    ) {
        let state = |order: &[u8], version, restart: &[bool]| {
            let contract = |half: usize| {
                let names = ["a", "b", "c"];
                let mut workloads = fixture::workloads(&names, &["n"], &[]);
                workloads.version = Version(version);
                for (index, machine) in workloads.machines.values_mut().enumerate() {
                    let number = order[half * 3 + index];
                    machine.publish[0].node_port = 8080 + u16::from(number);
                    // Fixed addresses are the contract's own.
                    let mut own: Vec<_> = order[half * 3..half * 3 + 3].to_vec();
                    own.sort_unstable();
                    let host = own.iter().position(|n| *n == number).unwrap() + 2;
                    if restart[half * 3 + index] {
                        machine.networks[0].address =
                            Some(format!("10.20.0.{host}").parse().unwrap());
                    }
                }
                Contract::Run(run(workloads))
            };
            Desired {
                contracts: [(ContractId(1), contract(0)), (ContractId(2), contract(1))].into(),
                ..Desired::default()
            }
        };
        let mut world = World::default();
        world.settle(&state(&before, 1, &restart));
        let desired = state(&after, 2, &restart);
        let mut chance = Chance::some(chance);
        for _ in 0..3 {
            world.round(&desired, &mut chance);
        }
        let plan = world.settle(&desired);
        prop_assert_eq!(&plan.problems, &BTreeMap::new());
        world.check(&desired, &plan);
    }
}
