//! One check: what is asked, and what the answer says.
//!
//! Invariants:
//! - A check connects to allowed addresses only, follows no redirect, and reads no more than the head of an answer.
//! - Whatever comes back is an [`Outcome`].

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::networks::Networks;
use crate::recipes::discovery::check::{Check, Kind};

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// What a server sees of us.
const AGENT: &str = concat!("quorate-check/", env!("CARGO_PKG_VERSION"));

/// Begins what is said of a service that answers, and does not serve.
const NOT_SERVING: &str = "grpc.health.v1 says";

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Pass,
    /// Serves, but.
    Warn(String),
    /// Does not serve.
    Fail(String),
}

/// Makes checks.
#[derive(Default)]
pub struct Prober {
    networks: Networks,
    /// Made when the first `https://` is checked.
    tls: OnceLock<Arc<ClientConfig>>,
}

impl Prober {
    /// That goes to these networks only.
    pub fn new(networks: Networks) -> Self {
        Self { networks, tls: OnceLock::new() }
    }

    /// Makes a check once.
    pub async fn probe(&self, check: &Check) -> Outcome {
        let limit = Duration::from_millis(check.timeout_ms);
        let made = async {
            match check.kind() {
                Some(Kind::Http(url)) => self.http(url).await,
                Some(Kind::Tcp(target)) => self.connect(target).await.map(|_| Outcome::Pass),
                Some(Kind::Grpc { target, service }) => self.grpc(target, service).await,
                Some(Kind::Ttl(_)) | None => Err("there is nothing to ask".to_owned()),
            }
        };
        match timeout(limit, made).await {
            Ok(outcome) => outcome.unwrap_or_else(Outcome::Fail),
            Err(_) => Outcome::Fail(format!("no answer within {} ms", limit.as_millis())),
        }
    }

    async fn connect(&self, target: &str) -> Result<TcpStream, String> {
        let (host, port) = target.rsplit_once(':').ok_or("there is no port")?;
        let port = port.parse().map_err(|_| "the port is none")?;
        self.networks.connect(bare(host), port).await
    }

    async fn http(&self, url: &str) -> Result<Outcome, String> {
        let uri: Uri = url.parse().map_err(|error| format!("the URL is none: {error}"))?;
        let authority = uri.authority().ok_or("the URL names no host")?;
        let secure = uri.scheme_str() == Some("https");
        let host = bare(authority.host());
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = self.networks.connect(host, port).await?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(http::header::HOST, authority.as_str())
            .header(http::header::USER_AGENT, AGENT)
            .header(http::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let status = if secure {
            let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
            let connector = TlsConnector::from(self.tls().await?);
            let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
            get(stream, request).await?
        } else {
            get(stream, request).await?
        };
        Ok(judge(status))
    }

    /// Trusts whom this machine trusts.
    async fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(tls) = self.tls.get() {
            return Ok(Arc::clone(tls));
        }
        let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
        let loaded = loaded.map_err(|_| "the member is stopping")?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(loaded.certs);
        let config = client_config(roots)?;
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }

    async fn grpc(&self, target: &str, service: &str) -> Result<Outcome, String> {
        ask_health(self.connect(target).await?, target, service).await
    }
}

fn client_config(roots: RootCertStore) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

/// What a server at the other end says of its service by gRPC.
async fn ask_health<S>(stream: S, target: &str, service: &str) -> Result<Outcome, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let endpoint = Endpoint::from_shared(format!("http://{target}")).map_err(|error| error.to_string())?;
    let mut stream = Some(TokioIo::new(stream));
    // One connection to the address that was allowed; a second one is not made.
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
        std::future::ready(stream)
    });
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| error.to_string())?;
    let mut client = HealthClient::new(channel).max_decoding_message_size(HEAD_BYTES_MAX);
    let answer = client.check(HealthCheckRequest { service: service.to_owned() }).await;
    let answer = answer.map_err(|status| format!("gRPC {}: {}", status.code(), status.message()))?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(Outcome::Pass),
        status => Err(format!("{NOT_SERVING} {}", status.as_str_name())),
    }
}

