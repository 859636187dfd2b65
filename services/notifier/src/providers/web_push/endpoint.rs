//! Which addresses a push may be sent to. Whoever registers a browser names one, so without a list our own
//! machines could be made to send requests to anything that they reach.

use reqwest::Url;

use super::super::{SetupError, http};
use crate::limits::ENDPOINT_BYTES_MAX;

/// The push services of browsers: Chrome and its kin, Firefox, Safari, Edge.
pub(super) const HOSTS: [&str; 7] = [
    "fcm.googleapis.com",
    // Of Chromium as Debian builds it.
    "jmt17.google.com",
    "updates.push.services.mozilla.com",
    "web.push.apple.com",
    "*.push.services.mozilla.com",
    "*.push.apple.com",
    "*.notify.windows.com",
];
/// Where a push that shows nothing costs the site the permission to push.
const SHOWS_EACH_PUSH: &str = ".push.apple.com";

/// The addresses that a deployment allows.
#[derive(Debug, Clone, Default)]
pub struct AllowedEndpoints {
    hosts: Vec<String>,
    /// With their dot.
    suffixes: Vec<String>,
    origins: Vec<String>,
}

/// An address that may be pushed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The whole of it. Secret: whoever knows it can push there, if he knows our key too.
    pub(super) url: Url,
    /// Scheme, host and port.
    pub(super) origin: String,
    /// Each push there must show something.
    pub(super) shows_each: bool,
}

impl AllowedEndpoints {
    /// Hosts as they are, or everything below one (`*.example.org`), by https at the usual port; and
    /// whole origins besides, such as one of this machine.
    pub fn new(hosts: &[String], origins: &[String]) -> Result<Self, SetupError> {
        let mut allowed = Self::default();
        for host in hosts {
            let (list, name) = match host.strip_prefix('*') {
                Some(suffix) => (&mut allowed.suffixes, suffix.strip_prefix('.')),
                None => (&mut allowed.hosts, Some(host.as_str())),
            };
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            let name = name.filter(|name| name.contains('.') && name.chars().all(plain));
            let Some(name) = name else {
                return Err(SetupError::Setting {
                    key: "web_push.allowed_hosts",
                    problem: format!("`{host}` is not a host in lower case, or `*.` and one"),
                });
            };
            list.push(match host.starts_with('*') {
                true => format!(".{name}"),
                false => name.to_owned(),
            });
        }
        for origin in origins {
            let url = http::base_url("web_push.allowed_origins", origin)?;
            allowed.origins.push(url.origin().ascii_serialization());
        }
        Ok(allowed)
    }

    /// Whether pushes wait while it is away: nobody can make up one of these.
    pub(super) fn is_exact(&self, origin: &str) -> bool {
        let host = origin.strip_prefix("https://").unwrap_or(origin);
        self.hosts.iter().any(|allowed| allowed == host)
            || self.origins.iter().any(|allowed| allowed == origin)
    }
}

/// Checks the address that a browser names, when it is registered and before each push: what is allowed may
/// have changed. The error is for whoever named it.
pub fn check_endpoint(
    allowed: &AllowedEndpoints,
    endpoint: &str,
) -> Result<Endpoint, &'static str> {
    if endpoint.len() > ENDPOINT_BYTES_MAX {
        return Err("an endpoint has at most 2,048 bytes");
    }
    if !endpoint.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("an endpoint is a URL in ASCII");
    }
    let url = Url::parse(endpoint).map_err(|_| "an endpoint is a URL")?;
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("an endpoint has neither a user nor a fragment");
    }
    let origin = url.origin().ascii_serialization();
    let host = url.host_str().unwrap_or_default();
    let below = |suffix: &String| {
        host.strip_suffix(suffix.as_str())
            .is_some_and(|labels| !labels.is_empty() && !labels.starts_with('.'))
    };
    let known =
        allowed.hosts.iter().any(|known| known == host) || allowed.suffixes.iter().any(below);
    let usual = url.scheme() == "https" && url.port().is_none();
    let named = allowed.origins.contains(&origin);
    if !(named || known && usual) {
        return Err("the endpoint is of no push service that is allowed here");
    }
    let shows_each = host.ends_with(SHOWS_EACH_PUSH);
    Ok(Endpoint {
        url,
        origin,
        shows_each,
    })
}

