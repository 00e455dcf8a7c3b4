//! The daemons in short: what they do with a step, what they refuse, and what must never be asked.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use loam_deployment::{
    Bytes, ContractId, ImageDigest, Name, Version,
    payload::{Protocol, Publish, Restart},
    subnet,
};
use loam_node_api::{
    WorkloadId,
    clock::UnixTime,
    machine::{Exit, Machine as ActualMachine, MachineState},
    network::{InterfaceId, InterfaceSpec, Network, NetworkSpec},
    storage::{Deletion, ImageState, ImageStatus, VolumeKey, VolumeSpec},
};
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::select,
};

use super::super::{Memory, Plan, plan};
use crate::{
    actual::Actual,
    course::{Course, Progress},
    desired::{Contract, Desired, Fate, Halt, Kept, Machine, Stated, Workloads, root_key},
    fingerprint::{self, Disks},
    fixture,
    step::{MachineContent, MachinePlan, Step},
};

/// The node, as its daemons have it.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub actual: Actual,
    /// What each machine that runs was started with.
    pub contents: BTreeMap<WorkloadId, MachineContent>,
    /// Machines that a check of this round has passed.
    checked: BTreeMap<WorkloadId, MachinePlan>,
    /// Names of images that nobody can fetch.
    pub unreachable: BTreeSet<ImageDigest>,
    /// No volume can be made or grown.
    pub full: bool,
    /// Machines that init would not take.
    pub impossible: BTreeSet<WorkloadId>,
    /// Subnets that netd would not take.
    pub overlapping: BTreeSet<ipnet::Ipv4Net>,
    /// What was refused in the last round, and why.
    pub refused: Vec<(String, String)>,
    pub memory: Memory,
}

/// Whether things go wrong.
#[derive(Clone, Debug)]
pub struct Chance(Option<u64>);

impl Chance {
    pub fn none() -> Self {
        Self(None)
    }

    pub fn some(seed: u64) -> Self {
        Self(Some(seed | 1))
    }

    /// True once in `n` times, if things go wrong at all.
    fn strikes(&mut self, n: u64) -> bool {
        let Some(state) = &mut self.0 else {
            return false;
        };
        // xorshift64: all that is asked of it is to be the same again.
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 20).is_multiple_of(n)
    }
}

pub fn run(workloads: Workloads) -> std::rc::Rc<Stated> {
    std::rc::Rc::new(workloads.into())
}

impl World {
    pub fn plan(&self, desired: &Desired) -> Plan {
        plan(&self.admissible(desired), &self.actual, &self.memory)
    }

    /// Plans, does what can be done, and lets some time pass.
    pub fn round(&mut self, desired: &Desired, chance: &mut Chance) -> Plan {
        let desired = self.admissible(desired);
        let plan = plan(&desired, &self.actual, &self.memory);
        self.checked.clear();
        self.refused.clear();
        let mut course = Course::new(&plan.tasks);
        while let Some(step) = course.next_step() {
            let progress = if chance.strikes(8) {
                Progress::Refused("bad luck".into())
            } else {
                self.step(&desired, step, chance)
            };
            if let Progress::Refused(why) = &progress {
                self.refused.push((step.to_string(), why.clone()));
            }
            course.note(progress);
        }
        self.memory.note(&plan, &course.outcome());
        self.tick();
        plan
    }

    /// As many rounds as it takes, in which nothing fails that need not. The plan made at the end
    /// has nothing to do.
    pub fn settle(&mut self, desired: &Desired) -> Plan {
        for _ in 0..24 {
            let plan = self.plan(desired);
            if plan.tasks.is_empty() {
                return plan;
            }
            self.round(desired, &mut Chance::none());
            let refused = &self.refused;
            assert!(refused.is_empty(), "planned into a refusal: {refused:?}");
        }
        let steps: Vec<_> = self.plan(desired).tasks;
        panic!("never comes to rest: {steps:#?}");
    }

