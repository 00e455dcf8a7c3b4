use std::sync::Arc;

use loam_node_api::{clock::Clock, tls};

use super::*;
use crate::{
    address::{Outside, Reach},
    limits,
    test_registry::{Instead, TestRegistry},
    test_target::Memory,
};

const SIZE: usize = 30_000;

fn bytes() -> Vec<u8> {
    (0..SIZE).map(|n| (n % 251) as u8).collect()
}

/// Has the rest of a blob of which this is there; gives what is there then, and what was asked.
async fn rest(registry: &TestRegistry, there: &[u8]) -> (Result<(), String>, Vec<u8>, Vec<String>) {
    let mut target = Memory::with(there);
    let (done, asked) = have(registry, &mut target).await;
    (done, target.bytes, asked)
}

/// Has the blob in the target; gives what was asked.
async fn have<T: Target<Error = TransferError>>(
    registry: &TestRegistry,
    target: &mut T,
) -> (Result<(), String>, Vec<String>) {
    let digest = registry.blob(bytes());
    let text = format!(r#"{{"mediaType":"x","digest":"{digest}","size":{SIZE}}}"#);
    let blob: Descriptor = serde_json::from_str(&text).unwrap();
    let image = registry.manifest("{}".to_owned());
    let outside = Outside {
        reach: Reach::Anywhere,
        tls: tls::client_config(tls::public_roots(), Arc::new(Clock::default)).unwrap(),
    };
    let client = Registry::new(image.registry(), image.repository(), &outside, None).unwrap();
    let done = transfer(&client, &Gate::default(), &blob, target).await;
    let ranges = registry.requests().into_iter().map(|asked| {
        let (_, range) = asked.split_once(' ').unwrap_or_default();
        range.to_owned()
    });
    let done = done.map_err(|error| error.to_string());
    (done, ranges.collect())
}

#[tokio::test]
async fn a_registry_that_refuses_a_range_is_asked_for_the_whole() {
    // The last is a part that does not say which.
    for status in [
        "416 Range Not Satisfiable",
        "400 Bad Request",
        "501 Not Implemented",
        "206 Partial Content",
    ] {
        let registry = TestRegistry::start();
        registry.behave(|b| (b.refuses_ranges, b.cut) = (Some(status), Some((5000, 1))));
        let (done, all, asked) = rest(&registry, &[]).await;
        assert_eq!((done, all == bytes()), (Ok(()), true), "{status}");
        assert_eq!(asked, ["", "bytes=5000-", ""], "{status}");
        // What an earlier try has left does not stand in the way for ever.
        let registry = TestRegistry::start();
        registry.behave(|b| b.refuses_ranges = Some(status));
        let (done, all, _) = rest(&registry, &bytes()[..5000]).await;
        assert_eq!((done, all == bytes()), (Ok(()), true), "{status}");
    }
}

/// A registry that fails so often.
fn failing_registry(status: &'static str, times: u32) -> TestRegistry {
    let registry = TestRegistry::start();
    let instead = Instead {
        of: "/blobs/",
        times,
        status,
        headers: "",
    };
    registry.behave(|b| b.instead = Some(instead));
    registry
}

/// Has a blob of which 5000 bytes are here from such a registry; gives whether it is whole, how much is here, and
/// what was asked.
async fn failing(status: &'static str, times: u32) -> (bool, usize, Vec<String>) {
    let registry = failing_registry(status, times);
    let (done, all, asked) = rest(&registry, &bytes()[..5000]).await;
    (done.is_ok(), all.len(), asked)
}

#[tokio::test]
async fn one_that_fails_at_ranges_alone_is_asked_for_the_whole_at_last() {
    let registry = TestRegistry::start();
    registry.behave(|b| b.refuses_ranges = Some("502 Bad Gateway"));
    let (done, all, asked) = rest(&registry, &bytes()[..5000]).await;
    assert_eq!((done, all == bytes()), (Ok(()), true));
    let range = "bytes=5000-";
    assert_eq!(asked, [range, range, "", range]);
}

#[tokio::test]
async fn one_that_is_well_again_brings_the_rest_alone() {
    let registry = failing_registry("502 Bad Gateway", 2);
    let mut target = Memory::with(&bytes()[..5000]);
    let (done, asked) = have(&registry, &mut target).await;
    assert_eq!((done, target.bytes == bytes()), (Ok(()), true));
    assert_eq!(target.came, SIZE - 5000, "{asked:?}");
}

#[tokio::test]
async fn one_that_begins_anew_and_is_cut_there_is_asked_again() {
    let registry = TestRegistry::start();
    registry.behave(|b| {
        (b.no_ranges, b.chunked, b.cut) = (true, true, Some((10_000, 1)));
    });
    // More is here than comes before the cut.
    let (done, all, asked) = rest(&registry, &bytes()[..20_000]).await;
    assert_eq!((done, all == bytes()), (Ok(()), true), "{asked:?}");
}

#[tokio::test]
async fn one_that_fails_once_is_asked_for_the_same_again() {
    let resumed = vec!["bytes=5000-".to_owned(); 2];
    for status in ["502 Bad Gateway", "408 Request Timeout", "425 Too Early"] {
        let expected = (true, SIZE, resumed.clone());
        assert_eq!(failing(status, 1).await, expected, "{status}");
    }
}

#[tokio::test]
async fn one_that_fails_at_everything_costs_nothing_of_what_is_here() {
    let range = "bytes=5000-";
    let asked = [range, range, "", range].map(str::to_owned).to_vec();
    assert_eq!(failing("502 Bad Gateway", 9).await, (false, 5000, asked));
}

#[tokio::test]
async fn one_that_knows_no_ranges_begins_anew() {
    let registry = TestRegistry::start();
    registry.behave(|b| (b.no_ranges, b.cut) = (true, Some((5000, 1))));
    let (done, all, asked) = rest(&registry, &[]).await;
    assert_eq!((done, all == bytes()), (Ok(()), true));
    assert_eq!(asked, ["", "bytes=5000-"]);
}

#[tokio::test]
async fn parts_and_chunks_are_put_together() {
    let registry = TestRegistry::start();
    registry.behave(|b| b.part = Some(9000));
    let (done, all, asked) = rest(&registry, &bytes()[..5000]).await;
    assert_eq!((done, all == bytes()), (Ok(()), true));
    assert_eq!(asked, ["bytes=5000-", "bytes=14000-", "bytes=23000-"]);

    let registry = TestRegistry::start();
    registry.behave(|b| b.chunked = true);
    let (done, all, _) = rest(&registry, &[]).await;
    assert_eq!((done, all == bytes()), (Ok(()), true));
}

#[tokio::test]
async fn what_was_there_and_is_wrong_costs_one_more_answer() {
    let registry = TestRegistry::start();
    let (done, all, asked) = rest(&registry, &[7; 5000]).await;
    assert_eq!((done, all == bytes()), (Ok(()), true));
    assert_eq!(asked, ["bytes=5000-", ""]);
}

#[tokio::test]
async fn a_blob_that_is_shorter_than_it_is_said_to_be_is_an_error_after_two_answers() {
    let registry = TestRegistry::start();
    let swapped =
        std::collections::HashMap::from([(Digest::of(&bytes()), bytes()[..9000].to_vec())]);
    registry
        .behave(|b| (b.refuses_ranges, b.swapped) = (Some("416 Range Not Satisfiable"), swapped));
    let (done, _, asked) = rest(&registry, &[]).await;
    let error = done.unwrap_err();
    assert!(error.contains("9000 bytes"), "{error}");
    assert_eq!(asked, ["", "bytes=9000-", ""]);
}

/// Has the clock stand still while a registry is silent, so that it goes on when all wait.
struct Impatient<'a> {
    memory: Memory,
    registry: &'a TestRegistry,
    until_silence: usize,
    silent_since: Option<tokio::time::Instant>,
    silence: Duration,
}

