//! Which server is asked: the one whose data directory the configuration names, or one at a URL.
//!
//! On the same machine the socket in the data directory is enough: whoever may open it may give orders. Elsewhere a token
//! says who asks. It comes from a file or a variable, never from an argument, which every user of a machine can read.

use std::path::{Path, PathBuf};

use hyper::Uri;
use hyper::header::HeaderValue;
use zeroize::Zeroizing;

use crate::admin::socket::ADMIN_SOCKET;
use crate::cli::environment;
use crate::cli::failure::Failure;
use crate::config;

/// No token is longer, in bytes.
const MAX_TOKEN: u64 = 4096;
/// The token itself.
const TOKEN: &str = "ONCEMAIL_ADMIN_TOKEN";

/// Where a command finds its server.
#[derive(clap::Args, Clone, Debug, Default)]
pub(in crate::cli) struct Remote {
    /// The server's URL, such as https://relay.example.com:8025; without one, the socket in the configured data_dir is
    /// used, which needs no token
    #[arg(long, global = true, env = "ONCEMAIL_SERVER", value_name = "URL", help_heading = "Server")]
    server: Option<String>,

    /// A file with the token for --server; or set ONCEMAIL_ADMIN_TOKEN
    #[arg(
        long,
        global = true,
        env = "ONCEMAIL_ADMIN_TOKEN_FILE",
        value_name = "FILE",
        help_heading = "Server"
    )]
    token_file: Option<PathBuf>,

    /// Print the API's JSON documents instead of tables
    #[arg(long, global = true, help_heading = "Server")]
    pub(in crate::cli) json: bool,
}

/// Where requests go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// A socket in this directory.
    Socket(PathBuf),
    /// A server with a name.
    Network(Server),
}

/// See [`Target::Network`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Server {
    pub(super) tls: bool,
    /// A name, or an address without its brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// What stands before the API's own paths; empty or `/…` without a slash at its end.
    pub(super) prefix: String,
}

impl Target {
    /// What the `Host` field says.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Socket(_) => "localhost".to_owned(),
            Self::Network(Server { host, port, .. }) if host.contains(':') => format!("[{host}]:{port}"),
            Self::Network(Server { host, port, .. }) => format!("{host}:{port}"),
        }
    }

    /// For sentences.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Socket(directory) => directory.join(ADMIN_SOCKET).display().to_string(),
            Self::Network(_) => self.authority(),
        }
    }

    /// See [`Server::prefix`].
    pub(super) fn prefix(&self) -> &str {
        match self {
            Self::Socket(_) => "",
            Self::Network(server) => &server.prefix,
        }
    }
}

impl Remote {
    /// Where that is, and the token as a field's value.
    pub(super) fn find(&self, config: Option<&Path>) -> Result<(Target, Option<HeaderValue>), Failure> {
        let Some(url) = self.server.as_deref().filter(|url| !url.is_empty()) else {
            return Ok((Target::Socket(data_dir(config)?), None));
        };
        let server = parse(url).map_err(|what| Failure::Usage(format!("--server {url}: {what}")))?;
        let token = self.token()?;
        Ok((Target::Network(server), token))
    }

    fn token(&self) -> Result<Option<HeaderValue>, Failure> {
        let file = self.token_file.as_deref().filter(|path| !path.as_os_str().is_empty());
        let told = std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
        let (place, token) = match (file, told) {
            (Some(path), _) => (path.display().to_string(), Zeroizing::new(read(path)?)),
            (None, Some(token)) => (TOKEN.to_owned(), Zeroizing::new(token)),
            (None, None) => return Ok(None),
        };
        // Written by hand more often than not: the line end is none of it.
        let field = Zeroizing::new(format!("Bearer {}", token.trim()));
        let mut value = HeaderValue::from_str(&field)
            .map_err(|_| Failure::Usage(format!("{place}: a token has no control characters")))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_TOKEN + 1).read_to_string(&mut text));
    match read {
        Ok(size) if size as u64 > MAX_TOKEN => {
            Err(Failure::Usage(format!("{}: longer than any token", path.display())))
        }
        Ok(_) if text.trim().is_empty() => {
            Err(Failure::Usage(format!("{}: there is no token in it", path.display())))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::Usage(format!("cannot read the token from {}: {error}", path.display()))),
    }
}

fn data_dir(config: Option<&Path>) -> Result<PathBuf, Failure> {
    config::data_dir(config, environment()).map_err(|errors| {
        let hint =
            "which server? --config FILE is the configuration it runs with; --server URL is one elsewhere";
        Failure::Usage(format!("{errors}\n{hint}"))
    })
}

fn parse(url: &str) -> Result<Server, String> {
    let example = "expected http://host:port or https://host:port";
    let uri: Uri = url.parse().map_err(|_| example.to_owned())?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(example.to_owned()),
    };
    let authority = uri.authority().ok_or(example)?;
    if authority.as_str().contains('@') {
        return Err("a token comes from --token-file or ONCEMAIL_ADMIN_TOKEN, not from the URL".to_owned());
    }
    if uri.query().is_some() {
        return Err(example.to_owned());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let has_port = authority.as_str().len() > authority.host().len();
    let port = match authority.port_u16() {
        Some(port) => port,
        None if has_port => return Err("the port is no number up to 65535".to_owned()),
        None if tls => 443,
        None => 80,
    };
    if host.is_empty() {
        return Err(example.to_owned());
    }
    Ok(Server { tls, host, port, prefix: uri.path().trim_end_matches('/').to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_port_and_whether_tls_is_used() {
        let server = |tls, host: &str, port, prefix: &str| Server {
            tls,
            host: host.to_owned(),
            port,
            prefix: prefix.to_owned(),
        };
        for (url, expected) in [
            ("http://localhost:8025", server(false, "localhost", 8025, "")),
            ("https://relay.example/", server(true, "relay.example", 443, "")),
            ("https://relay.example/mail/", server(true, "relay.example", 443, "/mail")),
            ("http://[::1]:8025", server(false, "::1", 8025, "")),
            ("http://127.0.0.1", server(false, "127.0.0.1", 80, "")),
        ] {
            assert_eq!(parse(url), Ok(expected.clone()), "{url}");
            let brackets = if expected.host.contains(':') { "[::1]:8025" } else { "" };
            assert!(Target::Network(expected).authority().starts_with(brackets));
        }
    }

    #[test]
    fn what_is_no_url_of_a_server_is_refused_with_an_example() {
        for url in
            ["relay.example", "ftp://x", "http://", "http://h:99999", "http://h?x", "/run/admin.sock", ""]
        {
            assert!(parse(url).is_err(), "{url}");
        }
        assert!(parse("http://me:secret@h").is_err_and(|what| what.contains("--token-file")));
    }

    #[test]
    fn a_token_is_one_line_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let remote = Remote { token_file: Some(path.clone()), ..Remote::default() };
        assert!(matches!(remote.token(), Err(Failure::Usage(_))));
        for (text, expected) in
            [("s3cret\n", Some("Bearer s3cret")), (" \n", None), ("a\nb", None), (&"x".repeat(5000), None)]
        {
            #[expect(clippy::disallowed_methods, reason = "a test's own file")]
            std::fs::write(&path, text).unwrap();
            let token = remote.token().ok().flatten();
            assert_eq!(token.as_ref().map(|value| value.to_str().unwrap()), expected);
            assert!(!format!("{token:?}").contains("s3cret"));
        }
    }
}
