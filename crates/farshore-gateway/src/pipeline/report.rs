//! What the control plane is told of processing, within bounds.

use super::runner::ProcessingStatus;
use crate::sync::{PipelineReport, ProcessingReport, RefusedReport, StepReport};

/// Steps of all pipelines together.
const MAX_STEPS: usize = 256;

/// `refused`: pipelines of the control plane that this device does not take.
pub(crate) fn report(
    status: Option<&ProcessingStatus>,
    refused: Option<RefusedReport>,
) -> Option<ProcessingReport> {
    let Some(status) = status else {
        return refused
            .map(|refused| ProcessingReport { refused: Some(refused), ..ProcessingReport::default() });
    };
    let mut left = MAX_STEPS;
    let mut left_out = 0;
    let pipelines = status
        .pipelines
        .iter()
        .map(|pipeline| {
            let shown = pipeline.steps.len().min(left);
            left -= shown;
            left_out += (pipeline.steps.len() - shown) as u64;
            PipelineReport {
                name: pipeline.name.clone(),
                active_alerts: pipeline.active_alerts as u64,
                steps: pipeline
                    .steps
                    .iter()
                    .take(shown)
                    .map(|step| StepReport {
                        kind: step.kind.to_owned(),
                        taken: step.counts.taken,
                        passed: step.counts.passed,
                        late: step.counts.late,
                        dropped: step.counts.no_room + step.counts.unknown,
                        cut: step.counts.cut,
                        raised: step.counts.raised,
                        open_windows: step.open_windows as u64,
                    })
                    .collect(),
            }
        })
        .collect();
    Some(ProcessingReport {
        source: Some(status.source.to_owned()).filter(|source| source != "nothing"),
        config: status.config.as_ref().map(|config| config.name.clone()),
        digest: status.config.as_ref().map(|config| config.digest),
        refused: refused.or_else(|| status.refused.clone().map(|why| RefusedReport { digest: None, why })),
        trouble: status.trouble.clone(),
        points: status.engine.points,
        backlog: status.backlog,
        series: status.series as u64,
        late: status.late,
        dropped: status.dropped,
        alerts_raised: status.alerts_raised,
        alerts_cleared: status.alerts_cleared,
        messages: status.messages_published,
        calls: status.webhook_calls,
        calls_failed: status.webhook_failures,
        written: status.points_written,
        lost: status.points_lost,
        pipelines,
        steps_left_out: left_out,
    })
}
