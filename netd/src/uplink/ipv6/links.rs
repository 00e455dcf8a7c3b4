//! The listeners of all links, and what they have heard.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use loam_node_api::network::Missing;
use tokio::{sync::mpsc, task::AbortHandle};

use super::{
    lease::{self, Condition},
    listener::{self, Heard, Listener},
};
use crate::{
    link::{Link, Links},
    uplink::lease::Mtu,
};

/// Name servers by the names of links, for a netd that starts later.
pub type Adopted = BTreeMap<String, Vec<Ipv6Addr>>;

#[derive(Debug)]
pub struct Ipv6Links {
    links: BTreeMap<u32, Heeded>,
    /// Of links that have not been ready yet.
    adopted: Adopted,
    tell: mpsc::Sender<(u32, Heard)>,
}

#[derive(Debug)]
struct Heeded {
    name: String,
    heard: Heard,
    /// None while the link is not ready. What was heard stands: a cable that is put back interrupts
    /// nothing.
    listener: Option<Running>,
    /// Addresses by DHCPv6 of which the kernel has not said yet whether another host has them.
    unproven: BTreeSet<Ipv6Addr>,
}

#[derive(Debug)]
struct Running {
    task: AbortHandle,
    duplicates: mpsc::Sender<Ipv6Addr>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ipv6Links {
    /// Listeners tell `tell`.
    pub fn new(adopted: Adopted, tell: mpsc::Sender<(u32, Heard)>) -> Self {
        Self {
            links: BTreeMap::new(),
            adopted,
            tell,
        }
    }

    /// Exactly these links are up and have a carrier.
    pub fn ready(&mut self, ready: &[&Link]) {
        for (index, heeded) in &mut self.links {
            if !ready.iter().any(|link| link.index == *index) {
                heeded.listener = None;
            }
        }
        for link in ready {
            let listens = |heeded: &Heeded| heeded.listener.is_some();
            if self.links.get(&link.index).is_some_and(listens) {
                continue;
            }
            if let Err(error) = self.listen(link) {
                tracing::error!(link = link.name, "IPv6 is not listened to: {error}");
            }
        }
    }

    fn listen(&mut self, link: &Link) -> std::io::Result<()> {
        let Some(mac) = link.mac else { return Ok(()) };
        let before = self.links.remove(&link.index);
        let heard = match before.filter(|before| before.name == link.name) {
            Some(before) => before.heard,
            None => Heard {
                router_servers: self.adopted.remove(&link.name).unwrap_or_default(),
                ..Heard::default()
            },
        };
        // What DHCPv6 gave is asked for anew; the kernel ends it in time.
        let adopted = [heard.router_servers, heard.dhcp_servers].concat();
        let (duplicates, of_others) = mpsc::channel(4);
        let listener = Listener::open(link.index, mac, &adopted, of_others);
        let mut heeded = Heeded {
            name: link.name.clone(),
            heard: Heard {
                router_servers: adopted,
                ..Heard::default()
            },
            listener: None,
            unproven: BTreeSet::new(),
        };
        let opened = listener.map(|listener| {
            let task = tokio::spawn(listener.run(self.tell.clone())).abort_handle();
            heeded.listener = Some(Running { task, duplicates });
        });
        self.links.insert(link.index, heeded);
        opened
    }

    /// Takes what a link's listener told, and puts it into the kernel.
    pub async fn take(&mut self, links: &Links, index: u32, heard: Heard) -> anyhow::Result<()> {
        let Some(heeded) = self.links.get_mut(&index) else {
            return Ok(());
        };
        let before = std::mem::replace(&mut heeded.heard, heard);
        let now = &heeded.heard.addresses;
        if before.addresses == *now {
            return Ok(());
        }
        let had = |address| before.addresses.iter().any(|old| old.address == address);
        let new = now.iter().map(|new| new.address);
        let new: Vec<_> = new.filter(|address| !had(*address)).collect();
        heeded
            .unproven
            .retain(|address| now.iter().any(|new| new.address == *address));
        heeded.unproven.extend(new);
        lease::apply(links, index, now, listener::now()).await
    }

    /// Asks the kernel for addresses that another host has, and has them declined.
    pub async fn prove(&mut self, links: &Links) -> std::io::Result<()> {
        for (index, heeded) in &mut self.links {
            for address in heeded.unproven.clone() {
                let condition = lease::condition(links, *index, address).await?;
                if condition == Condition::Tentative {
                    continue;
                }
                heeded.unproven.remove(&address);
                if let (Condition::Gone, Some(listener)) = (condition, &heeded.listener) {
                    // Full only when it has as many to decline already.
                    let _ = listener.duplicates.try_send(address);
                }
            }
        }
        Ok(())
    }

    /// Each list from a source of its own, the best first: by DHCPv6, by routers; of `first`, of links
    /// that are ready, of others.
    pub fn name_servers(&self, first: Option<u32>) -> Vec<&[Ipv6Addr]> {
        let mut links: Vec<_> = self.links.iter().collect();
        links.sort_by_key(|(index, heeded)| {
            (Some(**index) != first, heeded.listener.is_none(), **index)
        });
        let heard = links.iter().map(|(_, heeded)| &heeded.heard);
        let lists = heard.flat_map(|h| [&*h.dhcp_servers, &*h.router_servers]);
        let adopted = self.adopted.values().map(Vec::as_slice);
        lists.chain(adopted).collect()
    }

    pub fn missing(&self, index: u32) -> Option<Missing> {
        self.links.get(&index)?.heard.missing
    }

    pub fn mtu(&self, index: u32) -> Option<Mtu> {
        self.links.get(&index)?.heard.mtu
    }

    /// For a netd that starts later.
    pub fn adopted(&self) -> Adopted {
        let mut all = self.adopted.clone();
        for heeded in self.links.values() {
            let heard = &heeded.heard;
            let servers = [&*heard.dhcp_servers, &*heard.router_servers].concat();
            if !servers.is_empty() {
                all.insert(heeded.name.clone(), servers);
            }
        }
        all
    }
}
