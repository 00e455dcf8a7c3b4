//! The checked-in vectors, which another implementation made (`vectors/README.md`), both ways.

use std::{collections::BTreeMap, path::Path};

use hpke::rand_core;
use loam_deployment::{
    ChainContext, ContractId, FarmId, Name, NodeKey, Payload, Rejection, SigningKey, TwinId,
    Version, cbor,
    envelope::{self, Expected, Farm, TwinKeys},
    report::{self, Report, ReportError},
    seal::{self, SealContext, SealedField},
    written::{self, Recipient},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

fn load<T: DeserializeOwned>(file: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("vectors")
        .join(file);
    let text = std::fs::read_to_string(&path).expect("the vectors are checked in");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Bytes, written in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Hex(Vec<u8>);

impl TryFrom<String> for Hex {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        hex::decode(text).map(Self)
    }
}

impl Hex {
    fn array<const N: usize>(&self) -> [u8; N] {
        self.0
            .as_slice()
            .try_into()
            .expect("a byte string of the right length")
    }
}

#[derive(Deserialize)]
struct Vectors<T> {
    /// What holds for all, as JSON, so that single values can be overridden.
    expected: Value,
    vectors: Vec<T>,
}

/// What the chain's records say, as the vectors have it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Records {
    chain_id: u64,
    grid: Hex,
    node: NodeKey,
    farm: Option<FarmRecord>,
    contract: ContractId,
    version: Version,
    owner: TwinId,
    keys: Vec<(Hex, u32)>,
    threshold: u32,
    now: u64,
    running: Option<Version>,
}

#[derive(Deserialize)]
struct FarmRecord {
    id: FarmId,
    twin: TwinId,
}

impl Records {
    fn new(common: &Value, overrides: &Value) -> Self {
        let mut merged = common.clone();
        for (key, value) in overrides.as_object().expect("overrides are an object") {
            merged[key] = value.clone();
        }
        serde_json::from_value(merged).expect("the records of a vector")
    }

    fn chain(&self) -> ChainContext {
        ChainContext {
            chain_id: self.chain_id,
            contract: self.grid.array(),
        }
    }

    fn keys(&self) -> TwinKeys {
        let keys = self.keys.iter().map(|(key, weight)| (key.array(), *weight));
        TwinKeys {
            keys: keys.collect(),
            threshold: self.threshold,
        }
    }

    fn verify(&self, envelope: &[u8]) -> Result<Payload, Rejection> {
        let keys = self.keys();
        let expected = Expected {
            chain: self.chain(),
            node: self.node,
            farm: self.farm.as_ref().map(|farm| Farm {
                id: farm.id,
                twin: farm.twin,
            }),
            contract: self.contract,
            version: self.version,
            owner: self.owner,
            keys: &keys,
            now: self.now,
            running: self.running,
        };
        envelope::verify(envelope, &expected)
    }
}

#[derive(Deserialize)]
struct Valid {
    name: String,
    expected: Value,
    signers: Vec<Signer>,
    payload: Hex,
    envelope: Hex,
    json: Option<Value>,
    toml: Option<String>,
}

#[derive(Deserialize)]
struct Signer {
    twin: TwinId,
    seed: Hex,
}

#[test]
fn what_is_valid_verifies_and_signs_to_the_same_bytes() {
    let Vectors::<Valid> { expected, vectors } = load("deployments.json");
    assert!(!vectors.is_empty());
    for vector in vectors {
        let name = &vector.name;
        let records = Records::new(&expected, &vector.expected);
        let payload = records
            .verify(&vector.envelope.0)
            .unwrap_or_else(|rejection| panic!("{name}: {rejection}"));
        assert_eq!(cbor::encode(&payload), vector.payload.0, "{name}");

        let keys: Vec<_> = vector
            .signers
            .iter()
            .map(|signer| (signer.twin, SigningKey::from_bytes(&signer.seed.array())))
            .collect();
        let signers: Vec<_> = keys.iter().map(|(twin, key)| (*twin, key)).collect();
        let signed = envelope::sign(&payload, &records.chain(), &signers);
        assert_eq!(signed.as_ref(), Ok(&vector.envelope.0), "{name}");

        if let Some(json) = &vector.json {
            assert_eq!(
                &serde_json::to_value(&payload).expect("JSON"),
                json,
                "{name}"
            );
            let read: Payload = serde_json::from_value(json.clone()).expect("a payload");
            assert_eq!(read, payload, "{name}");
        }
        if let Some(toml) = &vector.toml {
            let draft = written::read("vector.toml", toml, &|_| None)
                .and_then(|written| written.pinned(&BTreeMap::new()))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            let recipient = Recipient {
                chain: records.chain(),
                node: records.node,
                hpke_public: [0; 32],
                contract: records.contract,
                version: records.version,
            };
            assert_eq!(draft.for_node(&recipient).as_ref(), Ok(&payload), "{name}");
        }
    }
}

#[derive(Deserialize)]
struct Refused {
    name: String,
    code: String,
    path: Option<String>,
    envelope: Hex,
    expected: Value,
}

