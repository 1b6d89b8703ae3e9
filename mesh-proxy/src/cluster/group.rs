//! The whole cluster or one subset: members, policy, balancer.
