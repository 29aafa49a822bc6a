//! `/docs`: a page that shows the `OpenAPI` document, and everything it is made of.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::routing::get;

use super::ApiState;
use super::openapi::problems;

/// Nothing comes from elsewhere, no script or style is inside the page, and nobody frames it.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the viewer.
type File = ([(HeaderName, &'static str); 5], &'static str);

problems! {
    open Open: ;
}

/// Show this document
///
/// As a page, with forms to try each operation. It loads nothing from elsewhere.
#[utoipa::path(
    get, path = "/docs", tag = "service", operation_id = "docs", security(()),
    responses((status = 200, description = "The page.", body = String, content_type = "text/html"), Open)
)]
pub(crate) async fn page() -> File {
    file("text/html; charset=utf-8", include_str!("../../assets/docs/index.html"))
}

/// What the page is made of.
pub(crate) fn parts() -> Router<ApiState> {
    Router::new().route("/docs/viewer.js", get(script)).route("/docs/viewer.css", get(style))
}

async fn script() -> File {
    file("text/javascript; charset=utf-8", include_str!("../../assets/docs/viewer.js"))
}

async fn style() -> File {
    file("text/css; charset=utf-8", include_str!("../../assets/docs/viewer.css"))
}

fn file(kind: &'static str, text: &'static str) -> File {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // Another version of the server brings another page.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}