    /// What admission makes sure of: nothing shrinks, and a login is of its own contract.
    pub fn admissible(&self, desired: &Desired) -> Desired {
        let mut desired = desired.clone();
        for (contract, wanted) in &mut desired.contracts {
            let (Contract::Run(stated) | Contract::Halted(stated, _)) = wanted else {
                continue;
            };
            let mut workloads = stated.workloads.clone();
            let has = |key: &VolumeKey| self.actual.volumes.get(key).map(|v| v.spec.size);
            for (name, volume) in &mut workloads.volumes {
                let key = VolumeKey::Data(WorkloadId::new(*contract, name.clone()));
                volume.size = volume.size.max(has(&key).unwrap_or(Bytes(0)));
            }
            for (name, machine) in &mut workloads.machines {
                if let Some(login) = &mut machine.image_login {
                    login.contract = *contract;
                }
                let key = root_key(&WorkloadId::new(*contract, name.clone()), &machine.image);
                machine.root = machine.root.max(has(&key).unwrap_or(Bytes(0)));
            }
            *stated = run(workloads);
        }
        desired
    }

    /// Machines come up and end.
    fn tick(&mut self) {
        for machine in self.actual.machines.values_mut() {
            match machine.state.clone() {
                MachineState::Booting => machine.state = MachineState::Running,
                MachineState::Ending(exit) => {
                    machine.state = MachineState::Exited(exit);
                    self.contents.remove(&machine.id);
                }
                MachineState::Stopping => {
                    machine.state = MachineState::Exited(Exit::PoweredOff { status: Some(0) });
                    self.contents.remove(&machine.id);
                }
                _ => {}
            }
        }
    }

    fn step(&mut self, desired: &Desired, step: &Step, chance: &mut Chance) -> Progress {
        match step {
            Step::MachineStop(id) => self.stop(desired, id),
            Step::MachineForget(id) => {
                assert!(!self.runs(id), "{id} was forgotten while it ran");
                self.actual.machines.remove(id);
                self.contents.remove(id);
                Progress::Done
            }
            Step::MachineCheck(plan) => {
                self.assert_ready(plan);
                if self.impossible.contains(&plan.id) || chance.strikes(6) {
                    return Progress::Refused("too little memory".into());
                }
                self.checked.insert(plan.id.clone(), (**plan).clone());
                Progress::Done
            }
            Step::MachineStart(plan) => self.start(plan),
            Step::InterfaceDelete(id) => {
                let uses =
                    |content: &MachineContent| content.interfaces.iter().any(|i| i.id == *id);
                let content = self.contents.get(&id.machine);
                assert!(!content.is_some_and(uses), "{id:?} went while it was used");
                self.actual.interfaces.remove(id);
                Progress::Done
            }
            Step::InterfaceEnsure(id, spec) => self.attach(id, spec),
            Step::NetworkCheck(_, spec) => {
                if self.overlapping.contains(&spec.ipv4) {
                    return Progress::Refused("overlaps".into());
                }
                Progress::Done
            }
            Step::NetworkEnsure(id, spec) => {
                let there = self.actual.networks.get(id);
                if there.is_some_and(|there| there.spec != *spec) {
                    let uses = |content: &MachineContent| {
                        content.interfaces.iter().any(|i| i.id.network == *id)
                    };
                    assert!(
                        !self.contents.values().any(uses),
                        "{id} changed under a machine"
                    );
                }
                let network = Network {
                    id: id.clone(),
                    spec: spec.clone(),
                    bridge: "b".into(),
                };
                self.actual.networks.insert(id.clone(), network);
                Progress::Done
            }
            Step::NetworkDelete(id) => {
                let mut interfaces = self.actual.interfaces.keys();
                assert!(interfaces.all(|i| i.network != *id), "{id} is in use");
                self.actual.networks.remove(id);
                Progress::Done
            }
            Step::VolumeEnsure(key, spec, version) => self.make(key, spec, *version, chance),
            Step::VolumeDelete(key, why) => self.delete(desired, key, *why),
            Step::ImageEnsure(request) => {
                let digest = request.reference.digest();
                let state = if self.unreachable.contains(&digest) || chance.strikes(6) {
                    ImageState::Failed("unreachable".into())
                } else if chance.strikes(3) {
                    ImageState::Fetching {
                        done: Bytes(1),
                        total: None,
                        waits_for: None,
                        failed_before: None,
                    }
                } else {
                    ImageState::Ready { path: "/i".into() }
                };
                let image = request.image();
                let status = ImageStatus { image, state };
                self.actual.images.note(status.clone());
                match status.state {
                    ImageState::Ready { .. } => Progress::Done,
                    ImageState::Fetching { .. } => Progress::UnderWay("fetching".into()),
                    ImageState::Failed(why) => Progress::Refused(why),
                }
            }
            Step::ImageDelete(image) => {
                let uses = |used: &MachineContent| used.image.content() == image.content();
                assert!(!self.contents.values().any(uses), "{image} is in use");
                self.actual.images.attempts.remove(image);
                self.actual.images.ready.remove(&image.content());
                Progress::Done
            }
        }
    }

