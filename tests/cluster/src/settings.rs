//! What each process of the cluster is told: where the others are, over which links.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use servers::{kafka::ExtraListener, s3};

use crate::{
    CLIENT, ClusterOptions, Link, Node, POSTGRES, Pushes, S3_NODE, Servers, Service,
    node::free_address,
};

/// The key that services sign their calls with.
pub(crate) const SERVICE_KEY: &str = "service.pem";
/// The key that profile signs tokens of users with.
pub(crate) const USER_KEY: &str = "users.pem";
/// The secret that blob signs URLs with.
pub(crate) const URL_SECRET: &str = "urls.secret";
/// What links of mails are signed with.
pub(crate) const MAIL_SECRET: &str = "mail.secret";

/// Finds a place for every process.
pub(crate) fn place_nodes(
    options: &ClusterOptions,
    folder: &Path,
) -> Result<BTreeMap<String, Node>> {
    let mut nodes = BTreeMap::new();
    for service in Service::ALL {
        let count = match service {
            Service::Messaging => options.messaging,
            Service::Profile => options.profile,
            Service::Presence => options.presence,
            Service::Groups => options.groups,
            Service::Blob => options.blob,
            Service::Notifier => options.notifier,
        };
        for at in 0..count {
            let name = format!("{service}-{at}");
            let environment = environment(options, folder, &name)?;
            let node = Node::new(service, name.clone(), free_address()?, folder, environment)?;
            nodes.insert(name, node);
        }
    }
    Ok(nodes)
}

fn environment(
    options: &ClusterOptions,
    folder: &Path,
    name: &str,
) -> Result<Vec<(String, String)>> {
    let Some(library) = &options.faketime else {
        return Ok(Vec::new());
    };
    write_clock(folder, name, 0)?;
    let clock = folder.join(format!("{name}.clock"));
    let pairs = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
        // How often, in seconds, the file is looked at.
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        // Only what a wrong clock of a machine does; the older name, and the newer one.
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    Ok(pairs.map(|(key, value)| (key.to_owned(), value)).into())
}

/// Tells a process that was started with libfaketime how far its clock is from the true time.
pub(crate) fn write_clock(folder: &Path, name: &str, offset_seconds: i64) -> Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    // Replaced in one step: it is read at any moment.
    let new = folder.join(format!("{name}.clock.{since}"));
    fs::write(&new, format!("{offset_seconds:+}\n"))?;
    fs::rename(new, folder.join(format!("{name}.clock"))).context("cannot set the clock")
}

/// The parts that a service calls, besides Kafka, PostgreSQL and S3.
const fn calls(service: Service) -> &'static [Service] {
    match service {
        Service::Messaging => &[
            Service::Profile,
            Service::Presence,
            Service::Groups,
            Service::Blob,
            Service::Notifier,
        ],
        Service::Blob => &[Service::Profile, Service::Messaging],
        Service::Groups => &[Service::Profile, Service::Presence],
        Service::Notifier => &[Service::Profile, Service::Messaging, Service::Groups],
        Service::Profile => &[],
        Service::Presence => &[Service::Profile, Service::Presence],
    }
}

const fn uses_kafka(service: Service) -> bool {
    !matches!(service, Service::Presence)
}

/// Opens all links; where they lead to is said when it is known.
pub(crate) async fn open_links(
    options: &ClusterOptions,
    nodes: &BTreeMap<String, Node>,
) -> Result<BTreeMap<String, Link>> {
    let mut names = Vec::new();
    if options.linked {
        for node in nodes.values() {
            let from = &node.name;
            names.push(format!("{from}>{POSTGRES}"));
            if uses_kafka(node.service) {
                names.extend((0..options.brokers).map(|at| format!("{from}>kafka-{at}")));
            }
            let called = nodes
                .values()
                .filter(|to| calls(node.service).contains(&to.service) && to.name != *from);
            names.extend(called.map(|to| format!("{from}>{}", to.name)));
            match node.service {
                Service::Messaging => {
                    names.push(format!("{CLIENT}>{from}"));
                    names.push(format!("messaging>{from}"));
                }
                Service::Blob => {
                    names.push(format!("{CLIENT}>{from}"));
                    names.push(format!("{from}>{S3_NODE}"));
                }
                _ => {}
            }
        }
    }
    let mut links = BTreeMap::new();
    for name in names {
        links.insert(name, Link::open().await?);
    }
    Ok(links)
}

