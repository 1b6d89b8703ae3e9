//! Which revision is installed. In: `--revision` and the chart's value `revision`, which may stand in `--set`, `--set-string`
//! and files of values. Out: one name, or why there is none.
//!
//! The release is named after it. Were the chart told another one than the release, Helm would make the control plane that
//! runs into that of the revision, and remove what only the first one has: the authority, the accounts and its webhooks.

use anyhow::bail;
use serde_json::Value;

use super::InstallArgs;
use crate::cmd::input;

/// The chart's value.
const KEY: &str = "revision";

/// The revision that is meant; none is the release without one.
///
/// # Errors
/// When two are said, one is no name, or a file of values cannot be read.
pub fn of(args: &InstallArgs) -> anyhow::Result<Option<String>> {
    let mut said = None;
    for file in &args.files {
        match input::values(file)?.get(KEY) {
            None | Some(Value::Null) => {}
            Some(Value::String(name)) => said = Some((name.clone(), file.display().to_string())),
            Some(other) => {
                bail!("{}: revision: expected a name in quotes, e.g. \"canary\", got {other}", file.display())
            }
        }
    }
    // As in Helm: files, then --set, then --set-string; of each the last one.
    for (flag, texts) in [("--set", &args.set), ("--set-string", &args.set_string)] {
        for text in texts {
            for name in in_set(text) {
                let name = if flag == "--set" && name == "null" { String::new() } else { name };
                said = Some((name, format!("{flag} {text}")));
            }
        }
    }
    let revision = match (&args.revision, said) {
        (Some(flag), Some((name, place))) if shown(flag) != shown(&name) => bail!(
            "--revision {} and {place} (revision {}) are two control planes: install one after the other",
            shown(flag),
            shown(&name)
        ),
        (Some(flag), _) => Some(flag.clone()),
        (None, said) => said.map(|(name, _)| name),
    };
    let revision = revision.filter(|name| !name.is_empty());
    if let Some(name) = revision.as_ref().filter(|name| !is_name(name)) {
        let shown: String = name.chars().take(60).collect();
        bail!("revision {shown:?}: expected at most 40 lower-case letters, digits and dashes, e.g. canary");
    }
    Ok(revision)
}

/// Without a name it is the first one.
fn shown(name: &str) -> &str {
    if name.is_empty() { "default" } else { name }
}

/// The values that one `--set` gives the key: `a=1,revision=canary`. A comma is Helm's unless a backslash is before it, or a
/// list is open; a brace opens one only where a value begins.
fn in_set(text: &str) -> Vec<String> {
    let (mut parts, mut in_list, mut characters) = (vec![String::new()], false, text.chars());
    while let Some(character) = characters.next() {
        let begins = parts.last().is_some_and(|part| part.find('=') == Some(part.len().saturating_sub(1)));
        match character {
            ',' if !in_list => {
                parts.push(String::new());
                continue;
            }
            '{' if begins && !in_list => in_list = true,
            '}' => in_list = false,
            _ => {}
        }
        let character = if character == '\\' { characters.next() } else { Some(character) };
        if let Some(last) = parts.last_mut() {
            last.extend(character);
        }
    }
    let pairs = parts.iter().filter_map(|part| part.split_once('='));
    pairs.filter(|(key, _)| key.trim() == KEY).map(|(_, value)| value.to_owned()).collect()
}

/// Whether the chart takes it, and Helm's `--set` as the one word that it is.
fn is_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inside = |c: char| word(c) || c == '-';
    name.len() <= 40 && name.starts_with(word) && name.ends_with(word) && name.chars().all(inside)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: InstallArgs,
    }

    fn said(words: &[&str]) -> Result<Option<String>, String> {
        let line = Line::try_parse_from([&["install"], words].concat()).unwrap();
        of(&line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn it_may_be_said_in_any_way_that_helm_knows() {
        let file = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            file
        };
        let canary = Ok(Some("canary".to_owned()));
        assert_eq!(said(&[]), Ok(None));
        assert_eq!(said(&["--revision", "canary"]), canary);
        assert_eq!(said(&["--set", "revision=canary"]), canary);
        assert_eq!(said(&["--set-string", "pilot.env.A=1\\,2,revision=canary"]), canary);
        let values = file("pilot: {replicaCount: 3}\nrevision: canary\n");
        let values = values.path().to_str().unwrap();
        assert_eq!(said(&["-f", values]), canary);
        // The later one counts, as it does for Helm.
        assert_eq!(said(&["-f", values, "--set", "revision=next"]), Ok(Some("next".to_owned())));
        assert_eq!(said(&["-f", values, "--set", "revision=null"]), Ok(None));
        assert_eq!(said(&["--set", "revision=a", "--set", "revision=canary"]), canary);
        let other = ["ca.revisions={a,revision=b}", "pilot.env.revision=b", "pilot.env.A=x\\,revision=b"];
        for other in other {
            assert_eq!(said(&["--set", other]), Ok(None), "{other}");
        }
        // A brace that is within a value opens nothing.
        for text in ["pilot.env.A=x{,revision=canary", "a={b,{c},revision=canary", "a={b},revision=canary"] {
            assert_eq!(said(&["--set", text]), canary, "{text}");
        }
        let number = file("revision: 1\n");
        let complaint = said(&["-f", number.path().to_str().unwrap()]).unwrap_err();
        assert!(complaint.contains("in quotes"), "{complaint}");
        assert!(said(&["-f", "/nowhere/values.yaml"]).unwrap_err().contains("/nowhere/values.yaml"));
    }

    /// What the release is called after is what Helm is told: nothing of it may be Helm's own syntax.
    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["Canary", "a,b=c", "{a}", "-a", "a.b", &"a".repeat(41)] {
            let complaint = said(&[&format!("--revision={bad}")]).unwrap_err();
            assert!(complaint.contains("expected at most 40"), "{bad}: {complaint}");
        }
    }

    #[test]
    fn two_of_them_are_refused() {
        assert_eq!(
            said(&["--revision", "canary", "--set", "revision=canary"]),
            Ok(Some("canary".to_owned()))
        );
        assert_eq!(said(&["--revision", "default", "--set", "revision="]), Ok(Some("default".to_owned())));
        for words in [
            ["--revision", "canary", "--set", "revision=next"],
            ["--revision", "canary", "--set", "revision="],
            ["--revision", "default", "--set-string", "revision=canary"],
        ] {
            let complaint = said(&words).unwrap_err();
            assert!(complaint.contains("two control planes"), "{complaint}");
        }
    }
}
