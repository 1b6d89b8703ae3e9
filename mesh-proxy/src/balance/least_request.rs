//! LEAST_REQUEST: the less busy of two drawn at random (power of two choices).
//!
//! Drawn by weight, and compared by active requests over weight: shares follow the weights at rest and under load.

use std::sync::Arc;

use rand::{Rng, RngExt};

use super::{Choice, Ready};
use crate::cluster::Endpoint;

pub(super) fn choose<'a, R: Rng>(
    ready: &'a Ready,
    choice: &Choice<'_>,
    rng: &mut R,
) -> Option<&'a Arc<Endpoint>> {
    let (one, other) = if choice.tried.is_empty() && ready.is_uniform() && ready.len() > 1 {
        // Two different ones.
        let one = rng.random_range(0..ready.len());
        let other = rng.random_range(0..ready.len() - 1);
        (ready.get(one)?, ready.get(if other < one { other } else { other + 1 })?)
    } else {
        (ready.draw_other(choice, rng)?, ready.draw_other(choice, rng)?)
    };
    // one.active / one.weight against other.active / other.weight, without dividing.
    let load = |a: &Endpoint, b: &Endpoint| u128::from(a.state.active()) * u128::from(b.weight);
    Some(if load(other, one) < load(one, other) { other } else { one })
}
