//! A farmer's policy.

use ciborium::Value;

use super::{Decode, Encode, Fields, Map, Named};
use crate::{
    payload::{NodePolicy, PowerPolicy, UpdateWindow},
    rejection::FieldError,
};

impl Named for PowerPolicy {
    const NAMES: &'static [(Self, &'static str)] =
        &[(Self::On, "on"), (Self::OnDemand, "on-demand")];
}

impl Encode for NodePolicy {
    fn encode(&self) -> Value {
        Map::default()
            .unless_default("wipe_disks", &self.wipe_disks)
            .unless_default("public_addresses", &self.public_addresses)
            .unless_default("gateway", &self.gateway)
            .unless_default("power", &self.power)
            .with_some("update_window", self.update_window.as_ref())
            .with_some("publish_ports", self.publish_ports.map(PortRange).as_ref())
            .finish()
    }
}

impl Decode for NodePolicy {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        let policy = Self {
            wipe_disks: fields.or_default("wipe_disks")?,
            public_addresses: fields.or_default("public_addresses")?,
            gateway: fields.or_default("gateway")?,
            power: fields.or_default("power")?,
            update_window: fields.optional("update_window")?,
            publish_ports: fields
                .optional("publish_ports")?
                .map(|PortRange(range)| range),
        };
        fields.finish()?;
        Ok(policy)
    }
}

impl Encode for UpdateWindow {
    fn encode(&self) -> Value {
        Map::default()
            .with("start_minute", &self.start_minute)
            .with("minutes", &self.minutes)
            .finish()
    }
}

impl Decode for UpdateWindow {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        let window = Self {
            start_minute: fields.required("start_minute")?,
            minutes: fields.required("minutes")?,
        };
        fields.finish()?;
        Ok(window)
    }
}

/// First and last port, both included.
struct PortRange((u16, u16));

impl Encode for PortRange {
    fn encode(&self) -> Value {
        let (first, last) = self.0;
        Map::default()
            .with("first", &first)
            .with("last", &last)
            .finish()
    }
}

impl Decode for PortRange {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        let range = (fields.required("first")?, fields.required("last")?);
        fields.finish()?;
        Ok(Self(range))
    }
}
