//! What a fleet is and how it may change.
//!
//! Data in, data out: nothing here opens a file or a socket, reads a clock or draws a random
//! number. Time is an argument ([`time::UnixMs`]), ids are made at the edge and passed in. The same code runs in
//! the control plane, on the device, in property tests and in virtual fleets.
//!
//! Layout: [`id`], [`name`], [`label`], [`selector`], [`digest`], [`version`], [`time`] are the words everything
//! else is made of; [`object`] is the envelope of every object; [`device`], [`release`], [`desired`],
//! [`access`], [`config`], [`claim`] are nouns; `schedule` says when; `rollout` and `reconcile` decide, and `forecast` says how a rollout would go.
//! [`operation`] is one imperative request to a device; [`received`] is which of a stream's batches have arrived.
//! [`document`] is JSON that a device and the cloud may both change. [`policy`] is how devices heal and what may be done to them; [`condition`] reads the conditions that people write into policies and rollouts;
//! [`expression`] is what all uses of CEL share.

pub mod access;
pub mod alert;
pub mod assign;
pub mod claim;
pub mod condition;
pub mod config;
pub mod connectivity;
pub mod desired;
pub mod device;
pub mod digest;
pub mod document;
pub mod expression;
pub mod forecast;
pub mod id;
pub mod incident;
pub mod label;
pub mod name;
pub mod nearest;
pub mod object;
pub mod operation;
pub mod policy;
pub mod received;
pub mod reconcile;
pub mod release;
pub mod rollout;
pub mod schedule;
pub mod selector;
pub mod time;
pub mod version;
