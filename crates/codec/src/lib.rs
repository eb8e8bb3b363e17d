//! Text and chats as numbers and back.
