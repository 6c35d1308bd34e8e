//! Timings and their medians, and the interleaving of contenders.

use std::time::Duration;

use anyhow::Result;

/// Calls that are not counted: they warm caches and make shared links.
const WARM_UP: usize = 3;

/// Timings of one contender, in milliseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    values: Vec<f64>,
}

/// One contender's turn in a round: it returns one timing for each of its samples.
pub(crate) type Turn<'a> = Box<dyn FnMut(usize) -> Result<Vec<Duration>> + 'a>;

// === impl Sample ===

impl Sample {
    pub(crate) fn push(&mut self, took: Duration) {
        self.values.push(took.as_secs_f64() * 1000.0);
    }

    /// Returns the middle value; of an even number, the mean of the middle two.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match (sorted.len() % 2, sorted.get(middle), middle.checked_sub(1).and_then(|below| sorted.get(below))) {
            (1, Some(value), _) => *value,
            (0, Some(upper), Some(lower)) => f64::midpoint(*upper, *lower),
            _ => f64::NAN,
        }
    }

    /// Returns the smallest value: the cost without disturbances.
    pub(crate) fn min(&self) -> f64 {
        self.values.iter().copied().fold(f64::NAN, f64::min)
    }
}

/// Lets contenders take turns for some rounds, each round starting with another one, and collects for each contender
/// one sample per timing that it returns.
///
/// # Errors
/// The first error of a turn.
pub(crate) fn interleave<const N: usize>(rounds: usize, mut turns: [Turn<'_>; N]) -> Result<[Vec<Sample>; N]> {
    let mut samples: [Vec<Sample>; N] = std::array::from_fn(|_| Vec::new());
    for round in 0..WARM_UP + rounds {
        for place in 0..N {
            let index = (round + place) % N;
            let (Some(turn), Some(samples)) = (turns.get_mut(index), samples.get_mut(index)) else { continue };
            let timings = turn(round)?;
            if round < WARM_UP {
                continue;
            }
            samples.resize(timings.len(), Sample::default());
            for (sample, timing) in samples.iter_mut().zip(timings) {
                sample.push(timing);
            }
        }
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    fn sample(millis: &[u64]) -> Sample {
        let mut sample = Sample::default();
        millis.iter().for_each(|value| sample.push(Duration::from_millis(*value)));
        sample
    }

    #[test]
    fn medians() {
        assert!((sample(&[9, 1, 5]).median() - 5.0).abs() < 1e-9);
        assert!((sample(&[9, 1, 5, 7]).median() - 6.0).abs() < 1e-9);
        assert!((sample(&[9, 1]).min() - 1.0).abs() < 1e-9);
        assert!(sample(&[]).median().is_nan());
    }

    #[test]
    fn every_contender_takes_every_turn_and_warm_up_does_not_count() {
        let order = std::cell::RefCell::new(Vec::new());
        let turn = |name: &'static str| -> Turn<'_> {
            let order = &order;
            Box::new(move |_| {
                order.borrow_mut().push(name);
                Ok(vec![Duration::from_millis(1)])
            })
        };
        let samples = interleave(3, [turn("a"), turn("b")]).unwrap();
        assert!(samples.iter().all(|of| of.len() == 1 && of[0].values.len() == 3));
        assert_eq!(order.into_inner(), ["a", "b", "b", "a", "a", "b", "b", "a", "a", "b", "b", "a"]);
    }
}
