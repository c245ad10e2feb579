//! Damaged endpoints: refused with a reason, or an address with a host and a port.

use quorate_state::testing::fuzz::fuzz;

use super::*;

#[test]
fn endpoints() {
    let corpus = include_str!("../../../tests/corpus/endpoints.txt");
    fuzz("endpoints", corpus, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return false };
        let Ok(address) = parse(text) else { return false };
        assert_eq!(parse(&address).unwrap(), address);
        let uri: http::Uri = format!("http://{address}").parse().unwrap();
        assert!(uri.port_u16().is_some() && uri.host().is_some_and(|host| !host.is_empty()), "{address}");
        tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        true
    });
}