impl Target for Impatient<'_> {
    type Error = TransferError;

    fn length(&self) -> u64 {
        self.memory.length()
    }

    fn digest(&self) -> Digest {
        self.memory.digest()
    }

    async fn append(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        self.memory.append(bytes).await?;
        if self.memory.bytes.len() == self.until_silence {
            tokio::time::pause();
            self.silent_since = Some(tokio::time::Instant::now());
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), TransferError> {
        if let Some(since) = self.silent_since.take() {
            self.silence = since.elapsed();
            tokio::time::resume();
            self.registry.behave(|b| b.drip = None);
        }
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), TransferError> {
        self.memory.restart().await
    }
}

#[tokio::test]
async fn one_that_falls_silent_is_asked_for_the_rest_in_the_same_try() {
    let registry = TestRegistry::start();
    registry.behave(|b| b.drip = Some(5000));
    let mut target = Impatient {
        memory: Memory::default(),
        registry: &registry,
        until_silence: 5000,
        silent_since: None,
        silence: Duration::ZERO,
    };
    let (done, asked) = have(&registry, &mut target).await;
    assert_eq!((done, target.memory.bytes == bytes()), (Ok(()), true));
    assert_eq!(asked, ["", "bytes=5000-"]);
    // The pool of connections may have a timer that is due before.
    assert!(target.silence >= limits::SILENCE, "{:?}", target.silence);
    assert!(target.silence < 2 * limits::SILENCE, "{:?}", target.silence);
}

