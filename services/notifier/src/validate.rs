//! What a client may say.

use proto::{error::v1::ErrorReason, notifier::v1 as pb};
use runtime::status::ApiError;

use crate::{
    limits::{ENDPOINT_BYTES_MAX, REGISTRATION_TOKEN_BYTES_MAX},
    model::{DigestPeriod, Preferences, PreviewDetail, QuietHours, Target},
    quiet::is_time_zone,
    store::PreferencesChange,
};

/// Bytes of a device token of APNs; it has 32 today, and Apple says that this may change.
const APNS_TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=200;
/// Bytes of a bundle id: Apple allows 155 characters.
const TOPIC_BYTES_MAX: usize = 155;
/// Minutes of a day.
const MINUTES: u32 = 24 * 60;
/// The longest name of a time zone has 32 bytes.
const TIME_ZONE_BYTES_MAX: usize = 64;

fn malformed(field: &str, message: &str) -> ApiError {
    ApiError::field(ErrorReason::FieldMalformed, field, message)
}

fn out_of_range(field: &str, message: &str) -> ApiError {
    ApiError::field(ErrorReason::FieldOutOfRange, field, message)
}

/// Where a device takes pushes, as far as its form can tell. An empty topic stays empty.
pub(crate) fn target(target: Option<pb::PushTarget>) -> Result<Target, ApiError> {
    use pb::push_target::Provider;
    match target.and_then(|target| target.provider) {
        Some(Provider::Apns(apns)) => apns_target(apns),
        Some(Provider::Fcm(fcm)) => {
            let token = fcm.registration_token;
            let is_token = (1..=REGISTRATION_TOKEN_BYTES_MAX).contains(&token.len())
                && token.bytes().all(|byte| byte.is_ascii_graphic());
            match is_token {
                true => Ok(Target::Fcm {
                    registration_token: token,
                }),
                false => Err(malformed(
                    "target.fcm.registration_token",
                    "1 to 4,096 visible ASCII characters",
                )),
            }
        }
        Some(Provider::WebPush(web)) => web_push_target(web),
        None => Err(ApiError::field(
            ErrorReason::FieldRequired,
            "target",
            "a target of a provider that is known here",
        )),
    }
}

fn apns_target(apns: pb::ApnsTarget) -> Result<Target, ApiError> {
    let token = apns.device_token;
    let is_hex = token.len().is_multiple_of(2) && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex || !APNS_TOKEN_BYTES.contains(&(token.len() / 2)) {
        let field = "target.apns.device_token";
        return Err(malformed(field, "16 to 200 bytes in hexadecimal"));
    }
    let is_in_topic = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if apns.topic.len() > TOPIC_BYTES_MAX || !apns.topic.bytes().all(is_in_topic) {
        return Err(malformed("target.apns.topic", "a bundle id"));
    }
    Ok(Target::Apns {
        device_token: token.to_ascii_lowercase(),
        topic: apns.topic,
        sandbox: apns.sandbox,
    })
}

fn web_push_target(web: pb::WebPushTarget) -> Result<Target, ApiError> {
    if web.endpoint.is_empty() || web.endpoint.len() > ENDPOINT_BYTES_MAX {
        let field = "target.web_push.endpoint";
        return Err(malformed(field, "an https URL of at most 2,048 bytes"));
    }
    let p256dh = <[u8; 65]>::try_from(web.p256dh.as_slice())
        .ok()
        .filter(|point| point[0] == 4);
    let p256dh = p256dh.ok_or_else(|| {
        let message = "an uncompressed point of P-256: 65 bytes, beginning with 4";
        malformed("target.web_push.p256dh", message)
    })?;
    let auth = <[u8; 16]>::try_from(web.auth.as_slice())
        .map_err(|_| malformed("target.web_push.auth", "16 bytes"))?;
    Ok(Target::WebPush {
        endpoint: web.endpoint,
        p256dh: Box::new(p256dh),
        auth,
    })
}

/// What a user changes.
pub(crate) fn preferences_change(
    request: pb::UpdatePreferencesRequest,
) -> Result<PreferencesChange, ApiError> {
    let preview = match request.preview.map(pb::PreviewDetail::try_from) {
        None => None,
        Some(Ok(pb::PreviewDetail::NameAndText)) => Some(PreviewDetail::NameAndText),
        Some(Ok(pb::PreviewDetail::NameOnly)) => Some(PreviewDetail::NameOnly),
        Some(Ok(pb::PreviewDetail::Nothing)) => Some(PreviewDetail::Nothing),
        Some(Ok(pb::PreviewDetail::Unspecified) | Err(_)) => {
            return Err(out_of_range("preview", "one of the values of PreviewDetail"));
        }
    };
    let digest = match request.digest.map(pb::DigestPeriod::try_from) {
        None => None,
        Some(Ok(pb::DigestPeriod::Off)) => Some(DigestPeriod::Off),
        Some(Ok(pb::DigestPeriod::Hourly)) => Some(DigestPeriod::Hourly),
        Some(Ok(pb::DigestPeriod::Daily)) => Some(DigestPeriod::Daily),
        Some(Ok(pb::DigestPeriod::Weekly)) => Some(DigestPeriod::Weekly),
        Some(Ok(pb::DigestPeriod::Unspecified) | Err(_)) => {
            return Err(out_of_range("digest", "one of the values of DigestPeriod"));
        }
    };
    let digest_hour = match request.digest_hour.map(u8::try_from) {
        None => None,
        Some(Ok(hour)) if hour < 24 => Some(hour),
        Some(_) => return Err(out_of_range("digest_hour", "0 to 23")),
    };
    if let Some(zone) = &request.time_zone
        && (zone.len() > TIME_ZONE_BYTES_MAX || !is_time_zone(zone))
    {
        let message = "the IANA name of a time zone, such as Europe/Berlin";
        return Err(malformed("time_zone", message));
    }
    Ok(PreferencesChange {
        push: request.push,
        preview,
        mentions_pierce_mute: request.mentions_pierce_mute,
        quiet_hours: request.quiet_hours.map(quiet_hours).transpose()?,
        time_zone: request.time_zone,
        digest,
        digest_hour,
    })
}

