//! Where prompts stand in a taxonomy.

/// The names that skills of prompts may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taxonomy {
    /// Any name.
    Any,
    /// What Llama 3.1 was judged on (arXiv 2407.21783, section 5.3): six skills of one turn, three of several.
    Capabilities,
    /// The twelve use cases of Llama 3's launch, as Meta's account of its evaluation lists them.
    UseCases,
}

const CAPABILITIES: [&str; 9] = [
    "english",
    "reasoning",
    "coding",
    "hindi",
    "spanish",
    "portuguese",
    "multi-turn-english",
    "multi-turn-reasoning",
    "multi-turn-coding",
];

const USE_CASES: [&str; 12] = [
    "coding",
    "mathematical-reasoning",
    "asking-for-advice",
    "brainstorming",
    "classification",
    "closed-question-answering",
    "creative-writing",
    "extraction",
    "inhabiting-a-persona",
    "open-question-answering",
    "rewriting",
    "summarisation",
];

impl Taxonomy {
    /// All of them, by the name of the flag.
    pub const ALL: [(&str, Taxonomy); 3] = [
        ("any", Taxonomy::Any),
        ("capabilities", Taxonomy::Capabilities),
        ("use-cases", Taxonomy::UseCases),
    ];

    /// Its names; empty where any will do.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Taxonomy::Any => &[],
            Taxonomy::Capabilities => &CAPABILITIES,
            Taxonomy::UseCases => &USE_CASES,
        }
    }

    /// A skill as it is kept: trimmed, and of a closed taxonomy in its own spelling, whatever stands between the words and
    /// whether letters are capital. `None` if it is no name of the taxonomy, or none at all.
    ///
    /// ```
    /// use herd_eval::arena::Taxonomy;
    /// assert_eq!(Taxonomy::UseCases.name("Creative Writing").as_deref(), Some("creative-writing"));
    /// assert_eq!(Taxonomy::UseCases.name("poetry"), None);
    /// ```
    pub fn name(self, text: &str) -> Option<String> {
        let text = text.trim();
        if self == Taxonomy::Any {
            return (!text.is_empty()).then(|| text.to_owned());
        }
        let plain = |text: &str| -> String {
            text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
        };
        let known = self.names().iter().find(|name| plain(name) == plain(text));
        known.map(|name| (*name).to_owned())
    }
}
