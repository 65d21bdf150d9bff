//! Faults, and the memory that messages share.

use super::content::*;

#[test]
fn s2_a_message_over_its_limit_keeps_nothing() {
    let budget = Budget::new(1 << 20);
    let mut content = Content::new(10, &budget);
    content.append(b"0123456789");
    assert_eq!(content.fault(), None);
    content.append(b"x");
    assert_eq!(content.fault(), Some(ContentFault::TooLarge));
    assert_eq!((content.size(), budget.free()), (11, 1 << 20));
}

#[test]
fn s2_the_budget_is_shared_and_given_back() {
    let budget = Budget::new(10_000);
    let mut first = Content::new(1 << 20, &budget);
    first.append(&[b'x'; 6_000]);
    let mut second = Content::new(1 << 20, &budget);
    second.append(&[b'x'; 6_000]);
    assert_eq!((first.fault(), second.fault()), (None, Some(ContentFault::NoMemory)));
    let (octets, reservation) = first.into_parts();
    assert_eq!(octets.len(), 6_000);
    assert!(budget.free() <= 4_000);
    drop(reservation);
    assert_eq!(budget.free(), 10_000);
}

#[test]
fn s2_a_budget_that_has_become_smaller_gives_nothing_until_enough_has_come_back() {
    let budget = Budget::new(10_000);
    let mut held = Reservation::empty(&budget);
    assert!(held.grow(8_000));
    budget.resize(10_000, 5_000);
    let mut other = Reservation::empty(&budget);
    assert_eq!((budget.free(), other.grow(1)), (0, false));
    drop(held);
    assert_eq!((budget.free(), other.grow(5_000), other.grow(1)), (5_000, true, false));
    budget.resize(5_000, 6_000);
    assert_eq!((budget.free(), other.grow(1_000)), (1_000, true));
}

#[test]
fn s2_the_last_octet_of_the_budget_can_be_used() {
    let budget = Budget::new(9_000);
    let mut content = Content::new(1 << 20, &budget);
    (0..9).for_each(|_| content.append(&[b'x'; 1_000]));
    assert_eq!((content.fault(), budget.free()), (None, 0));
    content.append(b"x");
    assert_eq!((content.fault(), budget.free()), (Some(ContentFault::NoMemory), 9_000));
}
