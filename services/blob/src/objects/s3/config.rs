//! Where the bucket is, and what that means for the client.

use std::{fmt, time::Duration};

use object_store::{
    BackoffConfig, ClientOptions, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
};
use serde::Deserialize;

use super::OpenError;

/// How long making a connection may take: a healthy network needs milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Below this, a request with a part of 5 MiB could never end.
const REQUEST_TIMEOUT_MS_MIN: u64 = 500;
/// Above this, whoever asked has given up.
const REQUEST_TIMEOUT_MS_MAX: u64 = 60_000;
/// Retries beyond this only keep the caller waiting.
const RETRIES_MAX: usize = 10;
/// How soon a failed request is tried again, at first and at last.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Where the bucket is. Durations are in milliseconds.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// Its name. It must be there.
    pub bucket: String,
    /// The URL at which this process reaches the store; of the region at AWS, if it is not said.
    pub endpoint: Option<String>,
    /// The URL at which clients reach the store. Without it no URLs are signed, and all downloads go
    /// through this service.
    pub public_endpoint: Option<String>,
    /// Of the bucket; stores other than AWS want `us-east-1` mostly.
    #[serde(default = "region")]
    pub region: String,
    /// Who we are.
    pub access_key_id: String,
    /// The key's secret: `Debug` does not show it. Best from the environment.
    pub secret_access_key: String,
    /// Put before all names, without `/` at its ends: several services in one bucket.
    #[serde(default)]
    pub prefix: String,
    /// The bucket's name is part of the host and not of the path; then endpoints must contain it.
    #[serde(default)]
    pub virtual_hosted: bool,
    /// Allows endpoints without TLS.
    #[serde(default)]
    pub allow_http: bool,
    /// How long a request may take. One that reads an object: how long nothing may come.
    #[serde(default = "request_timeout_ms")]
    pub request_timeout_ms: u64,
    /// How often a request that failed is tried again.
    #[serde(default = "retries")]
    pub retries: usize,
    /// Uploads that become objects at the same time; others wait. Each takes some 6 MiB of memory.
    #[serde(default = "promotes_max")]
    pub promotes_max: usize,
}

fn region() -> String {
    "us-east-1".to_owned()
}

const fn request_timeout_ms() -> u64 {
    5_000
}

const fn retries() -> usize {
    2
}

const fn promotes_max() -> usize {
    8
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("bucket", &self.bucket)
            .field("endpoint", &self.endpoint)
            .field("public_endpoint", &self.public_endpoint)
            .field("region", &self.region)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl S3Config {
    /// A bucket at AWS, the usual limits.
    pub fn new(bucket: &str, access_key_id: &str, secret_access_key: &str) -> Self {
        Self {
            bucket: bucket.to_owned(),
            endpoint: None,
            public_endpoint: None,
            region: region(),
            access_key_id: access_key_id.to_owned(),
            secret_access_key: secret_access_key.to_owned(),
            prefix: String::new(),
            virtual_hosted: false,
            allow_http: false,
            request_timeout_ms: request_timeout_ms(),
            retries: retries(),
            promotes_max: promotes_max(),
        }
    }

    /// Refuses what could never work, without asking the store.
    pub fn check(&self) -> Result<(), OpenError> {
        let wrong = |key: &str, problem: &str| {
            let (key, problem) = (key.to_owned(), problem.to_owned());
            Err(OpenError::Config { key, problem })
        };
        for (key, text) in [
            ("bucket", &self.bucket),
            ("region", &self.region),
            ("access_key_id", &self.access_key_id),
            ("secret_access_key", &self.secret_access_key),
        ] {
            if text.trim().is_empty() {
                return wrong(key, "is empty");
            }
        }
        for (key, url) in [
            ("endpoint", &self.endpoint),
            ("public_endpoint", &self.public_endpoint),
        ] {
            match url.as_deref() {
                Some(url) if url.starts_with("http://") && !self.allow_http => {
                    return wrong(key, "is without TLS, which allow_http does not allow");
                }
                Some(url) if !url.starts_with("https://") && !url.starts_with("http://") => {
                    return wrong(key, "must begin with https:// or http://");
                }
                _ => {}
            }
        }
        if !(REQUEST_TIMEOUT_MS_MIN..=REQUEST_TIMEOUT_MS_MAX).contains(&self.request_timeout_ms) {
            return wrong("request_timeout_ms", "must be from 500 to 60000");
        }
        if self.retries > RETRIES_MAX {
            return wrong("retries", "is above 10");
        }
        if self.promotes_max == 0 {
            return wrong("promotes_max", "is 0");
        }
        Ok(())
    }

    fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// For requests whose whole time is bounded.
    pub(super) fn client(&self) -> Result<AmazonS3, OpenError> {
        let options = ClientOptions::new().with_timeout(self.request_timeout());
        self.build(options, self.endpoint.as_deref())
    }

    /// For reading objects: whoever downloads may be slow, the store may not.
    pub(super) fn reader(&self) -> Result<AmazonS3, OpenError> {
        let options = ClientOptions::new()
            .with_timeout_disabled()
            .with_read_timeout(self.request_timeout());
        self.build(options, self.endpoint.as_deref())
    }

    /// For signing, if clients reach the store. The host is part of what is signed.
    pub(super) fn signer(&self) -> Result<Option<AmazonS3>, OpenError> {
        let Some(endpoint) = &self.public_endpoint else {
            return Ok(None);
        };
        self.build(ClientOptions::new(), Some(endpoint)).map(Some)
    }

    fn build(&self, options: ClientOptions, endpoint: Option<&str>) -> Result<AmazonS3, OpenError> {
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: BACKOFF_MIN,
                max_backoff: BACKOFF_MAX,
                base: 2.0,
            },
            max_retries: self.retries,
            retry_timeout: self.request_timeout().saturating_mul(3),
        };
        let options = options
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_allow_http(self.allow_http);
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_region(&self.region)
            .with_access_key_id(&self.access_key_id)
            .with_secret_access_key(&self.secret_access_key)
            .with_virtual_hosted_style_request(self.virtual_hosted)
            // Not every store has requests that remove many, and we remove three at a time.
            .with_disable_bulk_delete(true)
            .with_client_options(options)
            .with_retry(retry);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        builder.build().map_err(|error| OpenError::Config {
            key: "endpoint".to_owned(),
            problem: error.to_string(),
        })
    }
}