    pub fn runs(&self, id: &WorkloadId) -> bool {
        let there = self.actual.machines.get(id);
        there.is_some_and(|m| !matches!(m.state, MachineState::Exited(_)))
    }

    fn stop(&mut self, desired: &Desired, id: &WorkloadId) -> Progress {
        let wanted = match desired.of(id.contract) {
            Fate::Kept(kept) => {
                assert!(kept.suspended, "{id} is kept");
                false
            }
            Fate::Stated(stated, None) => stated.workloads.machines.contains_key(&id.name),
            Fate::Stated(..) | Fate::Cancelled => false,
        };
        let there = &self.actual.machines[id];
        if matches!(there.state, MachineState::Ending(_)) {
            return Progress::UnderWay("ending".into());
        }
        if wanted && there.state != MachineState::Stopping {
            let successor = self.checked.get(id);
            let successor =
                successor.unwrap_or_else(|| panic!("{id} stops, and nothing was checked"));
            self.assert_ready(successor);
            // What its interfaces shall have, nobody goes on having.
            for planned in &successor.content.interfaces {
                for other in self.actual.interfaces.values() {
                    let theirs = &other.spec.addresses;
                    let clash = other.id != planned.id
                        && other.id.network == planned.id.network
                        && planned.addresses.iter().any(|a| theirs.contains(&a.addr()));
                    let stays = self.runs(&other.id.machine)
                        && !self.checked.contains_key(&other.id.machine)
                        && desired_machine(desired, &other.id.machine);
                    assert!(
                        !(clash && stays),
                        "{id} stops for an address that stays taken"
                    );
                }
            }
        }
        if let Some(machine) = self.actual.machines.get_mut(id) {
            machine.state = MachineState::Stopping;
        }
        Progress::Begun("stopping".into())
    }

    /// All is there that can be there before the machine starts.
    fn assert_ready(&self, plan: &MachinePlan) {
        let (id, content) = (&plan.id, &plan.content);
        let image = &content.image;
        assert!(
            self.actual.images.ready(image.content()).is_some(),
            "{id} lacks {image}"
        );
        for disk in content.volumes() {
            let has = self.actual.volumes.get(&disk.volume);
            let fits = has.is_some_and(|has| has.spec.size >= disk.size);
            assert!(fits, "{id} lacks {}", disk.volume);
        }
        for planned in &content.interfaces {
            let network = &planned.id.network;
            assert!(
                self.actual.networks.contains_key(network),
                "{id} lacks {network}"
            );
        }
    }

    fn start(&mut self, plan: &MachinePlan) -> Progress {
        let (id, content) = (&plan.id, &plan.content);
        assert!(!self.runs(id), "{id} runs already");
        self.assert_ready(plan);
        for planned in &content.interfaces {
            let there = self.actual.interfaces.get(&planned.id);
            let there = there.unwrap_or_else(|| panic!("{id} lacks a tap"));
            let addresses: Vec<_> = planned.addresses.iter().map(IpNet::addr).collect();
            assert_eq!(there.spec.addresses, addresses, "of {id}");
        }
        for (other, theirs) in &self.contents {
            let shares = |disk| theirs.volumes().any(|d| d == disk);
            let shared = content.volumes().find(|disk| shares(*disk));
            assert_eq!(shared, None, "{other} and {id} have one disk");
        }
        if self.impossible.contains(id) {
            return Progress::Refused("too little memory".into());
        }
        let started = fingerprint::started(&plan.fingerprint, &content.image, &BTreeSet::new());
        let machine = fixture::running(id, &started, MachineState::Booting);
        self.actual.machines.insert(id.clone(), machine);
        self.contents.insert(id.clone(), content.clone());
        Progress::Done
    }

