//! Which messages: the options that stand for the API's [`Filter`].

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::admin::model::{Filter, Kind, State};

/// Conditions that all have to hold.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct Which {
    /// A recipient has this address
    #[arg(long, value_name = "ADDRESS", help_heading = "Which messages")]
    to: Option<String>,
    /// A recipient's domain is this one; *.example.com for all under it
    #[arg(long, value_name = "DOMAIN", help_heading = "Which messages")]
    to_domain: Option<String>,
    /// The sender (reverse-path): an address, @domain, or <> for reports
    #[arg(long, value_name = "ADDRESS", help_heading = "Which messages")]
    from: Option<String>,
    /// The user that submitted it
    #[arg(long, value_name = "NAME", help_heading = "Which messages")]
    user: Option<String>,
    /// The route that it would take now
    #[arg(long, value_name = "NAME", help_heading = "Which messages")]
    route: Option<String>,
    /// Accepted longer ago than this: 90s, 15m, 2h, 3d
    #[arg(long, value_name = "TIME", help_heading = "Which messages")]
    older: Option<String>,
    /// Accepted more recently than this
    #[arg(long, value_name = "TIME", help_heading = "Which messages")]
    newer: Option<String>,
    /// Where it stands; several with commas
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = states(),
          help_heading = "Which messages")]
    state: Vec<State>,
    /// What it is: without this mail and notices
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kinds(),
          help_heading = "Which messages")]
    kind: Vec<Kind>,
}

fn states() -> impl TypedValueParser<Value = State> {
    PossibleValuesParser::new(["queued", "active", "held", "delivered", "bounced", "discarded"])
        .try_map(|name| serde_json::from_value(serde_json::Value::String(name)))
}

fn kinds() -> impl TypedValueParser<Value = Kind> {
    PossibleValuesParser::new(["mail", "notice", "event"])
        .try_map(|name| serde_json::from_value(serde_json::Value::String(name)))
}

impl Which {
    /// As the API takes it.
    pub(super) fn filter(&self) -> Filter {
        Filter {
            state: self.state.clone(),
            kind: self.kind.clone(),
            to: self.to.clone(),
            to_domain: self.to_domain.clone(),
            from: self.from.clone(),
            user: self.user.clone(),
            route: self.route.clone(),
            older: self.older.clone(),
            newer: self.newer.clone(),
        }
    }

    /// No condition at all.
    pub(super) fn is_empty(&self) -> bool {
        self.filter() == Filter::default()
    }
}

/// Names and values for a query string.
pub(super) fn query(filter: &Filter) -> Vec<(&'static str, String)> {
    let Filter { state, kind, to, to_domain, from, user, route, older, newer } = filter;
    let mut query = Vec::new();
    if !state.is_empty() {
        query.push((
            "state",
            state.iter().map(|state| crate::cli::words::state(*state).0).collect::<Vec<_>>().join(","),
        ));
    }
    if !kind.is_empty() {
        query.push((
            "kind",
            kind.iter().map(|kind| crate::cli::words::kind(*kind)).collect::<Vec<_>>().join(","),
        ));
    }
    let rest = [
        ("to", to),
        ("to_domain", to_domain),
        ("from", from),
        ("user", user),
        ("route", route),
        ("older", older),
        ("newer", newer),
    ];
    query.extend(rest.into_iter().filter_map(|(name, value)| value.clone().map(|value| (name, value))));
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_has_its_name_in_the_query() {
        let some = |text: &str| Some(text.to_owned());
        let filter = Filter {
            state: vec![State::Queued, State::Held],
            kind: vec![Kind::Mail, Kind::Event],
            to: some("a@x"),
            to_domain: some("*.x"),
            from: some("<>"),
            user: some("u"),
            route: some("r"),
            older: some("1h"),
            newer: some("2d"),
        };
        let names: Vec<_> =
            query(&filter).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected =
            "state=queued,held kind=mail,event to=a@x to_domain=*.x from=<> user=u route=r older=1h newer=2d";
        assert_eq!(names.join(" "), expected);
        assert_eq!(query(&Filter::default()), []);
        // The same names as in the document.
        let document = serde_json::to_value(&filter).unwrap();
        assert!(query(&filter).iter().all(|(name, _)| document.get(name).is_some()));
    }
}
