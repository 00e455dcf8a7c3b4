//! [`Image`]: which image, and whose. How the daemons of a node name images among themselves.
//!
//! What a registry shows to anybody is anybody's on the node too. What it shows only to those who log
//! in is not: whoever knows a digest would have the bytes, and no registry was asked. So an image that
//! is fetched with a login is of the contract that brought the login, and of no other, from its first
//! byte on.

use std::fmt;

use loam_deployment::{ContractId, ImageDigest, payload::OciReference};
use serde::{Deserialize, Serialize};

/// An image, as somebody asks a registry for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Image {
    pub reference: OciReference,
    /// With whose login it is fetched. None: with none, so that it is anybody's. (So are those that
    /// were kept before there were logins.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_for: Option<ContractId>,
}

/// The bytes of an image, by whatever name, as far as they are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageContent {
    pub digest: ImageDigest,
    /// As in [`Image::only_for`].
    pub only_for: Option<ContractId>,
}

/// What a registry is asked for, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRequest {
    pub reference: OciReference,
    pub login: Option<ImageLogin>,
}

/// A contract's account at the registry of one of its images. It goes to that registry and nowhere
/// else: to no disk, log or report.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLogin {
    pub contract: ContractId,
    pub user: String,
    pub password: String,
}

impl Image {
    pub fn content(&self) -> ImageContent {
        ImageContent {
            digest: self.reference.digest(),
            only_for: self.only_for,
        }
    }
}

impl ImageRequest {
    pub fn image(&self) -> Image {
        Image {
            reference: self.reference.clone(),
            only_for: ImageLogin::owner(self.login.as_ref()),
        }
    }
}

impl ImageLogin {
    /// Whose an image is that is fetched with this login, or with none ([`Image::only_for`]).
    pub fn owner(login: Option<&Self>) -> Option<ContractId> {
        login.map(|login| login.contract)
    }
}

/// One that is anybody's.
impl From<OciReference> for Image {
    fn from(reference: OciReference) -> Self {
        Self {
            reference,
            only_for: None,
        }
    }
}

/// Without a login.
impl From<OciReference> for ImageRequest {
    fn from(reference: OciReference) -> Self {
        Self {
            reference,
            login: None,
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reference)?;
        match self.only_for {
            Some(contract) => write!(f, " of contract {contract}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ImageLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageLogin")
            .field("contract", &self.contract)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference() -> OciReference {
        format!("a.org/x@sha256:{}", "ab".repeat(32))
            .parse()
            .unwrap()
    }

    #[test]
    fn an_image_that_was_named_before_there_were_logins_is_anybody_s() {
        let before = serde_json::json!({ "reference": reference() });
        let read: Image = serde_json::from_value(before.clone()).unwrap();
        assert_eq!(read, Image::from(reference()));
        assert_eq!(serde_json::to_value(&read).unwrap(), before);
        let own = Image {
            only_for: Some(ContractId(u64::MAX)),
            ..read
        };
        let written = serde_json::to_string(&own).unwrap();
        assert_eq!(serde_json::from_str::<Image>(&written).unwrap(), own);
    }

    #[test]
    fn what_is_asked_for_with_a_login_is_of_its_contract_and_shows_no_password() {
        let mut request = ImageRequest::from(reference());
        assert_eq!(request.image(), Image::from(reference()));
        request.login = Some(ImageLogin {
            contract: ContractId(7),
            user: "alice".to_owned(),
            password: "hunter2".to_owned(),
        });
        assert_eq!(request.image().only_for, Some(ContractId(7)));
        let shown = format!("{request:?} {}", request.image());
        assert!(
            !shown.contains("hunter2") && !shown.contains("alice"),
            "{shown}"
        );
    }
}
