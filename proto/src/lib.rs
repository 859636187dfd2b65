//! The public contract and the log's records, generated from `proto/messenger`.
//!
//! The only crate that services share about each other: `messaging` knows `profile` by
//! [`profile::v1`], never by its code.
#![allow(missing_docs, unreachable_pub, clippy::all)] // Generated; documented in the .proto files.

/// All descriptors, for server reflection and for tests that walk every method.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The paths of the calls to which a client streams and that are answered once: nobody can say how long
/// that takes.
pub const STREAMED_TO: &[&str] = include!(concat!(env!("OUT_DIR"), "/streamed_to.rs"));

pub mod blob {
    pub mod v1 {
        tonic::include_proto!("messenger.blob.v1");
    }
}

pub mod error {
    pub mod v1 {
        tonic::include_proto!("messenger.error.v1");
    }
}

pub mod groups {
    pub mod v1 {
        tonic::include_proto!("messenger.groups.v1");
    }
}

pub mod log {
    pub mod v1 {
        tonic::include_proto!("messenger.log.v1");
    }
}

pub mod messaging {
    pub mod v1 {
        tonic::include_proto!("messenger.messaging.v1");
    }
}

pub mod notifier {
    pub mod v1 {
        tonic::include_proto!("messenger.notifier.v1");
    }
}

pub mod presence {
    pub mod v1 {
        tonic::include_proto!("messenger.presence.v1");
    }
}

pub mod profile {
    pub mod v1 {
        tonic::include_proto!("messenger.profile.v1");
    }
}

/// The names of error reasons as `google.rpc.ErrorInfo` carries them.
impl error::v1::ErrorReason {
    /// The value's name without `ERROR_REASON_`.
    pub fn info_name(self) -> &'static str {
        self.as_str_name().trim_start_matches("ERROR_REASON_")
    }

    /// The reason with this [`Self::info_name`], if it is one of ours.
    pub fn from_info_name(name: &str) -> Option<Self> {
        Self::from_str_name(&format!("ERROR_REASON_{name}"))
    }
}
