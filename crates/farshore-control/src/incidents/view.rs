//! A stored incident as the API shows it.

use farshore_api::incident::{
    EvidencePart, Incident, IncidentNote, IncidentSpec, IncidentState, IncidentStatus,
};
use farshore_domain::label::Labels;
use farshore_domain::object::{API_VERSION, Metadata};
use farshore_store::incidents::IncidentRow;

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Shows an incident.
pub(crate) fn incident(row: IncidentRow, evidence: Vec<EvidencePart>) -> Incident {
    let note = |note: farshore_store::incidents::IncidentNote| IncidentNote {
        at: note.at,
        by: note.by,
        did: note.did,
        comment: note.comment,
    };
    Incident {
        api_version: API_VERSION.to_owned(),
        kind: "Incident".to_owned(),
        metadata: Metadata {
            uid: row.uid.0,
            name: row.name,
            labels: Labels::default(),
            resource_version: row.resource_version,
            managed_by: format!("device:{}", row.device_name),
            created_at: row.created_at,
        },
        spec: IncidentSpec {
            device: row.device,
            device_name: row.device_name,
            location: row.location,
            app: some(row.app),
            cause: row.cause,
            release: row.release,
            version: some(row.version),
            rollout: row.rollout,
            rollout_name: row.rollout_name,
            started_at: row.started_at,
        },
        status: IncidentStatus {
            state: if row.open { IncidentState::Open } else { IncidentState::Resolved },
            message: row.message,
            signs: row.signs,
            last_at: row.last_at,
            actions: row.actions,
            ended_at: row.ended_at,
            resolved_at: row.resolved_at,
            resolved_by: some(row.resolved_by),
            acknowledged_at: row.acknowledged_at,
            acknowledged_by: some(row.acknowledged_by),
            notes: row.history.into_iter().map(note).collect(),
            evidence,
        },
    }
}
