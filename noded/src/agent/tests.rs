//! The agent among fake daemons: what it does, when, and how little while nothing happens.

use ed25519_dalek::SigningKey;
use loam_chain::{
    Address, B256, BlockRef, ContractRecord, ContractState, TwinRecord, WeightedKey, record::Stored,
};
use loam_deployment::{
    FarmId, Name, TwinId, Version, envelope,
    payload::{self, Body, ImageSource, Payload, Target, Workload},
    report::WorkloadReport,
};
use loam_node_api::{
    farm::{FarmSource, NamedFarm},
    machine::Exit,
    page::LONGEST_WAIT,
    storage::{Deletion, VolumeKey},
};
use tokio::{
    task::{JoinHandle, LocalSet, spawn_local},
    time::timeout,
};

mod logins;

use super::*;
use crate::{
    fake::{FakeNode, Part, Running, State},
    fingerprint, fixture,
    ledger::Published,
    lookout,
};

const CHAIN: ChainContext = ChainContext {
    chain_id: 31337,
    contract: [9; 20],
};

/// A node whose noded runs.
struct Bench {
    node: FakeNode,
    identity: Rc<Identity>,
    views: watch::Sender<Option<Rc<View>>>,
    chain: watch::Sender<ChainState>,
    farm: watch::Sender<Choice>,
    present: watch::Receiver<BTreeSet<ContractId>>,
    reports: watch::Receiver<Vec<Report>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Bench {
    /// noded alone: daemons and chain are the test's to bring.
    fn start(node: FakeNode) -> Self {
        let (mut bench, [storaged, netd, init]) = Self::without_lookout(node);
        let sockets = bench.node.sockets.clone();
        let lookout = async move { lookout::all(&sockets, storaged, netd, init).await };
        bench.tasks.push(spawn_local(lookout));
        bench
    }

    /// The revisions of storaged, netd and init are the test's to tell, too.
    fn without_lookout(node: FakeNode) -> (Self, [watch::Sender<Option<Revision>>; 3]) {
        let identity = Rc::new(Identity::from_seed(&[1; 32]).unwrap());
        let (views, seen) = watch::channel(None);
        let (chain, chain_state) = watch::channel(ChainState::Connecting);
        let (choices, farm) = watch::channel(Choice::default());
        let (storaged_at, storaged) = watch::channel(None);
        let (netd_at, netd) = watch::channel(None);
        let (init_at, init) = watch::channel(None);
        let (reports_in, reports) = watch::channel(Vec::new());
        let (present_in, present) = watch::channel(BTreeSet::new());
        let agent = Agent::new(
            identity.clone(),
            CHAIN,
            node.sockets.clone(),
            node.clock(),
            Screen::default(),
        );
        let inlets = Inlets {
            views: seen,
            chain: chain_state,
            farm,
            storaged,
            netd,
            init,
        };
        let outlets = Outlets {
            access: watch::channel(Access::new()).0,
            reports: reports_in,
            present: present_in,
            offer: watch::channel(None).0,
        };
        let bench = Self {
            node,
            identity,
            views,
            chain,
            farm: choices,
            present,
            reports,
            tasks: vec![spawn_local(agent.run(inlets, outlets))],
        };
        (bench, [storaged_at, netd_at, init_at])
    }

    /// What the chain says from now on.
    fn publish(&self, contracts: Vec<Published>, cancelled: &[u64]) {
        let before = self
            .views
            .borrow()
            .as_ref()
            .map_or(0, |view| view.generation);
        let view = View {
            block: block(before + 1),
            node: None,
            farm: None,
            contracts: contracts.into(),
            cancelled: cancelled.iter().copied().map(ContractId).collect(),
            generation: before + 1,
        };
        self.views.send_replace(Some(Rc::new(view)));
    }

    /// A block in which nothing concerns this node.
    fn next_block(&self, number: u64) {
        self.views.send_modify(|view| {
            let view = view.as_mut().unwrap();
            *view = Rc::new(View {
                block: block(number),
                ..View::clone(view)
            });
        });
        self.chain
            .send_replace(ChainState::Following { block: number });
    }

    /// noded beside init, storaged and netd, which have a disk: all that a test brings is contracts.
    async fn ready() -> (Self, [Running; 3]) {
        Self::ready_where(|_| ()).await
    }

    /// And this is so before noded looks for the first time.
    async fn ready_where<T>(is_so: impl FnOnce(&mut State) -> T) -> (Self, [Running; 3]) {
        let bench = Self::start(FakeNode::new());
        bench.node.change(|state| {
            state.disk = true;
            is_so(state)
        });
        let parts = [Part::Init, Part::Storaged, Part::Netd];
        let daemons = parts.map(|part| bench.node.start(part));
        bench.node.wait("all is listed", is_listed).await;
        (bench, daemons)
    }

    /// The machines of so many contracts run, from 1 on.
    async fn at_work(contracts: u64) -> (Self, [Running; 3]) {
        let (bench, daemons) = Self::ready().await;
        let published = (1..=contracts).map(|contract| always(&bench, contract));
        bench.publish(published.collect(), &[]);
        let all_run = |state: &State| (1..=contracts).all(|contract| runs(state, contract));
        bench.node.wait("all machines run", all_run).await;
        (bench, daemons)
    }
}

fn is_listed(state: &State) -> bool {
    ["volumes", "interfaces", "machines"]
        .iter()
        .all(|list| state.calls.contains_key(list))
}

fn block(number: u64) -> BlockRef {
    BlockRef {
        number,
        hash: B256::with_last_byte(number as u8),
    }
}

fn tenant() -> SigningKey {
    SigningKey::from_bytes(&[5; 32])
}

/// A contract with one machine on a network, with a volume.
fn deployment(
    identity: &Identity,
    contract: u64,
    version: u64,
    restart: payload::Restart,
) -> Published {
    deployment_of(identity, contract, version, restart, 1, "10.20.0.0/24")
}

fn deployment_of(
    identity: &Identity,
    contract: u64,
    version: u64,
    restart: payload::Restart,
    image: u8,
    subnet: &str,
) -> Published {
    published(&payload_of(
        identity, contract, version, restart, image, subnet,
    ))
}

fn payload_of(
    identity: &Identity,
    contract: u64,
    version: u64,
    restart: payload::Restart,
    image: u8,
    subnet: &str,
) -> Payload {
    let machine = payload::Machine {
        image: ImageSource::Oci(fixture::image(image)),
        cpus: 1,
        memory: Bytes::mib(256),
        root: Bytes::mib(64),
        command: vec![],
        env: BTreeMap::new(),
        image_login: None,
        sealed_env: BTreeMap::new(),
        ssh_keys: vec![],
        volumes: [("data".parse().unwrap(), "/data".into())].into(),
        networks: vec![payload::NetworkAttachment {
            network: "net".parse().unwrap(),
            address: None,
        }],
        mesh: false,
        publish: vec![],
        restart,
        devices: vec![],
    };
    let network = payload::Network {
        ipv4: subnet.parse().unwrap(),
        ipv6: None,
        peers: vec![],
        nat: true,
    };
    Payload {
        target: Target::Node(identity.node),
        contract: ContractId(contract),
        version: Version(version),
        valid_until: None,
        description: String::new(),
        body: Body::Workload(BTreeMap::from([
            (
                "web".parse::<Name>().unwrap(),
                Workload::Machine(Box::new(machine)),
            ),
            (
                "data".parse().unwrap(),
                Workload::Volume(fixture::volume(Bytes::gib(1))),
            ),
            ("net".parse().unwrap(), Workload::Network(network)),
        ])),
    }
}

fn published(payload: &Payload) -> Published {
    let Target::Node(node) = payload.target else {
        panic!("a node's")
    };
    let bytes = envelope::sign(payload, &CHAIN, &[(TwinId(7), &tenant())]).unwrap();
    let mut hash = B256::ZERO;
    hash.0[..8].copy_from_slice(&payload.contract.0.to_be_bytes());
    hash.0[8..16].copy_from_slice(&payload.version.0.to_be_bytes());
    Published {
        record: ContractRecord {
            id: payload.contract,
            twin: TwinId(7),
            node,
            state: ContractState::Created,
            deployment: Stored {
                version: payload.version,
                pointer: Address::ZERO,
                hash,
            },
            report: None,
            created: 1,
            updated: 1,
        },
        bytes,
        owner: TwinRecord {
            id: TwinId(7),
            owner: Address::ZERO,
            keys: vec![WeightedKey {
                key: tenant().verifying_key().to_bytes(),
                weight: 1,
            }],
            threshold: 1,
            version: 1,
        },
    }
}

fn always(bench: &Bench, contract: u64) -> Published {
    deployment(&bench.identity, contract, 1, payload::Restart::Always)
}

fn id(contract: u64, name: &str) -> WorkloadId {
    format!("{contract}.{name}").parse().unwrap()
}

fn runs(state: &State, contract: u64) -> bool {
    let machine = state.machines.get(&id(contract, "web"));
    machine.is_some_and(|machine| machine.state == MachineState::Running)
}

/// How often the call was made.
fn calls(state: &State, name: &str) -> usize {
    state.calls.get(name).copied().unwrap_or(0)
}

/// How often this, a line of the log, was done.
fn done(state: &State, what: &str) -> usize {
    state.log.iter().filter(|call| **call == what).count()
}

/// How often the contract's machine was started.
fn starts(state: &State, contract: u64) -> usize {
    done(state, &format!("machine_start {contract}.web"))
}

/// How often it was asked to end.
fn stops(state: &State, contract: u64) -> usize {
    done(state, &format!("machine_stop {contract}.web"))
}

/// How many calls for volumes hang.
fn hanging(state: &State) -> usize {
    let made = state.log.iter().filter(|c| c.starts_with("volume_ensure"));
    // Each that is made counts twice.
    calls(state, "volume_ensure") - 2 * made.count()
}

/// What the first report says of its machine, if it is of this version.
fn told_of_web(reports: &[Report], version: Version) -> Option<&WorkloadReport> {
    let report = reports.first().filter(|report| report.version == version)?;
    report.workloads.get(&"web".parse::<Name>().unwrap())
}

fn data(contract: u64) -> VolumeKey {
    VolumeKey::Data(id(contract, "data"))
}

async fn local(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn what_the_chain_says_is_done_at_once_and_told() {
    local(async {
        let (mut bench, _daemons) = Bench::ready().await;
        bench.publish(vec![always(&bench, 1)], &[]);
        bench
            .node
            .wait("the machine runs", |state| runs(state, 1))
            .await;
        let told = bench.reports.wait_for(|reports| {
            let web = reports
                .first()
                .and_then(|r| r.workloads.get(&"web".parse::<Name>().unwrap()));
            web.is_some_and(|web| web.state == loam_deployment::report::State::Running)
        });
        timeout(LONGEST_WAIT, told).await.unwrap().unwrap();
        bench
            .node
            .wait("storaged knows the node", |state| {
                state.named == Some(bench.identity.node)
            })
            .await;
    })
    .await;
}

#[tokio::test]
async fn storaged_is_told_whose_node_it_serves_also_when_no_round_saw_it_away() {
    local(async {
        let (bench, [storaged, ..]) = Bench::without_lookout(FakeNode::new());
        let node = &bench.node;
        let revision = async || {
            let client = node.sockets.storage().await.ok()?;
            client.changes(shortly(), Revision::default()).await.ok()
        };
        let told = |times| {
            node.wait("storaged knows the node", move |state| {
                calls(state, "node_is") == times
            })
        };
        let life = node.start(Part::Storaged);
        node.wait_for_sockets(&[Part::Storaged]).await;
        let first = revision().await.unwrap();
        storaged.send_replace(Some(first));
        told(1).await;
        // What changes in one life does not make it another.
        node.change(|_| ());
        let changed = revision().await.unwrap();
        assert!(changed != first && picture::is_one_life(first, changed));
        // Away and back, before anybody looks.
        drop(life);
        let _next = node.with_new_storaged().start(Part::Storaged);
        let next = timeout(LONGEST_WAIT, async {
            loop {
                match revision().await {
                    Some(next) if next != changed => break next,
                    _ => tokio::task::yield_now().await,
                }
            }
        });
        storaged.send_replace(Some(next.await.unwrap()));
        told(2).await;
    })
    .await;
}

/// Every order in which a node's parts may come back. The machine was there before.
#[tokio::test]
async fn after_a_power_cut_machines_come_back_whatever_returns_first() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Comes {
        Storaged,
        Disk,
        Netd,
        Chain,
    }
    async fn try_order(order: Vec<Comes>) {
        let node = FakeNode::new();
        // What the power cut has left: data, and nothing that runs.
        let _init = node.start(Part::Init);
        let bench = Bench::start(node.clone());
        let key = data(1);
        let spec = loam_node_api::storage::VolumeSpec {
            size: Bytes::gib(1),
            media: payload::Media::Any,
            filesystem: payload::Filesystem::Ext4,
        };
        let volume = loam_node_api::storage::Volume {
            key: key.clone(),
            spec,
            path: Some("/pool/before".into()),
            used: Bytes(1),
            version: Version(1),
        };
        node.change(|state| state.volumes.insert(key.clone(), volume));
        let mut daemons = Vec::new();
        for comes in &order {
            match comes {
                Comes::Storaged => daemons.push(node.start(Part::Storaged)),
                Comes::Disk => node.change(|state| state.disk = true),
                Comes::Netd => daemons.push(node.start(Part::Netd)),
                Comes::Chain => bench.publish(vec![always(&bench, 1)], &[]),
            }
            // noded has taken notice of what it can notice.
            let there = |part: Comes| {
                order.iter().position(|c| *c == part) <= order.iter().position(|c| c == comes)
            };
            if there(Comes::Storaged) {
                node.wait("storaged is looked at", |s| s.calls.contains_key("volumes"))
                    .await;
            }
            if there(Comes::Netd) {
                node.wait("netd is looked at", |s| s.calls.contains_key("interfaces"))
                    .await;
            }
        }
        node.wait(&format!("the machine runs after {order:?}"), |state| {
            runs(state, 1)
        })
        .await;
        node.look(|state| {
            assert_eq!(
                state.volumes[&key].path,
                Some("/pool/before".into()),
                "{order:?}"
            );
            assert!(
                !state.log.iter().any(|call| call.contains("delete")),
                "{order:?}: {:?}",
                state.log
            );
        });
    }
    local(async {
        let all = [Comes::Storaged, Comes::Disk, Comes::Netd, Comes::Chain];
        let mut orders = vec![vec![]];
        for _ in 0..all.len() {
            orders = orders
                .into_iter()
                .flat_map(|order: Vec<Comes>| {
                    let rest: Vec<_> = all.iter().filter(|c| !order.contains(c)).copied().collect();
                    rest.into_iter()
                        .map(move |next| [&order[..], &[next]].concat())
                })
                .collect();
        }
        assert_eq!(orders.len(), 24);
        futures::future::join_all(orders.into_iter().map(try_order)).await;
    })
    .await;
}

#[tokio::test]
async fn one_volume_that_hangs_holds_up_its_machine_and_no_other() {
    local(async {
        let (bench, _daemons) = Bench::ready_where(|state| state.hung.insert(data(1))).await;
        bench.publish(vec![always(&bench, 1), always(&bench, 2)], &[]);
        bench
            .node
            .wait("the other machine runs", |state| runs(state, 2))
            .await;
        // Meanwhile a third comes and the second goes, all of it acted on.
        bench.publish(vec![always(&bench, 1), always(&bench, 3)], &[2]);
        bench
            .node
            .wait("the third runs and the second is gone", |state| {
                runs(state, 3)
                    && !state.machines.contains_key(&id(2, "web"))
                    && !state.volumes.contains_key(&data(2))
            })
            .await;
        bench.node.look(|state| {
            assert!(!state.machines.contains_key(&id(1, "web")));
            assert_eq!(hanging(state), 1, "the call that hangs is made once");
        });
    })
    .await;
}

#[tokio::test]
async fn a_machine_is_started_anew_once_its_disk_is_back() {
    local(async {
        let (bench, _daemons) = Bench::at_work(1).await;
        let node = &bench.node;
        let (before, looks) = node.look(|state| (starts(state, 1), state.calls["pools"]));
        node.change(|state| state.disk = false);
        node.wait("noded sees it gone", |state| state.calls["pools"] > looks)
            .await;
        node.change(|state| (state.disk, state.mount) = (true, 2));
        node.wait("it is started anew", |state| {
            starts(state, 1) > before && runs(state, 1)
        })
        .await;
        node.look(|state| {
            let machine = &state.machines[&id(1, "web")];
            let on = fingerprint::mounts(&machine.fingerprint);
            let mounts: Vec<_> = on.map(|(_, mount)| mount.0).collect();
            assert_eq!(mounts, [2]);
        });
    })
    .await;
}

/// A smaller volume is refused; that the disk with the volume is pulled does not change that.
#[tokio::test]
async fn a_refused_update_is_not_accepted_because_a_disk_is_away() {
    local(async {
        let (mut bench, _daemons) = Bench::at_work(1).await;
        bench.node.change(|state| {
            for volume in state.volumes.values_mut() {
                volume.spec.size = Bytes::gib(8);
            }
        });
        let next = || deployment(&bench.identity, 1, 2, payload::Restart::Always);
        let published = next();
        bench.publish(vec![published], &[]);
        let refused = |reports: &[Report]| {
            reports.iter().any(|report| {
                report.version == Version(2)
                    && matches!(
                        report.verdict,
                        loam_deployment::report::Verdict::Rejected { .. }
                    )
            })
        };
        bench
            .reports
            .wait_for(|reports| refused(reports))
            .await
            .unwrap();
        let looks = bench.node.look(|state| state.calls["volumes"]);
        bench.node.change(|state| state.disk = false);
        bench
            .node
            .wait("noded sees it gone", |state| state.calls["volumes"] > looks)
            .await;
        // Judged again with a view that says the same.
        let published = next();
        bench.publish(vec![published], &[]);
        let looks = bench.node.look(|state| state.calls["volumes"]);
        bench
            .node
            .change(|state| (state.disk, state.mount) = (true, 2));
        bench
            .node
            .wait("noded sees it back", |state| state.calls["volumes"] > looks)
            .await;
        bench
            .node
            .wait("it is started anew as it was", |state| {
                let machine = state.machines.get(&id(1, "web"));
                machine.is_some_and(|machine| machine.fingerprint.ends_with("=2")) && runs(state, 1)
            })
            .await;
        assert!(refused(&bench.reports.borrow()));
    })
    .await;
}

#[tokio::test]
async fn one_daemon_away_stops_only_what_needs_it() {
    local(async {
        let (bench, [_init, _storaged, netd]) = Bench::at_work(1).await;
        drop(netd);
        // It crashes, and needs nothing of netd to come back.
        bench.node.change(|state| {
            let machine = state.machines.get_mut(&id(1, "web")).unwrap();
            machine.state = MachineState::Exited(Exit::Failed("KVM".into()));
        });
        bench
            .node
            .wait("the machine runs again", |state| runs(state, 1))
            .await;
        // A new one waits for netd, and only that.
        bench.publish(vec![always(&bench, 1), always(&bench, 2)], &[]);
        bench
            .node
            .wait("its volume is there", |state| {
                state.volumes.contains_key(&data(2))
            })
            .await;
        bench.node.look(|state| assert!(!runs(state, 2)));
        let _netd = bench.node.start(Part::Netd);
        bench
            .node
            .wait("the new one runs", |state| runs(state, 2))
            .await;
    })
    .await;
}

/// netd takes connections and answers nothing, from the start and later on.
#[tokio::test]
async fn a_daemon_that_hangs_is_taken_for_one_that_is_away() {
    local(async {
        let bench = Bench::start(FakeNode::new());
        bench.node.change(|state| state.disk = true);
        let _others = [
            bench.node.start(Part::Init),
            bench.node.start(Part::Storaged),
        ];
        let silent = tokio::net::UnixListener::bind(&bench.node.sockets.netd).unwrap();
        bench.publish(vec![always(&bench, 1)], &[]);
        // Nothing is planned without a whole picture, and the screen is drawn all the same.
        bench
            .node
            .wait("the screen", |state| state.status.is_some())
            .await;
        bench.node.look(|state| assert!(state.volumes.is_empty()));
        drop(silent);
        let netd = bench.node.start(Part::Netd);
        bench
            .node
            .wait("the machine runs", |state| runs(state, 1))
            .await;

        drop(netd);
        std::fs::remove_file(&bench.node.sockets.netd).unwrap();
        let _silent = tokio::net::UnixListener::bind(&bench.node.sockets.netd).unwrap();
        bench.publish(vec![always(&bench, 1), always(&bench, 2)], &[]);
        bench
            .node
            .wait("its volume is there", |state| {
                state.volumes.contains_key(&data(2))
            })
            .await;
        bench.node.change(|state| {
            let machine = state.machines.get_mut(&id(1, "web")).unwrap();
            machine.state = MachineState::Exited(Exit::Failed("KVM".into()));
        });
        bench
            .node
            .wait("the other runs again", |state| runs(state, 1))
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_list_that_does_not_come_holds_up_no_round() {
    local(async {
        let (bench, _daemons) = Bench::at_work(1).await;
        bench.node.change(|state| state.hung_list = true);
        let lists = |state: &State| state.calls["volumes"];
        let before = bench.node.look(lists);
        bench
            .node
            .wait("the list is asked for", |state| lists(state) > before)
            .await;
        for crash in 1..=3 {
            bench.node.change(|state| {
                let machine = state.machines.get_mut(&id(1, "web")).unwrap();
                machine.state = MachineState::Exited(Exit::Failed(format!("crash {crash}")));
            });
            bench
                .node
                .wait("the machine runs again", |state| runs(state, 1))
                .await;
        }
        let after = bench.node.look(lists);
        assert_eq!(after, before + 1, "it is asked for once at a time");
    })
    .await;
}

/// As when it is killed while a thread of it waits for a disk in the kernel: no connection ends. What
/// init does then, the test does.
#[tokio::test]
async fn what_a_daemon_that_lingers_was_asked_is_asked_of_its_successor_soon() {
    local(async {
        let (bench, [_init, _lingering, _netd]) =
            Bench::ready_where(|state| state.hung.insert(data(1))).await;
        let node = &bench.node;
        bench.publish(vec![always(&bench, 1)], &[]);
        node.wait("a volume is asked for", |state| hanging(state) > 0)
            .await;
        node.change(|state| state.hung_list = true);
        let lists = |state: &State| calls(state, "volumes");
        let before = node.look(lists);
        node.wait("a list is asked for", |state| lists(state) > before)
            .await;

        std::fs::remove_file(&node.sockets.storaged).unwrap();
        {
            let mut state = node.state.lock().unwrap();
            state.hung.clear();
            state.hung_list = false;
        }
        let _successor = node.with_new_storaged().start(Part::Storaged);
        let runs = node.wait("the machine runs", |state| runs(state, 1));
        let soon = Duration::from_secs(20);
        timeout(soon, runs).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_machine_that_crashes_stays_listed_while_it_waits_for_its_next_start() {
    local(async {
        let (bench, _daemons) =
            Bench::ready_where(|state| state.crashing.insert(id(1, "web"))).await;
        bench.publish(vec![always(&bench, 1)], &[]);
        for tries in 1..=3 {
            bench
                .node
                .wait("it is tried again", |state| starts(state, 1) >= tries)
                .await;
            bench.node.look(|state| {
                let machine = &state.machines[&id(1, "web")];
                assert!(matches!(machine.state, MachineState::Exited(_)));
            });
        }
        // Mended by its owner: no wait.
        bench.node.change(|state| state.crashing.clear());
        let mended = deployment(&bench.identity, 1, 2, payload::Restart::Always);
        bench.publish(vec![mended], &[]);
        bench.node.wait("it runs", |state| runs(state, 1)).await;
    })
    .await;
}

#[tokio::test]
async fn while_a_machine_that_crashed_waits_its_owner_is_told_why() {
    local(async {
        let (mut bench, _daemons) =
            Bench::ready_where(|state| state.crashing.insert(id(1, "web"))).await;
        for restart in [payload::Restart::Always, payload::Restart::OnFailure] {
            let version = 1 + u64::from(restart == payload::Restart::OnFailure);
            let crashing = deployment(&bench.identity, 1, version, restart);
            bench.publish(vec![crashing], &[]);
            let told = bench.reports.wait_for(|reports| {
                let web = told_of_web(reports, Version(version));
                web.is_some_and(|web| {
                    web.state == loam_deployment::report::State::Failed
                        && web.detail == "its command ended with status 1"
                        && web.exit_status == Some(1)
                })
            });
            timeout(LONGEST_WAIT, told).await.unwrap().unwrap();
        }
    })
    .await;
}

/// Each order is a line in the log.
#[tokio::test]
async fn a_machine_that_takes_its_time_to_end_is_asked_once() {
    local(async {
        let (bench, _daemons) = Bench::at_work(2).await;
        let node = &bench.node;
        node.change(|state| state.deaf.insert(id(1, "web")));
        bench.publish(vec![always(&bench, 2)], &[1]);
        node.wait("it is asked", |state| stops(state, 1) > 0).await;
        for round in 1..=3 {
            // Another that crashes makes for rounds.
            node.change(|state| {
                let machine = state.machines.get_mut(&id(2, "web")).unwrap();
                machine.state = MachineState::Exited(Exit::Failed(format!("crash {round}")));
            });
            node.wait("the other runs again", |state| runs(state, 2))
                .await;
            bench.publish(vec![always(&bench, 2)], &[1]);
        }
        node.change(|state| {
            assert_eq!(stops(state, 1), 1);
            let machine = state.machines.get_mut(&id(1, "web")).unwrap();
            machine.state = MachineState::Exited(Exit::Killed);
        });
        node.wait("it is gone", |state| {
            !state.machines.contains_key(&id(1, "web"))
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn on_failure_starts_again_what_failed_and_nothing_that_did_its_work() {
    local(async {
        let (bench, _daemons) = Bench::ready().await;
        let on_failure =
            |contract| deployment(&bench.identity, contract, 1, payload::Restart::OnFailure);
        bench.publish(vec![on_failure(1), on_failure(2)], &[]);
        bench
            .node
            .wait("both run", |state| runs(state, 1) && runs(state, 2))
            .await;
        // One does its work; one fails, and does so again whenever it is started.
        bench.node.change(|state| {
            state.crashing.insert(id(2, "web"));
            for (contract, status) in [(1, 0), (2, 1)] {
                let machine = state.machines.get_mut(&id(contract, "web")).unwrap();
                let status = Some(status);
                machine.state = MachineState::Exited(Exit::PoweredOff { status });
            }
        });
        bench
            .node
            .wait("it is tried again", |state| starts(state, 2) >= 4)
            .await;
        bench.node.look(|state| {
            assert_eq!(starts(state, 1), 1);
            let status = Some(0);
            let done = MachineState::Exited(Exit::PoweredOff { status });
            assert_eq!(state.machines[&id(1, "web")].state, done);
        });
    })
    .await;
}

/// Nothing else happens on the node that would make it look.
#[tokio::test]
async fn a_wait_that_ends_while_the_screen_is_drawn_is_not_forgotten() {
    local(async {
        let (bench, _daemons) = Bench::at_work(1).await;
        bench.node.change(|state| {
            // Longer than the first pause.
            state.drawing_takes = Duration::from_millis(1500);
            let machine = state.machines.get_mut(&id(1, "web")).unwrap();
            machine.state = MachineState::Exited(Exit::Failed("KVM".into()));
        });
        bench
            .node
            .wait("it runs again", |state| runs(state, 1))
            .await;
    })
    .await;
}

/// A disk is slow, so that the call for the start outlasts the round.
#[tokio::test]
async fn a_job_that_was_started_late_runs_once_all_the_same() {
    local(async {
        let (mut bench, _daemons) = Bench::ready().await;
        let identity = bench.identity.clone();
        let never = |version, image| {
            let restart = payload::Restart::Never;
            deployment_of(&identity, 1, version, restart, image, "10.20.0.0/24")
        };
        bench.publish(vec![never(1, 1)], &[]);
        bench.node.wait("it runs", |state| runs(state, 1)).await;
        bench
            .node
            .change(|state| state.start_takes = crate::errand::PATIENCE + Duration::from_secs(1));
        bench.publish(vec![never(2, 2)], &[]);
        let told = bench.reports.wait_for(|reports| {
            let web = told_of_web(reports, Version(2));
            web.is_some_and(|web| web.state == loam_deployment::report::State::Running)
        });
        timeout(LONGEST_WAIT, told).await.unwrap().unwrap();
        bench.node.look(|state| assert_eq!(starts(state, 1), 2));
        bench.node.change(|state| {
            state.start_takes = Duration::ZERO;
            let status = Some(0);
            let machine = state.machines.get_mut(&id(1, "web")).unwrap();
            machine.state = MachineState::Exited(Exit::PoweredOff { status });
        });
        // It would have to wait out its first pause, of a second.
        tokio::time::sleep(Duration::from_secs(3)).await;
        bench.node.look(|state| assert_eq!(starts(state, 1), 2));
    })
    .await;
}

#[tokio::test]
async fn what_is_not_listed_stays_until_its_record_says_cancelled() {
    local(async {
        let (mut bench, _daemons) = Bench::at_work(2).await;
        // The chain's endpoint forgets the first and the second is replaced by a third.
        bench.publish(vec![always(&bench, 3)], &[]);
        bench
            .node
            .wait("the third runs", |state| runs(state, 3))
            .await;
        bench.node.look(|state| {
            assert!(runs(state, 1) && runs(state, 2));
            assert!(state.volumes.contains_key(&data(1)));
        });
        let both = |present: &BTreeSet<ContractId>| present.len() == 3;
        timeout(LONGEST_WAIT, bench.present.wait_for(both))
            .await
            .unwrap()
            .unwrap();
        bench.publish(vec![always(&bench, 3)], &[1]);
        bench
            .node
            .wait("the first is gone", |state| {
                !state.machines.contains_key(&id(1, "web")) && !state.volumes.contains_key(&data(1))
            })
            .await;
        bench.node.look(|state| {
            assert!(runs(state, 2) && state.volumes.contains_key(&data(2)));
            let why = format!("{} {:?}", data(1), Deletion::Cancelled);
            assert!(
                state.log.contains(&format!("volume_delete {why}")),
                "{:?}",
                state.log
            );
        });
    })
    .await;
}

#[tokio::test]
async fn a_step_that_changes_nothing_is_not_done_for_ever() {
    local(async {
        let (bench, _daemons) =
            Bench::ready_where(|state| state.forgotten.insert(id(1, "net"))).await;
        bench.publish(vec![always(&bench, 1), always(&bench, 2)], &[]);
        bench
            .node
            .wait("the other runs", |state| runs(state, 2))
            .await;
        let made = |state: &State| done(state, "network_ensure 1.net");
        // After 0, 1 and 3 seconds: were it not held back, it would be hundreds by now.
        bench
            .node
            .wait("it is tried again", |state| made(state) >= 3)
            .await;
        bench
            .node
            .look(|state| assert!(made(state) <= 4, "{}", made(state)));
    })
    .await;
}

#[tokio::test]
async fn a_fetch_is_looked_at_and_nothing_else_is() {
    local(async {
        let (bench, _daemons) =
            Bench::ready_where(|state| state.slow_images.insert(fixture::image(1).into())).await;
        bench.publish(vec![always(&bench, 1)], &[]);
        bench
            .node
            .wait("all else is made", |state| !state.interfaces.is_empty())
            .await;
        bench
            .node
            .wait("the fetch is seen", |state| calls(state, "images") >= 3)
            .await;
        let (images, volumes) = bench
            .node
            .look(|state| (calls(state, "images"), calls(state, "volumes")));
        bench
            .node
            .wait("its progress is looked at", |state| {
                calls(state, "images") >= images + 2
            })
            .await;
        bench.node.look(|state| {
            assert_eq!(calls(state, "volumes"), volumes);
            assert_eq!(calls(state, "image_ensure"), 1);
        });
    })
    .await;
}

/// Another subnet, which netd is asked about, and an image that does not come.
#[tokio::test]
async fn what_waits_for_a_fetch_is_not_checked_all_the_time() {
    local(async {
        let (bench, _daemons) = Bench::at_work(1).await;
        let node = &bench.node;
        node.change(|state| state.slow_images.insert(fixture::image(2).into()));
        let (identity, restart) = (&bench.identity, payload::Restart::Always);
        let moved = deployment_of(identity, 1, 2, restart, 2, "10.99.0.0/24");
        bench.publish(vec![moved], &[]);
        node.wait("netd is asked", |state| calls(state, "network_check") > 0)
            .await;
        let looks = node.look(|state| calls(state, "images"));
        node.wait("the fetch is looked at", |state| {
            calls(state, "images") >= looks + 3
        })
        .await;
        node.look(|state| {
            let checks = calls(state, "network_check");
            assert!(checks <= 10, "netd was asked {checks} times");
            assert!(runs(state, 1));
        });
    })
    .await;
}

/// What is read again only where a revision has moved.
const LISTS: [&str; 8] = [
    "disks",
    "pools",
    "volumes",
    "images",
    "uplink",
    "networks",
    "interfaces",
    "machines",
];

/// Calls and processor time of a node with nothing to do, while blocks come that do not concern it.
async fn idle(contracts: u64, blocks: u64) -> (BTreeMap<&'static str, usize>, Duration) {
    let (bench, _daemons) = Bench::at_work(contracts).await;
    // Settled: a whole long poll of each daemon without a change.
    let polls = ["storaged.changes", "netd.changes", "init.changes"];
    let before = bench.node.look(|state| state.calls.clone());
    bench
        .node
        .wait("nothing changes any more", |state| {
            polls
                .iter()
                .all(|poll| state.calls[poll] >= before[poll] + 2)
        })
        .await;
    let before = bench.node.look(|state| state.calls.clone());
    let cpu = cpu_time();
    for number in 1..=blocks {
        bench.next_block(number);
        tokio::time::sleep(LONGEST_WAIT / blocks as u32).await;
    }
    let used = cpu_time() - cpu;
    let mut calls = bench.node.look(|state| state.calls.clone());
    for (name, count) in &mut calls {
        *count -= before.get(name).copied().unwrap_or(0);
    }
    calls.retain(|_, count| *count > 0);
    (calls, used)
}

#[tokio::test]
async fn a_node_with_nothing_to_do_asks_for_no_list() {
    local(async {
        let (bench, _daemons) = Bench::at_work(5).await;
        let asked = || {
            bench
                .node
                .look(|state| LISTS.map(|list| calls(state, list)))
        };
        let second = Duration::from_secs(1);
        let mut settled = asked();
        for quiet in 0.. {
            assert!(quiet < 6, "it does not come to rest: {LISTS:?} {settled:?}");
            tokio::time::sleep(second).await;
            let before = std::mem::replace(&mut settled, asked());
            if before == settled {
                break;
            }
        }
        for number in 1..=3 {
            bench.next_block(number);
            tokio::time::sleep(second / 2).await;
        }
        // Longer than any pause that blocks may begin anew.
        tokio::time::sleep(5 * second).await;
        assert_eq!(asked(), settled, "{LISTS:?}");
    })
    .await;
}

/// Of this thread, which is all of noded.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Takes some two minutes and prints what half a minute costs.
#[tokio::test]
#[ignore = "a measurement: cargo test -p loam-noded --release idle -- --ignored --nocapture"]
async fn idle_costs_no_lists() {
    local(async {
        let (calls, used) = idle(1000, 10).await;
        println!("1,000 contracts, {LONGEST_WAIT:?}: calls {calls:?}, processor {used:?}");
        assert!(
            LISTS.iter().all(|list| !calls.contains_key(list)),
            "{calls:?}"
        );
    })
    .await;
}

#[test]
fn until_the_clock_is_set_the_end_of_a_deployment_is_judged_by_the_floor() {
    let node = FakeNode::new();
    let agent = Agent::new(
        Rc::new(Identity::from_seed(&[1; 32]).unwrap()),
        CHAIN,
        node.sockets.clone(),
        node.clock(),
        Screen::default(),
    );
    let now = UnixTime::kernel();
    let known = |floor, set| {
        let clock = Clock {
            floor: UnixTime(floor),
            set,
            ..Clock::default()
        };
        std::fs::write(node.clock(), serde_json::to_vec(&clock).unwrap()).unwrap();
        agent.ends()
    };
    // What the kernel believes says nothing, be it behind or ahead.
    assert_eq!(known(5, false), UnixTime(5));
    assert_eq!(known(now.0 + 900, false), UnixTime(now.0 + 900));
    assert!(known(5, true) >= now);
}

#[tokio::test]
async fn which_farm_is_shown_as_soon_as_it_is_chosen() {
    let work = async {
        let (bench, _daemons) = Bench::ready().await;
        let seven = NamedFarm {
            number: FarmId(7),
            source: FarmSource::Stick,
        };
        bench.farm.send_replace(Choice {
            farm: Some(seven),
            settled: true,
            ..Choice::default()
        });
        let shown = |state: &State| {
            let status = state.status.as_ref();
            status.is_some_and(|status| status.farm == Some(seven))
        };
        bench.node.wait("the screen shows the farm", shown).await;
    };
    LocalSet::new().run_until(work).await;
}
