//! The demonstration: an app in three channels, a good release, and one that fails on some devices, halts and goes back.
//!
//! Release 1.1 is unhealthy where its config says that the panel's driver is `v2`, which a config layer says of all kiosks. The
//! canary channel has no kiosks. Everything is written so that it can be done again: what is there stays.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_api::claim::ClaimTokenSpec;
use farshore_api::release::TrustedKeys;
use farshore_api::rollout::{Rollout, RolloutAction};
use farshore_api::{NewMetadata, NewObject};
use farshore_domain::label::Labels;
use farshore_domain::name::Name;
use farshore_domain::rollout::{Amount, Phase, ReleaseRef, RolloutSpec, WaveSpec};
use farshore_domain::version::Version;
use farshore_trust::key::{Algorithm, SigningKey};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::client::{Client, typed};
use crate::context::create_private;
use crate::dev::agents::Agents;
use crate::dev::folder::{Folder, free_port};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::kind::find;
use crate::output::cell::{Look, text_at};
use crate::release::manifest::{Form, Overrides, PlatformArtifact, build, read_key, sign};
use crate::release::pack::pack;
use crate::verb::apply::{Document, apply, document};
use crate::verb::{key, release, rollout, token, wait};
use crate::watch::{Change, Watch};

/// The config value that the bad release can't bear.
pub(crate) const DRIVER_KEY: &str = "DISPLAY_DRIVER";
pub(crate) const DRIVER_VALUE: &str = "v2";
/// How many real agents there are.
const REAL: usize = 3;
/// A real agent is online this soon, or something is wrong.
const ONLINE: Duration = Duration::from_secs(60);

pub(crate) fn app() -> Result<Name> {
    Name::new("edge-web").map_err(|error| Failure::because("can't name the app", &error))
}

fn version(text: &str) -> Result<Version> {
    text.parse().map_err(|error: farshore_domain::version::VersionError| {
        Failure::because("can't read the version", &error)
    })
}

pub(crate) fn bad_version() -> Result<Version> {
    version("1.1")
}

/// How many devices match.
pub(crate) async fn count(client: &Client, selector: &str) -> Result<u64> {
    let query = [("labelSelector", selector.to_owned())];
    let list = crate::verb::get::fetch(client, find("device")?, &query, None).await?;
    Ok(find("device")?.items(&list).len() as u64)
}

/// A claim token's text.
pub(crate) async fn claim_token(
    client: &Client,
    labels: &Labels,
    channel: &str,
    location: &str,
    uses: u32,
) -> Result<Zeroizing<String>> {
    let what = "can't make a claim token";
    let new = NewObject {
        api_version: None,
        kind: None,
        metadata: NewMetadata {
            name: token::random_name("dev")?,
            labels: Labels::default(),
            managed_by: Some("dev".to_owned()),
        },
        spec: ClaimTokenSpec {
            labels: labels.clone(),
            channel: Some(Name::new(channel).map_err(|error| Failure::because(what, &error))?),
            location: location.to_owned(),
            lifetime_seconds: 3600,
            uses,
        },
    };
    let object = client.post(what, "/api/claim-tokens", &new).await?;
    Ok(Zeroizing::new(text_at(&object, "/status/token")))
}

async fn put(client: &Client, kind: &str, name: &str, spec: Value) -> Result<()> {
    let value = json!({"kind": kind, "metadata": {"name": name, "managedBy": "dev"}, "spec": spec});
    let document: Document = document("farshore dev", value)?;
    apply(client, &document).await.map(drop)
}

/// Channels, app, placement, config.
pub(crate) async fn objects(client: &Client) -> Result<()> {
    for (name, says) in [
        ("dev", "Where changes land first"),
        ("canary", "One shop that sees them early"),
        ("prod", "Every other shop"),
    ] {
        put(client, "Channel", name, json!({"description": says})).await?;
    }
    put(client, "App", "edge-web", json!({"description": "The page that tills and kiosks show"})).await?;
    put(client, "Placement", "edge-web", json!({"app": "edge-web", "selector": "demo"})).await?;
    put(client, "Config", "greeting", json!({"app": "edge-web", "values": {"GREETING": "Welcome"}})).await?;
    let driver = json!({DRIVER_KEY: DRIVER_VALUE});
    put(client, "Config", "panel-v2", json!({"app": "edge-web", "selector": "panel=v2", "values": driver}))
        .await
}

