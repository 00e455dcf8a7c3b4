use loam_deployment::{Bytes, payload::Restart};

use super::*;
use crate::fixture;

fn workloads() -> Workloads {
    fixture::workloads(&["web"], &["net"], &["data"])
}

fn of(workloads: &Workloads) -> [u8; 32] {
    let machine = workloads.machines.values().next().unwrap();
    digest(machine, workloads)
}

fn planned() -> PlannedInterface {
    PlannedInterface {
        id: loam_node_api::network::InterfaceId {
            machine: "1.web".parse().unwrap(),
            network: "1.net".parse().unwrap(),
        },
        mac: loam_node_api::network::Mac([2; 6]),
        addresses: vec!["10.20.0.2/24".parse().unwrap()],
        gateways: vec!["10.20.0.1".parse().unwrap()],
    }
}

fn change(change: impl Fn(&mut Machine)) -> Workloads {
    let mut workloads = workloads();
    workloads.machines.values_mut().for_each(change);
    workloads
}

#[test]
fn the_mounts_of_a_start_are_added_and_told() {
    let workloads = workloads();
    let machine = workloads.machines.values().next().unwrap();
    let of = |digest| Fingerprint::new(&digest, machine, []);
    let wanted = of([1; 32]);
    assert!(wanted.is_of(wanted.as_str()));
    let mounted = |pool: &str, mount| Mounted {
        pool: pool.to_owned(),
        mount: MountId(mount),
    };
    let on = [mounted("a-b", 7), mounted("c", u64::MAX)];
    let shared = Image::from(fixture::image(1));
    let fingerprint = started(wanted.as_str(), &shared, &on.iter().collect());
    assert!(wanted.is_of(&fingerprint));
    let told: Vec<_> = mounts(&fingerprint).collect();
    assert_eq!(told, [("a-b", MountId(7)), ("c", MountId(u64::MAX))]);
    // What else it tells is as before.
    assert_eq!(
        Disks::of(&fingerprint).known,
        Disks::of(wanted.as_str()).known
    );
    assert!(!of([2; 32]).is_of(&fingerprint));
    assert!(!wanted.is_of(&format!("{}x", wanted.as_str())));
    for none in [
        wanted.as_str(),
        "",
        "a/b/c",
        "a/b/c/",
        "a/b/c/1",
        "a/b/c/x=x",
    ] {
        assert_eq!(mounts(none).next(), None, "{none}");
    }
}

#[test]
fn all_that_a_restart_changes_is_in_it() {
    let mut digests = BTreeSet::from([of(&workloads())]);
    let mut grown = workloads();
    for volume in grown.volumes.values_mut() {
        volume.size = Bytes::gib(2);
    }
    for other in [
        change(|m| m.cpus = 2),
        change(|m| m.memory = Bytes::mib(512)),
        change(|m| m.image = fixture::image(2)),
        change(|m| m.root = Bytes::mib(128)),
        change(|m| m.command = vec!["/x".into()]),
        change(|m| m.env.clear()),
        change(|m| m.ssh_keys = vec!["ssh-ed25519 AAAA".into()]),
        change(|m| m.volumes.values_mut().for_each(|path| path.push('x'))),
        grown,
    ] {
        assert!(digests.insert(of(&other)), "{:?}", other.machines);
    }
}

#[test]
fn what_changes_in_place_is_not() {
    let name = format!("mirror.example/hello@sha256:{}", hex::encode([1; 32]));
    for other in [
        change(|m| m.restart = Restart::Never),
        change(|m| m.publish.clear()),
        change(|m| m.image = name.parse().unwrap()),
        change(|m| m.image_login = Some(fixture::login(1, "secret"))),
    ] {
        assert_eq!(of(&other), of(&workloads()));
    }
}

#[test]
fn the_interfaces_as_the_node_makes_them_are_in_it() {
    let workloads = workloads();
    let machine = workloads.machines.values().next().unwrap();
    let with = |change: &dyn Fn(&mut PlannedInterface)| {
        let mut planned = planned();
        change(&mut planned);
        Fingerprint::new(&of(&workloads), machine, [&planned])
            .as_str()
            .to_owned()
    };
    let mut seen = BTreeSet::from([with(&|_| {})]);
    let other_digest = Fingerprint::new(&[0; 32], machine, [&planned()]);
    assert!(seen.insert(other_digest.as_str().to_owned()));
    let none = Fingerprint::new(&of(&workloads), machine, []);
    assert!(seen.insert(none.as_str().to_owned()));
    let changes: [&dyn Fn(&mut PlannedInterface); 4] = [
        &|i| i.id.network = "1.other".parse().unwrap(),
        &|i| i.mac.0[5] = 9,
        &|i| i.addresses = vec!["10.20.0.2/25".parse().unwrap()],
        &|i| i.gateways.clear(),
    ];
    for change in changes {
        assert!(seen.insert(with(change)));
    }
}

#[test]
fn it_tells_which_disks_a_machine_holds() {
    let mut workloads = fixture::workloads(&["web"], &[], &["data", "logs"]);
    let name = |text: &str| -> Name { text.parse().unwrap() };
    let disks = |workloads: &Workloads| {
        let machine = workloads.machines.values().next().unwrap();
        Disks::of(Fingerprint::new(&of(workloads), machine, []).as_str())
    };
    let both = disks(&workloads);
    assert_eq!(both.image(), Some(ImageDigest([1; 32])));
    assert!(both.may_hold(&name("data")) && both.may_hold(&name("logs")));
    assert!(!both.may_hold(&name("other")));
    for machine in workloads.machines.values_mut() {
        machine.volumes.clear();
    }
    assert!(!disks(&workloads).may_hold(&name("data")));
    assert_eq!(owners(&both), [None, Some(7)]);
    // One that an earlier noded gave, which does not say.
    let unknown = Disks::of(&hex::encode([7; 32]));
    assert!(unknown.may_hold(&name("data")));
    assert_eq!(unknown.image(), None);
    assert_eq!(unknown.images(ContractId(7)).next(), None);
}

fn owners(disks: &Disks) -> Vec<Option<u64>> {
    let images = disks.images(ContractId(7));
    let owner = |content: ImageContent| {
        assert_eq!(content.digest, ImageDigest([1; 32]));
        content.only_for.map(|contract| contract.0)
    };
    images.map(owner).collect()
}

#[test]
fn one_that_was_started_tells_whose_its_image_is() {
    let workloads = workloads();
    let machine = workloads.machines.values().next().unwrap();
    let wanted = Fingerprint::new(&of(&workloads), machine, []);
    let pool = Mounted {
        pool: "a".to_owned(),
        mount: MountId(7),
    };
    let shared = Image::from(fixture::image(1));
    let own = Image {
        only_for: Some(ContractId(7)),
        ..shared.clone()
    };
    for on in [BTreeSet::new(), BTreeSet::from([&pool])] {
        let with = |image| started(wanted.as_str(), image, &on);
        assert_eq!(owners(&Disks::of(&with(&shared))), [None]);
        assert_eq!(owners(&Disks::of(&with(&own))), [Some(7)]);
        assert!(wanted.is_of(&with(&own)));
        assert_eq!(mounts(&with(&own)).count(), on.len());
    }
}
