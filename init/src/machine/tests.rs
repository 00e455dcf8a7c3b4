//! [`Machines`] with a launcher that makes no processes, but says what was asked of it.

use std::{cell::RefCell, rc::Rc, time::Duration};

use loam_deployment::report::HealthState;
use loam_node_api::{
    healthcheck::Healthcheck,
    machine::{Boot, Exit},
    page::{MAX_ITEMS, Revision},
    vmm::{VmmEvent, console::RING_OFFSET},
};
use rustix::fd::AsFd;
use tokio::sync::oneshot;

use super::{console::ConsoleRing, fixture::spec, launcher::Order, *};

#[derive(Debug, PartialEq)]
enum Asked {
    Open(String),
    GiveUp(String),
    Launch(String),
    Stop(String),
    Kill(i32),
    Release(String),
}

#[derive(Clone, Debug, Default)]
struct Fake(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    asked: Vec<Asked>,
    orders: Vec<Order>,
    /// What the next opening or launch fails with.
    refuses: Option<String>,
    pids: i32,
}

impl Launcher for Fake {
    fn open(&mut self, order: Order) -> anyhow::Result<()> {
        let mut state = self.0.borrow_mut();
        state.asked.push(Asked::Open(order.spec.id.to_string()));
        state.orders.push(order);
        Ok(())
    }

    fn give_up(&mut self, id: &WorkloadId) {
        self.0
            .borrow_mut()
            .asked
            .push(Asked::GiveUp(id.to_string()));
    }

    fn launch(&mut self, id: &WorkloadId) -> anyhow::Result<Pid> {
        let mut state = self.0.borrow_mut();
        state.asked.push(Asked::Launch(id.to_string()));
        if let Some(what) = state.refuses.take() {
            anyhow::bail!(what);
        }
        state.pids += 1;
        Ok(pid(state.pids))
    }

    fn ask_to_stop(&mut self, id: &WorkloadId) {
        self.0.borrow_mut().asked.push(Asked::Stop(id.to_string()));
    }

    fn kill(&mut self, pid: Pid) {
        let pid = pid.as_raw_nonzero().get();
        self.0.borrow_mut().asked.push(Asked::Kill(pid));
    }

    fn release(&mut self, id: &WorkloadId) {
        self.0
            .borrow_mut()
            .asked
            .push(Asked::Release(id.to_string()));
    }
}

type Answer = oneshot::Receiver<Result<(), MachineError>>;

struct Node {
    machines: Machines<Fake>,
    fake: Fake,
    changes: Changes,
    now: Instant,
}

impl Node {
    fn new() -> Self {
        Self::with_memory(Bytes(1 << 50))
    }

    fn with_memory(memory: Bytes) -> Self {
        let (fake, changes) = (Fake::default(), Changes::new());
        let budget = MemoryBudget::new(memory);
        Self {
            machines: Machines::new(budget, fake.clone(), changes.clone()),
            fake,
            changes,
            now: Instant::now(),
        }
    }

    fn start(&mut self, spec: MachineSpec) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.machines.start(spec, reply, self.now);
        answer
    }

    /// A machine whose VMM runs.
    fn run(&mut self, name: &str) {
        let mut answer = self.start(spec(name));
        self.opened(name, Ok(vec![]));
        self.news(name, News::Executed);
        assert_eq!(answer.try_recv().unwrap(), Ok(()));
    }

    fn news(&mut self, name: &str, news: News) {
        let launch = self.machines.records[&id(name)].launches;
        self.machines.heard(&id(name), launch, news, self.now);
    }

    fn opened(&mut self, name: &str, opened: Result<Vec<DiskIdentity>, String>) {
        self.news(name, News::Opened(opened));
    }

    /// The newest process says `last` and ends.
    fn end(&mut self, name: &str, last: VmmEvent) {
        let pid = self.machines.records[&id(name)].pid().unwrap();
        self.news(name, News::Life(Input::Event(last)));
        self.news(name, News::Life(Input::EventsClosed));
        assert!(self.machines.child_ended(pid, End::Exited(0), self.now));
    }

    fn state(&self, name: &str) -> Option<MachineState> {
        let all = self.machines.list(None, self.now).items;
        let machine = all.into_iter().find(|machine| machine.id == id(name));
        machine.map(|machine| machine.state)
    }

    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.fake.0.borrow_mut().asked)
    }

    /// What the newest process writes to its console.
    fn write(&self, text: &str) {
        let state = self.fake.0.borrow();
        let ring: &ConsoleRing = &state.orders.last().unwrap().console;
        let position = ring.position();
        let write = |bytes: &[u8], at: u64| {
            assert_eq!(rustix::io::pwrite(ring.as_fd(), bytes, at), Ok(bytes.len()));
        };
        write(text.as_bytes(), RING_OFFSET as u64 + position);
        write(&(position + text.len() as u64).to_le_bytes(), 0);
    }
}

