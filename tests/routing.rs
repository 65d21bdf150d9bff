//! Routes of a configuration file, in the real process: each recipient goes where the first route that matches says.

use std::net::SocketAddr;

use crate::common::client::Client;
use crate::common::dns_server::DnsServer;
use crate::common::far_side::{FarSide, Log};
use crate::common::program::Setup;

async fn submit(address: SocketAddr, sender: &str, recipients: &[&str]) {
    let (mut client, _) = Client::greeted(address).await;
    client.ask(&format!("MAIL FROM:<{sender}>")).await;
    for recipient in recipients {
        let reply = client.ask(&format!("RCPT TO:<{recipient}>")).await;
        assert!(reply.starts_with("250 "), "{recipient}: {reply}");
    }
    client.ask("DATA").await;
    let reply = client.ask("Subject: routes\r\n\r\nTo many.\r\n.").await;
    assert!(reply.starts_with("250 "), "{reply}");
}

/// The recipients of each transaction, in the order of the alphabet.
fn transactions(log: &Log) -> Vec<String> {
    let address = |rcpt: &String| rcpt.trim_start_matches("RCPT TO:<").trim_end_matches('>').to_owned();
    let all = log.taken.iter().map(|taken| taken.rcpts.iter().map(address).collect::<Vec<_>>().join(" "));
    let mut all: Vec<_> = all.collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_recipient_of_a_message_goes_where_its_route_and_its_domain_say() {
    let (internal, news) = (FarSide::new().start().await, FarSide::new().start().await);
    let world = FarSide::new().start().await;
    let dns = DnsServer::new()
        .mx("one.example", 10, "mx.one.example")
        .a("mx.one.example", "127.0.0.1")
        .a("two.example", "127.0.0.1")
        .start()
        .await;
    let setup = Setup::with_route(&format!(
        "recipient_domains = [\"corp.example\", \"*.corp.example\"]\n\
         transport = \"smarthost\"\nhosts = [\"{internal}\"]\ntls = \"none\"\n\
         [[route]]\nname = \"files\"\nrecipient_domains = [\"files.example\"]\n\
         transport = \"directory\"\npath = \"{{base}}/mail\"\n\
         [[route]]\nname = \"news\"\nsender_domains = [\"news.example\"]\n\
         transport = \"smarthost\"\nhosts = [\"{news}\"]\ntls = \"none\"\n\
         [[route]]\nname = \"world\"\ntransport = \"mx\"\nport = {port}\nallow_private_addresses = true\n\
         mta_sts = false\nrecipients_per_transaction = 2\n\
         [dns]\nservers = [\"{dns}\"]\n",
        internal = internal.address,
        news = news.address,
        port = world.address.port(),
        dns = dns.options().servers[0],
    ));
    let mut relay = setup.serve().await;
    let address = relay.address();
    let recipients = [
        "a@corp.example",
        "b@x.corp.example",
        "c@files.example",
        "d@one.example",
        "e@one.example",
        "f@one.example",
        "g@two.example",
    ];
    submit(address, "app@shop.example", &recipients).await;
    world.wait(|log| log.taken.len() == 3).await;
    internal.wait(|log| log.taken.len() == 1).await;
    submit(address, "letter@news.example", &["a@corp.example", "d@one.example"]).await;
    news.wait(|log| log.taken.len() == 1).await;
    internal.wait(|log| log.taken.len() == 2).await;
    assert_eq!(relay.stop().await, Some(0));
    assert_eq!(transactions(&internal.log()), ["a@corp.example", "a@corp.example b@x.corp.example"]);
    assert_eq!(transactions(&news.log()), ["d@one.example"]);
    assert_eq!(transactions(&world.log()), ["d@one.example e@one.example", "f@one.example", "g@two.example"]);
    let files = std::fs::read_dir(setup.dir.path().join("mail")).unwrap();
    let messages = files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "eml"));
    assert_eq!(messages.count(), 1);
}
