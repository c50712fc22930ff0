//! How a new deployment takes over from the current one.

use serde::{Deserialize, Deserializer, Serialize, de};
use std::fmt;
use utoipa::ToSchema;

/// Written as a name (`"rolling"`) or as an object (`{"type":"rolling","max_surge":2}`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Strategy {
    /// A few at a time, new before old.
    Rolling {
        /// How many tasks above the wanted number may exist.
        max_surge: u32,
        /// How many below it may be healthy.
        max_unavailable: u32,
    },
    /// All new ones beside all old ones, then one switch.
    BlueGreen,
    /// A share of the traffic first.
    Canary {
        /// Percent of the traffic.
        weight: u8,
        /// Seconds until it is promoted by itself; without it, it waits for `promote`.
        auto_promote_secs: Option<u32>,
    },
    /// Old ones stop before new ones start (an interruption).
    Recreate,
}

impl Default for Strategy {
    fn default() -> Self {
        Self::Rolling {
            max_surge: 1,
            max_unavailable: 0,
        }
    }
}

/// How many tasks a canary has while it is tried with so many percent of the requests: at least one.
pub fn canary_size(replicas: u32, weight: u8) -> u32 {
    let all = replicas.max(1);
    (all * u32::from(weight)).div_ceil(100).clamp(1, all)
}

const NAMES: &[&str] = &["rolling", "blue_green", "canary", "recreate"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    r#type: String,
    max_surge: Option<u32>,
    max_unavailable: Option<u32>,
    #[serde(default, deserialize_with = "percentage")]
    weight: Option<u8>,
    auto_promote_secs: Option<u32>,
}

/// Refused here rather than with the rest: so the mistake is shown where the number stands.
fn percentage<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    let Some(given) = Option::<u64>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let percentage = u8::try_from(given).ok().filter(|given| (1..=99).contains(given));
    let wrong = || {
        let given = de::Unexpected::Unsigned(given);
        de::Error::invalid_value(given, &"a whole number from 1 to 99")
    };
    percentage.ok_or_else(wrong).map(Some)
}

impl Fields {
    fn named(name: &str) -> Self {
        Self {
            r#type: name.into(),
            max_surge: None,
            max_unavailable: None,
            weight: None,
            auto_promote_secs: None,
        }
    }

    fn strategy<E: de::Error>(self) -> Result<Strategy, E> {
        let (rolling, canary) = (self.r#type == "rolling", self.r#type == "canary");
        if !rolling && (self.max_surge.is_some() || self.max_unavailable.is_some()) {
            return Err(E::custom(
                "max_surge and max_unavailable belong to the strategy `rolling`",
            ));
        }
        if !canary && (self.weight.is_some() || self.auto_promote_secs.is_some()) {
            return Err(E::custom(
                "weight and auto_promote_secs belong to the strategy `canary`",
            ));
        }
        match self.r#type.as_str() {
            "rolling" => {
                let max_unavailable = self.max_unavailable.unwrap_or(0);
                let max_surge = self.max_surge.unwrap_or(1);
                if max_surge == 0 && max_unavailable == 0 {
                    return Err(E::custom(
                        "max_surge and max_unavailable can't both be 0: nothing could move",
                    ));
                }
                Ok(Strategy::Rolling {
                    max_surge,
                    max_unavailable,
                })
            }
            "blue_green" => Ok(Strategy::BlueGreen),
            "canary" => Ok(Strategy::Canary {
                weight: self.weight.unwrap_or(10),
                auto_promote_secs: self.auto_promote_secs,
            }),
            "recreate" => Ok(Strategy::Recreate),
            other => Err(E::unknown_variant(other, NAMES)),
        }
    }
}

struct NameOrObject;

impl<'de> de::Visitor<'de> for NameOrObject {
    type Value = Strategy;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a strategy: one of {}, or an object with its `type`",
            NAMES.join(", ")
        )
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Strategy, E> {
        Fields::named(name).strategy()
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Strategy, A::Error> {
        Fields::deserialize(de::value::MapAccessDeserializer::new(map))?.strategy()
    }
}

impl<'de> Deserialize<'de> for Strategy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameOrObject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_an_object() {
        let parse = |json: &str| serde_json::from_str::<Strategy>(json);
        assert_eq!(parse("\"rolling\"").expect("valid"), Strategy::default());
        let canary = parse(r#"{"type":"canary","weight":5}"#).expect("valid");
        assert_eq!(
            canary,
            Strategy::Canary {
                weight: 5,
                auto_promote_secs: None
            }
        );
        let error = parse("\"roling\"").expect_err("no such strategy").to_string();
        assert!(
            error.contains("rolling") && error.contains("blue_green"),
            "{error}"
        );
        assert!(parse(r#"{"type":"rolling","max_surge":0}"#).is_err());
        assert!(parse(r#"{"type":"recreate","weight":5}"#).is_err());
    }
}
