//! Durations as people write them in settings: `5s`, `1m30s`, `0.5s`, `250ms`.
//!
//! In: text. Out: a duration, or what is wrong with it. The form is Go's `time.ParseDuration`, which Istio's settings use.

use std::time::Duration;

/// The longest that makes sense in settings of ours; beyond it is a slip of the pen.
const MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The units, longest name first where one begins with another.
const UNITS: [(&str, f64); 6] =
    [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];

/// Parses a duration of zero or more, at most a week.
///
/// # Errors
/// In words, with an example.
pub fn parse(text: &str) -> Result<Duration, String> {
    parse_up_to(text, MAX)
}

/// Parses a duration of zero or more, at most `most`.
///
/// # Errors
/// In words, with an example.
pub fn parse_up_to(text: &str, most: Duration) -> Result<Duration, String> {
    let wrong = || {
        let hours = most.as_secs() / 3600;
        format!("{text:?} is no duration from 0s to {hours}h, e.g. 5s or 1m30s")
    };
    let (mut rest, mut seconds) = (text, 0.0);
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() || text.len() > 32 {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let (unit, factor) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit)).ok_or_else(wrong)?;
        seconds += number * factor;
        rest = &tail[unit.len()..];
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|d| *d <= most).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_writes_them() {
        let ms = |text| parse(text).map(|d| d.as_millis());
        assert_eq!(ms("5s"), Ok(5000));
        assert_eq!(ms("1m30s"), Ok(90_000));
        assert_eq!(ms("0.5s"), Ok(500));
        assert_eq!(ms("250ms"), Ok(250));
        assert_eq!(ms("1h"), Ok(3_600_000));
        assert_eq!(ms("0"), Ok(0));
        for bad in ["", "5", "s", "-1s", "1x", "1s2", "..s", "1e9s", "9999h", "１s"] {
            assert!(ms(bad).is_err(), "{bad}");
        }
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(parse_up_to("24h", day), Ok(day));
        assert!(parse_up_to("24h1s", day).unwrap_err().contains("from 0s to 24h"));
    }
}
