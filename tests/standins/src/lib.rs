//! What stands in for Apple, Google and the push services of browsers in tests: real HTTP/2 on a socket of
//! this machine, that checks what the real ones check, shows what a device would show, and misbehaves when
//! it is told to. Each listens on a free port of 127.0.0.1 and ends when it is dropped.

pub mod apns;
pub mod chrome_push;
pub mod devices;
pub mod fcm;
pub mod trouble;
pub mod web_push;

mod jwt;
mod server;

pub use self::{
    apns::ApnsStandIn,
    chrome_push::ChromePushStandIn,
    devices::{Device, Devices, Notification, Totals},
    fcm::FcmStandIn,
    server::StandIn,
    trouble::{Delays, Scope, Trouble},
    web_push::WebPushStandIn,
};
