//! Values of arguments that are no plain ids.

use std::collections::BTreeMap;

use nett_policy::id::{EntryId, SiteId, Weight};

/// A task's id, with a dot as shown or with a dash as in subjects, in any case.
pub(super) fn task(text: &str) -> Result<EntryId, String> {
    let lower = text.to_ascii_lowercase();
    let dotted = match lower.rsplit_once('-') {
        Some((site, ulid)) if !lower.contains('.') => format!("{site}.{ulid}"),
        _ => lower,
    };
    dotted.parse().map_err(|_| {
        format!("`{text}` is not a task id such as osl.01jd3m5w7r8v3qyb2s9t4k6e1h; see task list")
    })
}

/// `osl=70,svg=30`.
pub(super) fn weights(text: &str) -> Result<BTreeMap<SiteId, Weight>, String> {
    let mut weights = BTreeMap::new();
    for part in text.split(',') {
        let (site, weight) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` is not SITE=WEIGHT, as in osl=70,svg=30"))?;
        let site: SiteId = site.trim().parse().map_err(|e| format!("{e}"))?;
        let number: u32 = weight
            .trim()
            .parse()
            .map_err(|_| format!("`{weight}` is not a weight from 1 to 256"))?;
        let weight = Weight::new(number)
            .map_err(|e| format!("{e}; leave out a site that is to get nothing"))?;
        if weights.insert(site, weight).is_some() {
            return Err(format!("`{part}` names a site twice"));
        }
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_one_id_in_three_spellings() {
        let id = "osl.01jd3m5w7r8v3qyb2s9t4k6e1h";
        for text in [id, "osl-01jd3m5w7r8v3qyb2s9t4k6e1h", "osl.01JD3M5W7R8V3QYB2S9T4K6E1H"] {
            assert_eq!(task(text).expect(text).as_str(), id);
        }
        assert_eq!(
            task("no-osl-01jd3m5w7r8v3qyb2s9t4k6e1h").expect("valid").as_str(),
            "no-osl.01jd3m5w7r8v3qyb2s9t4k6e1h"
        );
        assert!(task("17").is_err());
    }

    #[test]
    fn weights_name_each_site_once() {
        let found = weights("osl=70, svg=30").expect("valid");
        let found: Vec<(&str, u16)> = found.iter().map(|(s, w)| (s.as_str(), w.get())).collect();
        assert_eq!(found, [("osl", 70), ("svg", 30)]);
        for bad in ["", "osl", "osl=", "osl=0", "osl=257", "osl=1,osl=2", "OSL=1"] {
            assert!(weights(bad).is_err(), "{bad}");
        }
    }
}
