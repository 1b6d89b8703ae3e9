//! Who leads: a Lease of coordination.k8s.io, held by one replica at a time. In: a client. Out: whether it is us.
//!
//! The holder renews it; another replica takes it when it was released, or when it has seen no renewal for the lease's
//! whole duration by its own clock (clocks of other machines are not compared). A holder that cannot renew steps down
//! before anybody else may take it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;

/// The Lease's name.
pub const NAME: &str = "mesh-pilot-leader";
/// Without a renewal for so long, another replica takes it.
const DURATION: Duration = Duration::from_secs(15);
/// Without a successful renewal for so long, the holder steps down.
const DEADLINE: Duration = Duration::from_secs(10);
/// At the end, for giving it up.
const RELEASE: Duration = Duration::from_secs(5);
/// How often to look.
const PERIOD: Duration = Duration::from_secs(2);

/// A candidate.
pub struct Candidate {
    api: Api<Lease>,
    namespace: String,
    name: Arc<str>,
    leads: watch::Sender<bool>,
    view: View,
}

/// What a candidate knows.
#[derive(Debug, Default)]
struct View {
    /// The version of the Lease, and since when we have seen it.
    seen: Option<(String, Instant)>,
    /// When we renewed it last.
    renewed: Option<Instant>,
}

/// What to do with a Lease.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    /// It is ours: say so again.
    Renew,
    /// It is nobody's.
    Take,
    /// It is somebody else's.
    Leave,
}

impl View {
    /// Whose a Lease is, as far as this view goes.
    fn decide(&mut self, name: &str, lease: &Lease, now: Instant) -> Action {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((known, since)) if *known == version => *since,
            _ => now,
        };
        self.seen = Some((version, since));
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        let duration = seconds.and_then(|s| u64::try_from(s).ok()).map_or(DURATION, Duration::from_secs);
        match holder {
            holder if holder == name => Action::Renew,
            "" => Action::Take,
            _ if now.duration_since(since) >= duration => Action::Take,
            _ => Action::Leave,
        }
    }

    /// For how long we may lead without another renewal.
    fn leads_until(&self) -> Option<Instant> {
        self.renewed.map(|at| at + DEADLINE)
    }

    /// Whether we still may lead; a holder that may not is a candidate like any other.
    fn leads(&mut self, now: Instant) -> bool {
        if self.leads_until().is_some_and(|until| until <= now) {
            self.renewed = None;
        }
        self.renewed.is_some()
    }
}

impl Candidate {
    /// A replica that would lead, by its pod's name.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: Arc::from(name),
            leads: watch::Sender::new(false),
            view: View::default(),
        }
    }

    /// Whether it leads.
    #[must_use]
    pub fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Tries for ever.
    ///
    /// # Errors
    /// Never: what fails is told and tried again.
    pub async fn run(mut self) -> anyhow::Result<()> {
        loop {
            // A holder waits no longer than it may lead.
            let limit = self.view.leads_until().unwrap_or_else(|| Instant::now() + DEADLINE);
            match tokio::time::timeout_at(limit, self.step()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.told("cannot be renewed or taken", &error),
                Err(_) => tracing::warn!(lease = NAME, "no answer from the API server"),
            }
            let leads = self.view.leads(Instant::now());
            let changed = self.leads.send_if_modified(|led| std::mem::replace(led, leads) != leads);
            if changed {
                let word = if leads { "leading" } else { "not leading any more" };
                tracing::info!(lease = NAME, namespace = self.namespace, pod = %self.name, "{word}");
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    fn told(&self, what: &str, error: &kube::Error) {
        tracing::warn!(lease = NAME, namespace = self.namespace, %error, "{what}");
    }

    async fn step(&mut self) -> Result<(), kube::Error> {
        let now = Instant::now();
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let written = self.api.create(&PostParams::default(), &self.lease(None)).await;
            return self.written(written, now);
        };
        match self.view.decide(&self.name, &lease, now) {
            Action::Leave => {
                self.view.renewed = None;
                Ok(())
            }
            Action::Renew | Action::Take => {
                let ours = self.lease(Some(lease));
                let written = self.api.replace(NAME, &PostParams::default(), &ours).await;
                self.written(written, now)
            }
        }
    }

    /// `at` is before the request: what the server keeps is not older.
    fn written(&mut self, written: Result<Lease, kube::Error>, at: Instant) -> Result<(), kube::Error> {
        match written {
            Ok(_) => {
                self.view.renewed = Some(at);
                Ok(())
            }
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The Lease as ours; what others wrote into it stays.
    fn lease(&self, before: Option<Lease>) -> Lease {
        let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
        let mut lease = before.unwrap_or_default();
        lease.metadata.name = Some(NAME.to_owned());
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_deref() != Some(&*self.name) {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count.saturating_add(1)));
        }
        spec.holder_identity = Some(self.name.to_string());
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        spec.renew_time = Some(now);
        lease
    }
}

/// Gives the Lease up if it is ours, so that another replica takes it at once.
pub async fn release(client: Client, namespace: &str, name: &str) {
    let api = Api::<Lease>::namespaced(client, namespace);
    let released = async {
        let Some(mut lease) = api.get_opt(NAME).await? else { return Ok(()) };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(name))
        else {
            return Ok(());
        };
        spec.holder_identity = Some(String::new());
        api.replace(NAME, &PostParams::default(), &lease).await.map(drop)
    };
    match tokio::time::timeout(RELEASE, released).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the Lease is not released; it runs out"),
        Err(_) => tracing::debug!("the Lease is not released in time; it runs out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.resource_version = Some(version.to_owned());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        });
        lease
    }

    #[test]
    fn a_lease_is_taken_when_released_or_not_renewed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut view = View::default();
        assert_eq!(view.decide("b", &lease("a", "1"), at(0)), Action::Leave);
        assert_eq!(view.decide("b", &lease("a", "1"), at(14)), Action::Leave);
        assert_eq!(view.decide("b", &lease("a", "2"), at(15)), Action::Leave, "renewed");
        assert_eq!(view.decide("b", &lease("a", "2"), at(29)), Action::Leave);
        assert_eq!(view.decide("b", &lease("a", "2"), at(30)), Action::Take, "not renewed for its duration");
        assert_eq!(view.decide("b", &lease("", "3"), at(31)), Action::Take, "released");
        assert_eq!(view.decide("b", &lease("b", "4"), at(32)), Action::Renew);
    }

    #[test]
    fn who_cannot_renew_steps_down_before_another_may_lead() {
        let start = Instant::now();
        let mut view = View { seen: None, renewed: Some(start) };
        assert_eq!(view.leads_until(), Some(start + DEADLINE));
        assert!(view.leads(start + DEADLINE - PERIOD) && !view.leads(start + DEADLINE));
        assert_eq!(view.leads_until(), None);
        assert!(DEADLINE + PERIOD < DURATION);
        assert!(!View::default().leads(start));
    }
}
