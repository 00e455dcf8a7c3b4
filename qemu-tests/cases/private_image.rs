//! An image that its registry shows to one account: with that account's login it runs, and nobody else on
//! the node gets it by its digest.

use anyhow::ensure;
use loam_deployment::Version;
use qemu_tests::{grid::Grid, node::Node, tenant::Contract, wait::wait_for};

use crate::demo::{Hello, wait_start};

/// `Aladdin:open sesame` (RFC 7617, section 2).
const ACCOUNT: &str = "QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
const PASSWORD: &str = "open sesame";
const REPOSITORY: &str = "private";

pub fn case(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    let (alice, bob) = (grid.tenant("has an account")?, grid.tenant("has none")?);
    let image = grid.add_other_hello(REPOSITORY, vec![])?;
    grid.registry.only_for(REPOSITORY, ACCOUNT);
    let reference = grid.reference(&image, REPOSITORY);
    let (registry, _) = reference.split_once('/').unwrap_or((&reference, ""));
    let with = |hello: &Hello, password: Option<&str>| {
        let mut lines = format!("image = \"{reference}\"\n");
        if let Some(password) = password {
            lines += &format!(
                "image_login = {{ registry = \"{registry}\", sealed_user = \"Aladdin\", \
                 sealed_password = \"{password}\" }}\n"
            );
        }
        let shown = format!("image = \"{}\"\n", grid.hello_reference());
        hello.toml(grid).replace(&shown, &lines)
    };

    let hers = Hello {
        port: 9080,
        subnet: "10.90.0",
        ..Hello::default()
    };
    let contract = alice.deploy(node, &with(&hers, Some("guess")))?;
    wait_failed(&contract, Version(1), "`image_login`")?;
    contract.wait_running(contract.update(&with(&hers, Some(PASSWORD)))?)?;
    wait_start(node.forward(hers.port)?)?;

    let his = Hello {
        port: 9081,
        subnet: "10.91.0",
        ..Hello::default()
    };
    let gets = grid.registry.gets(image.digest());
    let stranger = bob.deploy(node, &with(&his, None))?;
    wait_failed(&stranger, Version(1), "refuses (401")?;
    let version = stranger.update(&with(&his, Some("guess")))?;
    wait_failed(&stranger, version, "`image_login`")?;
    ensure!(
        grid.registry.gets(image.digest()) > gets,
        "the registry was not asked"
    );
    ensure!(images(node, &image.digest().to_string())? == 1, "his, too");
    stranger.cancel()?;
    contract.cancel()?;
    wait_for("her image to go", || {
        Ok((images(node, &image.digest().to_string())? == 0).then_some(()))
    })?;
    ensure!(!node.logs()?.contains(PASSWORD), "the log has her password");
    Ok(())
}

/// Waits until the node says of a workload of this version that it failed so.
fn wait_failed(contract: &Contract<'_>, version: Version, reason: &str) -> anyhow::Result<()> {
    wait_for(&format!("version {version} to be told why"), || {
        let Some(report) = contract.report()?.filter(|r| r.version == version) else {
            return Ok(None);
        };
        let mut workloads = report.workloads.values();
        let told = workloads.any(|workload| workload.detail.contains(reason));
        Ok(told.then_some(()))
    })
}

/// How many files the node's pools have of the image.
fn images(node: &Node<'_>, digest: &str) -> anyhow::Result<usize> {
    let hex = digest.trim_start_matches("sha256:");
    let mut count = 0;
    for pool in node.list("/pools")? {
        let names = node.list(&format!("/pools/{pool}/images"))?;
        let of_image = |name: &&String| name.starts_with(hex) && name.ends_with(".erofs");
        count += names.iter().filter(of_image).count();
    }
    Ok(count)
}