fn id(name: &str) -> WorkloadId {
    name.parse().unwrap()
}

fn pid(number: i32) -> Pid {
    Pid::from_raw(number).unwrap()
}

fn failed(what: &str) -> Option<MachineState> {
    Some(MachineState::Exited(Exit::Failed(what.into())))
}

const POWERED_OFF: Option<MachineState> =
    Some(MachineState::Exited(Exit::PoweredOff { status: None }));

const GRACE: Duration = Duration::from_secs(10);

#[test]
fn a_failed_launch_is_answered_and_leaves_nothing() {
    let mut node = Node::new();
    let mut answer = node.start(spec("1.web"));
    assert!(answer.try_recv().is_err(), "it is not yet known");
    node.opened("1.web", Err("no such file".into()));
    let error = answer.try_recv().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "machine 1.web: no such file");
    assert_eq!(node.state("1.web"), None);
    assert_eq!(
        node.asked(),
        [Asked::Open("1.web".into()), Asked::Release("1.web".into())]
    );
}

#[test]
fn a_machine_that_is_started_again_tells_how_it_ended_before() {
    let mut node = Node::new();
    let told = |node: &Node| {
        let machine = node.machines.list(None, node.now).items.remove(0);
        machine.ends.map(|ends| (ends.count, ends.last))
    };
    let status = |status| Exit::PoweredOff { status };
    node.run("1.web");
    assert_eq!(told(&node), None);
    let exited = News::Life(Input::Event(VmmEvent::GuestExited { status: 12 }));
    node.news("1.web", exited);
    node.end("1.web", VmmEvent::PoweredOff);
    assert_eq!(told(&node), None, "this end is its state's");
    node.run("1.web");
    assert_eq!(told(&node), Some((1, status(Some(12)))));
    node.end("1.web", VmmEvent::PoweredOff);
    node.run("1.web");
    assert_eq!(told(&node), Some((2, status(None))));
    let reason = "é".repeat(limits::DETAIL_BYTES);
    node.end("1.web", VmmEvent::Failed { reason });
    let kept = node.machines.records[&id("1.web")].kept();
    node.run("1.web");
    let cut = "é".repeat(limits::DETAIL_BYTES / 2);
    assert_eq!(told(&node), Some((3, Exit::Failed(cut.clone()))));
    node.end("1.web", VmmEvent::PoweredOff);
    // All that is kept is counted.
    let now = node.machines.records[&id("1.web")].kept();
    assert_eq!(kept.get() - now.get(), cut.len() as u64);

    // What could not begin is no life, and what was asked to end did not do so by itself.
    let mut answer = node.start(spec("1.web"));
    node.now += Duration::from_secs(60);
    node.machines.tick(node.now);
    node.opened("1.web", Err("the disk is slow".into()));
    assert_eq!(answer.try_recv().unwrap(), Ok(()));
    node.run("1.web");
    assert_eq!(told(&node), Some((4, status(None))));
    node.machines.stop(&id("1.web"), GRACE, node.now);
    node.end("1.web", VmmEvent::PoweredOff);
    node.run("1.web");
    assert_eq!(told(&node), None);

    // Nor is it another version's.
    node.end("1.web", VmmEvent::PoweredOff);
    let other = MachineSpec {
        fingerprint: "another".into(),
        ..spec("1.web")
    };
    let _answer = node.start(other);
    assert_eq!(told(&node), None);
}

#[test]
fn what_cannot_be_listened_to_is_given_back() {
    let mut node = Node::new();
    let mut answer = node.start(spec("1.web"));
    node.fake.0.borrow_mut().refuses = Some("listening to its events".into());
    node.opened("1.web", Ok(vec![]));
    let error = answer.try_recv().unwrap().unwrap_err().to_string();
    assert!(error.ends_with("listening to its events"), "{error}");
    assert_eq!(node.state("1.web"), None);
    assert_eq!(node.asked().pop(), Some(Asked::Release("1.web".into())));
}

