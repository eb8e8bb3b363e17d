//! Which language a text is in, as langdetect 1.0.9 says: IFEval's official code asks it.
//!
//! ```text
//! p_l <- p_l (alpha / 10000 + f(g | l))        g drawn from the text's runs of one to three letters
//! ```
//!
//! Seven trials from equal p, alpha = 0.5 + 0.05 z, each until one p is above 0.99999; the means decide.
//! The draws are Python's from seed 0; the official code leaves the seed to chance, so that texts
//! between two languages change sides there from run to run.

use std::collections::HashMap;
use std::sync::LazyLock;

use fancy_regex::Regex;
use serde::Deserialize;

use super::text::pattern;

const TRIALS: usize = 7;
const STEPS: usize = 1000;
const SURE: f64 = 0.999_99;
const LIKELY: f64 = 0.1;
/// Characters that are looked at.
const LONGEST: usize = 10_000;

/// `data/languages.json.zst`; scripts/make-eval-tables.py writes it.
#[derive(Deserialize)]
struct Tables {
    profiles: Vec<Profile>,
    latin1_excluded: String,
    kanji: Vec<String>,
    vi_letters: String,
    vi_marks: String,
    vi_normal: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    name: String,
    freq: HashMap<String, f64>,
    n_words: [f64; 3],
}

struct Languages {
    names: Vec<String>,
    /// Of each run of letters, the languages that have it and how often.
    runs: HashMap<String, Vec<(usize, f64)>>,
    latin1_excluded: Vec<char>,
    kanji: HashMap<char, char>,
    vi_letters: Vec<char>,
    vi_marks: Vec<char>,
    vi_normal: Vec<Vec<char>>,
}

static LANGUAGES: LazyLock<Languages> = LazyLock::new(|| {
    let Tables { profiles, latin1_excluded, kanji, vi_letters, vi_marks, vi_normal } =
        super::table(include_bytes!("../../data/languages.json.zst"));
    let mut runs: HashMap<String, Vec<(usize, f64)>> = HashMap::new();
    let mut names = Vec::new();
    for (i, Profile { name, freq, n_words }) in profiles.into_iter().enumerate() {
        for (run, n) in freq {
            let chars = run.chars().count();
            let share = if chars <= 3 { n / n_words[chars - 1] } else { 0.0 };
            runs.entry(run).or_default().push((i, share));
        }
        names.push(name);
    }
    let mut one = HashMap::new();
    for class in kanji {
        let first = class.chars().next().expect("classes have members");
        one.extend(class.chars().map(|c| (c, first)));
    }
    Languages {
        names,
        runs,
        latin1_excluded: latin1_excluded.chars().collect(),
        kanji: one,
        vi_letters: vi_letters.chars().collect(),
        vi_marks: vi_marks.chars().collect(),
        vi_normal: vi_normal.iter().map(|line| line.chars().collect()).collect(),
    }
});

static ADDRESSES: LazyLock<[Regex; 2]> = LazyLock::new(|| {
    [
        pattern(r"https?://[-_.?&~;+=/#0-9A-Za-z]{1,2076}"),
        pattern(r"[-_.0-9A-Za-z]{1,64}@[-_0-9A-Za-z]{1,255}[-_.0-9A-Za-z]{1,255}"),
    ]
});

