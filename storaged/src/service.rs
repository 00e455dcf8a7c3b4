//! The calls that other daemons make.
//!
//! What reads or writes disks runs on threads of its own, so that a slow disk holds up only those
//! who asked for it. A caller that gives up does not undo what it asked for.

use std::sync::{Arc, Mutex, PoisonError};

use loam_deployment::{NodeKey, Version, payload::OciReference};
use loam_node_api::{
    page::{Page, Revision},
    storage::{
        Deletion, Disk, ImageConfig, ImageStatus, Pool, Storage, StorageError, Volume, VolumeKey,
        VolumeSpec,
    },
};
use tarpc::context::Context;

use crate::{image::store::Images, inventory::Inventory, placement, secret};

#[derive(Clone, Debug)]
pub struct Storaged {
    inventory: Arc<Inventory>,
    images: Images,
    /// Held by whatever makes, changes or removes a volume or a secret.
    changing: Arc<Mutex<()>>,
}

impl Storaged {
    pub fn new(inventory: Arc<Inventory>, images: Images) -> Self {
        Self {
            inventory,
            images,
            changing: Arc::default(),
        }
    }

    async fn change<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Inventory) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        self.inventory.settled().await;
        let this = self.clone();
        run(move || {
            let _alone = this.changing.lock().unwrap_or_else(PoisonError::into_inner);
            act(&this.inventory)
        })
        .await?
    }

    /// As [`Self::change`], for one volume. Tells who listens only if the volume is another now: a
    /// caller that acts on every change would otherwise wake itself for ever.
    async fn change_volume<T: Send + 'static>(
        &self,
        key: VolumeKey,
        act: impl FnOnce(&Inventory, &VolumeKey) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        self.change(move |inventory| {
            let shown = |volume: Volume| (volume.spec, volume.path, volume.version);
            let find = || placement::find(&inventory.pools(), &key).map(shown);
            let before = find();
            let result = act(inventory, &key);
            if find() != before {
                inventory.changes().note();
            }
            result
        })
        .await
    }
}

impl Storage for Storaged {
    async fn changes(self, _: Context, seen: Revision) -> Revision {
        self.inventory.changes().since(seen).await
    }

    async fn disks(self, _: Context) -> Vec<Disk> {
        self.inventory.disks()
    }

    async fn pools(self, _: Context) -> Vec<Pool> {
        let pools = self.inventory.pools();
        run(move || pools.iter().map(|pool| pool.describe()).collect())
            .await
            .unwrap_or_default()
    }

    async fn volume_ensure(
        self,
        _: Context,
        key: VolumeKey,
        spec: VolumeSpec,
        version: Version,
    ) -> Result<Volume, StorageError> {
        self.change_volume(key, move |inventory, key| {
            placement::ensure(&inventory.pools(), key, &spec, version)
        })
        .await
    }

    async fn volumes(self, _: Context, after: Option<VolumeKey>) -> Page<Volume> {
        self.inventory.settled().await;
        let volumes = run(move || placement::list(&self.inventory.pools()))
            .await
            .unwrap_or_default();
        page(volumes, |volume| &volume.key, after.as_ref())
    }

    async fn volume_delete(
        self,
        _: Context,
        key: VolumeKey,
        why: Deletion,
    ) -> Result<(), StorageError> {
        self.change_volume(key, move |inventory, key| {
            placement::delete(&inventory.pools(), key, why)
        })
        .await
    }

    async fn image_ensure(self, _: Context, image: OciReference) -> ImageStatus {
        self.inventory.settled().await;
        self.images.ensure(image)
    }

    async fn images(self, _: Context, after: Option<OciReference>) -> Page<ImageStatus> {
        self.inventory.settled().await;
        page(self.images.list(), |status| &status.image, after.as_ref())
    }

    async fn image_config(
        self,
        _: Context,
        image: OciReference,
    ) -> Result<ImageConfig, StorageError> {
        self.inventory.settled().await;
        run(move || self.images.config(&image)).await?
    }

    async fn image_delete(self, _: Context, image: OciReference) -> Result<(), StorageError> {
        self.inventory.settled().await;
        self.images.delete(&image);
        Ok(())
    }

    async fn node_is(self, _: Context, node: NodeKey) -> Result<(), StorageError> {
        self.change(move |inventory| inventory.node_is(node)).await
    }

    async fn secret_load(self, _: Context, name: String) -> Result<Option<Vec<u8>>, StorageError> {
        self.change(move |inventory| secret::load(&inventory.pools(), &name))
            .await
    }

    async fn secret_store(
        self,
        _: Context,
        name: String,
        secret: Vec<u8>,
    ) -> Result<(), StorageError> {
        self.change(move |inventory| secret::store(&inventory.pools(), &name, &secret))
            .await
    }
}

/// The part of a list, sorted by its keys, that is behind `after`.
fn page<T, K: Ord>(items: Vec<T>, key: impl Fn(&T) -> &K, after: Option<&K>) -> Page<T> {
    let behind = items
        .into_iter()
        .skip_while(|item| after.is_some_and(|after| key(item) <= after));
    Page::of(behind)
}

async fn run<T: Send + 'static>(
    act: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StorageError> {
    tokio::task::spawn_blocking(act)
        .await
        .map_err(|error| StorageError::Io(format!("storaged failed inside: {error}")))
}

#[cfg(test)]
mod tests {
    use loam_node_api::page::MAX_ITEMS;

    use super::*;

    #[test]
    fn pages_together_are_the_list() {
        let all: Vec<usize> = (0..2 * MAX_ITEMS + 7).collect();
        let (mut got, mut after) = (Vec::new(), None);
        loop {
            let page = page(all.clone(), |n| n, after.as_ref());
            got.extend(page.items);
            after = got.last().copied();
            if !page.more {
                break;
            }
        }
        assert_eq!(got, all);
        // What it went on behind may be gone by then.
        assert_eq!(page(vec![1, 4, 5], |n| n, Some(&3)).items, [4, 5]);
        assert!(page(vec![1], |n| n, Some(&1)).items.is_empty());
    }
}
