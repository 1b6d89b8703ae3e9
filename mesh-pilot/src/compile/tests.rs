//! Stories: what a configuration compiles to. Cases differ in the one field that they are about.

mod alias;
mod entries;
mod exports;
mod external;
mod gateways;
mod policies;
mod routes;
mod secure;
mod traffic;
