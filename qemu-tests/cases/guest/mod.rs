//! What a machine finds inside, tried without a node: the guests' kernel and guest init alone
//! (`xtask::qemu::guest`). Seconds each.

mod ends;
mod health;
mod oddities;
mod surroundings;

use anyhow::{Context, ensure};
use qemu_tests::folder;
use xtask::{
    oci::Entry,
    qemu::guest::{Guest, GuestOptions},
};

/// What the scripts use. Debian's static busybox is all the image has.
const APPLETS: [&str; 33] = [
    "cat", "chmod", "cut", "dd", "df", "dmesg", "echo", "env", "false", "grep", "halt", "hostname",
    "id", "kill", "ls", "mkdir", "mknod", "mount", "poweroff", "ps", "readlink", "reboot", "rm",
    "sh", "sleep", "stty", "stat", "sync", "test", "touch", "true", "uname", "wc",
];

/// What all applets are.
fn program() -> anyhow::Result<Vec<u8>> {
    std::fs::read("/bin/busybox")
        .context("reading /bin/busybox, which `cargo xtask setup` installs")
}

/// An image with busybox and `more` over it.
fn busybox(more: Vec<Entry>) -> anyhow::Result<Vec<Entry>> {
    let mut entries = vec![
        Entry::folder("bin"),
        Entry::folder("etc"),
        Entry::folder("lib"),
        Entry::folder("root"),
        Entry::folder("tmp"),
        Entry::file("bin/busybox", 0o755, program()?),
    ];
    let applet = |name: &&str| Entry::symlink(&format!("bin/{name}"), "busybox");
    entries.extend(APPLETS.iter().map(applet));
    entries.extend(more);
    Ok(entries)
}

/// A machine that runs this script.
fn script(text: &str) -> anyhow::Result<GuestOptions> {
    script_over(text, Vec::new())
}

fn script_over(text: &str, more: Vec<Entry>) -> anyhow::Result<GuestOptions> {
    let mut options = GuestOptions::new(
        folder::new("guest")?,
        &busybox(more)?,
        &["/bin/sh", "-c", text],
    )?;
    options.config.env = vec!["PATH=/bin".into()];
    Ok(options)
}

/// Starts the machine with a script that tries these conditions, each with its name, and expects that
/// all hold. Gives what the console has shown.
fn all_hold(options: &mut GuestOptions, checks: &[(&str, &str)]) -> anyhow::Result<String> {
    let mut text = String::from(
        "check() { if eval \"$2\"; then echo \"right: $1\"; else echo \"WRONG: $1\"; fi; }\n",
    );
    for (name, condition) in checks {
        let [name, condition] = [name, condition].map(|text| text.replace('\'', "'\\''"));
        text.push_str(&format!("check '{name}' '{condition}'\n"));
    }
    options.config.command = vec!["/bin/sh".into(), "-c".into(), text];
    let said = options.start()?.wait_off()?;
    for (name, _) in checks {
        ensure!(
            said.contains(&format!("right: {name}")),
            "{name} does not hold; the console:\n{said}"
        );
    }
    Ok(said)
}

/// Waits until the command runs.
fn started(options: &GuestOptions) -> anyhow::Result<Guest> {
    let guest = options.start()?;
    let event = guest.event()?;
    ensure!(
        event == loam_node_api::guest::GuestEvent::Started,
        "{event:?}"
    );
    Ok(guest)
}
