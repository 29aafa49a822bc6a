//! Prints the OpenAPI document of the API: `./dev openapi` writes `docs/openapi.json` with it.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(eip_server::openapi().as_bytes())
}
