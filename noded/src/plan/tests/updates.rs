//! Updates of one deployment, each told as its owner would.

use loam_deployment::{
    Bytes,
    payload::{self, OciReference, Restart},
};
use loam_node_api::{
    clock::UnixTime,
    image::Image,
    machine::{Exit, MachineState, OnReset},
    storage::{MountId, VolumeSpec},
};

use super::{
    world::{Chance, World, machine_mut, run},
    *,
};
use crate::{
    actual::Mounted,
    course::{Course, Progress},
    desired::{Halt, Workloads},
    fingerprint,
};

const ONE: ContractId = ContractId(1);

fn desired(contract: Contract) -> Desired {
    Desired {
        contracts: [(ONE, contract)].into(),
        ..Desired::default()
    }
}

fn want(workloads: Workloads) -> Desired {
    desired(Contract::Run(run(workloads)))
}

/// A machine `web` on a network, with a volume.
fn web(version: u64) -> Workloads {
    let mut workloads = fixture::workloads(&["web"], &["net"], &["data"]);
    workloads.version = Version(version);
    workloads
}

fn with_image(version: u64, image: u8) -> Workloads {
    let mut workloads = web(version);
    for machine in workloads.machines.values_mut() {
        machine.image = fixture::image(image);
    }
    workloads
}

/// In which version 1 runs.
fn world() -> World {
    let mut world = World::default();
    world.settle(&want(web(1)));
    world
}

/// A machine without network or volume, which runs.
fn job(policy: Restart) -> (Desired, World) {
    let mut workloads = fixture::workloads(&["job"], &[], &[]);
    for machine in workloads.machines.values_mut() {
        machine.restart = policy;
    }
    let desired = want(workloads);
    let mut world = World::default();
    world.settle(&desired);
    (desired, world)
}

fn id(text: &str) -> WorkloadId {
    text.parse().unwrap()
}

fn shared(image: u8) -> ImageContent {
    Image::from(fixture::image(image)).content()
}

fn root(machine: &str, image: u8) -> VolumeKey {
    crate::desired::root_key(&id(machine), &fixture::image(image))
}

fn data(name: &str) -> VolumeKey {
    VolumeKey::Data(id(name))
}

fn steps(plan: &Plan) -> Vec<String> {
    plan.tasks
        .iter()
        .map(|task| task.step.to_string())
        .collect()
}

/// Rounds in which time passes but nothing is mended.
fn rounds(world: &mut World, desired: &Desired) -> Plan {
    for _ in 0..5 {
        world.round(desired, &mut Chance::none());
    }
    world.plan(desired)
}

#[test]
fn a_machine_is_replaced_in_phases() {
    let mut world = world();
    let update = want(with_image(2, 2));
    assert_eq!(
        steps(&world.plan(&update)),
        [
            "fetch registry.example/hello@sha256:\
             0202020202020202020202020202020202020202020202020202020202020202",
            "make volume 1.data of 1GiB",
            "make root layer of 1.web of 64MiB",
            "check machine 1.web",
            "stop machine 1.web",
            "start machine 1.web",
        ]
    );
    // Asked to stop, it is waited for.
    world.round(&update, &mut Chance::none());
    assert_eq!(steps(&world.plan(&update)), ["start machine 1.web"]);
    world.round(&update, &mut Chance::none());
    // Only now that it runs, what the old one had goes.
    assert_eq!(
        steps(&world.plan(&update)),
        [
            "delete root layer of 1.web",
            "drop registry.example/hello@sha256:\
             0101010101010101010101010101010101010101010101010101010101010101",
        ]
    );
    world.round(&update, &mut Chance::none());
    assert_eq!(steps(&world.plan(&update)), [""; 0]);
}

