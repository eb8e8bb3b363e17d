//! The right name nearest to a misspelt one.

/// The candidate with the fewest edits from `name`, if at most a third of `name` is wrong.
/// Names longer than 64 bytes have no neighbours: the search is quadratic in their length.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const BYTES_MAX: usize = 64;
    if name.len() > BYTES_MAX {
        return None;
    }
    let name = name.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (edits(&name, candidate), candidate))
        .min_by_key(|(edits, _)| *edits)
        .filter(|(edits, _)| edits * 3 <= name.len().max(6))
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and changes of a byte that turn `a` into `b` (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_count_insertions_deletions_and_changes() {
        for (a, b, n) in [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3)] {
            assert_eq!(edits(a, b), n, "{a} {b}");
        }
    }

    #[test]
    fn far_names_have_no_neighbour() {
        assert_eq!(nearest("llama3-8b", ["llama-3-8b", "llama-2-7b"]), Some("llama-3-8b"));
        assert_eq!(nearest("gpt", ["llama-3-8b"]), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), ["llama-3-8b"]), None);
    }
}
