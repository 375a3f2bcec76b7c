//! `farshore dev`: everything on one machine.
//!
//! The control plane runs in this process, real agents as children of it, virtual devices as tasks. What the
//! demonstration does to the control plane it does as a user would, through the public API. All data lies in one folder;
//! started again with the same folder, everything goes on where it was.

pub(crate) mod agents;
pub(crate) mod demo;
pub(crate) mod folder;
pub(crate) mod login;
pub(crate) mod steps;
pub(crate) mod virtual_devices;
