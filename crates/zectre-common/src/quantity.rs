//! Amounts of cpu, memory and time as people write them: `100m`, `128Mi`, `10s`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr, time::Duration};
use utoipa::ToSchema;

/// The text is not an amount of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not {expected}")]
pub struct QuantityError {
    given: String,
    expected: &'static str,
}

/// Thousandths of a core. Written `100m`, `0.5` or `2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, ToSchema)]
#[schema(value_type = String, example = "100m")]
pub struct CpuMillis(pub u32);

/// Bytes. Written `128Mi`, `1Gi`, `500M` or a plain number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, ToSchema)]
#[schema(value_type = String, example = "128Mi")]
pub struct MemoryBytes(pub u64);

/// Whole milliseconds. Written `500ms`, `10s`, `5m`, `1h`, or a plain number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, ToSchema)]
#[schema(value_type = String, example = "10s")]
pub struct DurationMs(pub u64);

/// The most cpu one task may ask for: 1,024 cores, larger than any machine we place on.
const CPU_MILLIS_MAX: u32 = 1_024_000;

impl DurationMs {
    /// From whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000))
    }

    /// As the standard library's type.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

fn refuse(given: &str, expected: &'static str) -> QuantityError {
    QuantityError {
        given: given.chars().take(64).collect(),
        expected,
    }
}

impl FromStr for CpuMillis {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let error = || {
            refuse(
                text,
                "an amount of cpu: write thousandths of a core (`100m`) or cores (`0.5`, `2`)",
            )
        };
        let millis = match text.strip_suffix('m') {
            Some(millis) => millis.parse::<u32>().map_err(|_| error())?,
            None => {
                let cores: f64 = text.parse().map_err(|_| error())?;
                if !cores.is_finite() || !(0.0..=1_024.0).contains(&cores) {
                    return Err(error());
                }
                (cores * 1_000.0).round() as u32
            }
        };
        // Nothing is an amount too: what an idle node's tasks hold. A spec asks for more (see its validation).
        if millis > CPU_MILLIS_MAX {
            Err(error())
        } else {
            Ok(Self(millis))
        }
    }
}

/// Suffix and how many bytes it stands for; the longer suffix of two is listed first.
const MEMORY_UNITS: &[(&str, u64)] = &[
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

impl FromStr for MemoryBytes {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let error = || refuse(text, "an amount of memory: write `128Mi`, `1Gi`, `500M` or bytes");
        let (number, unit_bytes) = MEMORY_UNITS
            .iter()
            .find_map(|(suffix, bytes)| text.strip_suffix(suffix).map(|number| (number, *bytes)))
            .unwrap_or((text, 1));
        let bytes = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit_bytes))
            .ok_or_else(error)?;
        // PostgreSQL keeps it in a signed 64-bit column.
        if i64::try_from(bytes).is_err() {
            Err(error())
        } else {
            Ok(Self(bytes))
        }
    }
}

impl FromStr for DurationMs {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let error = || {
            refuse(
                text,
                "a duration: write `500ms`, `10s`, `5m`, `1h` or a number of seconds",
            )
        };
        let (number, unit_ms) = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)]
            .iter()
            .find_map(|(suffix, ms)| text.strip_suffix(suffix).map(|number| (number, *ms)))
            .unwrap_or((text, 1_000));
        let ms = number
            .trim()
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(unit_ms));
        // A year: beyond it, the value is a slip of the hand, and sums of durations could overflow.
        ms.filter(|ms| *ms <= 365 * 24 * 3_600_000)
            .map(Self)
            .ok_or_else(error)
    }
}

impl fmt::Display for CpuMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}m", self.0))
    }
}

impl fmt::Display for MemoryBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = MEMORY_UNITS[..4]
            .iter()
            .rev()
            .find(|(_, bytes)| self.0 != 0 && self.0.is_multiple_of(*bytes));
        match unit {
            Some((suffix, bytes)) => f.pad(&format!("{}{suffix}", self.0 / bytes)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

impl fmt::Display for DurationMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1_000) {
            f.pad(&format!("{}s", self.0 / 1_000))
        } else {
            f.pad(&format!("{}ms", self.0))
        }
    }
}

/// Text or a bare number: both are natural in JSON and YAML (`cpu: 2`, `timeout: 10`).
struct TextOrNumber<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = QuantityError>> de::Visitor<'_> for TextOrNumber<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount such as \"100m\", \"128Mi\" or \"10s\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

macro_rules! serde_as_text {
    ($($name:ident)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(TextOrNumber::<Self>(std::marker::PhantomData))
            }
        }
    )*};
}

serde_as_text! { CpuMillis MemoryBytes DurationMs }

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_as_people_write_them() {
        assert_eq!("100m".parse(), Ok(CpuMillis(100)));
        assert_eq!("0.5".parse(), Ok(CpuMillis(500)));
        assert_eq!("128Mi".parse(), Ok(MemoryBytes(128 << 20)));
        assert_eq!("500M".parse(), Ok(MemoryBytes(500_000_000)));
        assert_eq!("10s".parse(), Ok(DurationMs(10_000)));
        assert_eq!("250ms".parse(), Ok(DurationMs(250)));
        assert_eq!("5m".parse(), Ok(DurationMs(300_000)));
        assert_eq!(
            serde_json::from_str::<DurationMs>("7").expect("a number"),
            DurationMs(7_000)
        );
    }

    #[test]
    fn nonsense_is_refused_with_the_way_to_write_it() {
        for bad in ["", "m", "-1", "1e99", "NaN", "99999999999m", "1 core"] {
            assert!(bad.parse::<CpuMillis>().is_err(), "{bad}");
        }
        for bad in [
            "",
            "Mi",
            "-1Mi",
            "128MiB",
            "99999999999999999999",
            "9223372036854775808",
        ] {
            assert!(bad.parse::<MemoryBytes>().is_err(), "{bad}");
        }
        let error = "soon".parse::<DurationMs>().expect_err("not a duration");
        assert!(
            error.to_string().contains("`soon` is not a duration: write"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_back(cpu in 0u32..=CPU_MILLIS_MAX, memory in 0u64..=i64::MAX as u64, ms in 0u64..=31_536_000_000) {
            prop_assert_eq!(CpuMillis(cpu).to_string().parse(), Ok(CpuMillis(cpu)));
            prop_assert_eq!(MemoryBytes(memory).to_string().parse(), Ok(MemoryBytes(memory)));
            prop_assert_eq!(DurationMs(ms).to_string().parse(), Ok(DurationMs(ms)));
        }
    }
}
