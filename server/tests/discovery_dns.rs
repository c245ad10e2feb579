//! Names of services by DNS, asked with dig, a client that we did not write.
//!
//! Invariants:
//! - What dig prints is read as it is meant for people: status, flags, and the records of each section.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod doors;
mod found;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use doors::Doors;
use doors::three::Three;
use found::{Registration, asked, client, instance};
use quorate_proto::v1;
use quorate_proto::v1::Health;
use quorate_server::api::dns::Sockets;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::process::Command;
use tokio::time::timeout;

fn serve(doors: &Doors) -> SocketAddr {
    let sockets = Sockets::bind(&quorate_tests::address::free().to_string()).unwrap();
    let address = sockets.address().unwrap();
    let domain = "q.example.".parse().unwrap();
    sockets.serve(&doors.discovery, &domain, &doors.tasks).unwrap();
    address
}

async fn register(doors: &Doors, instance: v1::Instance) {
    let mut stream = Registration::open(doors).await;
    stream.register(v1::RegisterInstance { permanent: true, ..asked(instance) }).await;
    stream.end().await;
}

/// What dig printed.
#[derive(Debug, Default)]
struct Said {
    status: String,
    flags: BTreeSet<String>,
    /// By section: records, their fields.
    sections: BTreeMap<String, Vec<Vec<String>>>,
    text: String,
}

impl Said {
    /// The fifth field and all after it.
    fn data(&self, section: &str) -> Vec<String> {
        let records = self.sections.get(section).into_iter().flatten();
        let mut data: Vec<String> = records.map(|fields| fields[4..].join(" ")).collect();
        data.sort();
        data
    }

    fn answers(&self) -> Vec<String> {
        self.data("ANSWER")
    }
}

