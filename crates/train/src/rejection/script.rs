//! Which script most letters of a text are of: the language match that needs no model.

/// A family of scripts that languages are told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Latin,
    Greek,
    Cyrillic,
    Armenian,
    Hebrew,
    Arabic,
    /// Devanagari and its kin up to Sinhala.
    Indic(u32),
    Thai,
    Georgian,
    Hangul,
    /// Kana, and Han beside them.
    Japanese,
    Han,
    Other,
}

/// The script of most letters; `None` without letters. Han beside kana is Japanese.
pub(super) fn script(text: &str) -> Option<Script> {
    let mut counts: Vec<(Script, usize)> = Vec::new();
    for c in text.chars().filter(|c| c.is_alphabetic()) {
        let script = of(c);
        match counts.iter_mut().find(|(other, _)| *other == script) {
            Some((_, count)) => *count += 1,
            None => counts.push((script, 1)),
        }
    }
    // Of equals the one that came first.
    let most = counts.iter().rev().max_by_key(|(_, count)| *count)?.0;
    let kana = counts.iter().any(|(script, _)| *script == Script::Japanese);
    Some(if most == Script::Han && kana { Script::Japanese } else { most })
}

fn of(c: char) -> Script {
    match u32::from(c) {
        0x41..=0x24f | 0x1e00..=0x1eff => Script::Latin,
        0x370..=0x3ff | 0x1f00..=0x1fff => Script::Greek,
        0x400..=0x52f => Script::Cyrillic,
        0x530..=0x58f => Script::Armenian,
        0x590..=0x5ff => Script::Hebrew,
        0x600..=0x77f | 0x8a0..=0x8ff | 0xfb50..=0xfdff | 0xfe70..=0xfeff => Script::Arabic,
        block @ 0x900..=0xdff => Script::Indic(block >> 7),
        0xe00..=0xe7f => Script::Thai,
        0x10a0..=0x10ff => Script::Georgian,
        0x1100..=0x11ff | 0xac00..=0xd7af => Script::Hangul,
        0x3040..=0x30ff | 0x31f0..=0x31ff => Script::Japanese,
        0x3400..=0x4dbf | 0x4e00..=0x9fff | 0x2_0000..=0x3_ffff => Script::Han,
        _ => Script::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_letters_decide() {
        for (text, wanted) in [
            ("Grüße, мир", Some(Script::Latin)),
            ("नमस्ते ok", Some(Script::Indic(0x12))),
            ("สวัสดี", Some(Script::Thai)),
            ("東京大学です", Some(Script::Japanese)),
            ("北京", Some(Script::Han)),
            ("42 + 1 = ?", None),
        ] {
            assert_eq!(script(text), wanted, "{text}");
        }
    }
}
