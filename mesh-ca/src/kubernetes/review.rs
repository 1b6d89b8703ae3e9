//! What a service account's token is worth: a token in, the account out, by the API server's TokenReview.
//!
//! Every token is asked about every time: a pod that was deleted, or a token that was revoked, counts for nothing from that
//! moment on. A certificate is asked for twice a day and pod, so that a cache would spare nothing. Source: Kubernetes'
//! authentication.k8s.io/v1, "TokenReview".

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;

use super::api::{CALL_TIMEOUT, Failure, timed};

/// Whom the tokens must be meant for (Istio's).
pub const AUDIENCE: &str = "istio-ca";
/// Reviews at the same time; more callers wait, and are told to come again if it takes too long.
const CONCURRENT: usize = 32;
/// The longest token that is shown to the API server; theirs are about 1.3 KB.
const MAX_TOKEN: usize = 16 << 10;
/// How much of the API server's own words is repeated.
const MAX_REASON: usize = 300;

/// A service account, proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The pod that the token was made for, `name (uid)`: for the log.
    pub pod: Option<String>,
}

/// Why a token proves nothing. The fault is the caller's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It is no JWT: the API server isn't bothered.
    #[error("malformed token: not a service account token")]
    Malformed,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It was made for somebody else.
    #[error("the token is not meant for this authority: its audience must be {AUDIENCE}")]
    Audience,
    /// The API server does not know it, or the pod or account that it was made for is gone.
    #[error("the API server does not accept the token: {0}")]
    Unknown(String),
    /// It belongs to a person, a node or another program.
    #[error("the token is {0:?}'s: only service accounts have an identity in the mesh")]
    NoServiceAccount(String),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReviewed {
    /// The answer is no.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The API server could not be asked.
    #[error("{0}")]
    Unavailable(String),
}

/// Asks the API server.
pub struct Reviewer {
    reviews: Api<TokenReview>,
    turns: Semaphore,
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviewer").field("turns", &self.turns.available_permits()).finish_non_exhaustive()
    }
}

impl Reviewer {
    /// Asks through `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { reviews: Api::all(client), turns: Semaphore::new(CONCURRENT) }
    }

    /// Whose token it is.
    ///
    /// # Errors
    /// When it is nobody's, or nobody can say.
    pub async fn review(&self, token: &str) -> Result<Account, NotReviewed> {
        if !looks_like_jwt(token) {
            return Err(Rejected::Malformed.into());
        }
        let asked = tokio::time::timeout(CALL_TIMEOUT, async {
            let _turn = self.turns.acquire().await.expect("never closed");
            let spec =
                TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: Some(token.to_owned()) };
            let review = TokenReview { spec, ..TokenReview::default() };
            timed(self.reviews.create(&PostParams::default(), &review)).await
        });
        let failure = match asked.await {
            Ok(Ok(answer)) => return Ok(judge(answer.status.unwrap_or_default())?),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Silent,
        };
        let hint = match &failure {
            failure if failure.is(403) => {
                " (the authority's service account needs `create` on `tokenreviews.authentication.k8s.io`)"
            }
            _ => "",
        };
        Err(NotReviewed::Unavailable(format!("the API server cannot review tokens now: {failure}{hint}")))
    }
}

/// Three parts of base64url: anything else is not worth a call.
fn looks_like_jwt(token: &str) -> bool {
    let url_safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    token.len() <= MAX_TOKEN
        && token.split('.').count() == 3
        && token.split('.').all(|part| !part.is_empty() && part.bytes().all(url_safe))
}

