//! Lists of devices: filters, sorting and paging in SQL, and counts.
//!
//! A page is found in two steps: the uids of the page by a narrow statement, then the wide rows of those uids. The cursor is the sort
//! key and uid of the last row, so a device whose sort key does not change is visited exactly once, whatever happens to others meanwhile.

use std::collections::BTreeMap;

use farshore_domain::device::{Conformance, Health, Lifecycle, OFFLINE_AFTER_MS, Reachability};
use farshore_domain::name::Name;
use farshore_domain::selector::{Requirement, Selector};
use farshore_domain::time::UnixMs;
use uuid::Uuid;

use crate::access::TenantDb;
use crate::condition::{Argument, Conditions, bind_all};
use crate::devices::{DeviceRow, count, read_devices};
use crate::error::{StoreError, StoreResult};
use crate::on;

/// At most this many words of a text search count.
const MAX_WORDS: usize = 8;
/// At most this many locations in a summary, the largest first.
const MAX_LOCATIONS: i64 = 1_000;

/// Which devices. Everything given must hold; an empty list of words allows all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFilter {
    pub selector: Selector,
    /// Words that must all occur in name, location or labels, in any case.
    pub text: String,
    pub reachability: Vec<Reachability>,
    pub health: Vec<Health>,
    pub conformance: Vec<Conformance>,
    /// Empty: all but the decommissioned.
    pub lifecycle: Vec<Lifecycle>,
    pub location: Option<String>,
    pub channel: Option<Name>,
    /// Devices that report this app.
    pub app: Option<Name>,
    /// Devices on which this version is active (of `app`, or of any app).
    pub version: Option<String>,
}

/// What a list is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceSort {
    #[default]
    Name,
    LastSeen,
    Location,
    Channel,
    Health,
    Conformance,
    Lifecycle,
    AgentVersion,
    CreatedAt,
}

impl DeviceSort {
    /// The word in `?sort=`.
    pub const ALL: [(&'static str, Self); 9] = [
        ("name", Self::Name),
        ("lastSeen", Self::LastSeen),
        ("location", Self::Location),
        ("channel", Self::Channel),
        ("health", Self::Health),
        ("conformance", Self::Conformance),
        ("lifecycle", Self::Lifecycle),
        ("agentVersion", Self::AgentVersion),
        ("createdAt", Self::CreatedAt),
    ];

    /// The expression, and whether it is a number.
    const fn key(self) -> (&'static str, bool) {
        match self {
            Self::Name => ("d.name", false),
            Self::LastSeen => ("COALESCE(d.last_seen_at, 0)", true),
            Self::Location => ("d.location", false),
            Self::Channel => ("d.channel", false),
            Self::Health => ("d.health", false),
            Self::Conformance => ("d.conformance", false),
            Self::Lifecycle => ("d.lifecycle", false),
            Self::AgentVersion => ("d.agent_version", false),
            Self::CreatedAt => ("d.created_at", true),
        }
    }
}

/// Which way a list is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    #[default]
    Ascending,
    Descending,
}

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceCursor {
    pub key: SortKey,
    pub uid: Uuid,
}

/// The value that the last row of a page was sorted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SortKey {
    Text(String),
    Number(i64),
}

/// One page of devices.
#[derive(Clone, Debug)]
pub struct DevicePage {
    pub devices: Vec<DeviceRow>,
    /// Where the next page goes on; `None` after the last.
    pub next: Option<DeviceCursor>,
    /// How many devices match in all.
    pub total: u64,
}

/// What to list and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceQuery {
    pub filter: DeviceFilter,
    pub sort: DeviceSort,
    pub direction: Direction,
    pub after: Option<DeviceCursor>,
    pub limit: u32,
}

/// How many devices are in each state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    pub total: u64,
    pub reachability: BTreeMap<String, u64>,
    pub health: BTreeMap<String, u64>,
    pub conformance: BTreeMap<String, u64>,
    pub lifecycle: BTreeMap<String, u64>,
    /// The largest first.
    pub locations: Vec<LocationCounts>,
    pub channels: Vec<String>,
}

/// The same for one location.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocationCounts {
    pub location: String,
    pub total: u64,
    pub online: u64,
    pub unhealthy: u64,
}

const FROM: &str = "devices d LEFT JOIN device_sessions s ON s.tenant = d.tenant AND s.device = d.uid";

/// The rule of `farshore_domain::device::reachability` as an expression.
fn reachability(conditions: &mut Conditions, heartbeat_ms: i64, now: UnixMs) -> String {
    let online = conditions.integer(now.0.saturating_sub(heartbeat_ms.saturating_mul(3)));
    let offline = conditions.integer(now.0.saturating_sub(OFFLINE_AFTER_MS));
    format!(
        "CASE WHEN s.device IS NOT NULL AND d.last_seen_at >= {online} THEN 'online'
              WHEN d.last_seen_at > {offline} THEN 'stale' ELSE 'offline' END"
    )
}

