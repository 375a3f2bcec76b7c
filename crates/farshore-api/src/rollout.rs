//! Rollouts. The types follow `farshore_domain::rollout`.
