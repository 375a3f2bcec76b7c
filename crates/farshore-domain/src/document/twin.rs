//! What of the twin's `desired` the device has not reported.

use serde::Serialize;
use serde_json::Value;

use super::{Stamps, patch, path};
use crate::time::UnixMs;

/// A leaf of `desired` that `reported` has not, or has otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Outstanding {
    /// A JSON Pointer.
    pub path: String,
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub desired: Value,
    /// Missing: the device has reported nothing there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub reported: Option<Value>,
    /// When it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMs>,
}

/// All of them, in the order of their places.
#[must_use]
pub fn outstanding(desired: Option<&Value>, stamps: &Stamps, reported: Option<&Value>) -> Vec<Outstanding> {
    let Some(desired) = desired else { return Vec::new() };
    let places = patch::leaves(desired).into_iter().filter(|place| !place.is_empty());
    places
        .filter_map(|place| {
            let wanted = path::get(Some(desired), &place)?;
            let has = path::get(reported, &place);
            (has != Some(wanted)).then(|| Outstanding {
                desired: wanted.clone(),
                reported: has.cloned(),
                since: stamps.latest(&place).map(|stamp| UnixMs(stamp.at.ms)),
                path: place,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::document::{Hlc, Stamp};

    #[test]
    fn what_is_desired_and_not_reported() {
        let desired = json!({"interval": 10, "led": {"on": true, "color": "red"}});
        let reported = json!({"interval": 10, "led": {"on": false}, "firmware": "7"});
        let mut stamps = Stamps::default();
        stamps.note("/led", Stamp { at: Hlc { ms: 5, count: 0 }, by: "user:ann".to_owned() });
        let found = outstanding(Some(&desired), &stamps, Some(&reported));
        let places: Vec<(&str, Option<&Value>)> =
            found.iter().map(|one| (one.path.as_str(), one.reported.as_ref())).collect();
        assert_eq!(places, [("/led/color", None), ("/led/on", Some(&json!(false)))]);
        assert!(found.iter().all(|one| one.since == Some(UnixMs(5))));
        assert_eq!(outstanding(Some(&json!({})), &stamps, None), []);
        assert_eq!(outstanding(None, &stamps, Some(&reported)), []);
    }
}