/// Nothing is given back before the child is reaped: its cgroup would be busy.
#[test]
fn a_program_that_cannot_be_executed_is_released_when_it_is_reaped() {
    let mut node = Node::new();
    let mut answer = node.start(spec("1.web"));
    node.opened("1.web", Ok(vec![]));
    node.news(
        "1.web",
        News::Life(Input::Broken("executing it: no".into())),
    );
    assert!(answer.try_recv().is_err());
    assert!(!node.asked().contains(&Asked::Release("1.web".into())));
    node.machines
        .child_ended(pid(1), End::Exited(127), node.now);
    assert!(answer.try_recv().unwrap().is_err());
    assert_eq!(node.asked(), [Asked::Release("1.web".into())]);
}

#[test]
fn a_failed_launch_brings_back_the_one_that_ended() {
    let mut node = Node::new();
    node.run("1.web");
    let failure = VmmEvent::Failed {
        reason: "first".into(),
    };
    node.end("1.web", failure);
    let mut answer = node.start(spec("1.web"));
    assert_eq!(node.state("1.web"), Some(MachineState::Booting));
    node.opened("1.web", Err("no such file".into()));
    assert!(answer.try_recv().unwrap().is_err());
    assert_eq!(node.state("1.web"), failed("first"));
}

#[test]
fn a_slow_launch_shows_in_the_list_and_holds_up_nobody() {
    let mut node = Node::new();
    let mut answer = node.start(spec("1.web"));
    node.run("1.db");
    node.now = node.machines.deadline().unwrap();
    node.machines.tick(node.now);
    assert_eq!(answer.try_recv().unwrap(), Ok(()));
    assert_eq!(node.state("1.web"), Some(MachineState::Booting));
    // But for the other one's boot, which is given its time.
    assert!(node.machines.deadline() > Some(node.now + Duration::from_secs(60)));
    node.opened("1.web", Err("the disk /pools/a/x does not answer".into()));
    let what = "the disk /pools/a/x does not answer".to_owned();
    let expected = MachineState::Exited(Exit::NotStarted(what));
    assert_eq!(node.state("1.web"), Some(expected));
    assert_eq!(node.state("1.db"), Some(MachineState::Booting));
}

#[test]
fn a_stop_during_a_launch_is_kept() {
    let mut node = Node::new();
    let mut answer = node.start(spec("1.web"));
    node.machines.stop(&id("1.web"), GRACE, node.now);
    assert_eq!(node.asked().pop(), Some(Asked::GiveUp("1.web".into())));
    node.opened("1.web", Ok(vec![]));
    assert_eq!(node.asked(), [Asked::Release("1.web".into())]);
    assert!(answer.try_recv().unwrap().is_err());
    assert!(node.machines.all_over());
}

#[test]
fn a_stop_during_a_slow_launch_is_kept() {
    let mut node = Node::new();
    let _answer = node.start(spec("1.web"));
    node.now += GRACE;
    node.machines.tick(node.now);
    node.machines.stop(&id("1.web"), GRACE, node.now);
    assert_eq!(node.state("1.web"), Some(MachineState::Stopping));
    node.now += GRACE;
    node.machines.tick(node.now);
    assert!(!node.machines.all_over(), "its opening has not come back");
    node.opened("1.web", Err("nobody waits".into()));
    assert_eq!(node.state("1.web"), POWERED_OFF);
}

#[test]
fn a_machine_that_resets_gets_another_process_and_old_news_count_for_nothing() {
    let mut node = Node::new();
    node.run("1.web");
    node.asked();
    node.end("1.web", VmmEvent::Reset);
    node.machines.heard(
        &id("1.web"),
        1,
        News::Life(Input::Event(VmmEvent::GuestStarted)),
        node.now,
    );
    node.opened("1.web", Ok(vec![]));
    assert_eq!(
        node.asked(),
        [Asked::Open("1.web".into()), Asked::Launch("1.web".into())]
    );
    assert_eq!(node.state("1.web"), Some(MachineState::Booting));
    assert!(!node.machines.child_ended(pid(1), End::Exited(0), node.now));
    assert!(node.machines.child_ended(pid(2), End::Exited(0), node.now));
    assert!(!node.machines.child_ended(pid(2), End::Exited(0), node.now));
}

