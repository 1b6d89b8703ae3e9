//! What a command reads: a file, or standard input for `-`. Bounded; out comes the text with a name for people.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use mesh_proto::crd::yaml::{self, MAX_BYTES};
use serde_json::{Value, json};

/// A file, or standard input for `-`; its name for people.
///
/// # Errors
/// When it cannot be read, or is longer than any configuration.
pub fn read(file: &Path) -> anyhow::Result<(String, String)> {
    let (name, source): (_, Box<dyn std::io::Read>) = if file == Path::new("-") {
        ("stdin".to_owned(), Box::new(std::io::stdin()))
    } else {
        let name = file.display().to_string();
        let source = std::fs::File::open(file).with_context(|| name.clone())?;
        (name, Box::new(source))
    };
    let mut text = String::new();
    source.take(MAX_BYTES as u64 + 1).read_to_string(&mut text).with_context(|| name.clone())?;
    if text.len() > MAX_BYTES {
        bail!("{name}: more than {MAX_BYTES} bytes");
    }
    Ok((name, text))
}

/// One document of YAML or JSON; nothing is `{}`.
///
/// # Errors
/// When it cannot be read: where, and why.
pub fn values(file: &Path) -> anyhow::Result<Value> {
    let (name, text) = read(file)?;
    let Some(chunk) = yaml::split(&text).into_iter().next() else { return Ok(json!({})) };
    let tree = yaml::read(chunk);
    let tree = tree.map_err(|e| anyhow::anyhow!("{name}:{}:{}: {e}", e.position.line, e.position.column))?;
    Ok(tree.map_or_else(|| json!({}), |tree| tree.value))
}
