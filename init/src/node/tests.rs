//! The main loop itself, with a launcher that has bugs.

use loam_deployment::Bytes;
use loam_node_api::{
    WorkloadId,
    machine::{Machine, MachineError, MachineState},
    page::{Changes, Page},
};
use rustix::process::Pid;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::timeout,
};

use super::*;
use crate::{
    machine::{
        fixture::spec,
        launcher::{News, Order},
        memory::MemoryBudget,
    },
    screen::network_test,
};

/// Panics when it is to open anything for the machine of this name, and whenever it is to kill.
const FAULTY: &str = "1.faulty";

#[derive(Debug)]
struct Faulty;

impl Launcher for Faulty {
    fn open(&mut self, order: Order) -> anyhow::Result<()> {
        assert_ne!(order.spec.id.to_string(), FAULTY, "on purpose");
        Ok(())
    }

    fn give_up(&mut self, _id: &WorkloadId) {}

    fn launch(&mut self, _id: &WorkloadId) -> anyhow::Result<Pid> {
        Ok(Pid::INIT)
    }

    fn ask_to_stop(&mut self, _id: &WorkloadId) {}

    fn kill(&mut self, _pid: Pid) {
        panic!("on purpose");
    }

    fn release(&mut self, _id: &WorkloadId) {}
}

/// Far longer than any answer takes.
const LONG: Duration = Duration::from_secs(60);

/// Whoever calls the node while its loop turns.
struct Caller(mpsc::Sender<Event>);

impl Caller {
    async fn send(&self, event: Event) {
        self.0.send(event).await.unwrap();
    }

    async fn ask<T>(&self, call: impl FnOnce(oneshot::Sender<T>) -> Call) -> T {
        answer(self.begin(call).await).await
    }

    async fn begin<T>(
        &self,
        call: impl FnOnce(oneshot::Sender<T>) -> Call,
    ) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        self.send(Event::Call(call(reply))).await;
        answer
    }

    async fn start(&self, name: &str) -> oneshot::Receiver<Result<(), MachineError>> {
        let spec = Box::new(spec(name));
        self.begin(|reply| Call::Start { spec, reply }).await
    }

    /// A machine that starts as any does.
    async fn run(&self, name: &str) {
        let started = self.start(name).await;
        for news in [News::Opened(Ok(vec![])), News::Executed] {
            let (id, launch) = (name.parse().unwrap(), 1);
            self.send(Event::Machine { id, launch, news }).await;
        }
        assert_eq!(answer(started).await, Ok(()));
    }

    async fn state(&self, name: &str) -> Option<MachineState> {
        let list = |reply| Call::List { after: None, reply };
        let all: Page<Machine> = self.ask(list).await;
        let mut all = all.items.into_iter();
        all.find(|machine| machine.id.to_string() == name)
            .map(|machine| machine.state)
    }
}

async fn answer<T>(answer: oneshot::Receiver<T>) -> T {
    let answered = timeout(LONG, answer).await;
    answered.expect("the loop turns no more").unwrap()
}

/// Has `calls` made while the loop of a node turns, which must not end.
async fn while_it_runs(calls: impl AsyncFnOnce(Caller)) {
    let (sender, mut events) = mpsc::channel(8);
    // One that nobody sends: the children of this process are other tests'.
    let mut children = signal(SignalKind::user_defined1()).unwrap();
    let log = Log::default();
    let (screen_events, _) = mpsc::channel(1);
    let mut services = Services::new(log.clone(), None);
    // No daemon is started.
    services.stop();
    let budget = MemoryBudget::new(Bytes(1 << 50));
    let mut node = Node {
        image: String::new(),
        services,
        machines: Machines::new(budget, Faulty, Changes::new()),
        screen: Screen::over(Vec::new(), screen_events, log.clone()),
        tester: Tester::new(sender.clone(), log.clone()),
        last_boot: Default::default(),
        virtualisation: Default::default(),
        modules: None,
        farm: None,
        watchdog: None,
        asked_for_watchdog: false,
        buttons: Buttons::default(),
        log,
        sender: sender.clone(),
        status: None,
        observer: Observer::default(),
        phase: Phase::Up,
    };
    tokio::select! {
        how = node.run(&mut events, &mut children) => panic!("the loop has ended: {how:?}"),
        () = calls(Caller(sender)) => {}
    }
}

#[tokio::test]
async fn an_event_whose_handling_panics_ends_nothing() {
    while_it_runs(async |node: Caller| {
        node.run("1.before").await;
        for _ in 0..3 {
            // What it was about is lost.
            drop(node.start(FAULTY).await);
        }
        assert_eq!(node.state("1.before").await, Some(MachineState::Booting));
        node.run("1.after").await;
    })
    .await;
}

#[tokio::test]
async fn a_panic_when_time_has_passed_ends_nothing() {
    while_it_runs(async |node: Caller| {
        node.run("1.before").await;
        let (id, grace_seconds) = ("1.before".parse().unwrap(), 0);
        let stop = |reply| Call::Stop {
            id,
            grace_seconds,
            reply,
        };
        node.ask(stop).await;
        assert_eq!(node.state("1.before").await, Some(MachineState::Stopping));
        node.run("1.after").await;
    })
    .await;
}

/// There is no group for it where tests run.
#[tokio::test]
async fn a_network_test_that_cannot_be_started_ends_nothing() {
    while_it_runs(async |node: Caller| {
        for _ in 0..3 {
            node.send(Event::Screen(Request::TestNetwork)).await;
            let (test, finding) = (0, None);
            node.send(Event::NetworkTest(network_test::News { test, finding }))
                .await;
        }
        node.run("1.after").await;
    })
    .await;
}

#[test]
fn a_panic_in_a_part_is_survived() {
    assert_eq!(survive("nothing", || -> u8 { panic!("on purpose") }), None);
    assert_eq!(survive("nothing", || 7), Some(7));
}
