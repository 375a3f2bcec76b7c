//! What gateways say of their pipelines, within its limits: a gateway that says too much of itself still syncs.

use farshore_api::pipeline::ProcessingReport;

const MAX_PIPELINES: usize = 32;
const MAX_STEPS: usize = 256;
const MAX_NAME: usize = 128;
const MAX_KIND: usize = 16;
const MAX_WHY: usize = 1_000;
const SOURCES: [&str; 4] = ["control-plane", "file", "aggregates", "program"];

pub(crate) fn fit(mut report: ProcessingReport) -> ProcessingReport {
    let text = |text: &mut String, limit: usize| {
        *text = text.chars().filter(|c| !c.is_control()).take(limit).collect();
    };
    report.source = report.source.filter(|source| SOURCES.contains(&source.as_str()));
    report.config.iter_mut().for_each(|name| text(name, MAX_NAME));
    report.refused.iter_mut().for_each(|refused| text(&mut refused.why, MAX_WHY));
    report.trouble.iter_mut().for_each(|why| text(why, MAX_WHY));
    report.pipelines.truncate(MAX_PIPELINES);
    let mut left = MAX_STEPS;
    for pipeline in &mut report.pipelines {
        text(&mut pipeline.name, MAX_NAME);
        pipeline.steps.truncate(left);
        left -= pipeline.steps.len();
        pipeline.steps.iter_mut().for_each(|step| text(&mut step.kind, MAX_KIND));
    }
    report
}
