//! Room for what takes memory and a processor for as long as it takes, such as ranges that are worked out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_api::ErrorCode;
use farshore_domain::id::TenantId;
use tokio::sync::oneshot;

use crate::error::{ApiError, ApiResult};

/// So many at once in all: each has up to half a million values and a page of opened blocks in memory.
const ALL: usize = 4;
/// Of these, so many of one tenant, so that none keeps the others out.
const OF_TENANT: usize = 2;
/// So many places stay free when a tenant that has one gets another: two tenants do not keep a third one out.
const FOR_OTHERS: usize = 2;
/// How long one waits for its turn.
const TURN: Duration = Duration::from_secs(5);
const AGAIN_AFTER_SECONDS: u32 = 5;

/// Who may do it.
#[derive(Debug)]
pub struct Room {
    /// What is done, for the answer to those who have to come again.
    what: &'static str,
    places: Arc<Places>,
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
    places: Arc<Places>,
    tenant: TenantId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Some(held) = taken.of.get_mut(&self.tenant) {
            *held -= 1;
        }
        // Those that hold nothing any more are forgotten.
        taken.of.retain(|_, held| *held > 0);
        self.places.give(taken);
    }
}

#[derive(Debug)]
struct Places {
    all: usize,
    of_tenant: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: HashMap<TenantId, usize>,
    /// In the order in which they came.
    waiting: Vec<(TenantId, oneshot::Sender<Turn>)>,
}

impl Taken {
    fn of(&self, tenant: TenantId) -> usize {
        self.of.get(&tenant).copied().unwrap_or_default()
    }
}

impl Places {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line_up(self: &Arc<Self>, tenant: TenantId) -> oneshot::Receiver<Turn> {
        let (tell, told) = oneshot::channel();
        let mut taken = self.lock();
        taken.waiting.push((tenant, tell));
        self.give(taken);
        told
    }

    /// Gives the places that are free to those who waited longest and may have one.
    fn give(self: &Arc<Self>, mut taken: MutexGuard<'_, Taken>) {
        let mut nobodys = Vec::new();
        let mut waiting = std::mem::take(&mut taken.waiting);
        waiting.retain(|(_, told)| !told.is_closed());
        for (tenant, told) in waiting {
            let (free, held) = (self.all - taken.all, taken.of(tenant));
            let enough = if held == 0 { free > 0 } else { free > FOR_OTHERS };
            if !enough || held >= self.of_tenant {
                taken.waiting.push((tenant, told));
                continue;
            }
            taken.all += 1;
            *taken.of.entry(tenant).or_default() += 1;
            let turn = Turn { places: Arc::clone(self), tenant };
            nobodys.extend(told.send(turn).err());
        }
        // Whoever has stopped waiting at this moment gives its place back, which locks again.
        drop(taken);
        drop(nobodys);
    }
}

impl Room {
    /// Room for so many at once in all, and of one tenant.
    pub(crate) fn new(what: &'static str, all: usize, of_tenant: usize) -> Self {
        Self { what, places: Arc::new(Places { all, of_tenant, taken: Mutex::default() }), turn: TURN }
    }

    /// The same, where one waits for so long.
    pub(crate) fn patient(self, turn: Duration) -> Self {
        Self { turn, ..self }
    }

    /// Waits for its turn; 429 where too many of this tenant are before it, 503 where all together are.
    pub(crate) async fn turn(&self, tenant: TenantId) -> ApiResult<Turn> {
        if let Ok(Ok(turn)) = tokio::time::timeout(self.turn, self.places.line_up(tenant)).await {
            return Ok(turn);
        }
        let what = self.what;
        let (code, why) = if self.places.lock().of(tenant) >= self.places.of_tenant {
            let why = format!("Too many {what} are being worked out for this tenant. Ask for less at once.");
            (ErrorCode::TooManyRequests, why)
        } else {
            let why = format!("Too many {what} are being worked out. Ask again in a moment.");
            (ErrorCode::Unavailable, why)
        };
        Err(ApiError::new(code, why).retry_after(AGAIN_AFTER_SECONDS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants<const N: usize>() -> [TenantId; N] {
        std::array::from_fn(|n| TenantId(uuid::Uuid::from_u128(n as u128)))
    }

    fn problem(answer: ApiResult<Turn>) -> ErrorCode {
        answer.unwrap_err().problem().code
    }

    #[tokio::test]
    async fn one_tenant_waits_for_itself_and_all_together_for_each_other() {
        let room = Room { turn: Duration::from_millis(20), ..Room::default() };
        let [one, two, three, four] = tenants();
        let mut held = Vec::new();
        for _ in 0..OF_TENANT {
            held.push(room.turn(one).await.unwrap());
        }
        assert_eq!(problem(room.turn(one).await), ErrorCode::TooManyRequests);
        let others = [room.turn(two).await.unwrap(), room.turn(three).await.unwrap()];
        assert_eq!(problem(room.turn(four).await), ErrorCode::Unavailable);
        held.pop();
        held.push(room.turn(four).await.unwrap());
        drop((held, others));
        for _ in 0..OF_TENANT {
            room.turn(one).await.unwrap();
        }
        let taken = room.places.lock();
        assert_eq!(
            (taken.all, taken.of.len(), taken.waiting.len()),
            (0, 0, 0),
            "who holds nothing is forgotten"
        );
    }

    #[tokio::test]
    async fn two_tenants_do_not_hold_all_places() {
        let room = Room { turn: Duration::from_millis(20), ..Room::default() };
        let [one, two, three] = tenants();
        let _first = [room.turn(one).await.unwrap(), room.turn(one).await.unwrap()];
        let _second = room.turn(two).await.unwrap();
        assert_eq!(problem(room.turn(two).await), ErrorCode::Unavailable);
        room.turn(three).await.unwrap();
        // Nor where a tenant may have many.
        let room = Room { turn: Duration::from_millis(20), ..Room::new("things", 16, 12) };
        let mut held = Vec::new();
        for tenant in [one, two] {
            while let Ok(turn) = room.turn(tenant).await {
                held.push(turn);
            }
        }
        room.turn(three).await.unwrap();
    }

    #[tokio::test]
    async fn a_place_goes_to_whoever_waits_longest_and_may_have_it() {
        let room = Arc::new(Room::new("things", 1, 1));
        let [one, two, three] = tenants();
        let held = room.turn(one).await.unwrap();
        let waits = |tenant| {
            let mut turn = Box::pin({
                let room = Arc::clone(&room);
                async move { room.turn(tenant).await }
            });
            // Polled once, so that it stands in the row.
            assert!(futures_util::FutureExt::now_or_never(&mut turn).is_none());
            turn
        };
        let (gone, second, third) = (waits(two), waits(two), waits(three));
        drop(gone);
        drop(held);
        let second = second.await.unwrap();
        drop(second);
        third.await.unwrap();
    }
}
