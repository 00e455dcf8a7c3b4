//! Waiting for a moment that may not be set.

use std::time::Instant;

use tokio::time::sleep_until;

/// For ever, without a moment; at once, if it has passed.
pub async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
