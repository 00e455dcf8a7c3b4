use loam_node_api::network_test::{Outcome, Step};
use rustix::process::{WaitOptions, waitpid};
use tokio::{task::LocalSet, time::timeout};

use super::*;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

const LINK: &str = r#"{"step":"link","outcome":{"fine":"eth0 is up"},"took":null}"#;

fn tester() -> (Tester, mpsc::Receiver<Event>) {
    let (sender, events) = mpsc::channel(2 * MAX_FINDINGS);
    (Tester::new(sender, Log::default()), events)
}

/// Begins a test that this shell script does.
fn start(tester: &mut Tester, script: &str, now: Instant) -> Pid {
    let arguments = ["sh", "-c", script].map(|word| CString::new(word).unwrap());
    tester
        .start(c"/bin/sh", arguments.into(), None, now)
        .unwrap()
}

/// As the main loop would, until there is nothing more to read.
async fn hear_all(tester: &mut Tester, events: &mut mpsc::Receiver<Event>) {
    loop {
        let event = timeout(LONG, events.recv()).await.unwrap();
        let Some(Event::NetworkTest(news)) = event else {
            panic!("{event:?}");
        };
        let last = news.finding.is_none();
        tester.heard(news);
        if last {
            return;
        }
    }
}

fn reap(pid: Pid) -> End {
    let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
    match status.exit_status() {
        Some(status) => End::Exited(status),
        None => End::Signalled(status.terminating_signal().unwrap()),
    }
}

fn state(tester: &Tester) -> TestState {
    tester.told().unwrap().state.clone()
}

fn broke_off(tester: &Tester, why: &str) -> bool {
    matches!(state(tester), TestState::BrokeOff(said) if said.contains(why))
}

#[tokio::test]
async fn what_it_finds_out_is_told_as_it_comes_and_its_end_too() {
    LocalSet::new()
        .run_until(async {
            let (mut tester, mut events) = tester();
            assert_eq!((tester.told(), tester.deadline()), (None, None));
            let now = Instant::now();
            let pid = start(&mut tester, &format!("echo '{LINK}' >&3"), now);
            assert_eq!(state(&tester), TestState::Running);
            assert_eq!(tester.deadline(), Some(now + PATIENCE));
            // Another is not begun beside it.
            tester.begin(now);
            assert_eq!(tester.process.as_ref().unwrap().pid, pid);

            hear_all(&mut tester, &mut events).await;
            let found = &tester.told().unwrap().findings;
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].step, Step::Link);
            assert_eq!(found[0].outcome, Outcome::Fine("eth0 is up".into()));
            assert_eq!(state(&tester), TestState::Running);

            let end = reap(pid);
            assert!(!tester.child_ended(Pid::INIT, end));
            assert!(tester.child_ended(pid, end));
            assert!(!tester.child_ended(pid, end));
            assert_eq!(state(&tester), TestState::Done);
            assert_eq!(tester.deadline(), None);
        })
        .await;
}

#[tokio::test]
async fn an_end_that_is_known_before_the_findings_waits_for_them() {
    LocalSet::new()
        .run_until(async {
            let (mut tester, mut events) = tester();
            let script = format!("echo '{LINK}' >&3; exit 7");
            let pid = start(&mut tester, &script, Instant::now());
            let end = reap(pid);
            assert!(tester.child_ended(pid, end));
            assert_eq!(state(&tester), TestState::Running);
            hear_all(&mut tester, &mut events).await;
            assert_eq!(tester.told().unwrap().findings.len(), 1);
            assert!(broke_off(&tester, "exited with status 7"));
        })
        .await;
}

