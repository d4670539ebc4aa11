//! Sorting by a comparison that may fail.
//!
//! The sort of the standard library panics when it notices that comparisons contradict each other,
//! and after a failed comparison there is no answer that is known to be consistent. This sort ends
//! at the first failure.

use std::cmp::Ordering;

/// The number of items that are sorted by insertion.
const RUN: usize = 16;

/// Sorts `items` stably. Items that are already sorted cost one comparison each and no memory.
/// After an error all items are still there, in any order.
pub fn sort_by<T: Copy, E>(
    items: &mut [T],
    mut compare: impl FnMut(&T, &T) -> Result<Ordering, E>,
) -> Result<(), E> {
    if is_sorted(items, &mut compare)? {
        return Ok(());
    }
    for run in items.chunks_mut(RUN) {
        insert_each(run, &mut compare)?;
    }
    if items.len() <= RUN {
        return Ok(());
    }
    let mut buffer: Vec<T> = Vec::with_capacity(items.len());
    let mut width = RUN;
    while width < items.len() {
        buffer.clear();
        for both in items.chunks(2 * width) {
            let (left, right) = both.split_at_checked(width).unwrap_or((both, &[]));
            merge(left, right, &mut buffer, &mut compare)?;
        }
        items.copy_from_slice(&buffer);
        width = width.saturating_mul(2);
    }
    Ok(())
}

fn is_sorted<T, E>(
    items: &[T],
    compare: &mut impl FnMut(&T, &T) -> Result<Ordering, E>,
) -> Result<bool, E> {
    for (a, b) in items.iter().zip(items.iter().skip(1)) {
        if compare(a, b)?.is_gt() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn insert_each<T, E>(
    items: &mut [T],
    compare: &mut impl FnMut(&T, &T) -> Result<Ordering, E>,
) -> Result<(), E> {
    for end in 1..items.len() {
        let mut at = end;
        while at > 0
            && let (Some(before), Some(this)) = (items.get(at - 1), items.get(at))
            && compare(before, this)?.is_gt()
        {
            items.swap(at - 1, at);
            at -= 1;
        }
    }
    Ok(())
}

fn merge<T: Copy, E>(
    mut left: &[T],
    mut right: &[T],
    into: &mut Vec<T>,
    compare: &mut impl FnMut(&T, &T) -> Result<Ordering, E>,
) -> Result<(), E> {
    while let ([a, left_rest @ ..], [b, right_rest @ ..]) = (left, right) {
        if compare(a, b)?.is_gt() {
            into.push(*b);
            right = right_rest;
        } else {
            into.push(*a);
            left = left_rest;
        }
    }
    into.extend_from_slice(left);
    into.extend_from_slice(right);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sorts_as_the_standard_library_does(keys in prop::collection::vec(0_u8..40, 0..200)) {
            let mut items: Vec<_> = keys.into_iter().enumerate().collect();
            let mut expected = items.clone();
            expected.sort_by_key(|(_, key)| *key);
            let outcome = sort_by(&mut items, |a, b| Ok::<_, ()>(a.1.cmp(&b.1)));
            prop_assert_eq!(outcome, Ok(()));
            prop_assert_eq!(items, expected);
        }

        #[test]
        fn ends_at_the_first_failure_with_nothing_lost(
            keys in prop::collection::vec(any::<u16>(), 2..200),
            good in 0_usize..400,
        ) {
            let mut items = keys.clone();
            let mut compared = 0;
            let outcome = sort_by(&mut items, |a, b| {
                compared += 1;
                if compared > good { Err(()) } else { Ok(a.cmp(b)) }
            });
            prop_assert_eq!(outcome.is_err(), compared > good);
            prop_assert!(compared <= good + 1);
            let mut expected = keys;
            expected.sort_unstable();
            items.sort_unstable();
            prop_assert_eq!(items, expected);
        }
    }
}
