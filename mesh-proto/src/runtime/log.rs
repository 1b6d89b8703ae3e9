//! Logs of a process: to stderr, as text or JSON, filtered.
//!
//! `MESH_LOG` is a filter of tracing-subscriber (`info`, `mesh_proxy::xds=debug,warn`), `MESH_LOG_FORMAT` is `text` (the
//! default) or `json`.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The environment variable of the filter.
pub const FILTER: &str = "MESH_LOG";
/// The environment variable of the form.
pub const FORMAT: &str = "MESH_LOG_FORMAT";

/// Starts logging for the process `name`. Calling it again does nothing.
pub fn init(name: &'static str) {
    let asked = std::env::var(FILTER).unwrap_or_default();
    let (filter, bad) = match EnvFilter::builder().parse(&asked) {
        Ok(filter) if !asked.trim().is_empty() => (filter, None),
        Ok(_) => (EnvFilter::new("info"), None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let format = std::env::var(FORMAT).unwrap_or_default();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let started = if format == "json" {
        builder.json().flatten_event(true).try_init().is_ok()
    } else {
        builder.event_format(Named { name, format: Format::default().with_ansi(false) }).try_init().is_ok()
    };
    if !started {
        return;
    }
    if let Some(error) = bad {
        tracing::warn!(%error, "{FILTER}={asked:?} is no log filter: logging at info");
    }
    if !matches!(format.as_str(), "" | "text" | "json") {
        tracing::warn!("{FORMAT}={format:?} is neither text nor json: logging text");
    }
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