    fn attach(&mut self, id: &InterfaceId, spec: &InterfaceSpec) -> Progress {
        let Some(network) = self.actual.networks.get(&id.network) else {
            return Progress::Refused(format!("network {} does not exist", id.network));
        };
        for address in &spec.addresses {
            let net = match address.is_ipv4() {
                true => Some(IpNet::V4(network.spec.ipv4)),
                false => network.spec.ipv6.map(IpNet::V6),
            };
            if !net.is_some_and(|net| subnet::is_for_machines(net, *address)) {
                return Progress::Refused(format!("{address} is not the network's"));
            }
        }
        let ports = |spec: &InterfaceSpec| -> BTreeSet<_> {
            spec.publish
                .iter()
                .map(|p| (p.protocol, p.node_port))
                .collect()
        };
        for other in self
            .actual
            .interfaces
            .values()
            .filter(|other| other.id != *id)
        {
            let same = |address| other.spec.addresses.contains(address);
            if other.id.network == id.network && spec.addresses.iter().any(same) {
                return Progress::Refused(format!("{} has an address of it", other.id.machine));
            }
            if !ports(&other.spec).is_disjoint(&ports(spec)) {
                return Progress::Refused(format!("{} has a port of it", other.id.machine));
            }
        }
        if let Some(content) = self.contents.get(&id.machine)
            && let Some(used) = content.interfaces.iter().find(|used| used.id == *id)
        {
            let addresses: Vec<_> = used.addresses.iter().map(IpNet::addr).collect();
            assert_eq!(
                addresses, spec.addresses,
                "{id:?} changed while it was used"
            );
        }
        let interface = fixture::interface(id, spec.clone());
        self.actual.interfaces.insert(id.clone(), interface);
        Progress::Done
    }

    fn make(
        &mut self,
        key: &VolumeKey,
        spec: &VolumeSpec,
        version: Version,
        chance: &mut Chance,
    ) -> Progress {
        let has = self.actual.volumes.get(key);
        if has.is_some_and(|has| spec.size < has.spec.size) {
            return Progress::Refused(format!("{key} would shrink"));
        }
        let grows = has.is_none_or(|has| spec.size > has.spec.size);
        if grows && (self.full || chance.strikes(6)) {
            return Progress::Refused("no space".into());
        }
        let noted = has.map_or(version, |has| has.version.max(version));
        self.actual
            .volumes
            .insert(key.clone(), fixture::volume_there(key, spec.clone(), noted));
        Progress::Done
    }

    fn delete(&mut self, desired: &Desired, key: &VolumeKey, why: Deletion) -> Progress {
        let has = &self.actual.volumes[key];
        match (why, desired.of(key.contract())) {
            (Deletion::Unnamed { by }, Fate::Stated(stated, None)) => {
                assert_eq!(by, stated.workloads.version);
                assert!(by > has.version, "{key} is deleted by what is not newer");
            }
            (Deletion::Cancelled, Fate::Cancelled) => {}
            (why, fate) => panic!("{key} is deleted by {why:?}, and is {fate:?}"),
        }
        let uses = |content: &MachineContent| content.volumes().any(|disk| disk.volume == *key);
        assert!(
            !self.contents.values().any(uses),
            "{key} was deleted while it was used"
        );
        self.actual.volumes.remove(key);
        Progress::Done
    }