#[test]
fn a_relaunch_that_fails_ends_the_machine_with_its_reason() {
    let mut node = Node::new();
    node.run("1.web");
    node.end("1.web", VmmEvent::Reset);
    node.opened("1.web", Err("no such tap".into()));
    assert_eq!(node.state("1.web"), failed("no such tap"));
    assert_eq!(node.asked().pop(), Some(Asked::Release("1.web".into())));
}

#[test]
fn a_disk_has_one_machine_that_writes() {
    let mut node = Node::new();
    let _first = node.start(spec("1.web"));
    let mut second = node.start(spec("1.db"));
    let disk = vec![DiskIdentity::of(7, false)];
    node.opened("1.web", Ok(disk.clone()));
    node.opened("1.db", Ok(disk.clone()));
    let error = second.try_recv().unwrap().unwrap_err().to_string();
    assert!(
        error.ends_with("machine 1.web has one of its disks"),
        "{error}"
    );
    // Between two processes it is still its disk.
    node.end("1.web", VmmEvent::Reset);
    let mut second = node.start(spec("1.db"));
    node.opened("1.db", Ok(disk.clone()));
    assert!(second.try_recv().unwrap().is_err());
    node.opened("1.web", Ok(disk.clone()));
    node.end("1.web", VmmEvent::PoweredOff);
    node.start(spec("1.db"));
    node.opened("1.db", Ok(disk));
    assert_eq!(node.asked().pop(), Some(Asked::Launch("1.db".into())));
}

/// A process that the kernel cannot end may still write.
#[test]
fn what_a_killed_process_does_not_let_go_of_is_nobody_elses() {
    let mut node = Node::new();
    let disk = vec![DiskIdentity::of(7, false)];
    let _first = node.start(spec("1.web"));
    node.opened("1.web", Ok(disk.clone()));
    node.news("1.web", News::Executed);
    node.news("1.web", News::Life(Input::Event(VmmEvent::PoweredOff)));
    node.now = node.machines.deadline().unwrap();
    node.asked();
    node.machines.tick(node.now);
    assert_eq!(node.asked(), [Asked::Kill(1)]);
    let ended = Exit::PoweredOff { status: None };
    assert_eq!(node.state("1.web"), Some(MachineState::Ending(ended)));
    let exists = Err(MachineError::Exists(id("1.web")));
    assert_eq!(node.start(spec("1.web")).try_recv().unwrap(), exists);
    let runs = Err(MachineError::Runs(id("1.web")));
    assert_eq!(node.machines.forget(&id("1.web")), runs);
    let mut second = node.start(spec("1.db"));
    node.opened("1.db", Ok(disk.clone()));
    assert!(second.try_recv().unwrap().is_err());
    // At last.
    node.news("1.web", News::Life(Input::EventsClosed));
    node.machines
        .child_ended(pid(1), End::Signalled(9), node.now);
    assert_eq!(node.state("1.web"), POWERED_OFF);
    let _second = node.start(spec("1.db"));
    node.opened("1.db", Ok(disk));
    assert_eq!(node.asked().pop(), Some(Asked::Launch("1.db".into())));
}

#[test]
fn only_machines_that_have_not_ended_have_a_user() {
    let mut node = Node::new();
    for n in 0..3 {
        node.run(&format!("{}.web", n + 1));
    }
    let users = |node: &Node| -> Vec<u32> {
        let state = node.fake.0.borrow();
        state.orders.iter().map(|order| order.user).collect()
    };
    assert_eq!(users(&node), [FIRST_USER, FIRST_USER + 1, FIRST_USER + 2]);
    node.end("2.web", VmmEvent::PoweredOff);
    node.run("4.web");
    assert_eq!(users(&node)[3], FIRST_USER + 1);
}

#[test]
fn no_two_machines_have_one_user() {
    let mut taken: BTreeSet<_> = (FIRST_USER..FIRST_USER + USERS).collect();
    assert_eq!(free_user(&taken), None);
    taken.remove(&(FIRST_USER + 7));
    assert_eq!(free_user(&taken), Some(FIRST_USER + 7));
    assert_eq!(free_user(&BTreeSet::new()), Some(FIRST_USER));
}

