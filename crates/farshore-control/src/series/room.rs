//! Room for what takes memory and a processor for as long as it takes, such as ranges that are worked out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use farshore_api::ErrorCode;
use farshore_domain::id::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{ApiError, ApiResult};

/// So many at once in all: each has up to half a million values and a page of opened blocks in memory.
const ALL: usize = 4;
/// Of these, so many of one tenant, so that none keeps the others out.
const OF_TENANT: usize = 2;
/// How long one waits for its turn.
const TURN: Duration = Duration::from_secs(5);
const AGAIN_AFTER_SECONDS: u32 = 5;

/// Who may do it.
#[derive(Debug)]
pub struct Room {
    /// What is done, for the answer to those who have to come again.
    what: &'static str,
    of_tenant: usize,
    all: Arc<Semaphore>,
    tenants: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
    turn: Duration,
}

impl Default for Room {
    fn default() -> Self {
        Self::new("ranges of series", ALL, OF_TENANT)
    }
}

/// One's turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _of_tenant: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Room {
    /// Room for so many at once in all, and of one tenant.
    pub(crate) fn new(what: &'static str, all: usize, of_tenant: usize) -> Self {
        Self { what, of_tenant, all: Arc::new(Semaphore::new(all)), tenants: Mutex::default(), turn: TURN }
    }

    fn of(&self, tenant: TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tenants.get(&tenant).and_then(Weak::upgrade) {
            return known;
        }
        // Those that nobody holds any more go when another comes.
        tenants.retain(|_, semaphore| semaphore.strong_count() > 0);
        let fresh = Arc::new(Semaphore::new(self.of_tenant));
        tenants.insert(tenant, Arc::downgrade(&fresh));
        fresh
    }

    /// Waits for its turn; 429 where too many of this tenant are before it, 503 where all together are.
    pub(crate) async fn turn(&self, tenant: TenantId) -> ApiResult<Turn> {
        let of_tenant = tokio::time::timeout(self.turn, self.of(tenant).acquire_owned()).await;
        let Ok(Ok(of_tenant)) = of_tenant else {
            let why =
                format!("Too many {} are being worked out for this tenant. Ask for less at once.", self.what);
            return Err(ApiError::new(ErrorCode::TooManyRequests, why).retry_after(AGAIN_AFTER_SECONDS));
        };
        let of_all = tokio::time::timeout(self.turn, Arc::clone(&self.all).acquire_owned()).await;
        let Ok(Ok(of_all)) = of_all else {
            let why = format!("Too many {} are being worked out. Ask again in a moment.", self.what);
            return Err(ApiError::new(ErrorCode::Unavailable, why).retry_after(AGAIN_AFTER_SECONDS));
        };
        Ok(Turn { _of_tenant: of_tenant, _of_all: of_all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_tenant_waits_for_itself_and_all_together_for_each_other() {
        let room = Room { turn: Duration::from_millis(20), ..Room::default() };
        let [one, two, three] = [1, 2, 3].map(|n| TenantId(uuid::Uuid::from_u128(n)));
        let mut held = Vec::new();
        for _ in 0..OF_TENANT {
            held.push(room.turn(one).await.unwrap());
        }
        let problem = |answer: ApiResult<Turn>| answer.unwrap_err().problem().code;
        assert_eq!(problem(room.turn(one).await), ErrorCode::TooManyRequests);
        let others = [room.turn(two).await.unwrap(), room.turn(two).await.unwrap()];
        assert_eq!(problem(room.turn(three).await), ErrorCode::Unavailable);
        held.pop();
        held.push(room.turn(three).await.unwrap());
        drop((held, others));
        for _ in 0..OF_TENANT {
            room.turn(one).await.unwrap();
        }
        assert_eq!(room.tenants.lock().unwrap().len(), 1, "who holds nothing is forgotten");
    }
}