/// The pool with all that the machine has is away, and comes back; at its start it was mount 1.
#[test]
fn a_machine_whose_disk_was_away_is_started_anew_when_all_is_there_again() {
    let pool = |pool: &str, mount| Mounted {
        pool: pool.to_owned(),
        mount: MountId(mount),
    };
    let mut world = world();
    let want = want(web(1));
    let machine = world.actual.machines.get_mut(&id("1.web")).unwrap();
    let unmounted = machine.fingerprint.trim_end_matches('/');
    let image = Image::from(fixture::image(1));
    machine.fingerprint = fingerprint::started(unmounted, &image, &[&pool("a", 1)].into());
    let with = |world: &mut World, pools: &[(&str, Mounted)]| {
        let pools = pools.iter().cloned();
        world.actual.mounts = pools.map(|(root, pool)| (root.into(), pool)).collect();
        let steps = steps(&world.plan(&want));
        let of_machine = steps
            .into_iter()
            .filter(|step| step.contains("machine 1.web"));
        of_machine.collect::<Vec<_>>()
    };
    let anew = [
        "check machine 1.web",
        "stop machine 1.web",
        "start machine 1.web",
    ];
    // As long as it is there, whatever else is; and while it is away: a start would be no help.
    let none = [""; 0];
    assert_eq!(with(&mut world, &[("/", pool("a", 1))]), none);
    let other = ("/other", pool("b", 2));
    assert_eq!(
        with(&mut world, &[("/", pool("a", 1)), other.clone()]),
        none
    );
    assert_eq!(with(&mut world, std::slice::from_ref(&other)), none);
    // Back, but not all that the machine needs.
    let back = [("/", pool("a", 3)), other];
    let (key, volume) = world.actual.volumes.pop_first().unwrap();
    assert_eq!(with(&mut world, &back), none);
    world.actual.volumes.insert(key, volume);
    let images = std::mem::take(&mut world.actual.images.ready);
    assert_eq!(with(&mut world, &back), none);
    world.actual.images.ready = images;
    assert_eq!(with(&mut world, &back), anew);

    // All is there, on another pool: the one at its start is gone, unless a disk is silent.
    let elsewhere = [("/", pool("b", 2))];
    world.actual.unsure = true;
    assert_eq!(with(&mut world, &elsewhere), none);
    world.actual.unsure = false;
    assert_eq!(with(&mut world, &elsewhere), anew);
    world.settle(&want);
    let machine = &world.actual.machines[&id("1.web")];
    assert_eq!(fingerprint::mounts(&machine.fingerprint).next(), None);
}

#[test]
fn an_update_that_cannot_work_leaves_the_old_version_running() {
    type Obstacle = fn(&mut World);
    let obstacles: [(&str, Obstacle); 3] = [
        ("unreachable", |world| {
            world.unreachable.insert(ImageDigest([2; 32]));
        }),
        ("no space", |world| world.full = true),
        ("too little memory", |world| {
            world.impossible.insert(id("1.web"));
        }),
    ];
    for (why, obstacle) in obstacles {
        let mut world = world();
        let before = world.actual.machines[&id("1.web")].clone();
        obstacle(&mut world);
        let plan = rounds(&mut world, &want(with_image(2, 2)));
        assert!(world.refused.iter().any(|(_, told)| told == why), "{why}");
        assert_eq!(world.actual.machines[&id("1.web")], before, "{why}");
        assert_eq!(plan.outdated[&id("1.web")], before.fingerprint, "{why}");
        let layer = &root("1.web", 1);
        assert!(world.actual.volumes.contains_key(layer), "{why}");
        assert!(world.actual.images.ready.contains_key(&shared(1)), "{why}");
        // Back to what runs: nothing has been lost, and nothing is stopped.
        let mut back = web(3);
        back.version = Version(3);
        world.settle(&want(back));
        assert_eq!(world.actual.machines[&id("1.web")], before, "{why}");
    }
}

#[test]
fn nothing_is_stopped_for_a_subnet_that_is_refused() {
    let mut world = world();
    let before = world.actual.clone();
    let mut moved = web(2);
    for network in moved.networks.values_mut() {
        network.ipv4 = "10.99.0.0/24".parse().unwrap();
    }
    let moved = want(moved);
    world.overlapping.insert("10.99.0.0/24".parse().unwrap());
    let plan = rounds(&mut world, &moved);
    assert!(world.refused.iter().any(|(_, why)| why == "overlaps"));
    assert_eq!(world.actual.machines, before.machines);
    assert_eq!(world.actual.networks, before.networks);
    assert!(plan.outdated.contains_key(&id("1.web")));
    // The uplink has moved away.
    world.overlapping.clear();
    world.settle(&moved);
    assert_ne!(world.actual.machines, before.machines);
}

#[test]
fn the_old_layer_outlives_any_number_of_versions_that_come_to_nothing() {
    // Whichever has the smaller digest.
    for [first, second, third, fourth] in [[1, 2, 3, 4], [9, 8, 7, 6]] {
        let mut world = World::default();
        world.settle(&want(with_image(1, first)));
        world
            .unreachable
            .extend([second, third, fourth].map(|n| ImageDigest([n; 32])));
        let layers = |world: &World| -> BTreeSet<_> {
            let keys = world.actual.volumes.keys().cloned();
            keys.filter(|key| matches!(key, VolumeKey::Root { .. }))
                .collect()
        };
        let both = |other| BTreeSet::from([root("1.web", first), root("1.web", other)]);
        for (version, image) in [(2, second), (3, third)] {
            rounds(&mut world, &want(with_image(version, image)));
            assert_eq!(layers(&world), both(image));
        }
        // Also when the node starts again meanwhile, and init knows of no machine.
        world.actual.machines.clear();
        world.contents.clear();
        rounds(&mut world, &want(with_image(4, fourth)));
        assert_eq!(layers(&world), both(fourth));
        world.settle(&want(with_image(5, first)));
        assert_eq!(layers(&world), [root("1.web", first)].into());
    }
}

