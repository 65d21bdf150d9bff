//! One command line into one [`Command`] (RFC 5321 §4.1.1 and the extensions that EHLO advertises).
//!
//! Parsing knows nothing of the session: whether a command may come now, and what it costs, is decided there. What is
//! parsed is valid; the error of what is not says its reply.

use super::parameters::{self, MailParameters, RcptParameters};
use super::reply::Reply;
use crate::mail::{Address, AddressError, ReversePath};

/// RFC 5321 §4.5.3.1.2 bounds a domain, and so what a client may call itself.
const MAX_CLIENT_NAME: usize = 255;

/// A command with its arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// EHLO and what the client calls itself.
    Ehlo(&'a str),
    /// HELO and what the client calls itself.
    Helo(&'a str),
    /// MAIL FROM.
    Mail(Mail),
    /// RCPT TO.
    Rcpt(Rcpt),
    /// DATA.
    Data,
    /// BDAT (RFC 3030 §2).
    Bdat(Chunk),
    /// RSET.
    Rset,
    /// NOOP, argument ignored.
    Noop,
    /// HELP, argument ignored.
    Help,
    /// VRFY, argument never looked at.
    Vrfy,
    /// QUIT.
    Quit,
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH (RFC 4954).
    Auth(Auth<'a>),
}

/// MAIL FROM with its parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mail {
    /// Where failures are reported to.
    pub reverse_path: ReversePath,
    /// What followed the path.
    pub parameters: MailParameters,
}

/// RCPT TO with its parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rcpt {
    /// The mailbox, source route dropped.
    pub forward_path: Address,
    /// What followed the path.
    pub parameters: RcptParameters,
}

/// BDAT's arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Octets that follow the command line.
    pub size: u64,
    /// Whether the message ends with them.
    pub last: bool,
}

/// AUTH's arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// As the client spelt it.
    pub mechanism: &'a str,
    /// The initial response, still in base64.
    pub initial: Option<&'a str>,
}

/// What is wrong with a command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandError {
    /// Not text, or with control characters.
    NotText,
    /// No such command.
    Unknown,
    /// EXPN: known, not done.
    NotImplemented,
    /// Arguments are missing, wrong, or not wanted; the text says what is expected.
    Arguments(&'static str),
    /// MAIL's path.
    ReversePath(AddressError),
    /// RCPT's path.
    ForwardPath(AddressError),
    /// A path beyond ASCII without SMTPUTF8 (RFC 6531 §3.5).
    NeedsSmtpUtf8,
    /// What follows the path.
    Parameter(parameters::ParameterError),
    /// HTTP, such as from a browser that a web page has sent here: what follows may hold commands of its choice.
    OtherProtocol,
    /// BDAT without a size: nobody knows where the next command starts, so the connection must end.
    ChunkSize,
}

impl<'a> Command<'a> {
    /// Takes a line, without its CRLF.
    ///
    /// # Errors
    /// Each error has its [`CommandError::reply`].
    pub fn parse(line: &'a [u8]) -> Result<Self, CommandError> {
        Self::read(line).map_err(|error| match error {
            // However it was misspelt, a chunk may follow, and must not be read as commands (S1).
            _ if is_chunk(line) => CommandError::ChunkSize,
            CommandError::NotText | CommandError::Unknown if is_http(line) => CommandError::OtherProtocol,
            error => error,
        })
    }

    /// Whether it is a step towards the end of a message, or of the session. MAIL is none before it has been accepted; a
    /// recipient is one even when it is refused, since a list may hold many of those.
    pub fn leads_on(&self) -> bool {
        match self {
            Self::Rcpt(_) | Self::Data | Self::Quit => true,
            Self::Bdat(chunk) => chunk.size > 0 || chunk.last,
            _ => false,
        }
    }