/// What an answer means.
fn judge(status: TokenReviewStatus) -> Result<Account, Rejected> {
    if status.authenticated != Some(true) {
        return Err(refusal(&status.error.unwrap_or_default()));
    }
    // An API server that knows nothing of audiences returns none.
    if !status.audiences.unwrap_or_default().iter().any(|audience| audience == AUDIENCE) {
        return Err(Rejected::Audience);
    }
    let user = status.user.unwrap_or_default();
    let username = user.username.unwrap_or_default();
    let account = username.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let (namespace, name) = match account {
        Some((namespace, name)) if !name.contains(':') && !namespace.is_empty() && !name.is_empty() => {
            (namespace.to_owned(), name.to_owned())
        }
        _ => return Err(Rejected::NoServiceAccount(clip(&username))),
    };
    let extra = user.extra.unwrap_or_default();
    let first = |key: &str| extra.get(key).and_then(|values| values.first()).map(|value| clip(value));
    let pod = first("authentication.kubernetes.io/pod-name").map(|pod| {
        match first("authentication.kubernetes.io/pod-uid") {
            Some(uid) => format!("{pod} ({uid})"),
            None => pod,
        }
    });
    Ok(Account { namespace, name, pod })
}

/// The API server says why in words only.
fn refusal(words: &str) -> Rejected {
    if words.contains("expired") {
        Rejected::Expired
    } else if words.contains("audience") {
        Rejected::Audience
    } else if words.is_empty() {
        Rejected::Unknown("no reason given".to_owned())
    } else {
        Rejected::Unknown(clip(words))
    }
}

fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn status(username: &str, audiences: &[&str]) -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(audiences.iter().map(|&a| a.to_owned()).collect()),
            user: Some(UserInfo { username: Some(username.to_owned()), ..UserInfo::default() }),
            error: None,
        }
    }

    #[test]
    fn an_account_is_read_from_the_username_and_nothing_else() {
        let account = judge(status("system:serviceaccount:shop:reviews", &["x", AUDIENCE])).unwrap();
        assert_eq!((account.namespace.as_str(), account.name.as_str()), ("shop", "reviews"));
        assert_eq!(account.pod, None);
        for odd in [
            "",
            "kubernetes-admin",
            "system:node:a",
            "system:serviceaccount:a",
            "system:serviceaccount::b",
            "system:serviceaccount:a:",
            "system:serviceaccount:a:b:c",
            "x:system:serviceaccount:a:b",
        ] {
            assert!(matches!(judge(status(odd, &[AUDIENCE])), Err(Rejected::NoServiceAccount(_))), "{odd}");
        }
    }

    #[test]
    fn an_answer_that_does_not_repeat_the_audience_is_a_refusal() {
        for audiences in [&[][..], &["https://kubernetes.default.svc"], &["istio-ca2"]] {
            assert_eq!(judge(status("system:serviceaccount:a:b", audiences)), Err(Rejected::Audience));
        }
    }

    #[test]
    fn refusals_have_names() {
        let refused = |error: &str| {
            let status = TokenReviewStatus {
                error: Some(error.to_owned()),
                ..status("system:serviceaccount:a:b", &[AUDIENCE])
            };
            judge(TokenReviewStatus { authenticated: Some(false), ..status }).unwrap_err()
        };
        assert_eq!(refused("[invalid bearer token, service account token has expired]"), Rejected::Expired);
        assert_eq!(
            refused(
                "[invalid bearer token, token audiences [\"a\"] is invalid for the target audiences [\"istio-ca\"]]"
            ),
            Rejected::Audience
        );
        assert!(matches!(refused("[invalid bearer token, pod has been deleted]"), Rejected::Unknown(_)));
        // Neither yes nor no is no.
        let silent =
            TokenReviewStatus { authenticated: None, ..status("system:serviceaccount:a:b", &[AUDIENCE]) };
        assert!(judge(silent).is_err());
        assert!(judge(TokenReviewStatus::default()).is_err());
    }

    #[test]
    fn garbage_never_reaches_the_api_server() {
        for bad in ["", "a.b", "a.b.c.d", "a..c", "a.b.c\n", "ä.b.c", &"a".repeat(MAX_TOKEN + 1), "a.b.c="] {
            assert!(!looks_like_jwt(bad), "{bad:?}");
        }
        assert!(looks_like_jwt("eyJ-_.eyJ9.c2ln"));
    }
}
