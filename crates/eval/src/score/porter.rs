//! Stems of English words: Porter's algorithm (Program 14, 1980) with the additions of NLTK's `PorterStemmer`, which
//! ROUGE counts by.
//!
//! Snowball's English stemmer, which crates have, is another one (Porter 2) and cuts other stems.

/// Forms that no rule leads to their stems.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Ends that are replaced where something with a measure stands before them; the first that fits
/// decides.
const SECOND: [(&str, &str); 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

const THIRD: [(&str, &str); 7] = [
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

/// Ends that go where a measure of two or more stands before them.
const FOURTH: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou",
    "ism", "ate", "iti", "ous", "ive", "ize",
];

/// The stem of a word of small letters and digits; words of one or two are their own.
///
/// ```text
/// relational -> relat, happy -> happi, enjoy -> enjoy, flies -> fli, dies -> die
/// ```
pub fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(own, _)| *own == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 {
        return word.to_owned();
    }
    let word = y_to_i(past(plural(word.to_owned())));
    let word = replaced(second(word), &THIRD);
    last_letters(fourth(word))
}

/// Of each letter, whether it is a consonant: y is one behind a vowel, and at the front.
fn consonants(word: &str) -> Vec<bool> {
    let mut all: Vec<bool> = Vec::with_capacity(word.len());
    for c in word.bytes() {
        let before = all.last().copied();
        all.push(match c {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => before.is_none_or(|consonant| !consonant),
            _ => true,
        });
    }
    all
}

/// m of [C](VC){m}[V]: how often a consonant follows a vowel.
fn measure(word: &str) -> usize {
    consonants(word).windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

fn has_vowel(word: &str) -> bool {
    consonants(word).contains(&false)
}

fn ends_in_consonant(word: &str) -> bool {
    consonants(word).last() == Some(&true)
}

fn ends_in_double_consonant(word: &str) -> bool {
    let bytes = word.as_bytes();
    matches!(bytes, [.., a, b] if a == b) && ends_in_consonant(word)
}

/// Consonant, vowel, consonant but w, x and y; of two letters vowel and consonant.
fn ends_short(word: &str) -> bool {
    match consonants(word)[..] {
        [false, true] => true,
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        _ => false,
    }
}

/// Step 1a: plurals.
fn plural(word: String) -> String {
    let shorter = |by: usize| word[..word.len() - by].to_owned();
    match word.as_str() {
        w if w.ends_with("ies") => shorter(if w.len() == 4 { 1 } else { 2 }),
        w if w.ends_with("sses") => shorter(2),
        w if w.ends_with("ss") || !w.ends_with('s') => word,
        _ => shorter(1),
    }
}

/// Step 1b: -ed and -ing.
fn past(word: String) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 { format!("{stem}ee") } else { word };
    }
    let cut = ["ed", "ing"].iter().find_map(|end| word.strip_suffix(end).filter(|s| has_vowel(s)));
    let Some(stem) = cut else { return word };
    if ["at", "bl", "iz"].iter().any(|end| stem.ends_with(end)) {
        return format!("{stem}e");
    }
    if ends_in_double_consonant(stem) {
        let kept = stem.ends_with(['l', 's', 'z']);
        return stem[..stem.len() - usize::from(!kept)].to_owned();
    }
    let e = if measure(stem) == 1 && ends_short(stem) { "e" } else { "" };
    format!("{stem}{e}")
}

/// Step 1c: y behind a consonant, where that is not all.
fn y_to_i(word: String) -> String {
    match word.strip_suffix('y') {
        Some(stem) if stem.len() > 1 && ends_in_consonant(stem) => format!("{stem}i"),
        _ => word,
    }
}

fn second(word: String) -> String {
    // -alli goes first, and what is left goes through the step again.
    if let Some(stem) = word.strip_suffix("alli").filter(|stem| measure(stem) > 0) {
        return second(format!("{stem}al"));
    }
    // The l of -logi counts with what stands before it.
    if let Some(stem) = word.strip_suffix("ogi").filter(|stem| stem.ends_with('l')) {
        return if measure(stem) > 0 { format!("{stem}og") } else { word };
    }
    replaced(word, &SECOND)
}

/// A word with its end replaced by the first rule that fits, where a measure stands before it.
fn replaced(word: String, rules: &[(&str, &str)]) -> String {
    let fits =
        |(end, by): &(&str, &str)| word.strip_suffix(end).map(|stem| (stem, (*by).to_owned()));
    match rules.iter().find_map(fits) {
        Some((stem, by)) if measure(stem) > 0 => format!("{stem}{by}"),
        _ => word,
    }
}

fn fourth(word: String) -> String {
    let fits = |end: &&str| word.strip_suffix(*end).map(|stem| (stem, *end == "ion"));
    match FOURTH.iter().find_map(fits) {
        Some((stem, ion)) if measure(stem) > 1 && (!ion || stem.ends_with(['s', 't'])) => {
            stem.to_owned()
        }
        _ => word,
    }
}

/// Step 5: a last e, and one of two l.
fn last_letters(word: String) -> String {
    let word = match word.strip_suffix('e') {
        Some(stem) if measure(stem) > 1 || (measure(stem) == 1 && !ends_short(stem)) => {
            stem.to_owned()
        }
        _ => word,
    };
    match word.strip_suffix('l') {
        Some(stem) if stem.ends_with('l') && measure(stem) > 1 => stem.to_owned(),
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_the_stems_of_the_paper_and_of_nltk() {
        for (word, wanted) in [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("agreed", "agre"),
            ("motoring", "motor"),
            ("hopping", "hop"),
            ("falling", "fall"),
            ("filing", "file"),
            ("relational", "relat"),
            ("hopefulness", "hope"),
            ("adoption", "adopt"),
            ("controlling", "control"),
            ("dies", "die"),
            ("enjoy", "enjoy"),
            ("spy", "spi"),
            ("skies", "sky"),
            ("geology", "geolog"),
            ("radically", "radic"),
            ("by", "by"),
        ] {
            assert_eq!(stem(word), wanted, "{word}");
        }
    }
}