/// The language's code (`en`, `zh-cn`), `unknown` where none is likely; nothing of a text without
/// letters.
pub fn detect(text: &str) -> Option<&'static str> {
    let languages = &*LANGUAGES;
    let runs = languages.runs_of(&without_foreign_latin(languages.plain(text)));
    if runs.is_empty() {
        return None;
    }
    let n = languages.names.len();
    let mut sums = vec![0.0; n];
    let mut draws = Draws::new(0);
    for _ in 0..TRIALS {
        let mut p = vec![1.0 / n as f64; n];
        let weight = (0.5 + draws.normal() * 0.05) / 10_000.0;
        for step in 0.. {
            let run = runs[draws.below(runs.len() as u32) as usize];
            let mut shares = run.iter().peekable();
            for (i, p) in p.iter_mut().enumerate() {
                let share = shares.next_if(|(at, _)| *at == i).map_or(0.0, |(_, share)| *share);
                *p *= weight + share;
            }
            if step % 5 == 0 && (normalize(&mut p) > SURE || step >= STEPS) {
                break;
            }
        }
        for (sum, p) in sums.iter_mut().zip(&p) {
            *sum += p / TRIALS as f64;
        }
    }
    let mut best: Option<usize> = None;
    for (i, p) in sums.iter().enumerate().filter(|(_, p)| **p > LIKELY) {
        if best.is_none_or(|best| *p > sums[best]) {
            best = Some(i);
        }
    }
    Some(best.map_or("unknown", |best| languages.names[best].as_str()))
}

/// Divides by the sum; the greatest.
fn normalize(p: &mut [f64]) -> f64 {
    let sum: f64 = p.iter().sum();
    let mut most = 0.0;
    for p in p {
        *p /= sum;
        most = f64::max(most, *p);
    }
    most
}

impl Languages {
    /// Without addresses, Vietnamese marks joined to their letters, one space for several.
    fn plain(&self, text: &str) -> Vec<char> {
        let mut text = text.to_owned();
        for address in &*ADDRESSES {
            text = address.replace_all(&text, " ").into_owned();
        }
        let chars: Vec<char> = text.chars().collect();
        let (mut joined, mut at) = (Vec::new(), 0);
        while at < chars.len() {
            let letter = self.vi_letters.iter().position(|c| *c == chars[at]);
            let mark = chars.get(at + 1).and_then(|m| self.vi_marks.iter().position(|c| c == m));
            match (letter, mark) {
                (Some(letter), Some(mark)) => {
                    joined.push(self.vi_normal[mark][letter]);
                    at += 2;
                }
                _ => {
                    joined.push(chars[at]);
                    at += 1;
                }
            }
        }
        joined.truncate(LONGEST);
        joined.dedup_by(|b, a| *a == ' ' && *b == ' ');
        joined
    }

    /// The letter that stands for a character.
    fn normal(&self, c: char) -> char {
        match c {
            '\0'..='\x7f' if !c.is_ascii_alphabetic() => ' ',
            '\u{80}'..='\u{ff}' if self.latin1_excluded.contains(&c) => ' ',
            '\u{219}' => '\u{15f}',
            '\u{21b}' => '\u{163}',
            '\u{2000}'..='\u{206f}' => ' ',
            '\u{6cc}' => '\u{64a}',
            '\u{1ea0}'..='\u{1eff}' => '\u{1ec3}',
            '\u{3040}'..='\u{309f}' => '\u{3042}',
            '\u{30a0}'..='\u{30ff}' => '\u{30a2}',
            '\u{3100}'..='\u{312f}' | '\u{31a0}'..='\u{31bf}' => '\u{3105}',
            '\u{4e00}'..='\u{9fff}' => self.kanji.get(&c).copied().unwrap_or(c),
            '\u{ac00}'..='\u{d7af}' => '\u{ac00}',
            c => c,
        }
    }

    /// The known runs of one to three letters of a text, in their order; none within words of
    /// capitals.
    fn runs_of(&self, text: &[char]) -> Vec<&[(usize, f64)]> {
        let mut found = Vec::new();
        let (mut last, mut capital) = (vec![' '], false);
        for c in text {
            let c = self.normal(*c);
            let before = last[last.len() - 1];
            let mut skip = false;
            if before == ' ' {
                last = vec![' '];
                capital = false;
                skip = c == ' ';
            } else if last.len() >= 3 {
                last.remove(0);
            }
            if !skip {
                last.push(c);
                capital = c.is_uppercase() && (capital || before.is_uppercase());
            }
            if capital {
                continue;
            }
            for n in 1..=last.len().min(3) {
                let run: String = last[last.len() - n..].iter().collect();
                if run != " " {
                    found.extend(self.runs.get(&run).map(Vec::as_slice));
                }
            }
        }
        found
    }
}

