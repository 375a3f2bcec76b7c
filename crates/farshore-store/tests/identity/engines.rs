//! The two engines open, migrate and stay apart.

use farshore_store::test_util::each_engine;

#[tokio::test]
async fn a_database_opens_twice_and_answers() {
    each_engine(async |test| {
        test.store.ping().await.unwrap();
        let again = test.database.open().await;
        again.ping().await.unwrap();
        assert_eq!(again.engine(), test.database.engine);
        again.close().await;
    })
    .await;
}
