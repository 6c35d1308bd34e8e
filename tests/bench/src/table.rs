//! The table: rows, their budgets, and both output formats.

use comfy_table::{CellAlignment, Table as Grid, presets};
use serde_json::{Value, json};

use crate::sample::Sample;

/// The limit of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Budget {
    /// The ratio to the row's base.
    Ratio(f64),
    /// The figure itself.
    Figure(f64),
    /// Like `Figure`, for a count, to which slack does not apply.
    Exactly(f64),
}

/// A figure with its unit.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    value: f64,
    min: Option<f64>,
    unit: &'static str,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    what: String,
    ours: Figure,
    base: Option<(&'static str, Figure)>,
    budget: Option<Budget>,
}

/// The rows of a run.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

// === impl Figure ===

impl Figure {
    /// Returns the figure of timings: their median, and their minimum.
    pub(crate) fn from_sample(sample: &Sample) -> Self {
        Self { value: sample.median(), min: Some(sample.min()), unit: "ms" }
    }

    /// Returns a single number.
    pub(crate) fn single(value: f64, unit: &'static str) -> Self {
        Self { value, min: None, unit }
    }

    fn text(&self) -> String {
        let number = |value: f64| if self.unit.is_empty() { format!("{value:.0}") } else { format!("{value:.2}") };
        let min = self.min.map(|min| format!(" (min {})", number(min))).unwrap_or_default();
        format!("{} {}{min}", number(self.value), self.unit).trim_end().to_owned()
    }

    fn json(&self) -> Value {
        json!({ "value": self.value, "min": self.min, "unit": self.unit })
    }
}

// === impl Row ===

impl Row {
    /// Returns a row that compares weft with a base.
    pub(crate) fn compared(what: &str, ours: Figure, base: (&'static str, Figure), budget: Option<f64>) -> Self {
        Self { what: what.to_owned(), ours, base: Some(base), budget: budget.map(Budget::Ratio) }
    }

    /// Returns a row without a comparison.
    pub(crate) fn uncompared(what: &str, ours: Figure, budget: Option<Budget>) -> Self {
        Self { what: what.to_owned(), ours, base: None, budget }
    }

    fn ratio(&self) -> Option<f64> {
        self.base.as_ref().map(|(_, base)| self.ours.value / base.value)
    }

    /// Returns the ratio of both minima, which have the fewest disturbances.
    fn ratio_of_minima(&self) -> Option<f64> {
        Some(self.ours.min? / self.base.as_ref()?.1.min?)
    }

    /// Returns whether the row keeps its budget. A missing figure (NaN) keeps none.
    fn keeps_budget(&self) -> bool {
        match self.budget {
            None => true,
            Some(Budget::Ratio(limit)) => self.ratio().is_some_and(|ratio| ratio <= limit),
            Some(Budget::Figure(limit) | Budget::Exactly(limit)) => self.ours.value <= limit,
        }
    }

    /// Returns whether it keeps its budget times `slack`, by its medians or by its minima: other load on the machine
    /// can spoil either, but a regression shows in both.
    fn keeps_about(&self, slack: f64) -> bool {
        let below = |value: Option<f64>, limit: f64| value.is_some_and(|value| value <= limit * slack);
        match self.budget {
            Some(Budget::Ratio(limit)) => below(self.ratio(), limit) || below(self.ratio_of_minima(), limit),
            Some(Budget::Figure(limit)) => below(Some(self.ours.value), limit) || below(self.ours.min, limit),
            Some(Budget::Exactly(_)) | None => self.keeps_budget(),
        }
    }

    fn budget_text(&self) -> String {
        match self.budget {
            None => String::new(),
            Some(Budget::Ratio(limit)) => format!("<= {limit:.2}"),
            Some(Budget::Figure(limit)) => format!("<= {limit} {}", self.ours.unit),
            Some(Budget::Exactly(limit)) => format!("= {limit}"),
        }
    }

    fn verdict(&self) -> &'static str {
        match self.budget {
            None => "",
            Some(_) if self.keeps_budget() => "kept",
            Some(_) => "MISSED",
        }
    }
}

