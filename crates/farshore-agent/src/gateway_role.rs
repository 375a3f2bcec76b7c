//! The role `gateway`: takes readings and keeps them. It needs neither a claim nor the other roles.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use farshore_agent::DeviceUplink;
use farshore_gateway::config::Password;
use farshore_gateway::{EdgeGateway, GatewayConfig, GatewayError, LogFile};

use crate::settings::ProxyArgs;
use crate::{fail, stop_on_signal, sync_now};

#[derive(Debug, clap::Args)]
pub(crate) struct GatewayArgs {
    /// A file of variables, NAME=value; those of the environment win. `.env` of the working directory is read when it is there.
    #[arg(long)]
    env_file: Option<PathBuf>,
    /// Make the journal, see whether it can be opened, and end.
    #[arg(long)]
    init_db: bool,
    /// Have the gateway that runs with these settings send what waits, say what came of it, and end: 0 when everything went.
    #[arg(long, conflicts_with = "init_db")]
    force_sync: bool,
    /// The agent's state folder. With the identity in there, what the journal has is sent to the control plane.
    #[arg(long, env = "FARSHORE_STATE_DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    proxy: ProxyArgs,
}

/// Where the agent keeps its state unless it is told otherwise.
const STATE_DIR: &str = "/var/lib/farshore-agent";

/// Settings that are good.
#[derive(Debug)]
pub(crate) struct GatewaySettings {
    config: GatewayConfig,
    init_db: bool,
    force_sync: bool,
    /// What a running gateway with these settings is asked with: kept here in the clear, the gateway itself keeps hashes only.
    authorization: Option<Password>,
    state_dir: PathBuf,
}

impl GatewayArgs {
    pub(crate) fn validate(self) -> Result<GatewaySettings, Vec<String>> {
        let (path, asked) = match self.env_file {
            Some(path) => (path, true),
            None => (PathBuf::from(".env"), false),
        };
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => farshore_gateway::config::parse_env_file(&text).map_err(|errors| {
                errors.into_iter().map(|error| format!("{}: {error}", path.display())).collect::<Vec<_>>()
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked => BTreeMap::new(),
            Err(error) => return Err(vec![format!("--env-file {}: {error}", path.display())]),
        };
        let read = |name: &str| std::env::var(name).ok().or_else(|| file.get(name).cloned());
        let mut errors = Vec::new();
        self.proxy.or(file.get("FARSHORE_PROXY").cloned()).validate(&mut errors);
        let config = match GatewayConfig::from_variables(&read) {
            Ok(config) if errors.is_empty() => config,
            Ok(_) => return Err(errors),
            Err(more) => {
                errors.extend(more);
                return Err(errors);
            }
        };
        let authorization = if self.force_sync { authorization(&read)? } else { None };
        let state_dir = self.state_dir.or_else(|| read("FARSHORE_STATE_DIR").map(PathBuf::from));
        let state_dir = state_dir.unwrap_or_else(|| PathBuf::from(STATE_DIR));
        let Self { init_db, force_sync, .. } = self;
        Ok(GatewaySettings { config, init_db, force_sync, authorization, state_dir })
    }
}

/// The header that these credentials make.
fn authorization(read: &dyn Fn(&str) -> Option<String>) -> Result<Option<Password>, Vec<String>> {
    use base64::Engine as _;
    let secret = |name: &str| farshore_gateway::config::secret(read, name).map_err(|error| vec![error]);
    if let Some(token) = secret("GATEWAY_TOKEN")? {
        return Ok(Some(Password::new(format!("Bearer {}", token.expose()))));
    }
    let (Some(user), Some(password)) = (read("GATEWAY_USER"), secret("GATEWAY_PASSWORD")?) else {
        return Ok(None);
    };
    let both = zeroize::Zeroizing::new(format!("{}:{}", user.trim(), password.expose()));
    let packed = base64::engine::general_purpose::STANDARD.encode(both.as_bytes());
    Ok(Some(Password::new(format!("Basic {packed}"))))
}

/// One JSON object a line, to standard error and, when it is set, to a file that is rotated.
fn log(config: &GatewayConfig) -> std::io::Result<()> {
    use tracing_subscriber::fmt::writer::MakeWriterExt as _;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    let all = tracing_subscriber::registry().with(crate::log::filter(&config.log_level));
    let json = tracing_subscriber::fmt::layer().json().flatten_event(true);
    match &config.log_file {
        None => all.with(json.with_writer(std::io::stderr)).init(),
        Some(path) => {
            let file = LogFile::open(path)?;
            all.with(json.with_writer(std::io::stderr.and(move || file.clone()))).init();
        }
    }
    Ok(())
}

pub(crate) fn start(settings: GatewaySettings) -> ExitCode {
    let GatewaySettings { config, init_db, force_sync, authorization, state_dir } = settings;
    if force_sync {
        return sync_now::run(&config, authorization.as_ref());
    }
    if let Err(error) = log(&config) {
        eprintln!("farshore-agent: the log file can't be opened: {error}");
        return ExitCode::FAILURE;
    }
    farshore_trust::provider::install();
    if init_db {
        return match farshore_gateway::init_db(&config) {
            Ok(()) => {
                println!("the journal in {} is ready", config.folder.display());
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error),
        };
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.worker_threads)
        .max_blocking_threads(4)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let mut uplink = DeviceUplink::new(&state_dir).patience(config.connection_timeout);
    if let Some(key) = &config.cloud_api_key {
        uplink = uplink.key(key.expose(), config.cloud_url.as_deref());
    }
    match runtime.block_on(serve(config, uplink)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn serve(config: GatewayConfig, uplink: DeviceUplink) -> Result<(), GatewayError> {
    let stop = stop_on_signal().map_err(GatewayError::Signals)?;
    let gateway = EdgeGateway::new(config)?.with_uplink(Arc::new(uplink));
    gateway.start().await?;
    if let Some(addresses) = gateway.addresses().await {
        // For scripts that let the system choose the ports.
        println!(
            "ready {}",
            serde_json::json!({
                "http": addresses.http, "mqtt": addresses.mqtt, "mqtt_tls": addresses.mqtt_tls,
            })
        );
    }
    // The sender lives as long as the runtime.
    let _ = stop.await;
    gateway.stop().await;
    Ok(())
}
