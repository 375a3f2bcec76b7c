//! Fresh databases for tests: SQLite always, PostgreSQL when `FARSHORE_TEST_POSTGRES` names a superuser's URL.
//!
//! ```ignore
//! #[tokio::test]
//! async fn a_test() {
//!     each_engine(async |test| { test.store.ping().await.unwrap(); }).await;
//! }
//! ```
#![expect(clippy::expect_used, reason = "a test that can't have its database should stop right here")]

use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

use crate::{Store, StoreOptions};

/// The variable with the URL of a PostgreSQL superuser whose cluster the tests may fill with databases.
pub const POSTGRES_VARIABLE: &str = "FARSHORE_TEST_POSTGRES";

/// A database that nobody else uses.
#[derive(Debug)]
pub struct TestDatabase {
    /// How to open it (once more).
    pub options: StoreOptions,
    /// `sqlite` or `postgres`.
    pub engine: &'static str,
    folder: Option<tempfile::TempDir>,
    postgres: Option<(PgConnectOptions, String)>,
}

/// A database and a store on it.
#[derive(Debug)]
pub struct TestStore {
    pub store: Store,
    pub database: TestDatabase,
}

impl TestDatabase {
    /// An empty SQLite database in a temporary folder.
    #[must_use]
    pub fn sqlite() -> Self {
        let folder =
            tempfile::Builder::new().prefix("farshore-store-").tempdir().expect("a temporary folder");
        Self {
            options: StoreOptions::Sqlite(folder.path().join("farshore.db")),
            engine: "sqlite",
            folder: Some(folder),
            postgres: None,
        }
    }

    /// An empty PostgreSQL database, if there is a server for tests.
    pub async fn postgres() -> Option<Self> {
        let Ok(url) = std::env::var(POSTGRES_VARIABLE) else {
            eprintln!(
                "{POSTGRES_VARIABLE} is not set: this test runs on SQLite only (cargo xtask test sets it)"
            );
            return None;
        };
        let admin = PgConnectOptions::from_str(&url).expect("FARSHORE_TEST_POSTGRES is a postgres:// URL");
        let name = format!("test_{}", uuid::Uuid::now_v7().simple());
        let mut connection = admin.connect().await.expect("the PostgreSQL for tests answers");
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .expect("CREATE DATABASE");
        connection.close().await.expect("close");
        let (base, query) =
            url.split_once('?').map_or((url.as_str(), None), |(base, query)| (base, Some(query)));
        let (server, _) = base.rsplit_once('/').expect("the URL names a database");
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        Some(Self {
            options: StoreOptions::Postgres(format!("{server}/{name}{query}")),
            engine: "postgres",
            folder: None,
            postgres: Some((admin, name)),
        })
    }

    /// One for each engine there is.
    pub async fn each() -> Vec<Self> {
        let mut databases = vec![Self::sqlite()];
        databases.extend(Self::postgres().await);
        databases
    }

    /// Opens it, migrated.
    pub async fn open(&self) -> Store {
        Store::open(&self.options).await.expect("the database opens")
    }

    /// A superuser's connection, for looking into the catalog; `None` on SQLite.
    pub async fn superuser(&self) -> Option<PgConnection> {
        let (admin, name) = self.postgres.as_ref()?;
        Some(admin.clone().database(name).connect().await.expect("the PostgreSQL for tests answers"))
    }

    /// Removes it. Stores on it must be closed.
    pub async fn remove(self) {
        if let Some(folder) = self.folder {
            folder.close().expect("the temporary folder can be removed");
        }
        if let Some((admin, name)) = self.postgres {
            let mut connection = admin.connect().await.expect("the PostgreSQL for tests answers");
            sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)")))
                .execute(&mut connection)
                .await
                .expect("DROP DATABASE");
        }
    }
}

/// A fresh store for each engine there is.
pub async fn engines() -> Vec<TestStore> {
    let mut stores = Vec::new();
    for database in TestDatabase::each().await {
        stores.push(TestStore { store: database.open().await, database });
    }
    stores
}

/// Runs the test on a fresh store of each engine, one after the other, and removes the databases when it passes.
pub async fn each_engine(test: impl AsyncFn(&TestStore)) {
    for store in engines().await {
        eprintln!("engine: {}", store.database.engine);
        test(&store).await;
        store.store.close().await;
        store.database.remove().await;
    }
}