/// Its disk is away, so that it is not listed: no other is kept in its place.
#[test]
fn a_layer_that_nobody_would_go_back_to_goes_also_when_the_one_in_use_is_away() {
    let mut world = world();
    world
        .unreachable
        .extend([2, 3].map(|n| ImageDigest([n; 32])));
    rounds(&mut world, &want(with_image(2, 2)));
    world.actual.volumes.remove(&root("1.web", 1)).unwrap();
    let plan = world.plan(&want(with_image(3, 3)));
    let deletes =
        |task: &Task| matches!(&task.step, Step::VolumeDelete(key, _) if *key == root("1.web", 2));
    assert!(plan.tasks.iter().any(deletes), "{:?}", steps(&plan));
}

#[test]
fn a_version_whose_machine_ends_at_once_keeps_the_layer_of_the_one_before() {
    let mut world = world();
    let update = want(with_image(2, 2));
    world.round(&update, &mut Chance::none());
    world.round(&update, &mut Chance::none());
    let machine = machine_mut(&mut world, "1.web");
    machine.state = MachineState::Exited(Exit::PoweredOff { status: Some(1) });
    world.contents.clear();
    let steps = steps(&world.plan(&update));
    assert_eq!(steps, ["start machine 1.web"]);
}

#[test]
fn a_volume_that_is_not_named_goes_once_the_new_version_runs() {
    let mut world = world();
    let mut workloads = web(2);
    workloads.volumes.clear();
    for machine in workloads.machines.values_mut() {
        machine.volumes.clear();
    }
    let update = want(workloads);
    world.impossible.insert(id("1.web"));
    rounds(&mut world, &update);
    assert!(world.actual.volumes.contains_key(&data("1.data")));
    world.impossible.clear();
    world.settle(&update);
    assert!(!world.actual.volumes.contains_key(&data("1.data")));
}

#[test]
fn a_volume_is_kept_that_no_newer_version_leaves_out() {
    let mut world = world();
    world.settle(&want(web(5)));
    for version in [4, 5] {
        let desired = want(Workloads::none(Version(version)));
        let plan = world.clone().settle(&desired);
        let kept = [(data("1.data"), Version(5)), (root("1.web", 1), Version(5))];
        assert_eq!(plan.unproved, kept.into());
    }
    // Not listed at all: nothing changes, and nothing runs out.
    assert_eq!(steps(&world.plan(&Desired::default())), [""; 0]);
    world.settle(&want(Workloads::none(Version(6))));
    assert!(world.actual.volumes.is_empty());
}

/// As one whose disk is missing.
#[test]
fn a_volume_that_cannot_be_used_is_asked_for_waited_for_and_can_be_given_up() {
    let mut world = world();
    for volume in world.actual.volumes.values_mut() {
        volume.path = None;
    }
    let want_it = want(web(1));
    let asked = steps(&world.plan(&want_it));
    // Its machine runs on.
    assert!(
        asked.iter().all(|step| step.starts_with("make ")),
        "{asked:?}"
    );
    assert_eq!(asked.len(), 2);
    let mut ended = world.clone();
    ended.actual.machines.clear();
    let plan = ended.plan(&want_it);
    let start = plan.tasks.last().unwrap();
    assert!(matches!(start.step, Step::MachineStart(_)));
    for key in [data("1.data"), root("1.web", 1)] {
        let call = |task: &Task| task.step.resource() == Resource::Volume(key.clone());
        let call = plan.tasks.iter().position(call).unwrap();
        assert!(start.after.contains(&call), "{key}");
    }
    // It goes as any other does.
    world.settle(&want(Workloads::none(Version(2))));
    assert!(world.actual.volumes.is_empty());
}

#[test]
fn all_of_a_cancelled_contract_goes() {
    let mut world = world();
    let cancelled = Desired {
        cancelled: [ONE].into(),
        ..Desired::default()
    };
    assert_eq!(
        steps(&world.plan(&cancelled)),
        [
            "stop machine 1.web",
            "forget machine 1.web",
            "remove 1.web from 1.net",
            "remove network 1.net",
            "delete volume 1.data",
            "delete root layer of 1.web",
        ]
    );
    world.settle(&cancelled);
    assert_eq!(world.actual, Actual::default());
}

#[test]
fn a_halted_contract_keeps_all_but_its_machines() {
    for halt in [Halt::Suspended, Halt::Ended(UnixTime(9))] {
        let mut world = world();
        let volumes = world.actual.volumes.clone();
        // Also when the halted version would want other things.
        world.settle(&desired(Contract::Halted(run(with_image(2, 2)), halt)));
        assert!(world.actual.machines.is_empty());
        assert_eq!(world.actual.volumes, volumes);
        assert!(world.actual.networks.contains_key(&id("1.net")));
        assert!(world.actual.images.ready.contains_key(&shared(1)));
        world.settle(&want(web(1)));
        assert!(world.runs(&id("1.web")));
    }
}

