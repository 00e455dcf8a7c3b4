//! Images that are named by a tag: which they are now, asked of their registries before anything is signed.
//! A node is never asked that: tomorrow it would run something else than what its owner signed.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use loam_deployment::{
    ImageDigest,
    payload::{Body, ImageSource, OciReference, Workload},
    written::{Draft, Unpinned, Written, WrittenError},
};
use loam_node_api::{clock::Clock, tls};
use loam_oci::{
    address::{self, Outside, Reach},
    login::Credentials,
    platform::Level,
    registry::{Registry, RegistryError},
    tag::{self, TagError, Tagged},
};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::output::plain;

/// For one image, however often a registry wants to be asked later.
const PATIENCE: Duration = Duration::from_secs(120);

/// A registry that does not say when it wants to be asked again.
const PAUSE: Duration = Duration::from_secs(5);

/// Who watches is not left for longer without a word.
const WORD: Duration = Duration::from_secs(4);

/// By the same authorities as nodes judge registries: what is not trusted here would not be there.
pub fn outside() -> anyhow::Result<Outside> {
    let clock = || Clock {
        set: true,
        ..Clock::default()
    };
    Ok(Outside {
        reach: Reach::Anywhere,
        tls: tls::client_config(tls::public_roots(), Arc::new(clock))?,
    })
}

/// The deployment with the digest of each image that it names by a tag. Says on standard error whom it
/// asks, and what it finds.
pub async fn pinned(written: Written) -> anyhow::Result<Draft> {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4}  {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    let say = |line: &str| {
        let line = plain(line);
        bar.suspend(|| eprintln!("{line}"));
        bar.set_message(line);
    };
    let found = pinned_by(written, &outside()?, &say).await;
    bar.finish_and_clear();
    let draft = found?;
    for image in images(&draft).values() {
        if is_out_of_reach(image.registry()) {
            let registry = image.registry();
            eprintln!(
                "loam: {registry} is no registry that a node may ask: to the node it is the node itself \
                 or nobody; name one that others reach too"
            );
        }
    }
    Ok(draft)
}

/// Which image each machine runs.
pub fn images(draft: &Draft) -> BTreeMap<String, OciReference> {
    let Body::Workload(workloads) = draft.body() else {
        return BTreeMap::new();
    };
    let images = workloads.iter().filter_map(|(name, workload)| {
        let Workload::Machine(machine) = workload else {
            return None;
        };
        let (ImageSource::Oci(image) | ImageSource::Disk(image)) = &machine.image;
        Some((name.to_string(), image.clone()))
    });
    images.collect()
}

async fn pinned_by(
    written: Written,
    outside: &Outside,
    say: &impl Fn(&str),
) -> Result<Draft, WrittenError> {
    // Several machines of one image get the same.
    let mut known = BTreeMap::new();
    let mut digests = BTreeMap::new();
    for unpinned in written.unpinned() {
        let image = &unpinned.image;
        // To different people it may be different.
        let login = written.login(&unpinned.machine);
        let digest = match known.get(&(image, login)) {
            Some(digest) => *digest,
            None => {
                let registry = image.registry();
                say(&format!("asking {registry} which image {image} is"));
                if login.is_some() && is_plain(registry) {
                    say(&format!(
                        "{registry} is asked in plain HTTP: whoever is on the way reads your password, also \
                         when a node asks"
                    ));
                }
                let tagged = find(unpinned, login, outside, say).await?;
                let digest = ImageDigest(tagged.digest.bytes());
                say(&format!("{}{}", image.pinned(digest), needs(tagged.needs)));
                known.insert((image, login), digest);
                digest
            }
        };
        digests.insert(unpinned.machine.clone(), digest);
    }
    written.pinned(&digests)
}

fn needs(level: Level) -> String {
    match level {
        Level::V1 => String::new(),
        level => {
            let level = format!("{level:?}").to_lowercase();
            format!(" (only for nodes whose processor is of level x86-64-{level} or above)")
        }
    }
}

