use std::os::unix::net::UnixStream as Blocking;

use tokio::task::LocalSet;

use super::*;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// Both ends of a conversation: what the process sees, and what init does.
struct Talk {
    screen: Screen,
    events: mpsc::Receiver<Event>,
    process: BufReader<UnixStream>,
    ours: UnixStream,
}

fn talk() -> Talk {
    let (sender, events) = mpsc::channel(8);
    let (ours, process) = UnixStream::pair().unwrap();
    Talk {
        screen: Screen::over(Vec::new(), sender, Log::default()),
        events,
        process: BufReader::new(process),
        ours,
    }
}

fn facts(image: &str) -> Facts {
    Facts {
        image: image.into(),
        ..Facts::default()
    }
}

async fn next(process: &mut BufReader<UnixStream>) -> Facts {
    let mut line = String::new();
    process.read_line(&mut line).await.unwrap();
    serde_json::from_str(&line).unwrap()
}

async fn say(process: &mut BufReader<UnixStream>, line: &[u8]) {
    process.get_mut().write_all(line).await.unwrap();
}

#[tokio::test]
async fn a_process_hears_the_newest_facts_and_is_heard() {
    let Talk {
        mut screen,
        mut events,
        mut process,
        ours,
    } = talk();
    screen.tell(&facts("first"), Instant::now());
    let init = converse(ours, screen.told.subscribe(), screen.events.clone(), LONG);
    let process = async {
        assert_eq!(next(&mut process).await.image, "first");
        // It is busy with the first meanwhile: of these it hears the last.
        for image in ["second", "third", "third"] {
            screen.tell(&facts(image), Instant::now());
        }
        say(&mut process, b"\"seen\"\n").await;
        assert_eq!(next(&mut process).await.image, "third");
        say(&mut process, b"\"seen\"\n\"power-off\"\n{\"log\":true}\n").await;
        for request in [Request::PowerOff, Request::Log(true)] {
            match events.recv().await {
                Some(Event::Screen(heard)) => assert_eq!(heard, request),
                other => panic!("{other:?}"),
            }
        }
        // Nothing new, nothing told.
        screen.tell(&facts("third"), Instant::now());
        assert!(!screen.told.subscribe().has_changed().unwrap());
        drop(process);
    };
    let (ended, ()) = timeout(LONG, async { tokio::join!(init, process) })
        .await
        .unwrap();
    ended.unwrap();
}

#[tokio::test]
async fn one_that_says_nothing_is_told_from_one_that_does_not_behave_and_both_are_ended() {
    for (said, error) in [
        (&b""[..], "it does not answer"),
        (b"nonsense\n", "it says what makes no sense"),
        (&[b'"'; 9999], "it says what makes no sense"),
    ] {
        let Talk {
            mut screen,
            mut process,
            ours,
            ..
        } = talk();
        screen.tell(&facts(""), Instant::now());
        let patience = match said {
            [] => Duration::from_millis(1),
            _ => LONG,
        };
        say(&mut process, said).await;
        let told = screen.told.subscribe();
        let ended = converse(ours, told, screen.events.clone(), patience).await;
        assert_eq!(ended.unwrap_err().to_string(), error);
    }
}

/// Ten requests at once reach the main loop one after the other, with pauses.
#[tokio::test(start_paused = true)]
async fn a_process_cannot_flood_the_main_loop() {
    let Talk {
        screen,
        mut events,
        mut process,
        ours,
    } = talk();
    say(&mut process, &b"\"reboot\"\n".repeat(10)).await;
    process.get_mut().shutdown().await.unwrap();
    let begin = tokio::time::Instant::now();
    let hear = async { while let Some(Event::Screen(Request::Reboot)) = events.recv().await {} };
    let told = screen.told.subscribe();
    let sender = screen.events.clone();
    let Screen {
        told: _told,
        events: mine,
        ..
    } = screen;
    drop(mine);
    let (ended, ()) = tokio::join!(converse(ours, told, sender, LONG), hear);
    ended.unwrap();
    assert!(begin.elapsed() >= 10 * PAUSE);
}

#[tokio::test]
async fn it_is_started_again_with_pauses_and_not_when_the_node_ends() {
    LocalSet::new()
        .run_until(async {
            let mut screen = talk().screen;
            let (mut now, pid) = (Instant::now(), Pid::INIT);
            assert_eq!((screen.deadline(), screen.pause(now)), (None, None));
            screen.state = State::Running { pid, since: now };
            screen.shows_log = true;
            assert_eq!(screen.pause(now), Some(Duration::ZERO));
            screen.tell(&facts(""), now);
            assert_eq!(screen.pause(now), Some(TURN));
            assert_eq!(screen.pause(now + TURN), Some(Duration::ZERO));
            screen.hurry();
            assert_eq!(screen.pause(now), Some(Duration::ZERO));
            let end = || End::Exited(1);
            assert!(!screen.child_ended(Pid::from_raw(2).unwrap(), end(), now));
            assert!(screen.child_ended(pid, end(), now));
            assert!(!screen.shows_log, "its successor begins with the node");
            assert!(!screen.child_ended(pid, end(), now));
            // There is no such program here: each try fails, and the next waits longer.
            let mut waits = Vec::new();
            for _ in 0..3 {
                let due = screen.deadline().unwrap();
                waits.push(due - now);
                assert_eq!(screen.pause(now), None);
                screen.tick(due - Duration::from_millis(1));
                assert_eq!(screen.deadline(), Some(due));
                now = due;
                screen.tick(now);
            }
            assert!(waits.is_sorted_by(|a, b| a < b), "{waits:?}");
            screen.last_words("over");
            assert_eq!(screen.deadline(), None);
        })
        .await;
}

#[test]
fn what_is_said_in_its_place_stands_on_every_console() {
    let (console, seen) = Blocking::pair().unwrap();
    let mut screen = talk_without_runtime();
    screen.consoles = vec![("tty0".into(), console.into())];
    screen.say("could not be started");
    let mut line = [0; 64];
    let length = std::io::Read::read(&mut &seen, &mut line).unwrap();
    assert_eq!(
        &line[..length],
        b"\x1b[999;1H\x1b[Kcould not be started\r\n"
    );
}

fn talk_without_runtime() -> Screen {
    Screen::over(Vec::new(), mpsc::channel(1).0, Log::default())
}