fn quiet_hours(hours: pb::QuietHours) -> Result<QuietHours, ApiError> {
    let minute = |minute: u32, field: &str| match u16::try_from(minute) {
        Ok(small) if minute < MINUTES => Ok(small),
        _ => Err(out_of_range(field, "0 to 1,439 minutes after midnight")),
    };
    Ok(QuietHours {
        on: hours.on,
        from_minute: minute(hours.from_minute, "quiet_hours.from_minute")?,
        to_minute: minute(hours.to_minute, "quiet_hours.to_minute")?,
    })
}

/// As the contract has them.
pub(crate) fn preferences_pb(preferences: &Preferences) -> pb::Preferences {
    let preview = match preferences.preview {
        PreviewDetail::NameAndText => pb::PreviewDetail::NameAndText,
        PreviewDetail::NameOnly => pb::PreviewDetail::NameOnly,
        PreviewDetail::Nothing => pb::PreviewDetail::Nothing,
    };
    let digest = match preferences.digest {
        DigestPeriod::Off => pb::DigestPeriod::Off,
        DigestPeriod::Hourly => pb::DigestPeriod::Hourly,
        DigestPeriod::Daily => pb::DigestPeriod::Daily,
        DigestPeriod::Weekly => pb::DigestPeriod::Weekly,
    };
    pb::Preferences {
        push: preferences.push,
        preview: preview.into(),
        mentions_pierce_mute: preferences.mentions_pierce_mute,
        quiet_hours: Some(pb::QuietHours {
            on: preferences.quiet_hours.on,
            from_minute: preferences.quiet_hours.from_minute.into(),
            to_minute: preferences.quiet_hours.to_minute.into(),
        }),
        time_zone: preferences.time_zone.clone(),
        digest: digest.into(),
        digest_hour: preferences.digest_hour.into(),
        version: preferences.version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_of<T>(answer: Result<T, ApiError>) -> String {
        answer.err().map(|error| error.field).unwrap_or_default()
    }

    #[test]
    fn a_target_that_no_provider_gives_is_refused_with_the_field_at_fault() {
        use pb::push_target::Provider as P;
        let apns = |device_token: &str, topic: &str| {
            P::Apns(pb::ApnsTarget {
                device_token: device_token.to_owned(),
                topic: topic.to_owned(),
                sandbox: false,
            })
        };
        let web = |p256dh: Vec<u8>, auth: usize| {
            P::WebPush(pb::WebPushTarget {
                endpoint: "https://push.example/1".to_owned(),
                p256dh,
                auth: vec![1; auth],
            })
        };
        let fcm = |token: &str| {
            P::Fcm(pb::FcmTarget {
                registration_token: token.to_owned(),
            })
        };
        let point = |first: u8| [vec![first], vec![7; 64]].concat();
        for (provider, field) in [
            (apns(&"ab".repeat(15), ""), "target.apns.device_token"),
            (apns(&"ab".repeat(201), ""), "target.apns.device_token"),
            (apns(&"ag".repeat(32), ""), "target.apns.device_token"),
            (apns(&"ab".repeat(32), "a/../b"), "target.apns.topic"),
            (fcm(""), "target.fcm.registration_token"),
            (fcm("a\nb"), "target.fcm.registration_token"),
            (web(point(2), 16), "target.web_push.p256dh"),
            (web(vec![4; 64], 16), "target.web_push.p256dh"),
            (web(point(4), 15), "target.web_push.auth"),
        ] {
            let provider = Some(provider);
            assert_eq!(field_of(target(Some(pb::PushTarget { provider }))), field);
        }
        assert_eq!(field_of(target(None)), "target");
        let provider = Some(apns(&"AB".repeat(32), "org.example.app"));
        let taken = target(Some(pb::PushTarget { provider })).unwrap();
        assert_eq!(taken.token(), "ab".repeat(32));
    }

    #[test]
    fn preferences_that_mean_nothing_are_refused_with_the_field_at_fault() {
        type Request = pb::UpdatePreferencesRequest;
        let quiet = |from_minute, to_minute| Request {
            quiet_hours: Some(pb::QuietHours {
                on: true,
                from_minute,
                to_minute,
            }),
            ..Request::default()
        };
        let cases = [
            (
                Request {
                    preview: Some(0),
                    ..Request::default()
                },
                "preview",
            ),
            (
                Request {
                    digest: Some(99),
                    ..Request::default()
                },
                "digest",
            ),
            (
                Request {
                    digest_hour: Some(24),
                    ..Request::default()
                },
                "digest_hour",
            ),
            (
                Request {
                    time_zone: Some("../../etc/passwd".to_owned()),
                    ..Request::default()
                },
                "time_zone",
            ),
            (quiet(1_440, 0), "quiet_hours.from_minute"),
            (quiet(0, 70_000), "quiet_hours.to_minute"),
        ];
        for (request, field) in cases {
            assert_eq!(field_of(preferences_change(request)), field);
        }
        let empty = preferences_change(Request::default()).unwrap();
        assert_eq!(empty, PreferencesChange::default());
    }
}
