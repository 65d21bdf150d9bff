//! DKIM signatures (RFC 6376, RFC 8463) for the domains that have a key.
//!
//! A message is signed as it is relayed, so nothing may change it afterwards. The same message always gets the same
//! signature: its time is that of the acceptance, not of the attempt. Keys are never printed. A key that cannot be used
//! stops the start; a message that cannot be signed goes unsigned, and the log says so.

mod canonical;
pub mod published;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mail_auth::common::crypto::{Algorithm, Ed25519Key, RsaKey, Sha256, SigningKey};
use mail_parser::parsers::MessageStream;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use super::options::DkimKey;
use crate::mail::header::{Field, Header};
use crate::mail::{Message, domain};
use canonical::{Body, push_field, push_value};

/// Named once more than they are present, so that nobody can add another (RFC 6376 §5.4, §8.15).
const OVER_SIGNED: [&str; 5] = ["From", "Subject", "To", "Date", "Message-ID"];
/// Signed where they are present (RFC 6376 §5.4.1).
const SIGNED: [&str; 16] = [
    "Cc",
    "Sender",
    "Reply-To",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Id",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
];
/// S2: of fields with one name no more are signed, counted from below as verifiers do; honest mail has one.
const MAX_SAME: usize = 8;
/// S2: a From of more octets names nobody.
const MAX_FROM: usize = 64 * 1024;
/// Columns after which a field of ours is folded (RFC 5322 §2.1.1).
const FOLD_AT: usize = 76;

/// All keys.
pub(super) struct Signers {
    signers: Vec<Signer>,
}

struct Signer {
    /// `d=`, lower case, A-labels.
    domain: String,
    /// `s=`.
    selector: String,
    key: Key,
}

enum Key {
    Rsa(RsaKey<Sha256>),
    Ed25519(Ed25519Key),
}

/// The part of a message that all of its signatures cover.
struct Covered {
    /// `h=`.
    names: Vec<&'static str>,
    /// Those fields in their canonical form.
    fields: Vec<u8>,
    /// `bh=`, still octets.
    body_hash: Vec<u8>,
    /// `t=`, seconds since 1970.
    time: u64,
}

impl Signers {
    /// For a relay that signs nothing.
    pub(super) fn none() -> Self {
        Self { signers: Vec::new() }
    }

    /// Reads the keys.
    ///
    /// # Errors
    /// Names the domain and selector whose key cannot be used.
    pub(super) fn new(keys: &[DkimKey]) -> Result<Self, String> {
        let signers = keys.iter().map(Signer::new).collect::<Result<_, _>>()?;
        Ok(Self { signers })
    }

    /// The DKIM-Signature fields for a message, each with its CRLF, to be put in front of its content; `None` when no
    /// key is its sender's. All keys of one domain sign. It reads the whole body: a large one takes milliseconds.
    pub(super) fn sign(&self, message: &Message) -> Option<Vec<u8>> {
        if self.signers.is_empty() {
            return None;
        }
        let header = Header::split(&message.content);
        let domain = self.domain_of(&header, message)?;
        let covered = Covered::of(&header, message.accepted_at.as_secs());
        let mut fields = Vec::new();
        for signer in self.signers.iter().filter(|signer| signer.domain == domain) {
            match signer.sign(&covered) {
                Ok(field) => fields.extend(field),
                Err(error) => {
                    tracing::error!(id = %message.id, domain = signer.domain, %error, "a message goes without DKIM");
                }
            }
        }
        (!fields.is_empty()).then_some(fields)
    }

    /// The domain whose keys sign: that of From, which receivers look at (RFC 7489 §3.1), before that of the
    /// reverse-path; a domain's own keys before those of one above it.
    fn domain_of(&self, header: &Header<'_>, message: &Message) -> Option<&str> {
        let from = header.fields().find(|field| field.is("From")).and_then(|field| author_domain(&field));
        let sender = message.envelope.reverse_path.mailbox().and_then(|mailbox| mailbox.domain());
        [from, sender.map(str::to_owned)].iter().flatten().find_map(|domain| self.domain_for(domain))
    }

    /// The keys that would sign for a sender's domain: `selector._domainkey.domain`.
    pub(super) fn names_for(&self, sender: &str) -> Vec<String> {
        let Some(domain) = self.domain_for(sender) else { return Vec::new() };
        let mine = self.signers.iter().filter(|signer| signer.domain == domain);
        mine.map(|signer| format!("{}._domainkey.{}", signer.selector, signer.domain)).collect()
    }

    fn domain_for(&self, sender: &str) -> Option<&str> {
        let sender = domain::to_ascii(sender)?;
        let mut rest = Some(sender.as_str());
        while let Some(name) = rest {
            if let Some(signer) = self.signers.iter().find(|signer| signer.domain == name) {
                return Some(&signer.domain);
            }
            rest = name.split_once('.').map(|(_, above)| above);
        }
        None
    }
}

impl Signer {
    fn new(key: &DkimKey) -> Result<Self, String> {
        let DkimKey { domain, selector, key } = key;
        let problem = |what: &str| format!("the key {selector} of {domain} {what}");
        let domain = domain::to_ascii(domain).ok_or_else(|| problem("belongs to no valid domain"))?;
        if !domain::is_name(selector) {
            return Err(problem("has a selector that is no DNS name"));
        }
        let key = Key::read(key).map_err(|what| problem(&what))?;
        Ok(Self { domain, selector: selector.clone(), key })
    }

