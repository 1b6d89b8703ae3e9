//! Stories of responses.
