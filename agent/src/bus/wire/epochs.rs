//! Services with their lease epochs, as JSON. Says nothing about who may name them.

use std::collections::BTreeMap;

use nett_policy::id::{Epoch, ServiceId};

use super::{OpenError, id};

pub(super) fn write(epochs: &BTreeMap<ServiceId, Epoch>) -> BTreeMap<String, u64> {
    epochs.iter().map(|(service, epoch)| (service.to_string(), epoch.0)).collect()
}

pub(super) fn read(
    field: &'static str,
    epochs: BTreeMap<String, u64>,
) -> Result<BTreeMap<ServiceId, Epoch>, OpenError> {
    epochs.into_iter().map(|(service, epoch)| Ok((id(field, &service)?, Epoch(epoch)))).collect()
}