    /// The whole field.
    fn sign(&self, covered: &Covered) -> Result<Vec<u8>, mail_auth::Error> {
        let Self { domain, selector, key } = self;
        let algorithm = key.algorithm();
        let mut field = format!(
            "DKIM-Signature: v=1; a={algorithm}; c=relaxed/relaxed;\r\n\td={domain}; s={selector};\r\n\tt={};",
            covered.time
        );
        push_folded(&mut field, " h=", covered.names.join(":").as_str(), Some(':'));
        field.push(';');
        field.push_str("\r\n\t");
        push_folded(&mut field, "bh=", &BASE64.encode(&covered.body_hash), None);
        field.push_str(";\r\n\t");
        // RFC 6376 §3.7: the field itself is signed last, with nothing in `b=` and without its CRLF.
        let mut signed = covered.fields.clone();
        let value = field.split_once(':').map_or("", |(_, value)| value);
        signed.extend_from_slice(b"dkim-signature:");
        push_value(&mut signed, format!("{value}b=").as_bytes());
        let signature = key.sign(&signed)?;
        push_folded(&mut field, "b=", &BASE64.encode(signature), None);
        field.push_str("\r\n");
        Ok(field.into_bytes())
    }
}

impl Key {
    /// # Errors
    /// What is wrong with it, as the end of a sentence, without any of the key.
    fn read(pem: &[u8]) -> Result<Self, String> {
        let der = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|_| "is no private key in PEM (PKCS#8, or PKCS#1 for RSA)".to_owned())?;
        if let PrivateKeyDer::Pkcs8(pkcs8) = &der
            // What OpenSSL writes holds no public key to check against.
            && let Ok(key) = Ed25519Key::from_pkcs8_maybe_unchecked_der(pkcs8.secret_pkcs8_der())
        {
            return Ok(Self::Ed25519(key));
        }
        RsaKey::from_key_der(der).map(Self::Rsa).map_err(|error| {
            let words = error.to_string();
            match words.as_str() {
                words if words.contains("TooSmall") => "is an RSA key of less than 2048 bits".to_owned(),
                words if words.contains("TooLarge") => "is an RSA key of more than 4096 bits".to_owned(),
                words => format!("is neither an RSA nor an Ed25519 key that can be used ({words})"),
            }
        })
    }

    /// `a=` (RFC 6376 §3.3, RFC 8463 §3).
    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => Algorithm::RsaSha256.name(),
            Self::Ed25519(_) => Algorithm::Ed25519Sha256.name(),
        }
    }

    fn sign(&self, octets: &[u8]) -> Result<Vec<u8>, mail_auth::Error> {
        match self {
            Self::Rsa(key) => key.sign(octets),
            Self::Ed25519(key) => key.sign(octets),
        }
    }
}

impl Covered {
    fn of(header: &Header<'_>, time: u64) -> Self {
        let (mut names, mut fields) = (Vec::new(), Vec::new());
        let over_signed = OVER_SIGNED.into_iter().map(|name| (name, 1));
        for (name, beyond) in over_signed.chain(SIGNED.into_iter().map(|name| (name, 0))) {
            let present: Vec<_> = header.fields().filter(|field| field.is(name)).collect();
            // RFC 6376 §5.4.2: verifiers take them from below.
            let signed = present.iter().rev().take(MAX_SAME);
            signed.clone().for_each(|field| push_field(&mut fields, field.name, field.value));
            // One name more would stand for a field that is there and was not signed.
            let beyond = if signed.len() == present.len() { beyond } else { 0 };
            names.extend(std::iter::repeat_n(name, signed.len() + beyond));
        }
        let body_hash = mail_auth::common::crypto::HashAlgorithm::Sha256.hash(Body(header.body));
        Self { names, fields, body_hash: body_hash.as_ref().to_vec(), time }
    }
}

/// Appends `tag` and its value, folded where the line would become too long: behind a separator, or anywhere.
fn push_folded(field: &mut String, tag: &str, value: &str, separator: Option<char>) {
    let mut column = field.rsplit("\r\n").next().map_or(0, str::len);
    field.push_str(tag);
    column += tag.len();
    let mut rest = value;
    while !rest.is_empty() {
        let room = FOLD_AT.saturating_sub(column);
        let len = match separator {
            Some(separator) => rest.find(separator).map_or(rest.len(), |at| at + 1),
            None => room.clamp(1, rest.len()),
        };
        // A name that has no room goes onto the next line; text that may be cut fills this one first.
        if len > room && column > 1 {
            field.push_str("\r\n\t");
            column = 1;
            continue;
        }
        let (now, later) = rest.split_at_checked(len).unwrap_or((rest, ""));
        field.push_str(now);
        column += now.len();
        rest = later;
    }
}

/// The domain of From's first mailbox.
fn author_domain(from: &Field<'_>) -> Option<String> {
    if from.value.len() > MAX_FROM {
        return None;
    }
    // The parser takes an address only when it has seen the end of the field.
    let line = [from.value, b"\r\n"].concat();
    let value = MessageStream::new(&line).parse_address();
    let address = value.as_address()?.first()?.address()?;
    address.rsplit_once('@').map(|(_, domain)| domain.to_owned())
}
