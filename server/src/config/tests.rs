//! Settings: precedence, and the refusal of what is unknown, out of bounds or contradictory.

use super::*;

fn with(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut settings = Settings::default();
    for (name, value) in pairs {
        settings.set(name, *value, Source::Flag)?;
    }
    settings.resolve()
}

fn refused(pairs: &[(&str, &str)]) -> String {
    with(pairs).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn the_defaults_are_a_single_durable_member() {
    let config = Config::default();
    assert_eq!(config.listen, "127.0.0.1:2379");
    assert_eq!(config.start, Start::Single);
    assert_eq!(config.timing, Timing::default());
    assert_eq!(config.limits, Limits::default());
    assert!(SETTINGS.len() <= 25, "{} settings are more than anybody reads", SETTINGS.len());
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("quorate.toml");
    std::fs::write(&file, "name = \"file\"\nheartbeat-ms = 100\ntxn-ops-max = 7\n").unwrap();
    let mut settings = Settings::default();
    settings.set("name", "flag", Source::Flag).unwrap();
    let variables =
        [("QUORATE_NAME", "env"), ("QUORATE_HEARTBEAT_MS", "90"), ("QUORATE_ENDPOINTS", "x"), ("PATH", "y")];
    settings.read_environment(variables.map(|(k, v)| (k.to_owned(), v.to_owned()))).unwrap();
    settings.read_file(&file).unwrap();
    let config = settings.resolve().unwrap();
    assert_eq!(config.name, "flag");
    assert_eq!(config.timing.heartbeat, Duration::from_millis(90));
    assert_eq!(config.limits.txn_ops_max, 7);
}

#[test]
fn what_is_unknown_is_refused_with_the_nearest_name() {
    let mut settings = Settings::default();
    let error = settings.set("lisen", "x", Source::Flag).unwrap_err().to_string();
    assert!(error.contains("--lisen") && error.contains("\"listen\""), "{error}");
    let error = settings.read_environment([("QUORATE_NMAE".to_owned(), "x".to_owned())]).unwrap_err().to_string();
    assert!(error.contains("QUORATE_NMAE"), "{error}");
}

#[test]
fn what_is_out_of_bounds_or_no_number_is_refused_with_the_bounds() {
    let error = refused(&[("heartbeat-ms", "1")]);
    assert!(error.contains("--heartbeat-ms") && error.contains("10 to 5000"), "{error}");
    assert!(refused(&[("txn-ops-max", "many")]).contains("whole number"));
    assert!(refused(&[("listen", "localhost")]).contains("HOST:PORT"));
    assert!(refused(&[("listen", "localhost:99999")]).contains("port"));
    assert!(refused(&[("name", "a b")]).contains("letters"));
}

#[test]
fn contradictions_are_refused() {
    assert!(refused(&[("cluster", "quorate=h:1"), ("join", "h:2")]).contains("exclude each other"));
    assert!(refused(&[("cluster", "a=h:1,b=h:2")]).contains("does not list this member"));
    assert!(refused(&[("name", "a"), ("cluster", "a=h:1,a=h:2")]).contains("twice"));
    assert!(refused(&[("name", "a"), ("cluster", "a:h:1")]).contains("NAME=HOST:PORT"));
    assert!(refused(&[("heartbeat-ms", "200")]).contains("twice heartbeat-ms"));
    assert!(refused(&[("election-max-ms", "260")]).contains("1.2 times"));
    assert!(refused(&[("value-bytes-max", "16777216")]).contains("request-bytes-max"));
}

#[test]
fn a_cluster_lists_its_members() {
    let config = with(&[("name", "b"), ("cluster", "a=h:1, b=h:2")]).unwrap();
    assert_eq!(config.start, Start::Cluster(vec![("a".into(), "h:1".into()), ("b".into(), "h:2".into())]));
}

#[test]
fn discovery_is_told_its_domain_and_where_it_may_check() {
    let config = with(&[("dns-domain", "SD.example"), ("check-networks", "127.0.0.1, fd00::/8")]).unwrap();
    assert_eq!(config.dns_domain.to_ascii(), "sd.example.");
    assert!(config.check_networks.allow("127.0.0.1".parse().unwrap()));
    assert!(!config.check_networks.allow("127.0.0.2".parse().unwrap()));
    let default = Config::default();
    assert_eq!((default.dns_listen, default.dns_domain.to_ascii()), (None, "quorate.".to_owned()));
    assert!(!default.check_networks.allow("127.0.0.1".parse().unwrap()), "not without being asked");
    assert!(refused(&[("dns-domain", "a b")]).contains("domain"));
    assert!(refused(&[("dns-domain", ".")]).contains("domain"));
    assert!(refused(&[("dns-listen", "53")]).contains("HOST:PORT"));
    assert!(refused(&[("check-networks", "10.0.0.0/33")]).contains("10.0.0.0/33"));
}

#[test]
fn a_file_with_a_wrong_shape_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("quorate.toml");
    for (text, what) in [("name = [1]", "array"), ("name = ", "quorate.toml"), ("nme = \"x\"", "\"name\"")] {
        std::fs::write(&file, text).unwrap();
        let error = Settings::default().read_file(&file).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