#[test]
fn a_suspended_contract_that_is_kept_stops_its_machines_and_no_more() {
    let mut world = world();
    let keep = |suspended| desired(Contract::Keep(Kept { suspended }));
    assert_eq!(steps(&world.plan(&keep(false))), [""; 0]);
    assert_eq!(steps(&world.plan(&keep(true))), ["stop machine 1.web"]);
    let before = world.actual.clone();
    world.settle(&keep(true));
    assert!(!world.runs(&id("1.web")));
    assert_eq!(world.actual.volumes, before.volumes);
    assert_eq!(world.actual.interfaces, before.interfaces);
    assert_eq!(world.actual.images, before.images);
}

#[test]
fn a_kept_contract_does_not_keep_others_images() {
    let mut world = world();
    let two = ContractId(2);
    let mut both = want(web(1));
    let other = |image| {
        let mut workloads = fixture::workloads(&["job"], &[], &[]);
        workloads.version = Version(image);
        for machine in workloads.machines.values_mut() {
            machine.image = fixture::image(image as u8);
        }
        Contract::Run(run(workloads))
    };
    both.contracts.insert(two, other(7));
    world.settle(&both);
    // The first is refused from now on, and one that never had anything is, too.
    both.contracts.insert(ONE, Contract::Keep(Kept::default()));
    both.contracts
        .insert(ContractId(3), Contract::Keep(Kept::default()));
    both.contracts.insert(two, other(8));
    world.settle(&both);
    let ready: Vec<_> = world
        .actual
        .images
        .ready
        .keys()
        .map(|content| content.digest.0[0])
        .collect();
    assert_eq!(ready, [1, 8], "the kept machine's, and the new one");
}

#[test]
fn two_names_of_one_image_are_fetched_once() {
    let mut workloads = fixture::workloads(&["a", "b"], &[], &[]);
    let mirror = format!("mirror.example/x@sha256:{}", hex::encode([1; 32]));
    workloads.machines.values_mut().next().unwrap().image = mirror.parse().unwrap();
    let desired = want(workloads);
    let mut world = World::default();
    world.settle(&desired);
    assert_eq!(world.actual.images.ready.len(), 1);
    // An attempt by a name that is not wanted ends, but never takes what is ready with it.
    let stale = format!("stale.example/x@sha256:{}", hex::encode([1; 32]));
    let lost = format!("stale.example/x@sha256:{}", hex::encode([9; 32]));
    for name in [&stale, &lost] {
        let failed = loam_node_api::storage::ImageState::Failed("gone".into());
        world
            .actual
            .images
            .attempts
            .insert(name.parse::<OciReference>().unwrap().into(), failed);
    }
    assert_eq!(steps(&world.plan(&desired)), [format!("drop {lost}")]);
}

/// Its policy when it was started counts: a job that runs is not begun anew for another one.
#[test]
fn a_guest_that_resets_itself_ends_where_nothing_is_started_again() {
    for (policy, on_reset) in [
        (Restart::Always, OnReset::Restart),
        (Restart::OnFailure, OnReset::Restart),
        (Restart::Never, OnReset::End),
    ] {
        let (desired, _) = job(policy);
        let tasks = World::default().plan(&desired).tasks;
        let started: Vec<_> = tasks
            .iter()
            .filter_map(|task| match &task.step {
                Step::MachineStart(start) => Some(start.on_reset),
                _ => None,
            })
            .collect();
        assert_eq!(started, [on_reset]);
    }
}

#[test]
fn publishing_another_port_restarts_no_machine() {
    let world = world();
    let mut changed = web(2);
    for machine in changed.machines.values_mut() {
        machine.publish[0].node_port = 9090;
    }
    let plan = world.plan(&want(changed));
    assert!(
        !steps(&plan).iter().any(|step| step.contains("machine")),
        "{plan:?}"
    );
    assert!(steps(&plan).contains(&"attach 1.web to 1.net".to_owned()));
}

