//! Calls under way: each is a task of its own, so that one that takes long holds up nothing but what
//! needs its result. At most one at a time acts on a resource.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use loam_deployment::ContractId;
use loam_node_api::{
    network::Interface,
    storage::{ImageConfig, ImageStatus, Volume},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::spawn_local,
    time::{Instant, timeout_at},
};

use crate::{
    daemons::Daemon,
    step::{Resource, Step},
};

/// How long a round waits for a call before it goes on without the result. Honest calls take
/// milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Calls at one daemon that have outlasted a round's patience.
const MOST_OF_DAEMON: usize = 64;
/// Of one contract, so that a tenant's slow calls leave places to the others.
const MOST_OF_CONTRACT: usize = 8;

/// What a call brought.
#[derive(Clone, Debug)]
pub enum Effect {
    Done,
    /// Goes on in the daemon, which tells when it is over.
    Begun(String),
    Volume(Volume),
    Interface(Interface),
    Image(ImageStatus),
    Config(ImageConfig),
}

pub type Ending = Result<Effect, String>;

#[derive(Clone, Debug)]
pub struct Errand {
    pub step: Step,
    pub daemon: Daemon,
}

/// An errand that outlasted the round which sent it.
#[derive(Debug)]
pub struct Late {
    pub errand: Errand,
    pub ending: Ending,
}

#[derive(Debug)]
pub struct Errands {
    running: BTreeMap<Resource, Errand>,
    sender: UnboundedSender<(Resource, Ending)>,
    receiver: UnboundedReceiver<(Resource, Ending)>,
    late: Vec<Late>,
    /// Daemons that have used up this round's patience.
    slow: BTreeSet<Daemon>,
}

impl Default for Errands {
    fn default() -> Self {
        let (sender, receiver) = unbounded_channel();
        Self {
            running: BTreeMap::new(),
            sender,
            receiver,
            late: Vec::new(),
            slow: BTreeSet::new(),
        }
    }
}

impl Errands {
    /// A new round; with what has ended since the last one.
    pub fn begin_round(&mut self) -> Vec<Late> {
        self.slow.clear();
        while let Ok((resource, ending)) = self.receiver.try_recv() {
            self.end_late(&resource, ending);
        }
        std::mem::take(&mut self.late)
    }

    /// Until one ends that no round has waited for. May be dropped at any time.
    pub async fn ended(&mut self) {
        if self.late.is_empty()
            && let Some((resource, ending)) = self.receiver.recv().await
        {
            self.end_late(&resource, ending);
        }
    }

    /// Why the step cannot be begun now, if a call under way is in its way.
    pub fn hinders(&self, step: &Step) -> Option<String> {
        let busy = self
            .running
            .iter()
            .find(|(resource, _)| uses(step, resource));
        if let Some((_, errand)) = busy {
            return Some(format!("waits: {} takes its time", errand.step));
        }
        let contract = contract(&step.resource());
        let of_contract = self
            .running
            .keys()
            .filter(|running| contract.is_some() && self::contract(running) == contract);
        (of_contract.count() >= MOST_OF_CONTRACT)
            .then(|| "waits: much of this contract takes its time".into())
    }

    /// Whether the daemon has as much to do as it may have.
    pub fn is_full(&self, daemon: Daemon) -> bool {
        let running = self.running.values();
        running.filter(|errand| errand.daemon == daemon).count() >= MOST_OF_DAEMON
    }

    /// Sends a call on its way and waits for it, not for long: no result is one that a later round
    /// is told by [`Errands::begin_round`]. Must run inside a `LocalSet`.
    pub async fn send(
        &mut self,
        errand: Errand,
        call: impl Future<Output = Ending> + 'static,
    ) -> Option<Ending> {
        let resource = errand.step.resource();
        let daemon = errand.daemon;
        let sender = self.sender.clone();
        let key = resource.clone();
        spawn_local(async move {
            // Without a receiver the whole agent is gone.
            let _ = sender.send((key, call.await));
        });
        self.running.insert(resource.clone(), errand);
        if self.slow.contains(&daemon) {
            return None;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match timeout_at(deadline, self.receiver.recv()).await {
                Ok(Some((ended, ending))) if ended == resource => {
                    self.running.remove(&resource);
                    return Some(ending);
                }
                Ok(Some((ended, ending))) => self.end_late(&ended, ending),
                Ok(None) | Err(_) => {
                    self.slow.insert(daemon);
                    return None;
                }
            }
        }
    }

