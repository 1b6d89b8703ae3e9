//! Stories: what a configuration compiles to.