#[test]
fn a_port_that_another_contract_keeps_is_a_problem_and_stops_nothing() {
    let mut world = world();
    let mut both = want(web(1));
    let mut other = fixture::workloads(&["api"], &["net"], &[]);
    for machine in other.machines.values_mut() {
        machine.publish[0].node_port = 9000;
    }
    both.contracts
        .insert(ContractId(2), Contract::Run(run(other.clone())));
    world.settle(&both);
    let mut next = fixture::workloads(&["api"], &["lan"], &[]);
    next.version = Version(2);
    for machine in next.machines.values_mut() {
        machine.publish[0].node_port = 8080;
        machine.cpus = 2;
    }
    both.contracts
        .insert(ContractId(2), Contract::Run(run(next)));
    let plan = world.settle(&both);
    assert_eq!(
        plan.problems,
        [(
            id("2.api"),
            "port 8080 of the node leads to 1.web".to_owned()
        )]
        .into()
    );
    assert!(world.runs(&id("2.api")), "the version before");
    assert_eq!(plan.outdated.len(), 1);
    let ports = |machine: &str| {
        let taps = world.actual.interfaces.values();
        let mine = taps.filter(|tap| tap.id.machine == id(machine));
        mine.flat_map(|tap| tap.spec.publish.iter().map(|p| p.node_port))
            .collect::<Vec<_>>()
    };
    assert_eq!((ports("1.web"), ports("2.api")), (vec![8080], vec![9000]));
    assert!(
        world.actual.networks.contains_key(&id("2.net")),
        "on which the version before runs"
    );
}

#[test]
fn a_port_of_a_contract_that_nothing_is_known_of_is_a_problem() {
    let mut world = world();
    let desired = Desired {
        contracts: [(
            ContractId(2),
            Contract::Run(run(fixture::workloads(&["api"], &["net"], &[]))),
        )]
        .into(),
        ..Desired::default()
    };
    let plan = world.settle(&desired);
    let problem = "port 8080 of the node leads to 1.web".to_owned();
    assert_eq!(plan.problems, [(id("2.api"), problem)].into());
    assert!(world.runs(&id("1.web")));
}

#[test]
fn a_machine_whose_new_version_cannot_be_keeps_its_port() {
    let with_ports = |machines: &[&str], first: u16| {
        let mut workloads = fixture::workloads(machines, &["net"], &[]);
        for (machine, port) in workloads.machines.values_mut().zip(first..) {
            machine.publish[0].node_port = port;
        }
        workloads
    };
    let mut world = World::default();
    world.settle(&want(with_ports(&["web"], 9000)));
    // The only address is the other's.
    let mut next = with_ports(&["api", "web"], 9001);
    next.version = Version(2);
    for network in next.networks.values_mut() {
        network.ipv4 = "10.99.0.0/30".parse().unwrap();
    }
    let mut both = want(next);
    let other = Contract::Run(run(with_ports(&["other"], 9000)));
    both.contracts.insert(ContractId(2), other);
    let plan = world.settle(&both);
    assert!(world.runs(&id("1.web")) && !world.runs(&id("2.other")));
    assert_eq!(
        plan.problems.get(&id("2.other")),
        Some(&"port 9000 of the node leads to 1.web".to_owned())
    );
}

/// Its successor may not start, and then it goes on with all that it had.
#[test]
fn a_port_is_taken_from_a_machine_that_is_replaced_when_it_has_ended_and_not_before() {
    let mut world = world();
    let mut both = want(web(1));
    let mut next = with_image(2, 2);
    for machine in next.machines.values_mut() {
        machine.publish[0].node_port = 9000;
    }
    both.contracts.insert(ONE, Contract::Run(run(next)));
    let other = fixture::workloads(&["api"], &["net"], &[]);
    both.contracts
        .insert(ContractId(2), Contract::Run(run(other)));
    let plan = world.plan(&both);
    let names = steps(&plan);
    let at = |step: &str| names.iter().position(|name| name == step).unwrap();
    let waits = |step: &str, other: &str| plan.tasks[at(step)].after.contains(&at(other));
    // Not by another set of ports for the tap that it still uses.
    let (stop, free) = ("stop machine 1.web", "remove 1.web from 1.net");
    assert!(waits(free, stop), "{names:?}");
    assert!(waits("attach 2.api to 2.net", free), "{names:?}");
    world.settle(&both);
    assert!(world.runs(&id("1.web")) && world.runs(&id("2.api")));
}

#[test]
fn a_machine_s_disks_are_its_layer_and_its_volumes() {
    let plan = World::default().plan(&want(web(1)));
    let start = plan.tasks.iter().find_map(|task| match &task.step {
        Step::MachineStart(start) => Some(start),
        _ => None,
    });
    let disks = start.unwrap().content.volumes();
    let disks: Vec<_> = disks.map(|disk| disk.volume.clone()).collect();
    assert_eq!(disks, [root("1.web", 1), data("1.data")]);
}

#[test]
fn a_contract_is_at_rest_while_all_is_in_force() {
    let mut world = world();
    let desired = want(web(1));
    let rests = |world: &World| {
        let nobody = BTreeSet::new();
        let survey = survey::Survey::new(&desired, &world.actual, &nobody);
        survey.at_rest.has(ONE)
    };
    assert!(rests(&world));
    for interface in world.actual.interfaces.values_mut() {
        interface.in_force = false;
    }
    assert!(!rests(&world));
}

