//! Texts, and which rules stand under them. In: literals of rules, and a request's text. Out: the rules whose literal the text
//! is or begins with.

use std::collections::HashMap;

use mesh_proto::model::authorization::Literal;

/// The literals of one attribute. Only policies put something in here, so nobody outside chooses what meets in one place.
#[derive(Debug, Default)]
pub(super) struct Literals {
    whole: HashMap<Box<[u8]>, Vec<u32>>,
    /// Sorted, each text once, when it is finished.
    begins: Vec<Begin>,
}

#[derive(Debug)]
struct Begin {
    text: Box<[u8]>,
    rules: Vec<u32>,
    /// The longest other one that this one begins with.
    shorter: Option<usize>,
}

impl Literals {
    pub(super) fn add(&mut self, literal: &Literal, rule: u32) {
        match literal {
            Literal::Whole(text) => self.whole.entry(text.as_bytes().into()).or_default().push(rule),
            Literal::Begin(text) => {
                self.begins.push(Begin { text: text.as_bytes().into(), rules: vec![rule], shorter: None });
            }
        }
    }

    /// Nothing is added any more.
    pub(super) fn finish(&mut self) {
        self.begins.sort_by(|a, b| a.text.cmp(&b.text));
        self.begins.dedup_by(|later, first| {
            let same = later.text == first.text;
            if same {
                first.rules.append(&mut later.rules);
            }
            same
        });
        // Those that the present one may begin with, each one beginning with the one before it.
        let mut open: Vec<usize> = Vec::new();
        for at in 0..self.begins.len() {
            while open.last().is_some_and(|o| !self.begins[at].text.starts_with(&self.begins[*o].text)) {
                open.pop();
            }
            self.begins[at].shorter = open.last().copied();
            open.push(at);
        }
    }

    /// The rules whose literal `text` is, or begins with. Some may come twice.
    pub(super) fn find(&self, text: &[u8], mut found: impl FnMut(u32)) {
        if !self.whole.is_empty()
            && let Some(rules) = self.whole.get(text)
        {
            rules.iter().for_each(|rule| found(*rule));
        }
        // Whatever `text` begins with is not behind it, and so the last one that is not behind it begins with all of those.
        let mut at = self.begins.partition_point(|begin| *begin.text <= *text).checked_sub(1);
        while let Some(begin) = at.and_then(|at| self.begins.get(at)) {
            if text.starts_with(&begin.text) {
                begin.rules.iter().for_each(|rule| found(*rule));
            }
            at = begin.shorter;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(literals: &Literals, text: &str) -> Vec<u32> {
        let mut all = Vec::new();
        literals.find(text.as_bytes(), |rule| all.push(rule));
        all.sort_unstable();
        all
    }

    #[test]
    fn whole_texts_and_beginnings() {
        let mut literals = Literals::default();
        let begins = ["/a", "/api/", "", "/api/v1", "/a", "/b", "/api/v2/x"];
        for (rule, text) in (0..).zip(begins) {
            literals.add(&Literal::Begin(text.into()), rule);
        }
        literals.add(&Literal::Whole("/api/v1".into()), 10);
        literals.add(&Literal::Whole("/api/v1".into()), 11);
        literals.finish();
        assert_eq!(found(&literals, "/api/v1"), [0, 1, 2, 3, 4, 10, 11]);
        assert_eq!(found(&literals, "/api/v1/z"), [0, 1, 2, 3, 4]);
        assert_eq!(found(&literals, "/api/v2"), [0, 1, 2, 4]);
        assert_eq!(found(&literals, "/azzz"), [0, 2, 4]);
        assert_eq!(found(&literals, "/"), [2]);
        assert_eq!(found(&literals, ""), [2]);
        assert_eq!(found(&literals, "/c"), [2]);
    }

    /// The same, against a loop over all of them.
    #[test]
    fn a_loop_finds_the_same() {
        use rand::rngs::StdRng;
        use rand::{RngExt as _, SeedableRng as _};
        let mut random = StdRng::seed_from_u64(3);
        let text = |random: &mut StdRng| -> String {
            let length = random.random_range(0..6);
            (0..length).map(|_| if random.random_range(0..2) == 0 { 'a' } else { 'b' }).collect()
        };
        for _ in 0..500 {
            let all: Vec<Literal> = (0..random.random_range(0..12))
                .map(|_| match random.random_range(0..3) {
                    0 => Literal::Whole(text(&mut random)),
                    _ => Literal::Begin(text(&mut random)),
                })
                .collect();
            let mut literals = Literals::default();
            (0..).zip(&all).for_each(|(rule, literal)| literals.add(literal, rule));
            literals.finish();
            for _ in 0..10 {
                let asked = text(&mut random);
                let fits = |literal: &Literal| match literal {
                    Literal::Whole(whole) => *whole == asked,
                    Literal::Begin(begin) => asked.starts_with(begin.as_str()),
                };
                let expected: Vec<u32> =
                    (0..).zip(&all).filter(|(_, l)| fits(l)).map(|(rule, _)| rule).collect();
                assert_eq!(found(&literals, &asked), expected, "{all:?} {asked}");
            }
        }
    }
}