/// Starts the real agents, waits until they are online, and gives each its port.
pub(crate) async fn real_agents(
    client: &Client,
    folder: &Folder,
    program: &Path,
    agents: &mut Agents,
) -> Result<usize> {
    let what = "can't start the agents";
    for number in 1..=REAL {
        let name = format!("edge-{number}");
        // The last one has the panel that the bad release can't drive.
        let panel = if number == REAL { "v2" } else { "v1" };
        let known = agents.has_state(&name) && count(client, &format!("agent={name}")).await? > 0;
        let token = if known {
            None
        } else {
            let labels = Labels::try_from([
                ("agent", name.as_str()),
                ("demo", "real"),
                ("panel", panel),
                ("site", "here"),
            ])
            .map_err(|error| Failure::because(what, &error))?;
            Some(claim_token(client, &labels, "prod", "This machine", 1).await?)
        };
        agents.start(folder, program, &name, token.as_ref().map(|token| token.as_str()))?;
    }
    let device = find("device")?;
    let mut watch = Watch::open(client, device).await?;
    let all_online = async {
        loop {
            let query = [("labelSelector", "demo=real".to_owned())];
            let list = crate::verb::get::fetch(client, device, &query, None).await?;
            let online =
                device.items(&list).iter().filter(|item| text_at(item, "/status/reachability") == "online");
            if online.count() >= REAL {
                return Ok(list);
            }
            if let Some(ended) = agents.ended() {
                return Err(Failure::new(Exit::Failed, what)
                    .why(ended)
                    .why(format!("its log is in {}", folder.join("agents").display())));
            }
            // Any change is a reason to look again; so is a second without one, should a child have ended.
            if let Ok(change) = tokio::time::timeout(Duration::from_secs(1), watch.next()).await {
                let _: Change = change?;
            }
        }
    };
    let list = tokio::time::timeout(ONLINE, all_online).await.unwrap_or_else(|_| {
        Err(Failure::new(Exit::Pending, what)
            .why(format!("they are not online after {} s", ONLINE.as_secs()))
            .why(format!("their logs are in {}", folder.join("agents").display())))
    })?;
    let mut done = 0;
    for item in device.items(&list) {
        let (agent, name) = (text_at(item, "/metadata/labels/agent"), device.name_of(item));
        let config = format!("{agent}-port");
        // The port that was chosen once stays: the app listens on it.
        if crate::verb::get::one(client, find("config")?, &config)
            .await
            .is_err_and(|failure| failure.exit() == Exit::NotFound)
        {
            let values = json!({"PORT": free_port()?.to_string()});
            put(client, "Config", &config, json!({"app": "edge-web", "device": name, "values": values}))
                .await?;
        }
        done += 1;
    }
    Ok(done)
}

/// The release key, made once; the devices trust it from the first set on.
async fn release_key(client: &Client, folder: &Folder) -> Result<SigningKey> {
    let what = "can't make the release key";
    let path = folder.join("release.key");
    let release_key = if path.exists() {
        read_key(&path)?
    } else {
        let new = SigningKey::generate(Algorithm::P256).map_err(|error| Failure::because(what, &error))?;
        create_private(&path, new.to_pem().as_bytes()).map_err(|error| Failure::because(what, &error))?;
        fs::write(folder.join("release.key.pub"), new.public().to_pem())
            .map_err(|error| Failure::because(what, &error))?;
        new
    };
    let trusted: TrustedKeys = client.get_as(what, "/api/trusted-keys").await?;
    if trusted.version == 0 {
        let name = Name::new("dev").map_err(|error| Failure::because(what, &error))?;
        key::init(client, &release_key, name).await?;
    }
    Ok(release_key)
}

/// The two releases, packed, signed and pushed.
pub(crate) async fn releases(client: &Client, folder: &Folder, program: &Path, tenant: &str) -> Result<()> {
    let key = release_key(client, folder).await?;
    let kind = find("release")?;
    for version in ["1.0", "1.1"] {
        let known = crate::verb::get::one(client, kind, &format!("edge-web-{version}")).await;
        match known {
            Ok(_) => continue,
            Err(failure) if failure.exit() == Exit::NotFound => {}
            Err(failure) => return Err(failure),
        }
        let out = folder.join("releases");
        let archive = pack_release(&out, program, version)?;
        let mut env = json!({});
        if version == "1.1" {
            env = json!({"FAIL_HEALTH_WHEN": format!("{DRIVER_KEY}={DRIVER_VALUE}")});
        }
        let template = json!({
            "tenant": tenant, "app": "edge-web", "version": version,
            "run": {"command": ["bin/edge-web-service"], "env": env, "stopTimeoutSeconds": 2},
            "health": [{"name": "page", "probe": {"type": "http", "port": "$PORT", "path": "/healthz"}, "intervalSeconds": 1, "failureThreshold": 2}],
            "restart": {"backoffMs": 200, "maxBackoffMs": 2000, "maxRestarts": 2},
            "soakSeconds": 3, "startTimeoutSeconds": 8,
        });
        let artifact = PlatformArtifact {
            os: "linux".to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            variant: String::new(),
            path: archive,
        };
        let built = build(template, &Overrides::default(), &[artifact])?;
        let signature = sign(&key, &built.bytes, Form::Detached)?;
        let path = release::write_signed(&out, &built.manifest, &built.bytes, &signature, Form::Detached)?;
        let signature = crate::release::manifest::signature_beside(&path)?;
        release::push(client, &path, &signature, &[out], true).await?;
    }
    Ok(())
}