/// The listeners of Kafka that lead each process through its own links.
pub(crate) fn listeners(
    options: &ClusterOptions,
    nodes: &BTreeMap<String, Node>,
    links: &BTreeMap<String, Link>,
) -> Result<Vec<ExtraListener>> {
    if !options.linked {
        return Ok(Vec::new());
    }
    let of = |node: &Node| {
        let advertised = (0..options.brokers).map(|at| {
            let link = links.get(&format!("{}>kafka-{at}", node.name));
            Ok(link.context("no link")?.address().to_string())
        });
        Ok(ExtraListener {
            name: listener_name(&node.name),
            advertised: advertised.collect::<Result<_>>()?,
        })
    };
    let readers = nodes.values().filter(|node| uses_kafka(node.service));
    readers.map(of).collect()
}

fn listener_name(node: &str) -> String {
    node.to_uppercase().replace('-', "_")
}

/// Where everything is, once it is known.
pub(crate) struct Places<'a> {
    options: &'a ClusterOptions,
    folder: &'a Path,
    nodes: &'a BTreeMap<String, Node>,
    links: &'a BTreeMap<String, Link>,
    servers: &'a Servers,
}

impl<'a> Places<'a> {
    pub(crate) const fn new(
        options: &'a ClusterOptions,
        folder: &'a Path,
        nodes: &'a BTreeMap<String, Node>,
        links: &'a BTreeMap<String, Link>,
        servers: &'a Servers,
    ) -> Self {
        Self {
            options,
            folder,
            nodes,
            links,
            servers,
        }
    }

    /// Says of each link where it leads to.
    pub(crate) fn lead_links(&self) -> Result<()> {
        let postgres = SocketAddr::from(([127, 0, 0, 1], self.servers.postgres.port()));
        for (name, link) in self.links {
            let (from, to) = name.split_once('>').context("a link has two ends")?;
            let target = match (to, crate::broker_number(to)) {
                (POSTGRES, _) => postgres,
                (S3_NODE, _) => self.servers.s3.address(),
                (_, Some(at)) => {
                    let address = self.servers.kafka.listener(at, &listener_name(from));
                    address.context("no listener")?
                }
                (to, None) => {
                    let node = self.nodes.get(to).context("no such node")?;
                    // Clients have no other way to it than HTTP.
                    let http = node.http_address.filter(|_| from == CLIENT);
                    http.unwrap_or(node.address)
                }
            };
            link.lead_to(target);
        }
        Ok(())
    }

    pub(crate) fn write_settings(&self) -> Result<()> {
        for node in self.nodes.values() {
            node.set_settings(&self.settings(node)?)?;
        }
        Ok(())
    }

    /// The address of `to` for `from`: that of the link, if there is one.
    fn way(&self, from: &str, to: &str, direct: impl FnOnce() -> String) -> String {
        let link = self.links.get(&format!("{from}>{to}"));
        link.map_or_else(direct, |link| link.address().to_string())
    }

