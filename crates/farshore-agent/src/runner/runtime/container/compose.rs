//! Several containers as one app: started in the order they depend on each other, up when all are, ended when one of them has ended for good.

use std::time::Duration;

use farshore_domain::name::Name;
use farshore_domain::release::compose::{Condition, Service, ServiceRestart};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant as Moment, sleep, sleep_until, timeout};

use super::super::super::folder::AppFolder;
use super::super::super::spec::{Process, Spec};
use super::super::{Runtime, RuntimeError, Work};
use super::instance::{Instance, describe};
use super::{Ground, image, network};

/// A container that has ended says so within this time.
const ENDED: Duration = Duration::from_millis(200);

/// Runs a compose file's services.
pub(crate) struct ComposeRuntime {
    ground: Ground,
    members: Vec<Member>,
    /// Why there are none.
    bad: Option<String>,
}

struct Member {
    service: Service,
    instance: Instance,
    /// It has ended and is not to be started again.
    done: bool,
}

impl ComposeRuntime {
    pub(crate) fn new(folder: AppFolder, spec: Spec) -> Self {
        let compose = spec.run.as_ref().and_then(|run| run.compose.clone());
        let ground = Ground::new(folder, spec);
        let services = compose.map(|compose| compose.services());
        let (services, bad) = match services {
            Some(Ok(services)) => (services, None),
            Some(Err(error)) => (Vec::new(), Some(error.to_string())),
            None => (Vec::new(), Some("the release names no services".to_owned())),
        };
        let members = services
            .into_iter()
            .map(|service| {
                let id = format!("{}.{}", ground.spec.app, service.name);
                // Limits of the whole app are the ceiling of each of its services.
                let whole = &ground.spec.limits;
                let lower = |own: Option<u64>, cap: Option<u64>| own.into_iter().chain(cap).min();
                let mut limits = service.limits.clone();
                limits.memory_bytes = lower(limits.memory_bytes, whole.memory_bytes);
                limits.cpu_millis = limits.cpu_millis.into_iter().chain(whole.cpu_millis).min();
                limits.processes = limits.processes.into_iter().chain(whole.processes).min();
                let instance = ground.instance(id, &service.name, service.container.clone(), limits);
                Member { service, instance, done: false }
            })
            .collect();
        Self { ground, members, bad }
    }

    /// A service by its name; the only one where none is named.
    fn member(&mut self, service: Option<&Name>) -> Result<&mut Member, RuntimeError> {
        let named: Vec<_> = self.members.iter().map(|member| member.service.name.clone()).collect();
        let at = match (service, named.as_slice()) {
            (None, [_]) => Some(0),
            (None, _) => None,
            (Some(service), _) => named.iter().position(|name| name == service.as_str()),
        };
        let says = || match service {
            None => format!("the app has several services; say in which: {}", named.join(", ")),
            Some(service) => format!("the app has no service {service}, only {}", named.join(", ")),
        };
        at.and_then(|at| self.members.get_mut(at)).ok_or_else(|| RuntimeError::Said(says()))
    }

    /// The name of a service's container.
    pub(super) fn container_of(&mut self, service: Option<&Name>) -> Result<String, RuntimeError> {
        Ok(self.member(service)?.instance.id().to_owned())
    }

    /// A process inside a service's container, with `mark` in its environment.
    pub(super) async fn process_in(
        &mut self,
        service: Option<&Name>,
        words: &[String],
        mark: &str,
    ) -> Result<serde_json::Value, RuntimeError> {
        let ground = self.ground.clone();
        let member = self.member(service)?;
        let layout = ground.layout(&member.service.container.image);
        let mut env = ground.environment();
        env.extend(member.service.env.clone());
        member.instance.prepare(&layout, &member.service.command, &env).await?;
        Ok(member.instance.process(words, mark))
    }

    async fn start(&mut self) -> Result<(), RuntimeError> {
        if let Some(bad) = &self.bad {
            return Err(RuntimeError::Said(bad.clone()));
        }
        network::begin_hosts(&self.ground.hosts())?;
        for index in 0..self.members.len() {
            let (before, rest) = self.members.split_at_mut(index);
            let Some(member) = rest.first_mut() else { continue };
            for (name, condition) in &member.service.depends_on {
                let other = before.iter_mut().find(|other| other.service.name == *name);
                let other = other.ok_or_else(|| RuntimeError::Said(format!("there is no service {name}")))?;
                other.meets(*condition).await?;
            }
            let mut env = self.ground.environment();
            env.extend(member.service.env.clone());
            let layout = self.ground.layout(&member.service.container.image);
            let logs = self.ground.logs(format!("{}.", member.service.name));
            let started = member.instance.start(&layout, &member.service.command, &env, &logs).await;
            started
                .map_err(|error| RuntimeError::Said(format!("service {}: {error}", member.service.name)))?;
            member.done = false;
        }
        // Up is only what is healthy, where it can be asked.
        for member in &mut self.members {
            if member.service.health.is_some() {
                member.meets(Condition::Healthy).await?;
            }
        }
        Ok(())
    }

