//! `kind = "workload"`.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::{
    Item, Pending, Table, Unpinned, WrittenError,
    draft::{Place, Secret},
};
use crate::{
    Bytes, ImageDigest, ImageName, Name,
    cbor::Named,
    image_name,
    payload::{
        Gateway, GatewayHost, ImageLogin, ImageSource, Machine, Network, NetworkAttachment,
        ObjectStore, Peer, PublicIp, Publish, Sealed, Volume, Workload,
    },
    seal::OVERHEAD,
};

/// Room for what a machine writes outside its volumes, unless it asks for more or less.
const DEFAULT_ROOT: Bytes = Bytes::gib(1);

type Read = fn(&Name, &mut Table<'_>, &mut Pending) -> Result<Workload, WrittenError>;

const SECTIONS: [(&str, Read); 6] = [
    ("machine", machine),
    ("volume", |_, table, _| volume(table)),
    ("network", |_, table, _| network(table)),
    ("gateway", |_, table, _| gateway(table)),
    ("public-ip", |_, table, _| public_ip(table)),
    ("object-store", object_store),
];

pub(super) fn read(
    root: &mut Table<'_>,
    pending: &mut Pending,
) -> Result<BTreeMap<Name, Workload>, WrittenError> {
    let mut workloads = BTreeMap::new();
    for (section, read) in SECTIONS {
        let Some(section) = root.optional(section) else {
            continue;
        };
        for (name, item) in section.entries()? {
            let name: Name = name.parse().map_err(|why| item.error(format!("{why}")))?;
            let item = item.at_payload_path(format!("workloads.{name}"));
            let mut table = item.table()?;
            let workload = read(&name, &mut table, pending)?;
            table.finish()?;
            if workloads.contains_key(&name) {
                let why = format!("there is another workload `{name}`; names must differ");
                return Err(item.error(why));
            }
            workloads.insert(name, workload);
        }
    }
    Ok(workloads)
}

fn machine(
    name: &Name,
    table: &mut Table<'_>,
    pending: &mut Pending,
) -> Result<Workload, WrittenError> {
    let image = match either(table, "image", "disk")? {
        Either::First(item) => image(name, &item, pending)?,
        Either::Second(item) => disk(&item)?,
    };
    let image_login = table.optional("image_login");
    let image_login = image_login.map(|item| login(name, &item, &mut pending.secrets));
    let sealed_env = match table.optional("sealed_env") {
        None => BTreeMap::new(),
        Some(item) => sealed_env(name, &item, &mut pending.secrets)?,
    };
    Ok(Workload::Machine(Box::new(Machine {
        image,
        image_login: image_login.transpose()?,
        cpus: table.required("cpus")?.integer()?,
        memory: table.required("memory")?.size()?,
        root: table
            .optional("root")
            .map_or(Ok(DEFAULT_ROOT), |item| item.size())?,
        command: list(table, "command", |item| item.string())?,
        env: entries(table, "env")?,
        sealed_env,
        ssh_keys: list(table, "ssh_keys", |item| item.string())?,
        volumes: entries(table, "volumes")?,
        networks: list(table, "networks", attachment)?,
        mesh: boolean(table, "mesh")?,
        publish: list(table, "publish", publish)?,
        restart: named(table, "restart")?,
        devices: list(table, "devices", |item| item.string())?,
    })))
}

/// Remembers an image whose digest is not known, and puts zeros in that one's place.
fn image(
    machine: &Name,
    item: &Item<'_>,
    pending: &mut Pending,
) -> Result<ImageSource, WrittenError> {
    let image: ImageName = item.parsed()?;
    let digest = image.digest().unwrap_or_else(|| {
        pending.images.push(Unpinned {
            machine: machine.clone(),
            image: image.clone(),
            place: item.error(String::new()),
        });
        ImageDigest([0; 32])
    });
    Ok(ImageSource::Oci(image.pinned(digest)))
}

/// A disk's tag is asked of nobody: that what it names is a disk could not be checked.
fn disk(item: &Item<'_>) -> Result<ImageSource, WrittenError> {
    let image: ImageName = item.parsed()?;
    let digest = image.digest();
    let digest = digest.ok_or_else(|| item.error("a disk must be named with its digest"))?;
    Ok(ImageSource::Disk(image.pinned(digest)))
}

/// Remembers the secrets and puts in their places sealed texts of the right size, so that every
/// limit can be checked before anything is sealed.
fn sealed_env(
    machine: &Name,
    item: &Item<'_>,
    secrets: &mut Vec<Secret>,
) -> Result<BTreeMap<String, Sealed>, WrittenError> {
    let mut sealed = BTreeMap::new();
    for (variable, item) in item.entries()? {
        let plain = Zeroizing::new(item.string()?.into_bytes());
        // Nobody can check it once it is sealed.
        if plain.contains(&0) {
            return Err(item.error("must not hold a NUL character"));
        }
        sealed.insert(variable.clone(), placeholder(&plain));
        secrets.push(Secret {
            workload: machine.clone(),
            place: Place::Env(variable),
            plain,
        });
    }
    Ok(sealed)
}

/// An account at a registry, which is named as images name it.
fn login(
    machine: &Name,
    item: &Item<'_>,
    secrets: &mut Vec<Secret>,
) -> Result<ImageLogin, WrittenError> {
    let mut table = item.table()?;
    let mut sealed = |item: Item<'_>, place: Place| {
        let plain = Zeroizing::new(item.string()?);
        let is_user = place == Place::ImageUser;
        // RFC 7617, section 2. Nobody can check it once it is sealed.
        if plain.contains(char::is_control) || (is_user && plain.contains(':')) {
            let colon = if is_user { "a colon or " } else { "" };
            return Err(item.error(format!("must not hold {colon}control characters")));
        }
        if plain.is_empty() {
            return Err(item.error("must not be empty"));
        }
        let plain = Zeroizing::new(plain.as_bytes().to_vec());
        let placeholder = placeholder(&plain);
        let workload = machine.clone();
        secrets.push(Secret {
            workload,
            place,
            plain,
        });
        Ok(placeholder)
    };
    let login = ImageLogin {
        registry: image_name::registry(&table.required("registry")?.string()?),
        sealed_user: sealed(table.required("sealed_user")?, Place::ImageUser)?,
        sealed_password: sealed(table.required("sealed_password")?, Place::ImagePassword)?,
    };
    table.finish()?;
    Ok(login)
}