#[test]
fn each_bad_deployment_is_refused_for_the_reason_named() {
    let Vectors::<Refused> { expected, vectors } = load("refused.json");
    assert!(!vectors.is_empty());
    for Refused {
        name,
        code,
        path,
        envelope,
        expected: overrides,
    } in vectors
    {
        let records = Records::new(&expected, &overrides);
        let rejection = match records.verify(&envelope.0) {
            Ok(payload) => panic!("{name}: accepted as {payload:?}"),
            Err(rejection) => rejection,
        };
        assert_eq!(rejection.code(), code, "{name}: {rejection}");
        let refused_path = match &rejection {
            Rejection::Field(error) => Some(error.path.clone()),
            Rejection::NotCanonical { path } => Some(path.clone()),
            _ => None,
        };
        assert_eq!(refused_path, path, "{name}: {rejection}");
    }
}

#[derive(Deserialize)]
struct SealedVectors {
    vectors: Vec<SealedVector>,
}

#[derive(Deserialize)]
struct SealedVector {
    name: String,
    chain_id: u64,
    grid: Hex,
    node: NodeKey,
    contract: ContractId,
    workload: Name,
    field: String,
    node_seed: Hex,
    node_private: Hex,
    node_public: Hex,
    ephemeral_seed: Hex,
    plain: Hex,
    encapsulated: Hex,
    ciphertext: Hex,
}

#[test]
fn secrets_seal_to_the_same_bytes_and_open() {
    let SealedVectors { vectors } = load("sealed.json");
    assert!(!vectors.is_empty());
    for vector in vectors {
        let name = &vector.name;
        let keys = seal::derive_keypair(&vector.node_seed.array());
        assert_eq!(keys.private.as_slice(), vector.node_private.0, "{name}");
        assert_eq!(keys.public.as_slice(), vector.node_public.0, "{name}");
        let context = SealContext {
            chain: ChainContext {
                chain_id: vector.chain_id,
                contract: vector.grid.array(),
            },
            node: vector.node,
            contract: vector.contract,
            workload: &vector.workload,
            field: match vector.field.strip_prefix("sealed_env.") {
                Some(variable) => SealedField::Env(variable),
                None => match &*vector.field {
                    "image_login.sealed_user" => SealedField::ImageUser,
                    "image_login.sealed_password" => SealedField::ImagePassword,
                    field => {
                        assert_eq!(field, "sealed_password", "{name}");
                        SealedField::Password
                    }
                },
            },
        };
        let mut rng = Fixed(vector.ephemeral_seed.0.clone());
        let sealed =
            seal::seal_with_rng(&vector.plain.0, &keys.public, &context, &mut rng).expect("seals");
        assert_eq!(
            sealed.encapsulated.as_slice(),
            vector.encapsulated.0,
            "{name}"
        );
        assert_eq!(sealed.ciphertext, vector.ciphertext.0, "{name}");
        let opened = seal::open(&sealed, &keys.private, &context).expect("opens");
        assert_eq!(*opened, vector.plain.0, "{name}");
    }
}

/// Gives the bytes that HPKE derives its ephemeral key from, once.
struct Fixed(Vec<u8>);

impl rand_core::TryRng for Fixed {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        unreachable!("HPKE asks for whole keys")
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        unreachable!("HPKE asks for whole keys")
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        bytes.copy_from_slice(&std::mem::take(&mut self.0));
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Fixed {}

#[derive(Deserialize)]
struct Reports {
    chain_id: u64,
    grid: Hex,
    node: NodeKey,
    node_seed: Hex,
    vectors: Vec<ValidReport>,
    refused: Vec<RefusedReport>,
}

#[derive(Deserialize)]
struct ValidReport {
    name: String,
    envelope: Hex,
    json: Value,
}

#[derive(Deserialize)]
struct RefusedReport {
    name: String,
    code: String,
    envelope: Hex,
}

#[test]
fn reports_verify_and_sign_to_the_same_bytes_and_bad_ones_are_refused() {
    let known: Reports = load("reports.json");
    let chain = ChainContext {
        chain_id: known.chain_id,
        contract: known.grid.array(),
    };
    let key = SigningKey::from_bytes(&known.node_seed.array());
    assert!(!known.vectors.is_empty() && !known.refused.is_empty());
    for ValidReport {
        name,
        envelope,
        json,
    } in known.vectors
    {
        let report = report::verify(&envelope.0, &chain, &known.node)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            report::sign(&report, &chain, &key),
            Ok(envelope.0),
            "{name}"
        );
        assert_eq!(serde_json::to_value(&report).expect("JSON"), json, "{name}");
        assert_eq!(
            serde_json::from_value::<Report>(json).expect("a report"),
            report,
            "{name}"
        );
    }
    for RefusedReport {
        name,
        code,
        envelope,
    } in known.refused
    {
        let error = report::verify(&envelope.0, &chain, &known.node)
            .expect_err(&format!("{name} must be refused"));
        let refused_for = match error {
            ReportError::TooLarge { .. } => "too-large",
            ReportError::Encoding(_) => "encoding",
            ReportError::Envelope => "envelope",
            ReportError::Signature(_) => "signature",
            ReportError::WrongNode { .. } => "wrong-node",
            ReportError::Field(_) => "field",
            ReportError::NotCanonical { .. } => "not-canonical",
        };
        assert_eq!(refused_for, code, "{name}: {error}");
    }
}
