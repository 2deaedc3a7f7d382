//! What becomes of the answers of single services, on the way from one snapshot to the next.

use nett_policy::id::ServiceId;
use nett_policy::lower::answers::ServiceAnswers;

/// New answers of services, each named once; `None` removes one. They are borrowed: to count a copy
/// of each of ten thousand costs more than to make the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes<'a>(Vec<Change<'a>>);

type Change<'a> = (&'a ServiceId, Option<&'a ServiceAnswers>);

impl<'a> Changes<'a> {
    /// Changes in the order of ids, each service once: so they come out of the maps that hold
    /// answers, and to compare names again would cost as much as a part of the snapshot.
    ///
    /// # Panics
    ///
    /// In debug builds when the ids do not ascend.
    pub fn in_order(changes: Vec<Change<'a>>) -> Self {
        debug_assert!(changes.is_sorted_by(|(a, _), (b, _)| a < b), "ids ascend");
        Self(changes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// In the order of ids.
    pub fn iter(
        &self,
    ) -> impl ExactSizeIterator<Item = (&'a ServiceId, Option<&'a ServiceAnswers>)> {
        self.0.iter().copied()
    }
}

impl<'a> FromIterator<Change<'a>> for Changes<'a> {
    /// Of a service that is named twice the last change counts. Costs least in the order of ids.
    fn from_iter<I: IntoIterator<Item = Change<'a>>>(changes: I) -> Self {
        let mut changes: Vec<Change<'a>> = changes.into_iter().collect();
        if !changes.is_sorted_by(|(a, _), (b, _)| a < b) {
            changes.reverse();
            changes.sort_by_key(|(id, _)| *id);
            changes.dedup_by(|(a, _), (b, _)| a == b);
        }
        Self(changes)
    }
}

impl<'a, const N: usize> From<[Change<'a>; N]> for Changes<'a> {
    fn from(changes: [Change<'a>; N]) -> Self {
        changes.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{answers, weighted};

    #[test]
    fn the_last_change_of_a_service_counts_in_any_order() {
        let change = |(id, epoch): (&str, Option<u64>)| {
            let answers = epoch.map(|epoch| {
                let mut answers = answers(id, weighted(&[("osl", 1)]));
                answers.epoch = nett_policy::id::Epoch(epoch);
                answers
            });
            (id.parse::<ServiceId>().expect("an id"), answers)
        };
        let all = [("p/e/b", Some(1)), ("p/e/a", Some(2)), ("p/e/b", None), ("p/e/a", Some(3))];
        let all = all.map(change);
        let changes: Changes<'_> = all.iter().map(|(id, a)| (id, a.as_ref())).collect();
        let row = |(id, answers): (&ServiceId, Option<&ServiceAnswers>)| {
            (id.to_string(), answers.map(|a| a.epoch.0))
        };
        let rows: Vec<_> = changes.iter().map(row).collect();
        assert_eq!(rows, [("p/e/a".to_owned(), Some(3)), ("p/e/b".to_owned(), None)]);
    }
}
