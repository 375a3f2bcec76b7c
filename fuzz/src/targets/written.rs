//! What people write (pipelines, expressions, selectors, schedules, manifests), documents, and what is signed.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use farshore_domain::condition::{Condition, Facts, Missing, Type, Value as Fact};
use farshore_domain::desired::DesiredState;
use farshore_domain::digest::Digest;
use farshore_domain::document::exchange::{Answer, Request};
use farshore_domain::document::merge::{Base, three_way};
use farshore_domain::document::resolver::{Inputs, MAX_WORK, Resolver};
use farshore_domain::document::{Hlc, Rule, Rules, Stamps, Strategy, check_names, patch, tidy};
use farshore_domain::id::TenantId;
use farshore_domain::name::Name;
use farshore_domain::release::Manifest;
use farshore_domain::release::compose::Compose;
use farshore_domain::rollout::spec::{Amount, ReleaseRef};
use farshore_domain::schedule::{Blackout, Energy, Window, WindowKind, WindowSpec, Zone, check};
use farshore_domain::selector::Selector;
use farshore_domain::time::UnixMs;
use farshore_domain::version::Version;
use farshore_gateway::decode::Precision;
use farshore_gateway::pipeline::{Context, Definition, Trial, read_recording};
use farshore_journal::{PointBatch, StreamName, Value as PointValue};
use farshore_trust::CertificateDer;
use farshore_trust::blob::verify_blob;
use farshore_trust::identity::{DeviceIdentity, TrustDomain};
use farshore_trust::key::{Algorithm, PublicKey, SigningKey};
use farshore_trust::keyset::{SignedKeySet, TrustedKeySet, accept_next};
use farshore_trust::online::{SignedDesired, verify_desired};
use serde_json::{Value, json};

/// Points that were recorded elsewhere.
pub fn recordings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(points) = read_recording(text, Precision::Milliseconds) {
        assert!(!points.is_empty() && points.len() <= data.len());
    }
}

/// The points that go through a pipeline: numbers and texts of two series, some late, some twice.
static POINTS: LazyLock<PointBatch> = LazyLock::new(|| {
    let mut batch = PointBatch::new();
    let number = batch.series("temp", "value", [("room", "12")]).expect("a series");
    let text = batch.series("state", "door", []).expect("a series");
    for step in 0_i32..60 {
        let at = i64::from(step - step % 7) * 1_000_000_000;
        batch.push(number, at, PointValue::Float(f64::from(step % 13) * 1.5 - 4.0)).expect("a point");
        batch.push(number, at, PointValue::Integer(i64::from(step))).expect("a point");
        batch.push(text, at, PointValue::Text("open".to_owned())).expect("a point");
    }
    batch
});

/// A file of pipelines, with the expressions in it; and what it makes of points.
pub fn pipelines(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(definition) = Definition::parse(text) else { return };
    let stream: StreamName = "data/sensors".parse().expect("a name");
    let labels = BTreeMap::from([("site".to_owned(), "riga".to_owned())]);
    let mut trial = Trial::new(&definition, Context { labels, twin: json!({"limits": {"high": 8}}) });
    trial.feed(&stream, &POINTS);
    trial.finish();
    for output in trial.outputs().iter().take(100) {
        assert!(!output.line().is_empty() && output.json().is_object());
    }
}

/// The expression of the strategy `custom`.
pub fn resolvers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(resolver) = Resolver::compile(text) else { return };
    let base = json!({"n": 1});
    let (edge, cloud) =
        (json!({"n": 5, "tags": ["a"], "t": "x"}), json!({"n": 3, "tags": ["b"], "x": 1.5, "t": "y"}));
    let inputs = Inputs {
        base: Some(&base),
        edge: Some(&edge),
        cloud: Some(&cloud),
        edge_ms: Some(10),
        cloud_ms: None,
        path: "/counts",
    };
    let (mut left, mut again) = (MAX_WORK, MAX_WORK);
    let value = resolver.resolve(&inputs, &mut left);
    assert_eq!(value, resolver.resolve(&inputs, &mut again), "the same on both sides");
    assert_eq!(left, again);
}