    fn read(line: &'a [u8]) -> Result<Self, CommandError> {
        let line = std::str::from_utf8(line).map_err(|_| CommandError::NotText)?;
        if line.chars().any(|c| c.is_control() && c != '\t') {
            return Err(CommandError::NotText);
        }
        let line = line.trim_end_matches([' ', '\t']);
        let (verb, arguments) = line.split_once(' ').unwrap_or((line, ""));
        let arguments = arguments.trim_start_matches(' ');
        let is = |name: &str| verb.eq_ignore_ascii_case(name);
        let bare = |command: Self, expected: &'static str| {
            if arguments.is_empty() { Ok(command) } else { Err(CommandError::Arguments(expected)) }
        };
        match () {
            () if is("MAIL") => mail(arguments).map(Command::Mail),
            () if is("RCPT") => rcpt(arguments).map(Command::Rcpt),
            () if is("DATA") => bare(Command::Data, "DATA takes no argument"),
            () if is("BDAT") => bdat(arguments).map(Command::Bdat),
            () if is("EHLO") => client_name(arguments).map(Command::Ehlo),
            () if is("HELO") => client_name(arguments).map(Command::Helo),
            () if is("RSET") => bare(Command::Rset, "RSET takes no argument"),
            () if is("QUIT") => bare(Command::Quit, "QUIT takes no argument"),
            () if is("NOOP") => Ok(Command::Noop),
            () if is("HELP") => Ok(Command::Help),
            () if is("AUTH") => auth(arguments).map(Command::Auth),
            () if is("STARTTLS") => bare(Command::StartTls, "STARTTLS takes no argument"),
            () if is("VRFY") && arguments.is_empty() => {
                Err(CommandError::Arguments("Expected VRFY <mailbox>"))
            }
            () if is("VRFY") => Ok(Command::Vrfy),
            () if is("EXPN") => Err(CommandError::NotImplemented),
            () => Err(CommandError::Unknown),
        }
    }
}

impl std::fmt::Debug for Auth<'_> {
    /// Without the initial response: it holds a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

impl CommandError {
    /// What the client is told.
    pub fn reply(&self) -> Reply {
        match self {
            Self::NotText => Reply::new(500, (5, 5, 2), "A command is one line of text"),
            Self::Unknown => Reply::new(500, (5, 5, 1), "Command not recognized"),
            Self::OtherProtocol => Reply::new(421, (4, 7, 0), "This is SMTP, not HTTP"),
            Self::NotImplemented => Reply::new(502, (5, 5, 1), "Command not implemented"),
            Self::Arguments(expected) => Reply::new(501, (5, 5, 4), *expected),
            Self::ReversePath(error) => Reply::new(501, (5, 1, 7), format!("Bad sender address: {error}")),
            Self::ForwardPath(error) => Reply::new(501, (5, 1, 3), format!("Bad recipient address: {error}")),
            Self::NeedsSmtpUtf8 => {
                Reply::new(553, (5, 6, 7), "An address beyond ASCII needs the SMTPUTF8 parameter")
            }
            Self::Parameter(error) => error.reply(),
            Self::ChunkSize => Reply::new(501, (5, 5, 4), "Expected BDAT <size> [LAST]"),
        }
    }
}

/// `GET / HTTP/1.1`. A request too long for a command line is known by its `Host:` field.
fn is_http(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    let last = line.rsplit(|octet| *octet == b' ').next().unwrap_or_default();
    is_word(line, b"Host:") || (last.len() < line.len() && last.starts_with(b"HTTP/"))
}

/// BDAT and whatever follows it, however it is spaced.
fn is_chunk(line: &[u8]) -> bool {
    let line = line.trim_ascii_start();
    is_word(line, b"BDAT") && !line.get(4).is_some_and(u8::is_ascii_alphanumeric)
}

