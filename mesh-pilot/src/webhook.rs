//! What the API server asks before it stores something: sidecars are put into pods, and resources are judged.
//!
//! In: pods, settings. Out: patches and verdicts. [`decide`] says whether a pod gets a sidecar, [`inject`] how; both are
//! pure, and `meshctl inject` uses them too. The names of labels, annotations, containers and volumes are Istio's.

pub mod bundle;
pub mod capture;
pub mod decide;
pub mod inject;
pub mod review;
pub mod run;
pub mod server;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod validate;

pub use decide::{Decision, decide};
pub use inject::{InjectError, Injected, inject};
pub use settings::{ControlPlane, Settings};
