use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn limits(bytes: usize, messages: u32) -> [LaneLimits; 5] {
    [LaneLimits { bytes, messages }; 5]
}

fn lanes() -> Lanes<u32> {
    Lanes::new(limits(1000, 100))
}

fn drain(lanes: &mut Lanes<u32>) -> Vec<u32> {
    std::iter::from_fn(|| lanes.pop(Lane::Low)).map(|(_, item)| item).collect()
}

#[test]
fn higher_lanes_go_first_and_a_lane_keeps_its_order() {
    let mut lanes = lanes();
    for (item, lane) in Lane::ALL.into_iter().rev().chain(Lane::ALL).zip(0..).map(|(l, n)| (n, l)) {
        assert_eq!(lanes.push(lane, 10, 1, item), Pushed::Queued);
    }
    assert_eq!(drain(&mut lanes), [4, 5, 3, 6, 2, 7, 1, 8, 0, 9]);
    assert!(!lanes.waits(Lane::Low));
}

#[test]
fn the_low_lane_drops_its_newest() {
    let mut lanes = lanes();
    assert_eq!(lanes.push(Lane::Low, 600, 1, 1), Pushed::Queued);
    assert_eq!(lanes.push(Lane::Low, 600, 1, 2), Pushed::DroppedNewest(2));
    assert_eq!(lanes.push(Lane::Low, 400, 1, 3), Pushed::Queued);
    assert_eq!(drain(&mut lanes), [1, 3]);
}

#[test]
fn the_normal_lane_drops_its_oldest() {
    let mut lanes = lanes();
    for item in 1..=4 {
        assert_eq!(lanes.push(Lane::Normal, 250, 1, item), Pushed::Queued);
    }
    assert_eq!(lanes.push(Lane::Normal, 300, 1, 5), Pushed::DroppedOldest(vec![1, 2]));
    assert_eq!(drain(&mut lanes), [3, 4, 5]);
}

#[test]
fn the_other_lanes_never_drop_but_overflow() {
    for lane in [Lane::Control, Lane::Critical, Lane::High] {
        let mut lanes = lanes();
        assert_eq!(lanes.push(lane, 1000, 1, 1), Pushed::Queued);
        assert_eq!(lanes.push(lane, 1, 1, 2), Pushed::Overflow(2));
        assert_eq!(drain(&mut lanes), [1]);
    }
}

#[test]
fn messages_are_limited_as_well_as_bytes() {
    let mut lanes = lanes();
    assert_eq!(lanes.push(Lane::Low, 1, 60, 1), Pushed::Queued);
    assert_eq!(lanes.push(Lane::Low, 1, 41, 2), Pushed::DroppedNewest(2));
    assert_eq!(lanes.push(Lane::Low, 1, 40, 3), Pushed::Queued);
    assert_eq!(lanes.messages(Lane::Low), 100);
}

#[test]
fn an_empty_lane_takes_one_item_of_any_size() {
    for lane in Lane::ALL {
        let mut lanes = lanes();
        assert_eq!(lanes.push(lane, usize::MAX, u32::MAX, 1), Pushed::Queued);
        assert_eq!(lanes.pop(Lane::Low), Some((lane, 1)));
        assert_eq!((lanes.bytes(lane), lanes.messages(lane)), (0, 0));
    }
}

#[test]
fn a_full_lane_does_not_stand_in_the_way_of_another() {
    let mut lanes = lanes();
    assert_eq!(lanes.push(Lane::High, 5000, 1, 1), Pushed::Queued);
    assert_eq!(lanes.push(Lane::Critical, 1000, 1, 2), Pushed::Queued);
    assert_eq!(lanes.push(Lane::Low, 1000, 1, 3), Pushed::Queued);
}

#[test]
fn an_item_sent_in_part_is_the_next_of_its_lane() {
    let mut lanes = lanes();
    let _ = lanes.push(Lane::High, 500, 1, 1);
    let _ = lanes.push(Lane::High, 500, 1, 2);
    assert_eq!(lanes.pop(Lane::Low), Some((Lane::High, 1)));
    lanes.put_back(Lane::High, 400, 1, 1);
    assert_eq!(lanes.bytes(Lane::High), 900);
    assert_eq!(drain(&mut lanes), [1, 2]);
}

#[test]
fn a_critical_message_overtakes_one_that_is_sent_in_part() {
    let mut lanes = lanes();
    let _ = lanes.push(Lane::Low, 64 << 20, 1, 1);
    assert_eq!(lanes.pop(Lane::Low), Some((Lane::Low, 1)));
    lanes.put_back(Lane::Low, 63 << 20, 1, 1);
    let _ = lanes.push(Lane::Critical, 64, 1, 2);
    assert_eq!(drain(&mut lanes), [2, 1]);
}

#[test]
fn an_item_sent_in_part_is_never_dropped() {
    let mut lanes = lanes();
    let _ = lanes.push(Lane::Normal, 900, 1, 1);
    assert_eq!(lanes.pop(Lane::Low), Some((Lane::Normal, 1)));
    lanes.put_back(Lane::Normal, 900, 1, 1);
    assert_eq!(lanes.push(Lane::Normal, 900, 1, 2), Pushed::Queued);
    assert_eq!(lanes.push(Lane::Normal, 900, 1, 3), Pushed::DroppedOldest(vec![2]));
    assert_eq!(drain(&mut lanes), [1, 3]);
}

