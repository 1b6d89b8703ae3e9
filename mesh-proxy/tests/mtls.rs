//! PeerAuthentication and identities.