#[tokio::test]
async fn a_cut_that_brought_nothing_is_mended_after_a_pause() {
    let registry = TestRegistry::start();
    registry.behave(|b| b.cut = Some((0, 1)));
    let (done, all, asked) = rest(&registry, &bytes()[..100]).await;
    assert_eq!((done, all == bytes()), (Ok(()), true));
    assert_eq!(asked, ["bytes=100-", "bytes=100-"]);
}

#[tokio::test]
async fn cuts_that_bring_something_are_mended_at_once_and_others_not_for_ever() {
    let registry = TestRegistry::start();
    registry.behave(|b| b.cut = Some((4000, 7)));
    let (done, all, asked) = rest(&registry, &[]).await;
    assert_eq!((done, all == bytes(), asked.len()), (Ok(()), true, 8));
    // Three pauses are all that one gets that brings nothing.
    registry.behave(|b| b.cut = Some((0, 9)));
    let (done, all, asked) = rest(&registry, &bytes()[..100]).await;
    done.unwrap_err();
    assert_eq!((all.len(), asked.len()), (100, 8 + 4));
    // Nor is one asked for ever that brings a little each time.
    let registry = TestRegistry::start();
    registry.behave(|b| b.cut = Some((500, 99)));
    let (done, all, asked) = rest(&registry, &[]).await;
    done.unwrap_err();
    let answers = 1 + TRIES as usize;
    assert_eq!((all.len(), asked.len()), (500 * answers, answers));
}

#[tokio::test]
async fn a_blob_that_is_longer_than_it_is_said_to_be_is_not_taken() {
    let registry = TestRegistry::start();
    let longer = [bytes(), vec![7; 9000]].concat();
    let swapped = std::collections::HashMap::from([(Digest::of(&bytes()), longer)]);
    registry.behave(|b| b.swapped = swapped);
    let (done, all, _) = rest(&registry, &[]).await;
    let error = done.unwrap_err();
    assert!(error.ends_with("where the manifest says 30000"), "{error}");
    assert!(all.is_empty());
}

#[tokio::test]
async fn one_that_is_busy_is_asked_again_when_it_says() {
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let registry = TestRegistry::start();
        let busy = |times, headers| Instead {
            of: "/blobs/",
            times,
            status,
            headers,
        };
        registry.behave(|b| b.instead = Some(busy(1, "retry-after: 1\r\n")));
        let (done, all, asked) = rest(&registry, &[]).await;
        assert_eq!((done, all == bytes(), asked.len()), (Ok(()), true, 2));
        // Its place is not held for as long as this.
        registry.behave(|b| b.instead = Some(busy(9, "retry-after: 60\r\n")));
        let (done, all, asked) = rest(&registry, &bytes()[..100]).await;
        let error = done.unwrap_err();
        assert!(
            error.contains("asked later") && error.contains(&status[..3]),
            "{error}"
        );
        assert_eq!((all.len(), asked.len()), (100, 3));
    }
}

#[tokio::test]
async fn what_will_not_get_better_is_not_asked_for_again() {
    let registry = TestRegistry::start();
    let instead = Instead {
        of: "/blobs/",
        times: 9,
        status: "403 Forbidden",
        headers: "",
    };
    registry.behave(|b| b.instead = Some(instead));
    let (done, _, asked) = rest(&registry, &[]).await;
    assert!(done.unwrap_err().contains("403"));
    assert_eq!(asked.len(), 1);
}