/// `%word%` with the characters that mean something to LIKE escaped by a backslash.
fn pattern(word: &str) -> String {
    let mut pattern = String::with_capacity(word.len() + 2);
    pattern.push('%');
    for c in word.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

/// Each requirement becomes a set of devices that is found once by the index on tenant, key and value; asked for each device, SQLite would go through
/// all devices with the key each time.
fn select(conditions: &mut Conditions, tenant: &str, selector: &Selector) {
    let labelled = |key: &str| {
        format!("(SELECT l.device FROM device_labels l WHERE l.tenant = {tenant} AND l.key = {key}")
    };
    for requirement in selector.requirements() {
        let condition = match requirement {
            Requirement::Exists(key) => format!("d.uid IN {})", labelled(&conditions.text(key))),
            Requirement::Absent(key) => format!("d.uid NOT IN {})", labelled(&conditions.text(key))),
            Requirement::In(key, values) => {
                let key = conditions.text(key);
                let values = conditions.texts(values.iter().map(String::as_str));
                format!("d.uid IN {} AND l.value IN ({values}))", labelled(&key))
            }
            Requirement::NotIn(key, values) => {
                let key = conditions.text(key);
                let values = conditions.texts(values.iter().map(String::as_str));
                format!("d.uid NOT IN {} AND l.value IN ({values}))", labelled(&key))
            }
        };
        conditions.and(&condition);
    }
}

fn filter(tenant: Uuid, filter: &DeviceFilter, heartbeat_ms: i64, now: UnixMs) -> Conditions {
    let mut conditions = Conditions::default();
    let tenant = conditions.uuid(tenant);
    conditions.and(&format!("d.tenant = {tenant}"));
    select(&mut conditions, &tenant, &filter.selector);
    for word in filter.text.split_whitespace().take(MAX_WORDS) {
        let pattern = conditions.text(&pattern(word));
        conditions.and(&format!(
            "(LOWER(d.name) LIKE LOWER({pattern}) ESCAPE '\\' OR LOWER(d.location) LIKE LOWER({pattern}) ESCAPE '\\'
              OR LOWER(CAST(d.labels AS TEXT)) LIKE LOWER({pattern}) ESCAPE '\\')"
        ));
    }
    if filter.lifecycle.is_empty() {
        conditions.and(&format!("d.lifecycle <> '{}'", Lifecycle::Decommissioned.word()));
    }
    let words: [(&str, Vec<&str>); 3] = [
        ("d.lifecycle", filter.lifecycle.iter().map(|w| w.word()).collect()),
        ("d.health", filter.health.iter().map(|w| w.word()).collect()),
        ("d.conformance", filter.conformance.iter().map(|w| w.word()).collect()),
    ];
    for (column, words) in words {
        if !words.is_empty() {
            let words = conditions.texts(words);
            conditions.and(&format!("{column} IN ({words})"));
        }
    }
    if !filter.reachability.is_empty() {
        let expression = reachability(&mut conditions, heartbeat_ms, now);
        let words = conditions.texts(filter.reachability.iter().map(|word| word.word()));
        conditions.and(&format!("{expression} IN ({words})"));
    }
    if let Some(location) = &filter.location {
        let location = conditions.text(location);
        conditions.and(&format!("d.location = {location}"));
    }
    if let Some(channel) = &filter.channel {
        let channel = conditions.text(channel.as_str());
        conditions.and(&format!("d.channel = {channel}"));
    }
    if filter.app.is_some() || filter.version.is_some() {
        let mut app = String::from(
            "EXISTS (SELECT 1 FROM device_apps a WHERE a.tenant = d.tenant AND a.device = d.uid AND a.phase <> 'absent'",
        );
        if let Some(name) = &filter.app {
            app.push_str(&format!(" AND a.app = {}", conditions.text(name.as_str())));
        }
        if let Some(version) = &filter.version {
            app.push_str(&format!(" AND a.active_version = {}", conditions.text(version)));
        }
        app.push(')');
        conditions.and(&app);
    }
    conditions
}

impl TenantDb {
    /// A page of devices.
    pub async fn devices(
        &self,
        query: &DeviceQuery,
        heartbeat_ms: i64,
        now: UnixMs,
    ) -> StoreResult<DevicePage> {
        let mut tx = self.read().await?;
        let mut conditions = filter(self.tenant.0, &query.filter, heartbeat_ms, now);

        let sql = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) FROM {FROM} WHERE {}", conditions.sql()));
        let arguments = &conditions.arguments;
        let (total,): (i64,) =
            on!(&mut tx, c => bind_all!(sqlx::query_as(sql), arguments).fetch_one(c).await)?;