#[test]
fn a_contract_is_at_rest_however_many_interfaces_it_has() {
    for networks in [&[][..], &["one", "two"]] {
        let desired = want(fixture::workloads(&["web"], networks, &[]));
        let mut world = World::default();
        world.settle(&desired);
        let survey = survey::Survey::new(&desired, &world.actual, &BTreeSet::new());
        assert!(survey.at_rest.has(ONE), "{networks:?}");
    }
}

#[test]
fn a_volume_lacks_what_storaged_can_give_it() {
    let spec = |size| VolumeSpec {
        size,
        media: payload::Media::Any,
        filesystem: payload::Filesystem::Ext4,
    };
    let (small, large) = (spec(Bytes::gib(1)), spec(Bytes::gib(2)));
    let there = fixture::volume_there(&data("1.data"), large.clone(), Version(2));
    assert!(!survey::lacks(&there, &large, Version(2)));
    assert!(!survey::lacks(&there, &large, Version(1)));
    assert!(survey::lacks(&there, &large, Version(3)));
    // None shrinks, and to ask for it would be no use.
    assert!(!survey::lacks(&there, &small, Version(2)));
    let there = fixture::volume_there(&data("1.data"), small, Version(2));
    assert!(survey::lacks(&there, &large, Version(2)));
}

#[test]
fn a_circle_of_addresses_waits_for_the_last_of_its_machines() {
    let state = |version, hosts: [&str; 2], images: [u8; 2]| {
        let mut workloads = fixture::workloads(&["a", "b"], &["net"], &[]);
        workloads.version = Version(version);
        for ((machine, host), image) in workloads.machines.values_mut().zip(hosts).zip(images) {
            machine.publish.clear();
            machine.networks[0].address = Some(host.parse().unwrap());
            machine.image = fixture::image(image);
        }
        want(workloads)
    };
    let mut world = World::default();
    world.settle(&state(1, ["10.20.0.2", "10.20.0.3"], [1, 1]));
    let swap = state(2, ["10.20.0.3", "10.20.0.2"], [1, 2]);
    world.unreachable.insert(ImageDigest([2; 32]));
    rounds(&mut world, &swap);
    // `a` could start, but for the address that `b` cannot give up yet.
    assert!(world.runs(&id("1.a")) && world.runs(&id("1.b")));
    world.unreachable.clear();
    let plan = world.settle(&swap);
    world.check(&swap, &plan);
}

#[test]
fn an_address_of_a_machine_on_its_way_down_is_waited_for_before_another_stops_for_it() {
    // Whichever comes first in the plan.
    for (holder, heir) in [(0, 1), (1, 0)] {
        let state = |version, attached: usize| {
            let mut workloads = fixture::workloads(&["a", "b"], &["net"], &[]);
            workloads.version = Version(version);
            for (index, machine) in workloads.machines.values_mut().enumerate() {
                machine.publish.clear();
                if index == attached {
                    machine.networks[0].address = Some("10.20.0.2".parse().unwrap());
                } else {
                    machine.networks.clear();
                }
            }
            want(workloads)
        };
        let ids = ["1.a", "1.b"];
        let mut world = World::default();
        world.settle(&state(1, holder));
        let moved = state(2, heir);
        machine_mut(&mut world, ids[holder]).state = MachineState::Stopping;
        world.round(&moved, &mut Chance::none());
        assert!(!world.runs(&id(ids[holder])));
        let heir = machine_mut(&mut world, ids[heir]);
        assert_eq!(heir.state, MachineState::Running);
        let plan = world.settle(&moved);
        world.check(&moved, &plan);
    }
}

#[test]
fn an_address_that_was_left_behind_is_let_go_before_another_stops_for_it() {
    let state = |version, attached: &[&str]| {
        let mut workloads = fixture::workloads(&["a", "b"], &["net"], &[]);
        workloads.version = Version(version);
        for (name, machine) in &mut workloads.machines {
            machine.publish.clear();
            if !attached.contains(&name.as_str()) {
                machine.networks.clear();
            }
        }
        want(workloads)
    };
    let mut world = World::default();
    world.settle(&state(1, &["a"]));
    let left = world.actual.interfaces.clone();
    world.settle(&state(2, &[]));
    // Its deletion failed, and its machine was started without it.
    world.actual.interfaces = left;
    let moved = state(3, &["b"]);
    let plan = world.settle(&moved);
    world.check(&moved, &plan);
}

