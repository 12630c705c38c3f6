//! Sizes and durations as they are written in a configuration: numbers or text with a unit.

use std::time::Duration;

/// What `false` means for a time limit that is always counted: longer than any router runs, and still safe to add to
/// a clock.
pub const NO_TIME_LIMIT: Duration = Duration::from_secs(50 * 365 * 24 * 3600);

const SIZES: [(&str, f64); 4] = [
    ("B", 1.0),
    ("KB", 1024.0),
    ("MB", 1_048_576.0),
    ("GB", 1_073_741_824.0),
];
const TIMES: [(&str, f64); 4] = [("ms", 0.001), ("s", 1.0), ("min", 60.0), ("h", 3600.0)];

/// Octets: `"64MB"` with MB = 2^20.
pub fn parse_size(text: &str) -> Result<usize, String> {
    size_of_number(with_unit(
        text,
        &SIZES,
        "a size like \"64MB\" (units: B, KB, MB, GB)",
    )?)
}

/// A number of octets.
pub fn size_of_number(octets: f64) -> Result<usize, String> {
    if octets.is_nan() || octets < 1.0 {
        return Err("must be at least 1 B (`false` means no limit)".into());
    }
    // Above 2^53 a Lua number is no longer exact, and nobody has the memory either.
    if octets > 9_007_199_254_740_992.0 {
        return Err("is too large (`false` means no limit)".into());
    }
    if octets.fract() != 0.0 {
        return Err("must be a whole number of bytes".into());
    }
    Ok(octets as usize)
}

/// A time: `"250ms"`, `"5s"`, `"10min"`, `"1h"`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    duration_of_number(with_unit(
        text,
        &TIMES,
        "a duration like \"250ms\" (units: ms, s, min, h)",
    )?)
}

/// A number of seconds.
pub fn duration_of_number(seconds: f64) -> Result<Duration, String> {
    if seconds.is_nan() || seconds < 0.001 {
        return Err("must be at least 1 ms (`false` means no limit)".into());
    }
    if seconds > NO_TIME_LIMIT.as_secs_f64() {
        return Err("is longer than 50 years (`false` means no limit)".into());
    }
    Ok(Duration::from_nanos((seconds * 1e6).round() as u64 * 1_000))
}

fn with_unit(text: &str, units: &[(&str, f64)], expected: &str) -> Result<f64, String> {
    let wrong = || format!("must be {expected}, not {text:?}");
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let (_, factor) = units
        .iter()
        .find(|(name, _)| *name == unit.trim_start())
        .ok_or_else(wrong)?;
    Ok(number * factor)
}

/// A size the way a person writes it.
pub(super) fn show_size(octets: usize) -> String {
    if octets == usize::MAX {
        return "none".into();
    }
    let (unit, factor) = SIZES
        .iter()
        .rev()
        .find(|(_, f)| octets.is_multiple_of(*f as usize))
        .unwrap_or(&SIZES[0]);
    format!("{} {unit}", octets / *factor as usize)
}

/// A duration the way a person writes it.
pub(super) fn show_duration(time: Duration) -> String {
    let millis = time.as_millis();
    match millis {
        _ if time >= NO_TIME_LIMIT => "none".into(),
        _ if !millis.is_multiple_of(1000) => format!("{millis} ms"),
        _ if !millis.is_multiple_of(60_000) => format!("{} s", millis / 1000),
        _ => format!("{} min", millis / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, octets) in [
            ("64MB", 64 << 20),
            ("1 KB", 1024),
            ("1.5KB", 1536),
            ("7B", 7),
            ("2GB", 2usize << 30),
        ] {
            assert_eq!(parse_size(text), Ok(octets), "{text}");
        }
        for bad in [
            "",
            "MB",
            "12",
            "12mb",
            "-1MB",
            "0MB",
            "1.0001KB",
            "1..2MB",
            "1 MB x",
            "99999999999GB",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        for bad in [0.0, -1.0, 1.5, f64::NAN, f64::INFINITY] {
            assert!(size_of_number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("10min", 600_000),
            ("1h", 3_600_000),
            ("0.5 s", 500),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for bad in ["", "5", "5m", "0s", "-5s", "s", "1e3s", "900000h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(duration_of_number(0.1), Ok(Duration::from_millis(100)));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(duration_of_number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shown_as_written() {
        assert_eq!(show_size(64 << 20), "64 MB");
        assert_eq!(show_size(1000), "1000 B");
        assert_eq!(show_duration(Duration::from_millis(100)), "100 ms");
        assert_eq!(show_duration(Duration::from_secs(600)), "10 min");
    }
}
