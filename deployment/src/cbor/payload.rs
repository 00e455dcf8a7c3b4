//! The payload's own fields.

use ciborium::Value;

use super::{Decode, Encode, Fields, Map};
use crate::{
    payload::{Body, FORMAT, Payload, Target},
    rejection::{FieldError, Problem},
};

impl Encode for Payload {
    fn encode(&self) -> Value {
        let map = Map::default()
            .with("format", &FORMAT)
            .with("contract", &self.contract)
            .with("version", &self.version)
            .with_some("valid_until", self.valid_until.as_ref())
            .unless_default("description", &self.description);
        let map = match &self.target {
            Target::Node(node) => map.with("node", node),
            Target::Farm(farm) => map.with("farm", farm),
        };
        match &self.body {
            Body::Workload(workloads) => map
                .with("kind", &"workload".to_owned())
                .with("workloads", workloads),
            Body::Node(policy) => map.with("kind", &"node".to_owned()).with("policy", policy),
        }
        .finish()
    }
}

impl Decode for Payload {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        fields.format(FORMAT)?;
        let kind: String = fields.required("kind")?;
        let payload = Self {
            target: match fields.either("node", "farm")? {
                Either::First(node) => Target::Node(node),
                Either::Second(farm) => Target::Farm(farm),
            },
            contract: fields.required("contract")?,
            version: fields.required("version")?,
            valid_until: fields.optional("valid_until")?,
            description: fields.or_default("description")?,
            body: match kind.as_str() {
                "workload" => Body::Workload(fields.required("workloads")?),
                "node" => Body::Node(fields.required("policy")?),
                other => {
                    let why = format!("`{other}` is not one of `workload`, `node`");
                    return Err(fields.error("kind", Problem::Value(why)));
                }
            },
        };
        fields.finish()?;
        Ok(payload)
    }
}

/// One of two fields that exclude each other.
pub(super) enum Either<A, B> {
    First(A),
    Second(B),
}

impl Fields<'_> {
    /// Refuses every format but the one given.
    pub(crate) fn format(&mut self, expected: u64) -> Result<(), FieldError> {
        match self.required::<u64>("format")? {
            format if format == expected => Ok(()),
            format => {
                let why = format!("{format} is not known here; only {expected} is");
                Err(self.error("format", Problem::Value(why)))
            }
        }
    }

    pub(super) fn either<A: Decode, B: Decode>(
        &mut self,
        first: &str,
        second: &str,
    ) -> Result<Either<A, B>, FieldError> {
        match (self.optional(first)?, self.optional(second)?) {
            (Some(a), None) => Ok(Either::First(a)),
            (None, Some(b)) => Ok(Either::Second(b)),
            (None, None) => Err(self.error(first, Problem::Missing)),
            (Some(_), Some(_)) => {
                let why = format!("excludes `{first}`; only one of them may be there");
                Err(self.error(second, Problem::Value(why)))
            }
        }
    }
}
