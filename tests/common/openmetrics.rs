//! A strict reader of the OpenMetrics text format, as far as oncemail writes it: whatever the format forbids is a panic.

use std::collections::{BTreeMap, BTreeSet};

/// One family.
#[derive(Clone, Debug)]
pub struct Family {
    pub kind: String,
    /// Names of labels, `le` of a histogram left out.
    pub labels: BTreeSet<String>,
}

/// A whole text.
#[derive(Clone, Debug)]
pub struct Scrape {
    pub families: BTreeMap<String, Family>,
    /// By name with labels, as they are written.
    pub samples: BTreeMap<String, f64>,
}

impl Scrape {
    pub fn read(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("the text ends with # EOF");
        let mut scrape = Self { families: BTreeMap::new(), samples: BTreeMap::new() };
        let (mut current, mut help) = (None::<String>, None::<String>);
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, text) = rest.split_once(' ').expect("a sentence");
                assert!(text.ends_with('.') && text.len() > 10, "{line}");
                help = Some(name.to_owned());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                let about = help.take().expect("HELP comes before TYPE");
                assert_eq!(about, name);
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                let family = Family { kind: kind.to_owned(), labels: BTreeSet::new() };
                assert!(scrape.families.insert(name.to_owned(), family).is_none(), "{name} is there twice");
                current = Some(name.to_owned());
            } else if let Some(rest) = line.strip_prefix("# UNIT ") {
                let (name, unit) = rest.split_once(' ').expect("a unit");
                assert!(current.as_deref() == Some(name) && name.ends_with(unit), "{line}");
            } else {
                assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
                scrape.sample(line, current.as_deref().expect("a family before its samples"));
            }
        }
        scrape.check_histograms();
        scrape
    }

    /// A figure, by its name with labels; it must be there.
    pub fn value(&self, name: &str) -> f64 {
        let found = self.samples.get(name);
        *found.unwrap_or_else(|| panic!("no {name} in {:#?}", self.samples.keys()))
    }

    /// All figures that differ from those of `earlier`, by how much, but for those that `is_left_out`.
    pub fn since(&self, earlier: &Self, is_left_out: impl Fn(&str) -> bool) -> BTreeMap<String, f64> {
        let mut changed = BTreeMap::new();
        for (name, now) in &self.samples {
            let by = now - earlier.samples.get(name).copied().unwrap_or_default();
            if by != 0.0 && !is_left_out(name) {
                changed.insert(name.clone(), by);
            }
        }
        changed
    }

    /// Every name that a query may use.
    pub fn names(&self) -> BTreeSet<String> {
        self.samples.keys().map(|key| key.split('{').next().unwrap().to_owned()).collect()
    }

    fn sample(&mut self, line: &str, family: &str) {
        let (key, value) = line.rsplit_once(' ').expect("a value");
        let value = value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        let (name, labels) = match key.split_once('{') {
            Some((name, labels)) => (name, read_labels(labels.strip_suffix('}').expect("a brace"))),
            None => (key, Vec::new()),
        };
        let about = self.families.get_mut(family).unwrap();
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} is not of {family}"));
        let allowed: &[&str] = match about.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            _ => &["_bucket", "_sum", "_count"],
        };
        assert!(allowed.contains(&suffix), "{line} is no {}", about.kind);
        let names: BTreeSet<_> = labels.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names.len(), labels.len(), "a label is there twice: {line}");
        assert_eq!(names.contains("le"), suffix == "_bucket", "{line}");
        about.labels.extend(names.into_iter().filter(|name| name != "le"));
        assert!(value >= 0.0 && value.is_finite(), "{line}");
        assert!(self.samples.insert(key.to_owned(), value).is_none(), "{key} is there twice");
    }

    /// Buckets only rise, up to `+Inf`, which is the count.
    fn check_histograms(&self) {
        let histograms = self.families.iter().filter(|(_, family)| family.kind == "histogram");
        for (name, _) in histograms {
            let counts: Vec<_> =
                self.samples.iter().filter(|(key, _)| key.starts_with(&format!("{name}_count"))).collect();
            assert!(!counts.is_empty(), "{name} has no _count");
            for (key, count) in counts {
                let labels = key.trim_start_matches(&format!("{name}_count")).trim_matches(['{', '}']);
                let mut buckets: Vec<(f64, f64)> = Vec::new();
                for (key, value) in &self.samples {
                    let Some(inner) = key.strip_prefix(&format!("{name}_bucket{{")) else { continue };
                    let (before, le) = inner.split_once("le=\"").unwrap();
                    let (le, after) = le.split_once('"').unwrap();
                    let rest = format!("{before}{}", after.trim_end_matches('}'));
                    if rest.trim_matches(',') == labels {
                        let bound = if le == "+Inf" { f64::INFINITY } else { le.parse().unwrap() };
                        buckets.push((bound, *value));
                    }
                }
                buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
                assert!(buckets.is_sorted_by(|one, other| one.1 <= other.1), "{key}: {buckets:?}");
                assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{key}");
            }
        }
    }
}

/// `a="b",c="d"`, with `\\`, `\"` and `\n`.
fn read_labels(mut text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").unwrap_or_else(|| panic!("{text}"));
        let is_name = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        assert!(is_name(name), "{name:?} is no name of a label");
        let (mut value, mut chars) = (String::new(), rest.char_indices());
        let end = loop {
            match chars.next().expect("a closing quote") {
                (at, '"') => break at,
                (_, '\\') => match chars.next().expect("something escaped").1 {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    c => panic!("\\{c}"),
                },
                (_, c) => value.push(c),
            }
        };
        labels.push((name.to_owned(), value));
        text = &rest[end + 1..];
        if let Some(more) = text.strip_prefix(',') {
            assert!(!more.is_empty(), "a comma without a label");
            text = more;
        }
    }
    labels
}
