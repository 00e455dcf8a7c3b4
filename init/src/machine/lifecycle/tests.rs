use super::*;
use loam_deployment::report::HealthState;
use loam_node_api::guest::MAX_CHECK_OUTPUT;
use proptest::prelude::*;

const ENDED: Input = Input::ProcessEnded(End::Exited(0));

fn running() -> (Lifecycle, Instant) {
    let now = Instant::now();
    let mut life = Lifecycle::new(OnReset::Restart, true);
    launch(&mut life, now);
    life.step(now, Input::Event(VmmEvent::Started));
    assert_eq!(life.state(), MachineState::Booting);
    life.step(now, Input::Event(VmmEvent::GuestStarted));
    assert_eq!(life.state(), MachineState::Running);
    (life, now)
}

/// What it needs is open, and its process is there.
fn launch(life: &mut Lifecycle, now: Instant) {
    assert_eq!(life.step(now, Input::Opened), Some(Action::Launch));
    assert_eq!(life.step(now, Input::Launched), None);
}

/// The process says `last` and ends.
fn end(life: &mut Lifecycle, now: Instant, last: VmmEvent) -> Option<Action> {
    life.step(now, Input::Event(last));
    assert_eq!(
        life.step(now, ENDED),
        None,
        "its pipe is not yet read to the end"
    );
    life.step(now, Input::EventsClosed)
}

fn health(healthy: bool) -> Input {
    let output = "no\u{1b}[2J€".repeat(1000);
    Input::Event(VmmEvent::GuestHealth { healthy, output })
}

