//! The rules of one action at one connection, found by what they ask of a request.
//!
//! In: rules in their order. Out: the first one that matches, after a look at those few that can. Each rule stands under one
//! thing that a request needs for it, as a path or a field's value, chosen so that few rules share it; what asks for nothing
//! of the kind is looked at each time. Whoever is found is asked in full: the index only leaves out what cannot match.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName};
use mesh_proto::model::authorization::{Attribute, Literal};

use super::guard::Reading;
use super::literals::Literals;
use super::{Clause, Matcher, RequestFacts, Rule};

/// Rules of one action.
#[derive(Debug, Default)]
pub struct Rules {
    /// In their order. Behind one that matches whatever is asked for there is nobody.
    rules: Vec<Rule>,
    /// The last one matches whatever is asked for.
    settled: bool,
    by_field: HeaderMap<Literals>,
    by_attribute: Vec<(Attribute, Literals)>,
    /// Those without anything to be found by.
    rest: Vec<u32>,
}

/// One thing without which a rule cannot match: an attribute that is, or begins with, one of these.
struct Needed {
    attribute: Attribute,
    literals: Vec<Literal>,
}

/// How many rules need the same.
type Shared = HashMap<(Attribute, Literal), usize>;

impl Rules {
    pub(super) fn new(mut rules: Vec<Rule>) -> Self {
        let settled = rules.iter().position(Rule::is_settled);
        if let Some(last) = settled {
            rules.truncate(last + 1);
        }
        let mut made = Self { settled: settled.is_some(), ..Self::default() };
        let mut needs: Vec<Vec<Needed>> = rules.iter().map(needs).collect();
        if made.settled {
            needs.pop();
        }
        let mut shared = Shared::new();
        for needed in needs.iter().flatten() {
            for literal in &needed.literals {
                *shared.entry((needed.attribute.clone(), literal.clone())).or_default() += 1;
            }
        }
        for (index, needs) in needs.into_iter().enumerate() {
            // A policy has some thousand values at most.
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            match needs.into_iter().min_by_key(|needed| needed.company(&shared)) {
                Some(needed) => made.add(&needed, index),
                None => made.rest.push(index),
            }
        }
        made.by_field.values_mut().for_each(Literals::finish);
        made.by_attribute.iter_mut().for_each(|(_, literals)| literals.finish());
        made.rules = rules;
        made
    }

    fn add(&mut self, needed: &Needed, rule: u32) {
        let literals = match &needed.attribute {
            Attribute::RequestHeader(name) => {
                let name = HeaderName::from_bytes(name.as_bytes()).ok();
                // A map of fields has room for so many names.
                match name.and_then(|name| self.by_field.try_entry(name).ok()) {
                    Some(entry) => entry.or_insert_with(Literals::default),
                    None => return self.rest.push(rule),
                }
            }
            attribute => {
                let at = self.by_attribute.iter().position(|(known, _)| known == attribute);
                let at = at.unwrap_or_else(|| {
                    self.by_attribute.push((attribute.clone(), Literals::default()));
                    self.by_attribute.len() - 1
                });
                &mut self.by_attribute[at].1
            }
        };
        for literal in &needed.literals {
            literals.add(literal, rule);
        }
    }

    /// The first rule that matches.
    pub(super) fn first(&self, request: &RequestFacts<'_>, reading: Reading) -> Option<&Rule> {
        let mut first = self.rules.len().saturating_sub(usize::from(self.settled));
        let mut ask = |rule: u32| {
            let at = rule as usize;
            let matches = |rule: &Rule| rule.matches(|matcher| matcher.of_request(request, reading));
            if at < first && self.rules.get(at).is_some_and(matches) {
                first = at;
            }
        };
        self.rest.iter().for_each(|rule| ask(*rule));
        for (attribute, literals) in &self.by_attribute {
            request.texts(attribute, |text| literals.find(text, &mut ask));
        }
        // Policies may name many fields, and requests may have many: whoever has fewer is gone through.
        if self.by_field.len() <= request.headers.keys_len() {
            for (name, literals) in &self.by_field {
                let lines = request.headers.get_all(name);
                lines.iter().for_each(|line| each_value(line.as_bytes(), |v| literals.find(v, &mut ask)));
            }
        } else {
            for (name, line) in request.headers {
                let Some(literals) = self.by_field.get(name) else { continue };
                each_value(line.as_bytes(), |value| literals.find(value, &mut ask));
            }
        }
        self.rules.get(first)
    }

    /// The rule that matches whatever is asked for, where there is one.
    pub(super) fn settled(&self) -> Option<&Rule> {
        self.rules.last().filter(|_| self.settled)
    }

    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// A line, and what stands between its commas: what fits a value that has none of them is among these, also where several
/// lines are read as one.
fn each_value(line: &[u8], mut see: impl FnMut(&[u8])) {
    see(line);
    if line.contains(&b',') {
        line.split(|b| *b == b',').for_each(|part| see(part.trim_ascii()));
    }
}

impl Needed {
    /// How many rules are found with the most common of the literals.
    fn company(&self, shared: &Shared) -> usize {
        let of = |literal: &Literal| shared.get(&(self.attribute.clone(), literal.clone())).copied();
        self.literals.iter().filter_map(of).max().unwrap_or_default()
    }
}

/// What a rule cannot match without.
fn needs(rule: &Rule) -> Vec<Needed> {
    let when = rule.when.iter().filter_map(|matcher| needed(matcher));
    when.chain(of_clauses(&rule.to)).chain(of_clauses(&rule.from)).collect()
}

/// One of the clauses has to match: what all of them ask for.
fn of_clauses(clauses: &[Clause]) -> Vec<Needed> {
    let Some((first, others)) = clauses.split_first() else { return Vec::new() };
    let everywhere = |mut needed: Needed| {
        for clause in others {
            let same = |matcher: &Matcher| matcher.attribute == needed.attribute;
            let more = clause.iter().filter(|m| same(m)).find_map(|matcher| self::needed(matcher))?;
            needed.literals.extend(more.literals);
        }
        Some(needed)
    };
    first.iter().filter_map(|matcher| needed(matcher)).filter_map(everywhere).collect()
}

/// What a matcher asks for, if that can be looked up.
fn needed(matcher: &Matcher) -> Option<Needed> {
    let attribute = matcher.attribute.clone();
    let literal = |pattern: &mesh_proto::model::authorization::Pattern| {
        let literal = pattern.literal()?;
        match (&attribute, literal) {
            (Attribute::RequestHost, literal) => Some(literal.to_ascii_lowercase()),
            // Several lines are read as one with commas between.
            (Attribute::RequestHeader(_), literal) if literal.text().contains(',') => None,
            (_, literal) => Some(literal),
        }
    };
    let literals: Vec<Literal> = matcher.values.iter().map(literal).collect::<Option<_>>()?;
    (!literals.is_empty()).then_some(Needed { attribute, literals })
}