    async fn wait(&mut self) -> Result<String, RuntimeError> {
        loop {
            let ended = {
                let waits: FuturesUnordered<_> = self
                    .members
                    .iter()
                    .enumerate()
                    .filter(|(_, member)| !member.done)
                    .map(|(index, member)| async move { (index, member.ends().await) })
                    .collect();
                let mut waits = waits;
                waits.next().await
            };
            let Some((index, how)) = ended else { return Ok("all services are done".to_owned()) };
            let Some(member) = self.members.get_mut(index) else { continue };
            let name = &member.service.name;
            match how? {
                End::Exited(0) if member.service.restart != ServiceRestart::Always => member.done = true,
                End::Exited(status) => return Ok(format!("service {name} {}", describe(status))),
                End::Sick(why) => return Ok(format!("service {name} is not healthy: {why}")),
            }
        }
    }
}

enum End {
    Exited(u32),
    Sick(String),
}

impl Member {
    /// Waits until what another service waits for is so.
    async fn meets(&mut self, condition: Condition) -> Result<(), RuntimeError> {
        let name = &self.service.name;
        match condition {
            Condition::Started => Ok(()),
            Condition::Completed => match self.instance.wait().await? {
                0 => {
                    self.done = true;
                    Ok(())
                }
                status => Err(RuntimeError::Said(format!("service {name} {}", describe(status)))),
            },
            Condition::Healthy => {
                let Some(health) = &self.service.health else { return Ok(()) };
                let since = Moment::now();
                let mut failures = 0;
                loop {
                    let asked = tokio::select! {
                        asked = self.instance.exec(&health.command, Duration::from_millis(health.timeout_ms)) => asked,
                        status = self.instance.wait() => {
                            return Err(RuntimeError::Said(format!("service {name} {}", describe(status?))));
                        }
                    };
                    let why = match asked {
                        Ok(Ok(())) => return Ok(()),
                        // In a container that has ended there is nothing to ask.
                        asked => match timeout(ENDED, self.instance.wait()).await {
                            Ok(status) => {
                                return Err(RuntimeError::Said(format!(
                                    "service {name} {}",
                                    describe(status?)
                                )));
                            }
                            Err(_) => asked?.err().unwrap_or_default(),
                        },
                    };
                    if since.elapsed() >= Duration::from_millis(health.start_period_ms) {
                        failures += 1;
                    }
                    if failures >= health.retries {
                        return Err(RuntimeError::Said(format!("service {name} is not healthy: {why}")));
                    }
                    // While it starts it is asked more often, as compose's own start_interval does.
                    sleep(Duration::from_millis(health.interval_ms.min(1_000))).await;
                }
            }
        }
    }

    /// Waits until it has ended or its check has failed too often.
    async fn ends(&self) -> Result<End, RuntimeError> {
        let Some(health) = &self.service.health else {
            return Ok(End::Exited(self.instance.wait().await?));
        };
        let sick = async {
            let mut failures = 0;
            loop {
                sleep_until(Moment::now() + Duration::from_millis(health.interval_ms)).await;
                match self.instance.exec(&health.command, Duration::from_millis(health.timeout_ms)).await? {
                    Ok(()) => failures = 0,
                    Err(why) => {
                        failures += 1;
                        if failures >= health.retries {
                            return Ok(End::Sick(why));
                        }
                    }
                }
            }
        };
        tokio::select! {
            status = self.instance.wait() => Ok(End::Exited(status?)),
            sick = sick => sick,
        }
    }
}

impl Runtime for ComposeRuntime {
    fn begin(&mut self) -> Work<'_, Option<Process>> {
        Box::pin(async { Ok(None) })
    }

    fn ready(&mut self) -> Option<Work<'_, ()>> {
        Some(Box::pin(self.start()))
    }

    fn ended(&mut self) -> Work<'_, String> {
        Box::pin(self.wait())
    }

    /// Those that depend on others first.
    fn stop(&mut self, _: bool) -> Work<'_, ()> {
        Box::pin(async {
            let mut result = Ok(());
            for member in self.members.iter().rev() {
                let stopped = member.instance.stop(self.ground.patience()).await;
                if result.is_ok() {
                    result = stopped;
                }
            }
            result
        })
    }

    fn clear(&mut self) -> Work<'_, ()> {
        Box::pin(async {
            let mut result = Ok(());
            for member in self.members.iter_mut().rev() {
                let cleared = member.instance.clear().await;
                if result.is_ok() {
                    result = cleared;
                }
            }
            result
        })
    }

    fn remove(&mut self) -> Work<'_, ()> {
        Box::pin(async {
            self.clear().await?;
            image::prune(&self.ground.client, &self.ground.device).await
        })
    }
}
