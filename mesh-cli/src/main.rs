//! meshctl: run, look into and explain a mesh.

mod app;
mod cmd;
mod local;
mod output;

fn main() {}
