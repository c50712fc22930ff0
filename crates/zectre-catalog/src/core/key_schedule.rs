//! When keys are made, sign, and go: a key is published before it signs, and stays until its last token has ended.

use crate::config::{ACCESS_TTL_SECS_MAX, Algorithm};
use std::time::Duration;
use zectre_common::time::Time;

/// How far clocks may differ, on top of the longest life of a token.
const CLOCKS: Duration = Duration::from_secs(300);

/// A key, as far as its time is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Which.
    pub kid: String,
    /// What it signs with.
    pub algorithm: Algorithm,
    /// From when on it signs, until the next one does.
    pub signs_from: Time,
}

/// How long keys sign.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm {
    /// What new keys sign with.
    pub algorithm: Algorithm,
    /// A key signs for this long.
    pub rotate: Duration,
    /// It is published this long before.
    pub ahead: Duration,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// A key is to be made that signs from then on.
    pub make: Option<Time>,
    /// These have served.
    pub drop: Vec<String>,
}

/// What is to be done about `keys`, sorted by when they begin to sign.
pub fn plan(keys: &[Slot], rhythm: Rhythm, now: Time) -> Plan {
    Plan {
        make: next(keys, rhythm, now),
        drop: keys
            .windows(2)
            .filter(|pair| pair[1].signs_from.plus(keep()) < now)
            .map(|pair| pair[0].kid.clone())
            .collect(),
    }
}

fn next(keys: &[Slot], rhythm: Rhythm, now: Time) -> Option<Time> {
    // Nobody waits for the first one: nobody knows another.
    let Some(newest) = keys.last() else {
        return Some(now);
    };
    let soonest = now.plus(rhythm.ahead);
    if newest.algorithm != rhythm.algorithm {
        // One that doesn't sign yet is let to, so that two are never made in a row.
        return (newest.signs_from <= now).then_some(soonest);
    }
    let due = newest.signs_from.plus(rhythm.rotate);
    (due <= soonest).then_some(soonest.max(due))
}

/// Which of `keys` (sorted) signs now.
pub fn signer(keys: &[Slot], now: Time) -> Option<usize> {
    // The first of all signs, whatever the clock of the process that made it said.
    keys.iter()
        .rposition(|key| key.signs_from <= now)
        .or((!keys.is_empty()).then_some(0))
}

/// How long a key is needed once the next one signs.
fn keep() -> Duration {
    Duration::from_secs(ACCESS_TTL_SECS_MAX) + CLOCKS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RHYTHM: Rhythm = Rhythm {
        algorithm: Algorithm::Rs256,
        rotate: Duration::from_secs(30 * 86_400),
        ahead: Duration::from_secs(86_400),
    };

    fn at(secs: i64) -> Time {
        Time::from_unix_ms(secs * 1_000)
    }

    fn slot(kid: &str, signs_from: i64) -> Slot {
        Slot {
            kid: kid.into(),
            algorithm: Algorithm::Rs256,
            signs_from: at(signs_from),
        }
    }

    #[test]
    fn the_first_signs_at_once_and_the_second_a_day_after_it_is_known() {
        assert_eq!(plan(&[], RHYTHM, at(5)).make, Some(at(5)));
        let one = [slot("a", 0)];
        assert_eq!(plan(&one, RHYTHM, at(29 * 86_400 - 1)), Plan::default());
        assert_eq!(plan(&one, RHYTHM, at(29 * 86_400)).make, Some(at(30 * 86_400)));
        // A catalog that was away does not hurry.
        assert_eq!(plan(&one, RHYTHM, at(90 * 86_400)).make, Some(at(91 * 86_400)));
    }

    #[test]
    fn an_old_key_stays_until_its_last_token_has_ended() {
        let keys = [slot("a", 0), slot("b", 1_000)];
        assert_eq!(signer(&keys, at(999)), Some(0));
        assert_eq!(signer(&keys, at(1_000)), Some(1));
        assert!(plan(&keys, RHYTHM, at(1_000 + 3_600 + 300)).drop.is_empty());
        assert_eq!(plan(&keys, RHYTHM, at(1_000 + 3_600 + 301)).drop, ["a"]);
    }

    #[test]
    fn another_algorithm_is_announced_too() {
        let rhythm = Rhythm {
            algorithm: Algorithm::EdDsa,
            ..RHYTHM
        };
        assert_eq!(plan(&[slot("a", 0)], rhythm, at(10)).make, Some(at(10 + 86_400)));
        assert_eq!(plan(&[slot("a", 0), slot("b", 100)], rhythm, at(10)).make, None);
    }

    proptest! {
        /// Whenever it is looked, and however rarely: who signs was known for long enough, and who signed lately is known.
        #[test]
        fn tokens_can_always_be_checked(pauses in prop::collection::vec(1_i64..20 * 86_400, 1..40)) {
            let mut keys: Vec<Slot> = Vec::new();
            let mut published: Vec<(String, i64)> = Vec::new();
            let mut last_signed: Vec<(String, i64)> = Vec::new();
            let mut now = 0;
            for pause in pauses {
                now += pause;
                let plan = plan(&keys, RHYTHM, at(now));
                for gone in &plan.drop {
                    let signed = last_signed.iter().rev().find(|(kid, _)| kid == gone).map_or(i64::MIN / 2, |(_, at)| *at);
                    prop_assert!(signed + 3_600 < now, "{gone} signed at {signed}");
                }
                keys.retain(|key| !plan.drop.contains(&key.kid));
                if let Some(signs_from) = plan.make {
                    let kid = format!("k{now}");
                    published.push((kid.clone(), now));
                    keys.push(Slot { kid, algorithm: Algorithm::Rs256, signs_from });
                }
                let signing = &keys[signer(&keys, at(now)).expect("there is one")];
                let (_, known) = published.iter().find(|(kid, _)| *kid == signing.kid).expect("published");
                prop_assert!(now - known >= 86_400 || published.len() == 1);
                last_signed.push((signing.kid.clone(), now));
                prop_assert!(keys.windows(2).all(|pair| pair[0].signs_from < pair[1].signs_from));
                prop_assert!(keys.len() <= 3);
            }
        }
    }
}
