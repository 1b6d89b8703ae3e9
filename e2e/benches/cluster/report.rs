//! What was measured, as a table and as one JSON object a line.

use serde_json::{Value, json};

/// All rows.
#[derive(Debug, Default)]
pub struct Report(Vec<Row>);

#[derive(Debug)]
struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    /// At most.
    goal: Option<f64>,
    /// How it came about.
    note: String,
}

impl Report {
    /// Adds a figure that has no goal.
    pub fn add(&mut self, what: &str, value: f64, unit: &'static str, note: &str) {
        self.row(what, value, unit, None, note);
    }

    /// Adds a figure that is to be at most `goal`.
    pub fn goal(&mut self, what: &str, value: f64, unit: &'static str, goal: f64, note: &str) {
        self.row(what, value, unit, Some(goal), note);
    }

    fn row(&mut self, what: &str, value: f64, unit: &'static str, goal: Option<f64>, note: &str) {
        eprintln!("  {what}: {value:.1} {unit} ({note})");
        self.0.push(Row { what: what.to_owned(), value, unit, goal, note: note.to_owned() });
    }

    /// Prints both forms.
    pub fn print(&self) {
        println!("| | | goal | |\n|---|---|---|---|");
        for Row { what, value, unit, goal, note } in &self.0 {
            let met = |goal: f64| if *value <= goal { "" } else { ": **missed**" };
            let goal = goal.map(|goal| format!("<= {goal} {unit}{}", met(goal))).unwrap_or_default();
            println!("| {what} | {value:.1} {unit} | {goal} | {note} |");
        }
        println!();
        for Row { what, value, unit, goal, note } in &self.0 {
            let goal = goal.map_or(Value::Null, Value::from);
            println!("{}", json!({"what": what, "value": value, "unit": unit, "goal": goal, "note": note}));
        }
    }
}

/// The value below which `share` per cent of all are.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    if sorted.is_empty() {
        return f64::NAN;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let rank = ((sorted.len() as f64 * share / 100.0).ceil() as usize).clamp(1, sorted.len());
    sorted[rank - 1]
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

/// `3.1-4.7`.
pub fn range(values: &[f64]) -> String {
    format!("{:.1}-{:.1}", percentile(values, 0.0), percentile(values, 100.0))
}