        let (key, is_number) = query.sort.key();
        let (order, than) = match query.direction {
            Direction::Ascending => ("ASC", ">"),
            Direction::Descending => ("DESC", "<"),
        };
        if let Some(after) = &query.after {
            let value = match (&after.key, is_number) {
                (SortKey::Text(text), false) => conditions.text(text),
                (SortKey::Number(number), true) => conditions.integer(*number),
                _ => return Err(StoreError::Conflict("The cursor belongs to another list.".to_owned())),
            };
            let uid = conditions.uuid(after.uid);
            conditions.and(&format!("({key}, d.uid) {than} ({value}, {uid})"));
        }
        let limit = conditions.argument(Argument::Integer(i64::from(query.limit) + 1));
        let arguments = &conditions.arguments;
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT d.uid, {key} AS sort_key FROM {FROM} WHERE {} ORDER BY {key} {order}, d.uid {order} LIMIT {limit}",
            conditions.sql()
        ));
        let mut found: Vec<(Uuid, SortKey)> = if is_number {
            let rows: Vec<(Uuid, i64)> =
                on!(&mut tx, c => bind_all!(sqlx::query_as(sql), arguments).fetch_all(c).await)?;
            rows.into_iter().map(|(uid, key)| (uid, SortKey::Number(key))).collect()
        } else {
            let rows: Vec<(Uuid, String)> =
                on!(&mut tx, c => bind_all!(sqlx::query_as(sql), arguments).fetch_all(c).await)?;
            rows.into_iter().map(|(uid, key)| (uid, SortKey::Text(key))).collect()
        };
        let limit = query.limit as usize;
        let more = found.len() > limit;
        found.truncate(limit);
        let next = if more {
            found.last().map(|(uid, key)| DeviceCursor { key: key.clone(), uid: *uid })
        } else {
            None
        };
        let uids: Vec<Uuid> = found.into_iter().map(|(uid, _)| uid).collect();
        let devices = read_devices(&mut tx, self.tenant, &uids).await?;
        Ok(DevicePage { devices, next, total: count(total) })
    }

    /// How many devices that match are in each state.
    pub async fn device_counts(
        &self,
        which: &DeviceFilter,
        heartbeat_ms: i64,
        now: UnixMs,
    ) -> StoreResult<DeviceCounts> {
        let mut tx = self.read().await?;
        let mut conditions = filter(self.tenant.0, which, heartbeat_ms, now);
        let reachability = reachability(&mut conditions, heartbeat_ms, now);
        let arguments = &conditions.arguments;
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {reachability} AS reachability, d.health, d.conformance, d.lifecycle, COUNT(*)
             FROM {FROM} WHERE {} GROUP BY 1, 2, 3, 4",
            conditions.sql()
        ));
        let rows: Vec<(String, String, String, String, i64)> =
            on!(&mut tx, c => bind_all!(sqlx::query_as(sql), arguments).fetch_all(c).await)?;
        let mut counts = DeviceCounts::default();
        for (reachability, health, conformance, lifecycle, n) in rows {
            let n = count(n);
            counts.total += n;
            *counts.reachability.entry(reachability).or_default() += n;
            *counts.health.entry(health).or_default() += n;
            *counts.conformance.entry(conformance).or_default() += n;
            *counts.lifecycle.entry(lifecycle).or_default() += n;
        }
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT d.location, COUNT(*) AS total, COUNT(CASE WHEN {reachability} = 'online' THEN 1 END),
                 COUNT(CASE WHEN d.health IN ('degraded', 'failing') THEN 1 END)
             FROM {FROM} WHERE {} GROUP BY d.location ORDER BY total DESC, d.location LIMIT {MAX_LOCATIONS}",
            conditions.sql()
        ));
        let rows: Vec<(String, i64, i64, i64)> =
            on!(&mut tx, c => bind_all!(sqlx::query_as(sql), arguments).fetch_all(c).await)?;
        counts.locations = rows
            .into_iter()
            .map(|(location, total, online, unhealthy)| LocationCounts {
                location,
                total: count(total),
                online: count(online),
                unhealthy: count(unhealthy),
            })
            .collect();
        let rows: Vec<(String,)> = on!(&mut tx, c => sqlx::query_as(
            "SELECT DISTINCT channel FROM devices WHERE tenant = $1 ORDER BY channel")
            .bind(self.tenant.0).fetch_all(c).await)?;
        counts.channels = rows.into_iter().map(|(channel,)| channel).collect();
        Ok(counts)
    }
}