/// Whether a line starts so, in letters of either case.
fn is_word(line: &[u8], word: &[u8]) -> bool {
    line.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// EHLO and HELO: RFC 5321 wants a domain or literal, real clients send all kinds of names; taken is what can stand in
/// a Received field.
fn client_name(name: &str) -> Result<&str, CommandError> {
    let fits = |c: char| c.is_ascii_graphic() && !"()<>\\\";,".contains(c);
    if name.is_empty() || name.len() > MAX_CLIENT_NAME || !name.chars().all(fits) {
        return Err(CommandError::Arguments("Expected a host name or an address literal"));
    }
    Ok(name)
}

fn mail(arguments: &str) -> Result<Mail, CommandError> {
    let path = after_keyword(arguments, "FROM:", "Expected MAIL FROM:<address>")?;
    let (reverse_path, rest) = match path.strip_prefix('>') {
        Some(rest) if rest.is_empty() || rest.starts_with(' ') => (ReversePath::Null, rest),
        Some(_) => return Err(CommandError::ReversePath(AddressError::Trailing)),
        None => {
            let (address, rest) = mailbox(path).map_err(CommandError::ReversePath)?;
            // `<postmaster>` without a domain is for RCPT alone (RFC 5321 §4.1.1.3).
            if address.domain().is_none() {
                return Err(CommandError::ReversePath(AddressError::DomainMissing));
            }
            (ReversePath::Mailbox(address), rest)
        }
    };
    let parameters = MailParameters::parse(rest).map_err(CommandError::Parameter)?;
    if !parameters.smtputf8 && !reverse_path.as_str().is_ascii() {
        return Err(CommandError::NeedsSmtpUtf8);
    }
    Ok(Mail { reverse_path, parameters })
}

fn rcpt(arguments: &str) -> Result<Rcpt, CommandError> {
    let path = after_keyword(arguments, "TO:", "Expected RCPT TO:<address>")?;
    let (forward_path, rest) = mailbox(path).map_err(CommandError::ForwardPath)?;
    let parameters = RcptParameters::parse(rest).map_err(CommandError::Parameter)?;
    Ok(Rcpt { forward_path, parameters })
}

/// `FROM:<` or `TO:<`, with the spaces before the bracket that some clients put there.
fn after_keyword<'a>(
    arguments: &'a str,
    keyword: &str,
    expected: &'static str,
) -> Result<&'a str, CommandError> {
    let is_there = arguments.get(..keyword.len()).is_some_and(|start| start.eq_ignore_ascii_case(keyword));
    let path = if is_there { arguments.get(keyword.len()..).unwrap_or_default() } else { "" };
    path.trim_start_matches(' ').strip_prefix('<').ok_or(CommandError::Arguments(expected))
}

/// A mailbox up to its `>`, and what follows that.
fn mailbox(path: &str) -> Result<(Address, &str), AddressError> {
    let (address, rest) = Address::parse_prefix(without_source_route(path)?)?;
    match rest.strip_prefix('>') {
        Some(rest) if rest.is_empty() || rest.starts_with(' ') => Ok((address, rest)),
        _ => Err(AddressError::Trailing),
    }
}

/// RFC 5321 §4.1.1.3 and appendix C: `@one,@two:user@domain` is accepted and the route ignored.
fn without_source_route(path: &str) -> Result<&str, AddressError> {
    if !path.starts_with('@') {
        return Ok(path);
    }
    let mut rest = path;
    loop {
        let domain = rest.strip_prefix('@').ok_or(AddressError::Domain)?;
        let len = domain.find([',', ':']).ok_or(AddressError::Domain)?;
        let (domain, after) = domain.split_at(len);
        Address::parse(&format!("route@{domain}"))?;
        rest = after.get(1..).unwrap_or_default();
        if after.starts_with(':') {
            return Ok(rest);
        }
    }
}

fn bdat(arguments: &str) -> Result<Chunk, CommandError> {
    let mut words = arguments.split_ascii_whitespace();
    let digits = words.next().filter(|word| word.bytes().all(|b| b.is_ascii_digit()));
    let size = digits.and_then(|digits| digits.parse().ok()).ok_or(CommandError::ChunkSize)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return Err(CommandError::ChunkSize),
    };
    if words.next().is_some() {
        return Err(CommandError::ChunkSize);
    }
    Ok(Chunk { size, last })
}