#[test]
fn a_volume_moves_to_another_machine_only_once_the_first_has_ended() {
    let state = |version, holder: usize| {
        let mut workloads = fixture::workloads(&["a", "b"], &[], &["data"]);
        workloads.version = Version(version);
        for (index, machine) in workloads.machines.values_mut().enumerate() {
            machine.volumes.clear();
            if index == holder {
                machine
                    .volumes
                    .insert("data".parse().unwrap(), "/data".into());
            }
        }
        want(workloads)
    };
    let mut world = World::default();
    world.settle(&state(1, 0));
    let moved = state(2, 1);
    // The model refuses two machines on one disk.
    world.impossible.insert(id("1.a"));
    rounds(&mut world, &moved);
    assert!(world.runs(&id("1.a")) && world.runs(&id("1.b")));
    world.impossible.clear();
    let plan = world.settle(&moved);
    world.check(&moved, &plan);
}

#[test]
fn a_volume_grows_before_its_machine_stops() {
    let mut world = world();
    let mut larger = web(2);
    for volume in larger.volumes.values_mut() {
        volume.size = Bytes::gib(3);
    }
    let desired = want(larger);
    world.full = true;
    rounds(&mut world, &desired);
    assert!(world.runs(&id("1.web")));
    world.full = false;
    world.settle(&desired);
    assert_eq!(
        world.actual.volumes[&data("1.data")].spec.size,
        Bytes::gib(3)
    );
}

#[test]
fn a_machine_whose_tap_is_gone_is_started_anew() {
    let mut world = world();
    world.actual.interfaces.clear();
    for content in world.contents.values_mut() {
        content.interfaces.clear();
    }
    let desired = want(web(1));
    assert_eq!(
        steps(&world.plan(&desired)),
        [
            "attach 1.web to 1.net",
            "check machine 1.web",
            "stop machine 1.web",
            "start machine 1.web",
        ]
    );
    let plan = world.settle(&desired);
    world.check(&desired, &plan);
}

#[test]
fn a_machine_that_was_stopped_for_a_version_that_was_taken_back_is_started_again() {
    let job = |version, cpus| {
        let mut workloads = fixture::workloads(&["web"], &[], &[]);
        workloads.version = Version(version);
        for machine in workloads.machines.values_mut() {
            machine.restart = Restart::OnFailure;
            machine.cpus = cpus;
        }
        want(workloads)
    };
    let mut world = World::default();
    world.settle(&job(1, 1));
    // Asked to stop, it ends well.
    world.round(&job(2, 2), &mut Chance::none());
    assert!(!world.runs(&id("1.web")));
    world.settle(&job(3, 1));
    assert!(world.runs(&id("1.web")));
    assert_eq!(world.memory, Memory::default());
    // One that is not wanted any more is forgotten here, too.
    world.settle(&want(Workloads::none(Version(4))));
    assert_eq!(world.memory, Memory::default());
}

/// A job goes on while a stop for a version that may be taken back waits for its turn; when it ends
/// meanwhile, that was by itself.
#[test]
fn a_machine_is_stopped_once_init_was_told_so_and_not_before() {
    let mut world = World::default();
    world.settle(&want(with_image(1, 1)));
    let next = world.plan(&want(with_image(2, 2)));
    let noted = |progress: &dyn Fn(&Step) -> Progress| {
        let mut memory = Memory::default();
        let mut course = Course::new(&next.tasks);
        while let Some(step) = course.next_step() {
            course.note(progress(step));
        }
        memory.note(&next, &course.outcome());
        memory.stopped
    };
    let waits = || Progress::UnderWay("it waits".into());
    let begun = || Progress::Begun("it is asked".into());
    let nobody = BTreeSet::new();
    // For the image, for what its check asks, for an init that does not answer.
    assert_eq!(noted(&|_| waits()), nobody);
    let asks = |step: &Step| match step {
        Step::MachineCheck(_) => begun(),
        _ => Progress::Done,
    };
    assert_eq!(noted(&asks), nobody);
    let stops = |step: &Step, then: Progress| match step {
        Step::MachineStop(_) => then,
        _ => Progress::Done,
    };
    assert_eq!(noted(&|step| stops(step, waits())), nobody);
    let refused = || Progress::Refused("no".into());
    assert_eq!(noted(&|step| stops(step, refused())), nobody);
    assert_eq!(noted(&|step| stops(step, begun())), [id("1.web")].into());
}