/// Keeps every lane in `sizes` busy during `turns` turns. Returns the bytes that each lane was
/// given.
fn served(sizes: [Option<usize>; 5], turns: usize) -> [usize; 5] {
    let mut lanes = Lanes::new(limits(usize::MAX, u32::MAX));
    let mut served = [0; 5];
    for _ in 0..turns {
        for (lane, bytes) in Lane::ALL.into_iter().zip(sizes) {
            let Some(bytes) = bytes else { continue };
            // A lane that becomes empty is owed nothing.
            while lanes.items(lane) < 2 || lanes.bytes(lane) < 2 * Lanes::<()>::TURN_BYTES {
                let _ = lanes.push(lane, bytes, 1, 0);
            }
        }
        let (lane, _) = lanes.pop(Lane::Low).unwrap();
        let bytes = sizes[lane.index()].unwrap();
        let sent = bytes.min(Lanes::<()>::TURN_BYTES);
        served[lane.index()] += sent;
        if bytes > sent {
            // An endless message, sent in pieces.
            lanes.put_back(lane, bytes, 1, 0);
        }
    }
    served
}

#[test]
fn a_critical_flood_leaves_a_share_to_the_low_lane() {
    for low in [1, 64, 1024, 64 << 10, 64 << 20] {
        let served = served([None, Some(64), None, None, Some(low)], 200_000);
        let (above, low_share) = (served[1], served[4]);
        let owed = above / Lanes::<()>::SHARE;
        let turn = Lanes::<()>::TURN_BYTES;
        assert!(low_share + turn >= owed, "{low}: {low_share} of {owed}");
        assert!(low_share <= owed + turn, "{low}: {low_share} of {owed}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_busy_lane_starves_and_none_takes_more_than_its_share(
        sizes in prop::array::uniform5(prop::option::of(1_usize..200_000)),
    ) {
        prop_assume!(sizes.iter().any(Option::is_some));
        let turns = 20_000;
        let served = served(sizes, turns);
        let first = sizes.iter().position(Option::is_some).unwrap();
        let mut above = served[first];
        for lane in first + 1..5 {
            if sizes[lane].is_none() {
                continue;
            }
            let owed = above / Lanes::<()>::SHARE;
            // A turn of its own and one of each lane above are still to be settled.
            let open = 4 * Lanes::<()>::TURN_BYTES;
            prop_assert!(served[lane] + open >= owed, "{lane}: {served:?}");
            prop_assert!(served[lane] <= owed + open, "{lane}: {served:?}");
            above += served[lane];
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize, usize, u32),
    Pop,
    PutBack,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_usize..5, 0_usize..500, 0_u32..40).prop_map(|(l, b, m)| Step::Push(l, b, m)),
        2 => Just(Step::Pop),
        1 => Just(Step::PutBack),
    ]
}

/// A model of one lane that states its rules in the simplest way.
#[derive(Default)]
struct Model {
    begun: Vec<(usize, u32, u32)>,
    waiting: VecDeque<(usize, u32, u32)>,
}

impl Model {
    fn fits(&self, bytes: usize, messages: u32, limits: LaneLimits) -> bool {
        let all_bytes: usize = self.waiting.iter().map(|item| item.0).sum();
        let all_messages: u32 = self.waiting.iter().map(|item| item.1).sum();
        self.waiting.is_empty()
            || (all_bytes + bytes <= limits.bytes && all_messages + messages <= limits.messages)
    }

    fn push(&mut self, lane: Lane, new: (usize, u32, u32), limits: LaneLimits) -> Pushed<u32> {
        let mut dropped = Vec::new();
        while !self.fits(new.0, new.1, limits) {
            match lane {
                Lane::Low => return Pushed::DroppedNewest(new.2),
                Lane::Normal => dropped.push(self.waiting.pop_front().unwrap().2),
                _ => return Pushed::Overflow(new.2),
            }
        }
        self.waiting.push_back(new);
        if dropped.is_empty() { Pushed::Queued } else { Pushed::DroppedOldest(dropped) }
    }
}

proptest! {
    #[test]
    fn lanes_behave_like_five_plain_queues(steps in prop::collection::vec(step(), 0..400)) {
        let limits = LaneLimits { bytes: 1000, messages: 50 };
        let mut lanes = Lanes::new([limits; 5]);
        let mut models: [Model; 5] = Default::default();
        let mut popped = None;
        for (step, number) in steps.into_iter().zip(0..) {
            match step {
                Step::Push(lane, bytes, messages) => {
                    let lane = Lane::ALL[lane];
                    let expected =
                        models[lane.index()].push(lane, (bytes, messages, number), limits);
                    prop_assert_eq!(lanes.push(lane, bytes, messages, number), expected);
                }
                Step::Pop => {
                    let Some((lane, item)) = lanes.pop(Lane::Low) else {
                        prop_assert!(models.iter().all(|m| m.begun.is_empty() && m.waiting.is_empty()));
                        continue;
                    };
                    let model = &mut models[lane.index()];
                    let next = model.begun.pop().or_else(|| model.waiting.pop_front()).unwrap();
                    prop_assert_eq!(next.2, item);
                    popped = Some((lane, next));
                }
                Step::PutBack => {
                    let Some((lane, (bytes, messages, item))) = popped.take() else { continue };
                    lanes.put_back(lane, bytes / 2, messages, item);
                    models[lane.index()].begun.push((bytes / 2, messages, item));
                }
            }
            for lane in Lane::ALL {
                let model = &models[lane.index()];
                let all = || model.begun.iter().chain(&model.waiting);
                prop_assert_eq!(lanes.items(lane), all().count());
                prop_assert_eq!(lanes.bytes(lane), all().map(|item| item.0).sum::<usize>());
                prop_assert_eq!(lanes.messages(lane), all().map(|item| u64::from(item.1)).sum::<u64>());
            }
        }
    }
}