#[test]
fn memory_is_that_of_machines_that_have_not_ended() {
    // One of 128 MiB fits beside the daemons' reserve, two do not.
    let mut node = Node::with_memory(Bytes::mib(256 + 256));
    node.run("1.web");
    let error = node.machines.check(&spec("1.db")).unwrap_err().to_string();
    assert!(error.contains("do not fit"), "{error}");
    assert_eq!(
        node.machines.check(&spec("1.web")),
        Ok(()),
        "as if it had ended"
    );
    assert_eq!(node.state("1.web"), Some(MachineState::Booting));
    node.end("1.web", VmmEvent::PoweredOff);
    assert_eq!(node.machines.check(&spec("1.db")), Ok(()));
}

#[test]
fn a_check_sees_what_is_wrong_and_changes_nothing() {
    let mut node = Node::new();
    let seen = node.changes.now();
    let mut wrong = spec("1.web");
    wrong.cpus = 0;
    assert!(node.machines.check(&wrong).is_err());
    assert_eq!(node.machines.check(&spec("1.web")), Ok(()));
    assert_eq!((node.changes.now(), node.asked().len()), (seen, 0));
    node.machines.stop_all(GRACE, node.now);
    let refused = Err(MachineError::ShuttingDown);
    assert_eq!(node.machines.check(&spec("1.web")), refused);
    assert_eq!(node.start(spec("1.web")).try_recv().unwrap(), refused);
}

#[test]
fn one_that_runs_is_not_replaced_and_one_that_ended_keeps_its_console() {
    let mut node = Node::new();
    node.run("1.web");
    node.write("old ");
    let exists = Err(MachineError::Exists(id("1.web")));
    assert_eq!(node.start(spec("1.web")).try_recv().unwrap(), exists);
    node.end("1.web", VmmEvent::PoweredOff);
    let read = |node: &Node| node.machines.console_read(&id("1.web"), 0).unwrap().bytes;
    assert_eq!(read(&node), b"old ");
    node.run("1.web");
    assert_eq!(
        node.machines.list(None, node.now).items[0].console_position,
        4
    );
    node.write("new");
    assert_eq!(read(&node), b"old new");
}

#[test]
fn ended_machines_keep_the_end_of_their_console_alone() {
    let mut node = Node::new();
    node.run("1.web");
    node.write(&"x".repeat(500 << 10));
    let order = node.fake.0.borrow_mut().orders.pop().unwrap();
    let ring = std::sync::Arc::downgrade(&order.console);
    drop(order);
    assert!(ring.upgrade().is_some());
    node.end("1.web", VmmEvent::PoweredOff);
    assert!(ring.upgrade().is_none(), "its memory is given back");
    let chunk = node.machines.console_read(&id("1.web"), 0).unwrap();
    assert_eq!(
        (chunk.start, chunk.bytes.len()),
        ((500 - 64) << 10, 64 << 10)
    );
    let record = &node.machines.records[&id("1.web")];
    assert_eq!(record.console.kept(), 64 << 10);
}

impl Node {
    /// A machine that writes to its console and does its work.
    fn finish(&mut self, name: &str) {
        self.run(name);
        self.write("done");
        let status = VmmEvent::GuestExited { status: 0 };
        self.news(name, News::Life(Input::Event(status)));
        self.end(name, VmmEvent::PoweredOff);
        self.fake.0.borrow_mut().orders.clear();
    }

    /// Machines that ended, and those of them that have a console.
    fn ended(&self) -> (usize, usize) {
        assert!(self.machines.live.is_empty());
        let records = self.machines.records.values();
        let consoles = records.clone().filter(|record| record.console.kept() > 0);
        let ended = records.filter(|record| {
            let status = Some(0);
            record.life.state() == MachineState::Exited(Exit::PoweredOff { status })
        });
        (ended.count(), consoles.count())
    }

    fn console(&self, name: &str) -> Vec<u8> {
        self.machines.console_read(&id(name), 0).unwrap().bytes
    }
}

/// noded would start it again if it knew of no end.
#[test]
fn too_many_ended_machines_of_a_contract_cost_its_oldest_console_and_no_end() {
    let mut node = Node::new();
    node.finish("2.web");
    for n in 0..=MAX_CONSOLES_OF_CONTRACT {
        node.finish(&format!("1.web{n}"));
    }
    let all = MAX_CONSOLES_OF_CONTRACT + 2;
    assert_eq!(node.ended(), (all, all - 1));
    assert_eq!(node.console("1.web0"), b"");
    assert_eq!(node.console("1.web1"), b"done");
    assert_eq!(node.console("2.web"), b"done");
    let list = node.machines.list(None, node.now).items;
    let oldest = list
        .iter()
        .find(|machine| machine.id == id("1.web0"))
        .unwrap();
    assert_eq!(
        (oldest.fingerprint.as_str(), oldest.console_position),
        ("f", 4)
    );
    // Forgotten when noded says so, and not before.
    node.machines.forget(&id("1.web0")).unwrap();
    assert_eq!(node.state("1.web0"), None);
}

