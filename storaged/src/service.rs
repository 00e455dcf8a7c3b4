//! The calls that other daemons make.
//!
//! What reads or writes disks runs on threads of its own, so that a slow disk holds up only those
//! who asked for it. A caller that gives up does not undo what it asked for.

use std::sync::{Arc, Mutex, PoisonError};

use loam_deployment::payload::OciReference;
use loam_node_api::storage::{
    Disk, ImageState, ImageStatus, Pool, Storage, StorageError, Volume, VolumeKey, VolumeSpec,
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
}

impl Storage for Storaged {
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
    ) -> Result<Volume, StorageError> {
        self.change(move |inventory| placement::ensure(&inventory.pools(), &key, &spec))
            .await
    }

    async fn volumes(self, _: Context) -> Vec<Volume> {
        self.inventory.settled().await;
        run(move || placement::list(&self.inventory.pools()))
            .await
            .unwrap_or_default()
    }

    async fn volume_delete(self, _: Context, key: VolumeKey) -> Result<(), StorageError> {
        self.change(move |inventory| placement::delete(&inventory.pools(), &key))
            .await
    }

    async fn image_ensure(self, _: Context, image: OciReference) -> ImageStatus {
        self.inventory.settled().await;
        let asked = image.clone();
        match run(move || self.images.ensure(asked)).await {
            Ok(status) => status,
            Err(error) => ImageStatus {
                image,
                state: ImageState::Failed(error.to_string()),
            },
        }
    }

    async fn images(self, _: Context) -> Vec<ImageStatus> {
        self.inventory.settled().await;
        run(move || self.images.list()).await.unwrap_or_default()
    }

    async fn images_retain(self, _: Context, used: Vec<OciReference>) -> Result<(), StorageError> {
        self.inventory.settled().await;
        run(move || self.images.retain(&used)).await?
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

async fn run<T: Send + 'static>(
    act: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StorageError> {
    tokio::task::spawn_blocking(act)
        .await
        .map_err(|error| StorageError::Io(format!("storaged failed inside: {error}")))
}
