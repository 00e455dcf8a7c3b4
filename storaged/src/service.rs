//! The calls that other daemons make.
//!
//! What is listed is known in memory. What reads or writes disks runs on the threads of their pools, and
//! is waited for a few seconds at most, so that a slow disk holds up only those who asked for it. A
//! caller that gives up does not undo what it asked for.

use std::sync::Arc;

use loam_deployment::{NodeKey, Version};
use loam_node_api::{
    image::{Image, ImageRequest},
    page::{Page, Revision},
    storage::{
        Deletion, Disk, ImageConfig, ImageStatus, Pool, Storage, StorageError, Volume, VolumeKey,
        VolumeSpec,
    },
};
use tarpc::context::Context;

use crate::{
    image::store::Images,
    inventory::Inventory,
    placement::{self, Placement},
    secret,
};

#[derive(Clone, Debug)]
pub struct Storaged {
    inventory: Arc<Inventory>,
    images: Images,
    placement: Placement,
}

impl Storaged {
    pub fn new(inventory: Arc<Inventory>, images: Images) -> Self {
        Self {
            placement: Placement::new(inventory.changes().clone()),
            inventory,
            images,
        }
    }

    /// Does what may wait for a disk.
    async fn work<T: Send + 'static>(
        self,
        act: impl FnOnce(&Self) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        self.inventory.settled().await;
        run(move || act(&self)).await?
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
        // Whoever compares mounts with lists must not take those for gone that are not open yet.
        self.inventory.settled().await;
        let pools = self.inventory.pools();
        pools.iter().map(|pool| pool.describe()).collect()
    }

    async fn volume_ensure(
        self,
        _: Context,
        key: VolumeKey,
        spec: VolumeSpec,
        version: Version,
    ) -> Result<Volume, StorageError> {
        self.work(move |this| {
            let pools = this.inventory.pools();
            this.placement.ensure(&pools, &key, &spec, version)
        })
        .await
    }

    async fn volumes(self, _: Context, after: Option<VolumeKey>) -> Page<Volume> {
        self.inventory.settled().await;
        let volumes = placement::list(&self.inventory.pools());
        page(volumes, |volume| &volume.key, after.as_ref())
    }

    async fn volume_delete(
        self,
        _: Context,
        key: VolumeKey,
        why: Deletion,
    ) -> Result<(), StorageError> {
        self.work(move |this| {
            let pools = this.inventory.pools();
            this.placement.delete(&pools, &key, why)
        })
        .await
    }

    async fn image_ensure(self, _: Context, request: ImageRequest) -> ImageStatus {
        self.inventory.settled().await;
        self.images.ensure(request)
    }

    async fn images(self, _: Context, after: Option<Image>) -> Page<ImageStatus> {
        self.inventory.settled().await;
        page(self.images.list(), |status| &status.image, after.as_ref())
    }

    async fn image_config(self, _: Context, image: Image) -> Result<ImageConfig, StorageError> {
        self.inventory.settled().await;
        self.images.config(&image).await
    }

    async fn image_delete(self, _: Context, image: Image) -> Result<(), StorageError> {
        self.inventory.settled().await;
        self.images.delete(&image);
        Ok(())
    }

    async fn node_is(self, _: Context, node: NodeKey) -> Result<(), StorageError> {
        self.work(move |this| this.inventory.node_is(node)).await
    }

    async fn secret_load(self, _: Context, name: String) -> Result<Option<Vec<u8>>, StorageError> {
        self.work(move |this| this.inventory.secret(&name)).await
    }

    async fn secret_store(
        self,
        _: Context,
        name: String,
        secret: Vec<u8>,
    ) -> Result<(), StorageError> {
        self.work(move |this| secret::store(&this.inventory.pools(), &name, &secret))
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
#[path = "service_tests.rs"]
mod tests;