/// Latin letters among mostly others are left out.
fn without_foreign_latin(mut text: Vec<char>) -> Vec<char> {
    let latin = text.iter().filter(|c| ('A'..='z').contains(*c)).count();
    let others = text.iter().filter(|c| **c >= '\u{300}').count();
    if latin * 2 < others {
        text.retain(|c| !('A'..='z').contains(c));
    }
    text
}

/// Python's generator: the Mersenne twister, its uniform and normal numbers.
struct Draws {
    state: [u32; 624],
    at: usize,
    kept: Option<f64>,
}

impl Draws {
    /// `random.seed(seed)`.
    fn new(seed: u32) -> Draws {
        let mut s = [0u32; 624];
        s[0] = 19_650_218;
        for i in 1..624 {
            s[i] =
                1_812_433_253u32.wrapping_mul(s[i - 1] ^ (s[i - 1] >> 30)).wrapping_add(i as u32);
        }
        let mut i = 1;
        for _ in 0..624 {
            s[i] =
                (s[i] ^ (s[i - 1] ^ (s[i - 1] >> 30)).wrapping_mul(1_664_525)).wrapping_add(seed);
            i += 1;
            if i == 624 {
                s[0] = s[623];
                i = 1;
            }
        }
        for _ in 0..623 {
            s[i] = (s[i] ^ (s[i - 1] ^ (s[i - 1] >> 30)).wrapping_mul(1_566_083_941))
                .wrapping_sub(i as u32);
            i += 1;
            if i == 624 {
                s[0] = s[623];
                i = 1;
            }
        }
        s[0] = 1 << 31;
        Draws { state: s, at: 624, kept: None }
    }

    fn word(&mut self) -> u32 {
        if self.at == 624 {
            let s = &mut self.state;
            for i in 0..624 {
                let y = (s[i] & (1 << 31)) | (s[(i + 1) % 624] & ((1 << 31) - 1));
                s[i] = s[(i + 397) % 624] ^ (y >> 1) ^ if y & 1 == 1 { 0x9908_b0df } else { 0 };
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn uniform(&mut self) -> f64 {
        let (a, b) = (f64::from(self.word() >> 5), f64::from(self.word() >> 6));
        (a * 67_108_864.0 + b) / 9_007_199_254_740_992.0
    }

    /// `random.gauss(0, 1)`.
    fn normal(&mut self) -> f64 {
        if let Some(kept) = self.kept.take() {
            return kept;
        }
        let turn = self.uniform() * std::f64::consts::TAU;
        let length = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        self.kept = Some(turn.sin() * length);
        turn.cos() * length
    }

    /// A number below `n` > 0, as `random.choice` takes it.
    fn below(&mut self, n: u32) -> u32 {
        let bits = 32 - n.leading_zeros();
        loop {
            let drawn = self.word() >> (32 - bits);
            if drawn < n {
                return drawn;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_pythons() {
        // random.seed(0); random.random(), gauss(0, 1) of a new seed, randrange(10) of a new one.
        assert_eq!(Draws::new(0).uniform(), 0.844_421_851_525_048_1);
        assert_eq!(Draws::new(0).normal(), 0.941_715_404_680_664_4);
        let mut draws = Draws::new(0);
        assert_eq!([0; 5].map(|_| draws.below(10)), [6, 6, 0, 4, 8]);
    }

    #[test]
    fn languages_are_told_apart() {
        for (text, language) in [
            ("The quick brown fox jumps over the lazy dog.", "en"),
            ("Die Würde des Menschen ist unantastbar.", "de"),
            ("यह एक छोटा वाक्य है।", "hi"),
            ("これは短い文です。", "ja"),
            ("이것은 짧은 문장입니다.", "ko"),
        ] {
            assert_eq!(detect(text), Some(language));
        }
        assert_eq!(detect("12345 !?"), None);
    }
}
