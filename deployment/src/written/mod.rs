//! Deployments as people write them, in TOML.
//!
//! [`read`] gives what is [`Written`], whose every limit is checked. With the digests of the images that
//! it names by a tag ([`Written::pinned`]) it is a [`Draft`], which becomes a payload once node, contract
//! and version are known ([`Draft::for_node`], [`Draft::for_farm`]). An error names file, line, column
//! and field.
//!
//! In every string value `${env:NAME}` stands for what the caller's lookup gives for `NAME`;
//! `$${env:` is a literal `${env:`. Sizes are numbers of bytes or texts as `512MiB`.
//!
//! | `kind = "workload"` | value | when absent |
//! |---|---|---|
//! | `description` | text | empty |
//! | `valid_until` | date and time with offset, or seconds since 1970 | for ever |
//! | `[machine.NAME]` | `image`: an [`ImageName`](crate::ImageName); or `disk`: the same, with its digest | |
//! | | `image_login`: `{ registry, sealed_user, sealed_password }`, texts | none: what anybody may read |
//! | | `cpus`, `memory` | |
//! | | `root`: size | `1GiB` |
//! | | `command`, `ssh_keys`, `devices`: lists of text | empty |
//! | | `env`, `sealed_env`: tables of text | empty |
//! | | `volumes`: table of volume = mount path | empty |
//! | | `networks`: list of `network` or `network=address` | empty |
//! | | `mesh`: bool | `false` |
//! | | `publish`: list of `protocol:port of the node:port of the machine` | empty |
//! | | `restart`: `always`, `on-failure`, `never` | `always` |
//! | `[volume.NAME]` | `size` | |
//! | | `media`, `filesystem`, `encrypted` | `any`, `ext4`, `true` |
//! | `[network.NAME]` | `ipv4`: subnet | |
//! | | `ipv6`: subnet; `nat`: bool | none, `false` |
//! | | `peers`: list of `{ public_key = base64, allowed = [subnet], endpoint = "address:port" }` | empty |
//! | `[gateway.NAME]` | `name` or `domain`; `backends`: list of text | |
//! | | `tls`: `terminate`, `passthrough` | `terminate` |
//! | `[public-ip.NAME]` | `v4`, `v6`: bool | `false` |
//! | `[object-store.NAME]` | `size`, `mode`, `sealed_password` | |
//! | | `public`: bool | `false` |
//!
//! | `kind = "node"` | value | when absent |
//! |---|---|---|
//! | `description`, `valid_until` | as above | |
//! | `wipe_disks` | list of disk ids | empty |
//! | `public_addresses` | list of subnets | empty |
//! | `gateway` | bool | `false` |
//! | `power` | `on`, `on-demand` | `on` |
//! | `update_window` | `{ start = "02:00", minutes = 120 }`, in UTC | any time |
//! | `publish_ports` | `"8000-8999"` | the node's own range |

mod draft;
mod environment;
mod policy;
mod source;
mod time;
mod unpinned;
mod workloads;

use crate::{limits, payload::Body, rejection::Problem, validate};

pub use draft::{Draft, Recipient};
pub use source::WrittenError;
use source::{Item, Source, Table};
pub use unpinned::{Unpinned, Written};

/// What stands in a payload's places until it is known.
#[derive(Default)]
struct Pending {
    secrets: Vec<draft::Secret>,
    images: Vec<Unpinned>,
}

/// Reads a deployment. `file` is how errors call it; `lookup` answers for `${env:NAME}`.
pub fn read(
    file: &str,
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Written, WrittenError> {
    let source = Source::new(file, text, lookup);
    if text.len() > limits::WRITTEN_BYTES {
        let (size, max) = (text.len(), limits::WRITTEN_BYTES);
        return Err(source.error(
            0,
            "",
            format!("has {size} bytes; at most {max} are allowed"),
        ));
    }
    let document = toml::de::DeTable::parse(text).map_err(|error| source.syntax_error(&error))?;
    let written = document_of(source.root(&document)?)?;
    let draft = &written.draft;
    let checked =
        validate::description(&draft.description).and_then(|()| validate::body(&draft.body));
    checked.map_err(|error| match error.problem {
        Problem::Value(why) => source.error_at_payload_path(&error.path, why),
        other => source.error_at_payload_path(&error.path, other.to_string()),
    })?;
    Ok(written)
}

fn document_of(mut root: Table<'_>) -> Result<Written, WrittenError> {
    let kind = root.required("kind")?;
    let description = root
        .optional("description")
        .map(|item| item.string())
        .transpose()?;
    let valid_until = root
        .optional("valid_until")
        .map(time::seconds)
        .transpose()?;
    let mut pending = Pending::default();
    let body = match kind.string()?.as_str() {
        "workload" => Body::Workload(workloads::read(&mut root, &mut pending)?),
        "node" => Body::Node(policy::read(&mut root)?),
        other => {
            return Err(kind.error(format!("`{other}` is not one of `workload`, `node`")));
        }
    };
    root.finish()?;
    let draft = Draft {
        description: description.unwrap_or_default(),
        valid_until,
        body,
        secrets: pending.secrets,
    };
    let unpinned = pending.images;
    Ok(Written { draft, unpinned })
}
