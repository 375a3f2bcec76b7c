//! Many agents in one process, on one thread, over real mTLS.

use std::sync::Arc;
use std::time::Duration;

use farshore_agent::{
    Agent, AgentSettings, Behaviour, MemoryExecutor, MemoryJournal, Sampler, hardware, keep_key_sets,
};
use farshore_domain::name::Name;
use farshore_domain::reconcile::MonoMs;
use farshore_domain::time::UnixMs;
use farshore_protocol::server_frame;
use tokio::sync::oneshot;

use crate::plane::Plane;
use crate::wait::seen;

struct Silent;

impl Sampler for Silent {
    fn sample(&mut self, _: UnixMs, _: MonoMs) -> Vec<(&'static str, f64)> {
        Vec::new()
    }
}

#[tokio::test]
async fn agents_with_executors_in_memory_share_a_thread_and_behave_like_real_ones() {
    const COUNT: usize = 50;
    let plane = Plane::start().await;
    let app = Name::new("web").unwrap();
    let files = [("bin/app", 0o755, "")];
    let checked = |manifest: &mut serde_json::Value| {
        manifest["health"] = serde_json::json!([{"name": "ok", "probe": {"type": "tcp", "port": 1}}]);
        manifest["startTimeoutSeconds"] = 2.into();
    };
    let good = plane.signer.release("1.0", &files, checked);
    let bad = plane.signer.release("1.1", &files, checked);
    let mut fleet = Vec::new();
    for _ in 0..COUNT {
        let executor =
            MemoryExecutor::new(
                |_, version| {
                    if version.as_str() == "1.1" { Behaviour::Sick } else { Behaviour::Healthy }
                },
            );
        let mut journal = MemoryJournal::new(64 * 1024);
        keep_key_sets(&mut journal, &[plane.signer.first_set()]).unwrap();
        let identity = Arc::new(plane.identity());
        let samplers = || Box::new(Silent) as Box<dyn Sampler>;
        let settings = AgentSettings::new(hardware());
        let agent = Agent::new(settings, identity, executor.clone(), journal, samplers).unwrap();
        let (stop, stopped) = oneshot::channel();
        // Each opens its channel after the one before, so that each can be told.
        let channels = plane.book().channels;
        let task = tokio::spawn(agent.run(stopped));
        seen("a channel", || {
            (plane.book().channels > channels && plane.book().outbox.is_some()).then_some(())
        })
        .await;
        plane.tell(server_frame::Body::Desired(plane.sign(&plane.state(1, &good, &[]), &[&good])));
        let outbox = plane.book().outbox.clone().unwrap();
        fleet.push((executor, outbox, stop, task));
    }
    let all_run = |version: &'static str| {
        let executors: Vec<_> = fleet.iter().map(|(executor, ..)| executor.clone()).collect();
        let app = app.clone();
        seen(version, move || {
            let count = executors
                .iter()
                .filter(|executor| executor.running(&app).is_some_and(|v| v.as_str() == version))
                .count();
            (count == COUNT).then_some(())
        })
    };
    all_run("1.0").await;
    // Its soak time, after which it is what a rollback takes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let state = plane.sign(&plane.state(2, &bad, &[]), &[&bad]);
    for (_, outbox, ..) in &fleet {
        plane.book().outbox = Some(outbox.clone());
        plane.tell(server_frame::Body::Desired(state.clone()));
    }
    all_run("1.1").await;
    all_run("1.0").await;
    for (_, _, stop, task) in fleet {
        stop.send(()).unwrap();
        task.await.unwrap().unwrap();
    }
}