    fn settings(&self, node: &Node) -> Result<String> {
        let name = &node.name;
        let mut toml = format!(
            "[server]\nlisten = '{}'\nservice_key_file = '{}'\n\n[postgres]\nurl = '{}'\n\n",
            node.address,
            self.folder.join(SERVICE_KEY).display(),
            self.database_url(name, node.service),
        );
        if uses_kafka(node.service) {
            write!(toml, "[kafka]\n{}\n", self.kafka_settings(name))?;
        }
        match node.service {
            Service::Messaging => self.messaging_settings(node, &mut toml)?,
            Service::Profile => {
                let key = self.folder.join(USER_KEY);
                if self.options.relaxed {
                    // Tables last: what follows a table belongs to it.
                    writeln!(toml, "[profile]\nregistrations_burst = 1000000")?;
                    write!(
                        toml,
                        "[profile.argon2]\nmemory_kib = 8\npasses = 1\nlanes = 1\n"
                    )?;
                }
                toml.insert_str(0, &format!("user_key_file = '{}'\n\n", key.display()));
            }
            Service::Presence => {
                toml.insert_str(
                    0,
                    &self.addresses("profile_addresses", name, Service::Profile),
                );
                write!(toml, "[presence]\nname = '{name}'\n\n")?;
                self.replicas(name, "presence.replicas", &mut toml)?;
            }
            Service::Groups => {
                toml.insert_str(
                    0,
                    &self.addresses("profile_addresses", name, Service::Profile),
                );
                if self.options.relaxed {
                    write!(
                        toml,
                        "[groups]\nchanges_per_second = 1000000\nchanges_burst = 1000000\n\
                         reads_per_second = 1000000\nreads_burst = 1000000\n\n"
                    )?;
                }
                self.replicas(name, "presence", &mut toml)?;
            }
            Service::Blob => self.blob_settings(node, &mut toml)?,
            Service::Notifier => self.notifier_settings(node, &mut toml)?,
        }
        Ok(toml)
    }

    fn notifier_settings(&self, node: &Node, toml: &mut String) -> Result<()> {
        for (key, of) in [
            ("groups_addresses", Service::Groups),
            ("messaging_addresses", Service::Messaging),
            ("profile_addresses", Service::Profile),
        ] {
            toml.insert_str(0, &self.addresses(key, &node.name, of));
        }
        if self.options.relaxed {
            write!(
                toml,
                "[notifier]\nsender_burst = 1000000\n\
                 calls_per_second = 1000000\ncalls_burst = 1000000\n\n"
            )?;
        }
        if let Some(Pushes {
            url,
            service_account_file,
            ..
        }) = &self.options.pushes
        {
            write!(
                toml,
                "[notifier.providers.fcm]\nurl = '{url}'\nservice_account_file = '{}'\n\n",
                service_account_file.display()
            )?;
        }
        if let Some(smtp) = self.options.smtp {
            let secret = self.folder.join(MAIL_SECRET);
            toml.insert_str(0, &format!("mail_secret_file = '{}'\n\n", secret.display()));
            write!(
                toml,
                "[notifier.mail]\nlisten = '127.0.0.1:0'\npublic_url = 'https://chat.example.org'\n\
                 mails_per_second = 1000\n[notifier.mail.smtp]\nhost = '{}'\nport = {}\ntls = 'none'\n\
                 from = 'Messenger <no-reply@example.org>'\n\n",
                smtp.ip(),
                smtp.port()
            )?;
        }
        Ok(())
    }

    fn blob_settings(&self, node: &Node, toml: &mut String) -> Result<()> {
        let name = &node.name;
        let http = node.http_address.context("blob without HTTP")?;
        let secret = self.folder.join(URL_SECRET);
        let mut first = format!("url_secret_file = '{}'\n\n", secret.display());
        for (key, of) in [
            ("profile_addresses", Service::Profile),
            ("messaging_addresses", Service::Messaging),
        ] {
            first.push_str(&self.addresses(key, name, of));
        }
        toml.insert_str(0, &first);
        let store = self.servers.s3.address().to_string();
        let store = self.way(name, S3_NODE, || store);
        // No balancer stands before the replicas: each tells its own address.
        let public = self.way(CLIENT, name, || http.to_string());
        write!(
            toml,
            "[http]\nlisten = '{http}'\n\n\
             [objects.s3]\nbucket = '{}'\nendpoint = 'http://{store}'\nallow_http = true\n\
             access_key_id = '{}'\nsecret_access_key = '{}'\n\n\
             [blob]\npublic_url = 'http://{public}'\n",
            s3::BUCKET,
            s3::ACCESS_KEY_ID,
            s3::SECRET_ACCESS_KEY,
        )?;
        if self.options.relaxed {
            write!(
                toml,
                "uploads_per_second = 1000000\nuploads_burst = 1000000\n\
                 urls_per_second = 1000000\nurls_burst = 1000000\n"
            )?;
        }
        Ok(())
    }

