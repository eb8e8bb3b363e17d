//! What a writer's words hold: code in fences, parts behind labels, verdicts and marks.

/// The code of each fence of three backticks; one that is never closed goes to the end.
pub(super) fn fences(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            open = !open;
            if open {
                found.push(String::new());
            }
        } else if let (true, Some(code)) = (open, found.last_mut()) {
            code.push_str(line);
            code.push('\n');
        }
    }
    found.retain(|code| !code.trim().is_empty());
    found
}

/// What stands behind `LABEL:` at the start of a line, up to the next of `labels`; marks around the label do not count.
pub(crate) fn labelled(text: &str, label: &str, labels: &[&str]) -> Option<String> {
    let mut found: Option<Vec<&str>> = None;
    for line in text.lines() {
        let plain = line.trim_start_matches(['*', '#', ' ', '\t']);
        let here = labels.iter().find_map(|l| Some((*l, behind(plain, l)?)));
        match (here, &mut found) {
            (Some((name, rest)), None) if name == label => found = Some(vec![rest]),
            (Some(_), Some(_)) => break,
            (None, Some(lines)) => lines.push(line),
            (Some(_), None) | (None, None) => {}
        }
    }
    let text = found?.join("\n").trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The rest of a line behind `LABEL:`, whatever its case.
fn behind<'a>(line: &'a str, label: &str) -> Option<&'a str> {
    let head = line.get(..label.len())?;
    let rest = &line[label.len()..];
    let rest = rest.strip_prefix("**").unwrap_or(rest).strip_prefix(':')?;
    head.eq_ignore_ascii_case(label).then(|| rest.trim_start_matches(['*', ' ']))
}

/// What a judge says: the word behind its last `Verdict:`, else its first word, where that is yes or no.
pub(super) fn verdict(text: &str) -> Option<bool> {
    let lower = text.to_lowercase();
    let said = match lower.rsplit_once("verdict") {
        Some((_, rest)) => rest,
        None => &lower,
    };
    match said.split(|c: char| !c.is_alphanumeric()).find(|word| !word.is_empty())? {
        "yes" | "true" | "correct" => Some(true),
        "no" | "false" | "incorrect" | "wrong" => Some(false),
        _ => None,
    }
}

/// The number behind the last `LABEL:`, whatever its case, where it is one of 0 to `most`.
pub(crate) fn mark(text: &str, label: &str, most: u32) -> Option<u32> {
    let lower = text.to_lowercase();
    let (_, rest) = lower.rsplit_once(&format!("{}:", label.to_lowercase()))?;
    let digits: String = rest
        .trim_start_matches(['*', ' '])
        .chars()
        .take_while(char::is_ascii_digit)
        .take(9)
        .collect();
    digits.parse().ok().filter(|mark| *mark <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_are_found_in_order_and_empty_ones_are_none() {
        let text = "First:\n```python\na = 1\n```\nno\n  ```\n```\nthen\n```py\nb = 2\nc = 3";
        assert_eq!(fences(text), ["a = 1\n", "b = 2\nc = 3\n"]);
        assert!(fences("`x` and ``").is_empty());
    }

    #[test]
    fn labels_are_found_whatever_their_dress() {
        let text = "Sure!\n**Question:** Who?\nAnd why?\n\nanswer: He.\nSo.\nQuestion: another";
        let both = ["Question", "Answer"];
        assert_eq!(labelled(text, "Question", &both).as_deref(), Some("Who?\nAnd why?"));
        assert_eq!(labelled(text, "Answer", &both).as_deref(), Some("He.\nSo."));
        assert_eq!(labelled("Question:\nAnswer: x", "Question", &both), None);
        assert_eq!(labelled("ä", "Question", &both), None);
    }

    #[test]
    fn verdicts_and_marks_are_read_or_are_none() {
        for (text, wanted) in [
            ("It is wrong.\nVerdict: no", Some(false)),
            ("**Verdict:** Yes.", Some(true)),
            ("Yes, it is", Some(true)),
            ("Incorrect: step 2", Some(false)),
            ("Verdict: perhaps", None),
            ("", None),
            ("The answer is yes", None),
        ] {
            assert_eq!(verdict(text), wanted, "{text}");
        }
        assert_eq!(mark("Score: 1\nSCORE: **3** of 3", "score", 3), Some(3));
        assert_eq!(mark("Score: 4", "score", 3), None);
        assert_eq!(mark("Score: three", "score", 3), None);
        assert_eq!(mark("Score: 99999999999999999999", "score", 3), None);
    }
}