#[test]
fn too_many_ended_machines_of_a_node_cost_consoles_of_whom_has_most() {
    let mut node = Node::new();
    node.finish("7.web");
    for n in 0..20 {
        node.finish(&format!("5.web{n}"));
    }
    for n in 0..MAX_CONSOLES - 20 {
        node.finish(&format!("{}.web", n + 100));
    }
    assert_eq!(node.ended(), (MAX_CONSOLES + 1, MAX_CONSOLES));
    assert_eq!(node.console("7.web"), b"done");
    assert_eq!(node.console("5.web0"), b"");
}

#[test]
fn what_is_known_of_ended_machines_is_counted() {
    // A machine of 128 MiB costs 178, and the daemons and modules have 288: 1 MiB is left beside it.
    let mut node = Node::with_memory(Bytes::mib(288 + 178 + 1));
    let mut n = 0;
    while n < 1000 && node.machines.check(&spec("2.web")).is_ok() {
        n += 1;
        let name = format!("1.job{n}");
        node.run(&name);
        let reason = "x".repeat(4 << 10);
        node.end(&name, VmmEvent::Failed { reason });
    }
    // Each has 2 KiB of reason, and something over 1 KiB for itself.
    assert!((250..350).contains(&n), "{n}");
    let error = node.machines.check(&spec("2.web")).unwrap_err().to_string();
    assert!(error.contains("do not fit"), "{error}");
}

#[test]
fn a_change_of_health_is_told_and_what_says_the_same_is_not() {
    let mut node = Node::new();
    let mut checked = spec("1.web");
    let Boot::Guest(config) = &mut checked.boot;
    config.healthcheck = Some(Healthcheck::new(vec!["/check".into()]));
    let _answer = node.start(checked);
    node.opened("1.web", Ok(vec![]));
    node.news("1.web", News::Executed);
    let health = |node: &Node| {
        let machine = node.machines.list(None, node.now).items.remove(0);
        let told = machine.health?;
        Some((told.health.state, told.output))
    };
    assert_eq!(health(&node), None);
    let say = |node: &mut Node, event| {
        let before = node.changes.now();
        node.news("1.web", News::Life(Input::Event(event)));
        node.changes.now() != before
    };
    let unhealthy = || VmmEvent::GuestHealth {
        healthy: false,
        output: "no".into(),
    };
    assert!(say(&mut node, VmmEvent::GuestStarted));
    assert_eq!(health(&node), Some((HealthState::Starting, String::new())));
    assert!(say(&mut node, unhealthy()));
    assert_eq!(health(&node), Some((HealthState::Unhealthy, "no".into())));
    assert!(!say(&mut node, unhealthy()));
}

#[test]
fn changes_are_told_and_lists_come_in_pages() {
    let mut node = Node::new();
    let mut seen: Revision = node.changes.now();
    let mut changed = |node: &Node| std::mem::replace(&mut seen, node.changes.now()) != seen;
    node.run("1.a");
    assert!(changed(&node));
    node.write("hello");
    node.machines.tick(node.now);
    assert!(!changed(&node), "a console's position is no change");
    node.news("1.a", News::Life(Input::Event(VmmEvent::GuestStarted)));
    assert!(changed(&node));
    node.end("1.a", VmmEvent::PoweredOff);
    assert!(changed(&node));
    node.machines.forget(&id("1.a")).unwrap();
    assert!(changed(&node));
    node.machines.forget(&id("1.a")).unwrap();
    assert!(!changed(&node));

    for n in 0..=MAX_ITEMS {
        node.run(&format!("{}.a", n + 1));
    }
    let page = node.machines.list(None, node.now);
    assert!(page.more);
    let last = page.items.last().map(|machine| machine.id.clone());
    let rest = node.machines.list(last.as_ref(), node.now);
    assert_eq!((rest.items.len(), rest.more), (1, false));
    assert_eq!(page.items.len(), MAX_ITEMS);
}