    fn end_late(&mut self, resource: &Resource, ending: Ending) {
        if let Some(errand) = self.running.remove(resource) {
            self.late.push(Late { errand, ending });
        }
    }
}

/// Whether the step acts on the resource or relies on it.
fn uses(step: &Step, resource: &Resource) -> bool {
    if step.resource() == *resource {
        return true;
    }
    match (step, resource) {
        (Step::MachineCheck(plan) | Step::MachineStart(plan), Resource::Volume(key)) => {
            plan.content.volumes().any(|disk| disk.volume == *key)
        }
        (Step::MachineCheck(plan) | Step::MachineStart(plan), Resource::Interface(id)) => {
            id.machine == plan.id
        }
        (Step::MachineCheck(plan) | Step::MachineStart(plan), Resource::Image(image)) => {
            plan.content.image.content() == image.content()
        }
        (Step::InterfaceEnsure(id, _), Resource::Network(network)) => id.network == *network,
        (Step::NetworkDelete(network), Resource::Interface(id)) => id.network == *network,
        (Step::InterfaceDelete(id), Resource::Machine(machine)) => id.machine == *machine,
        (Step::VolumeDelete(key, _) | Step::VolumeEnsure(key, ..), Resource::Machine(machine)) => {
            key.contract() == machine.contract
        }
        _ => false,
    }
}

/// Most images belong to nobody.
pub fn contract(resource: &Resource) -> Option<ContractId> {
    match resource {
        Resource::Image(image) => image.only_for,
        Resource::Volume(key) => Some(key.contract()),
        Resource::Network(id) | Resource::Machine(id) => Some(id.contract),
        Resource::Interface(id) => Some(id.machine.contract),
    }
}

#[cfg(test)]
mod tests {
    use loam_node_api::WorkloadId;
    use tokio::{sync::oneshot, task::LocalSet};

    use super::*;

    fn errand(name: &str) -> Errand {
        let id: WorkloadId = format!("1.{name}").parse().unwrap();
        Errand {
            step: Step::NetworkDelete(id),
            daemon: Daemon::Netd,
        }
    }

    #[tokio::test]
    async fn a_slow_call_holds_up_nothing_but_its_own_resource() {
        let work = async {
            let mut errands = Errands::default();
            let (end, slow) = oneshot::channel();
            let slow = async { slow.await.map(|()| Effect::Done).map_err(|e| e.to_string()) };
            assert!(errands.send(errand("a"), slow).await.is_none());
            assert!(errands.hinders(&errand("a").step).is_some());
            assert!(errands.hinders(&errand("b").step).is_none());
            // The daemon has used up the patience of this round, and has it again in the next.
            let quick = async { Ok(Effect::Done) };
            assert!(errands.send(errand("b"), quick).await.is_none());
            errands.ended().await;
            let late = errands.begin_round();
            assert_eq!(late.len(), 1);
            assert_eq!(late[0].errand.step, errand("b").step);
            let quick = async { Ok(Effect::Done) };
            assert!(errands.send(errand("b"), quick).await.is_some());

            end.send(()).unwrap();
            errands.ended().await;
            let late = errands.begin_round();
            assert_eq!(late[0].errand.step, errand("a").step);
            assert!(late[0].ending.is_ok());
            assert!(errands.hinders(&errand("a").step).is_none());
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test]
    async fn one_contract_leaves_places_to_the_others() {
        let work = async {
            let mut errands = Errands::default();
            for n in 0..MOST_OF_CONTRACT {
                let never = std::future::pending();
                errands.send(errand(&format!("n{n}")), never).await;
            }
            assert!(errands.hinders(&errand("more").step).is_some());
            let other = Step::NetworkDelete("2.net".parse().unwrap());
            assert!(errands.hinders(&other).is_none());
        };
        LocalSet::new().run_until(work).await;
    }
}
