//! What the router sends, without a socket; what the page does is tested in a browser by `tests/dashboard/`.

use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;

async fn get(path: &str, headers: &[(HeaderName, &str)]) -> Response<Body> {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    router::<()>().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn body(response: Response<Body>) -> Vec<u8> {
    response.into_body().collect().await.unwrap().to_bytes().to_vec()
}

fn header(response: &Response<Body>, name: HeaderName) -> &str {
    response.headers().get(&name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
}

fn base() -> String {
    format!("/assets/{}", *assets::BUNDLE)
}

#[tokio::test]
async fn the_page_names_only_assets_that_are_there() {
    let page = String::from_utf8(body(get("/", &[]).await).await).unwrap();
    let named: Vec<&str> = page.split('"').filter(|part| part.starts_with("/assets/")).collect();
    assert!(named.len() >= ASSETS.len(), "the page names {} of {} assets", named.len(), ASSETS.len());
    for path in named {
        let path = path.split('#').next().unwrap();
        assert_eq!(get(path, &[]).await.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_script_imports_only_scripts_that_are_there() {
    for asset in ASSETS.iter().filter(|asset| asset.name.ends_with(".js") && !asset.name.starts_with("uPlot"))
    {
        let text = String::from_utf8(asset.form(false).bytes.to_vec()).unwrap();
        for import in text.split("from './").skip(1).filter_map(|rest| rest.split('\'').next()) {
            assert!(ASSETS.iter().any(|asset| asset.name == import), "{} imports {import}", asset.name);
        }
        assert!(text.lines().count() < 400, "{} is longer than a reader bears", asset.name);
    }
}

#[tokio::test]
async fn the_page_has_no_script_or_style_of_its_own_and_its_policy_forbids_them() {
    let response = get("/", &[]).await;
    let policy = header(&response, CONTENT_SECURITY_POLICY).to_owned();
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(header(&response, X_CONTENT_TYPE_OPTIONS), "nosniff");
    let page = String::from_utf8(body(response).await).unwrap();
    assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains(" onclick="));
    assert!(
        page.split("<script").skip(1).all(|script| script.contains("></script>")),
        "a script in the page"
    );
}

#[tokio::test]
async fn nothing_is_sent_again_that_the_browser_has() {
    for path in ["/".to_owned(), format!("{}/main.js", base())] {
        for coding in ["identity", "gzip"] {
            let first = get(&path, &[(ACCEPT_ENCODING, coding)]).await;
            let tag = header(&first, ETAG).to_owned();
            let again = get(&path, &[(ACCEPT_ENCODING, coding), (IF_NONE_MATCH, &tag)]).await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path} {coding}");
            assert_eq!(header(&again, ETAG), tag);
            assert!(body(again).await.is_empty());
            let other = get(&path, &[(ACCEPT_ENCODING, coding), (IF_NONE_MATCH, "\"another\"")]).await;
            assert_eq!(other.status(), StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn what_is_compressed_is_what_is_not() {
    for asset in ASSETS.iter() {
        let path = format!("{}/{}", base(), asset.name);
        let gzip = get(&path, &[(ACCEPT_ENCODING, "br, gzip;q=0.5")]).await;
        assert_eq!(header(&gzip, CACHE_CONTROL), "public, max-age=31536000, immutable");
        assert_eq!(header(&gzip, VARY), "accept-encoding");
        let plain = body(get(&path, &[(ACCEPT_ENCODING, "gzip;q=0")]).await).await;
        let packed = gzip.headers().contains_key(CONTENT_ENCODING);
        let bytes = body(gzip).await;
        if packed {
            let mut unpacked = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes.as_slice()), &mut unpacked)
                .unwrap();
            assert!(bytes.len() < plain.len());
            assert_eq!(unpacked, plain, "{path}");
        } else {
            assert_eq!(bytes, plain, "{path}");
        }
    }
}

#[tokio::test]
async fn a_script_of_another_version_is_not_given() {
    for path in
        ["/assets/0000000000000000/main.js", &format!("{}/../mod.rs", base()), &format!("{}/none.js", base())]
    {
        let response = get(path, &[]).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn all_of_it_is_less_than_100_kilobytes_over_the_wire() {
    let head = 300; // bytes of headers for each answer, generously
    let page = assets::PAGE.form(true).bytes.len();
    let all: usize =
        ASSETS.iter().map(|asset| asset.form(true).bytes.len() + head).sum::<usize>() + page + head;
    assert!(all < 100_000, "{all} bytes");
}