async fn dig(at: SocketAddr, question: &str) -> Said {
    let mut command = Command::new("dig");
    command.args([&format!("@{}", at.ip()), "-p", &at.port().to_string(), "+tries=1", "+time=20", "+nocookie"]);
    let output = command.args(question.split_whitespace()).output().await.expect("dig runs; scripts/setup installs it");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let mut said = Said { text, ..Said::default() };
    let mut section = String::new();
    for line in said.text.clone().lines() {
        if let Some((_, rest)) = line.split_once("status: ") {
            said.status = rest.split(',').next().map(str::to_owned).unwrap();
        } else if let Some(rest) = line.strip_prefix(";; flags: ") {
            said.flags = rest.split(';').next().unwrap().split_whitespace().map(str::to_owned).collect();
        } else if let Some(name) = line.strip_prefix(";; ").and_then(|line| line.strip_suffix(" SECTION:")) {
            section = String::from(name);
        } else if !line.is_empty() && !line.starts_with(';') {
            let fields = line.split_whitespace().map(str::to_owned).collect();
            said.sections.entry(section.clone()).or_default().push(fields);
        }
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_found_by_name_in_all_forms() {
    let doors = Doors::single().await;
    let at = serve(&doors);
    let (metadata, tags) = ([("rack".to_owned(), "7".to_owned())].into(), vec!["v2".to_owned()]);
    register(&doors, v1::Instance { metadata, tags, weight: 9, ..instance("web", "Pod.1") }).await;
    register(&doors, v1::Instance { address: "fd00::7".into(), port: 81, ..instance("web", "b") }).await;
    let said = dig(at, "web.service.q.example A").await;
    assert_eq!((said.status.as_str(), said.answers()), ("NOERROR", vec!["10.0.0.1".to_owned()]), "{}", said.text);
    assert!(said.flags.contains("aa") && said.sections["ANSWER"][0][1] == "5", "{}", said.text);
    assert_eq!(dig(at, "WEB.Service.Q.Example AAAA").await.answers(), ["fd00::7"]);
    let hex = "0a000001.addr.q.example.";
    for name in ["web.service.q.example", "_web._tcp.service.q.example", "_web._tcp.q.example"] {
        let said = dig(at, &format!("{name} SRV")).await;
        let six = "fd000000000000000000000000000007.addr.q.example.";
        assert_eq!(said.answers(), [format!("1 100 81 {six}"), format!("1 9 80 {hex}")], "{}", said.text);
        assert_eq!(said.data("ADDITIONAL"), ["10.0.0.1", "fd00::7"]);
    }
    for name in ["v2.web.service.q.example", "_web._v2.service.q.example", "pod.1.web.instance.q.example"] {
        assert_eq!(dig(at, &format!("{name} SRV")).await.answers(), [format!("1 9 80 {hex}")], "{name}");
    }
    assert_eq!(dig(at, &format!("{hex} A")).await.answers(), ["10.0.0.1"]);
    assert_eq!(dig(at, "web.service.q.example TXT").await.answers(), ["\"rack=7\""]);
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_no_message_has_room_for_hides_nobody() {
    let doors = Doors::single().await;
    let at = serve(&doors);
    let wide = (0..60).map(|n| (format!("n{n:02}"), "x".repeat(4_000))).collect();
    let small = [("rack".to_owned(), "7".to_owned())].into();
    register(&doors, v1::Instance { metadata: wide, ..instance("web", "a") }).await;
    register(&doors, v1::Instance { metadata: small, ..instance("web", "b") }).await;
    let said = dig(at, "web.service.q.example TXT +tcp").await;
    let answers = said.answers();
    assert_eq!(answers.len(), 2, "{}", said.text);
    assert!(answers.contains(&"\"rack=7\"".to_owned()), "{}", said.text);
    let longest = answers.iter().map(String::len).max().unwrap();
    assert!((8_000..9_000).contains(&longest), "two of sixty: {longest}");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_hosts_are_given_as_aliases_and_targets() {
    let doors = Doors::single().await;
    let at = serve(&doors);
    register(&doors, v1::Instance { address: "db.example.net".into(), ..instance("db", "a") }).await;
    let said = dig(at, "db.service.q.example A").await;
    assert_eq!((said.answers(), said.sections["ANSWER"][0][3].as_str()), (vec!["db.example.net.".to_owned()], "CNAME"));
    assert_eq!(dig(at, "db.service.q.example SRV").await.answers(), ["1 100 80 db.example.net."]);
    register(&doors, instance("db", "b")).await;
    assert_eq!(dig(at, "db.service.q.example A").await.answers(), ["10.0.0.1"], "never an alias beside addresses");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_from_what_has_nothing_and_what_is_not_ours() {
    let doors = Doors::single().await;
    let at = serve(&doors);
    let put = |key: &str, value: &str| v1::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    };
    doors.kv().put(put("/services/empty", r#"{"dns_ttl_s": 30}"#)).await.unwrap();
    register(&doors, instance("web", "a")).await;
    for (question, status) in [
        ("none.service.q.example A", "NXDOMAIN"),
        ("v9.web.service.q.example A", "NXDOMAIN"),
        ("b.web.instance.q.example A", "NXDOMAIN"),
        ("other.q.example A", "NXDOMAIN"),
        ("web.service.q.example AAAA", "NOERROR"),
        ("web.service.q.example MX", "NOERROR"),
        ("empty.service.q.example A", "NOERROR"),
        ("service.q.example A", "NOERROR"),
        ("q.example A", "NOERROR"),
    ] {
        let said = dig(at, question).await;
        assert_eq!((said.status.as_str(), said.answers().len()), (status, 0), "{}", said.text);
        assert_eq!(said.sections["AUTHORITY"][0][3], "SOA", "{}", said.text);
        let ttl = if question.starts_with("empty") { "30" } else { "5" };
        assert_eq!(said.sections["AUTHORITY"][0][1], ttl, "{}", said.text);
    }
    for question in ["www.example.com A", "example A", "xq.example A", "-c CH version.q.example TXT"] {
        assert_eq!(dig(at, question).await.status, "REFUSED");
    }
    assert_eq!(dig(at, "q.example SOA").await.answers().len(), 1);
    assert_eq!(dig(at, "+opcode=notify q.example SOA").await.status, "NOTIMP");
    assert_eq!(dig(at, "+edns=1 +noednsneg web.service.q.example A").await.status, "BADVERS");
    // Out of service is as good as not there, but the name stands.
    let maintain = v1::SetMaintenanceRequest { service: "web".into(), id: "a".into(), on: true, note: String::new() };
    client(&doors).set_maintenance(maintain).await.unwrap();
    let said = dig(at, "web.service.q.example A").await;
    assert_eq!((said.status.as_str(), said.answers().len()), ("NOERROR", 0));
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_cut_to_what_fits_and_are_whole_over_tcp() {
    let doors = Doors::single().await;
    let at = serve(&doors);
    for id in 0..150 {
        register(&doors, v1::Instance { address: format!("10.0.1.{id}"), ..instance("big", &format!("i{id}")) }).await;
    }
    let said = dig(at, "+noedns +ignore big.service.q.example A").await;
    assert!(said.flags.contains("tc"), "{}", said.text);
    let small = said.answers().len();
    assert!((20..40).contains(&small), "512 bytes hold {small}");
    let said = dig(at, "+bufsize=4096 +ignore big.service.q.example A").await;
    assert!(said.flags.contains("tc") && (60..90).contains(&said.answers().len()), "{}", said.text);
    // dig asks again over TCP, as it should.
    let said = dig(at, "big.service.q.example A").await;
    assert_eq!((said.answers().len(), said.flags.contains("tc")), (150, false));
    let said = dig(at, "+tcp big.service.q.example SRV").await;
    assert_eq!((said.answers().len(), said.data("ADDITIONAL").len()), (150, 150));
    // What may be missing without harm is left out first.
    let said = dig(at, "+bufsize=1232 +ignore i.big.service.q.example SRV").await;
    assert_eq!(said.status, "NXDOMAIN");
    let firsts = async || dig(at, "+tcp big.service.q.example A").await.sections["ANSWER"][0][4].clone();
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        seen.insert(firsts().await);
    }
    assert!(seen.len() > 1, "shuffled");
    doors.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_go_on_without_a_quorum() {
    let mut three = Three::start().await;
    let at = serve(&three.members[&3]);
    let deadline = support::soon();
    register(&three.members[&3], instance("web", "a")).await;
    while three.members[&3].version_of("/services/web/a") == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the instance does not arrive");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for id in [1, 2] {
        three.remove(id).await;
    }
    assert_eq!(dig(at, "web.service.q.example A").await.answers(), ["10.0.0.1"]);
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_answers_where_its_settings_say() {
    let dir = tempfile::tempdir().unwrap();
    let at = quorate_tests::address::free();
    let mut settings = quorate_server::config::Settings::default();
    let data_dir = dir.path().join("data").display().to_string();
    let (listen, dns_listen) = ("127.0.0.1:0".to_owned(), at.to_string());
    let given = [
        ("data-dir", data_dir),
        ("listen", listen.clone()),
        ("peer-listen", listen),
        ("dns-listen", dns_listen.clone()),
        ("dns-domain", "Sd.Example".to_owned()),
    ];
    for (name, value) in given {
        settings.set(name, value, quorate_server::config::Source::Flag).unwrap();
    }
    let config = settings.resolve().unwrap();
    let server = quorate_server::Server::start(config.clone()).await.unwrap();
    assert_eq!(server.dns_address(), Some(at.into()));
    assert_eq!(dig(at.into(), "none.service.sd.example A").await.status, "NXDOMAIN");
    assert_eq!(dig(at.into(), "none.service.quorate A").await.status, "REFUSED");
    let other = quorate_server::config::Config { data_dir: dir.path().join("other"), ..config };
    let error = quorate_server::Server::start(other).await.err().unwrap().to_string();
    assert!(error.contains(&dns_listen), "{error}");
    server.stop().await;
}

/// A random document: sometimes nearly one, sometimes bytes.
fn document(random: &mut StdRng) -> Vec<u8> {
    let good = r#"{"address":"10.0.0.1","port":80,"tags":["a"],"metadata":{"k":"v"},"weight":5,"health":"passing",
        "reported":{"health":"warning"},"checks":[{"ttl_ms":1000,"status":"passing"}],"x":[1,{"y":null}]}"#;
    let mut bytes = good.as_bytes().to_vec();
    match random.random_range(0..4) {
        0 => bytes = (0..random.random_range(0..200)).map(|_| random.random()).collect(),
        1 => bytes.truncate(random.random_range(0..bytes.len())),
        2 => bytes = [b"[".repeat(random.random_range(1..5_000)), bytes].concat(),
        _ => {
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..bytes.len());
                let odd = b"{}[]\",:019.-aeE\\ntrue\xff";
                bytes[at] = odd[random.random_range(0..odd.len())];
            }
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_random_bytes_nor_random_documents_do_harm() {
    let seed = std::env::var("QUORATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("QUORATE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let doors = Doors::single().await;
    let at = serve(&doors);
    register(&doors, instance("web", "good")).await;
    for id in 0..200 {
        let key = format!("/services/web/r{id}").into();
        let put = v1::PutRequest { key, value: document(&mut random).into(), ..Default::default() };
        doors.kv().put(put).await.unwrap();
    }
    let worst = Health::Maintenance.into();
    let all = v1::ResolveRequest { service: "web".into(), worst, ..Default::default() };
    assert_eq!(client(&doors).resolve(all).await.unwrap().into_inner().instances.len(), 201);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let query =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x07service\x01q\x07example\x00\x00\x01\x00\x01";
    for round in 0..2_000 {
        let mut bytes = query.to_vec();
        if random.random_bool(0.3) {
            bytes = (0..random.random_range(0..600)).map(|_| random.random()).collect();
        } else {
            for _ in 0..random.random_range(1..8) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            bytes.extend((0..random.random_range(0..20)).map(|_| random.random::<u8>()));
        }
        socket.send_to(&bytes, at).await.unwrap();
        if round % 50 == 0 {
            let mut stream = TcpStream::connect(at).await.unwrap();
            let claimed = u16::try_from(bytes.len()).unwrap().wrapping_add(random.random_range(0..3));
            let _ = stream.write_all(&[&claimed.to_be_bytes()[..], &bytes].concat()).await;
            let _ = stream.shutdown().await;
            let mut rest = Vec::new();
            let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.expect("it ends");
        }
    }
    let said = dig(at, "+tcp web.service.q.example A").await;
    assert!(said.answers().contains(&"10.0.0.1".to_owned()), "{}", said.text);
    assert_eq!(dig(at, "good.web.instance.q.example A").await.answers(), ["10.0.0.1"]);
    doors.stop().await;
}
