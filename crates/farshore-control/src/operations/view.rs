//! A stored operation as the API shows it.

use farshore_api::operation::{Operation, OperationSpec, OperationStatus};
use farshore_domain::label::Labels;
use farshore_domain::object::{API_VERSION, Metadata};
use farshore_store::operations::OperationRow;

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Shows an operation.
pub(crate) fn operation(row: OperationRow) -> Operation {
    let deadline = row.deadline_at.unwrap_or(row.expires_at);
    Operation {
        api_version: API_VERSION.to_owned(),
        kind: "Operation".to_owned(),
        metadata: Metadata {
            uid: row.uid.0,
            name: row.name,
            labels: Labels::default(),
            resource_version: 1,
            managed_by: row.created_by.clone(),
            created_at: row.created_at,
        },
        spec: OperationSpec {
            kind: row.kind,
            device: row.device,
            device_name: row.device_name,
            app: some(row.app),
            arguments: row.arguments,
            reason: row.reason,
            requested_by: row.created_by,
            request: row.request,
            expires_at: row.expires_at,
            time_limit_seconds: row.time_limit_seconds,
        },
        status: OperationStatus {
            state: row.state,
            message: row.message,
            waits: row.waits,
            deadline_at: (!row.state.is_final()).then_some(deadline),
            delivered_at: row.delivered_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
            cancel_requested_at: row.cancel_requested_at,
            cancelled_by: some(row.cancelled_by),
            exit_code: row.exit_code,
            output_bytes: row.output_bytes,
            output_total: row.output_total,
        },
    }
}
