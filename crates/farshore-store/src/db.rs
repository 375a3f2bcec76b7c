//! The two engines behind one type.
//!
//! Exceptions per engine, all of them here: how a transaction begins (SQLite has one writer connection and `BEGIN IMMEDIATE`), how the
//! tenant is told to row-level security (PostgreSQL), and how a connection is set up.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Postgres, Sqlite, Transaction};

use crate::error::{StoreError, StoreResult};

/// Runs one expression on the connection of whichever engine the transaction is on.
#[macro_export]
macro_rules! on {
    ($tx:expr, $c:ident => $e:expr) => {
        match $tx {
            $crate::db::Tx::Sqlite(inner) => {
                let $c = &mut **inner;
                $e
            }
            $crate::db::Tx::Postgres(inner) => {
                let $c = &mut **inner;
                $e
            }
        }
    };
}

/// Where the data is.
#[derive(Clone, Debug)]
pub enum StoreOptions {
    /// A file; created when missing.
    Sqlite(PathBuf),
    /// A `postgres://` URL.
    Postgres(String),
}

impl FromStr for StoreOptions {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            Ok(Self::Postgres(text.to_owned()))
        } else if let Some(path) = text.strip_prefix("sqlite:") {
            Ok(Self::Sqlite(PathBuf::from(path.trim_start_matches("//"))))
        } else if text.contains("://") {
            Err(format!("{text:?} is neither sqlite:<path> nor postgres://…"))
        } else {
            Ok(Self::Sqlite(PathBuf::from(text)))
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Db {
    Sqlite { read: SqlitePool, write: SqlitePool },
    Postgres(PgPool),
}

/// The control plane's database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) db: Db,
}

/// The connections of a [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFigures {
    pub size: u64,
    pub idle: u64,
}

/// A transaction on either engine. Dropped without [`Tx::commit`], nothing happened.
#[derive(Debug)]
pub enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl Tx {
    /// Makes what was written last.
    pub async fn commit(self) -> StoreResult<()> {
        match self {
            Self::Sqlite(tx) => tx.commit().await?,
            Self::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }
}

/// Rows touched by a statement, whichever engine it ran on.
pub trait Affected {
    fn affected(&self) -> u64;
}

impl Affected for sqlx::sqlite::SqliteQueryResult {
    fn affected(&self) -> u64 {
        self.rows_affected()
    }
}

impl Affected for sqlx::postgres::PgQueryResult {
    fn affected(&self) -> u64 {
        self.rows_affected()
    }
}

/// For `.map(affected)` behind an `execute`.
pub fn affected(result: impl Affected) -> u64 {
    result.affected()
}

static SQLITE_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/postgres");

/// The role that statements run as on PostgreSQL when the login itself would bypass row-level security.
const APP_ROLE: &str = "farshore_app";

impl Store {
    /// Opens the database and brings it to this version.
    pub async fn open(options: &StoreOptions) -> StoreResult<Self> {
        let db = match options {
            StoreOptions::Sqlite(path) => open_sqlite(path).await?,
            StoreOptions::Postgres(url) => open_postgres(url).await?,
        };
        Ok(Self { db })
    }

    /// `sqlite` or `postgres`.
    #[must_use]
    pub const fn engine(&self) -> &'static str {
        match self.db {
            Db::Sqlite { .. } => "sqlite",
            Db::Postgres(_) => "postgres",
        }
    }

    /// How many connections are open.
    #[must_use]
    pub fn pool(&self) -> PoolFigures {
        let (size, idle) = match &self.db {
            Db::Sqlite { read, write } => (read.size() + write.size(), read.num_idle() + write.num_idle()),
            Db::Postgres(pool) => (pool.size(), pool.num_idle()),
        };
        PoolFigures { size: u64::from(size), idle: idle as u64 }
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> StoreResult<()> {
        let mut tx = self.begin("*", false).await?;
        on!(&mut tx, c => sqlx::query("SELECT 1").execute(c).await.map(affected))?;
        Ok(())
    }

    /// Closes all connections, after those in use have finished.
    pub async fn close(&self) {
        match &self.db {
            Db::Sqlite { read, write } => {
                read.close().await;
                write.close().await;
            }
            Db::Postgres(pool) => pool.close().await,
        }
    }

    /// Reads, all of it as of one moment. SQLite's transactions always do.
    pub(crate) async fn begin_snapshot(&self, scope: &str) -> StoreResult<Tx> {
        match &self.db {
            Db::Sqlite { read, .. } => Ok(Tx::Sqlite(read.begin().await?)),
            Db::Postgres(pool) => {
                let mut tx = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
                sqlx::query("SELECT set_config('farshore.tenant', $1, TRUE)")
                    .bind(scope)
                    .execute(&mut *tx)
                    .await?;
                Ok(Tx::Postgres(tx))
            }
        }
    }

    /// `scope` is a tenant's UUID or `*`.
    pub(crate) async fn begin(&self, scope: &str, write: bool) -> StoreResult<Tx> {
        match &self.db {
            Db::Sqlite { write: pool, .. } if write => {
                Ok(Tx::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?))
            }
            Db::Sqlite { read, .. } => Ok(Tx::Sqlite(read.begin().await?)),
            Db::Postgres(pool) => {
                let mut tx = pool.begin().await?;
                sqlx::query("SELECT set_config('farshore.tenant', $1, TRUE)")
                    .bind(scope)
                    .execute(&mut *tx)
                    .await?;
                Ok(Tx::Postgres(tx))
            }
        }
    }
}

async fn open_sqlite(path: &std::path::Path) -> StoreResult<Db> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // What the control plane acknowledged survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10))
        .statement_cache_capacity(256);
    let write = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
    SQLITE_MIGRATIONS.run(&write).await.map_err(StoreError::Migrate)?;
    // Twice as many as ranges are worked out at once, each of which holds one as long as it takes.
    let read = SqlitePoolOptions::new().max_connections(8).connect_with(options.read_only(true)).await?;
    Ok(Db::Sqlite { read, write })
}

async fn open_postgres(url: &str) -> StoreResult<Db> {
    let options = PgConnectOptions::from_str(url)?.application_name("farshore");
    let setup = PgPoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
    POSTGRES_MIGRATIONS.run(&setup).await.map_err(StoreError::Migrate)?;
    let bypasses: bool =
        sqlx::query_scalar("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
            .fetch_one(&setup)
            .await?;
    if bypasses {
        // A superuser ignores row-level security, so statements run as a role that can't. Roles belong to the whole cluster: another process may make it at the same time.
        sqlx::raw_sql(
            "DO $$ BEGIN
                 IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'farshore_app') THEN
                     CREATE ROLE farshore_app NOLOGIN;
                 END IF;
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
             END $$;
             DO $$ BEGIN
                 EXECUTE format('GRANT USAGE ON SCHEMA %I TO farshore_app', current_schema());
                 EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO farshore_app', current_schema());
             END $$;",
        )
        .execute(&setup)
        .await?;
    }
    setup.close().await;
    let pool = PgPoolOptions::new()
        .max_connections(16)
        .acquire_timeout(Duration::from_secs(10))
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if bypasses {
                    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("SET ROLE {APP_ROLE}")))
                        .execute(connection)
                        .await?;
                }
                Ok(())
            })
        })
        .connect_with(options)
        .await?;
    Ok(Db::Postgres(pool))
}
