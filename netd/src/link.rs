//! Links, addresses and routes of one network namespace, over rtnetlink.

use std::{fs::File, io, net::IpAddr, os::fd::AsRawFd};

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
};
use netlink_sys::{Socket, TokioSocket, protocols::NETLINK_ROUTE};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};
use tokio::task::JoinHandle;

/// A netlink conversation with one namespace.
#[derive(Debug)]
pub struct Links {
    handle: Handle,
    /// Carries the messages; ends with this value.
    conversation: JoinHandle<()>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub ethernet: bool,
    pub up: bool,
    /// A cable is plugged in and something answers at its other end.
    pub carrier: bool,
    pub mac: Option<[u8; 6]>,
    /// Index of the bridge that it is a port of.
    pub controller: Option<u32>,
    pub alias: Option<String>,
    /// What it carries in one packet, in bytes.
    pub mtu: u32,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.conversation.abort();
    }
}

impl Links {
    /// Of the namespace that the calling thread is in now; a socket stays where it was made.
    pub fn here() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        // So that the kernel itself picks what is asked for, in place of telling all.
        socket.set_netlink_get_strict_chk(true)?;
        Self::over(socket)
    }

    fn over(socket: Socket) -> io::Result<Self> {
        socket.set_non_blocking(true)?;
        let (connection, handle, _) = rtnetlink::from_socket(into_tokio(socket));
        Ok(Self {
            handle,
            conversation: tokio::spawn(connection),
        })
    }

    pub async fn all(&self) -> io::Result<Vec<Link>> {
        let messages: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(io_error)?;
        Ok(messages.into_iter().map(Link::from).collect())
    }

    pub async fn find(&self, name: &str) -> io::Result<Option<Link>> {
        let request = self.handle.link().get().match_name(name.to_owned());
        let found = request.execute().try_collect::<Vec<_>>().await;
        match found.map_err(io_error) {
            Ok(messages) => Ok(messages.into_iter().next().map(Link::from)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn expect(&self, name: &str) -> io::Result<Link> {
        self.find(name)
            .await?
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("link {name} is gone")))
    }

    pub async fn add_bridge(&self, name: &str, mac: [u8; 6]) -> io::Result<()> {
        let message = LinkMessageBuilder::<LinkBridge>::new(name)
            // There is no querier on the bridge, so snooping would only lose groups.
            .mcast_snooping(false)
            .address(mac.to_vec())
            .build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(io_error)
    }

    /// A pair: `near` here and `far` in the namespace `there`.
    pub async fn add_veth(&self, near: &str, far: &str, there: &File) -> io::Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(far)
            .setns_by_fd(there.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(near)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(io_error)
    }

    pub async fn set_up(&self, link: &Link) -> io::Result<()> {
        if link.up {
            return Ok(());
        }
        self.set(LinkUnspec::new_with_index(link.index).up().build())
            .await
    }

    /// Some drivers reset the link for it, so the same again is not set.
    pub async fn set_mtu(&self, link: &Link, mtu: u32) -> io::Result<()> {
        if link.mtu == mtu {
            return Ok(());
        }
        self.set(LinkUnspec::new_with_index(link.index).mtu(mtu).build())
            .await
    }

    /// The alias is for the person who looks at the node's links, and for a netd that lost its
    /// record of them. It holds 255 bytes.
    pub async fn set_alias(&self, link: &Link, alias: &str) -> io::Result<()> {
        if link.alias.as_deref() == Some(alias) {
            return Ok(());
        }
        let message = LinkUnspec::new_with_index(link.index).alias(alias).build();
        self.set(message).await
    }

    pub async fn set_bridge(&self, port: &Link, bridge: u32) -> io::Result<()> {
        if port.controller == Some(bridge) {
            return Ok(());
        }
        let message = LinkUnspec::new_with_index(port.index)
            .controller(bridge)
            .build();
        self.set(message).await
    }

    async fn set(&self, message: LinkMessage) -> io::Result<()> {
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(io_error)
    }

    /// Absent is success.
    pub async fn delete(&self, name: &str) -> io::Result<()> {
        match self.find(name).await? {
            Some(link) => self
                .handle
                .link()
                .del(link.index)
                .execute()
                .await
                .map_err(io_error),
            None => Ok(()),
        }
    }

    pub async fn addresses(&self, index: u32) -> io::Result<Vec<AddressMessage>> {
        let mut request = self.handle.address().get().set_link_index_filter(index);
        // The filter above is the library's; this one is the kernel's.
        request.message_mut().header.index = index;
        let found: Result<Vec<_>, _> = request.execute().try_collect().await;
        match found.map_err(io_error) {
            // A link that went has none.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Of all links.
    pub async fn all_addresses(&self) -> io::Result<Vec<AddressMessage>> {
        let request = self.handle.address().get();
        request.execute().try_collect().await.map_err(io_error)
    }

    /// Makes `wanted` the link's only addresses, but for link-local ones; what stays is untouched.
    pub async fn set_addresses(&self, index: u32, wanted: &[IpNet]) -> io::Result<()> {
        let present = self.addresses(index).await?;
        for net in wanted {
            if !present.iter().any(|message| address(message) == Some(*net)) {
                let request = self
                    .handle
                    .address()
                    .add(index, net.addr(), net.prefix_len());
                request.execute().await.map_err(io_error)?;
            }
        }
        for message in present {
            let surplus = address(&message).is_some_and(|net| !wanted.contains(&net));
            if surplus && is_beyond_link(&message) {
                self.delete_address(message).await?;
            }
        }
        Ok(())
    }

    /// Adds the address, or sets the lifetime of the one that is there.
    pub async fn lease_address(&self, message: AddressMessage) -> io::Result<()> {
        let net = address(&message).ok_or(io::ErrorKind::InvalidInput)?;
        let index = message.header.index;
        let request = self
            .handle
            .address()
            .add(index, net.addr(), net.prefix_len());
        let mut request = request.replace();
        *request.message_mut() = message;
        request.execute().await.map_err(io_error)
    }

    pub async fn delete_address(&self, message: AddressMessage) -> io::Result<()> {
        self.handle
            .address()
            .del(message)
            .execute()
            .await
            .map_err(io_error)
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Replaces the default route of the gateway's family in the main table.
    pub async fn set_default_route(&self, gateway: IpAddr, link: u32) -> io::Result<()> {
        let message = rtnetlink::RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(unspecified_like(gateway), 0)
            .and_then(|builder| builder.gateway(gateway))
            .map_err(|error| io::Error::other(format!("{error:?}")))?
            .output_interface(link)
            .build();
        self.handle
            .route()
            .add(message)
            .replace()
            .execute()
            .await
            .map_err(io_error)
    }
}

fn unspecified_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    }
}

fn into_tokio(socket: Socket) -> TokioSocket {
    use std::os::fd::{FromRawFd, IntoRawFd};
    // SAFETY: the descriptor is owned by `socket`, which gives it up here.
    unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) }
}