/// The status of the answer.
async fn get<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = hyper::client::conn::http1::Builder::new();
    let handshake = builder.max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // It has given out what it got before it ended.
        _ = connection => answer.await,
    };
    Ok(answer.map_err(|error| error.to_string())?.status())
}

fn judge(status: StatusCode) -> Outcome {
    match status.as_u16() {
        200..=299 => Outcome::Pass,
        429 => Outcome::Warn(format!("HTTP {status}")),
        300..=399 => Outcome::Fail(format!("HTTP {status}; redirects are not followed")),
        _ => Outcome::Fail(format!("HTTP {status}")),
    }
}

/// Without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    use super::*;

    fn loopback() -> Networks {
        Networks(vec!["127.0.0.0/8".parse().unwrap()])
    }

    fn http(url: String) -> Check {
        let mut check = Check { http: Some(url), timeout_ms: 5_000, ..Check::default() };
        check.fill_defaults();
        check
    }

    /// Reads a request and answers it with this status, once a connection.
    async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, status: &str) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nLocation: http://127.0.0.1:1/\r\n\r\nhi");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        String::from_utf8(request).unwrap()
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn the_status_of_an_answer_is_judged() {
        let prober = Prober::new(loopback());
        let (listener, address) = listener().await;
        let check = http(format!("http://{address}/health?deep=1"));
        for (status, expected) in [
            ("204 No Content", Outcome::Pass),
            ("429 Too Many Requests", Outcome::Warn("HTTP 429 Too Many Requests".to_owned())),
            ("500 Internal Server Error", Outcome::Fail("HTTP 500 Internal Server Error".to_owned())),
        ] {
            let served = async { answer(listener.accept().await.unwrap().0, status).await };
            let (outcome, request) = tokio::join!(prober.probe(&check), served);
            assert_eq!(outcome, expected);
            let request = request.to_ascii_lowercase();
            assert!(
                request.starts_with("get /health?deep=1 http/1.1") && request.contains(&format!("host: {address}"))
            );
        }
        let served = async { answer(listener.accept().await.unwrap().0, "302 Found").await };
        let (outcome, _) = tokio::join!(prober.probe(&check), served);
        assert!(matches!(outcome, Outcome::Fail(text) if text.contains("redirects")));
    }

    #[tokio::test]
    async fn nobody_who_does_not_answer_holds_a_check_up() {
        let prober = Prober::new(loopback());
        let (_listener, address) = listener().await;
        let check = Check { timeout_ms: 100, ..http(format!("http://{address}/")) };
        assert!(matches!(prober.probe(&check).await, Outcome::Fail(text) if text.contains("within 100 ms")));
        let nowhere = Check { tcp: Some("127.0.0.1:1".to_owned()), timeout_ms: 5_000, ..Check::default() };
        assert!(matches!(prober.probe(&nowhere).await, Outcome::Fail(text) if text.contains("127.0.0.1:1")));
    }

    #[tokio::test]
    async fn a_certificate_is_checked_by_name_and_root() {
        let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
        let certificate = signed.cert.der().clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (listener, address) = listener().await;
        let serve = async || {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                answer(stream, "200 OK").await;
            }
        };
        let trusting = |roots: RootCertStore| {
            let prober = Prober::new(loopback());
            assert!(prober.tls.set(Arc::new(client_config(roots).unwrap())).is_ok());
            prober
        };
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let by_name = http(format!("https://localhost:{}/", address.port()));
        let prober = trusting(roots);
        assert_eq!(tokio::join!(prober.probe(&by_name), serve()).0, Outcome::Pass);
        let by_address = http(format!("https://{address}/"));
        let outcome = tokio::join!(prober.probe(&by_address), serve()).0;
        assert!(matches!(&outcome, Outcome::Fail(text) if text.starts_with("TLS")), "{outcome:?}");
        let stranger = trusting(RootCertStore::empty());
        let outcome = tokio::join!(stranger.probe(&by_name), serve()).0;
        assert!(matches!(&outcome, Outcome::Fail(text) if text.starts_with("TLS")), "{outcome:?}");
    }
}
