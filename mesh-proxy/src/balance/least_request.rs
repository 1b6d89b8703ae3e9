//! LEAST_REQUEST: the less busy of two drawn at random (power of two choices), and the faster one where they clearly differ.
//!
//! Drawn by weight, and compared by active requests over weight: shares follow the weights at rest and under load, as
//! Envoy's do. Envoy's has no eye for a slow instance that is not busy; here, where one of the two takes more than twice as
//! long to answer (and that is more than noise), it gets its turn with a probability that is smaller by as much: it loses
//! most of its traffic within a few answers, and goes on being tried, so that it comes back when it is well.

use std::sync::Arc;

use rand::{Rng, RngExt};

use super::{Choice, Ready};
use crate::cluster::Member;

/// Less than this many times slower is as fast.
const NOTABLE: f32 = 2.0;
/// Milliseconds: less than that is noise.
const NOISE: f32 = 5.0;

pub(super) fn choose<'a, R: Rng>(
    ready: &'a Ready,
    choice: &Choice<'_>,
    rng: &mut R,
) -> Option<&'a Arc<Member>> {
    let (one, other) = if choice.tried.is_empty() && ready.is_uniform() && ready.len() > 1 {
        // Two different ones.
        let one = rng.random_range(0..ready.len());
        let other = rng.random_range(0..ready.len() - 1);
        (ready.get(one)?, ready.get(if other < one { other } else { other + 1 })?)
    } else {
        (ready.draw_other(choice, rng)?, ready.draw_other(choice, rng)?)
    };
    // Where neither was ever slower than noise, there is nothing to compare.
    if one.state.latency.at_most().max(other.state.latency.at_most()) > NOISE
        && let Some(chosen) = faster(one, other, choice, rng)
    {
        return Some(chosen);
    }
    // one.active / one.weight against other.active / other.weight, without dividing.
    let load = |a: &Member, b: &Member| u128::from(a.state.active()) * u128::from(b.weight);
    Some(if load(other, one) < load(one, other) { other } else { one })
}

/// The faster one, mostly, where they clearly differ.
fn faster<'a, R: Rng>(
    one: &'a Arc<Member>,
    other: &'a Arc<Member>,
    choice: &Choice<'_>,
    rng: &mut R,
) -> Option<&'a Arc<Member>> {
    let (fast, slow) = (one.state.latency.at(choice.now), other.state.latency.at(choice.now));
    let (fast, slow, faster, slower) =
        if fast <= slow { (fast, slow, one, other) } else { (slow, fast, other, one) };
    // 0 is one that nobody has heard of yet: it is tried.
    if fast <= 0.0 || slow <= fast * NOTABLE || slow - fast <= NOISE {
        return None;
    }
    let busy = |member: &Member| (member.state.active() + 1) as f32 / member.weight as f32;
    let (fast, slow) = (fast * busy(faster), slow * busy(slower));
    let turn = rng.random_range(0.0..fast + slow);
    Some(if turn < fast { slower } else { faster })
}
