//! "Did you mean": the known word nearest to a misspelt one.

/// The candidate within a third of the word's length (at least one, at most three) of edits.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // An absurdly long word has no near candidate and would only cost time.
    if word.len() > 128 {
        return None;
    }
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter(|c| c.len() <= 128)
        .map(|c| (distance(word, c), c))
        .filter(|(d, c)| *d <= limit && *d < c.chars().count())
        .min()
        .map(|(_, c)| c)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = last;
        last = row;
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_typing_mistakes_and_nothing_far() {
        let sites = ["osl", "svg", "ber"];
        assert_eq!(nearest("olsl", sites), Some("osl"));
        assert_eq!(nearest("slo", sites), None);
        assert_eq!(nearest("sgv", sites), Some("svg"));
        assert_eq!(nearest("frankfurt", sites), None);
        assert_eq!(distance("prefixs", "prefixes"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}
