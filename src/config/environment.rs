//! `ONCEMAIL__SECTION__KEY`: any key, said by the environment. What the environment says wins over the file.
//!
//! `ONCEMAIL__HOSTNAME`, `ONCEMAIL__LIMITS__RECIPIENTS`, `ONCEMAIL__ROUTE__0__PASSWORD_FILE`; lists are separated by
//! commas. A variable that means nothing is an error, like a key that means nothing.

use zeroize::Zeroizing;

use super::container::SHORT_VARIABLES;
use super::errors::{Place, Problems, nearest};
use super::keys::{self, SECTIONS, Shape};
use super::tree::{Node, Table, Value};

/// What every override starts with.
const OVERRIDE: &str = "ONCEMAIL__";
/// What every variable of ours starts with.
const PREFIX: &str = "ONCEMAIL_";
/// Variables that say how a command finds its configuration or its server.
const COMMAND_LINE: [&str; 4] =
    ["ONCEMAIL_CONFIG", "ONCEMAIL_SERVER", "ONCEMAIL_ADMIN_TOKEN", "ONCEMAIL_ADMIN_TOKEN_FILE"];

/// The variables that concern the configuration, empty ones left out.
pub(super) struct Variables(Vec<(String, Zeroizing<String>)>);

impl Variables {
    /// Picks ours.
    pub fn collect(env: impl Iterator<Item = (String, String)>) -> Self {
        let env = env.map(|(name, value)| (name, Zeroizing::new(value)));
        let mut variables: Vec<_> = env.filter(|(name, value)| is_ours(name) && !value.is_empty()).collect();
        // `…__10__…` must come after `…__9__…`.
        variables.sort_by_cached_key(|(name, _)| (index_of(name), name.clone()));
        Self(variables)
    }

    /// Whether the environment says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Whether a variable starts with `prefix`.
    pub fn any(&self, prefix: &str) -> bool {
        self.0.iter().any(|(name, _)| name.starts_with(prefix))
    }
}

/// A service that is named "oncemail" makes Kubernetes set `ONCEMAIL_PORT`, `ONCEMAIL_SERVICE_HOST` and more: those are
/// not ours. The command line
/// has variables of its own.
fn is_ours(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let is_service_link = !rest.starts_with('_') && (rest.contains("SERVICE_") || rest.contains("PORT"));
    !is_service_link && !COMMAND_LINE.contains(&name)
}

fn index_of(name: &str) -> usize {
    name.split("__").nth(2).and_then(|index| index.parse().ok()).unwrap_or(0)
}

/// Writes every override into the tree.
pub(super) fn apply(root: &mut Table, variables: &Variables, problems: &Problems) {
    for (name, value) in &variables.0 {
        if SHORT_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let place = Place::whole(name.as_str());
        let path = name.strip_prefix(OVERRIDE).map(str::to_lowercase).unwrap_or_default();
        let segments: Vec<_> = path.split("__").collect();
        if let Err((what, hint)) = set(root, &segments, &place, value) {
            let hint = hint.or_else(|| suggestion(name));
            problems.hint(
                &place,
                what,
                hint.unwrap_or_else(|| "see config/oncemail.toml for what there is".into()),
            );
        }
    }
}

type Refusal = (String, Option<String>);

fn set(root: &mut Table, segments: &[&str], place: &Place, value: &str) -> Result<(), Refusal> {
    let unknown = || ("no such variable".to_owned(), None);
    match *segments {
        [section, ..] if keys::planned_section(section).is_some() => {
            root.section_mut(section, place);
            Ok(())
        }
        [key] => set_key(root, keys::shape("").ok_or_else(unknown)?, key, place, value),
        [section, key] => {
            let shape = keys::shape(section).filter(|shape| !shape.repeated).ok_or_else(unknown)?;
            match root.section_mut(section, place) {
                Some(table) => set_key(table, shape, key, place, value),
                // The file has something else there, which has been noted.
                None => Ok(()),
            }
        }
        [section, index, key] => {
            let shape = keys::shape(section).filter(|shape| shape.repeated).ok_or_else(unknown)?;
            let index = index.parse::<usize>().map_err(|_| unknown())?;
            let Some(list) = root.list_mut(section, place) else { return Ok(()) };
            if index == list.len() {
                list.push(Node { place: place.clone(), value: Value::Table(Table::new(place.clone())) });
            }
            let next = list.len();
            match list.get_mut(index) {
                Some(Node { value: Value::Table(table), .. }) => set_key(table, shape, key, place, value),
                Some(_) => Ok(()),
                None => Err((
                    format!("there is no [[{section}]] {index}"),
                    Some(format!("the next one is {next}")),
                )),
            }
        }
        _ => Err(unknown()),
    }
}

fn set_key(
    table: &mut Table,
    shape: &'static Shape,
    key: &str,
    place: &Place,
    value: &str,
) -> Result<(), Refusal> {
    if !keys::keys_of(shape).any(|known| known == key) {
        return Err((format!("there is no key `{key}`"), None));
    }
    // A secret from the environment replaces the file's, whichever way either of them is given.
    let twin = key.strip_suffix("_file").map_or_else(|| format!("{key}_file"), str::to_owned);
    if table.get(&twin).is_some_and(|node| !matches!(node.value, Value::Loose(_))) {
        table.remove(&twin);
    }
    table.set(key, place, Value::loose(value));
    Ok(())
}

/// The variable that was most likely meant.
fn suggestion(name: &str) -> Option<String> {
    let index = index_of(name);
    let overrides = SECTIONS.iter().flat_map(|shape| {
        keys::keys_of(shape).map(move |key| match (shape.name, shape.repeated) {
            ("", _) => format!("{OVERRIDE}{key}"),
            (section, true) => format!("{OVERRIDE}{section}__{index}__{key}"),
            (section, false) => format!("{OVERRIDE}{section}__{key}"),
        })
    });
    let mut names: Vec<_> = overrides.map(|name| name.to_lowercase()).collect();
    names.extend(SHORT_VARIABLES.iter().map(|name| name.to_lowercase()));
    let near = nearest(name, names.iter().map(String::as_str))?;
    Some(format!("did you mean {}?", near.to_uppercase()))
}
