//! Plain values: numbers, texts, byte strings, lists, maps, addresses.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ciborium::Value;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::fields::{
    Decode, Encode, Fields, Map, Named, invalid, join, sorted_map, text_map, wrong_type,
};
use crate::{Bytes, Name, rejection::FieldError};

impl<T: Named> Encode for T {
    fn encode(&self) -> Value {
        Value::Text(self.name().to_owned())
    }
}

impl<T: Named> Decode for T {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        T::from_name(&String::decode(value, path)?).map_err(|why| invalid(path, why))
    }
}

macro_rules! unsigned {
    ($($type:ident $expected:literal),*) => {$(
        impl Encode for $type {
            fn encode(&self) -> Value {
                Value::Integer((*self).into())
            }
        }

        impl Decode for $type {
            fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
                let number = value.as_integer().and_then(|number| number.try_into().ok());
                number.map_or_else(|| wrong_type(path, $expected), Ok)
            }
        }
    )*};
}

unsigned!(
    u8 "a number from 0 to 255",
    u16 "a number from 0 to 65535",
    u32 "a number from 0 to 4294967295",
    u64 "a number from 0 to 2^64 - 1",
    i32 "a number from -2^31 to 2^31 - 1"
);

macro_rules! transparent {
    ($($type:path),*) => {$(
        impl Encode for $type {
            fn encode(&self) -> Value {
                self.0.encode()
            }
        }

        impl Decode for $type {
            fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
                Decode::decode(value, path).map($type)
            }
        }
    )*};
}

transparent!(
    Bytes,
    crate::TwinId,
    crate::FarmId,
    crate::ContractId,
    crate::Version,
    crate::NodeKey
);

impl Encode for bool {
    fn encode(&self) -> Value {
        Value::Bool(*self)
    }
}

impl Decode for bool {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        value
            .as_bool()
            .map_or_else(|| wrong_type(path, "true or false"), Ok)
    }
}

impl Encode for String {
    fn encode(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl Decode for String {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        value.into_text().or_else(|_| wrong_type(path, "text"))
    }
}

impl Encode for Name {
    fn encode(&self) -> Value {
        Value::Text(self.as_str().to_owned())
    }
}

impl Decode for Name {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        String::decode(value, path)?
            .try_into()
            .map_err(|why| invalid(path, why))
    }
}

/// A byte string of any length; `Vec<u8>` itself would be an array of numbers.
pub(crate) struct ByteString(pub Vec<u8>);

impl Encode for ByteString {
    fn encode(&self) -> Value {
        Value::Bytes(self.0.clone())
    }
}

impl Decode for ByteString {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        value
            .into_bytes()
            .map(Self)
            .or_else(|_| wrong_type(path, "bytes"))
    }
}

impl Encode for [u8; 32] {
    fn encode(&self) -> Value {
        Value::Bytes(self.to_vec())
    }
}

impl Decode for [u8; 32] {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let bytes = value
            .as_bytes()
            .and_then(|bytes| bytes.as_slice().try_into().ok());
        bytes.map_or_else(|| wrong_type(path, "32 bytes"), Ok)
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self) -> Value {
        Value::Array(self.iter().map(Encode::encode).collect())
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let Value::Array(items) = value else {
            return wrong_type(path, "a list");
        };
        let items = items.into_iter().enumerate();
        items
            .map(|(index, item)| T::decode(item, &format!("{path}[{index}]")))
            .collect()
    }
}

impl<K: AsRef<str>, T: Encode> Encode for BTreeMap<K, T> {
    fn encode(&self) -> Value {
        let entries = self
            .iter()
            .map(|(key, value)| (key.as_ref().to_owned(), value.encode()));
        sorted_map(entries.collect())
    }
}

impl<K: TryFrom<String> + Ord, T: Decode> Decode for BTreeMap<K, T>
where
    K::Error: ToString,
{
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let entries = text_map(value, path)?.into_iter();
        entries
            .map(|(key, value)| {
                let value = T::decode(value, &join(path, &key))?;
                Ok((
                    K::try_from(key).map_err(|why| invalid(path, why.to_string()))?,
                    value,
                ))
            })
            .collect()
    }
}

/// 4 or 16 bytes, in network order.
impl Encode for IpAddr {
    fn encode(&self) -> Value {
        Value::Bytes(match self {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        })
    }
}

impl Decode for IpAddr {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let bytes = value.as_bytes().map(Vec::as_slice).unwrap_or_default();
        if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
            Ok(v4.into())
        } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
            Ok(v6.into())
        } else {
            wrong_type(path, "an address of 4 or 16 bytes")
        }
    }
}

/// `[address, prefix length]`.
impl Encode for IpNet {
    fn encode(&self) -> Value {
        Value::Array(vec![self.addr().encode(), self.prefix_len().encode()])
    }
}

impl Decode for IpNet {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let parts = value
            .into_array()
            .ok()
            .and_then(|v| <[Value; 2]>::try_from(v).ok());
        let Some([address, prefix]) = parts else {
            return wrong_type(path, "a subnet: a list of address and prefix length");
        };
        let address = IpAddr::decode(address, path)?;
        IpNet::new(address, u8::decode(prefix, path)?).map_err(|why| invalid(path, why))
    }
}

macro_rules! family {
    ($net:ident, $variant:ident, $expected:literal) => {
        impl Encode for $net {
            fn encode(&self) -> Value {
                IpNet::$variant(*self).encode()
            }
        }

        impl Decode for $net {
            fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
                match IpNet::decode(value, path)? {
                    IpNet::$variant(net) => Ok(net),
                    _ => wrong_type(path, $expected),
                }
            }
        }
    };
}

family!(Ipv4Net, V4, "an IPv4 subnet");
family!(Ipv6Net, V6, "an IPv6 subnet");

impl Encode for SocketAddr {
    fn encode(&self) -> Value {
        Map::default()
            .with("address", &self.ip())
            .with("port", &self.port())
            .finish()
    }
}

impl Decode for SocketAddr {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        let address: IpAddr = fields.required("address")?;
        let port = fields.required("port")?;
        fields.finish()?;
        Ok((address, port).into())
    }
}
