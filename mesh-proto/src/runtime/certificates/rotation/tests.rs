//! When to renew; the stories with an authority are in mesh-ca.

use super::*;
use crate::runtime::testing::TestCa;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn renewals_come_at_half_of_the_life_and_not_all_at_once() {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let due = half_life(at(1000), at(1000 + 86400));
        assert!((at(1000 + 38880)..at(1000 + 47520)).contains(&due), "{due:?}");
        seen.insert(due);
    }
    assert!(seen.len() > 50);
    assert_eq!(half_life(at(10), at(5)), at(10), "an expired one is due at once");
}

#[test]
fn waits_grow_to_a_limit() {
    let mut backoff = Backoff::new();
    let waits: Vec<_> = (0..20).map(|_| backoff.next()).collect();
    assert!(waits[0] <= FIRST_BACKOFF);
    assert!(waits.iter().all(|wait| *wait <= MAX_BACKOFF));
    assert!(waits[19] >= MAX_BACKOFF / 2);
}

#[tokio::test]
async fn new_roots_that_do_not_vouch_for_us_ask_for_a_renewal() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (TestCa::new(), TestCa::new());
    let identity = old.identity("default", "a");
    let config = CaConfig {
        address: String::new(),
        roots: dir.path().join("root.pem"),
        token: None,
        identity: identity.id().clone(),
        authority: super::super::authority_id(identity.id().trust_domain()),
        state_dir: dir.path().to_owned(),
        ttl: None,
    };
    let mut file = RootsFile::default();
    assert!(!refresh(&config, &identity, &mut file).await, "a missing file changes nothing");
    std::fs::write(&config.roots, old.root_pem()).unwrap();
    assert!(refresh(&config, &identity, &mut file).await);
    assert!(!refresh(&config, &identity, &mut file).await, "told once");
    assert_eq!(sooner(&identity), None);
    // Both: the new root is known before it signs.
    std::fs::write(&config.roots, old.root_pem() + &new.root_pem()).unwrap();
    assert!(refresh(&config, &identity, &mut file).await);
    assert_eq!(sooner(&identity), None);
    let count = |identity: &Identity| {
        identity.roots().domain(identity.id().trust_domain()).map(|domain| domain.certificates.len())
    };
    assert_eq!(count(&identity), Some(2));
    std::fs::write(&config.roots, "garbage").unwrap();
    assert!(!refresh(&config, &identity, &mut file).await);
    assert_eq!(count(&identity), Some(2), "what cannot be read changes nothing");
    std::fs::write(&config.roots, new.root_pem()).unwrap();
    assert!(refresh(&config, &identity, &mut file).await);
    assert!(sooner(&identity).unwrap() <= SystemTime::now());
    // What another source has put there since stays.
    identity.swap_roots(old.roots());
    assert!(!refresh(&config, &identity, &mut file).await);
    assert_eq!(
        *identity.roots().domain(identity.id().trust_domain()).unwrap().certificates,
        [old.root_der()]
    );
}

#[test]
fn a_leaf_whose_root_signs_no_more_is_renewed_soon_but_not_by_all_at_once() {
    let (old, new) = (TestCa::new(), TestCa::new());
    let identity = old.identity("default", "a");
    let domain = identity.id().trust_domain().clone();
    let both = || Roots::none().with_domain(&domain, vec![old.root_der(), new.root_der()]).unwrap();
    identity.swap_roots(both().with_signing(&domain, Some(old.root_der())));
    assert_eq!(sooner(&identity), None);
    identity.swap_roots(both().with_signing(&domain, Some(new.root_der())));
    let dues: std::collections::BTreeSet<_> = (0..20).map(|_| sooner(&identity).unwrap()).collect();
    assert!(dues.len() > 10 && *dues.last().unwrap() <= SystemTime::now() + OUTDATED);
    // A root that is not trusted cannot be the one that signs: nothing is known.
    identity.swap_roots(old.roots().with_signing(&domain, Some(new.root_der())));
    assert_eq!(sooner(&identity), None);
}
