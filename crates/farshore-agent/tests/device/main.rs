//! The device against real processes, real TLS and a control plane that the test plays.

mod download;
mod line;
mod plane;
mod release;
mod runner;
mod unpack;
mod wait;