    /// The desired state said over again, in other words than the planner's.
    pub fn check(&self, desired: &Desired, plan: &Plan) {
        let desired = self.admissible(desired);
        let actual = &self.actual;
        let mut contracts: BTreeSet<_> = desired.contracts.keys().copied().collect();
        contracts.extend(actual.contracts());
        let mut named = BTreeSet::new();
        for contract in contracts {
            let id = |name: &Name| WorkloadId::new(contract, name.clone());
            let of = |id: &WorkloadId| id.contract == contract;
            let machines: BTreeSet<_> = actual.machines.keys().filter(|id| of(id)).collect();
            let networks: BTreeSet<_> = actual.networks.keys().filter(|id| of(id)).collect();
            let mut taps = actual.interfaces.keys().filter(|id| of(&id.machine));
            let volumes: BTreeSet<_> = actual
                .volumes
                .keys()
                .filter(|key| key.contract() == contract)
                .collect();
            let (workloads, halt) = match desired.of(contract) {
                Fate::Kept(kept) => {
                    let stopped = machines.iter().all(|id| !self.runs(id));
                    assert!(!kept.suspended || stopped, "a suspended machine runs");
                    continue;
                }
                Fate::Cancelled => {
                    let nothing = machines.is_empty()
                        && networks.is_empty()
                        && volumes.is_empty()
                        && taps.next().is_none();
                    assert!(nothing, "left of a cancelled contract");
                    continue;
                }
                Fate::Stated(stated, halt) => (&stated.workloads, halt),
            };
            named.extend(workloads.machines.values().map(Machine::image_content));
            if halt.is_some() {
                assert!(
                    machines.is_empty() && taps.next().is_none(),
                    "a halted machine is there"
                );
                continue;
            }
            let problem = |id: &WorkloadId| plan.problems.contains_key(id);
            for id in machines.iter().filter(|id| !problem(id)) {
                assert!(workloads.machines.contains_key(&id.name), "left over: {id}");
            }
            for (name, spec) in &workloads.networks {
                let stuck = workloads.machines.keys().any(|name| problem(&id(name)));
                assert!(stuck || actual.networks[&id(name)].spec == *spec);
            }
            for (name, asked) in &workloads.volumes {
                let there = &actual.volumes[&VolumeKey::Data(id(name))];
                assert!(there.spec.size >= asked.size && there.version >= workloads.version);
            }
            for (name, asked) in &workloads.machines {
                if !problem(&id(name)) {
                    self.check_machine(&id(name), asked, workloads);
                }
            }
            // Whatever no step is left for is named, or nothing proves that it may go.
            let all_well = workloads.machines.keys().all(|name| {
                let state = &actual.machines.get(&id(name)).map(|m| m.state.clone());
                !problem(&id(name)) && *state == Some(MachineState::Running)
            });
            for key in volumes {
                let named = match key {
                    VolumeKey::Data(id) => workloads.volumes.contains_key(&id.name),
                    VolumeKey::Root { machine, .. } => {
                        let asked = workloads.machines.get(&machine.name);
                        asked.is_some_and(|asked| root_key(machine, &asked.image) == *key)
                    }
                };
                let unproved = workloads.version <= actual.volumes[key].version;
                assert!(named || unproved || !all_well, "left over: {key}");
                assert_eq!(plan.unproved.contains_key(key), unproved && !named, "{key}");
            }
        }
        // An image is there for a deployment or for a layer over it.
        for content in actual.images.ready.keys() {
            let may_use = |contract| content.only_for.is_none_or(|owner| owner == contract);
            let over = |key: &VolumeKey| {
                matches!(key, VolumeKey::Root { image, .. } if *image == content.digest)
                    && may_use(key.contract())
                    && !desired.names(key)
            };
            let used = named.contains(content) || actual.volumes.keys().any(over);
            let ran = |machine: &ActualMachine| {
                let mut images = Disks::of(&machine.fingerprint).images(machine.id.contract);
                images.any(|image| image == *content)
            };
            assert!(
                used || actual.machines.values().any(ran),
                "an image is left over"
            );
        }
    }