/// What a device and the hub say to each other about documents; and three states of one document: the base and what both sides made of it.
pub fn documents(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        for change in &request.changes {
            let named = check_names(&change.collection, &change.name);
            if let (Ok(()), Some(change)) = (named, &change.patch) {
                kept(patch::apply(&json!({}), change));
            }
        }
        if let Some(wish) = &request.wish {
            // Refused or not, it can be compiled: one that is wrong is as good as `manual`.
            drop((wish.check(), Rules::new(vec![wish.clone()])));
        }
    }
    if let Ok(answer) = serde_json::from_slice::<Answer>(data) {
        serde_json::to_vec(&answer).expect("what was read can be written");
    }
    if let Ok(clock) = std::str::from_utf8(data).unwrap_or_default().parse::<Hlc>() {
        assert_eq!(clock.to_string().parse::<Hlc>(), Ok(clock));
    }
    let Ok([base, edge, cloud]) = serde_json::from_slice::<[Value; 3]>(data) else { return };
    let (Some(base), Some(edge), Some(cloud)) = (kept(base), kept(edge), kept(cloud)) else { return };
    assert_eq!(patch::apply(&base, &patch::diff(&base, &edge)), edge);
    for strategy in Strategy::ALL {
        let resolver = (strategy == Strategy::Custom).then(|| "max(edge, cloud)".to_owned());
        let rules = Rules::new(vec![Rule { path: String::new(), strategy, resolver }]);
        let none = Stamps::default();
        let merge = |edge, cloud| {
            three_way(Base::Known(Some(&base)), (Some(edge), &none), (Some(cloud), &none), &rules)
        };
        let merged = merge(&edge, &cloud);
        assert_eq!(merged, merge(&edge, &cloud), "the same on both sides");
        let same = merge(&edge, &edge);
        assert!(same.conflicts.is_empty() && same.value.as_ref() == Some(&edge), "nobody to fight with");
        let alone = merge(&edge, &base);
        assert!(
            alone.conflicts.is_empty() && alone.value.as_ref() == Some(&edge),
            "only one side has changed it"
        );
    }
}

/// A document, if it is one: as it is read again after it was written.
fn kept(value: Value) -> Option<Value> {
    let value = tidy(value).ok()?;
    let again: Value = serde_json::from_str(&value.to_string()).expect("what was written can be read");
    assert_eq!(again, value);
    assert_eq!(tidy(again).as_ref(), Ok(&value));
    Some(value)
}

/// Manifests of releases, compose files in them, and what one device should have: the bytes under a signature.
pub fn manifests(data: &[u8]) {
    if let Ok(manifest) = Manifest::parse(data) {
        let bytes = serde_json::to_vec(&manifest).expect("what was read can be written");
        if let Ok(again) = Manifest::parse(&bytes) {
            assert_eq!(again, manifest);
        }
    }
    if let Ok(compose) = serde_json::from_slice::<Compose>(data)
        && let Ok(services) = compose.services()
    {
        assert_eq!(services.len(), compose.services.len());
    }
    if let Ok(state) = DesiredState::parse(data) {
        let bytes = serde_json::to_vec(&state).expect("what was read can be written");
        if let Ok(again) = DesiredState::parse(&bytes) {
            assert_eq!(again, state);
        }
    }
}

/// Keys that sign nothing here, so that nothing may verify.
static KEYS: LazyLock<Vec<PublicKey>> = LazyLock::new(|| {
    [Algorithm::P256, Algorithm::Ed25519]
        .into_iter()
        .map(|algorithm| SigningKey::generate(algorithm).expect("a key").public().clone())
        .collect()
});

