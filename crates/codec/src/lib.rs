//! Text and chats as numbers and back.
pub mod chat;
