//! `loam-netd`: the node's links, its uplink, tenants' networks and the firewall between all.
//!
//! # One namespace a network
//!
//! Two tenants may choose the same private subnet, and a node must run both. So each network has a
//! network namespace of its own: bridge, taps, gateway address, routes, connection table. What is
//! in another namespace cannot be reached by any mistake in a rule. The ways not taken were VRFs
//! (a route leak for every network at every change of the uplink, and connection zones all the
//! same) and policy routing by mark (one missing rule joins two tenants).
//!
//! ```text
//!  the node's own namespace                     namespace of one network, ln<hash>
//!
//!  enp1s0 --- routing, NAT --- lv<hash> ------- uplink --- routing, NAT --- lb<hash>  bridge
//!  uplink,    published ports  198.18.0.2/31    198.18.0.3/31               |  10.20.0.1/24
//!  by DHCP    to 198.18.0.3                     to the machine              +- lt<hash>  tap
//! ```
//!
//! The two namespaces are joined by a pair of addresses that no other network has. A machine's
//! packet leaves with the address of its namespace, and leaves the node with the node's; a published
//! port is translated to the namespace's address first and to the machine's in there. Each of the
//! two translations knows nothing of the other, and neither sees two hosts of the same address.
//!
//! A published port answers machines of the node as it answers the world: by the node's address. By
//! inner addresses no network reaches another. Tenants reach nothing of the node itself but their
//! gateway's ICMP echo.
//!
//! # Nothing is lost with netd
//!
//! All state is the kernel's, and lives on when netd is killed: namespaces (bind mounts in
//! `/run/loam/netns`), links, rules, the leased address. What the kernel cannot hold is in small
//! records in `/run/loam/netd`, which live exactly as long. See [`record`] and [`recovery`].
//!
//! # Nobody waits for another
//!
//! The thread that answers calls never asks the kernel. Each network has a [`lane`] in which a thread
//! brings the kernel's part of it to what is asked for, and tries again what failed; the node's own
//! rules have one, and the uplink a thread of its own. Lists show what is in force in full and
//! nothing else.
//!
//! # What it needs
//!
//! Capabilities `NET_ADMIN`, `NET_RAW` and `SYS_ADMIN` (for `setns` and bind mounts), `/dev/net/tun`,
//! `/proc`, `/sys`, a tmpfs at `/run` that init sees too. On a kernel that has these as modules, and
//! no `modprobe` for the kernel to call, they are loaded before netd is started, with what
//! `modules.dep` and `modules.softdep` say they need: `tun`, `veth`, `bridge`, `nf_tables`,
//! `nft_meta_bridge`, `nft_ct`, `nft_nat`, `nft_chain_nat`, `nft_masq`, `nft_fib_inet`,
//! `nf_conntrack_netlink`.
//!
//! | module | what |
//! |---|---|
//! | [`service`], [`tenants`] | the calls |
//! | [`state`] | what was asked for, what is refused, what is in force |
//! | [`lane`], [`apart`] | work on the kernel, one network beside the other |
//! | [`record`], [`recovery`] | what a netd that starts finds |
//! | [`network`] | a network and its taps in the kernel |
//! | [`firewall`] | rules |
//! | [`uplink`] | physical links, DHCP |
//! | [`link`], [`namespace`], [`tap`], [`sysctl`] | the kernel's interfaces |
//! | [`name`], [`transit`], [`gateway`] | names and addresses derived from what is asked |

mod apart;
mod firewall;
mod gateway;
mod lane;
mod link;
mod name;
mod namespace;
mod network;
mod record;
mod recovery;
mod service;
mod state;
mod sysctl;
mod tap;
mod tenants;
mod transit;
mod uplink;

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use loam_node_api::{
    network::NetworkService,
    page::Changes,
    path::{NETD_SOCKET, RUN},
    transport,
};

use tokio::sync::oneshot;

use crate::{
    apart::{apart, block_on},
    link::Links,
    network::{LOOPBACK, Networks},
    record::Records,
    service::Service,
    tenants::Tenants,
    uplink::physical::Physical,
};

#[derive(Debug, Parser)]
#[command(
    version,
    about = "Links, addresses, uplink, tenants' networks, firewall of a Loam node"
)]
struct Arguments {
    /// Treat this link as physical though no device is behind it (for tests in namespaces).
    #[arg(long, value_name = "LINK")]
    uplink: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .json()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .init();

    let run = PathBuf::from(RUN);
    let folder = run.join("netd");
    let records = Records::open(&folder)?;
    let networks = Records::open(folder.join("networks"))?;
    let interfaces = Records::open(folder.join("interfaces"))?;
    let kernel = Networks::new(run.join("netns"));
    let physical = Physical {
        also: arguments.uplink,
    };

    apart(prepare).await?;
    let changes = Changes::new();
    let (rules, are_made) = oneshot::channel();
    let uplink = uplink::start(records, physical, changes.clone(), are_made).await?;

    let (named, held, place) = (networks.clone(), interfaces.clone(), kernel.clone());
    let found = apart(move || recovery::find(&named, &held, &place)).await?;
    let tenants = Tenants::new(found.state, networks, interfaces, kernel, changes.clone());
    // Before anybody is answered: what is not listed is made anew, or stopped.
    tenants.take_over(found.others).await;

    let service = Service::new(tenants.clone(), uplink.view.clone(), changes);
    let serving = async {
        transport::serve(NETD_SOCKET.as_ref(), service.serve())
            .await
            .with_context(|| format!("serving at {NETD_SOCKET}"))
    };
    // Rules first, then links: the node is never without.
    let ruled = async {
        tenants.node_rules().await;
        // Refused when the uplink's thread has ended, of which the other future tells.
        let _ = rules.send(());
        Ok(())
    };
    tokio::try_join!(serving, ruled, uplink.ended).map(|_| ())
}

fn prepare() -> anyhow::Result<()> {
    sysctl::prepare_node().context("settings of the node's namespace")?;
    block_on(async {
        let links = Links::here().context("netlink")?;
        links
            .set_up(&links.expect(LOOPBACK).await?)
            .await
            .context("loopback")
    })
}
