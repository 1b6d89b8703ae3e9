//! What every server of the mesh shares.
