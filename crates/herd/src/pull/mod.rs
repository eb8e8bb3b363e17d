//! What goes online: bringing models into the store, and nothing else.

pub mod download;
pub mod hub;
pub mod registry;
