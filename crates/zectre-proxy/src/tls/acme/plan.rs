//! Which names need an order now. Pure: the clock and the dice are given.

/// Renewals of names that were ordered together must not come together: each begins earlier by up to this part of
/// what is ahead of it.
const SPREAD: i64 = 10;

/// The life of a certificate, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// It begins.
    pub from: i64,
    /// It ends.
    pub to: i64,
}

/// A name that wants a certificate, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The name.
    pub name: String,
    /// Counts what was done about it; 0 when nothing was.
    pub revision: i64,
    /// Somebody works on it until then.
    pub lease_until: Option<i64>,
    /// The last order failed, and is not to be tried again before.
    pub next_try_at: Option<i64>,
    /// The certificate that there is.
    pub life: Option<Life>,
}

/// What to do about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Order, or go on with the order there is.
    Order,
    /// Nothing before this second.
    Wait(i64),
}

/// What to do about `subject` at `now`, when certificates are renewed `ahead` seconds before their end.
pub fn decide(subject: &Subject, now: i64, ahead: i64) -> Decision {
    let renewal = subject
        .life
        .map_or(i64::MIN, |life| renewal_at(&subject.name, life, ahead));
    let until = [Some(renewal), subject.lease_until, subject.next_try_at];
    match until.into_iter().flatten().max() {
        Some(until) if until > now => Decision::Wait(until),
        _ => Decision::Order,
    }
}

/// When the certificate of `name` is to be renewed: `ahead` of its end, but never before two thirds of its life are
/// over, or a certificate that lives shorter than that would be renewed for ever.
fn renewal_at(name: &str, life: Life, ahead: i64) -> i64 {
    let third = (life.to - life.from).max(0) / 3;
    let ahead = ahead.clamp(0, third);
    // The same on every proxy, and another one for every name: FNV-1a.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let spread = (hash % 1_000) as i64 * (ahead / SPREAD) / 1_000;
    life.to - ahead - spread
}

/// Seconds until an order that failed `attempts` times in a row is tried again: doubled each time up to `max`, of
/// which `dice` (0 to 1) takes away up to half, so that those that failed together don't come back together.
pub fn backoff_secs(attempts: u32, initial: u64, max: u64, dice: f64) -> f64 {
    let doubled = initial.saturating_mul(1 << attempts.saturating_sub(1).min(30));
    doubled.min(max) as f64 * (1.0 - dice.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 86_400;

    fn subject(life: Option<Life>) -> Subject {
        Subject {
            name: "a.test".into(),
            revision: 0,
            lease_until: None,
            next_try_at: None,
            life,
        }
    }

    #[test]
    fn a_name_without_a_certificate_is_ordered_unless_somebody_does_or_it_just_failed() {
        assert_eq!(decide(&subject(None), 100, 30 * DAY), Decision::Order);
        let leased = Subject {
            lease_until: Some(130),
            next_try_at: Some(110),
            ..subject(None)
        };
        assert_eq!(decide(&leased, 100, 30 * DAY), Decision::Wait(130));
        assert_eq!(decide(&leased, 130, 30 * DAY), Decision::Order);
    }

    #[test]
    fn a_certificate_is_renewed_ahead_of_its_end() {
        let life = Life {
            from: 0,
            to: 90 * DAY,
        };
        let Decision::Wait(at) = decide(&subject(Some(life)), DAY, 30 * DAY) else {
            panic!("it is fresh");
        };
        assert!((57 * DAY..=60 * DAY).contains(&at), "{at}");
        assert_eq!(decide(&subject(Some(life)), at, 30 * DAY), Decision::Order);
        // A failed renewal waits, too.
        let failed = Subject {
            next_try_at: Some(at + 60),
            ..subject(Some(life))
        };
        assert_eq!(decide(&failed, at, 30 * DAY), Decision::Wait(at + 60));
    }

    proptest! {
        #[test]
        fn a_fresh_certificate_is_never_renewed_at_once(name in "[a-z]{1,12}", days in 1_i64..400, ahead in 0_i64..1_000) {
            let life = Life { from: 0, to: days * DAY };
            let at = renewal_at(&name, life, ahead * DAY);
            prop_assert!(at > life.to / 2 && at <= life.to, "{at}");
        }

        #[test]
        fn a_pause_is_between_half_of_it_and_the_whole(attempts in 1_u32..200, dice in 0.0..1.0_f64) {
            let pause = backoff_secs(attempts, 60, 21_600, dice);
            let whole = backoff_secs(attempts, 60, 21_600, 0.0);
            prop_assert!(pause >= whole / 2.0 && pause <= whole && whole <= 21_600.0);
            prop_assert!(attempts < 2 || whole >= backoff_secs(attempts - 1, 60, 21_600, 0.0));
        }
    }
}
