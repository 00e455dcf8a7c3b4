//! [`Late`]: what an attempt that has gone to another disk still does on one that hangs.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use tokio::task::JoinHandle;

use super::{failure::FetchError, kept::Kept, staging::Staging};
use crate::pool::Pool;

/// Nothing of it can be ended, and nobody waits for it. It holds files until it has ended.
pub struct Late {
    pub pool: Arc<Pool>,
    pub work: BoxFuture<'static, Remains>,
}

/// What is there in the end, to be removed.
#[derive(Debug, Default)]
pub struct Remains {
    pub kept: Option<Kept>,
    pub left: Option<Staging>,
}

impl Late {
    pub fn build(staging: Arc<Staging>, built: JoinHandle<Result<Kept, FetchError>>) -> Self {
        Self {
            pool: staging.pool().clone(),
            work: async move {
                let kept = built.await.ok().and_then(Result::ok);
                let left = Arc::into_inner(staging);
                Remains { kept, left }
            }
            .boxed(),
        }
    }

    pub fn settlement(
        pool: Arc<Pool>,
        left: impl Future<Output = Option<Staging>> + Send + 'static,
    ) -> Self {
        Self {
            pool,
            work: left
                .map(|left| Remains {
                    left,
                    ..Remains::default()
                })
                .boxed(),
        }
    }
}

impl std::fmt::Debug for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Late")
            .field("pool", &self.pool.uuid())
            .finish_non_exhaustive()
    }
}
