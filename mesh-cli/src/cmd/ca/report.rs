//! How the authority stands, for people.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_ca::keeper::Answer;
use mesh_ca::rotation::Phase;

use crate::output;

/// Everything.
pub fn whole(answer: &Answer) -> String {
    let mut text = roots(answer);
    let _ = write!(text, "\n\n{}", rotation(answer));
    if !answer.pilots.is_empty() {
        let _ = write!(text, "\n\n{}", pilots(answer));
    }
    if !answer.tainted.is_empty() {
        let _ = write!(text, "\n\n{}", tainted(answer));
    }
    text
}

fn roots(answer: &Answer) -> String {
    let mut table = output::table(&["ROOT", "ROLE", "ENDS IN"]);
    for root in &answer.roots {
        let role = if root.role == "signs" && answer.plugged_in { "signs (plugged in)" } else { &root.role };
        let end = UNIX_EPOCH + Duration::from_secs(root.not_after);
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        table.add_row([root.sha256.get(..16).unwrap_or(&root.sha256), role, &span(left)]);
    }
    format!("trust domain {}, bundle {}\n{}", answer.trust_domain, answer.sequence, table.trim_fmt())
}

fn rotation(answer: &Answer) -> String {
    let Some(rotation) = &answer.rotation else {
        return "no rotation is under way; `meshctl ca rotate prepare` begins one".to_owned();
    };
    let (stands, next) = match rotation.phase {
        Phase::Prepared => ("a new root is prepared; nobody has heard of it", "publish"),
        Phase::Published => ("the new root is trusted, the old one signs", "activate"),
        Phase::Activated => ("the new root signs, the old one is still trusted", "retire"),
    };
    let mut text = format!("rotation: {stands}\n");
    let by = if rotation.automatic { "by itself" } else { "by `meshctl ca rotate`" };
    let _ = write!(text, "next: {next} ({by})");
    if let Some(why) = &rotation.waiting {
        let _ = write!(text, "\nwaits: {why}");
    }
    if rotation.old_in_use > 0 {
        let left = span(Duration::from_secs(rotation.old_in_use));
        let _ = write!(text, "\nwaits: certificates of the old root are valid for up to {left} more");
    }
    text
}

fn pilots(answer: &Answer) -> String {
    let mut table = output::table(&["PILOT", "BUNDLE", "PROXIES", "WITHOUT IT", "SAID"]);
    for pilot in &answer.pilots {
        table.add_row([
            pilot.name.clone(),
            pilot.sequence.to_string(),
            pilot.proxies.to_string(),
            pilot.behind.to_string(),
            match pilot.ended {
                true => format!("{} s ago that it ends", pilot.seconds_ago),
                false => format!("{} s ago", pilot.seconds_ago),
            },
        ]);
    }
    table.trim_fmt()
}

/// The tainted identities alone.
pub fn tainted(answer: &Answer) -> String {
    if answer.tainted.is_empty() {
        return "no identity is tainted".to_owned();
    }
    let mut table = output::table(&["TAINTED", "IN FORCE", "SINCE", "REASON"]);
    for taint in &answer.tainted {
        let since = UNIX_EPOCH + Duration::from_secs(taint.since);
        let since = SystemTime::now().duration_since(since).unwrap_or_default();
        table.add_row([
            taint.identity.as_str(),
            if taint.in_force { "everywhere" } else { "not yet everywhere" },
            &format!("{} ago", span(since)),
            &taint.reason,
        ]);
    }
    table.trim_fmt()
}

/// The largest unit that says enough.
fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86400),
    }
}
