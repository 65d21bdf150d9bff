//! The line against a list that is sorted anew each time.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Back(i8),
    Pop,
    /// The first is taken, and put back.
    Return,
    Take(u32),
}

proptest! {
    #[test]
    fn it_is_in_the_order_of_a_list_that_is_sorted_by_priority(
        steps in prop::collection::vec(prop_oneof![
            4 => (-3..4i8).prop_map(Step::Back),
            3 => Just(Step::Pop),
            1 => Just(Step::Return),
            1 => (1..5u32).prop_map(Step::Take),
        ], 0..80),
    ) {
        let mut line = Waiting::default();
        // The first one first.
        let mut model: Vec<(i8, u32)> = Vec::new();
        for (number, step) in (0u32..).zip(steps) {
            match step {
                Step::Back(priority) => {
                    line.push_back(priority, number);
                    model.push((priority, number));
                    model.sort_by_key(|(priority, _)| Reverse(*priority));
                }
                Step::Pop => {
                    let first = (!model.is_empty()).then(|| model.remove(0).1);
                    prop_assert_eq!(line.pop(), first);
                }
                Step::Return => {
                    let priority = line.priority();
                    prop_assert_eq!(priority, model.first().map(|(priority, _)| *priority));
                    if let (Some(priority), Some(first)) = (priority, line.pop()) {
                        line.push_front(priority, first);
                    }
                }
                Step::Take(divisor) => {
                    let (taken, left): (Vec<_>, _) = model.into_iter().partition(|(_, n)| n % divisor == 0);
                    model = left;
                    let taken: Vec<_> = taken.into_iter().map(|(_, n)| n).collect();
                    prop_assert_eq!(line.take(|n| n % divisor == 0), taken);
                }
            }
            prop_assert_eq!((line.len(), line.is_empty()), (model.len(), model.is_empty()));
        }
        let rest: Vec<_> = std::iter::from_fn(|| line.pop()).collect();
        prop_assert_eq!(rest, model.into_iter().map(|(_, n)| n).collect::<Vec<_>>());
    }
}
