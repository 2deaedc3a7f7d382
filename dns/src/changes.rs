//! What becomes of the answers of single services, on the way from one snapshot to the next.

use std::sync::Arc;

use nett_policy::id::ServiceId;
use nett_policy::lower::answers::ServiceAnswers;

/// New answers of services, each named once; `None` removes one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes(Vec<Change>);

type Change = (ServiceId, Option<Arc<ServiceAnswers>>);

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// In the order of ids.
    pub fn iter(
        &self,
    ) -> impl ExactSizeIterator<Item = (&ServiceId, Option<&Arc<ServiceAnswers>>)> {
        self.0.iter().map(|(id, answers)| (id, answers.as_ref()))
    }
}

impl FromIterator<Change> for Changes {
    /// Of a service that is named twice the last change counts. Costs least in the order of ids.
    fn from_iter<I: IntoIterator<Item = Change>>(changes: I) -> Self {
        let mut changes: Vec<Change> = changes.into_iter().collect();
        if !changes.is_sorted_by(|(a, _), (b, _)| a < b) {
            changes.reverse();
            changes.sort_by(|(a, _), (b, _)| a.cmp(b));
            changes.dedup_by(|(a, _), (b, _)| a == b);
        }
        Self(changes)
    }
}

impl<const N: usize> From<[Change; N]> for Changes {
    fn from(changes: [Change; N]) -> Self {
        changes.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{answers, weighted};

    #[test]
    fn the_last_change_of_a_service_counts_in_any_order() {
        let change = |id: &str, epoch: Option<u64>| {
            let answers = epoch.map(|epoch| {
                let mut answers = answers(id, weighted(&[("osl", 1)]));
                answers.epoch = nett_policy::id::Epoch(epoch);
                Arc::new(answers)
            });
            (id.parse::<ServiceId>().expect("an id"), answers)
        };
        let changes = Changes::from([
            change("p/e/b", Some(1)),
            change("p/e/a", Some(2)),
            change("p/e/b", None),
            change("p/e/a", Some(3)),
        ]);
        let row = |(id, answers): (&ServiceId, Option<&Arc<ServiceAnswers>>)| {
            (id.to_string(), answers.map(|a| a.epoch.0))
        };
        let rows: Vec<_> = changes.iter().map(row).collect();
        assert_eq!(rows, [("p/e/a".to_owned(), Some(3)), ("p/e/b".to_owned(), None)]);
    }
}
