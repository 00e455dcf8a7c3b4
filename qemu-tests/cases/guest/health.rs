//! What runs beside the command: health checks, and the terminal's size.

use std::time::Duration;

use anyhow::ensure;
use loam_node_api::{
    guest::{GuestEvent, GuestRequest},
    healthcheck::Healthcheck,
    window::WindowSize,
};

use super::{script, started};

#[test]
fn a_check_runs_beside_the_command_and_is_told_once() -> anyhow::Result<()> {
    let mut options = script("trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done")?;
    let second = Duration::from_secs(1);
    options.config.user = "1000:1000".into();
    let check = "echo as $(id -u) beside $(cat /proc/1/comm); exit 1";
    options.config.healthcheck = Some(Healthcheck {
        interval: second,
        start_interval: second,
        retries: 2,
        ..Healthcheck::new(["/bin/sh", "-c", check].map(String::from).to_vec())
    });
    let guest = started(&options)?;
    let event = guest.event()?;
    let GuestEvent::Health {
        healthy: false,
        output,
    } = &event
    else {
        anyhow::bail!("{event:?}");
    };
    ensure!(output.contains("as 1000 beside sh"), "{output}");
    guest.ask_stop()?;
    // Nothing more is told of the check, and it holds nothing up.
    let event = guest.event()?;
    ensure!(event == GuestEvent::Exited { status: 0 }, "{event:?}");
    guest.wait_off()?;
    Ok(())
}

#[test]
fn the_terminal_is_as_large_as_it_is_shown() -> anyhow::Result<()> {
    let text = "trap 'echo the size is $(stty size)' WINCH; echo ready; \
                trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";
    let guest = started(&script(text)?)?;
    guest.wait_said("ready")?;
    guest.ask(&GuestRequest::ConsoleSize {
        size: WindowSize {
            rows: 33,
            columns: 111,
        },
    })?;
    guest.wait_said("the size is 33 111")?;
    guest.ask_stop()?;
    guest.wait_off()?;
    Ok(())
}
