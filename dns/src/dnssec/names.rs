//! Names in the canonical order (RFC 4034 section 6.1), as bytes that compare like them.
//!
//! Labels are turned round and ended by a zero byte, so that a name comes before all names below
//! it and these before everything else. Zero and one inside a label are written as two bytes.

/// The order key of a name below the apex.
pub(super) fn order(name: &[u8]) -> Box<[u8]> {
    let mut labels = Vec::new();
    let mut rest = name;
    while let Some((length, tail)) = rest.split_first() {
        let (label, tail) = tail.split_at(usize::from(*length));
        labels.push(label);
        rest = tail;
    }
    let mut key = Vec::with_capacity(name.len() + 4);
    for label in labels.iter().rev() {
        for byte in *label {
            match byte {
                0 | 1 => key.extend_from_slice(&[1, byte + 1]),
                byte => key.push(*byte),
            }
        }
        key.push(0);
    }
    key.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_4034() {
        let name = |text: &str| {
            let mut wire = Vec::new();
            for label in text.split('.') {
                wire.push(u8::try_from(label.len()).expect("short"));
                wire.extend_from_slice(label.as_bytes());
            }
            wire
        };
        let mut in_order: Vec<Vec<u8>> = vec![Vec::new()];
        in_order.extend(["a", "yljkjljk.a", "z.a", "zabc.a", "z"].map(name));
        in_order.push(vec![1, 0, 1, b'z']);
        in_order.push(vec![1, 1, 1, b'z']);
        in_order.extend(["*.z", "a-b", "ab"].map(name).into_iter().skip(3));
        let keys: Vec<_> = in_order.iter().map(|n| order(n)).collect();
        assert!(keys.is_sorted(), "{keys:?}");
    }

    #[test]
    fn a_byte_of_zero_ends_nothing() {
        // `a` with `b` below it, beside the one label `a\0b`.
        let below = order(&[1, b'b', 1, b'a']);
        let beside = order(&[3, b'a', 0, b'b']);
        let longer = order(&[2, b'a', b'a']);
        assert!(order(&[1, b'a']) < below && below < beside && beside < longer);
    }
}
