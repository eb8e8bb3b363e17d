//! What has been said so far, and its file.

use std::fs;
use std::path::Path;

use herd_codec::chat::{Dialogue, Message, Role};

use crate::error::Error;

/// A conversation: an optional system message, then user and assistant in turn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    dialogue: Dialogue,
}

/// A conversation's file may be this long: far above any context.
const FILE_BYTES_MAX: u64 = 64 << 20;

impl Session {
    /// A conversation that nothing has been said in.
    pub fn new(system: Option<&str>) -> Session {
        let messages = system.map(|text| Message::new(Role::System, text)).into_iter().collect();
        Session { dialogue: Dialogue { messages, ..Dialogue::default() } }
    }

    /// What the model is to answer.
    pub fn dialogue(&self) -> &Dialogue {
        &self.dialogue
    }

    /// The system message.
    pub fn system(&self) -> Option<String> {
        self.dialogue.messages.first().filter(|m| m.role == Role::System).map(Message::text)
    }

    /// The user speaks.
    pub fn ask(&mut self, text: &str) {
        self.dialogue.messages.push(Message::new(Role::User, text));
    }

    /// The model has answered.
    pub fn answer(&mut self, message: Message) {
        self.dialogue.messages.push(message);
    }

    /// Takes back the last message if nobody answered it.
    pub fn take_back_question(&mut self) {
        if self.dialogue.messages.last().is_some_and(|m| m.role == Role::User) {
            self.dialogue.messages.pop();
        }
    }

    /// Takes back what came after the last words of the user; whether there are such.
    pub fn take_back_answer(&mut self) -> bool {
        let asked = self.dialogue.messages.iter().rposition(|m| m.role == Role::User);
        if let Some(at) = asked {
            self.dialogue.messages.truncate(at + 1);
        }
        asked.is_some()
    }

    /// Forgets all but the system message.
    pub fn clear(&mut self) {
        self.dialogue.messages.retain(|m| m.role == Role::System);
        self.dialogue.messages.truncate(1);
    }

    /// Writes the conversation as JSON, in the shape of OpenAI's API.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(&self.dialogue).expect("messages serialise");
        fs::write(path, text + "\n").map_err(Error::io("write", path))
    }

    /// Reads a conversation that [`Session::save`] or another tool wrote.
    pub fn load(path: &Path) -> Result<Session, Error> {
        let damaged = |what: String| Error::Json { path: path.to_owned(), what };
        let length = fs::metadata(path).map_err(Error::io("read", path))?.len();
        if length > FILE_BYTES_MAX {
            return Err(damaged(format!("{length} bytes long, at most {FILE_BYTES_MAX} are read")));
        }
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let dialogue: Dialogue =
            serde_json::from_str(&text).map_err(|e| damaged(format!("no conversation ({e})")))?;
        Ok(Session { dialogue })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Session {
        let mut session = Session::new(Some("be brief"));
        session.ask("one?");
        session.answer(Message::new(Role::Assistant, "two"));
        session.ask("three?");
        session.answer(Message::new(Role::Assistant, "four"));
        session
    }

    #[test]
    fn a_conversation_comes_back_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        some().save(&path).unwrap();
        assert_eq!(Session::load(&path).unwrap(), some());
        fs::write(&path, "{\"messages\": 1}").unwrap();
        assert!(Session::load(&path).unwrap_err().line().contains("no conversation"));
    }

    #[test]
    fn answers_and_questions_are_taken_back() {
        let mut session = some();
        assert!(session.take_back_answer());
        assert_eq!(session.dialogue().messages.len(), 4);
        session.take_back_question();
        assert_eq!(session.dialogue().messages.len(), 3);
        session.clear();
        assert_eq!(session, Session::new(Some("be brief")));
        assert_eq!(session.system().as_deref(), Some("be brief"));
        assert!(!session.take_back_answer());
    }
}
