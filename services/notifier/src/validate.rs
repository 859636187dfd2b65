//! What a client may say.

use proto::{error::v1::ErrorReason, notifier::v1 as pb};
use runtime::status::ApiError;

use crate::{
    model::{DigestPeriod, Email, EmailDisabled, Preferences, PreviewDetail, QuietHours, Target},
    providers::{Providers, fcm::Fcm},
    quiet::is_time_zone,
    store::PreferencesChange,
};

/// Minutes of a day.
const MINUTES: u32 = 24 * 60;
/// Hours of a day.
const HOURS: u8 = 24;
/// The longest name of a time zone has 32 bytes.
const TIME_ZONE_BYTES_MAX: usize = 64;

fn malformed(field: &str, message: &str) -> ApiError {
    ApiError::field(ErrorReason::FieldMalformed, field, message)
}

fn out_of_range(field: &str, message: &str) -> ApiError {
    ApiError::field(ErrorReason::FieldOutOfRange, field, message)
}

/// Where a device takes pushes, as its provider sees it.
pub(crate) fn target(
    target: Option<pb::PushTarget>,
    providers: &Providers,
) -> Result<Target, ApiError> {
    use pb::push_target::Provider;
    match target.and_then(|target| target.provider) {
        Some(Provider::Apns(of)) => {
            let (apns, _) = providers.apns.as_ref().ok_or_else(disabled)?;
            apns.target(&of.device_token, &of.topic, of.sandbox)
                .map_err(|message| malformed("target.apns", message))
        }
        Some(Provider::Fcm(of)) => {
            providers.fcm.as_ref().ok_or_else(disabled)?;
            Fcm::target(&of.registration_token)
                .map_err(|message| malformed("target.fcm.registration_token", message))
        }
        Some(Provider::WebPush(of)) => {
            let (web_push, _) = providers.web_push.as_ref().ok_or_else(disabled)?;
            web_push
                .target(&of.endpoint, &of.p256dh, &of.auth)
                .map_err(|message| malformed("target.web_push", message))
        }
        None => Err(ApiError::field(
            ErrorReason::FieldRequired,
            "target",
            "a target of a provider that is known here",
        )),
    }
}

fn disabled() -> ApiError {
    ApiError::field(
        ErrorReason::PushProviderDisabled,
        "target",
        "this server does not push by this provider",
    )
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
            return Err(out_of_range(
                "preview",
                "one of the values of PreviewDetail",
            ));
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
        Some(Ok(hour)) if hour < HOURS => Some(hour),
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
        version: preferences.version,
        digest: digest.into(),
        digest_hour: preferences.digest_hour.into(),
    }
}

/// As the contract has it.
pub(crate) fn email_pb(email: Email) -> pb::EmailAddress {
    let disabled = match email.disabled {
        None => pb::EmailDisabled::Unspecified,
        Some(EmailDisabled::Bounced) => pb::EmailDisabled::Bounced,
        Some(EmailDisabled::Complained) => pb::EmailDisabled::Complained,
    };
    pb::EmailAddress {
        address: email.address,
        confirmed: email.confirmed,
        disabled: disabled.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_of<T>(answer: Result<T, ApiError>) -> String {
        answer.err().map(|error| error.field).unwrap_or_default()
    }

    #[test]
    fn a_target_of_a_provider_that_is_not_there_is_refused() {
        let none = Providers::default();
        let fcm = pb::FcmTarget {
            registration_token: "token".to_owned(),
        };
        let provider = Some(pb::push_target::Provider::Fcm(fcm));
        let error = target(Some(pb::PushTarget { provider }), &none).unwrap_err();
        assert_eq!(error.reason, ErrorReason::PushProviderDisabled);
        let error = target(None, &none).unwrap_err();
        assert_eq!(error.reason, ErrorReason::FieldRequired);
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
                    time_zone: Some("../../etc/passwd".to_owned()),
                    ..Request::default()
                },
                "time_zone",
            ),
            (
                Request {
                    digest: Some(0),
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
