//! Limits of time for what a fetch waits for: registries, and the programs with their credentials.
//!
//! Invariant: a program that hangs is a thread that hangs. It is not awaited for long, and only so many hang at once.

use std::cell::RefCell;
use std::time::Duration;

use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::timeout;

/// Maximum number of programs that run at once, for all registries and for one.
const ALL: usize = 16;
const EACH: usize = 4;

/// Waits for work at most so long.
pub(super) async fn with_timeout<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    timeout(limit, work).await.unwrap_or_else(|_late| Err(format!("{what} takes longer than {} s", limit.as_secs())))
}

/// Work on threads of its own that may hang, by registry.
#[derive(Debug, Default)]
pub(super) struct Helpers {
    running: RefCell<Vec<(String, AbortHandle)>>,
}

// === impl Helpers ===

impl Helpers {
    /// Runs work for a registry, and waits for it at most so long.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        registry: &str,
        limit: Duration,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let what = format!("the program with the credentials for {registry}");
        self.running.borrow_mut().retain(|(_registry, task)| !task.is_finished());
        let (all, each) = {
            let running = self.running.borrow();
            (running.len(), running.iter().filter(|(one, _task)| one == registry).count())
        };
        if all >= ALL || each >= EACH {
            return Err(format!("{what} is not started: {each} of them, {all} for all registries, have not ended"));
        }
        let task = spawn_blocking(work);
        self.running.borrow_mut().push((registry.to_owned(), task.abort_handle()));
        with_timeout(limit, &what, async { task.await.map_err(|error| error.to_string())? }).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_fetch_has_a_time_limit() {
        let error =
            with_timeout(SHORT, "the registry", std::future::pending::<Result<(), String>>()).await.unwrap_err();
        assert!(error.contains("the registry takes longer than"), "{error}");
        assert_eq!(with_timeout(LONG, "the registry", async { Ok(1) }).await, Ok(1));
    }

    #[tokio::test]
    async fn hanging_credential_programs_are_bounded() {
        let helpers = Helpers::default();
        let mut hanging = Vec::new();
        let mut hang = async |registry: &str| {
            let (end, ended) = mpsc::channel::<()>();
            hanging.push(end);
            let waits = move || {
                ended.recv().ok();
                Ok(())
            };
            helpers.run(registry, SHORT, waits).await.unwrap_err()
        };
        for _program in 0..EACH {
            let error = hang("evil.example").await;
            assert!(error.contains("credentials for evil.example takes longer"), "{error}");
        }
        assert!(hang("evil.example").await.contains("is not started"));
        assert_eq!(helpers.run("good.example", LONG, || Ok(1)).await, Ok(1));
        for number in EACH..ALL {
            assert!(hang(&format!("evil-{number}.example")).await.contains("takes longer"));
        }
        let error = helpers.run("good.example", LONG, || Ok(1)).await.unwrap_err();
        assert!(error.contains(&format!("{ALL} for all registries")), "{error}");
        // The threads end with the programs.
        hanging.clear();
        while helpers.run("good.example", LONG, || Ok(1)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
