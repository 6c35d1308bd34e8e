//! Compares the walk with a model of the stock plugin's iterator, over thousands of random histories.

use crate::address::{next, number};
use crate::{ClaimState, IpAddress, RangeSet};

use crate::pool::{contains, pick};
use crate::testing::{ModelLedger, range, request};

/// The stock plugin: one step at a time from after the last address, until a free address or the start again.
fn model(set: &RangeSet, last: Option<IpAddress>, taken: &[IpAddress]) -> Option<IpAddress> {
    let home = last.and_then(|last| {
        let index =
            set.ranges.iter().position(|range| (number(range.first)..=number(range.last)).contains(&number(last)));
        index.map(|index| (index, last))
    });
    let (mut index, mut at) = match home {
        None => (0, set.ranges[0].first),
        Some((index, last)) => step(set, index, last),
    };
    let start = at;
    loop {
        if set.ranges[index].gateway != Some(at) && !taken.contains(&at) {
            return Some(at);
        }
        (index, at) = step(set, index, at);
        if at == start {
            return None;
        }
    }
}

fn step(set: &RangeSet, index: usize, at: IpAddress) -> (usize, IpAddress) {
    if at == set.ranges[index].last {
        let index = (index + 1) % set.ranges.len();
        return (index, set.ranges[index].first);
    }
    (index, next(at).expect("inside a range"))
}

/// A generator that is the same in every run.
struct Random(u64);

impl Random {
    fn random_below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }
}

#[test]
fn the_walk_is_the_stock_plugins() {
    let mut random = Random(1);
    for history in 0..400 {
        let count = 1 + random.random_below(4);
        let ranges = (0..count).map(|index| {
            let first = 1 + random.random_below(8);
            let last = first + random.random_below(8);
            let gateway = 1 + random.random_below(16);
            range(&format!("10.{index}.0.{first}-10.{index}.0.{last}@10.{index}.0.0/24!10.{index}.0.{gateway}"))
        });
        let set = RangeSet { name: None, ranges: ranges.collect() };
        let request = request("{}", vec![set.clone()]);
        let (mut ledger, mut taken, mut last) = (ModelLedger::default(), Vec::<IpAddress>::new(), None);
        for turn in 0..60 {
            if !taken.is_empty() && random.random_below(3) == 0 {
                ledger.release(taken.swap_remove(random.random_below(taken.len())));
                continue;
            }
            let expected = model(&set, last, &taken);
            let picked = pick(&request, &[0], &ledger).ok().map(|picks| picks[0].wanted.candidates[0].address);
            assert_eq!(picked, expected, "history {history}, turn {turn}: {set:?}, last {last:?}, taken {taken:?}");
            if let Some(address) = picked {
                assert!(contains(&set, address));
                ledger.claim(address, "other", ClaimState::Active);
                taken.push(address);
                last = Some(address);
            }
        }
    }
}