fn placeholder(plain: &[u8]) -> Sealed {
    Sealed {
        encapsulated: [0; 32],
        ciphertext: vec![0; plain.len() + OVERHEAD],
    }
}

/// `private` or `private=10.20.0.5`.
fn attachment(item: Item<'_>) -> Result<NetworkAttachment, WrittenError> {
    let text = item.string()?;
    let (network, address) = match text.split_once('=') {
        None => (text.as_str(), None),
        Some((network, address)) => {
            let address: IpAddr = part(&item, address, "is not an IP address")?;
            (network, Some(address))
        }
    };
    let network = network
        .parse()
        .map_err(|why| item.error(format!("{why}")))?;
    Ok(NetworkAttachment { network, address })
}

/// `tcp:8080:80`.
fn publish(item: Item<'_>) -> Result<Publish, WrittenError> {
    let text = item.string()?;
    let parts: Vec<_> = text.split(':').collect();
    let [protocol, node_port, machine_port] = parts[..] else {
        let form = "protocol:port of the node:port of the machine, as tcp:8080:80";
        return Err(item.error(format!("`{text}` is not of the form {form}")));
    };
    Ok(Publish {
        protocol: Named::from_name(protocol).map_err(|why| item.error(why))?,
        node_port: part(&item, node_port, "is not a port")?,
        machine_port: part(&item, machine_port, "is not a port")?,
    })
}

fn volume(table: &mut Table<'_>) -> Result<Workload, WrittenError> {
    Ok(Workload::Volume(Volume {
        size: table.required("size")?.size()?,
        media: named(table, "media")?,
        filesystem: named(table, "filesystem")?,
        encrypted: table
            .optional("encrypted")
            .map_or(Ok(true), |item| item.boolean())?,
    }))
}

fn network(table: &mut Table<'_>) -> Result<Workload, WrittenError> {
    Ok(Workload::Network(Network {
        ipv4: subnet(&table.required("ipv4")?)?,
        ipv6: table
            .optional("ipv6")
            .map(|item| subnet(&item))
            .transpose()?,
        peers: list(table, "peers", peer)?,
        nat: boolean(table, "nat")?,
    }))
}

