//! Requests that are computed together: joined along the first dimension, and taken apart again.

use bytes::{Bytes, BytesMut};
use downbeat_link::Tensor;

/// Whether two requests of a model can be computed together: all but the first sizes are the same.
pub fn alike(one: &[Tensor], other: &[Tensor]) -> bool {
    let same = |(a, b): (&Tensor, &Tensor)| {
        a.datatype == b.datatype
            && !a.shape.is_empty()
            && a.shape.len() == b.shape.len()
            && a.shape[1..] == b.shape[1..]
    };
    one.len() == other.len() && one.iter().zip(other).all(same)
}

/// Items of a request: the first size of each tensor, where they agree.
pub fn items(tensors: &[Tensor]) -> Option<u64> {
    let first = *tensors.first()?.shape.first()?;
    tensors.iter().all(|tensor| tensor.shape.first() == Some(&first)).then_some(first)
}

/// The tensors of requests that are [`alike`], one behind the other.
pub fn join(mut requests: Vec<Vec<Tensor>>) -> Vec<Tensor> {
    // What came alone need not be copied.
    if requests.len() <= 1 {
        return requests.pop().unwrap_or_default();
    }
    let mut joined = requests.first().cloned().unwrap_or_default();
    for (index, tensor) in joined.iter_mut().enumerate() {
        let parts = requests.iter().filter_map(|request| request.get(index));
        let bytes = parts.clone().map(|part| part.data.len()).sum();
        let mut data = BytesMut::with_capacity(bytes);
        let mut items = 0;
        for part in parts {
            data.extend_from_slice(&part.data);
            items += part.shape.first().copied().unwrap_or(0);
        }
        if let Some(first) = tensor.shape.first_mut() {
            *first = items;
        }
        tensor.data = data.freeze();
    }
    joined
}

/// Takes outputs apart for requests of so many items each; says which output has another number of
/// items than went in.
pub fn split(outputs: Vec<Tensor>, items: &[u64]) -> Result<Vec<Vec<Tensor>>, String> {
    if items.len() <= 1 {
        return Ok(vec![outputs]);
    }
    let total: u64 = items.iter().sum();
    let mut requests: Vec<_> = items.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for Tensor { name, datatype, shape, data } in outputs {
        if total == 0 || shape.first() != Some(&total) {
            return Err(format!(
                "output `{name}` has shape {shape:?} for {total} items; its first size should be that"
            ));
        }
        // At most the output's own length, which is a `usize`.
        let one = data.len() / total as usize;
        let mut rest: Bytes = data;
        for (request, items) in requests.iter_mut().zip(items) {
            let data = rest.split_to(one * *items as usize);
            let shape = [&[*items], &shape[1..]].concat();
            request.push(Tensor { name: name.clone(), datatype, shape, data });
        }
    }
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use downbeat_link::DataType;
    use proptest::prelude::*;

    fn tensor(name: &str, items: u64, width: u64, seed: u8) -> Tensor {
        let data: Vec<u8> = (0..items * width).map(|i| (i as u8).wrapping_add(seed)).collect();
        Tensor {
            name: name.into(),
            datatype: DataType::Uint8,
            shape: vec![items, width],
            data: data.into(),
        }
    }

    proptest! {
        #[test]
        fn what_was_joined_comes_apart_as_it_was(
            items in prop::collection::vec(1..5_u64, 1..6),
            widths in prop::collection::vec(0..4_u64, 1..4),
        ) {
            let requests: Vec<Vec<Tensor>> = items
                .iter()
                .zip(0_u8..)
                .map(|(&n, seed)| widths.iter().map(|&w| tensor("x", n, w, seed)).collect())
                .collect();
            for pair in requests.windows(2) {
                prop_assert!(alike(&pair[0], &pair[1]));
            }
            let joined = join(requests.clone());
            prop_assert!(joined.iter().all(|tensor| tensor.check().is_ok()));
            prop_assert_eq!(super::items(&joined), Some(items.iter().sum()));
            prop_assert_eq!(split(joined, &items), Ok(requests));
        }
    }

    #[test]
    fn other_sizes_are_not_alike() {
        let one = [tensor("x", 1, 3, 0)];
        assert!(alike(&one, &[tensor("x", 7, 3, 0)]));
        assert!(!alike(&one, &[tensor("x", 1, 4, 0)]));
        assert!(!alike(&one, &[]));
        let scalar = [Tensor { shape: vec![], ..tensor("x", 1, 1, 0) }];
        assert!(!alike(&scalar, &scalar));
        assert_eq!(items(&scalar), None);
        assert_eq!(items(&[tensor("x", 2, 1, 0), tensor("y", 3, 1, 0)]), None);
    }

    #[test]
    fn an_output_that_counts_otherwise_is_told() {
        let error = split(vec![tensor("y", 3, 2, 0)], &[1, 1]).unwrap_err();
        assert_eq!(error, "output `y` has shape [3, 2] for 2 items; its first size should be that");
    }
}
