//! The dashboard: one page at `/`, with its style sheets and scripts, all of them in the program.
//!
//! Whatever it shows the browser fetches from the API, with the rights that the API gives: nothing here knows of mail,
//! and nothing here needs a token. The page must never run or load anything that is not in this directory, which its
//! Content-Security-Policy makes the browser enforce; and its scripts put what they are told on the page as text, never
//! as markup. It cannot fail: an unknown name is a 404.

mod assets;

use askama::Template;
use axum::Router;
use axum::extract::Path;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use assets::{ASSETS, Asset};

/// What the browser may load and do on the page: what this server sends, and nothing else. No script or style stands in
/// the page itself, so that text that slips into it stays text.
pub const CONTENT_SECURITY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
);

/// The page is asked for anew each time, and mostly answered with 304.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");

/// An asset's address changes with its content.
const FOR_GOOD: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// The page and its parts: `/` and `/assets/{bundle}/{name}`.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/", get(page)).route("/assets/{bundle}/{name}", get(asset))
}

/// The page as it is sent; its text is the same for everybody.
#[derive(Template)]
#[template(path = "page.html", config = "src/admin/dashboard/askama.toml")]
struct Page {
    /// Where its assets are, without a slash at the end.
    base: String,
    /// Scripts that are asked for at once, instead of one after the other as they name each other.
    modules: Vec<&'static str>,
    /// Of this program.
    version: &'static str,
}

async fn page(headers: HeaderMap) -> Response {
    answer(&assets::PAGE, &headers, ASK_AGAIN)
}

async fn asset(Path((bundle, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    // A page of another version must not be given scripts that do not belong together.
    let known = (bundle == *assets::BUNDLE).then(|| ASSETS.iter().find(|asset| asset.name == name)).flatten();
    match known {
        Some(asset) => answer(asset, &headers, FOR_GOOD),
        None => (StatusCode::NOT_FOUND, [(CACHE_CONTROL, ASK_AGAIN)]).into_response(),
    }
}

/// One file, compressed where the client takes that, or word that it has not changed.
fn answer(asset: &'static Asset, asked: &HeaderMap, keep: HeaderValue) -> Response {
    let form = asset.form(takes_gzip(asked));
    let mut headers: Vec<(HeaderName, HeaderValue)> = vec![
        (CACHE_CONTROL, keep),
        (VARY, HeaderValue::from_static("accept-encoding")),
        (CONTENT_SECURITY_POLICY, CONTENT_SECURITY),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    // What a tag is made of always fits a header.
    if let Ok(tag) = HeaderValue::from_str(&form.tag) {
        headers.push((ETAG, tag));
    }
    let unchanged = asked.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|tags| {
        tags.split(',').map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == form.tag)
    });
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        headers.push((CONTENT_TYPE, HeaderValue::from_static(asset.content_type)));
        if form.gzip {
            headers.push((CONTENT_ENCODING, HeaderValue::from_static("gzip")));
        }
        form.bytes.clone().into_response()
    };
    for (name, value) in headers {
        response.headers_mut().insert(name, value);
    }
    response
}

/// Whether the client says that it takes gzip (RFC 9110 §12.5.3); `*` and anything unclear count as no.
fn takes_gzip(asked: &HeaderMap) -> bool {
    asked
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .any(|coding| {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
            let refused =
                weight.trim().strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0));
            name.trim().eq_ignore_ascii_case("gzip") && !refused
        })
}

#[cfg(test)]
mod tests;
