//! [`Written`]: a deployment that names images by tags, whose digests only registries know.

use std::collections::BTreeMap;

use super::{Draft, WrittenError, draft::Place};
use crate::{
    ImageDigest, ImageName, Name,
    payload::{Body, ImageSource, Workload},
};

/// A deployment as it was written. Every limit is checked; of images that are named by a tag it is
/// not known yet which they are. Nothing is asked here: whoever knows registries asks for the digests
/// of [`Written::unpinned`], and tells them to [`Written::pinned`].
#[derive(Debug)]
pub struct Written {
    /// In the places of digests that are not known are zeros.
    pub(super) draft: Draft,
    pub(super) unpinned: Vec<Unpinned>,
}

/// An image that is named by a tag alone.
#[derive(Clone, Debug)]
pub struct Unpinned {
    pub machine: Name,
    pub image: ImageName,
    /// Where that stands.
    pub(super) place: WrittenError,
}

impl Written {
    /// What is to be asked for, in the order of the file's machines.
    pub fn unpinned(&self) -> &[Unpinned] {
        &self.unpinned
    }

    /// What the registry of the machine's image is to be told: user and password.
    pub fn login(&self, machine: &Name) -> Option<(&str, &str)> {
        let secret = |place: &Place| {
            let mut secrets = self.draft.secrets.iter();
            let found = secrets.find(|one| one.workload == *machine && one.place == *place)?;
            std::str::from_utf8(&found.plain).ok()
        };
        Some((secret(&Place::ImageUser)?, secret(&Place::ImagePassword)?))
    }

    /// The deployment with these digests, each for the machine of that name.
    ///
    /// # Errors
    ///
    /// One is missing.
    pub fn pinned(mut self, digests: &BTreeMap<Name, ImageDigest>) -> Result<Draft, WrittenError> {
        for unpinned in &self.unpinned {
            let Unpinned { machine, image, .. } = unpinned;
            let digest = digests.get(machine).ok_or_else(|| {
                unpinned.error(format!("it is not known which image {image} names"))
            })?;
            let Body::Workload(workloads) = &mut self.draft.body else {
                continue;
            };
            if let Some(Workload::Machine(machine)) = workloads.get_mut(machine) {
                machine.image = ImageSource::Oci(image.pinned(*digest));
            }
        }
        Ok(self.draft)
    }
}

impl Unpinned {
    /// What is wrong with it, as any mistake in the file is told.
    pub fn error(&self, message: impl Into<String>) -> WrittenError {
        WrittenError {
            message: message.into(),
            ..self.place.clone()
        }
    }
}