/// Says something from time to time, however long the registry takes.
async fn find(
    unpinned: &Unpinned,
    login: Option<(&str, &str)>,
    outside: &Outside,
    say: &impl Fn(&str),
) -> Result<Tagged, WrittenError> {
    let image = &unpinned.image;
    let began = Instant::now();
    let mut answer = pin!(ask(unpinned, login, outside, say));
    let mut words = interval(WORD);
    words.set_missed_tick_behavior(MissedTickBehavior::Delay);
    words.tick().await;
    let found = loop {
        tokio::select! {
            found = &mut answer => break found,
            _ = words.tick() => {
                let (registry, seconds) = (image.registry(), began.elapsed().as_secs());
                say(&format!("still waiting for {registry} ({seconds} s)"));
            }
        }
    };
    found.map_err(|(why, advice)| {
        let registry = image.registry();
        unpinned.error(format!(
            "{registry} was asked which image {image} is: {why}. {advice}"
        ))
    })
}

/// Why it is not known, and what to do.
type Unknown = (String, &'static str);

const LATER: &str = "Try again later";

async fn ask(
    unpinned: &Unpinned,
    login: Option<(&str, &str)>,
    outside: &Outside,
    say: &impl Fn(&str),
) -> Result<Tagged, Unknown> {
    let image = &unpinned.image;
    let told = |error: TagError| (error.to_string(), advice(&error));
    let credentials = login.map(|(user, password)| Credentials {
        user: user.to_owned(),
        password: password.to_owned(),
    });
    let registry = Registry::new(image.registry(), image.repository(), outside, credentials)
        .map_err(|error| told(error.into()))?;
    let tag = image.tag().unwrap_or("latest");
    let began = Instant::now();
    loop {
        let left = PATIENCE.saturating_sub(began.elapsed());
        let Ok(answer) = timeout(left, tag::look_up(&registry, tag)).await else {
            let why = format!("it has not answered in {} seconds", PATIENCE.as_secs());
            return Err((why, LATER));
        };
        let error = match answer {
            Ok(tagged) => return Ok(tagged),
            Err(error) => error,
        };
        let TagError::Registry(RegistryError::Busy { status, wait }) = &error else {
            return Err(told(error));
        };
        let pause = wait.unwrap_or_default().max(PAUSE);
        if began.elapsed() + pause > PATIENCE {
            return Err(told(error));
        }
        let (host, seconds) = (image.registry(), pause.as_secs());
        say(&format!(
            "{host} wants to be asked later ({status}); asking again in {seconds} s"
        ));
        sleep(pause).await;
    }
}

fn advice(error: &TagError) -> &'static str {
    match error {
        TagError::Registry(error) => match error {
            RegistryError::Address(_) | RegistryError::Http(_) => {
                "See whether its name is right, and whether it can be reached from here"
            }
            RegistryError::Denied(_) | RegistryError::LoginDenied(_) => {
                "See whether the image's name is right, and who may read it"
            }
            RegistryError::Absent(_) => {
                "See which tags it has; where none is written, `latest` is meant"
            }
            RegistryError::Busy { .. } | RegistryError::Status(_) => LATER,
            RegistryError::Elsewhere(_) => {
                "Name the registry that it leads to in the image's name, if that one is to be trusted"
            }
            RegistryError::Challenge(_)
            | RegistryError::TooLarge { .. }
            | RegistryError::Digest { .. } => {
                "Nobody is asked for an image that is named with its digest, as name@sha256:..."
            }
        },
        TagError::Platform(_) => "Choose an image that is built for linux/amd64",
        TagError::Document(_) | TagError::Config(_) => "Choose another image",
    }
}

fn is_plain(registry: &str) -> bool {
    address::base(registry).is_some_and(|url| url.scheme() == "http")
}

/// As far as it shows: a name may lead anywhere.
fn is_out_of_reach(registry: &str) -> bool {
    address::base(registry)
        .is_none_or(|url| url.host_str() == Some("localhost") || !Reach::Network.allows_url(&url))
}

#[cfg(test)]
#[path = "pin_tests.rs"]
mod tests;
