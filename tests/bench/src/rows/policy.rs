//! One policy call in a new process whose compiled policy is cached: the sandbox's cost in an ADD.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use weft_bench::scene::Scene;

use crate::contenders::Ready;
use crate::sample::Sample;
use crate::table::{Budget, Figure, Row};

/// Names as the example prints them, and their meanings.
const PARTS: [(&str, &str); 4] = [
    ("total", "one policy call, cold process, cache warm: in all"),
    ("engine", "of it: engine"),
    ("load", "of it: digest, map, check, link"),
    ("call", "of it: instantiate and call"),
];

/// Measures the whole and its parts.
pub(super) fn measure(_scene: &Scene, ready: &Ready) -> Result<Vec<Row>> {
    let Some((_, state)) = ready.weft.env.iter().find(|(key, _)| key == "WEFT_STATE_DIR") else {
        // Something other than weft is measured.
        return Ok(Vec::new());
    };
    let mut samples: [Sample; 4] = Default::default();
    for _ in 0..ready.rounds {
        let output = Command::new(&ready.policy_cold).args([state, "host-local"]).output();
        let output = output.with_context(|| format!("start {}", ready.policy_cold.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{}: {}", ready.policy_cold.display(), String::from_utf8_lossy(&output.stderr).trim());
        }
        for (sample, (part, _)) in samples.iter_mut().zip(PARTS) {
            sample.push(time(&text, part)?);
        }
    }
    let budgets = [Some(Budget::Figure(1.0)), None, None, None];
    let rows = samples.iter().zip(PARTS).zip(budgets);
    Ok(rows.map(|((sample, (_, what)), budget)| Row::uncompared(what, Figure::from_sample(sample), budget)).collect())
}

/// Returns the number after a name, in `total 0.612 ms: engine 0.101, load ...`.
fn time(text: &str, part: &str) -> Result<Duration> {
    let mut words = text.split([' ', ',', ':']);
    let number = words.find(|word| *word == part).and_then(|_| words.next()).and_then(|word| word.parse::<f64>().ok());
    let millis = number.with_context(|| format!("no {part} in: {text}"))?;
    Ok(Duration::from_secs_f64(millis / 1000.0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn reads_what_the_example_prints() {
        let text = "total 0.612 ms: engine 0.101, load 0.402, call 0.109 (again 0.050); fuel 29000, host calls 2";
        assert_eq!(time(text, "total").unwrap(), Duration::from_micros(612));
        assert_eq!(time(text, "call").unwrap(), Duration::from_micros(109));
        assert!(time(text, "nothing").is_err());
    }
}
