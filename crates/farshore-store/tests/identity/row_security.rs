//! The second lock: on PostgreSQL a statement that forgets its tenant still sees only the tenant of its transaction.

use farshore_store::db::{Affected as _, Tx};
use farshore_store::test_util::TestDatabase;
use farshore_store::{StoreError, on};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::world::World;

async fn tables(database: &TestDatabase) -> Vec<String> {
    let mut superuser = database.superuser().await.unwrap();
    let rows: Vec<(String,)> = sqlx::query_as(
        "SELECT c.relname::TEXT FROM pg_class c
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant' AND NOT a.attisdropped
         WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND c.relname <> 'sessions'
         ORDER BY 1",
    )
    .fetch_all(&mut superuser)
    .await
    .unwrap();
    rows.into_iter().map(|(name,)| name).collect()
}

/// Puts one row for the tenant into every table, whatever its columns are: constraints are off while it does.
async fn fill(database: &TestDatabase, table: &str, tenant: Uuid) {
    let mut superuser = database.superuser().await.unwrap();
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT column_name::TEXT, data_type::TEXT FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name = $1 ORDER BY ordinal_position",
    )
    .bind(table)
    .fetch_all(&mut superuser)
    .await
    .unwrap();
    let values: Vec<String> = columns
        .iter()
        .map(|(name, kind)| match (name.as_str(), kind.as_str()) {
            ("tenant", _) => format!("'{tenant}'"),
            (_, "uuid") => format!("'{}'", Uuid::now_v7()),
            (_, "text") => format!("'{}'", Uuid::now_v7()),
            (_, "bytea") => format!("'\\x{}'", Uuid::now_v7().simple()),
            (_, "jsonb") => "'{}'".to_owned(),
            (_, "boolean") => "FALSE".to_owned(),
            (_, "bigint" | "integer") => "1".to_owned(),
            (name, kind) => panic!("{table}.{name}: what is a {kind}?"),
        })
        .collect();
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let sql = format!(
        "SET session_replication_role = replica; INSERT INTO {table} ({}) VALUES ({})",
        names.join(", "),
        values.join(", ")
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut superuser).await.unwrap();
}

async fn count(tx: &mut Tx, table: &str) -> i64 {
    let sql = AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
    let (rows,): (i64,) = on!(tx, c => sqlx::query_as(sql).fetch_one(c).await).unwrap();
    rows
}

#[tokio::test]
async fn no_statement_reaches_another_tenants_rows_even_when_it_names_no_tenant() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let store = database.open().await;
    let world = World::new(&store).await;
    let two = world.tenant("two").await;
    let tables = tables(&database).await;
    assert!(tables.len() >= 20, "{tables:?}");
    for table in &tables {
        for tenant in [world.one, two] {
            fill(&database, table, tenant.0).await;
        }
    }
    for table in &tables {
        let mut all = store.system(farshore_store::Driver::Platform).read().await.unwrap();
        let everything = count(&mut all, table).await;
        drop(all);
        let mut seen = 0;
        for tenant in [world.one, two] {
            let mut tx = world.db(tenant).begin().await.unwrap();
            let own = count(&mut tx, table).await;
            assert!(own >= 1, "{table} hides a tenant's own rows");
            seen += own;
            // Nor does a change reach them.
            let sql = AssertSqlSafe(format!("DELETE FROM {table}"));
            let deleted = on!(&mut tx, c => sqlx::query(sql).execute(c).await.map(|r| r.affected()));
            if let Ok(deleted) = deleted {
                assert_eq!(deleted.cast_signed(), own, "{table}");
            }
            drop(tx);
            // Nor can a row be written into another tenant.
            let foreign = if tenant == two { world.one } else { two };
            let mut tx = world.db(tenant).begin().await.unwrap();
            let sql = AssertSqlSafe(format!("UPDATE {table} SET tenant = $1"));
            let moved =
                on!(&mut tx, c => sqlx::query(sql).bind(foreign.0).execute(c).await.map(|r| r.affected()));
            assert!(moved.is_err(), "{table}: rows were moved into another tenant");
            drop(tx);
        }
        assert_eq!(seen, everything, "{table}: each tenant sees its own rows, and drivers see all");
    }
    store.close().await;
    database.remove().await;
}

#[tokio::test]
async fn a_connection_without_a_tenant_sees_nothing() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let store = database.open().await;
    let world = World::new(&store).await;
    // Statements run in a role that can't turn the lock off.
    let mut tx = world.db(world.one).begin().await.unwrap();
    for sql in [
        "SET LOCAL row_security = off; SELECT COUNT(*) FROM events",
        "ALTER TABLE events DISABLE ROW LEVEL SECURITY",
    ] {
        let result: Result<(), StoreError> = match &mut tx {
            Tx::Postgres(inner) => {
                sqlx::raw_sql(sql).execute(&mut **inner).await.map(|_| ()).map_err(StoreError::from)
            }
            Tx::Sqlite(_) => Ok(()),
        };
        assert!(result.is_err(), "{sql}");
        drop(tx);
        tx = world.db(world.one).begin().await.unwrap();
    }
    drop(tx);
    store.close().await;
    database.remove().await;
}
