//! The data plane of a device: readings come in by HTTP, MQTT, OTLP and [`EdgeGateway::send_data`], and are acknowledged when the journal has
//! made them durable.
//!
//! ```no_run
//! use farshore_gateway::{DataPoint, EdgeGateway, GatewayConfig};
//!
//! # async fn example() -> Result<(), farshore_gateway::GatewayError> {
//! let gateway = EdgeGateway::new(GatewayConfig::new("device-001", "./data/edge_gateway.db"))?;
//! gateway.start().await?;
//! gateway.send_data(DataPoint::new("temp-01", 23.5).unit("celsius").tag("location", "warehouse-A")).await?;
//! gateway.stop().await;
//! # Ok(()) }
//! ```
//!
//! It sends to a control plane by the [`sync::Uplink`] that [`EdgeGateway::with_uplink`] gives it (the one that exists is `farshore_agent::DeviceUplink`,
//! for a claimed device or for a key); without one, it keeps everything.
//!
//! One way in: a decoder ([`decode`], [`mqtt`]) hands borrowed points on, `ingest` gathers them into one batch for each body and appends it to the
//! journal, and the answer waits for that. Nothing is answered earlier, and nothing waits for the cloud. [`documents`] are written and answered the same
//! way, into a file of their own.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod by_hand;
mod clock;
pub mod config;
mod counters;
pub mod decode;
pub mod documents;
mod gateway;
mod http;
mod ingest;
pub mod limits;
mod log_file;
mod losses;
pub mod mqtt;
pub mod pipeline;
pub mod point;
mod process;
mod ready;
mod status;
mod streams;
pub mod sync;

pub use config::GatewayConfig;
pub use farshore_domain::document::Strategy as ConflictStrategy;
pub use farshore_journal::{Class, Durability, Overflow, StreamName};
pub use gateway::{Addresses, Applied, EdgeGateway, GatewayError, Options, init_db};
pub use log_file::LogFile;
pub use losses::Loss;
pub use point::{Point, PointError, Value};
pub use status::{BrokerStatus, DataPoint, GatewayStatus, Health, HealthStatus, StreamStatus, SyncResult};
pub use streams::{StreamSettings, Streams};
