//! An instant, UTC, written as RFC 3339: the only time type on the wire and in the database.
//!
//! PostgreSQL keeps microseconds, so a [`Time`] is always whole microseconds: what was written
//! compares equal to what is read back.

use jiff::{Timestamp, Unit};
use serde::{Deserialize, Deserializer, Serialize, de};
use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef},
};
use std::{fmt, time::Duration};
use utoipa::ToSchema;

/// Microseconds from the Unix epoch to 2000-01-01, where PostgreSQL starts counting.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// 0001-01-01: nothing before it is a time to whoever sends one. PostgreSQL refuses what is far enough back.
const FIRST_UNIX_MS: i64 = -62_135_596_800_000;

/// A point in time, with microsecond precision.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = DateTime)]
pub struct Time(Timestamp);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Time;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as 2026-01-31T12:00:00Z")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Time, E> {
                let parsed = text.parse().ok().map(Time::from_timestamp);
                parsed.filter(|at| at.unix_ms() >= FIRST_UNIX_MS).ok_or_else(|| {
                    let given: String = text.chars().take(64).collect();
                    E::custom(format_args!(
                        "`{given}` is not a time: write it as 2026-01-31T12:00:00Z"
                    ))
                })
            }
        }
        from.deserialize_str(Text)
    }
}

impl Time {
    /// The wall clock. Pure code is given the time instead of asking for it.
    pub fn now() -> Self {
        Self::from_timestamp(Timestamp::now())
    }

    /// Rounds to whole microseconds.
    pub fn from_timestamp(at: Timestamp) -> Self {
        Self(at.round(Unit::Microsecond).unwrap_or(at))
    }

    /// From milliseconds since the Unix epoch; out of range saturates.
    pub fn from_unix_ms(unix_ms: i64) -> Self {
        let nearest = if unix_ms < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        };
        Self(Timestamp::from_millisecond(unix_ms).unwrap_or(nearest))
    }

    /// Milliseconds since the Unix epoch.
    pub fn unix_ms(self) -> i64 {
        self.0.as_millisecond()
    }

    /// The instant as jiff's type.
    pub const fn timestamp(self) -> Timestamp {
        self.0
    }

    /// This instant plus `duration`; saturates at the end of time.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.checked_add(duration).unwrap_or(Timestamp::MAX))
    }

    /// How long after `earlier` this is; zero when it isn't after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or(Duration::ZERO)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz")
    }
}

impl PgHasArrayType for Time {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("_timestamptz")
    }
}

impl<'q> Encode<'q, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let micros = self.0.as_microsecond() - POSTGRES_EPOCH_MICROS;
        Encode::<Postgres>::encode(micros, buffer)
    }

    fn size_hint(&self) -> usize {
        size_of::<i64>()
    }
}

impl<'r> Decode<'r, Postgres> for Time {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let micros: i64 = Decode::<Postgres>::decode(value)?;
        let unix_micros = micros
            .checked_add(POSTGRES_EPOCH_MICROS)
            .ok_or("the time is out of range")?;
        Ok(Self(Timestamp::from_microsecond(unix_micros)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_never_negative() {
        let early = Time::from_unix_ms(1_000);
        let late = early.plus(Duration::from_millis(250));
        assert_eq!(late.since(early), Duration::from_millis(250));
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[test]
    fn json_is_rfc_3339() {
        let time = Time::from_unix_ms(0);
        assert_eq!(
            serde_json::to_string(&time).expect("a time is valid JSON"),
            "\"1970-01-01T00:00:00Z\""
        );
    }
    #[test]
    fn what_no_database_takes_is_no_time() {
        for bad in ["-009999-06-01T00:00:00Z", "0000-12-31T23:59:59Z", "yesterday", ""] {
            assert!(serde_json::from_value::<Time>(bad.into()).is_err(), "{bad}");
        }
        for good in ["0001-01-01T00:00:00Z", "9999-12-30T00:00:00Z"] {
            assert!(serde_json::from_value::<Time>(good.into()).is_ok(), "{good}");
        }
        let (first, last) = (Time::from_unix_ms(i64::MIN), Time::from_unix_ms(i64::MAX));
        assert!(first < Time::from_unix_ms(0) && last > Time::from_unix_ms(0));
    }
}