/// The address and the length of its subnet.
pub fn address(message: &AddressMessage) -> Option<IpNet> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            // On point-to-point links, `Address` is the peer's.
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) => address = address.or(Some(*other)),
            _ => {}
        }
    }
    IpNet::new(address?, message.header.prefix_len).ok()
}

/// Whether it means something beyond its link. Linux has a scope of their own for a site's addresses
/// (`fec0::/10`), which are as good as any other (RFC 3879, section 4).
pub fn is_beyond_link(message: &AddressMessage) -> bool {
    let scope = message.header.scope;
    matches!(scope, AddressScope::Universe | AddressScope::Site)
}

/// Whether packets may be sent from it already.
pub fn is_usable(message: &AddressMessage) -> bool {
    message.attributes.iter().all(|attribute| match attribute {
        AddressAttribute::Flags(flags) => {
            !flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
        }
        _ => true,
    })
}

/// Whether another host was found to have it (RFC 4862 5.4).
pub fn is_duplicate(message: &AddressMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Flags(flags) => flags.contains(AddressFlags::Dadfailed),
        _ => false,
    })
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            mac: None,
            controller: None,
            alias: None,
            mtu: 0,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Controller(index) => link.controller = Some(index),
                _ => {}
            }
        }
        link
    }
}

pub fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
