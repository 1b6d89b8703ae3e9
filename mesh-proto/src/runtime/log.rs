//! Logs of a process: to stderr, as text or JSON, filtered. The filter can be changed while it runs.
//!
//! Lines of the target `audit` are written at every filter that does not name it.
//! `MESH_LOG` is a filter of tracing-subscriber (`info`, `mesh_proxy::xds=debug,warn`), `MESH_LOG_FORMAT` is `text` (the
//! default) or `json`. A word alone is a level or a part of the mesh: any other one (`warning`, `default:info`) would be the
//! name of a part that nobody has, and the end of all logs.

use std::fmt;
use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The environment variable of the filter.
pub const FILTER: &str = "MESH_LOG";
/// The environment variable of the form.
pub const FORMAT: &str = "MESH_LOG_FORMAT";

/// What changes the filter of this process.
static CONTROL: OnceLock<Control> = OnceLock::new();

struct Control {
    /// What is in force, as it was asked for.
    filter: Mutex<String>,
    reload: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
}

/// Why a filter was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    /// It is none.
    #[error("{0:?} is no log filter: {1} (examples: info, debug, warn,mesh_proxy::xds=debug)")]
    Form(String, String),
    /// This process does not log.
    #[error("this process has no logs of its own")]
    NoLogs,
}

/// The filter in force.
#[must_use]
pub fn filter() -> Option<String> {
    CONTROL.get().map(|control| control.filter.lock().clone())
}

/// Filters with `asked` from here on.
///
/// # Errors
/// When it is no filter; then nothing changes.
pub fn set_filter(asked: &str) -> Result<(), InvalidFilter> {
    let control = CONTROL.get().ok_or(InvalidFilter::NoLogs)?;
    let form = |why: String| InvalidFilter::Form(asked.chars().take(200).collect(), why);
    if asked.trim().is_empty() {
        return Err(form("empty".to_owned()));
    }
    let new = parse(asked).map_err(form)?;
    let mut filter = control.filter.lock();
    if !(control.reload)(new) {
        return Err(InvalidFilter::NoLogs);
    }
    asked.clone_into(&mut filter);
    Ok(())
}

/// Starts logging for the process `name`. Calling it again does nothing.
pub fn init(name: &'static str) {
    let asked = std::env::var(FILTER).unwrap_or_default();
    let (filter, bad) = match parse(&asked) {
        Ok(filter) if !asked.trim().is_empty() => (filter, None),
        Ok(_) => (EnvFilter::new("info"), None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let in_force = if bad.is_none() && !asked.trim().is_empty() { asked.clone() } else { "info".to_owned() };
    let form = std::env::var(FORMAT).unwrap_or_default();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let started = if form == "json" {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let handle = builder.reload_handle();
        builder.try_init().is_ok().then(|| control(in_force, move |filter| handle.reload(filter).is_ok()))
    } else {
        let format = Format::default().with_ansi(false);
        let builder = builder.event_format(Named { name, format }).with_filter_reloading();
        let handle = builder.reload_handle();
        builder.try_init().is_ok().then(|| control(in_force, move |filter| handle.reload(filter).is_ok()))
    };
    let Some(control) = started else { return };
    // Whoever could initialise is the only one.
    let _ = CONTROL.set(control);
    if let Some(error) = bad {
        let asked: String = asked.chars().take(200).collect();
        tracing::warn!(error, "{FILTER}={asked:?} is no log filter: logging at info");
    }
    if !matches!(form.as_str(), "" | "text" | "json") {
        tracing::warn!("{FORMAT}={form:?} is neither text nor json: logging text");
    }
}

/// The filter, and the audit log whatever it says, unless it names that itself.
fn parse(asked: &str) -> Result<EnvFilter, String> {
    let mut directives = asked.split(',').map(str::trim).filter(|one| !one.is_empty());
    if let Some(word) = directives.find(|one| !is_known(one)) {
        let word: String = word.chars().take(60).collect();
        return Err(format!(
            "{word:?} is neither a level (trace, debug, info, warn, error, off) nor a part of the mesh; the level of a part is \
             written mesh_proxy=debug"
        ));
    }
    let filter = EnvFilter::builder().parse(asked).map_err(|error| error.to_string())?;
    if asked.contains("audit") {
        return Ok(filter);
    }
    let audit = "audit=info".parse().expect("it is a directive");
    Ok(filter.add_directive(audit))
}

/// Whether somebody logs what it names. One with a level or a span is as its author says.
fn is_known(directive: &str) -> bool {
    const PARTS: [&str; 7] =
        ["audit", "mesh_ca", "mesh_cli", "mesh_pilot", "mesh_proto", "mesh_proxy", "meshctl"];
    directive.contains(['=', '['])
        || directive.parse::<LevelFilter>().is_ok()
        || directive.split("::").next().is_some_and(|part| PARTS.contains(&part))
}

fn control(filter: String, reload: impl Fn(EnvFilter) -> bool + Send + Sync + 'static) -> Control {
    Control { filter: Mutex::new(filter), reload: Box::new(reload) }
}

/// Text lines that begin with the name of the process: several processes often write to one terminal.
struct Named {
    name: &'static str,
    format: Format<Full>,
}

impl<S, N> FormatEvent<S, N> for Named
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "{} ", self.name)?;
        self.format.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_changes_while_the_process_runs_and_a_bad_one_changes_nothing() {
        init("test");
        set_filter("warn,mesh_proto=debug").unwrap();
        assert_eq!(filter().as_deref(), Some("warn,mesh_proto=debug"));
        assert!(tracing::enabled!(target: "mesh_proto::x", tracing::Level::DEBUG));
        assert!(!tracing::enabled!(target: "other", tracing::Level::INFO));
        for bad in ["", "=", "a=b=c", "info,x=nonsense", "warning"] {
            assert!(set_filter(bad).is_err(), "{bad:?}");
        }
        assert_eq!(filter().as_deref(), Some("warn,mesh_proto=debug"));
    }

    /// The filter would take them as names of parts, and nothing would be logged.
    #[test]
    fn a_word_that_nobody_knows_is_no_filter() {
        for bad in ["warning", "loud", "default:info", "all:warn", "info,loud", "mesh_proxi", "hyper::proto"]
        {
            let why = parse(bad).unwrap_err();
            assert!(why.contains("neither a level"), "{bad}: {why}");
        }
        for good in [
            "",
            "INFO",
            "3",
            "off",
            "mesh_proxy",
            "mesh_proxy::xds,warn",
            "audit",
            "hyper=debug,info,",
            "[request{a}]=trace,error",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        // What is shown of it is bounded.
        assert!(parse(&"x".repeat(100_000)).unwrap_err().len() < 300);
    }
}
