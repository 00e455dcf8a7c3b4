//! What of a map belongs to one contract.

use std::collections::BTreeMap;

use loam_deployment::{ContractId, ImageDigest, Name};
use loam_node_api::{WorkloadId, network::InterfaceId, storage::VolumeKey};

/// A key in whose order the contract comes first.
pub trait Owned: Ord + Sized {
    /// No key of the contract sorts before it, and every key of the contracts before it does.
    fn first(contract: ContractId) -> Self;

    fn contract(&self) -> ContractId;
}

impl Owned for WorkloadId {
    fn first(contract: ContractId) -> Self {
        // Every name begins with a letter, so none sorts before this one.
        let name: Name = "a".parse().expect("a letter is a name");
        Self::new(contract, name)
    }

    fn contract(&self) -> ContractId {
        self.contract
    }
}

impl Owned for InterfaceId {
    fn first(contract: ContractId) -> Self {
        Self {
            machine: WorkloadId::first(contract),
            network: WorkloadId::first(ContractId(0)),
        }
    }

    fn contract(&self) -> ContractId {
        self.machine.contract
    }
}

/// The part of the map that is the contract's.
pub fn of<K: Owned, V>(
    map: &BTreeMap<K, V>,
    contract: ContractId,
) -> impl Iterator<Item = (&K, &V)> {
    let from = map.range(K::first(contract)..);
    from.take_while(move |(key, _)| key.contract() == contract)
}

/// The contract's volumes, its machines' root layers last.
pub fn volumes<V>(
    map: &BTreeMap<VolumeKey, V>,
    contract: ContractId,
) -> impl Iterator<Item = (&VolumeKey, &V)> {
    let from = |key| map.range(key..);
    let data = from(VolumeKey::Data(WorkloadId::first(contract)));
    let roots = from(VolumeKey::Root {
        machine: WorkloadId::first(contract),
        image: ImageDigest([0; 32]),
    });
    let own = move |key: &VolumeKey| key.contract() == contract;
    // Behind the last of its data there may be others' data, and only then its layers.
    data.take_while(move |(key, _)| own(key) && matches!(key, VolumeKey::Data(_)))
        .chain(roots.take_while(move |(key, _)| own(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACTS: [u64; 4] = [0, 2, 3, 4];

    fn map<K: Ord + Clone>(key: impl Fn(u64, &str) -> K) -> BTreeMap<K, K> {
        let names = ["a", "b9", "zz"];
        let keys = CONTRACTS
            .iter()
            .flat_map(|contract| names.map(|name| key(*contract, name)));
        keys.map(|key| (key.clone(), key)).collect()
    }

    fn id(contract: u64, name: &str) -> WorkloadId {
        WorkloadId::new(ContractId(contract), name.parse().unwrap())
    }

    #[test]
    fn a_contract_has_its_own_and_nothing_else() {
        let machines = map(id);
        let interfaces = map(|contract, name| InterfaceId {
            machine: id(contract, name),
            network: id(contract, "a"),
        });
        for contract in [0, 1, 3, 4, 5] {
            let expected = if CONTRACTS.contains(&contract) { 3 } else { 0 };
            let contract = ContractId(contract);
            let found: Vec<_> = of(&machines, contract).collect();
            assert_eq!(found.len(), expected, "{contract}");
            assert!(found.iter().all(|(key, _)| key.contract == contract));
            let found: Vec<_> = of(&interfaces, contract).collect();
            assert_eq!(found.len(), expected, "{contract}");
            assert!(
                found
                    .iter()
                    .all(|(key, _)| key.machine.contract == contract)
            );
        }
    }

    #[test]
    fn layers_are_among_a_contract_s_volumes() {
        let mut all = map(|contract, name| VolumeKey::Data(id(contract, name)));
        for image in [0, 0xff] {
            all.extend(map(|contract, name| VolumeKey::Root {
                machine: id(contract, name),
                image: ImageDigest([image; 32]),
            }));
        }
        for contract in [0, 1, 3, 4, 5] {
            let expected = if CONTRACTS.contains(&contract) { 9 } else { 0 };
            let contract = ContractId(contract);
            let found: Vec<_> = volumes(&all, contract).collect();
            assert_eq!(found.len(), expected, "{contract}");
            assert!(found.iter().all(|(key, _)| key.contract() == contract));
        }
    }
}