    fn check_machine(&self, id: &WorkloadId, asked: &Machine, workloads: &Workloads) {
        assert!(self.actual.images.ready(asked.image_content()).is_some());
        let there = self.actual.machines.get(id);
        let there = there.unwrap_or_else(|| panic!("{id} is not there"));
        let ended = matches!(there.state, MachineState::Exited(_));
        assert!(
            there.state == MachineState::Running || (ended && asked.restart != Restart::Always)
        );
        for (index, attachment) in asked.networks.iter().enumerate() {
            let network = WorkloadId::new(id.contract, attachment.network.clone());
            let tap = InterfaceId {
                machine: id.clone(),
                network,
            };
            let spec = &self.actual.interfaces[&tap].spec;
            let wants = if index == 0 { &asked.publish[..] } else { &[] };
            assert_eq!(spec.publish, wants, "of {id}");
            if let Some(fixed) = attachment.address {
                assert!(spec.addresses.contains(&fixed), "of {id}");
            }
        }
        if let Some(content) = self.contents.get(id) {
            assert_eq!(content.image.reference.digest(), asked.image.digest());
            assert_eq!((content.cpus, content.memory), (asked.cpus, asked.memory));
            let sizes = content.mounts.iter().map(|mount| mount.disk.size);
            let wanted = asked
                .volumes
                .keys()
                .map(|name| workloads.volumes[name].size);
            assert!(sizes.eq(wanted), "of {id}");
        }
    }
}

fn desired_machine(desired: &Desired, id: &WorkloadId) -> bool {
    match desired.of(id.contract) {
        Fate::Stated(stated, None) => stated.workloads.machines.contains_key(&id.name),
        Fate::Kept(_) => true,
        Fate::Stated(..) | Fate::Cancelled => false,
    }
}

fn names() -> impl Strategy<Value = Name> {
    select(vec!["a", "b", "c"]).prop_map(|name| name.parse().unwrap())
}

fn machines() -> impl Strategy<Value = Machine> {
    (
        1u8..4,
        1u32..3,
        any::<[bool; 3]>(),
        option::of(2u8..6),
        option::of(0u16..6),
        select(vec![
            Restart::Always,
            Restart::Always,
            Restart::OnFailure,
            Restart::Never,
        ]),
        1u64..3,
        option::weighted(0.3, select(vec!["one", "other"])),
    )
        .prop_map(
            |(image, cpus, [net, v, w], host, port, restart, root, password)| {
                let volumes: Vec<_> = [("v", v), ("w", w)]
                    .iter()
                    .filter(|x| x.1)
                    .map(|x| x.0)
                    .collect();
                let mut machine = fixture::machine(if net { &["n"] } else { &[] }, &volumes);
                machine.image = fixture::image(image);
                // Of which contract, admission says.
                machine.image_login = password.map(|password| fixture::login(0, password));
                machine.cpus = cpus;
                machine.root = Bytes::mib(64 * root);
                machine.restart = restart;
                machine.publish.clear();
                if let (Some(port), true) = (port, net) {
                    machine.publish.push(Publish {
                        protocol: if port % 2 == 0 {
                            Protocol::Tcp
                        } else {
                            Protocol::Udp
                        },
                        node_port: 8080 + port / 2,
                        machine_port: 80,
                    });
                }
                if let (Some(host), Some(attachment)) = (host, machine.networks.first_mut()) {
                    // Made an address of the network's below.
                    attachment.address = Some(std::net::Ipv4Addr::new(0, 0, 0, host).into());
                }
                machine
            },
        )
}

fn workloads(version: u64) -> impl Strategy<Value = Workloads> {
    let networks = (any::<[bool; 3]>(), any::<bool>());
    let machines = btree_map(names(), machines(), 0..4);
    let version = prop_oneof![6 => Just(version), 1 => Just(1)];
    (machines, 1u64..4, any::<[bool; 2]>(), networks, version).prop_map(
        |(mut machines, size, there, ([nat, second, ipv6], small), version)| {
            let network = NetworkSpec {
                ipv4: if second {
                    "10.30.0.0/24"
                } else {
                    "10.20.0.0/24"
                }
                .parse()
                .unwrap(),
                ipv6: ipv6.then(|| {
                    if small { "fd00::/112" } else { "fd00::/64" }
                        .parse()
                        .unwrap()
                }),
                nat,
            };
            // What verification guarantees: an address, a port and a volume are asked for once.
            let mut fixed = BTreeSet::new();
            let mut ports = BTreeSet::new();
            let mut mounted = BTreeSet::new();
            let names = ["v", "w"].iter().zip(there).filter(|(_, there)| *there);
            let volumes: BTreeMap<Name, _> = names
                .map(|(name, _)| (name.parse().unwrap(), fixture::volume(Bytes::gib(size))))
                .collect();
            for machine in machines.values_mut() {
                for attachment in &mut machine.networks {
                    let host = attachment.address.filter(|a| fixed.insert(*a));
                    attachment.address = host.map(|host| match host {
                        std::net::IpAddr::V4(host) => std::net::IpAddr::V4(
                            (u32::from(network.ipv4.network()) | u32::from(host)).into(),
                        ),
                        v6 => v6,
                    });
                }
                machine
                    .publish
                    .retain(|p| ports.insert((p.protocol, p.node_port)));
                machine
                    .volumes
                    .retain(|name, _| volumes.contains_key(name) && mounted.insert(name.clone()));
            }
            Workloads {
                version: Version(version),
                machines,
                volumes,
                networks: [("n".parse().unwrap(), network)].into(),
            }
        },
    )
}