fn exit(life: &Lifecycle) -> Exit {
    match life.state() {
        MachineState::Exited(exit) => exit,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_that_hangs_in_its_boot_has_failed() {
    let launched = || {
        let now = Instant::now();
        let mut life = Lifecycle::new(OnReset::Restart, true);
        launch(&mut life, now);
        assert_eq!(life.deadline(), Some(now + BOOTS));
        (life, now)
    };
    let (mut life, now) = launched();
    life.step(now, Input::Event(VmmEvent::Started));
    let by = now + BOOTS;
    assert_eq!(life.step(by - Duration::from_millis(1), Input::Tick), None);
    assert_eq!(life.step(by, Input::Tick), Some(Action::Kill));
    assert_eq!(life.deadline(), Some(by + LETS_GO));
    assert_eq!(life.step(by, ENDED), Some(Action::Release));
    let Exit::Failed(why) = exit(&life) else {
        panic!("it has not failed");
    };
    assert!(why.contains("10 minutes"), "{why}");

    // Whoever has begun to set itself up may take as long as its disks do.
    for word in [VmmEvent::GuestBooted, VmmEvent::GuestStarted] {
        let (mut life, now) = launched();
        life.step(now, Input::Event(word));
        assert_eq!(life.deadline(), None);
        assert_eq!(life.step(now + 2 * BOOTS, Input::Tick), None);
    }

    // One that is on its way out is not waited for.
    let (mut life, now) = launched();
    life.step(now, Input::Event(VmmEvent::Reset));
    assert_eq!(life.deadline(), Some(now + LETS_GO));
}

#[test]
fn powers_off_with_its_commands_status() {
    let (mut life, now) = running();
    life.step(now, Input::Event(VmmEvent::GuestExited { status: 3 }));
    assert_eq!(
        end(&mut life, now, VmmEvent::PoweredOff),
        Some(Action::Release)
    );
    assert_eq!(exit(&life), Exit::PoweredOff { status: Some(3) });
}

/// The guest starts another kernel, in the same process.
#[test]
fn how_one_life_of_a_guest_ended_is_not_how_the_next_ends() {
    let exited = |status| VmmEvent::GuestExited { status };
    let reason = "no disk web".to_owned();
    let first_ends = [exited(0), exited(3), VmmEvent::GuestFailed { reason }];
    for first in first_ends {
        for second in [None, Some(0), Some(7)] {
            let (mut life, now) = running();
            life.step(now, Input::Event(first.clone()));
            life.step(now, Input::Event(VmmEvent::GuestStarted));
            assert_eq!(life.state(), MachineState::Running);
            if let Some(status) = second {
                life.step(now, Input::Event(exited(status)));
            }
            end(&mut life, now, VmmEvent::PoweredOff);
            assert_eq!(exit(&life), Exit::PoweredOff { status: second });
        }
    }
}

#[test]
fn how_a_guest_ended_is_forgotten_over_a_reset() {
    let (mut life, now) = running();
    life.step(now, Input::Event(VmmEvent::GuestExited { status: 0 }));
    assert_eq!(end(&mut life, now, VmmEvent::Reset), Some(Action::Open));
    launch(&mut life, now);
    assert_eq!(life.state(), MachineState::Booting);
    end(&mut life, now, VmmEvent::PoweredOff);
    assert_eq!(exit(&life), Exit::PoweredOff { status: None });
}

/// The order to stop is the machine's, not that of one life: another kernel does not get out of it.
#[test]
fn a_stop_outlives_the_life_in_which_it_was_asked() {
    let (mut life, now) = running();
    let grace = Duration::from_secs(10);
    life.step(now, Input::Stop { grace });
    life.step(now, Input::Event(VmmEvent::GuestExited { status: 0 }));
    life.step(now, Input::Event(VmmEvent::GuestStarted));
    assert_eq!(life.state(), MachineState::Stopping);
    assert_eq!(life.deadline(), Some(now + grace));
    assert_eq!(life.step(now + grace, Input::Tick), Some(Action::Kill));
}

#[test]
fn events_may_be_read_after_the_process_was_reaped() {
    let (mut life, now) = running();
    assert_eq!(life.step(now, ENDED), None);
    life.step(now, Input::Event(VmmEvent::PoweredOff));
    assert_eq!(life.step(now, Input::EventsClosed), Some(Action::Release));
    assert_eq!(exit(&life), Exit::PoweredOff { status: None });
}

#[test]
fn a_guest_that_could_not_be_set_up_has_failed() {
    let (mut life, now) = running();
    life.step(
        now,
        Input::Event(VmmEvent::GuestFailed {
            reason: "no disk web".into(),
        }),
    );
    end(&mut life, now, VmmEvent::PoweredOff);
    assert_eq!(
        exit(&life),
        Exit::Failed("the guest could not be set up: no disk web".into())
    );
}

#[test]
fn a_vmm_that_dies_silently_has_failed() {
    let (mut life, now) = running();
    life.step(now, Input::EventsClosed);
    life.step(now, Input::ProcessEnded(End::Signalled(9)));
    assert_eq!(
        exit(&life),
        Exit::Failed("the VMM was killed by signal 9 without saying why".into())
    );
}

#[test]
fn stop_is_asked_then_forced() {
    let (mut life, now) = running();
    let grace = Duration::from_secs(10);
    assert_eq!(
        life.step(now, Input::Stop { grace }),
        Some(Action::AskToStop)
    );
    assert_eq!(life.state(), MachineState::Stopping);
    assert_eq!(life.deadline(), Some(now + grace));
    assert_eq!(life.step(now + grace / 2, Input::Tick), None);
    assert_eq!(life.step(now + grace, Input::Tick), Some(Action::Kill));
    assert_eq!(life.step(now + grace, Input::Tick), None);
    life.step(now + grace, Input::EventsClosed);
    life.step(now + grace, Input::ProcessEnded(End::Signalled(9)));
    assert_eq!(exit(&life), Exit::Killed);
}

#[test]
fn a_second_stop_only_shortens_the_grace() {
    let (mut life, now) = running();
    life.step(
        now,
        Input::Stop {
            grace: Duration::from_secs(10),
        },
    );
    assert_eq!(
        life.step(
            now,
            Input::Stop {
                grace: Duration::from_secs(99)
            }
        ),
        None
    );
    assert_eq!(life.deadline(), Some(now + Duration::from_secs(10)));
    life.step(
        now,
        Input::Stop {
            grace: Duration::ZERO,
        },
    );
    assert_eq!(life.step(now, Input::Tick), Some(Action::Kill));
}

#[test]
fn a_guest_that_resets_instead_of_stopping_stays_down() {
    let (mut life, now) = running();
    life.step(
        now,
        Input::Stop {
            grace: Duration::from_secs(10),
        },
    );
    assert_eq!(end(&mut life, now, VmmEvent::Reset), Some(Action::Release));
    assert_eq!(exit(&life), Exit::PoweredOff { status: None });
}

#[test]
fn a_reset_starts_it_again() {
    let (mut life, now) = running();
    assert_eq!(end(&mut life, now, VmmEvent::Reset), Some(Action::Open));
    launch(&mut life, now);
    assert_eq!(life.state(), MachineState::Booting);
    assert_eq!(life.resets(), 1);
}

/// A machine that shall run once runs once.
#[test]
fn a_reset_ends_what_is_not_to_be_started_again() {
    let (_, now) = running();
    let mut life = Lifecycle::new(OnReset::End, true);
    launch(&mut life, now);
    life.step(now, Input::Event(VmmEvent::GuestStarted));
    assert_eq!(end(&mut life, now, VmmEvent::Reset), Some(Action::Release));
    assert_eq!(
        exit(&life),
        Exit::Failed("the guest has reset itself".into())
    );
    assert_eq!(life.resets(), 0);
}

#[test]
fn a_reset_loop_slows_down_and_is_never_given_up() {
    let (mut life, mut now) = running();
    let mut pauses = Vec::new();
    for n in 1..=100 {
        let action = end(&mut life, now, VmmEvent::Reset);
        match life.deadline() {
            None => assert_eq!(action, Some(Action::Open)),
            Some(at) => {
                assert_eq!(action, None);
                pauses.push(at.duration_since(now).as_secs());
                now = at;
                assert_eq!(life.step(now, Input::Tick), Some(Action::Open));
            }
        }
        launch(&mut life, now);
        assert_eq!(life.resets(), n);
    }
    assert_eq!(pauses[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(pauses.last(), Some(&60));
}

#[test]
fn rare_resets_are_not_a_loop() {
    let (mut life, mut now) = running();
    for n in 1..50 {
        now += HEALTHY;
        assert_eq!(end(&mut life, now, VmmEvent::Reset), Some(Action::Open));
        launch(&mut life, now);
        assert_eq!(life.resets(), n);
    }
}

#[test]
fn stop_between_two_processes_ends_it_at_once() {
    let (mut life, now) = running();
    end(&mut life, now, VmmEvent::Reset);
    launch(&mut life, now);
    assert_eq!(end(&mut life, now, VmmEvent::Reset), None, "it waits");
    assert_eq!(
        life.step(now, Input::Stop { grace: HEALTHY }),
        Some(Action::Release)
    );
}

#[test]
fn a_stop_while_it_is_opened_is_kept() {
    for opened in [Input::Opened, Input::LaunchFailed("no disk".into())] {
        let now = Instant::now();
        let mut life = Lifecycle::new(OnReset::Restart, true);
        let grace = Duration::from_secs(5);
        assert_eq!(life.step(now, Input::Stop { grace }), Some(Action::GiveUp));
        assert_eq!(life.state(), MachineState::Stopping);
        assert_eq!(life.step(now, opened), Some(Action::Release));
        assert_eq!(exit(&life), Exit::PoweredOff { status: None });
    }
}

#[test]
fn what_cannot_be_opened_has_failed() {
    let mut life = Lifecycle::new(OnReset::Restart, true);
    let what = Input::LaunchFailed("no disk".into());
    assert_eq!(life.step(Instant::now(), what), Some(Action::Release));
    assert_eq!(exit(&life), Exit::NotStarted("no disk".into()));
}

/// Whoever wants it to run once at most must know that it has.
#[test]
fn what_cannot_be_opened_anew_after_a_reset_has_run() {
    let (mut life, now) = running();
    end(&mut life, now, VmmEvent::Reset);
    assert_eq!(life.state(), MachineState::Booting);
    let what = Input::LaunchFailed("no disk".into());
    assert_eq!(life.step(now, what), Some(Action::Release));
    assert_eq!(exit(&life), Exit::Failed("no disk".into()));
}

#[test]
fn a_reason_is_bounded_and_plain() {
    let (mut life, now) = running();
    let reason = "\u{1}€".repeat(MAX_REASON);
    end(&mut life, now, VmmEvent::Failed { reason });
    match exit(&life) {
        Exit::Failed(reason) => {
            assert!(reason.len() <= MAX_REASON);
            assert!(reason.starts_with(" € €"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flood_of_events_gets_it_killed() {
    let (mut life, now) = running();
    let killed = (0..=MAX_EVENTS).find_map(|_| life.step(now, Input::Event(VmmEvent::Started)));
    assert_eq!(killed, Some(Action::Kill));
    assert_eq!(
        life.step(now, Input::ProcessEnded(End::Signalled(9))),
        Some(Action::Release)
    );
    assert!(matches!(exit(&life), Exit::Failed(_)));
}

#[test]
fn health_is_that_of_the_command_that_runs() {
    let (mut life, now) = running();
    let told = |life: &Lifecycle| {
        let health = life.health()?;
        Some((health.state, health.since - now))
    };
    let after = Duration::from_secs;
    assert_eq!(told(&life), Some((HealthState::Starting, after(0))));
    life.step(now + after(5), health(true));
    assert_eq!(told(&life), Some((HealthState::Healthy, after(5))));
    // The same again is no change.
    life.step(now + after(6), health(true));
    assert_eq!(told(&life), Some((HealthState::Healthy, after(5))));
    assert_eq!(life.health().unwrap().output, "");
    life.step(now + after(7), health(false));
    assert_eq!(told(&life), Some((HealthState::Unhealthy, after(7))));
    let output = &life.health().unwrap().output;
    assert!(output.len() <= MAX_CHECK_OUTPUT && !output.contains(char::is_control));
    assert!(output.starts_with("no [2J€no"), "{output}");
    // Another life of the guest begins anew.
    life.step(now + after(8), Input::Event(VmmEvent::GuestStarted));
    assert_eq!(told(&life), Some((HealthState::Starting, after(8))));
    let grace = after(10);
    life.step(now + after(9), Input::Stop { grace });
    assert_eq!(told(&life), None);
}

#[test]
fn who_has_no_check_or_does_not_run_has_no_health() {
    let now = Instant::now();
    for has_check in [false, true] {
        let mut life = Lifecycle::new(OnReset::Restart, has_check);
        life.step(now, health(true));
        launch(&mut life, now);
        life.step(now, health(true));
        assert_eq!(life.health(), None);
        life.step(now, Input::Event(VmmEvent::GuestStarted));
        life.step(now, health(false));
        assert_eq!(life.health().is_some(), has_check);
    }
}

/// As often as an honest VMM passes it on, and as often as only another would.
#[test]
fn health_that_changes_for_ever_is_heard_at_its_pace_and_a_flood_is_not() {
    let (mut life, now) = running();
    let at = |n: u64, pause: u64| now + Duration::from_secs(n * pause);
    for n in 0..10_000 {
        assert_eq!(life.step(at(n, 30), health(n % 2 == 0)), None);
    }
    let later = at(10_000, 30);
    let killed = (0..=u64::from(MAX_EVENTS) + 1)
        .find_map(|n| life.step(later + Duration::from_secs(n / 4), health(true)));
    assert_eq!(killed, Some(Action::Kill));
}

/// Its last word is known, and the kernel waits for a disk before it lets go of the process.
#[test]
fn a_process_that_stays_after_its_last_word_is_killed_and_shown_as_ending() {
    for (last, exit) in [
        (VmmEvent::PoweredOff, Exit::PoweredOff { status: Some(0) }),
        (
            VmmEvent::Failed {
                reason: "KVM".into(),
            },
            Exit::Failed("KVM".into()),
        ),
    ] {
        let (mut life, now) = running();
        life.step(now, Input::Event(VmmEvent::GuestExited { status: 0 }));
        life.step(now, Input::Event(last));
        assert_eq!(life.state(), MachineState::Running, "it is about to go");
        assert_eq!(life.deadline(), Some(now + LETS_GO));
        assert_eq!(life.step(now + LETS_GO / 2, Input::Tick), None);
        let late = now + LETS_GO;
        assert_eq!(life.step(late, Input::Tick), Some(Action::Kill));
        assert_eq!(life.state(), MachineState::Ending(exit.clone()));
        assert_eq!((life.is_over(), life.deadline()), (false, None));
        assert_eq!(life.step(late + HEALTHY, Input::Tick), None);
        life.step(late + HEALTHY, Input::EventsClosed);
        let end = Input::ProcessEnded(End::Signalled(9));
        assert_eq!(life.step(late + HEALTHY, end), Some(Action::Release));
        assert_eq!(life.state(), MachineState::Exited(exit));
    }
}

#[test]
fn a_process_that_stays_after_a_reset_has_no_successor_before_it_is_gone() {
    let (mut life, now) = running();
    life.step(now, Input::Event(VmmEvent::Reset));
    let late = now + LETS_GO;
    assert_eq!(life.step(late, Input::Tick), Some(Action::Kill));
    assert!(matches!(life.state(), MachineState::Ending(_)));
    assert_eq!(life.step(late + HEALTHY, Input::EventsClosed), None);
    let end = Input::ProcessEnded(End::Signalled(9));
    assert_eq!(life.step(late + HEALTHY, end), Some(Action::Open));
}

#[test]
fn a_process_that_stays_after_it_was_killed_is_shown_as_ending() {
    let (mut life, now) = running();
    let grace = Duration::ZERO;
    life.step(now, Input::Stop { grace });
    assert_eq!(life.step(now, Input::Tick), Some(Action::Kill));
    assert_eq!(life.state(), MachineState::Stopping);
    assert_eq!(life.deadline(), Some(now + LETS_GO));
    life.step(now + LETS_GO, Input::Tick);
    assert_eq!(life.state(), MachineState::Ending(Exit::Killed));
}

#[test]
fn a_vmm_that_closes_its_pipe_and_stays_is_killed() {
    let (mut life, now) = running();
    assert_eq!(life.step(now, Input::EventsClosed), None);
    assert_eq!(life.step(now + LETS_GO, Input::Tick), Some(Action::Kill));
    let end = Input::ProcessEnded(End::Signalled(9));
    assert_eq!(life.step(now + LETS_GO, end), Some(Action::Release));
    assert!(matches!(exit(&life), Exit::Failed(_)));
}

#[test]
fn a_pipe_that_outlives_its_process_is_not_waited_for() {
    let (mut life, now) = running();
    life.step(now, Input::Event(VmmEvent::PoweredOff));
    assert_eq!(life.step(now, ENDED), None);
    assert_eq!(life.step(now + LETS_GO, Input::Tick), Some(Action::Release));
    assert_eq!(exit(&life), Exit::PoweredOff { status: None });
}

fn inputs() -> impl Strategy<Value = Input> {
    prop_oneof![
        Just(Input::Opened),
        Just(Input::Launched),
        Just(Input::LaunchFailed("no".into())),
        Just(Input::Event(VmmEvent::GuestStarted)),
        Just(Input::Event(VmmEvent::PoweredOff)),
        Just(Input::Event(VmmEvent::Reset)),
        Just(Input::Event(VmmEvent::GuestExited { status: 1 })),
        any::<bool>().prop_map(health),
        Just(Input::Broken("no".into())),
        Just(Input::EventsClosed),
        Just(Input::ProcessEnded(End::Exited(0))),
        (0u64..20).prop_map(|s| Input::Stop {
            grace: Duration::from_secs(s)
        }),
        Just(Input::Tick),
    ]
}

proptest! {
    /// Whatever happens in whatever order: an end is final, is released once, and stays.
    #[test]
    fn an_end_is_final(steps in prop::collection::vec((inputs(), 0u64..20), 0..60)) {
        let mut life = Lifecycle::new(OnReset::Restart, true);
        let mut now = Instant::now();
        let mut released = 0;
        let mut last = None;
        for (input, seconds) in steps {
            now += Duration::from_secs(seconds);
            let action = life.step(now, input);
            released += u32::from(action == Some(Action::Release));
            if let Some(before) = &last {
                prop_assert_eq!(before, &life.state());
                prop_assert_eq!(action, None);
            }
            if life.is_over() {
                last = Some(life.state());
                prop_assert_eq!(life.deadline(), None);
            }
        }
        prop_assert_eq!(released, u32::from(life.is_over()));
    }
}
