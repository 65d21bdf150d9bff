//! What leaves: routes, TLS, credentials, presets, DKIM, DNS, and what becomes of what cannot be delivered.

use std::net::IpAddr;
use std::time::Duration;

use oncemail::dns::Family;
use oncemail::queue::OnFailure;
use oncemail::relay::options::{InDoubt, Mx, Preset};

use super::*;

const MX: &str = "[[route]]\nname = \"out\"\ntransport = \"mx\"\n";

fn with(rest: &str) -> String {
    format!("{LISTENER}{SMARTHOST}{rest}")
}

fn loaded(text: &str) -> Config {
    Files::new().load(text, &[]).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

fn mx_of(config: &Config) -> &Mx {
    match &smarthost(config).hosts {
        Hosts::Mx(mx) => mx,
        Hosts::Fixed { hosts, .. } => panic!("{hosts:?}"),
    }
}

#[test]
fn a_route_to_the_world_needs_nothing_but_its_transport() {
    let config = loaded(&format!("{LISTENER}{MX}"));
    let mx = mx_of(&config);
    assert_eq!((mx.port, mx.allow_private, mx.mta_sts, mx.mta_sts_port), (25, false, true, 443));
    assert_eq!(mx.family, Family::Any);
    let route = smarthost(&config);
    assert_eq!((route.tls, route.connections, route.auth.is_none()), (TlsPolicy::Opportunistic, 20, true));
    let config = loaded(&format!(
        "{LISTENER}{MX}tls = \"required\"\nport = 2525\nallow_private_addresses = true\naddress_family = \"ipv4\"\n\
         connection_lifetime = \"7m\"\nsource_addresses = [\"192.0.2.7\", \"192.0.2.8\"]\n"
    ));
    let mx = mx_of(&config);
    assert_eq!((mx.port, mx.allow_private, mx.family), (2525, true, Family::V4));
    let route = smarthost(&config);
    assert_eq!(route.connection_lifetime, Duration::from_secs(420));
    assert_eq!(
        route.source_addresses,
        ["192.0.2.7".parse::<IpAddr>().unwrap(), "192.0.2.8".parse().unwrap()]
    );
    let foreign = format!("{LISTENER}{MX}address_family = \"ipv6\"\nsource_addresses = [\"192.0.2.7\"]\n");
    one_problem(&foreign, 10, &["192.0.2.7 is of the family", "`address_family`"]);
    one_problem(&with("source_addresses = [\"0.0.0.0\"]\n"), 10, &["an IP address of this machine"]);
    assert!(mx_of(&loaded(&format!("{LISTENER}{MX}tls = \"required\"\n"))).mta_sts);
    assert!(!mx_of(&loaded(&format!("{LISTENER}{MX}tls = \"none\"\n"))).mta_sts);
}

#[test]
fn the_hosts_of_a_domain_are_told_no_credentials() {
    for (line, key) in [
        ("username = \"u\"\n", "username"),
        ("password = \"p\"\n", "password"),
        ("auth = \"xoauth2\"\n", "auth"),
        ("oauth2_client_secret = \"s\"\n", "oauth2_client_secret"),
    ] {
        let belongs = format!("`{key}` belongs to transport = \"smarthost\"");
        one_problem(&format!("{LISTENER}{MX}{line}"), 9, &[&belongs, "no credentials"]);
    }
}

#[test]
fn a_key_that_says_nothing_for_its_transport_is_refused() {
    let discard = MX.replace("\"mx\"", "\"discard\"");
    for (route, line, owner) in [
        (MX, "hosts = [\"a.example\"]\n", "transport = \"smarthost\""),
        (MX, "preset = \"google\"\n", "transport = \"smarthost\""),
        (MX, "weights = [1]\n", "transport = \"smarthost\""),
        (MX, "path = \"./mail\"\n", "transport = \"directory\""),
        (discard.as_str(), "tls = \"none\"\n", "transport = \"smarthost\" or \"mx\""),
        (discard.as_str(), "in_doubt = \"hold\"\n", "transport = \"smarthost\" or \"mx\""),
        (discard.as_str(), "path = \"./mail\"\n", "transport = \"directory\""),
    ] {
        one_problem(&format!("{LISTENER}{route}{line}"), 9, &["belongs to", owner]);
    }
    for line in
        ["port = 25\n", "mta_sts = true\n", "address_family = \"any\"\n", "allow_private_addresses = true\n"]
    {
        one_problem(&with(line), 10, &["belongs to transport = \"mx\""]);
    }
    one_problem(&format!("{LISTENER}{ROUTE}forward_key_as = \"\"\n"), 10, &["\"smarthost\" or \"mx\""]);
    assert!(matches!(loaded(&format!("{LISTENER}{discard}")).relay.routes[0].transport, Transport::Discard));
}

#[test]
fn tls_that_cannot_mean_what_it_says_is_refused() {
    let secure = "[dns]\ndnssec = true\n";
    one_problem(&with("tls = \"dane\"\n"), 10, &["`dns.dnssec` is off", "dnssec = true"]);
    one_problem(&format!("{LISTENER}{MX}tls = \"dane\"\n"), 9, &["`dns.dnssec` is off"]);
    assert_eq!(smarthost(&loaded(&with(&format!("tls = \"dane\"\n{secure}")))).tls, TlsPolicy::Dane);
    assert_eq!(smarthost(&loaded(&format!("{LISTENER}{MX}tls = \"dane\"\n{secure}"))).tls, TlsPolicy::Dane);
    let address = with(&format!("tls = \"dane\"\n{secure}")).replace("smtp.example.com", "192.0.2.1:25");
    one_problem(&address, 10, &["needs a name", "192.0.2.1:25"]);
    one_problem(&format!("{LISTENER}{MX}tls = \"implicit\"\n"), 9, &["STARTTLS", "\"opportunistic\""]);
    one_problem(&format!("{LISTENER}{MX}tls = \"none\"\nmta_sts = true\n"), 10, &["forbids"]);
    assert_eq!(smarthost(&loaded(&with("tls = \"opportunistic\"\n"))).tls, TlsPolicy::Opportunistic);
    let files = Files::new();
    let (certificate, _) = files.certificate("ca");
    for tls in ["none", "opportunistic"] {
        let text = with(&format!("tls = \"{tls}\"\nca_file = \"{}\"\n", certificate.display()));
        one_problem(&text, 11, &["`ca_file` has nothing to do", "tls = \"required\""]);
    }
}

#[test]
fn a_client_certificate_comes_with_its_key() {
    let files = Files::new();
    let (certificate, key) = files.certificate("client");
    let (_, other_key) = files.certificate("other");
    let pair = |certificate: &Path, key: &Path| {
        with(&format!(
            "client_certificate_file = \"{}\"\nclient_key_file = \"{}\"\n",
            certificate.display(),
            key.display()
        ))
    };
    assert!(smarthost(&loaded(&pair(&certificate, &key))).client_certificate.is_some());
    one_problem(&pair(&certificate, &other_key), 11, &["does not belong"]);
    one_problem(&pair(Path::new("/nowhere.pem"), &key), 10, &["cannot read /nowhere.pem"]);
    let lone = with(&format!("client_key_file = \"{}\"\n", key.display()));
    one_problem(&lone, 10, &["without `client_certificate_file`"]);
    let plain = pair(&certificate, &key).replace("client_certificate", "tls = \"none\"\nclient_certificate");
    one_problem(&plain, 11, &["never shown"]);
}

#[test]
fn a_password_needs_tls_that_is_verified() {
    let auth = "username = \"u\"\npassword = \"p\"\n";
    for tls in ["opportunistic", "dane"] {
        let text = with(&format!("{auth}tls = \"{tls}\"\n[dns]\ndnssec = true\n"));
        one_problem(&text, 12, &["could go to smtp.example.com:587 in plain text"]);
        let here = text.replace("smtp.example.com", "localhost:1025");
        assert!(smarthost(&loaded(&here)).auth.is_some());
    }
    let token = "username = \"u\"\nauth = \"xoauth2\"\noauth2_client_id = \"i\"\noauth2_client_secret = \"s\"\n\
                 oauth2_token_url = \"https://login.example/token\"\ntls = \"none\"\n";
    one_problem(&with(token), 15, &["in plain text"]);
}

#[test]
fn tokens_are_asked_for_with_everything_that_they_need() {
    let files = Files::new();
    let secret = files.write("secret", "s3cret-word\n");
    let auth = format!(
        "username = \"u\"\nauth = \"xoauth2\"\noauth2_client_id = \"id\"\n\
         oauth2_token_url = \"https://login.example/token\"\noauth2_client_secret_file = \"{}\"\n",
        secret.display()
    );
    let config = loaded(&with(&auth));
    let Secret::OAuth2(oauth2) = &smarthost(&config).auth.as_ref().unwrap().with else { panic!("no tokens") };
    assert_eq!((oauth2.client_secret.as_str(), oauth2.scope.as_deref()), ("s3cret-word", None));
    assert!(!format!("{config:?}").contains("s3cret"));
    for (missing, words) in [
        ("oauth2_client_id", "without `oauth2_client_id`"),
        ("oauth2_token_url", "without `oauth2_token_url`"),
        ("oauth2_client_secret_file", "without `oauth2_client_secret`"),
        ("username", "without `username`"),
    ] {
        let text: String =
            auth.lines().filter(|line| !line.starts_with(missing)).map(|line| format!("{line}\n")).collect();
        let found = problems(Files::new().load(&with(&text), &[]));
        assert!(found.len() == 1 && found[0].contains(words), "{missing}: {found:?}");
    }
    let insecure = with(&auth).replace("https:", "http:");
    one_problem(&insecure, 13, &["https://", "only to this machine"]);
    one_problem(
        &with(&format!("{auth}password = \"p\"\n")),
        15,
        &["`password` belongs to auth = \"password\""],
    );
    one_problem(
        &with("username = \"u\"\npassword = \"p\"\noauth2_scope = \"x\"\n"),
        12,
        &["auth = \"xoauth2\""],
    );
    one_problem(&with("auth = \"password\"\n"), 10, &["without `username`"]);
}

#[test]
fn a_route_to_ourselves_is_refused() {
    let loop_at = |listener: &str, host: &str| {
        format!("{LISTENER}{SMARTHOST}").replace("127.0.0.1:0", listener).replace("smtp.example.com", host)
    };
    for (listener, host) in [
        ("127.0.0.1:2525", "127.0.0.1:2525"),
        ("127.0.0.1:2525", "localhost:2525"),
        ("0.0.0.0:587", "127.0.0.1:587"),
        ("[::]:587", "[::1]:587"),
        ("127.0.0.1:587", "0.0.0.0:587"),
        ("127.0.0.1:587", "[::ffff:127.0.0.1]:587"),
        ("192.0.2.1:587", "192.0.2.1"),
    ] {
        one_problem(&loop_at(listener, host), 9, &["our own listener \"in\"", "loop"]);
    }
    for (listener, host) in [
        ("127.0.0.1:2525", "127.0.0.1:1025"),
        ("0.0.0.0:587", "192.0.2.1:587"),
        ("127.0.0.1:0", "localhost:25"),
    ] {
        loaded(&loop_at(listener, host));
    }
}

#[test]
fn weights_are_one_number_for_each_host() {
    let hosts = with("weights = [3, 1]\n").replace("\"smtp.example.com\"", "\"a.example\", \"b.example\"");
    let config = loaded(&hosts);
    assert!(matches!(&smarthost(&config).hosts, Hosts::Fixed { weights, .. } if *weights == [3, 1]));
    one_problem(&with("weights = [3, 1]\n"), 10, &["`weights` has 2", "`hosts` has 1"]);
    one_problem(&hosts.replace("[3, 1]", "[3, 0]"), 10, &["no number that fits", "from 1 to 1000"]);
    one_problem(&hosts.replace("[3, 1]", "[3, \"1\"]"), 10, &["no number that fits"]);
    one_problem(&hosts.replace("[3, 1]", "3"), 10, &["a list of whole numbers"]);
    let config = Files::new().load(&hosts, &[("ONCEMAIL__ROUTE__0__WEIGHTS", "5, 7")]).unwrap();
    assert!(matches!(&smarthost(&config).hosts, Hosts::Fixed { weights, .. } if *weights == [5, 7]));
}

#[test]
fn a_preset_brings_what_its_provider_publishes_and_every_key_wins_over_it() {
    let route =
        |rest: &str| format!("{LISTENER}[[route]]\nname = \"out\"\ntransport = \"smarthost\"\n{rest}");
    let config = loaded(&route("preset = \"microsoft365\"\n"));
    let microsoft = smarthost(&config);
    assert_eq!(hosts(microsoft)[0].to_string(), "smtp.office365.com:587");
    assert_eq!(
        (microsoft.preset, microsoft.tls, microsoft.connections),
        (Preset::Microsoft365, TlsPolicy::Required, 3)
    );
    assert_eq!(microsoft.rate.map(|rate| rate.replenish_interval()), Some(Duration::from_secs(2)));
    let config = loaded(&route(
        "preset = \"microsoft365\"\nconnections = 1\nrate = \"10/m\"\nhosts = [\"h.example:25\"]\n",
    ));
    let said = smarthost(&config);
    assert_eq!((said.connections, hosts(said)[0].to_string().as_str()), (1, "h.example:25"));
    assert_eq!(said.rate.map(|rate| rate.burst_size().get()), Some(10));
    let config = loaded(&route("preset = \"google\"\n"));
    assert_eq!(hosts(smarthost(&config))[0].to_string(), "smtp-relay.gmail.com:587");
    assert_eq!(smarthost(&config).recipients_per_transaction, 100);
    let ses = "preset = \"ses\"\nhosts = [\"email-smtp.eu-central-1.amazonaws.com\"]\n";
    assert_eq!(smarthost(&loaded(&route(ses))).recipients_per_transaction, 50);
    one_problem(&route("preset = \"ses\"\n"), 6, &["without `hosts`", "email-smtp."]);
    one_problem(&route("preset = \"sess\"\nhosts = [\"h\"]\n"), 9, &["did you mean \"ses\"?"]);
    let token = "preset = \"microsoft365\"\nusername = \"u\"\nauth = \"xoauth2\"\noauth2_client_id = \"id\"\n\
                 oauth2_client_secret = \"s\"\noauth2_token_url = \"https://login.example/token\"\n";
    let scope = |text: &str| match &smarthost(&loaded(&route(text))).auth.as_ref().unwrap().with {
        Secret::OAuth2(oauth2) => oauth2.scope.clone().unwrap(),
        Secret::Password(_) => panic!("no tokens"),
    };
    assert_eq!(scope(token), "https://outlook.office365.com/.default");
    assert_eq!(scope(&format!("{token}oauth2_scope = \"mine\"\n")), "mine");
}

#[test]
fn the_key_is_forwarded_under_a_name_that_is_not_the_mails_own() {
    let forwarded = |value: &str| with(&format!("forward_key_as = \"{value}\"\nin_doubt = \"hold\"\n"));
    let config = loaded(&forwarded("Resend-Idempotency-Key"));
    let route = &config.relay.routes[0];
    assert_eq!(route.forward_key_as.as_deref(), Some("Resend-Idempotency-Key"));
    assert_eq!(route.in_doubt, InDoubt::Hold);
    assert_eq!(loaded(&forwarded("")).relay.routes[0].forward_key_as, None);
    for name in ["Subject", "message-id", "Resent-Date", "Content-Type", "a b", "X-Key:"] {
        one_problem(&forwarded(name), 10, &["`forward_key_as` is", name]);
    }
}

#[test]
fn what_cannot_be_delivered_bounces_unless_something_else_is_said() {
    let retry = |rest: &str| with(&format!("[retry]\n{rest}"));
    let queue = loaded(&with("")).queue;
    assert_eq!(
        (queue.on_failure, queue.warn_after),
        (OnFailure::Bounce, Some(Duration::from_secs(4 * 3_600)))
    );
    let queue = loaded(&retry("on_failure = \"hold\"\nwarn_after = \"never\"\n")).queue;
    assert_eq!((queue.on_failure, queue.warn_after), (OnFailure::Hold, None));
    assert_eq!(loaded(&retry("on_failure = \"discard\"\n")).queue.on_failure, OnFailure::Discard);
    loaded(&retry("expire_after = \"1h\"\n"));
    one_problem(&retry("warn_after = \"2h\"\nexpire_after = \"1h\"\n"), 11, &["never be sent", "\"never\""]);
    one_problem(&retry("warn_after = 4\n"), 11, &["a number with a unit"]);
}

#[test]
fn a_dkim_key_is_read_and_never_printed() {
    let files = Files::new();
    let key = files.signing_key("s1");
    let (certificate, ecdsa) = files.certificate("tls");
    let dkim = |domain: &str, path: &Path| {
        format!("[[dkim]]\ndomain = \"{domain}\"\nselector = \"s1\"\nkey_file = \"{}\"\n", path.display())
    };
    let config = loaded(&with(&dkim("Shop.example", &key)));
    assert_eq!(config.relay.dkim[0].domain, "shop.example");
    assert!(config.relay.dkim[0].key.starts_with(b"-----BEGIN PRIVATE KEY-----"));
    assert!(!format!("{config:?}").contains("PRIVATE"));
    one_problem(&with(&dkim("shop.example", &certificate)), 13, &["no unencrypted private key"]);
    one_problem(&with(&dkim("shop.example", &ecdsa)), 13, &["ECDSA"]);
    one_problem(&with(&dkim("shop.example", Path::new("/nowhere"))), 13, &["cannot read /nowhere"]);
    one_problem(&with(&dkim("bücher.example", &key)), 11, &["xn--"]);
    let twice = format!("{}{}", dkim("shop.example", &key), dkim("SHOP.example", &key));
    one_problem(&with(&twice), 16, &["two keys \"s1\" of shop.example", ":12:"]);
    let found = problems(Files::new().load(&with("[[dkim]]\n"), &[]));
    assert!(
        ["`domain`", "`selector`", "`key_file`"].iter().all(|key| found.iter().any(|it| it.contains(key)))
    );
}

#[test]
fn addresses_are_suppressed_only_when_asked_for() {
    assert_eq!(loaded(&with("")).suppression, None);
    assert_eq!(loaded(&with("[suppression]\nttl = \"7d\"\n")).suppression, None);
    let on = loaded(&with("[suppression]\non_hard_bounce = true\n")).suppression;
    assert_eq!(on, Some(Duration::from_secs(90 * 86_400)));
}

#[test]
fn recipients_are_looked_at_as_said() {
    let verify = loaded(&with("")).submission.verify;
    assert_eq!((verify.syntax, verify.mx, verify.disposable_file), (false, false, None));
    let files = Files::new();
    let list = files.write("list", "throwaway.example\n");
    let section = format!("[verify]\nsyntax = true\nmx = true\ndisposable_file = \"{}\"\n", list.display());
    let verify = loaded(&with(&section)).submission.verify;
    assert_eq!((verify.syntax, verify.mx, verify.disposable_file), (true, true, Some(list)));
    assert_eq!(loaded(&with("[verify]\ndisposable_file = \"\"\n")).submission.verify.disposable_file, None);
    one_problem(&with("[verify]\ndisposable_file = \"/nowhere\"\n"), 11, &["cannot read /nowhere"]);
}

#[test]
fn name_servers_are_addresses() {
    let config =
        loaded(&with("[dns]\nservers = [\"192.0.2.53\", \"[2001:db8::53]:5353\"]\ntimeout = \"2s\"\n"));
    let servers: Vec<_> = config.dns.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["192.0.2.53:53", "[2001:db8::53]:5353"]);
    assert_eq!(config.dns.timeout, Duration::from_secs(2));
    one_problem(
        &with("[dns]\nservers = [\"dns.example\"]\n"),
        11,
        &["\"dns.example\"", "IP address of a name server"],
    );
    let files = Files::new();
    let anchor = files.trust_anchor("root.key");
    let of_another_zone = fs::read_to_string(&anchor).unwrap().replace(". IN", "x.example. IN");
    for (name, content) in [("other.key", of_another_zone), ("no.key", "x".to_owned())] {
        let wrong = files.write(name, &content);
        let text = format!("[dns]\ndnssec = true\ntrust_anchor_file = \"{}\"\n", wrong.display());
        one_problem(&with(&text), 12, &["trust_anchor_file", name]);
    }
    let text = with(&format!("[dns]\ntrust_anchor_file = \"{}\"\n", anchor.display()));
    one_problem(&text, 11, &["nothing is validated", "dnssec = true"]);
    assert_eq!(loaded(&format!("{text}dnssec = true\n")).dns.trust_anchor_file, Some(anchor));
    one_problem(&with("[dns]\ntrust_anchor_file = \"/nowhere\"\ndnssec = true\n"), 11, &["cannot read"]);
}

#[test]
fn the_routes_in_the_documentation_are_good() {
    let files = Files::new();
    let secret = files.write("secret", "secret\n").display().to_string();
    let blocks =
        |text: &'static str| text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let (providers, others): (Vec<_>, Vec<_>) = blocks(include_str!("../../docs/providers.md"))
        .partition(|block| block.contains("transport = \"smarthost\""));
    assert_eq!((providers.len(), others.len()), (4, 1));
    assert_eq!(mx_of(&loaded(&format!("{LISTENER}{}", others[0]))).port, 25);
    for block in providers {
        let route = ["oauth2", "google", "ses", "provider"].iter().fold(block.to_owned(), |block, name| {
            block.replace(&format!("\"/run/secrets/{name}\""), &format!("{secret:?}"))
        });
        let config = loaded(&format!("{LISTENER}{route}"));
        assert!(smarthost(&config).auth.is_some(), "{block}");
    }
    let world = blocks(include_str!("../../README.md")).find(|block| block.contains("\"mx\"")).unwrap();
    let key = files.signing_key("s1").display().to_string();
    let world = world.replace("/etc/oncemail/dkim/s1.pem", &key);
    assert_eq!(mx_of(&loaded(&format!("{LISTENER}{world}"))).port, 25);
}
