//! Somebody between us and the other side takes TLS away, or puts words in front of it: nobody's mail or password goes in
//! clear because of that, and nothing that was said in clear counts inside TLS.

mod inbound;
mod middle_box;
mod outbound;

/// A ClientHello of `version` that offers these cipher suites (RFC 5246 §7.4.1.2), with what every modern server wants
/// to know of curves and signatures, and these application protocols.
pub fn client_hello(version: [u8; 2], suites: &[u16], protocols: &[&str]) -> Vec<u8> {
    fn with_length(octets: &[u8]) -> Vec<u8> {
        [&u16::try_from(octets.len()).unwrap().to_be_bytes()[..], octets].concat()
    }
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &with_length(body)].concat();
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let mut extensions = [
        // supported_groups: x25519, P-256, P-384; ec_point_formats: uncompressed.
        extension(10, &with_length(&[0, 29, 0, 23, 0, 24])),
        extension(11, &[1, 0]),
        // signature_algorithms: ECDSA and RSA, with SHA-256 and with SHA-1.
        extension(13, &with_length(&[4, 3, 8, 4, 4, 1, 2, 3, 2, 1])),
    ]
    .concat();
    if !protocols.is_empty() {
        let names: Vec<u8> = protocols
            .iter()
            .flat_map(|name| [&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat())
            .collect();
        extensions.extend(extension(16, &with_length(&names)));
    }
    let body =
        [&version[..], &[7; 32], &[0], &with_length(&suites), &[1, 0], &with_length(&extensions)].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let handshake = [&[1], &length[1..], &body].concat();
    [&[0x16, 3, 1][..], &with_length(&handshake)].concat()
}