fn auth(arguments: &str) -> Result<Auth<'_>, CommandError> {
    let mut words = arguments.split_ascii_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok(Auth { mechanism, initial }),
        _ => Err(CommandError::Arguments("Expected AUTH <mechanism> [<initial response>]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: &str) -> Option<u16> {
        Command::parse(line.as_bytes()).err().map(|error| error.reply().code)
    }

    fn path(line: &str) -> String {
        match Command::parse(line.as_bytes()) {
            Ok(Command::Mail(mail)) => mail.reverse_path.to_string(),
            Ok(Command::Rcpt(rcpt)) => rcpt.forward_path.to_string(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn s1_a_chunk_that_cannot_be_read_is_known_as_one() {
        for line in [
            &b"BDAT"[..],
            b"BDAT 5 LAST now",
            b"BDAT -5",
            b"BDAT +5",
            b"BDAT 0x5",
            b"BDAT 5.0",
            b"BDAT 99999999999999999999",
            b"BDAT\t5",
            b"bdat\t5\tlast",
            b" BDAT 5",
            b"BDAT 5\0",
            b"BDAT 5 \xff",
            b"BDAT=5",
            "BDAT ٥".as_bytes(),
        ] {
            let error = Command::parse(line).unwrap_err();
            assert_eq!(error, CommandError::ChunkSize, "{:?}", String::from_utf8_lossy(line));
        }
        assert_eq!(Command::parse(b"BDATA 5"), Err(CommandError::Unknown));
        assert_eq!(Command::parse(b"BDAT  5   LAST"), Ok(Command::Bdat(Chunk { size: 5, last: true })));
    }

    #[test]
    fn http_is_known_whatever_its_address_holds() {
        for line in [
            &b"GET / HTTP/1.1"[..],
            b"POST /\xff\x01 HTTP/1.0",
            b"PRI * HTTP/2.0",
            b"host: x\xff",
            b"GET / HTTP/1.1 ",
        ] {
            assert_eq!(Command::parse(line), Err(CommandError::OtherProtocol));
        }
        assert_eq!(Command::parse(b"NOOP HTTP/1.1"), Ok(Command::Noop));
        assert_eq!(Command::parse(b"HTTP/1.1"), Err(CommandError::Unknown));
    }

    #[test]
    fn paths_are_taken_as_they_came_and_routes_are_dropped() {
        assert_eq!(path("MAIL FROM:<a@b.example>"), "a@b.example");
        assert_eq!(path("mail from:  <a@b.example>  SIZE=1"), "a@b.example");
        assert_eq!(path("MAIL FROM:<>"), "");
        assert_eq!(path("RCPT TO:<@one.example,@two.example:a@b.example>"), "a@b.example");
        assert_eq!(path("RCPT TO:<\"a> b\"@c.example> NOTIFY=NEVER"), "\"a> b\"@c.example");
        assert_eq!(path("RCPT TO:<Postmaster>"), "Postmaster");
        assert_eq!(path("RCPT TO:<a@[IPv6:2001:db8::1]>"), "a@[IPv6:2001:db8::1]");
        assert_eq!(path("RCPT TO:<用户@例子.example>"), "用户@例子.example");
    }

    #[test]
    fn bad_lines_get_the_code_that_the_rfcs_name() {
        for (line, expected) in [
            ("", 500),
            ("FOO", 500),
            ("EXPN list", 502),
            ("VRFY", 501),
            ("EHLO", 501),
            ("EHLO two words", 501),
            ("EHLO (evil)", 501),
            ("DATA now", 501),
            ("QUIT now", 501),
            ("MAIL", 501),
            ("MAIL FROM:a@b.example", 501),
            ("MAIL FROM:<a@b.example", 501),
            ("MAIL FROM:<a@b.example>SIZE=1", 501),
            ("MAIL FROM:<>SIZE=1", 501),
            ("MAIL FROM:<postmaster>", 501),
            ("MAIL FROM:<ü@b.example>", 553),
            ("RCPT TO:<>", 501),
            ("RCPT TO:<@one.example>", 501),
            ("RCPT TO:<@one example:a@b.example>", 501),
            ("RCPT TO:<a@b.example> SIZE=1", 555),
            ("BDAT", 501),
            ("BDAT -1", 501),
            ("BDAT 99999999999999999999999", 501),
            ("BDAT 1 FIRST", 501),
            ("AUTH", 501),
            ("AUTH PLAIN a b", 501),
        ] {
            assert_eq!(code(line), Some(expected), "{line}");
        }
        assert_eq!(Command::parse(b"NOOP\0"), Err(CommandError::NotText));
        assert_eq!(Command::parse(b"NOOP \xff"), Err(CommandError::NotText));
    }

    #[test]
    fn an_initial_response_is_not_shown() {
        let command = Command::parse(b"AUTH PLAIN AHUAcA==").unwrap();
        assert!(!format!("{command:?}").contains("AHUAcA"));
    }
}