pub fn contracts(version: u64) -> impl Strategy<Value = Contract> {
    let halts = select(vec![Halt::Suspended, Halt::Ended(UnixTime(5))]);
    prop_oneof![
        8 => workloads(version).prop_map(|w| Contract::Run(run(w))),
        1 => (workloads(version), halts).prop_map(|(w, halt)| Contract::Halted(run(w), halt)),
        1 => any::<bool>().prop_map(|suspended| Contract::Keep(Kept { suspended })),
    ]
}

pub fn desired_states(version: u64) -> impl Strategy<Value = Desired> {
    let ids = || (1u64..4).prop_map(ContractId);
    let contracts = btree_map(ids(), contracts(version), 0..4);
    let cancelled = proptest::collection::btree_set(ids(), 0..2);
    (contracts, cancelled).prop_map(|(contracts, mut cancelled)| {
        cancelled.retain(|id| !contracts.contains_key(id));
        Desired {
            contracts,
            cancelled,
        }
    })
}

/// Any state that earlier deployments can have led to, cut off anywhere, with machines ended and
/// taps lost.
pub fn worlds() -> impl Strategy<Value = World> {
    let history = (desired_states(2), desired_states(4), desired_states(6));
    (
        history,
        vec(any::<u64>(), 3),
        any::<[bool; 3]>(),
        any::<u64>(),
    )
        .prop_map(|((first, second, third), luck, rests, damage)| {
            let mut world = World::default();
            for ((desired, luck), rests) in [first, second, third].iter().zip(luck).zip(rests) {
                let mut chance = Chance::some(luck);
                for _ in 0..3 {
                    world.round(desired, &mut chance);
                }
                if rests {
                    world.settle(desired);
                }
            }
            world.damage(damage);
            world
        })
}

impl World {
    fn damage(&mut self, damage: u64) {
        let ids: Vec<_> = self.actual.machines.keys().cloned().collect();
        for (index, id) in ids.iter().enumerate() {
            let machine = self.actual.machines.get_mut(id).unwrap();
            match damage >> (3 * index) & 7 {
                0 => {
                    machine.state = MachineState::Exited(Exit::PoweredOff { status: Some(1) });
                    self.contents.remove(id);
                }
                // Gone with a reboot.
                1 => {
                    self.actual.machines.remove(id);
                    self.contents.remove(id);
                }
                2 if self.contents.contains_key(id) => machine.state = MachineState::Stopping,
                3 if self.contents.contains_key(id) => {
                    machine.state = MachineState::Ending(Exit::PoweredOff { status: Some(0) });
                }
                _ => {}
            }
        }
        if damage >> 40 & 1 == 1
            && let Some((id, _)) = self.actual.interfaces.pop_first()
            && let Some(content) = self.contents.get_mut(&id.machine)
        {
            content.interfaces.retain(|interface| interface.id != id);
        }
        if damage >> 41 & 1 == 1 {
            self.actual.images.ready.pop_first();
        }
    }
}

/// What nothing but the planner may decide: states of a machine, for tests that set one.
pub fn machine_mut<'w>(world: &'w mut World, id: &str) -> &'w mut ActualMachine {
    world.actual.machines.get_mut(&id.parse().unwrap()).unwrap()
}