/// The origin of an endpoint, without looking at the rest of it.
pub(super) fn origin(endpoint: &str) -> &str {
    let after_scheme = endpoint.find("://").map_or(0, |at| at + 3);
    let path = endpoint[after_scheme..].find(['/', '?', '#', '\\']);
    path.map_or(endpoint, |at| &endpoint[..after_scheme + at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> AllowedEndpoints {
        let hosts: Vec<String> = HOSTS.iter().map(|&host| host.to_owned()).collect();
        AllowedEndpoints::new(&hosts, &["http://127.0.0.1:8123".to_owned()]).unwrap()
    }

    #[test]
    fn pushes_go_to_the_services_of_browsers_and_to_nothing_else() {
        let allowed = allowed();
        for good in [
            "https://fcm.googleapis.com/fcm/send/abc:def",
            "https://fcm.googleapis.com:443/wp/abc",
            "https://updates.push.services.mozilla.com/wpush/v2/gAAAA",
            "https://web.push.apple.com/QGv",
            "https://wns2-by3p.notify.windows.com/w/?token=BQYAAAC%3d",
            "http://127.0.0.1:8123/s/1",
        ] {
            assert!(check_endpoint(&allowed, good).is_ok(), "{good}");
        }
        for bad in [
            "http://fcm.googleapis.com/abc",
            "https://fcm.googleapis.com:8443/abc",
            "https://fcm.googleapis.com.evil.example/abc",
            "https://evil.example/https://fcm.googleapis.com/",
            "https://fcm.googleapis.com@evil.example/",
            "https://evil.example#@fcm.googleapis.com/",
            "https://evil.example\\.push.apple.com/",
            "https://user:pw@fcm.googleapis.com/abc",
            "https://fcm.googleapis.com/abc#fragment",
            "https://fcm.googleapis.com./abc",
            "https://notfcm.googleapis.com/abc",
            "https://evilpush.apple.com/abc",
            "https://.push.apple.com/abc",
            "https://push.apple.com/abc",
            "https://169.254.169.254/latest/meta-data",
            "https://[::1]/",
            "https://localhost/",
            "http://127.0.0.1/",
            "http://127.0.0.1:8124/s/1",
            "http://127.0.0.1:8123@evil.example/",
            "file:///etc/passwd",
            "//fcm.googleapis.com/abc",
            "https://fcm.googleapis.com/ab c",
            "https://fcm.googleapis.com/\nhost: evil",
            "",
        ] {
            assert!(check_endpoint(&allowed, bad).is_err(), "{bad}");
        }
        let long = format!("https://fcm.googleapis.com/{}", "a".repeat(2_048));
        assert!(check_endpoint(&allowed, &long).is_err());
    }

    #[test]
    fn pushes_wait_for_services_that_nobody_can_make_up() {
        let allowed = allowed();
        let waits = |endpoint| allowed.is_exact(origin(endpoint));
        assert!(waits("https://fcm.googleapis.com/fcm/send/abc"));
        assert!(waits("http://127.0.0.1:8123/s/1"));
        assert!(!waits("https://made-up.notify.windows.com/w/?token=abc"));
    }

    #[test]
    fn a_list_with_a_mistake_is_refused() {
        for bad in [
            "*",
            "*.",
            "*com",
            "Fcm.googleapis.com",
            "https://a.example",
            "a b.example",
            "com",
        ] {
            let error = AllowedEndpoints::new(&[bad.to_owned()], &[]);
            assert!(error.is_err(), "{bad}");
        }
    }
}
