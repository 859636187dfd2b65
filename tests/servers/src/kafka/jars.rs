//! Kafka's programs: fetched once by Maven, kept below cargo's target folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::process::{Process, Signal, target_folder};

/// The version of Kafka. 4.4.0 names a dependency that is not published.
const KAFKA: &str = "4.3.1";
/// Changes when what is kept changes.
const KEPT: &str = "1";

/// Without a binding for slf4j Kafka runs, but says nothing, not even why it ends.
const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>KAFKA</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"#;

/// The archive of loaded classes: a start takes half as long with it.
const ARCHIVE: &str = "kafka.jsa";

/// Where Kafka's programs are.
#[derive(Debug, Clone)]
pub(super) struct Jars {
    folder: PathBuf,
    class_path: String,
}

impl Jars {
    /// Finds them, or fetches them. Several processes may do that at once: each fetches into a
    /// folder of its own, and the first that is done gives it its name.
    pub(super) fn get() -> Result<Self> {
        let cache = target_folder().join("servers");
        let folder = cache.join(format!("kafka-{KAFKA}-{KEPT}"));
        if !folder.is_dir() {
            fs::create_dir_all(&cache)?;
            let fetched = tempfile::Builder::new()
                .prefix("fetching-")
                .tempdir_in(&cache)?;
            fetch(fetched.path())?;
            let jars = Self::at(fetched.path().to_owned())?;
            if let Err(error) = jars.make_archive() {
                eprintln!("kafka will start slowly, without an archive of classes: {error:#}");
            }
            // It fails if another process was faster, whose folder is as good.
            if fs::rename(fetched.path(), &folder).is_ok() {
                let _ = fetched.keep();
            }
        }
        Self::at(folder)
    }

    /// The class path is relative to the folder and sorted: the archive is only good for the same
    /// one.
    fn at(folder: PathBuf) -> Result<Self> {
        let mut names = Vec::new();
        for jar in fs::read_dir(folder.join("lib"))? {
            names.push(format!("lib/{}", jar?.file_name().to_string_lossy()));
        }
        ensure!(!names.is_empty(), "no jars in {}", folder.display());
        names.sort();
        let class_path = names.join(":");
        Ok(Self { folder, class_path })
    }

    /// Where java is to run.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The arguments of java that run a class.
    pub(super) fn arguments(&self, options: &[&str], class: &str, more: &[&str]) -> Vec<String> {
        let archive = format!("-XX:SharedArchiveFile={ARCHIVE}");
        let mut arguments: Vec<&str> = Vec::new();
        if self.folder.join(ARCHIVE).is_file() {
            arguments.push(&archive);
        }
        arguments.push("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn");
        arguments.extend(options);
        arguments.extend(["-cp", &self.class_path, class]);
        arguments.extend(more);
        arguments.into_iter().map(str::to_owned).collect()
    }

    /// Runs a broker once and has java write down, at its end, which classes it has loaded.
    fn make_archive(&self) -> Result<()> {
        let trial = tempfile::tempdir()?;
        let layout = super::Layout::new(trial.path(), 1, &[])?;
        let properties = super::Options::default().properties(&layout, 0)?;
        let node = layout.write(0, &properties)?;
        drop(layout);
        super::format(self, &node, &super::cluster_id())?;
        let dump = format!("-XX:ArchiveClassesAtExit={ARCHIVE}");
        let options = [dump.as_str(), "-Xmx256m", "-XX:+UseSerialGC"];
        let file = node.properties.display().to_string();
        let arguments = self.arguments(&options, "kafka.Kafka", &[&file]);
        let temporary = Some(trial.path());
        let mut process = Process::start("java", &arguments, &self.folder, &node.log, temporary)?;
        super::wait_for(&mut process, &node, 1)?;
        process.signal(Signal::TERM)?;
        process.wait()?;
        ensure!(self.folder.join(ARCHIVE).is_file(), "java wrote none");
        Ok(())
    }
}

fn fetch(folder: &Path) -> Result<()> {
    fs::write(folder.join("pom.xml"), POM.replace("KAFKA", KAFKA))?;
    let fetched = Command::new("mvn")
        .args(["-B", "-q", "dependency:copy-dependencies"])
        .arg("-DoutputDirectory=lib")
        .current_dir(folder)
        .output()
        .context("cannot run mvn (Debian: maven), which fetches Kafka")?;
    let said = String::from_utf8_lossy(&fetched.stdout);
    ensure!(fetched.status.success(), "mvn cannot fetch Kafka: {said}");
    Ok(())
}
