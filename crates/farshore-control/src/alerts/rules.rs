//! Rules and silences as objects: what each checks, and the rules that are there from the start.

use farshore_api::alert::{AlertRuleStatus, SilenceSpec, SilenceState, SilenceStatus};
use farshore_api::{ErrorCode, NewObject};
use farshore_domain::alert::{AlertRuleSpec, BUILT_IN, BuiltIn, Matcher, RuleKind};
use farshore_domain::id::TenantId;
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::time::{DAY_MS, UnixMs};
use farshore_store::objects::{NewStored, ObjectKind, Stored};
use farshore_store::{Driver, StoreError, StoreResult, TenantDb};
use uuid::Uuid;

use crate::app::App;
use crate::clock::now;
use crate::error::{ApiError, ApiResult};
use crate::fleet::objects::Kind;

/// The longest silence.
const LONGEST_MS: i64 = 366 * DAY_MS;

impl Kind for AlertRuleSpec {
    const KIND: ObjectKind = ObjectKind::AlertRule;
    type Status = AlertRuleStatus;

    fn check(&self) -> ApiResult<()> {
        self.check().map_err(|error| ApiError::field(format!("spec.{}", error.field), error.message))
    }

    async fn statuses(_: &TenantDb, page: &[Stored<Self>]) -> ApiResult<Vec<AlertRuleStatus>> {
        let status = |stored: &Stored<Self>| {
            let row = BuiltIn::of(stored.spec.kind);
            AlertRuleStatus {
                built_in: is_built_in(stored.metadata.name.as_str()),
                unit: row.map_or_else(String::new, |row| row.unit.to_owned()),
                least: row.map_or(0.0, |row| row.least),
                most: row.map_or(0.0, |row| row.most),
            }
        };
        Ok(page.iter().map(status).collect())
    }
}

fn is_built_in(name: &str) -> bool {
    RuleKind::from_word(name) != RuleKind::Unknown
}

/// A rule that is there from the start keeps its type, because it is known by it.
pub(super) fn check_name(new: &NewObject<AlertRuleSpec>) -> ApiResult<()> {
    let name = new.metadata.name.as_str();
    if is_built_in(name) && new.spec.kind.word() != name {
        return Err(ApiError::field("spec.type", format!("is {name} for the built-in rule of this name")));
    }
    Ok(())
}

/// What is there from the start is not deleted.
pub(super) async fn refuse_built_in(db: &TenantDb, id: &str) -> ApiResult<()> {
    let rule: Stored<AlertRuleSpec> = db.object(ObjectKind::AlertRule, id).await?;
    if is_built_in(rule.metadata.name.as_str()) {
        let text =
            format!("{} is a built-in rule. Disable it instead: spec.enabled: false.", rule.metadata.name);
        return Err(ApiError::new(ErrorCode::Conflict, text));
    }
    Ok(())
}

/// Makes the built-in rules of a tenant that are not there yet, and returns all rules.
pub(super) async fn all(app: &App, tenant: TenantId) -> StoreResult<Vec<Stored<AlertRuleSpec>>> {
    let system = app.store().system(Driver::Alerts);
    let there = system.all_objects::<AlertRuleSpec>(tenant.0, ObjectKind::AlertRule).await?;
    let missing: Vec<&BuiltIn> = BUILT_IN
        .iter()
        .filter(|row| there.iter().all(|rule| rule.metadata.name.as_str() != row.kind.word()))
        .collect();
    if missing.is_empty() {
        return Ok(there);
    }
    let db = system.tenant(tenant);
    for row in missing {
        let name = Name::new(row.kind.word()).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let (labels, spec) = (Labels::default(), row.spec());
        let new = NewStored { name: &name, labels: &labels, managed_by: "farshore", spec: &spec };
        match db.create_object(ObjectKind::AlertRule, Uuid::now_v7(), new, now()).await {
            // Another replica was faster.
            Ok(_) | Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    app.events_written();
    system.all_objects(tenant.0, ObjectKind::AlertRule).await
}

/// Where a silence stands.
pub(super) fn state(spec: &SilenceSpec, now: UnixMs) -> SilenceState {
    if spec.ends_at <= now {
        SilenceState::Expired
    } else if spec.starts_at.is_some_and(|starts| starts > now) {
        SilenceState::Pending
    } else {
        SilenceState::Active
    }
}

impl Kind for SilenceSpec {
    const KIND: ObjectKind = ObjectKind::Silence;
    type Status = SilenceStatus;

    fn check(&self) -> ApiResult<()> {
        Matcher::check(&self.matchers)
            .map_err(|error| ApiError::field(format!("spec.{}", error.field), error.message))?;
        let now = now();
        if self.ends_at <= self.starts_at.unwrap_or(now) {
            return Err(ApiError::field(
                "spec.endsAt",
                "is after startsAt and after now, in Unix milliseconds",
            ));
        }
        if self.ends_at.since_ms(now) > LONGEST_MS {
            return Err(ApiError::field(
                "spec.endsAt",
                "is at most a year from now; disable the rule instead",
            ));
        }
        crate::extract::check_text("spec.comment", &self.comment, 1_000)
    }

    async fn statuses(_: &TenantDb, page: &[Stored<Self>]) -> ApiResult<Vec<SilenceStatus>> {
        let now = now();
        Ok(page.iter().map(|stored| SilenceStatus { state: state(&stored.spec, now) }).collect())
    }
}
