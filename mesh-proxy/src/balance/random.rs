//! RANDOM: by weight.

use std::sync::Arc;

use rand::Rng;

use super::{Choice, Ready};
use crate::cluster::Member;

pub(super) fn choose<'a, R: Rng>(
    ready: &'a Ready,
    choice: &Choice<'_>,
    rng: &mut R,
) -> Option<&'a Arc<Member>> {
    ready.draw_other(choice, rng)
}
