//! Quiet hours, by the clock of the user.

use jiff::{
    SignedDuration, Timestamp,
    civil::{Date, Time},
    tz::TimeZone,
};

use crate::model::{Preferences, QuietHours};

/// Whether there is such a time zone.
pub(crate) fn is_time_zone(name: &str) -> bool {
    TimeZone::get(name).is_ok()
}

/// The zone of a user; UTC if this program does not know it any more.
pub(crate) fn zone(preferences: &Preferences) -> TimeZone {
    TimeZone::get(&preferences.time_zone).unwrap_or(TimeZone::UTC)
}

/// When the quiet hours end that last now, in Unix milliseconds; `None` if there are none now.
pub(crate) fn quiet_until(preferences: &Preferences, now_unix_ms: i64) -> Option<i64> {
    let QuietHours {
        on: true,
        from_minute,
        to_minute,
    } = preferences.quiet_hours
    else {
        return None;
    };
    let now = Timestamp::from_millisecond(now_unix_ms).ok()?;
    let zone = zone(preferences);
    let today = now.to_zoned_datetime(zone.clone()).date();
    // Those that began yesterday may last still; of a day whose clock is turned, each end is where the
    // clock shows it first (or would have).
    [today.yesterday().ok(), Some(today)]
        .into_iter()
        .flatten()
        .filter_map(|day| {
            let from = instant(day, from_minute, &zone)?;
            let last_day = if to_minute > from_minute {
                day
            } else {
                day.tomorrow().ok()?
            };
            Some((from, instant(last_day, to_minute, &zone)?))
        })
        .filter(|(from, to)| *from <= now && now < *to)
        .map(|(_, to)| to.as_millisecond())
        .max()
}

/// When a day's clock shows this minute.
fn instant(day: Date, minute: u16, zone: &TimeZone) -> Option<Timestamp> {
    let minutes = SignedDuration::from_mins(minute.into());
    let time = Time::midnight().checked_add(minutes).ok()?;
    let shown = day.to_datetime(time).to_zoned_datetime(zone.clone()).ok()?;
    Some(shown.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn preferences(from: u16, to: u16, zone: &str) -> Preferences {
        Preferences {
            quiet_hours: QuietHours {
                on: true,
                from_minute: from,
                to_minute: to,
            },
            time_zone: zone.to_owned(),
            ..Preferences::default()
        }
    }

    #[test]
    fn quiet_hours_are_those_of_the_users_clock_also_over_midnight() {
        let berlin = preferences(22 * 60, 7 * 60, "Europe/Berlin");
        let ends = Some(at("2026-11-28T06:00:00Z"));
        assert_eq!(quiet_until(&berlin, at("2026-11-27T20:59:59Z")), None);
        assert_eq!(quiet_until(&berlin, at("2026-11-27T21:00:00Z")), ends);
        assert_eq!(quiet_until(&berlin, at("2026-11-28T05:59:59Z")), ends);
        assert_eq!(quiet_until(&berlin, at("2026-11-28T06:00:00Z")), None);
        let midday = preferences(12 * 60, 13 * 60, "Asia/Kolkata");
        let ends = Some(at("2026-11-27T07:30:00Z"));
        assert_eq!(quiet_until(&midday, at("2026-11-27T06:30:00Z")), ends);
        assert_eq!(quiet_until(&midday, at("2026-11-27T07:30:00Z")), None);
    }

    #[test]
    fn the_same_minute_twice_is_the_whole_day() {
        let always = preferences(60, 60, "UTC");
        for hour in 0..24 {
            let now = at(&format!("2026-11-27T{hour:02}:30:00Z"));
            assert!(quiet_until(&always, now).is_some_and(|end| end > now));
        }
    }

    #[test]
    fn an_hour_that_the_clock_skips_or_repeats_ends_them_once() {
        // The clock goes from 2:00 to 3:00 on 2027-03-28, and from 3:00 back to 2:00 on 2026-10-25.
        let skipped = preferences(60, 150, "Europe/Berlin");
        assert_eq!(
            quiet_until(&skipped, at("2027-03-28T00:30:00Z")),
            Some(at("2027-03-28T01:30:00Z"))
        );
        let repeated = preferences(60, 150, "Europe/Berlin");
        assert_eq!(
            quiet_until(&repeated, at("2026-10-25T00:10:00Z")),
            Some(at("2026-10-25T00:30:00Z"))
        );
        assert_eq!(quiet_until(&repeated, at("2026-10-25T00:40:00Z")), None);
    }

    #[test]
    fn quiet_hours_that_are_off_and_unknown_zones_stop_nothing() {
        let mut off = preferences(0, 0, "UTC");
        off.quiet_hours.on = false;
        assert_eq!(quiet_until(&off, at("2026-11-27T03:00:00Z")), None);
        let unknown = preferences(0, 60, "Nowhere/Atall");
        assert!(quiet_until(&unknown, at("2026-11-27T00:30:00Z")).is_some());
        assert!(!is_time_zone("Nowhere/Atall"));
        assert!(is_time_zone("America/Argentina/Buenos_Aires"));
    }
}
