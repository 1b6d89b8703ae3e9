//! What policies say that decide nothing: AUDIT, and dry runs. In: a request or a connection. Out: what the access log tells
//! of it, in the words that Istio's metadata has for dry runs.

use std::fmt;
use std::sync::Arc;

/// What such policies say of one request or connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// The AUDIT rule that matches.
    pub audit: Option<Arc<str>>,
    /// What dry runs of DENY come to, where there are some.
    pub deny: Option<Shadow>,
    /// The same of ALLOW.
    pub allow: Option<Shadow>,
}

/// What would have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow {
    /// It would have been denied.
    pub denied: bool,
    /// By this rule, or let in by it.
    pub rule: Option<Arc<str>>,
}

impl Shadow {
    pub(super) fn of_deny(matches: Option<Arc<str>>) -> Self {
        Self { denied: matches.is_some(), rule: matches }
    }

    pub(super) fn of_allow(matches: Option<Arc<str>>) -> Self {
        Self { denied: matches.is_none(), rule: matches }
    }

    /// As metrics and logs have it.
    #[must_use]
    pub fn result(&self) -> &'static str {
        if self.denied { "denied" } else { "allowed" }
    }
}

impl Watched {
    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What dry runs come to, by their action.
    pub fn shadows(&self) -> impl Iterator<Item = (&'static str, &Shadow)> {
        let deny = self.deny.as_ref().map(|shadow| ("deny", shadow));
        deny.into_iter().chain(self.allow.as_ref().map(|shadow| ("allow", shadow)))
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        if let Some(rule) = &self.audit {
            write!(f, "audit={rule}")?;
            between = " ";
        }
        for (action, shadow) in self.shadows() {
            write!(f, "{between}istio_dry_run_{action}_shadow_engine_result={}", shadow.result())?;
            if let Some(rule) = &shadow.rule {
                write!(f, " istio_dry_run_{action}_shadow_effective_policy_id={rule}")?;
            }
            between = " ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::wire::mesh::v1 as wire;

    use super::super::tests::{allow, connection, deny, head, rule};
    use super::super::{Guard, Policies, RequestFacts, Verdict};

    fn audit(rules: Vec<wire::AuthorizationRule>) -> wire::AuthorizationPolicy {
        wire::AuthorizationPolicy {
            action: wire::AuthorizationAction::AuthorizationAudit.into(),
            ..allow(rules)
        }
    }

    #[test]
    fn what_is_told_and_decides_nothing() {
        let on = |path: &'static [&'static str]| rule(&[], &[&[("request.path", path, &[])]], &[]);
        let watched =
            [audit(vec![on(&["/b"]), on(&["/a*"])]), deny(vec![on(&["/a/b"])]), allow(vec![on(&["/a"])])];
        let policies = Policies::default().watching(&watched).unwrap();
        let connection = connection(None);
        let guard = Guard::of_requests(&policies, &connection);
        assert_eq!((guard.len(), guard.is_empty()), (4, false), "what is kept for it is counted");
        let nothing = Guard::of_requests(&Policies::default(), &connection);
        let any = head("GET", "/a", &[]);
        let watched = nothing.watch(&RequestFacts::new(&any, connection.source, None));
        assert!(nothing.is_empty() && watched.is_empty());
        let told = |path: &str| {
            let head = head("GET", path, &[]);
            let facts = RequestFacts::new(&head, connection.source, None);
            assert_eq!(guard.decide(&facts), Verdict::Allowed);
            assert!(!guard.watch(&facts).is_empty());
            guard.watch(&facts).to_string()
        };
        assert_eq!(
            told("/a"),
            "audit=ns[shop]-policy[allow]-rule[1] istio_dry_run_deny_shadow_engine_result=allowed \
             istio_dry_run_allow_shadow_engine_result=allowed \
             istio_dry_run_allow_shadow_effective_policy_id=ns[shop]-policy[allow]-rule[0]"
        );
        assert_eq!(
            told("/a/b"),
            "audit=ns[shop]-policy[allow]-rule[1] istio_dry_run_deny_shadow_engine_result=denied \
             istio_dry_run_deny_shadow_effective_policy_id=ns[shop]-policy[deny]-rule[0] \
             istio_dry_run_allow_shadow_engine_result=denied"
        );
        assert_eq!(
            told("/c"),
            "istio_dry_run_deny_shadow_engine_result=allowed istio_dry_run_allow_shadow_engine_result=denied"
        );
    }

    /// Bytes have no path: a rule of AUDIT or DENY asks for one thing less, ALLOW matches nothing.
    #[test]
    fn bytes() {
        let on_path = || rule(&[], &[&[("request.path", &["/a"], &[])]], &[]);
        let watched = [audit(vec![on_path()]), deny(vec![on_path()]), allow(vec![on_path()])];
        let policies = Policies::default().watching(&watched).unwrap();
        let told = policies.watch_bytes(&connection(None));
        assert!(told.audit.is_some() && told.deny.unwrap().denied && told.allow.unwrap().denied);
        assert_eq!(policies.of_bytes(&connection(None)), Verdict::Allowed);
    }

    #[test]
    fn audit_is_nothing_to_enforce() {
        assert!(Policies::parse(&[audit(vec![])]).is_err());
    }
}
