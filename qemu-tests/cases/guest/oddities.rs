//! Commands that are a burden to whoever runs them, and surroundings that lack something.

use anyhow::ensure;
use loam_node_api::guest::GuestEvent;
use xtask::oci::Entry;
use xtask::qemu::guest::GuestOptions;

use super::{script, script_over, started};

fn ends_with(options: &GuestOptions, status: i32) -> anyhow::Result<String> {
    let guest = started(options)?;
    let event = guest.event()?;
    ensure!(event == GuestEvent::Exited { status }, "{event:?}");
    guest.wait_off()
}

#[test]
fn orphans_are_no_burden() -> anyhow::Result<()> {
    // Each is left by its parent and becomes a child of the command, which never waits.
    let text = "i=0; while [ $i -lt 2000 ]; do (sleep 0 &) ; i=$((i+1)); done; \
                (trap '' TERM; while :; do sleep 1; done) & exit 7";
    ends_with(&script(text)?, 7)?;
    Ok(())
}

#[test]
fn a_flood_on_the_console_keeps_no_stop_from_coming() -> anyhow::Result<()> {
    let guest = started(&script(
        "trap 'exit 4' TERM; while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done",
    )?)?;
    guest.wait_said("aaaa")?;
    guest.ask_stop()?;
    let event = guest.event()?;
    ensure!(event == GuestEvent::Exited { status: 4 }, "{event:?}");
    guest.wait_off()?;
    Ok(())
}

#[test]
fn a_full_layer_is_told_and_starts_again() -> anyhow::Result<()> {
    let mut options = script("dd if=/dev/zero of=/fill bs=1M 2>/dev/null; sync; exit 0")?;
    options.layer = 24 << 20;
    ends_with(&options, 0)?;
    options.config.hostname = "renamed".into();
    options.config.command = vec!["/bin/sh".into(), "-c".into(), "rm /fill; exit 6".into()];
    ends_with(&options, 6)?;
    Ok(())
}

#[test]
fn without_a_line_to_the_vmm_it_runs_all_the_same() -> anyhow::Result<()> {
    let said = script("echo it runs")?
        .without_agent()
        .start()?
        .wait_off()?;
    ensure!(said.contains("it runs"), "{said}");
    ensure!(said.contains("nobody hears of me"), "{said}");
    Ok(())
}

#[test]
fn an_odd_environment_is_passed_over_by_name() -> anyhow::Result<()> {
    let mut options = script("[ \"$A\" = 2 ] && [ \"$B\" = 'x=y' ] && exit 8")?;
    options.config.env = ["PATH=/bin", "NOVALUE", "A=1", "=x", "B=x=y", "A=2"]
        .map(String::from)
        .to_vec();
    let said = ends_with(&options, 8)?;
    ensure!(said.contains("NOVALUE"), "{said}");
    Ok(())
}

#[test]
fn a_program_is_found_as_container_engines_find_it() -> anyhow::Result<()> {
    let text = "#!/bin/sh\necho as $0 by $(id -u):$(id -g) in $(pwd)\nexit 9\n";
    let app = vec![
        Entry::folder("app"),
        Entry::folder("app/bin"),
        Entry::file("app/bin/run.sh", 0o755, text),
    ];
    let mut options = script_over("", app)?;
    options.config.command = vec!["run.sh".into()];
    options.config.env = vec!["PATH=bin:/bin".into()];
    options.config.working_dir = "/app".into();
    // Nobody by name: the image has no /etc/passwd.
    options.config.user = "65532:65533".into();
    let said = ends_with(&options, 9)?;
    ensure!(said.contains("by 65532:65533 in /app"), "{said}");
    Ok(())
}
