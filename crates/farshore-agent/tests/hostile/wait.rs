//! Waiting on a state, with a bound.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

/// Asks until there is an answer, for at most 30 seconds.
pub(crate) async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let bound = Duration::from_secs(30);
    let waiting = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(bound, waiting).await {
        Ok(found) => found,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// The same for something that is looked at without waiting.
pub(crate) async fn seen<T: Debug>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    until(what, || std::future::ready(look())).await
}