fn peer(item: Item<'_>) -> Result<Peer, WrittenError> {
    let mut table = item.table()?;
    let key = table.required("public_key")?;
    let public_key = BASE64_STANDARD.decode(key.string()?).ok();
    let public_key = public_key.and_then(|bytes| bytes.try_into().ok());
    let peer = Peer {
        public_key: public_key
            .ok_or_else(|| key.error("is not a WireGuard key; expected 32 bytes in base64"))?,
        allowed: table.required("allowed")?.list(|net| subnet(&net))?,
        endpoint: table
            .optional("endpoint")
            .map(|item| part(&item, &item.string()?, "is not address:port"))
            .transpose()?,
    };
    table.finish()?;
    Ok(peer)
}

fn gateway(table: &mut Table<'_>) -> Result<Workload, WrittenError> {
    Ok(Workload::Gateway(Gateway {
        host: match either(table, "name", "domain")? {
            Either::First(name) => GatewayHost::Name(name.parsed()?),
            Either::Second(domain) => GatewayHost::Domain(domain.string()?),
        },
        backends: table.required("backends")?.list(|item| item.string())?,
        tls: named(table, "tls")?,
    }))
}

fn public_ip(table: &mut Table<'_>) -> Result<Workload, WrittenError> {
    Ok(Workload::PublicIp(PublicIp {
        v4: boolean(table, "v4")?,
        v6: boolean(table, "v6")?,
    }))
}

fn object_store(
    name: &Name,
    table: &mut Table<'_>,
    pending: &mut Pending,
) -> Result<Workload, WrittenError> {
    let plain = Zeroizing::new(table.required("sealed_password")?.string()?.into_bytes());
    let sealed_password = placeholder(&plain);
    pending.secrets.push(Secret {
        workload: name.clone(),
        place: Place::Password,
        plain,
    });
    Ok(Workload::ObjectStore(ObjectStore {
        size: table.required("size")?.size()?,
        mode: table.required("mode")?.named()?,
        sealed_password,
        public: boolean(table, "public")?,
    }))
}

enum Either<'s> {
    First(Item<'s>),
    Second(Item<'s>),
}

fn either<'s>(
    table: &mut Table<'s>,
    first: &'static str,
    second: &'static str,
) -> Result<Either<'s>, WrittenError> {
    match (table.optional(first), table.optional(second)) {
        (Some(item), None) => Ok(Either::First(item)),
        (None, Some(item)) => Ok(Either::Second(item)),
        (None, None) => Err(table.error(format!("`{first}` or `{second}` is missing"))),
        (Some(_), Some(item)) => Err(item.error(format!("excludes `{first}`; remove one of them"))),
    }
}

fn list<'s, T>(
    table: &mut Table<'s>,
    key: &'static str,
    read: impl FnMut(Item<'s>) -> Result<T, WrittenError>,
) -> Result<Vec<T>, WrittenError> {
    table
        .optional(key)
        .map_or_else(|| Ok(Vec::new()), |item| item.list(read))
}

fn boolean(table: &mut Table<'_>, key: &'static str) -> Result<bool, WrittenError> {
    table.optional(key).map_or(Ok(false), |item| item.boolean())
}

fn named<T: Named + Default>(table: &mut Table<'_>, key: &'static str) -> Result<T, WrittenError> {
    table
        .optional(key)
        .map_or_else(|| Ok(T::default()), |item| item.named())
}

/// A table whose keys are the writer's own.
fn entries<K: FromStr<Err: fmt::Display> + Ord>(
    table: &mut Table<'_>,
    key: &'static str,
) -> Result<BTreeMap<K, String>, WrittenError> {
    let Some(item) = table.optional(key) else {
        return Ok(BTreeMap::new());
    };
    let entries = item.entries()?.into_iter();
    entries
        .map(|(key, item)| {
            let key = key
                .parse()
                .map_err(|why: K::Err| item.error(why.to_string()))?;
            Ok((key, item.string()?))
        })
        .collect()
}

/// A part of a text, as something else.
fn part<T: FromStr>(item: &Item<'_>, text: &str, why: &str) -> Result<T, WrittenError> {
    text.parse()
        .map_err(|_| item.error(format!("`{text}` {why}")))
}

fn subnet<T: FromStr>(item: &Item<'_>) -> Result<T, WrittenError> {
    part(item, &item.string()?, "is not a subnet, as 10.20.0.0/24")
}
