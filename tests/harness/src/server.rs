//! A server in the process of the test.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use profile::config::Argon2Config;
use standalone::{Config, Server};
use tempfile::TempDir;

use crate::{Device, register};

/// How long a server may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Frames and calls a second: tests that are not about these limits do not meet them.
const RATE: NonZeroU32 = NonZeroU32::new(1_000_000).unwrap();

type Configure = Arc<dyn Fn(&mut Config) + Send + Sync>;

/// A running server with data of its own, which go when it is dropped.
pub struct TestServer {
    server: Option<Server>,
    address: SocketAddr,
    data: TempDir,
    configure: Configure,
}

/// How a [`TestServer`] is to be.
pub struct TestServerBuilder(Vec<Configure>);

impl TestServerBuilder {
    /// Changes the configuration, at each start.
    #[must_use]
    pub fn config(mut self, change: impl Fn(&mut Config) + Send + Sync + 'static) -> Self {
        self.0.push(Arc::new(change));
        self
    }

    /// Starts it on a free port.
    pub async fn start(self) -> TestServer {
        let changes = self.0;
        let configure: Configure = Arc::new(move |config| {
            for change in &changes {
                change(config);
            }
        });
        let data = tempfile::tempdir().expect("a folder for the data");
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = started(open(data.path(), listen, &configure).await);
        TestServer {
            address: server.address(),
            server: Some(server),
            data,
            configure,
        }
    }
}

impl TestServer {
    /// A server without rate limits, with passwords that cost nothing, which stops soon; and the
    /// defaults otherwise.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// The same, to be changed.
    pub fn builder() -> TestServerBuilder {
        TestServerBuilder(Vec::new()).config(|config| {
            config.profile.argon2 = Argon2Config::CHEAPEST;
            config.messaging.drain = Duration::from_millis(200);
            config.messaging.session_frames_per_second = RATE;
            config.messaging.session_burst = RATE;
            config.messaging.calls_per_second = RATE;
            config.messaging.calls_burst = RATE;
        })
    }

    /// For clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where blobs are uploaded and downloaded by HTTP; another one after each start.
    pub fn http_address(&self) -> SocketAddr {
        let server = self.server.as_ref().expect("it runs");
        server.http_address()
    }

    /// The folder that it keeps everything in.
    pub fn data(&self) -> PathBuf {
        self.data.path().join("data")
    }

    /// A new user with one device.
    pub async fn user(&self, name: &str) -> Device {
        register(&self.url(), name).await
    }

    /// Stops it; the data stay.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(STOP_DEADLINE).await;
        }
    }

    /// Stops it if it runs, and starts it on the same data and the same port.
    pub async fn restart(&mut self) {
        started(self.try_restart().await);
    }

    /// The same; why it does not start, if it does not.
    pub async fn try_restart(&mut self) -> Result<(), String> {
        self.stop().await;
        self.server = Some(open(self.data.path(), self.address, &self.configure).await?);
        Ok(())
    }
}

async fn open(data: &Path, listen: SocketAddr, configure: &Configure) -> Result<Server, String> {
    let mut config = Config::new(data.join("data"));
    config.listen = listen;
    config.listen_http = SocketAddr::from(([127, 0, 0, 1], 0));
    configure(&mut config);
    let server = standalone::start(config).await;
    server.map_err(|error| format!("{error:#}"))
}

fn started<T>(server: Result<T, String>) -> T {
    match server {
        Ok(server) => server,
        Err(error) => panic!("the server does not start: {error}"),
    }
}