/// Signature files, keys, key sets, certificates and signed desired states.
pub fn signatures(data: &[u8]) {
    assert!(verify_blob(&KEYS, b"what nobody has signed", data).is_err());
    let tenant = TenantId(uuid::Uuid::nil());
    let next = SignedKeySet { document: data.to_vec(), signature: data.to_vec() };
    assert!(accept_next(None, &next, tenant).is_err());
    if let Ok(set) = TrustedKeySet::reload(data, tenant) {
        assert!(!set.keys().is_empty() && set.tenant() == tenant);
    }
    if let Ok(key) = PublicKey::from_spki_der(data) {
        assert_eq!(key.spki_der(), data, "one encoding only");
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(key) = PublicKey::from_pem(text) {
            assert_eq!(PublicKey::from_pem(&key.to_pem()).expect("its own text").key_id(), key.key_id());
        }
        if let Ok(key) = SigningKey::from_pem(text) {
            assert!(SigningKey::from_pem(&key.to_pem()).is_ok());
        }
    }
    drop(DeviceIdentity::parse(data));
    let domain = TrustDomain::new("farshore.test").expect("a trust domain");
    let signed = SignedDesired {
        body: data.to_vec(),
        signature: data.to_vec(),
        chain: vec![data.to_vec(), data.to_vec()],
    };
    assert!(verify_desired(&[CertificateDer::from(data)], &domain, &signed, UnixMs(0)).is_err());
}

/// A cron pattern, its zone in a second line; and windows and blackouts as JSON.
pub fn schedules(data: &[u8]) {
    if let Ok(blackout) = serde_json::from_slice::<Blackout>(data) {
        drop(check(&[], std::slice::from_ref(&blackout), Energy::Any));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let spec = serde_json::from_str::<WindowSpec>(text).unwrap_or_else(|_| {
        let mut lines = text.lines();
        WindowSpec {
            kind: WindowKind::Maintenance,
            cron: lines.next().unwrap_or_default().to_owned(),
            duration_seconds: 3_600,
            time_zone: lines.next().map(str::to_owned),
        }
    });
    let fine = check(std::slice::from_ref(&spec), &[], Energy::Any).is_empty();
    let Ok(window) = Window::new(&spec) else {
        assert!(!fine);
        return;
    };
    // An ordinary day, one in a leap year, and the end of summer time in Riga.
    for at in [1_735_689_600_000, 1_709_164_800_000, 1_761_436_800_000].map(UnixMs) {
        let next = window.next_open(at, &Zone::utc());
        assert!(next.is_none_or(|next| next >= at));
        assert!(!fine || next.is_some(), "it was said to open in every year");
        if let Some(end) = window.closes_at(at, &Zone::utc(), UnixMs(at.0 + 30 * 86_400_000)) {
            assert!(end > at && window.is_open(at, &Zone::utc()));
        }
    }
}

/// What a condition is told: something of the type it declares for some, nothing for others.
struct Told;

impl Facts for Told {
    fn variable(&self, name: &str) -> Result<Fact, Missing> {
        if name.len().is_multiple_of(3) {
            Err(Missing("nobody knows".to_owned()))
        } else {
            Ok(Fact::Number(3.0))
        }
    }

    fn call(&self, name: &str, arguments: &[Fact]) -> Result<Fact, Missing> {
        match arguments.first().map(Fact::kind) {
            Some(Type::Text) if name.len().is_multiple_of(2) => Ok(Fact::Number(f64::NAN)),
            Some(_) => Ok(Fact::Number(0.5)),
            None => Ok(Fact::Bool(true)),
        }
    }
}

/// Selectors, conditions, versions, amounts, names and digests.
pub fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    macro_rules! prints_and_parses_again {
        ($($kind:ty),*) => {$(if let Ok(value) = text.parse::<$kind>() {
            assert_eq!(value.to_string().parse::<$kind>().ok(), Some(value));
        })*};
    }
    prints_and_parses_again!(Selector, Version, Amount, ReleaseRef, Name, Digest);
    for vocabulary in
        [farshore_domain::rollout::vocabulary(), farshore_domain::condition::device::vocabulary(true)]
    {
        if let Ok(condition) = Condition::compile(text, &vocabulary) {
            assert_eq!(condition.evaluate(&Told), condition.evaluate(&Told));
            assert!(condition.variables().len() + condition.calls().len() <= text.len());
        }
    }
}
