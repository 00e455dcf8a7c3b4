//! Links, addresses and routes of one network namespace, over rtnetlink.

use std::{io, net::IpAddr, os::fd::AsRawFd};

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
};
use netlink_sys::{Socket, TokioSocket, protocols::NETLINK_ROUTE};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};
use tokio::task::JoinHandle;

use crate::namespace::Namespace;

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
}

impl Drop for Links {
    fn drop(&mut self) {
        self.conversation.abort();
    }
}

impl Links {
    /// Of the calling thread's namespace.
    pub fn here() -> io::Result<Self> {
        Self::over(Socket::new(NETLINK_ROUTE)?)
    }

    pub fn inside(namespace: &Namespace) -> io::Result<Self> {
        // A socket stays in the namespace in which it was made.
        Self::over(namespace.enter(|| Socket::new(NETLINK_ROUTE))?)
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
        // By way of the whole list: asked by name, an absent link is an error among others.
        Ok(self.all().await?.into_iter().find(|link| link.name == name))
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
    pub async fn add_veth(&self, near: &str, far: &str, there: &Namespace) -> io::Result<()> {
        let file = there.open()?;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(far)
            .setns_by_fd(file.as_raw_fd())
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

    pub async fn set_up(&self, index: u32) -> io::Result<()> {
        self.set(LinkUnspec::new_with_index(index).up().build())
            .await
    }

    /// The alias is for the person who looks at the node's links.
    pub async fn set_alias(&self, index: u32, alias: &str) -> io::Result<()> {
        self.set(LinkUnspec::new_with_index(index).alias(alias).build())
            .await
    }

    pub async fn set_bridge(&self, port: u32, bridge: u32) -> io::Result<()> {
        self.set(LinkUnspec::new_with_index(port).controller(bridge).build())
            .await
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
        let request = self.handle.address().get().set_link_index_filter(index);
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
            if surplus && message.header.scope == AddressScope::Universe {
                self.delete_address(message).await?;
            }
        }
        Ok(())
    }

    /// Adds the address, or sets the lifetime of the one that is there.
    pub async fn lease_address(&self, message: AddressMessage) -> io::Result<()> {
        let IpNet::V4(net) = address(&message).ok_or(io::ErrorKind::InvalidInput)? else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let index = message.header.index;
        let request = self
            .handle
            .address()
            .add(index, IpAddr::V4(net.addr()), net.prefix_len());
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

/// Whether packets may be sent from it already.
pub fn is_usable(message: &AddressMessage) -> bool {
    message.attributes.iter().all(|attribute| match attribute {
        AddressAttribute::Flags(flags) => {
            !flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
        }
        _ => true,
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
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok(),
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
