//! A range of ports, written `30000-31999`.

use serde::{Deserialize, Deserializer, de};
use std::{ops::RangeInclusive, str::FromStr};

/// The most ports in a range: each costs a listener on every proxy.
const PORTS_MAX: u16 = 4_096;

/// The range; none when it is written as nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRange(Option<RangeInclusive<u16>>);

impl PortRange {
    /// First and last.
    pub fn bounds(&self) -> Option<(u16, u16)> {
        self.0.as_ref().map(|range| (*range.start(), *range.end()))
    }

    /// Whether `port` lies in it.
    pub fn contains(&self, port: u16) -> bool {
        self.0.as_ref().is_some_and(|range| range.contains(&port))
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self(None));
        }
        let parsed = text.split_once('-').and_then(|(first, last)| {
            let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first > 0 && first <= last && last - first < PORTS_MAX).then_some(first..=last)
        });
        let range = parsed.ok_or_else(|| {
            format!(
                "`{text}` is no range of at most {PORTS_MAX} ports: write 30000-31999, or nothing for none"
            )
        })?;
        Ok(Self(Some(range)))
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_what_is_none_is_refused() {
        let range: PortRange = "30000-31999".parse().expect("a range");
        assert_eq!(range.bounds(), Some((30_000, 31_999)));
        assert!(range.contains(30_000) && !range.contains(32_000));
        let none: PortRange = "".parse().expect("none");
        assert!(none.bounds().is_none() && !none.contains(1));
        for wrong in ["30000", "2-1", "0-5", "1-65535", "a-b", "70000-70001"] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong}");
        }
    }
}
