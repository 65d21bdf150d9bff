//! The relay's configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::events;
use crate::message::Route;

/// Octets that the history may take: what is on the disk must be bounded within a short run too.
pub const HISTORY: u64 = 32_000_000;

/// Writes it into `directory`, with a route to each far side, and says where it stands.
pub fn write(directory: &Path, far_sides: &[(Route, SocketAddr)]) -> Result<PathBuf> {
    let path = directory.join("oncemail.toml");
    let data_dir = directory.join("var");
    let mut text = format!(
        r#"
data_dir = "{data_dir}"
shutdown_grace = "20s"
[log]
format = "json"
[limits]
min_free = "100MB"
[history]
size = "{HISTORY}B"
[events]
file = "{events}"
file_size = "16MB"
file_count = {kept}
events = ["delivered", "bounced", "held"]
[[listener]]
name = "submission"
address = "127.0.0.1:0"
tls = "none"
auth = "none"
[retry]
base = "200ms"
cap = "1s"
warn_after = "never"
[breaker]
failures = 5
window = "10s"
open_for = "1s"
"#,
        data_dir = data_dir.display(),
        events = events::path(&path).display(),
        kept = events::KEPT
    );
    for (route, address) in far_sides {
        let name = route.name();
        let in_doubt = if *route == Route::Hold { "hold" } else { "resend" };
        // The last route takes everything, as a sane configuration has it.
        let condition = match route {
            Route::Reports => String::new(),
            _ => format!("recipient_domains = [\"{name}.soak.example\"]\n"),
        };
        text.push_str(&format!(
            r#"
[[route]]
name = "{name}"
{condition}transport = "smarthost"
hosts = ["{address}"]
tls = "none"
in_doubt = "{in_doubt}"
"#
        ));
    }
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(path)
}
