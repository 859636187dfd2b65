//! Compiles `messenger/**/*.proto` without protoc, and keeps the descriptors for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

/// Every file that is compiled, below this folder.
const FILES: [&str; 20] = [
    "messenger/blob/v1/blob.proto",
    "messenger/blob/v1/blob_service.proto",
    "messenger/blob/v1/content_service.proto",
    "messenger/error/v1/error.proto",
    "messenger/groups/v1/directory_service.proto",
    "messenger/groups/v1/group.proto",
    "messenger/groups/v1/group_service.proto",
    "messenger/log/v1/log.proto",
    "messenger/messaging/v1/edge_service.proto",
    "messenger/messaging/v1/inbox_service.proto",
    "messenger/messaging/v1/messaging.proto",
    "messenger/messaging/v1/messaging_service.proto",
    "messenger/messaging/v1/session_service.proto",
    "messenger/notifier/v1/email_report_service.proto",
    "messenger/notifier/v1/notifier_service.proto",
    "messenger/presence/v1/presence_service.proto",
    "messenger/presence/v1/registry_service.proto",
    "messenger/profile/v1/account_service.proto",
    "messenger/profile/v1/profile.proto",
    "messenger/profile/v1/profile_service.proto",
];

/// The calls to which a client streams and that are answered once, as an array of their paths.
fn streamed_to(descriptors: &FileDescriptorSet) -> String {
    let mut paths = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            let streamed_to =
                |m: &&MethodDescriptorProto| m.client_streaming() && !m.server_streaming();
            for method in service.method.iter().filter(streamed_to) {
                paths.push(format!(
                    "/{}.{}/{}",
                    file.package(),
                    service.name(),
                    method.name()
                ));
            }
        }
    }
    format!("&{paths:?}")
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=messenger");

    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    fs::write(out.join("streamed_to.rs"), streamed_to(&descriptors))?;
    tonic_prost_build::configure()
        // Frames carry ids and texts that are passed on without being copied.
        .bytes(".messenger.messaging.v1.Broadcast.frame")
        .bytes(".messenger.messaging.v1.Answer.verdict")
        .bytes(".messenger.log.v1.FanoutRecord.frame")
        .bytes(".messenger.blob.v1.UploadRequest.data")
        .bytes(".messenger.blob.v1.DownloadResponse.data")
        .compile_fds(descriptors)?;
    Ok(())
}
