//! A grid with people on it.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use loam_chain::{
    AccountKey, Address, BlockRef, Capacity, ContractRecord, EndpointReader, GridReader,
    GridWriter, LocalChain, LocalChainOptions, Mining, NodeRegistration, Refusal, WeightedKey,
    WriteError, WriterOptions,
};
use loam_deployment::{Bytes, ContractId, FarmId, NodeKey, TwinId};

/// A farmer with a farm, a tenant, and a node whose account has no coins.
pub struct World {
    pub chain: LocalChain,
    pub reader: EndpointReader,
    pub farmer: GridWriter,
    pub farm: FarmId,
    pub tenant: GridWriter,
    pub twin: TwinId,
    pub node: Node,
}

pub struct Node {
    pub key: NodeKey,
    pub writer: GridWriter,
    pub registration: NodeRegistration,
}

impl World {
    pub async fn start() -> Self {
        Self::on(Mining::OnTransaction).await
    }

    pub async fn on(mining: Mining) -> Self {
        let options = LocalChainOptions {
            mining,
            ..LocalChainOptions::default()
        };
        let chain = LocalChain::start(options).await.unwrap();
        let reader = EndpointReader::new(&chain.config()).unwrap();
        let farmer = writer(&chain, LocalChain::account(1));
        let tenant = writer(&chain, LocalChain::account(2));
        farmer.register_twin(&[weighted(1, 1)], 1).await.unwrap();
        let (twin, _) = tenant.register_twin(&[weighted(2, 1)], 1).await.unwrap();
        let (farm, _) = farmer.create_farm("north").await.unwrap();
        let node = Node::new(&chain, farm, 7);
        node.writer.register_node(&node.registration).await.unwrap();
        Self {
            chain,
            reader,
            farmer,
            farm,
            tenant,
            twin,
            node,
        }
    }

    pub async fn latest(&self) -> BlockRef {
        self.reader.latest().await.unwrap()
    }

    pub async fn revision(&self) -> u64 {
        let at = self.latest().await;
        self.reader.node_revision(self.node.key, at).await.unwrap()
    }

    pub async fn contract(&self, id: ContractId) -> ContractRecord {
        let at = self.latest().await;
        self.reader.contract(id, at).await.unwrap().unwrap()
    }

    /// The tenant deploys these bytes on the node.
    pub async fn deploy(&self, bytes: &[u8]) -> ContractId {
        let prepare = |_| Ok::<_, std::convert::Infallible>(bytes.to_vec());
        let deployed = self.tenant.deploy_new(self.node.key, prepare).await;
        deployed.unwrap().0
    }
}

impl Node {
    /// Not yet registered.
    pub fn new(chain: &LocalChain, farm: FarmId, seed: u8) -> Self {
        let account = AccountKey::from_seed(&[seed | 0x40; 32]).unwrap();
        let writer = writer(chain, account);
        let seed = [seed; 32];
        let key = NodeKey(SigningKey::from_bytes(&seed).verifying_key().to_bytes());
        let registration = NodeRegistration {
            key,
            farm,
            hpke_key: [9; 32],
            capacity: Capacity {
                cpus: 8,
                memory: Bytes::gib(16),
                ssd: Bytes::gib(100),
                hdd: Bytes::gib(2000),
            },
            addresses: "10.0.2.15".to_owned(),
            binding: writer.bind(&seed),
        };
        Self {
            key,
            writer,
            registration,
        }
    }
}

pub fn writer(chain: &LocalChain, key: AccountKey) -> GridWriter {
    let options = WriterOptions {
        poll: Duration::from_millis(20),
        ..WriterOptions::default()
    };
    GridWriter::new(&chain.config(), key, options).unwrap()
}

/// Someone with coins and without a twin.
pub fn stranger(chain: &LocalChain) -> GridWriter {
    writer(chain, LocalChain::account(3))
}

pub fn weighted(key: u8, weight: u16) -> WeightedKey {
    WeightedKey {
        key: [key; 32],
        weight,
    }
}

pub fn dev_address(number: usize) -> Address {
    LocalChain::account(number).address()
}

/// The reason why the contract said no.
pub fn refusal<T: std::fmt::Debug>(answer: Result<T, WriteError>) -> Refusal {
    match answer {
        Err(WriteError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}
