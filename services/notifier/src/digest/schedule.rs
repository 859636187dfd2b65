//! When digests are due, by the clock of the user.

use jiff::{
    Timestamp,
    civil::{Date, Weekday, time},
    tz::TimeZone,
};

use crate::{
    model::{DigestPeriod, Preferences},
    quiet::zone,
};

const HOUR_S: i64 = 60 * 60;

/// When the next digest of a user is due, later than now, in Unix milliseconds; `None` = never.
pub(crate) fn next_digest(preferences: &Preferences, now_unix_ms: i64) -> Option<i64> {
    let now = Timestamp::from_millisecond(now_unix_ms).ok()?;
    let zone = zone(preferences);
    let hour = preferences.digest_hour;
    let next = match preferences.digest {
        DigestPeriod::Off => None,
        DigestPeriod::Hourly => next_hour(now, &zone),
        DigestPeriod::Daily => next_day(now, hour, &zone, |_| true),
        DigestPeriod::Weekly => next_day(now, hour, &zone, |day| day.weekday() == Weekday::Monday),
    };
    next.map(Timestamp::as_millisecond)
}

/// When the user's clock shows the next full hour. Some zones are half an hour away from all others.
fn next_hour(now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let offset_s = i64::from(zone.to_offset(now).seconds());
    let hours = now.as_second().saturating_add(offset_s).div_euclid(HOUR_S);
    Timestamp::from_second((hours + 1).saturating_mul(HOUR_S) - offset_s).ok()
}

/// When the user's clock shows this hour, first or alone, on the next day that is wanted. Where the clock skips
/// the hour: as long after midnight as it would be.
fn next_day(
    now: Timestamp,
    hour: u8,
    zone: &TimeZone,
    wanted: impl Fn(Date) -> bool,
) -> Option<Timestamp> {
    let hour = time(i8::try_from(hour).ok().filter(|hour| *hour < 24)?, 0, 0, 0);
    let mut day = now
        .to_zoned_datetime(zone.clone())
        .date()
        .yesterday()
        .ok()?;
    // One day was left out on islands that changed sides: a week and some days have every weekday all the same.
    for _ in 0..16 {
        if wanted(day) {
            let due = day.to_datetime(hour).to_zoned_datetime(zone.clone()).ok()?;
            if due.timestamp() > now {
                return Some(due.timestamp());
            }
        }
        day = day.tomorrow().ok()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;

    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

    fn wants(digest: DigestPeriod, digest_hour: u8, zone: &str) -> Preferences {
        Preferences {
            digest,
            digest_hour,
            time_zone: zone.to_owned(),
            ..Preferences::default()
        }
    }

    /// As a clock in the zone shows it.
    fn shown(due: Option<i64>, zone: &str) -> String {
        let due = Timestamp::from_millisecond(due.unwrap()).unwrap();
        let zone = TimeZone::get(zone).unwrap();
        due.to_zoned_datetime(zone).to_string()
    }

    fn next(digest: DigestPeriod, hour: u8, zone: &str, now: &str) -> String {
        let now = now.parse::<Timestamp>().unwrap().as_millisecond();
        shown(next_digest(&wants(digest, hour, zone), now), zone)
    }

    #[test]
    fn a_digest_is_due_at_the_users_hour() {
        use DigestPeriod::{Daily, Hourly, Off, Weekly};
        let berlin = |digest, now| next(digest, 8, "Europe/Berlin", now);
        // A Friday.
        assert_eq!(
            berlin(Daily, "2026-11-27T06:59:59Z"),
            "2026-11-27T08:00:00+01:00[Europe/Berlin]"
        );
        assert_eq!(
            berlin(Daily, "2026-11-27T07:00:00Z"),
            "2026-11-28T08:00:00+01:00[Europe/Berlin]"
        );
        assert_eq!(
            berlin(Weekly, "2026-11-27T07:00:00Z"),
            "2026-11-30T08:00:00+01:00[Europe/Berlin]"
        );
        assert_eq!(
            berlin(Weekly, "2026-11-30T07:00:00Z"),
            "2026-12-07T08:00:00+01:00[Europe/Berlin]"
        );
        assert_eq!(
            next(Hourly, 8, "Asia/Kolkata", "2026-11-27T07:00:00Z"),
            "2026-11-27T13:00:00+05:30[Asia/Kolkata]"
        );
        assert_eq!(next_digest(&wants(Off, 8, "UTC"), 0), None);
    }

    #[test]
    fn a_clock_that_is_turned_makes_one_digest_a_day() {
        let berlin = |now| next(DigestPeriod::Daily, 2, "Europe/Berlin", now);
        // There is no 2 o'clock, and there are two.
        assert_eq!(
            berlin("2026-03-28T12:00:00Z"),
            "2026-03-29T03:00:00+02:00[Europe/Berlin]"
        );
        assert_eq!(
            berlin("2026-03-29T01:00:00Z"),
            "2026-03-30T02:00:00+02:00[Europe/Berlin]"
        );
        assert_eq!(
            berlin("2026-10-24T12:00:00Z"),
            "2026-10-25T02:00:00+02:00[Europe/Berlin]"
        );
        assert_eq!(
            berlin("2026-10-25T00:00:00Z"),
            "2026-10-26T02:00:00+01:00[Europe/Berlin]"
        );
    }

    proptest! {
        /// Whatever the zone: from digest to digest, strictly later, and no day without one (nor with two).
        #[test]
        fn periods_follow_each_other_without_a_gap(
            zone in select(jiff::tz::db().available().map(|name| name.to_string()).collect::<Vec<_>>()),
            period in select(vec![DigestPeriod::Hourly, DigestPeriod::Daily, DigestPeriod::Weekly]),
            hour in 0..24_u8,
            from in -1_000_000_000_000_i64..4_000_000_000_000,
        ) {
            let preferences = wants(period, hour, &zone);
            let (least, most) = match period {
                // A clock that is turned by half an hour.
                DigestPeriod::Hourly => (1, DAY_MS / 24),
                // One that changes sides of the date line leaves a day out or has it twice.
                DigestPeriod::Daily => (DAY_MS - DAY_MS / 6, 2 * DAY_MS + DAY_MS / 6),
                _ => (6 * DAY_MS - DAY_MS / 6, 8 * DAY_MS + DAY_MS / 6),
            };
            let mut due = next_digest(&preferences, from).unwrap();
            prop_assert!(due > from);
            for _ in 0..40 {
                // Asked at any time in between, it is the same.
                let next = next_digest(&preferences, due).unwrap();
                prop_assert!(next > due);
                prop_assert_eq!(next_digest(&preferences, due + (next - due) / 2).unwrap(), next);
                prop_assert!((least..=most).contains(&(next - due)), "{} ms", next - due);
                due = next;
            }
        }
    }
}
