//! How a machine ends, and what the VMM is told of it.

use anyhow::ensure;
use loam_node_api::guest::GuestEvent;
use loam_node_api::signal::StopSignal;

use super::{script, started};

fn exited(status: i32) -> GuestEvent {
    GuestEvent::Exited { status }
}

#[test]
fn the_command_s_end_is_told() -> anyhow::Result<()> {
    let guest = started(&script("exit 3")?)?;
    let event = guest.event()?;
    ensure!(event == exited(3), "{event:?}");
    guest.wait_off()?;
    Ok(())
}

#[test]
fn what_cannot_run_is_named() -> anyhow::Result<()> {
    let mut options = script("")?;
    options.config.command = vec!["no-such-program".into()];
    let guest = options.start()?;
    let event = guest.event()?;
    let GuestEvent::Failed { reason } = &event else {
        anyhow::bail!("{event:?}");
    };
    ensure!(reason.contains("no-such-program"), "{reason}");
    guest.wait_off()?;
    Ok(())
}

#[test]
fn a_stop_is_the_signal_that_the_image_names() -> anyhow::Result<()> {
    let text = "trap 'echo got TERM; exit 1' TERM; trap 'echo got QUIT; exit 5' QUIT; echo ready; \
                while :; do sleep 1 & wait $!; done";
    let mut options = script(text)?;
    options.config.stop_signal = Some("SIGQUIT".parse::<StopSignal>()?);
    let guest = started(&options)?;
    guest.wait_said("ready")?;
    guest.ask_stop()?;
    let event = guest.event()?;
    ensure!(event == exited(5), "{event:?}");
    let said = guest.wait_off()?;
    ensure!(
        said.contains("got QUIT") && !said.contains("got TERM"),
        "{said}"
    );
    Ok(())
}

#[test]
fn the_deaf_are_killed_with_all_that_they_started() -> anyhow::Result<()> {
    let text = "trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & echo ready; \
                while :; do sleep 1; done";
    let guest = started(&script(text)?)?;
    guest.wait_said("ready")?;
    guest.ask_stop()?;
    let event = guest.event()?;
    ensure!(event == exited(137), "{event:?}");
    guest.wait_off()?;
    Ok(())
}

#[test]
fn a_machine_can_be_ended_from_inside() -> anyhow::Result<()> {
    for (text, told, said) in [
        ("halt -f", Some(exited(0)), "powered off from inside"),
        ("poweroff -f", Some(exited(0)), "powered off from inside"),
        ("reboot -f", None, "reset from inside"),
    ] {
        let guest = started(&script(&format!("{text}; sleep 1000"))?)?;
        let event = guest.event().ok();
        ensure!(event == told, "{text}: {event:?}");
        let console = guest.wait_off()?;
        ensure!(console.contains(said), "{text}: {console}");
    }
    Ok(())
}
