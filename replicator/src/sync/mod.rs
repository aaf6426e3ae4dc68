//! The sync core: what to announce, what to believe, what to apply.
//!
//! Pure, as quinn-proto is: no socket, file system, clock, thread or random
//! source. The node feeds it with `handle_*` and carries out what
//! [`Core::poll_effect`] asks for, so that a thousand nodes run in one test
//! in virtual time. Everything it knows lies in a [`store::Store`].

mod announce;
mod applied;
mod behind;
mod brake;
mod changes;
mod contact;
mod copying;
mod core;
mod cut_off;
mod doubt;
pub mod effect;
mod history;
mod local;
mod locate;
mod look;
mod lost;
mod mapped;
mod meeting;
mod members;
pub mod message;
mod moved;
mod news;
mod oneway;
mod outline;
mod patches;
mod plan;
mod probe;
mod progress;
mod read;
pub mod record;
pub mod register;
mod remote;
mod restored;
mod retire;
pub mod roster;
mod scan;
pub mod scrub;
mod settle;
mod step;
pub mod store;
mod told;
mod touched;
mod tree;
mod unread;
mod verify;
pub mod version;

pub use self::behind::Outage;
pub use self::core::{Core, Options};
pub use self::locate::Located;
pub use self::members::Introduction;
pub use self::progress::Progress;
pub use self::verify::Verified;

#[cfg(test)]
mod sim;