    fn messaging_settings(&self, node: &Node, toml: &mut String) -> Result<()> {
        let name = &node.name;
        let edge = self.way("messaging", name, || node.address.to_string());
        for (key, of) in [
            ("blob_addresses", Service::Blob),
            ("notifier_addresses", Service::Notifier),
            ("groups_addresses", Service::Groups),
            ("profile_addresses", Service::Profile),
        ] {
            toml.insert_str(0, &self.addresses(key, name, of));
        }
        write!(toml, "[messaging]\nadvertised_edge = '{edge}'\n")?;
        if self.options.relaxed {
            write!(
                toml,
                "session_frames_per_second = 1000000\nsession_burst = 1000000\n\
                 calls_per_second = 1000000\ncalls_burst = 1000000\n"
            )?;
        }
        if let Some(heartbeat) = self.options.heartbeat {
            writeln!(toml, "heartbeat_interval_ms = {}", heartbeat.as_millis())?;
        }
        if let Some(pushes) = &self.options.pushes {
            writeln!(toml, "offline_after_ms = {}", pushes.after.as_millis())?;
        }
        writeln!(toml)?;
        self.replicas(name, "presence", toml)
    }

    fn addresses(&self, key: &str, from: &str, of: Service) -> String {
        let addresses = self.of(of).map(|node| {
            let address = self.way(from, &node.name, || node.address.to_string());
            format!("'{address}'")
        });
        let addresses = addresses.collect::<Vec<_>>().join(", ");
        format!("{key} = [{addresses}]\n\n")
    }

    fn replicas(&self, from: &str, key: &str, toml: &mut String) -> Result<()> {
        for replica in self.of(Service::Presence) {
            let address = self.way(from, &replica.name, || replica.address.to_string());
            write!(
                toml,
                "[[{key}]]\nname = '{}'\nurl = 'http://{address}'\n\n",
                replica.name
            )?;
        }
        Ok(())
    }

    fn of(&self, service: Service) -> impl Iterator<Item = &Node> {
        self.nodes
            .values()
            .filter(move |node| node.service == service)
    }

    fn database_url(&self, from: &str, service: Service) -> String {
        let direct = self.servers.postgres.url(service.name());
        match self.links.get(&format!("{from}>{POSTGRES}")) {
            Some(link) => direct.replace(
                &format!(":{}/", self.servers.postgres.port()),
                &format!(":{}/", link.address().port()),
            ),
            None => direct,
        }
    }

    fn kafka_settings(&self, from: &str) -> String {
        let links = (0..self.options.brokers)
            .filter_map(|at| self.links.get(&format!("{from}>kafka-{at}")))
            .map(|link| link.address().to_string());
        let linked: Vec<String> = links.collect();
        let servers = match linked.is_empty() {
            true => self.servers.kafka.bootstrap_servers(),
            false => linked.join(","),
        };
        let copies = self.options.brokers;
        // A lone broker confirms alone; of three, one may be down.
        let (in_sync, dev) = if copies < 3 { (1, true) } else { (2, false) };
        let mut toml = format!(
            "bootstrap_servers = '{servers}'\nclient_id = '{from}'\n\
             replication_factor = {copies}\nmin_insync_replicas = {in_sync}\ndev = {dev}\n{}\n\n",
            self.options.kafka.join("\n")
        );
        for topic in ["messages", "fanout", "inbox", "offline", "references"] {
            let partitions = self.options.partitions;
            toml.push_str(&format!(
                "[kafka.topics.{topic}]\npartitions = {partitions}\n\n"
            ));
        }
        toml
    }
}