/// The folder of a release: the program, and the version that it shows.
fn pack_release(out: &Path, program: &Path, version: &str) -> Result<PathBuf> {
    let failed = |error: std::io::Error| Failure::because(format!("can't make release {version}"), &error);
    let folder = out.join(format!("edge-web-{version}"));
    fs::create_dir_all(folder.join("bin")).map_err(failed)?;
    let target = folder.join("bin/edge-web-service");
    fs::copy(program, &target).map_err(failed)?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    fs::write(folder.join("version.txt"), format!("{version}\n")).map_err(failed)?;
    pack(&folder, &out.join(format!("edge-web-{version}.tar.gz"))).map(|packed| packed.path)
}

/// The rollouts: the good one everywhere, then the other one, first where nothing happens.
pub(crate) async fn rollouts(client: &Client) -> Result<()> {
    let quick = || vec![WaveSpec::percent(30).soak(1), WaveSpec::percent(100).soak(1)];
    let slow =
        || vec![WaveSpec::percent(10).soak(5), WaveSpec::percent(40).soak(5), WaveSpec::percent(100).soak(5)];
    futures_util::future::try_join3(
        one_rollout(client, "1.0", "dev", quick()),
        one_rollout(client, "1.0", "canary", quick()),
        one_rollout(client, "1.0", "prod", quick()),
    )
    .await?;
    one_rollout(client, "1.1", "canary", quick()).await?;
    one_rollout(client, "1.1", "prod", slow()).await
}

async fn one_rollout(client: &Client, text: &str, channel: &str, waves: Vec<WaveSpec>) -> Result<()> {
    let kind = find("rollout")?;
    let what = format!("can't roll out {text} to {channel}");
    let version = version(text)?;
    let name = format!("{}-{channel}", rollout::default_name(&app()?, &version));
    let current = match crate::verb::get::one(client, kind, &name).await {
        Ok(object) => object,
        Err(failure) if failure.exit() == Exit::NotFound => {
            let channel = Name::new(channel).map_err(|error| Failure::because(&what, &error))?;
            let mut spec = RolloutSpec::new(app()?, channel, ReleaseRef::Version { app: app()?, version });
            spec.waves = waves;
            spec.max_unavailable = Some(Amount::Percent(50));
            spec.permit_seconds = 60;
            spec.device_timeout_seconds = 120;
            let name = Name::new(name.as_str()).map_err(|error| Failure::because(&what, &error))?;
            let metadata =
                NewMetadata { name, labels: Labels::default(), managed_by: Some("dev".to_owned()) };
            client
                .post(&what, kind.path, &NewObject { api_version: None, kind: None, metadata, spec })
                .await?
        }
        Err(failure) => return Err(failure),
    };
    let rollout: Rollout = typed(&what, current)?;
    match rollout.status.summary.phase {
        Phase::Pending => {
            client.post(&what, &format!("{}:start", kind.path_of(&name)), &RolloutAction::default()).await?;
        }
        phase if phase.is_final() => return Ok(()),
        // A person has taken over.
        Phase::Paused => return Ok(()),
        _ => {}
    }
    eprintln!("  → rollout {name} goes on");
    let wanted = wait::Wanted::parse(kind, "done")?;
    let object = wait::until(client, kind, &name, &wanted).await?;
    if let Some(object) = object {
        let rollout: Rollout = typed(&what, object)?;
        let mark = if rollout.status.summary.phase == Phase::Succeeded { "✓" } else { "✕" };
        eprintln!(
            "  {mark} rollout {name}: {}",
            rollout::line(&rollout, Look { marks: false, colour: false })
        );
    }
    Ok(())
}
