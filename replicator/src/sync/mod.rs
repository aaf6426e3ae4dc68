//! The sync core: what to announce, what to believe, what to apply.

pub mod record;
pub mod register;
pub mod store;
pub mod version;
