//! `oncemail doctor`: what it says of a relay that is well, and of each part that is not; and that it sends nothing.

use std::path::Path;
use std::process::Output;

use hickory_server::proto::rr::rdata::PTR;
use hickory_server::proto::rr::{Name, RData};
use tokio::net::TcpListener;

use crate::common::certificates::{Authority, Presented};
use crate::common::dns_server::{DnsServer, DnsServerBuilder, Lie};
use crate::common::far_side::{Act, FarSide, FarSideBuilder, Tls, say};
use crate::common::program::{Setup, oncemail};

const ED25519: &str = include_str!("fixtures/dkim/ed25519.pem");
const ED25519_PUBLIC: &str = include_str!("fixtures/dkim/ed25519.pub");

/// What the binary says with `more` in its configuration.
struct Doctor {
    setup: Setup,
    output: Output,
    checks: Vec<serde_json::Value>,
}

fn zone() -> DnsServerBuilder {
    DnsServer::new().a("relay.example", "127.0.0.1")
}

fn smarthost(far: &FarSide, more: &str) -> String {
    let port = far.address.port();
    let ca = far.ca_file.display();
    format!("transport = \"smarthost\"\nhosts = [\"127.0.0.1:{port}\"]\nca_file = \"{ca}\"\n{more}")
}

