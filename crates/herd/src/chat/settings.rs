//! The settings that `/set` shows and changes.

use herd_engine::sample::{Sampling, TemperatureAt};

use crate::store::distance;

/// Settings by name: what `/set` prints.
pub fn show(s: &Sampling, answer_tokens_max: Option<usize>) -> String {
    let or_all = |n: Option<usize>| n.map_or_else(|| "all".to_owned(), |n| n.to_string());
    let last = (s.repeat_last_n != usize::MAX).then_some(s.repeat_last_n);
    let at = match s.temperature_at {
        TemperatureAt::First => "first",
        TemperatureAt::Last => "last",
    };
    let rows = [
        ("temperature", s.temperature.to_string()),
        ("temp_at", at.to_owned()),
        ("top_k", or_all(s.top_k)),
        ("top_p", s.top_p.to_string()),
        ("min_p", s.min_p.to_string()),
        ("typical", s.typical_p.to_string()),
        ("repeat_penalty", s.repetition_penalty.to_string()),
        ("repeat_last_n", or_all(last)),
        ("presence_penalty", s.presence_penalty.to_string()),
        ("frequency_penalty", s.frequency_penalty.to_string()),
        ("seed", s.seed.to_string()),
        ("n_predict", or_all(answer_tokens_max)),
    ];
    rows.map(|(name, value)| format!("{name:<18} {value}")).join("\n")
}

const NAMES: [&str; 12] = [
    "temperature",
    "temp_at",
    "top_k",
    "top_p",
    "min_p",
    "typical",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "n_predict",
];

/// Changes one setting; `vocab` bounds what a setting may name. On an error nothing has changed,
/// and the text says why.
pub fn change(
    s: &mut Sampling,
    answer_tokens_max: &mut Option<usize>,
    vocab: usize,
    name: &str,
    value: &str,
) -> Result<(), String> {
    let mut new = s.clone();
    let mut tokens_max = *answer_tokens_max;
    match name.replace('-', "_").as_str() {
        "temperature" | "temp" => new.temperature = number(value)?,
        "temp_at" => {
            new.temperature_at = match value {
                "first" => TemperatureAt::First,
                "last" => TemperatureAt::Last,
                other => return Err(format!("{other:?} is neither first nor last")),
            }
        }
        "top_k" => new.top_k = count(value)?.filter(|&k| k > 0),
        "top_p" => new.top_p = number(value)?,
        "min_p" => new.min_p = number(value)?,
        "typical" | "typical_p" => new.typical_p = number(value)?,
        "repeat_penalty" | "repetition_penalty" => new.repetition_penalty = number(value)?,
        "repeat_last_n" => new.repeat_last_n = count(value)?.unwrap_or(usize::MAX),
        "presence_penalty" => new.presence_penalty = number(value)?,
        "frequency_penalty" => new.frequency_penalty = number(value)?,
        "seed" => new.seed = value.parse().map_err(|_| format!("{value:?} is not a seed"))?,
        "n_predict" | "n" => tokens_max = count(value)?,
        other => {
            let near = NAMES.iter().min_by_key(|known| distance(known, other));
            let near = near.expect("there are settings");
            return Err(format!("no setting {other:?}; did you mean {near}?"));
        }
    }
    new.check(vocab).map_err(|e| e.to_string())?;
    (*s, *answer_tokens_max) = (new, tokens_max);
    Ok(())
}

fn number(text: &str) -> Result<f32, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

/// A count; `all` and -1 are none.
fn count(text: &str) -> Result<Option<usize>, String> {
    match text {
        "all" | "-1" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| format!("{text:?} is not a count")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shown_setting_can_be_set_to_what_is_shown() {
        let (mut s, mut n) = (Sampling::LLAMA, Some(64));
        let before = show(&s, n);
        for line in before.lines() {
            let (name, value) = line.split_once(' ').unwrap();
            change(&mut s, &mut n, 100, name, value.trim()).unwrap();
        }
        assert_eq!((show(&s, n), s), (before, Sampling::LLAMA));
        assert!(NAMES.iter().all(|name| show(&Sampling::LLAMA, None).contains(name)));
    }

    #[test]
    fn what_cannot_be_changes_nothing() {
        let (mut s, mut n) = (Sampling::LLAMA, None);
        for (name, value, why) in [
            ("temperature", "-1", "temperature is -1"),
            ("temperature", "hot", "not a number"),
            ("tempreature", "1", "did you mean temperature?"),
            ("top_p", "2", "top_p is 2"),
            ("seed", "x", "not a seed"),
        ] {
            let error = change(&mut s, &mut n, 100, name, value).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(s, Sampling::LLAMA);
    }
}
