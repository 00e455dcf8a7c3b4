//! Ordinary software in machines: images made of Debian's packages, each with a script that tries what
//! people use it for. Each row of the table has a machine of its own, without a node; two also run on a
//! node, for the VMM and the way from a registry.

mod table;

use anyhow::{Context, bail, ensure};
use loam_deployment::report::{Report, Verdict};
use loam_node_api::path::TENANT_PORT;
use qemu_tests::{folder, grid::Grid, node::Node, tenant::Tenant, wait::wait_for};
use xtask::qemu::guest::GuestOptions;

use table::Software;

/// `name => ROW` makes a test of each row.
macro_rules! alone {
    ($($(#[$how:meta])* $name:ident => $row:ident),+ $(,)?) => {$(
        #[test]
        $(#[$how])*
        fn $name() -> anyhow::Result<()> {
            run_alone(&table::$row)
        }
    )+};
}

alone! {
    // Of every day: a supervisor, a server, and what writes. systemd takes longer than a case of every day may.
    s6 => S6,
    nginx => NGINX,
    redis => REDIS,
    #[ignore = "slow"]
    systemd => SYSTEMD,
    #[ignore = "slow"] postgresql => POSTGRESQL,
    #[ignore = "slow"] mariadb => MARIADB,
    #[ignore = "slow"] rabbitmq => RABBITMQ,
    #[ignore = "slow"] openssh_and_cron => OPENSSH,
    #[ignore = "slow"] podman => PODMAN,
    #[ignore = "slow"] wireguard_and_firewalls => NETWORKS,
    #[ignore = "slow"] file_systems => FILE_SYSTEMS,
    #[ignore = "slow"] java_node_python_go => LANGUAGES,
    #[ignore = "slow"] check_scripts_of_docker_and_lxc => CHECK_SCRIPTS,
}

fn run_alone(software: &Software) -> anyhow::Result<()> {
    let mut options = GuestOptions::of_layer(folder::new("guest")?, &software.image.layer()?)?;
    if let Some(path) = software.volume {
        options = options.volume(path, Some("ext4"), 4 << 30)?;
    }
    options.memory = software.memory;
    options.layer = 8 << 30;
    let run = software.image.run()?;
    options.config.command = [run.entrypoint, run.cmd].concat();
    options.config.env = run.env;
    options.config.user = run.user;
    let said = options.start()?.wait_off()?;
    all_right(software, &said)
}

/// Those that run on a node as well, on the way that a tenant's image takes.
pub fn case(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    let alice = grid.tenant("software")?;
    for software in [&table::SYSTEMD, &table::NGINX] {
        run_on(grid, node, &alice, software)?;
    }
    Ok(())
}

fn run_on(
    grid: &Grid,
    node: &mut Node<'_>,
    alice: &Tenant,
    software: &Software,
) -> anyhow::Result<()> {
    let image = software.image.make()?;
    grid.registry.add(software.name, &image);
    let toml = format!(
        "kind = \"workload\"\n[machine.it]\nimage = \"{}\"\ncpus = 1\nmemory = \"{}MiB\"\n\
         root = \"1GiB\"\nrestart = \"never\"\n",
        grid.reference(&image, software.name),
        software.memory,
    );
    let contract = alice.deploy(node, &toml)?;
    let tenant_port = node.forward(TENANT_PORT)?;
    // It may be over before anybody has read that it runs.
    let mut said = String::new();
    let ended = wait_for(&format!("{} to end", software.name), || {
        if let Some(Report {
            verdict: Verdict::Rejected { reason, .. },
            ..
        }) = contract.report()?
        {
            bail!("it was rejected: {reason}");
        }
        // Until there is a machine there is no console.
        said = contract.console(tenant_port, "it").unwrap_or_default();
        Ok(has_ended(&said).then_some(()))
    });
    ended.with_context(|| format!("its console:\n{said}"))?;
    contract.cancel()?;
    all_right(software, &said)
}

/// By guest init's last words.
fn has_ended(said: &str) -> bool {
    ["loam: the command ended", "loam: the machine was"]
        .iter()
        .any(|end| said.contains(end))
}

fn all_right(software: &Software, said: &str) -> anyhow::Result<()> {
    for what in software.right {
        ensure!(
            said.lines()
                .any(|line| line.trim_end() == format!("right: {what}")),
            "{}: not told: {what}; the console:\n{said}",
            software.name
        );
    }
    Ok(())
}