async fn run(setup: &Setup, arguments: &[&str]) -> Output {
    let config = setup.config();
    let mut command = oncemail(&[&["doctor", "--config", config.as_str()], arguments].concat());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a test's own file")]
fn add(setup: &Setup, more: &str) {
    let whole = std::fs::read_to_string(setup.config()).unwrap() + more;
    std::fs::write(setup.config(), whole).unwrap();
}

fn dns(server: &DnsServer) -> String {
    format!("[dns]\nservers = [\"{}\"]\ntimeout = \"300ms\"\n", server.address)
}

impl Doctor {
    async fn asked(route: &str, more: &str, arguments: &[&str]) -> Self {
        let setup = Setup::with_route(route);
        add(&setup, more);
        Self::of(setup, arguments).await
    }

    async fn of(setup: Setup, arguments: &[&str]) -> Self {
        let output = run(&setup, &[&["--json"], arguments].concat()).await;
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let document: serde_json::Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        let failed = document["failed"].as_u64().unwrap();
        assert_eq!(output.status.code(), Some(i32::from(failed > 0)), "{text}");
        Self { setup, output, checks: document["checks"].as_array().unwrap().clone() }
    }

    /// Status and finding of what begins so.
    fn said(&self, what: &str) -> (String, String) {
        let field =
            |check: &serde_json::Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
        let check = self.checks.iter().find(|check| field(check, "what").starts_with(what));
        let check = check.unwrap_or_else(|| panic!("nothing about {what} in {:#?}", self.checks));
        let advice = field(check, "advice");
        let arrow = if advice.is_empty() { String::new() } else { format!(" → {advice}") };
        (field(check, "status"), field(check, "finding") + &arrow)
    }

    fn expect(&self, what: &str, status: &str, part: &str) {
        let said = self.said(what);
        assert!(said.0 == status && said.1.contains(part), "{what}: {status}, {part}: {said:?}");
    }
}

fn provider() -> FarSideBuilder {
    FarSide::new()
        .tls(Tls::Upgrade)
        .offers(&["SIZE 30000000"])
        .offers_in_tls(&["AUTH PLAIN", "SIZE 30000000"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_well_is_tried_up_to_auth_and_nothing_is_sent() {
    let far = provider().start().await;
    let record = format!("v=DKIM1; k=ed25519; p={}", ED25519_PUBLIC.trim());
    let names = zone().txt("s1._domainkey.shop.example", &[&record]).start().await;
    let setup = Setup::with_route(&smarthost(&far, "username = \"u\"\npassword = \"p\""));
    let key = setup.dir.path().join("s1.pem");
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(&key, ED25519).unwrap();
    let dkim =
        format!("[[dkim]]\ndomain = \"shop.example\"\nselector = \"s1\"\nkey_file = \"{}\"\n", key.display());
    add(&setup, &(dns(&names) + &dkim));
    let doctor = Doctor::of(setup, &[]).await;
    // Where the test's own files are is not the test's to choose.
    let failed: Vec<_> = doctor.checks.iter().filter(|check| check["status"] == "fail").collect();
    assert!(failed.iter().all(|check| check["what"] == "file system"), "{failed:?}");
    doctor.expect("route out, 127.0.0.1", "ok", "TLSv1.3 verified, certificate until");
    doctor.expect("route out, 127.0.0.1", "ok", "AUTH went well, messages up to 30");
    doctor.expect("configuration", "ok", "1 listener, 1 route");
    doctor.expect("data directory", "ok", "first start makes it");
    doctor.expect("name server 127.0.0.1", "ok", "answered after");
    doctor.expect("own name", "ok", "relay.example is 127.0.0.1");
    doctor.expect("DKIM s1._domainkey.shop.example", "ok", "the record fits: ed25519");
    doctor.expect("clock", "ok", "");
    doctor.expect("open files", "ok", "");
    doctor.expect("server", "skip", "no oncemail is running");
    let log = far.wait(|log| log.open == 0 && log.connections == 1).await;
    assert_eq!((log.said("AUTH"), log.said("QUIT"), log.said("MAIL")), (1, 1, 0), "{log:?}");
    assert!(!doctor.setup.data_dir().exists(), "it makes nothing");
    let people = run(&doctor.setup, &[]).await;
    let text = String::from_utf8(people.stdout).unwrap();
    assert!(text.contains("ok    configuration: valid: 1 listener, 1 route\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_a_refused_password_is_tried_at_one_host_only() {
    let no = "535 5.7.8 wrong \u{1b}[2J password";
    let far = provider().on("AUTH", say(no)).start().await;
    let other = provider().start().await;
    let hosts = format!("127.0.0.1:{}\", \"127.0.0.1:{}", far.address.port(), other.address.port());
    let route = smarthost(&far, "username = \"u\"\npassword = \"hunter2\"");
    let route = route.replace(&format!("127.0.0.1:{}", far.address.port()), &hosts);
    let names = zone().start().await;
    let doctor = Doctor::asked(&route, &dns(&names), &[]).await;
    assert_eq!(doctor.output.status.code(), Some(1));
    doctor.expect(&format!("route out, {}", far.address), "fail", "→ correct username, password");
    doctor.expect(&format!("route out, {}", far.address), "fail", "535 5.7.8");
    doctor.expect(&format!("route out, {}", other.address), "skip", "the password was refused before");
    assert_eq!((far.log().said("AUTH"), other.log().connections), (1, 0));
    for arguments in [[].as_slice(), &["--json"]] {
        let output = run(&doctor.setup, arguments).await;
        let said = [output.stdout, output.stderr].concat();
        assert!(!said.contains(&0x1b) && memchr::memmem::find(&said, b"hunter2").is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_cannot_be_used_says_at_which_step_and_what_to_do() {
    let names = zone().start().await;
    let hostile = "554 \u{1b}]0;title\u{7} go away\u{9b}2J";
    for (far, more, step, advice) in [
        (FarSide::new().on("CONNECT", say(hostile)), "", "554", "with these words"),
        (FarSide::new(), "", "STARTTLS: the far side does not offer it", "implicit"),
        (FarSide::new().tls(Tls::Upgrade), "ca_file = \"\"", "TLS with", "ca_file"),
        (FarSide::new().on("EHLO", Act::Close), "", "EHLO: the far side closed", ""),
        (
            provider().offers_in_tls(&[]),
            "username = \"u\"\npassword = \"p\"",
            "AUTH: the far side offers neither",
            "auth of the route",
        ),
        (
            FarSide::new().on("CONNECT", Act::Bytes(b"HTTP/1.1 400 no\r\n\r\n".to_vec())),
            "",
            "greeting: the far side sent",
            "speaks SMTP",
        ),
    ] {
        let far = far.start().await;
        let mut route = smarthost(&far, more);
        if more.starts_with("ca_file") {
            // Another far side's authority is not this one's.
            let other = FarSide::new().start().await;
            route = smarthost(&far, "")
                .replace(&far.ca_file.display().to_string(), &other.ca_file.display().to_string());
            let doctor = Doctor::asked(&route, &dns(&names), &[]).await;
            doctor.expect("route out, 127", "fail", step);
            continue;
        }
        let doctor = Doctor::asked(&route, &dns(&names), &[]).await;
        doctor.expect("route out, 127", "fail", step);
        doctor.expect("route out, 127", "fail", advice);
        let text = run(&doctor.setup, &[]).await.stdout;
        let text = String::from_utf8(text).unwrap();
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let route = format!("transport = \"smarthost\"\nhosts = [\"{closed}\"]\ntls = \"none\"");
    let doctor = Doctor::asked(&route, &dns(&names), &[]).await;
    doctor.expect("route out, 127", "fail", "connecting to 127.0.0.1");
    doctor.expect("route out, 127", "fail", "firewall");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_takes_less_than_we_do_or_no_tls_is_a_warning() {
    let far = FarSide::new().offers(&["SIZE 1000"]).start().await;
    let names = zone().start().await;
    let doctor =
        Doctor::asked(&smarthost(&far, "tls = \"opportunistic\"").replace("ca_file", "#"), &dns(&names), &[])
            .await;
    let findings: Vec<_> = doctor.checks.iter().map(|check| check["finding"].as_str().unwrap()).collect();
    assert!(findings.iter().any(|finding| finding.contains("can be read on the way")), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.contains("larger messages bounce")), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_and_dkim_records_that_do_not_fit_are_told() {
    let address: Name = "9.2.0.192.in-addr.arpa.".parse().unwrap();
    let pointer = RData::PTR(PTR("other.example.".parse().unwrap()));
    let names = DnsServer::new()
        .a("relay.example", "192.0.2.9")
        .a("relay.example", "10.0.0.9")
        .record(&address.to_ascii(), pointer)
        .txt("gone._domainkey.shop.example", &["v=DKIM1; k=ed25519; p="])
        .start()
        .await;
    let setup = Setup::with_route("transport = \"mx\"");
    let key = setup.dir.path().join("key.pem");
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(&key, ED25519).unwrap();
    let dkim = |selector: &str| {
        format!(
            "[[dkim]]\ndomain = \"shop.example\"\nselector = \"{selector}\"\nkey_file = \"{}\"\n",
            key.display()
        )
    };
    add(&setup, &(dns(&names) + &dkim("gone") + &dkim("never")));
    let doctor = Doctor::of(setup, &[]).await;
    doctor.expect("reverse DNS of 192.0.2.9", "warn", "other.example → have whoever gave you the address");
    let findings: Vec<_> = doctor.checks.iter().map(|check| check["finding"].as_str().unwrap()).collect();
    assert!(findings.contains(&"10.0.0.9 is private, and far sides see another"), "{findings:?}");
    doctor.expect("DKIM gone._domainkey", "fail", "revoked");
    let record = format!(
        "publish this TXT record at never._domainkey.shop.example: v=DKIM1; k=ed25519; p={}",
        ED25519_PUBLIC.trim()
    );
    doctor.expect("DKIM never._domainkey", "fail", &record);
    doctor.expect("route out", "skip", "oncemail explain ADDRESS");
    names.lie("relay.example", Lie::ServFail);
    let Doctor { setup, .. } = doctor;
    let doctor = Doctor::of(setup, &[]).await;
    doctor.expect("name server 127.0.0.1", "fail", "relay.example");
    doctor.expect("own name", "warn", "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_listeners_certificate_is_looked_at_as_clients_will() {
    let authority = Authority::new("ca");
    let write = |made: &Presented, base: &Path| {
        let (certificate, key) = (base.join("cert.pem"), base.join("key.pem"));
        made.write(&certificate, &key);
        format!("certificate_file = \"{}\"\nkey_file = \"{}\"\n", certificate.display(), key.display())
    };
    let with = async |files: &dyn Fn(&Path) -> String| {
        let setup = Setup::new();
        let files = files(setup.dir.path());
        let listener =
            "[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\ntls = \"starttls\"\nauth = \"none\"\n";
        add(&setup, &format!("{listener}[tls]\n{files}"));
        Doctor::of(setup, &["--offline"]).await
    };
    let good = with(&|base| write(&authority.signs(&["relay.example"]), base)).await;
    good.expect("certificate", "ok", "good until");
    good.expect("certificate's names", "ok", "relay.example");
    let other = with(&|base| write(&authority.signs(&["other.example"]), base)).await;
    other.expect("certificate's names", "warn", "other.example: not relay.example");
    let old = with(&|base| write(&authority.signed_long_ago(&["relay.example"]), base)).await;
    old.expect("certificate", "fail", "expired at 2020-01-01");
    assert_eq!(old.output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_it_connects_to_nobody() {
    let far = provider().start().await;
    let names = zone().start().await;
    let doctor = Doctor::asked(&smarthost(&far, ""), &dns(&names), &["--offline"]).await;
    doctor.expect("network", "skip", "--offline");
    assert_eq!(far.log().connections, 0);
    assert_eq!(names.asked("relay.example", hickory_server::proto::rr::RecordType::A), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_configuration_is_told_whole_and_the_disk_is_looked_at_all_the_same() {
    let doctor = Doctor::asked("transport = \"pigeon\"", "[breaker]\nfailuers = 3\n", &[]).await;
    let wrong = doctor.checks.iter().filter(|check| check["what"] == "configuration");
    assert_eq!(wrong.filter(|check| check["status"] == "fail").count(), 2, "{:#?}", doctor.checks);
    doctor.expect("data directory", "ok", "");
    assert_eq!(doctor.output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_server_is_asked_and_its_directory_probed_beside_it() {
    let setup = Setup::new();
    let mut relay = setup.serve().await;
    setup.is_ready().await;
    let doctor = Doctor::of(setup, &["--offline"]).await;
    doctor.expect("server", "ok", "ready");
    let sync = doctor.said("sync");
    assert!(sync.0 != "fail" && sync.1.contains("median"), "{sync:?}");
    assert!(!doctor.checks.is_empty() && doctor.setup.data_dir().join("doctor.probe").metadata().is_err());
    assert_eq!(relay.stop().await, Some(0));
}
