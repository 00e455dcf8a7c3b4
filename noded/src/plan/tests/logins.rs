//! Images that are fetched with a login: whose they are, and when they go.

use loam_deployment::payload::OciReference;
use loam_node_api::{
    image::{Image, ImageLogin},
    machine::{Exit, MachineState},
};

use super::{
    world::{World, machine_mut, run},
    *,
};
use crate::desired::{Machine, Workloads};

fn job(name: &str, login: Option<ImageLogin>) -> Workloads {
    let mut workloads = fixture::workloads(&[name], &[], &[]);
    for machine in workloads.machines.values_mut() {
        machine.image_login = login.clone();
    }
    workloads
}

fn desired(contracts: &[(u64, &Workloads)]) -> Desired {
    let contracts = contracts.iter().map(|(contract, workloads)| {
        let workloads = Workloads::clone(workloads);
        (ContractId(*contract), Contract::Run(run(workloads)))
    });
    Desired {
        contracts: contracts.collect(),
        ..Desired::default()
    }
}

fn login(password: &str) -> Option<ImageLogin> {
    // Of which contract, admission says.
    Some(fixture::login(0, password))
}

/// The one image of these tests, as each of the owners has it.
fn images(owners: &[Option<u64>]) -> Vec<Image> {
    let owners = owners.iter();
    let images = owners.map(|owner| Image {
        reference: fixture::image(1),
        only_for: owner.map(ContractId),
    });
    images.collect()
}

fn ready(world: &World) -> Vec<Image> {
    let ready = world.actual.images.ready.values();
    let mut ready: Vec<_> = ready.map(|ready| ready.image.clone()).collect();
    ready.sort();
    ready
}

#[test]
fn each_who_logs_in_gets_an_image_of_its_own_and_loses_it_alone() {
    let (shared, own) = (job("a", None), job("b", login("secret")));
    let mut world = World::default();
    world.settle(&desired(&[
        (1, &own),
        (2, &own),
        (3, &shared),
        (4, &shared),
    ]));
    assert_eq!(ready(&world), images(&[None, Some(1), Some(2)]));

    let mut fewer = desired(&[(2, &own), (3, &shared), (4, &shared)]);
    fewer.cancelled.insert(ContractId(1));
    let mut dropped = Vec::new();
    for _ in 0..6 {
        let plan = world.round(&fewer, &mut Chance::none());
        dropped.extend(plan.tasks.into_iter().filter_map(|task| match task.step {
            Step::ImageDelete(image) => Some(image),
            _ => None,
        }));
    }
    assert_eq!(dropped, images(&[Some(1)]));
    world.settle(&fewer);
    assert_eq!(ready(&world), images(&[None, Some(2)]));

    let mut one = desired(&[(2, &own), (4, &shared)]);
    one.cancelled.insert(ContractId(3));
    world.settle(&one);
    assert_eq!(ready(&world), images(&[None, Some(2)]));
    one = desired(&[(2, &own)]);
    one.cancelled.insert(ContractId(4));
    world.settle(&one);
    assert_eq!(ready(&world), images(&[Some(2)]));
}

#[test]
fn an_attempt_ends_with_its_own_contract() {
    let own = job("b", login("secret"));
    let mut world = World::default();
    world.unreachable.insert(fixture::image(1).digest());
    let mut both = desired(&[(1, &own), (2, &own)]);
    world.round(&both, &mut Chance::none());
    let attempts = |world: &World| {
        world
            .actual
            .images
            .attempts
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(attempts(&world), images(&[Some(1), Some(2)]));
    both.contracts.remove(&ContractId(1));
    both.cancelled.insert(ContractId(1));
    world.round(&both, &mut Chance::none());
    assert_eq!(attempts(&world), images(&[Some(2)]));
}

#[test]
fn a_login_that_changes_stops_nothing() {
    let mut world = World::default();
    let mut workloads = job("a", login("secret"));
    world.settle(&desired(&[(1, &workloads)]));
    let before = world.actual.clone();
    workloads = job("a", login("another"));
    assert_eq!(world.plan(&desired(&[(1, &workloads)])).tasks, []);
    // Nor does one that comes or goes: what runs keeps the file that it has.
    workloads = job("a", None);
    world.settle(&desired(&[(1, &workloads)]));
    assert_eq!(world.actual.machines, before.machines);
    assert_eq!(ready(&world), images(&[None, Some(1)]));
    world.settle(&desired(&[(1, &job("a", login("secret")))]));
    assert_eq!(world.actual.machines, before.machines);
    assert_eq!(ready(&world), images(&[Some(1)]));
    // When it starts anew, it is from the other one, and the first goes.
    world.settle(&desired(&[(1, &workloads)]));
    assert_eq!(ready(&world), images(&[None, Some(1)]));
    machine_mut(&mut world, "1.a").state = MachineState::Exited(Exit::Killed);
    world.contents.clear();
    world.settle(&desired(&[(1, &workloads)]));
    assert!(world.runs(&"1.a".parse().unwrap()));
    assert_eq!(ready(&world), images(&[None]));
}

#[test]
fn of_several_logins_for_one_image_the_first_machine_s_is_told() {
    let mut workloads = fixture::workloads(&["a", "b", "c"], &[], &[]);
    let passwords = [Some("first"), Some("second"), None];
    for (machine, password) in workloads.machines.values_mut().zip(passwords) {
        machine.image_login = password.and_then(login);
        machine.publish.clear();
    }
    let world = World::default();
    let plan = world.plan(&desired(&[(1, &workloads)]));
    let told: Vec<_> = plan
        .tasks
        .iter()
        .filter_map(|task| match &task.step {
            Step::ImageEnsure(request) => Some(request.login.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(told, [Some(fixture::login(1, "first")), None]);
}

/// Two names of one image are one content, if they are of one contract.
#[test]
fn a_contract_that_names_its_image_twice_has_it_once() {
    let mut workloads = fixture::workloads(&["a", "b"], &[], &[]);
    let mirror = format!("mirror.example/x@sha256:{}", hex::encode([1; 32]));
    let mirror: OciReference = mirror.parse().unwrap();
    let name = |(machine, image): (&mut Machine, _)| {
        machine.image = image;
        machine.image_login = login("secret");
        machine.publish.clear();
    };
    let images = [fixture::image(1), mirror];
    workloads.machines.values_mut().zip(images).for_each(name);
    let mut world = World::default();
    world.settle(&desired(&[(1, &workloads)]));
    assert_eq!(world.actual.images.ready.len(), 1);
}
