//! A hostile world: real `run` and `runner` processes against a control plane and a mirror that lie.
//!
//! The liar holds the device port's certificate and the online key, as a stolen server would; it holds no release key. An oracle
//! outside the agent ([`device`]) knows every program that verified releases hold, and looks at everything that was executed, that is executing and
//! that lies in the apps' folders. In every case the agent stays alive, the app that runs is left alone, and a good release is taken
//! afterwards. `FARSHORE_TEST_LONG=1` tries many more seeds.
#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

mod archives;
mod artifacts;
mod desired;
mod device;
mod frames;
mod fsync;
mod liar;
mod manifests;
mod power;
mod release;
mod wait;