#[tokio::test]
async fn one_that_takes_too_long_is_killed_and_the_next_begins_when_it_is_gone() {
    LocalSet::new()
        .run_until(async {
            let (mut tester, mut events) = tester();
            let now = Instant::now();
            let script = format!("echo '{LINK}' >&3; exec sleep 600");
            let pid = start(&mut tester, &script, now);
            let Some(Event::NetworkTest(first)) = timeout(LONG, events.recv()).await.unwrap()
            else {
                panic!();
            };
            tester.heard(first);
            tester.tick(now + PATIENCE - Duration::from_millis(1));
            assert_eq!(state(&tester), TestState::Running);
            tester.tick(now + PATIENCE);
            assert!(broke_off(&tester, "too long"));
            assert_eq!(tester.told().unwrap().findings.len(), 1);
            // It is killed once, and does not keep the main loop from sleeping.
            assert_eq!(tester.deadline(), None);
            tester.tick(now + 2 * PATIENCE);
            tester.begin(now);
            assert!(broke_off(&tester, "too long"), "it may not be gone yet");

            let end = reap(pid);
            assert_eq!(end, End::Signalled(Signal::KILL.as_raw()));
            assert!(tester.child_ended(pid, end));
            assert!(broke_off(&tester, "too long"));
            let next = start(&mut tester, "true", now);
            // What is left of the first is none of the second's.
            while let Ok(Some(Event::NetworkTest(news))) =
                timeout(Duration::from_millis(200), events.recv()).await
            {
                tester.heard(news);
            }
            assert!(tester.told().unwrap().findings.is_empty());
            assert!(tester.child_ended(next, reap(next)));
            assert_eq!(state(&tester), TestState::Done);
        })
        .await;
}

/// Its pipe is held open by a process that it left behind: the number may be another's by then, and is not signalled.
#[tokio::test]
async fn a_pipe_that_stays_open_is_not_waited_for_longer_than_the_test_may_take() {
    LocalSet::new()
        .run_until(async {
            let (mut tester, _events) = tester();
            let now = Instant::now();
            let pid = start(&mut tester, "true", now);
            tester.child_ended(pid, reap(pid));
            assert_eq!(state(&tester), TestState::Running);
            assert_eq!(tester.deadline(), Some(now + PATIENCE));
            tester.tick(now + PATIENCE);
            assert!(broke_off(&tester, "too long"));
            assert!(tester.process.is_none());
        })
        .await;
}

#[tokio::test]
async fn nonsense_is_passed_over_and_a_flood_is_not_read() {
    LocalSet::new()
        .run_until(async {
            let (mut tester, mut events) = tester();
            let long = r#"{"step":"link","outcome":{"fine":""#.to_owned() + &"x".repeat(5000);
            let script = format!(
                "echo nonsense >&3; echo '{long}\"}},\"took\":null}}' >&3; while echo '{LINK}' >&3; do :; done 2>/dev/null"
            );
            let pid = start(&mut tester, &script, Instant::now());
            hear_all(&mut tester, &mut events).await;
            let found = tester.told().unwrap().findings.clone();
            assert_eq!(found.len(), MAX_FINDINGS - 1);
            match &found[0].outcome {
                Outcome::Fine(text) => assert_eq!(text.len(), 1024),
                other => panic!("{other:?}"),
            }
            // The pipe is closed, so that it ends by itself.
            assert!(tester.child_ended(pid, reap(pid)));
            assert_ne!(state(&tester), TestState::Running);
        })
        .await;
}

/// There is no such program, or no such group, where tests run.
#[tokio::test]
async fn one_that_cannot_be_started_is_told_and_can_be_asked_for_again() {
    LocalSet::new()
        .run_until(async {
            let (mut tester, mut events) = tester();
            for _ in 0..2 {
                let arguments = vec![c"nothing".to_owned()];
                let started = tester.start(c"/nowhere/at-all", arguments, None, Instant::now());
                let pid = started.unwrap();
                hear_all(&mut tester, &mut events).await;
                assert!(tester.child_ended(pid, reap(pid)));
                assert!(broke_off(&tester, "status 127"));
            }
        })
        .await;
}
