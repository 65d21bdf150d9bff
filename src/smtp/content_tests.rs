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
    budget.resize(5_000);
    let mut other = Reservation::empty(&budget);
    assert_eq!((budget.free(), other.grow(1)), (0, false));
    drop(held);
    assert_eq!((budget.free(), other.grow(5_000), other.grow(1)), (5_000, true, false));
    budget.resize(6_000);
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

#[test]
fn s2_a_client_alone_may_have_two_thirds_and_leaves_the_rest_to_others() {
    let budget = Budget::new(4_000_000);
    let mut begun: Vec<_> = (0..10).map(|_| Content::new(1 << 20, &budget)).collect();
    begun.iter_mut().for_each(|content| content.append(&[b'x'; 1 << 19]));
    let refused = begun.iter().filter(|content| content.fault() == Some(ContentFault::NoMemory)).count();
    assert_eq!((refused, budget.free() >= 4_000_000 / 3), (5, true));
    // What it has begun is not broken off, and it is told early of what it cannot have.
    assert!(!budget.has_room_for(1 << 19) && budget.has_room_for(30_000));
    let other = budget.of(Share::default());
    assert!(other.has_room_for(1 << 19));
    let mut message = Content::new(1 << 20, &other);
    message.append(&[b'x'; 1 << 19]);
    assert_eq!(message.fault(), None);
    // And it has its turn again when others, or it, have ended.
    begun.clear();
    drop(message);
    assert!(budget.has_room_for(1 << 19) && budget.free() == 4_000_000);
}

#[test]
fn s2_however_many_clients_take_what_they_can_there_is_something_left_for_the_next() {
    const ALL: usize = 64 << 20;
    let budget = Budget::new(ALL);
    let mut greedy = Vec::new();
    for number in 1..=12 {
        let client = budget.of(Share::default());
        let (mut one, mut all) = (Reservation::empty(&client), Reservation::empty(&client));
        // Two messages, for one that is alone may have more; the second in steps of all sizes.
        assert!(one.grow(70_000));
        (0..26).rev().for_each(|size| while all.grow(1 << size) {});
        assert!(
            !client.has_room_for(1) && budget.free() >= ALL / (6 * number),
            "{number}: {}",
            budget.free()
        );
        greedy.push((one, all));
        let next = budget.of(Share::default());
        assert!(Reservation::empty(&next).grow(64 * 1024), "{number}");
    }
}

#[test]
fn s2_a_small_message_is_never_refused_while_there_is_memory() {
    let budget = Budget::new(1 << 20);
    let taken: Vec<_> = (0..15)
        .map(|_| {
            let mut taken = Reservation::empty(&budget.of(Share::default()));
            assert!(taken.grow(1 << 16));
            taken
        })
        .collect();
    let mut small = Content::new(1 << 20, &budget.of(Share::default()));
    (0..16).for_each(|_| small.append(&[b'x'; 4_096]));
    assert_eq!((small.fault(), budget.free(), taken.len()), (None, 0, 15));
}

/// Where `receive_memory` is no more than `message_size`, a message of that size comes in all the same.
#[test]
fn a_message_that_is_alone_may_have_all_of_the_memory() {
    let budget = Budget::new(1 << 20);
    let mut crumbs = Reservation::empty(&budget.of(Share::default()));
    assert!(crumbs.grow(1_000));
    let most = (1 << 20) - 1_000;
    let mut message = Content::new(1 << 20, &budget);
    (0..most / 1_000).for_each(|_| message.append(&[b'x'; 1_000]));
    assert_eq!((message.fault(), message.size()), (None, most as u64 / 1_000 * 1_000));
    drop(message);
    assert!(budget.has_room_for(most as u64) && !budget.has_room_for(most as u64 + 1));
}

/// Numbers that no memory holds.
#[test]
fn sizes_beyond_all_numbers_are_no_way_around_the_budget() {
    let budget = Budget::new(usize::MAX);
    assert!(budget.has_room_for(0) && budget.has_room_for(1 << 40));
    let mut all = Reservation::empty(&budget);
    assert!(all.grow(usize::MAX / 2));
    assert!(!budget.has_room_for(u64::MAX) && !all.grow(usize::MAX));
    let small = Budget::new(1 << 20);
    assert!(!small.has_room_for(u64::MAX) && !small.has_room_for(i64::MAX as u64));
}