#[test]
fn that_a_machine_was_stopped_is_known_until_it_is_started_or_forgotten() {
    for next in [with_image(2, 1), Workloads::none(Version(2))] {
        let next = want(next);
        let mut world = World::default();
        world.settle(&want(with_image(1, 1)));
        world.round(&want(Workloads::none(Version(2))), &mut Chance::none());
        assert!(!world.runs(&id("1.web")));
        let plan = world.plan(&next);
        let stopped = Memory {
            stopped: [id("1.web")].into(),
            ..Memory::default()
        };
        for (progress, known) in [
            (Progress::Refused("no".into()), true),
            (Progress::UnderWay("it waits".into()), true),
            (Progress::Begun("it is asked".into()), true),
            (Progress::Done, false),
        ] {
            let mut memory = stopped.clone();
            let mut course = Course::new(&plan.tasks);
            while let Some(step) = course.next_step() {
                course.note(match step {
                    Step::MachineStart(_) | Step::MachineForget(_) => progress.clone(),
                    _ => Progress::Done,
                });
            }
            memory.note(&plan, &course.outcome());
            assert_eq!(memory.stopped.contains(&id("1.web")), known, "{progress:?}");
        }
    }
}

#[test]
fn what_is_halted_keeps_its_networks_as_they_are() {
    let world = world();
    let mut next = web(2);
    for network in next.networks.values_mut() {
        network.ipv4 = "10.99.0.0/24".parse().unwrap();
    }
    let halted = desired(Contract::Halted(run(next), Halt::Suspended));
    assert_eq!(
        steps(&world.plan(&halted)),
        [
            "stop machine 1.web",
            "forget machine 1.web",
            "remove 1.web from 1.net"
        ]
    );
}

#[test]
fn an_ended_machine_is_started_again_as_its_policy_says() {
    let failed = Exit::Failed("vmm".into());
    let status = |status| Exit::PoweredOff { status };
    for (policy, exit, again) in [
        (Restart::Always, status(Some(0)), true),
        (Restart::OnFailure, status(Some(0)), false),
        (Restart::OnFailure, status(None), false),
        (Restart::OnFailure, status(Some(3)), true),
        (Restart::OnFailure, failed.clone(), true),
        (Restart::OnFailure, Exit::Killed, true),
        (Restart::Never, status(Some(3)), false),
        (Restart::Never, failed, false),
        (Restart::Never, Exit::NotStarted("no disk".into()), true),
    ] {
        let (desired, mut world) = job(policy);
        machine_mut(&mut world, "1.job").state = MachineState::Exited(exit.clone());
        let steps = steps(&world.plan(&desired));
        let expected: &[&str] = if again { &["start machine 1.job"] } else { &[] };
        assert_eq!(steps, expected, "{policy:?} {exit:?}");
    }
}

#[test]
fn a_machine_that_ended_before_its_update_is_of_the_version_before() {
    let (desired, mut world) = job(Restart::Always);
    let status = Some(1);
    let before = world.actual.machines[&id("1.job")].fingerprint.clone();
    let ended = MachineState::Exited(Exit::PoweredOff { status });
    machine_mut(&mut world, "1.job").state = ended;
    assert_eq!(world.plan(&desired).outdated, BTreeMap::new());
    let mut next = fixture::workloads(&["job"], &[], &[]);
    next.version = Version(2);
    for machine in next.machines.values_mut() {
        machine.cpus = 2;
    }
    let plan = world.plan(&want(next));
    assert_eq!(plan.outdated, [(id("1.job"), before)].into());
}

/// A process may outlive its guest while a disk does not answer.
#[test]
fn a_machine_whose_process_does_not_go_is_waited_for_and_then_treated_by_its_policy() {
    for (policy, again) in [(Restart::Never, false), (Restart::Always, true)] {
        let (desired, mut world) = job(policy);
        let status = Some(0);
        let ended = Exit::PoweredOff { status };
        machine_mut(&mut world, "1.job").state = MachineState::Ending(ended.clone());
        // Nobody stops it, though others may have to wait for it.
        let plan = world.plan(&desired);
        assert_eq!(steps(&plan), ["stop machine 1.job"]);
        world.round(&desired, &mut Chance::none());
        assert_eq!(world.memory, Memory::default());
        machine_mut(&mut world, "1.job").state = MachineState::Exited(ended);
        assert_eq!(steps(&world.plan(&desired)).len(), usize::from(again));
    }
}

#[test]
fn a_job_that_ended_well_lets_the_old_layer_go_and_one_that_failed_does_not() {
    for (status, goes) in [(0, true), (1, false)] {
        let job = |version, image| {
            let mut workloads = fixture::workloads(&["web"], &[], &[]);
            workloads.version = Version(version);
            for machine in workloads.machines.values_mut() {
                machine.restart = Restart::Never;
                machine.image = fixture::image(image);
            }
            want(workloads)
        };
        let mut world = World::default();
        world.settle(&job(1, 1));
        let update = job(2, 2);
        world.round(&update, &mut Chance::none());
        world.round(&update, &mut Chance::none());
        let status = Some(status);
        machine_mut(&mut world, "1.web").state = MachineState::Exited(Exit::PoweredOff { status });
        world.contents.clear();
        world.settle(&update);
        assert_eq!(!world.actual.volumes.contains_key(&root("1.web", 1)), goes);
    }
}
