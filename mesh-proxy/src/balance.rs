//! Who takes the next request: one algorithm per file, pure over the members of a group.
