//! The payload as deterministic CBOR (RFC 8949 section 4.2.1), and back.
//!
//! Maps have text keys. **Each value has exactly one encoding**: on top of the RFC's rules, an
//! optional field that holds its default is absent, and a decoder refuses what it would write
//! otherwise. In the tables, *default* says what absence means; fields without one are always
//! there. `address` is 4 or 16 bytes in network order, `subnet` the list `[address, prefix
//! length]` with no bits set behind the prefix, `sealed` the map `{encapsulated: 32 bytes,
//! ciphertext: bytes}`.
//!
//! | payload | type | default |
//! |---|---|---|
//! | `format` | uint | |
//! | `kind` | `workload`, `node` | |
//! | `node` / `farm` | 32 bytes / uint; exactly one, and `farm` only where `kind` is `node` | |
//! | `contract` | uint, from 1 | |
//! | `version` | uint, from 1 | |
//! | `valid_until` | uint, seconds since 1970 | for ever |
//! | `description` | text | empty |
//! | `workloads` | map: name -> workload; only where `kind` is `workload` | |
//! | `policy` | map; only where `kind` is `node` | |
//!
//! | workload | fields beside `type` | default |
//! |---|---|---|
//! | `machine` | `image` / `disk`: text, exactly one | |
//! | | `image_login`: `{registry: text, sealed_user: sealed, sealed_password: sealed}` | none |
//! | | `cpus`, `memory`, `root`: uint | |
//! | | `command`: list of text | empty |
//! | | `env`: map of text; `sealed_env`: map of sealed | empty |
//! | | `ssh_keys`: list of text | empty |
//! | | `volumes`: map of name -> text | empty |
//! | | `networks`: list of `{network: text, address: address}` | empty; `address`: chosen by the node |
//! | | `mesh`: bool | false |
//! | | `publish`: list of `{protocol: text, node_port: uint, machine_port: uint}` | empty |
//! | | `restart`: `always`, `on-failure`, `never` | `always` |
//! | | `devices`: list of text | empty |
//! | `volume` | `size`: uint | |
//! | | `media`: `ssd`, `hdd`, `any` | `any` |
//! | | `filesystem`: `ext4`, `btrfs`, `raw` | `ext4` |
//! | | `encrypted`: bool | true |
//! | `network` | `ipv4`: subnet | |
//! | | `ipv6`: subnet | none |
//! | | `peers`: list of `{public_key: 32 bytes, allowed: list of subnet, endpoint: {address: address, port: uint}}` | empty; `endpoint`: none |
//! | | `nat`: bool | false |
//! | `gateway` | `name` / `domain`: text, exactly one | |
//! | | `backends`: list of text | |
//! | | `tls`: `terminate`, `passthrough` | `terminate` |
//! | `public-ip` | `v4`, `v6`: bool | false |
//! | `object-store` | `size`: uint; `mode`: `user`, `sequential`; `sealed_password`: sealed | |
//! | | `public`: bool | false |
//!
//! | policy | type | default |
//! |---|---|---|
//! | `wipe_disks` | list of text | empty |
//! | `public_addresses` | list of subnet | empty |
//! | `gateway` | bool | false |
//! | `power` | `on`, `on-demand` | `on` |
//! | `update_window` | `{start_minute: uint, minutes: uint}` | any time |
//! | `publish_ports` | `{first: uint, last: uint}` | the node's own range |
//!
//! | report | type | default |
//! |---|---|---|
//! | `format`, `contract`, `version`, `time` | uint | |
//! | `node` | 32 bytes | |
//! | `image` | text: the name of the node's image | empty |
//! | `rejected`, `rejected_code` | text: the reason, and its short name; both or none | accepted |
//! | `workloads` | map: name -> workload's report | empty |
//!
//! | workload's report | type | default |
//! |---|---|---|
//! | `state` | `pending`, `fetching`, `starting`, `running`, `stopped`, `failed` | |
//! | `detail` | text | empty |
//! | `addresses` | list of address | empty |
//! | `ports` | as a machine's `publish` | empty |
//! | `exit_status` | int, 32 bits | none |
//! | `restarts` | uint, 32 bits | 0 |
//! | `console_position`, `used` | uint | none |
//! | `health` | `{state: starting, healthy or unhealthy, since: uint}` | none |

mod fields;
mod payload;
mod policy;
mod strict;
mod values;
mod workload;

use ciborium::Value;

pub use strict::{EncodingError, MAX_DEPTH};

pub(crate) use fields::{Decode, Encode, Fields, Map, Named, join};
pub(crate) use strict::read;
pub(crate) use values::ByteString;

use crate::{Rejection, limits, payload::Payload, validate};

/// The payload's one encoding.
pub fn encode(payload: &Payload) -> Vec<u8> {
    write(&payload.encode())
}

/// Reads a payload and checks every limit. Accepts exactly what [`encode`] writes.
pub fn decode(bytes: &[u8]) -> Result<Payload, Rejection> {
    if bytes.len() > limits::DEPLOYMENT_BYTES {
        return Err(Rejection::TooLarge { size: bytes.len() });
    }
    let value = read(bytes).map_err(|error| Rejection::Encoding {
        part: "payload",
        error,
    })?;
    let payload = Payload::decode(value.clone(), "")?;
    if let Some(path) = difference(&value, &payload.encode()) {
        return Err(Rejection::NotCanonical { path });
    }
    validate::payload(&payload)?;
    Ok(payload)
}

/// Maps must be sorted already.
pub(crate) fn write(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("writing into memory does not fail");
    bytes
}

/// The path of the first field in which two values differ.
pub(crate) fn difference(given: &Value, canonical: &Value) -> Option<String> {
    find_difference(given, canonical, "")
}

fn find_difference(given: &Value, canonical: &Value, path: &str) -> Option<String> {
    if given == canonical {
        return None;
    }
    let deeper = match (given, canonical) {
        (Value::Map(a), Value::Map(b)) => {
            let other = |key| b.iter().find(|(k, _)| k == key).map(|(_, value)| value);
            a.iter().find_map(|(key, value)| {
                let path = join(path, key.as_text().unwrap_or("?"));
                other(key).map_or(Some(path.clone()), |o| find_difference(value, o, &path))
            })
        }
        (Value::Array(a), Value::Array(b)) => {
            let pairs = a.iter().zip(b).enumerate();
            pairs.into_iter().find_map(|(index, (value, other))| {
                find_difference(value, other, &format!("{path}[{index}]"))
            })
        }
        _ => None,
    };
    deeper.or_else(|| Some(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named_by_its_path() {
        let value = |text: &str| -> Value {
            let json: serde_json::Value = serde_json::from_str(text).unwrap();
            Value::serialized(&json).unwrap()
        };
        for (given, canonical, path) in [
            (r#"{"a": [1, 2]}"#, r#"{"a": [1, 2]}"#, None),
            (
                r#"{"a": [1, {"b": 2}]}"#,
                r#"{"a": [1, {"b": 3}]}"#,
                Some("a[1].b"),
            ),
            (r#"{"a": [1, 2]}"#, r#"{"a": [1]}"#, Some("a")),
            (r#"{"a": 1, "c": 1}"#, r#"{"a": 1}"#, Some("c")),
            (r#"{"a": [1]}"#, r#"{"a": {"b": 1}}"#, Some("a")),
        ] {
            let found = difference(&value(given), &value(canonical));
            assert_eq!(found.as_deref(), path, "{given}");
        }
    }
}