// === impl Table ===

impl Table {
    /// Appends rows.
    pub(crate) fn extend(&mut self, rows: Vec<Row>) {
        self.rows.extend(rows);
    }

    /// Returns the budgets that were missed even with slack, one line each.
    pub(crate) fn missed(&self, slack: f64) -> Vec<String> {
        let missed = self.rows.iter().filter(|row| !row.keeps_about(slack));
        missed
            .map(|row| {
                let ratio = row.ratio().map(|ratio| format!(", ratio {ratio:.2}")).unwrap_or_default();
                format!("{}: {}{ratio}, budget {}", row.what, row.ours.text(), row.budget_text())
            })
            .collect()
    }

    /// Returns the table for people.
    pub(crate) fn human(&self) -> String {
        let mut grid = Grid::new();
        grid.load_style(presets::ASCII_MARKDOWN);
        grid.set_header(["what", "weft", "base", "of base", "ratio", "of minima", "budget", ""]);
        for row in &self.rows {
            let (base, of_base) = row.base.as_ref().map_or((String::new(), ""), |(name, base)| (base.text(), *name));
            let text = |ratio: Option<f64>| ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            grid.add_row([
                row.what.clone(),
                row.ours.text(),
                base,
                of_base.to_owned(),
                text(row.ratio()),
                text(row.ratio_of_minima()),
                row.budget_text(),
                row.verdict().to_owned(),
            ]);
        }
        for index in [1, 2, 4, 5] {
            if let Some(column) = grid.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        grid.to_string()
    }

    /// Returns the table for programs.
    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "what": row.what,
                "weft": row.ours.json(),
                "base": row.base.as_ref().map(|(name, figure)| json!({ "of": name, "figure": figure.json() })),
                "ratio": row.ratio(),
                "ratioOfMinima": row.ratio_of_minima(),
                "budget": row.budget.map(|_| row.budget_text()),
                "kept": row.budget.map(|_| row.keeps_budget()),
            })
        });
        json!({ "rows": rows.collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    fn ratio(ours: f64, budget: f64) -> Row {
        Row::compared("x", Figure::single(ours, "ms"), ("reference", Figure::single(10.0, "ms")), Some(budget))
    }

    #[test]
    fn budgets_are_kept_or_missed() {
        assert!(ratio(3.0, 0.35).keeps_budget());
        assert!(!ratio(4.0, 0.35).keeps_budget());
        assert!(ratio(4.0, 0.35).keeps_about(1.3));
        assert!(!ratio(5.0, 0.35).keeps_about(1.3));
        assert!(!ratio(f64::NAN, 0.35).keeps_about(1.3), "what was not measured keeps nothing");
        let count = Row::uncompared("x", Figure::single(1.0, ""), Some(Budget::Exactly(0.0)));
        assert!(!count.keeps_about(100.0), "slack does not apply to counts");
    }

    #[test]
    fn a_noisy_median_is_forgiven_where_the_minimum_is_right() {
        let figure = |value, min| Figure { value, min: Some(min), unit: "ms" };
        let noisy = Row::compared("x", figure(9.0, 3.0), ("reference", figure(10.0, 10.0)), Some(0.35));
        assert!(!noisy.keeps_budget() && noisy.keeps_about(1.0));
    }

    #[test]
    fn both_outputs_name_the_missed_budgets() {
        let mut table = Table::default();
        table.extend(vec![ratio(1.0, 0.35), ratio(8.0, 0.35)]);
        assert_eq!(table.missed(1.3), ["x: 8.00 ms, ratio 0.80, budget <= 0.35"]);
        assert!(table.human().contains("MISSED"));
        assert_eq!(table.json()["rows"][1]["kept"], false);
    }
}
