//! The files of the page, as they go over the wire: compressed once, and addressed by what is in them.
//!
//! All assets share one directory name made of their contents (the *bundle*), so that a script may name another one
//! beside it, and the browser may keep all of them for good.

use std::io::Write;
use std::sync::LazyLock;

use askama::Template;
use axum::body::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::Page;

const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

/// What a file is to the page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Named by the page itself.
    Named(&'static str),
    /// Named by another script.
    Module,
}

/// Name, role, bytes. `main.js` names the other modules.
const FILES: &[(&str, Role, &[u8])] = &[
    ("mark.svg", Role::Named(PICTURE), include_bytes!("assets/mark.svg")),
    ("page.css", Role::Named(STYLE), include_bytes!("assets/page.css")),
    ("parts.css", Role::Named(STYLE), include_bytes!("assets/parts.css")),
    ("uPlot.min.css", Role::Named(STYLE), include_bytes!("assets/uPlot.min.css")),
    ("uPlot.iife.min.js", Role::Named(SCRIPT), include_bytes!("assets/uPlot.iife.min.js")),
    ("theme.js", Role::Named(SCRIPT), include_bytes!("assets/theme.js")),
    ("main.js", Role::Named(SCRIPT), include_bytes!("assets/main.js")),
    ("api.js", Role::Module, include_bytes!("assets/api.js")),
    ("charts.js", Role::Module, include_bytes!("assets/charts.js")),
    ("configuration.js", Role::Module, include_bytes!("assets/configuration.js")),
    ("confirm.js", Role::Module, include_bytes!("assets/confirm.js")),
    ("destinations.js", Role::Module, include_bytes!("assets/destinations.js")),
    ("dom.js", Role::Module, include_bytes!("assets/dom.js")),
    ("format.js", Role::Module, include_bytes!("assets/format.js")),
    ("keys.js", Role::Module, include_bytes!("assets/keys.js")),
    ("live.js", Role::Module, include_bytes!("assets/live.js")),
    ("overview.js", Role::Module, include_bytes!("assets/overview.js")),
    ("queue.js", Role::Module, include_bytes!("assets/queue.js")),
    ("session.js", Role::Module, include_bytes!("assets/session.js")),
    ("story.js", Role::Module, include_bytes!("assets/story.js")),
    ("suppressions.js", Role::Module, include_bytes!("assets/suppressions.js")),
    ("table.js", Role::Module, include_bytes!("assets/table.js")),
    ("timeline.js", Role::Module, include_bytes!("assets/timeline.js")),
];

/// One file, ready to be sent.
pub(super) struct Asset {
    /// The last part of its path.
    pub(super) name: &'static str,
    /// Its media type.
    pub(super) content_type: &'static str,
    plain: Form,
    /// Absent where it would not be smaller.
    gzip: Option<Form>,
}

/// A file as it goes over the wire.
pub(super) struct Form {
    pub(super) bytes: Bytes,
    /// A strong entity tag with its quotes; another one for each form (RFC 9110 §8.8.3.3).
    pub(super) tag: String,
    pub(super) gzip: bool,
}

/// The name of the directory that all assets are in: changes with any of them.
pub(super) static BUNDLE: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = blake3::Hasher::new();
    for (name, _, bytes) in FILES {
        hasher.update(blake3::hash(name.as_bytes()).as_bytes()).update(blake3::hash(bytes).as_bytes());
    }
    tag_of(hasher.finalize())
});

/// All of them but the page.
pub(super) static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let asset = |&(name, role, bytes): &(_, Role, &'static [u8])| {
        let content_type = match role {
            Role::Named(content_type) => content_type,
            Role::Module => SCRIPT,
        };
        Asset::new(name, content_type, Bytes::from_static(bytes))
    };
    FILES.iter().map(asset).collect()
});

/// The page itself.
pub(super) static PAGE: LazyLock<Asset> = LazyLock::new(|| {
    let modules =
        FILES.iter().filter(|(_, role, _)| *role == Role::Module).map(|(name, _, _)| *name).collect();
    let page = Page { base: format!("/assets/{}", *BUNDLE), modules, version: env!("CARGO_PKG_VERSION") };
    // Writing plain values into a string does not fail; an empty page would be seen by every test.
    Asset::new("", "text/html; charset=utf-8", page.render().unwrap_or_default().into())
});

impl Asset {
    fn new(name: &'static str, content_type: &'static str, bytes: Bytes) -> Self {
        let tag = tag_of(blake3::hash(&bytes));
        let gzip = compressed(&bytes).filter(|shorter| shorter.len() < bytes.len()).map(|shorter| Form {
            bytes: shorter.into(),
            tag: format!("\"{tag}-gzip\""),
            gzip: true,
        });
        Self { name, content_type, plain: Form { bytes, tag: format!("\"{tag}\""), gzip: false }, gzip }
    }

    /// The form for a client that takes gzip, or does not.
    pub(super) fn form(&self, gzip: bool) -> &Form {
        self.gzip.as_ref().filter(|_| gzip).unwrap_or(&self.plain)
    }
}

/// 64 bits of a hash: enough to tell our own files apart.
fn tag_of(hash: blake3::Hash) -> String {
    hash.to_hex().chars().take(16).collect()
}

/// `None` never comes: memory is written to. Were it otherwise the plain form would be sent.
fn compressed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}
