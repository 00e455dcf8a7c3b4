//! The node's rules in somebody else's hands.

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// Owns the table of the node's rules: while this lives, the kernel refuses it to netd
/// (`NFT_TABLE_F_OWNER`), and removes it when this is dropped.
pub struct Owner {
    _socket: Socket,
}

const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const CREATE: u16 = 0x400;
const NEW_TABLE: u16 = 10 << 8;
const DELETE_TABLE: u16 = (10 << 8) | 2;

impl Owner {
    /// Of the calling thread's namespace.
    pub fn take() -> Self {
        let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
        socket.bind_auto().unwrap();
        let mut name = vec![9, 0, 1, 0];
        name.extend(b"loam\0\0\0\0");
        let mut owned = name.clone();
        // NFTA_TABLE_FLAGS: NFT_TABLE_F_OWNER.
        owned.extend([8, 0, 2, 0, 0, 0, 0, 2]);
        let batch = [
            message(0x10, REQUEST, 1, 0, 10, &[]),
            message(DELETE_TABLE, REQUEST, 2, libc::NFPROTO_INET as u8, 0, &name),
            message(
                NEW_TABLE,
                REQUEST | CREATE | ACKNOWLEDGE,
                3,
                libc::NFPROTO_INET as u8,
                0,
                &owned,
            ),
            message(0x11, REQUEST, 4, 0, 10, &[]),
        ];
        let kernel = SocketAddr::new(0, 0);
        socket.send_to(&batch.concat(), &kernel, 0).unwrap();
        let (answer, _) = socket.recv_from_full().unwrap();
        let error = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
        assert_eq!(error, 0, "the kernel does not let a table be owned");
        Self { _socket: socket }
    }
}

/// `struct nlmsghdr`, `struct nfgenmsg`, attributes.
fn message(
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    attributes: &[u8],
) -> Vec<u8> {
    let mut bytes = (20 + attributes.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}
