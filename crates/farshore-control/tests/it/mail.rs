//! Alerts by mail, against servers on real sockets: one of this test's own, and aiosmtpd in a process of its own where `FARSHORE_TEST_PYTHON`
//! names a Python that has it (`.ci/run` makes one). Their certificates are of an authority of the test's own.

use std::io::{BufRead as _, BufReader as StdReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farshore_trust::authority::{Authority, Issuer, NewAuthority};
use farshore_trust::certificate::chain_to_pem;
use farshore_trust::identity::TrustDomain;
use farshore_trust::tls::{ServerCertificate, api_server_config};
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::alerts::{any, deliveries, only};
use crate::harness::{Fleet, each_engine_with, eventually};
use crate::incidents::sick;
use crate::wire::now;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a mail server got.
#[derive(Clone, Debug, Default)]
struct Mail {
    from: String,
    to: Vec<String>,
    data: String,
    /// The password that was given, in the words of AUTH PLAIN.
    secret: Option<String>,
    tls: bool,
}

/// When a mail server begins TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begins {
    AtOnce,
    WhenAsked,
}

/// A small mail server: the commands of RFC 5321, 3207 and 4954 that a client needs, on a real socket.
struct Server {
    port: u16,
    mails: Arc<Mutex<Vec<Mail>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Talk {
    put_off: bool,
    starttls: bool,
    tls: bool,
    mails: Arc<Mutex<Vec<Mail>>>,
}

impl Server {
    /// In the clear. The first `refuse` mails are put off (451).
    async fn plain(refuse: usize) -> Self {
        Self::start(refuse, None).await
    }

    async fn tls(begins: Begins, certificate: &Certificate) -> Self {
        Self::start(0, Some((begins, certificate.acceptor.clone()))).await
    }

    async fn start(refuse: usize, tls: Option<(Begins, TlsAcceptor)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mails = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&mails);
        let task = tokio::spawn(async move {
            let mut refused = 0;
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let put_off = refused < refuse;
                refused += 1;
                // A client that hangs up in the middle ends only its own talk.
                _ = serve(stream, put_off, tls.as_ref(), &all).await;
            }
        });
        Self { port, mails, task }
    }

    fn mails(&self) -> Vec<Mail> {
        self.mails.lock().unwrap().clone()
    }
}

async fn serve(
    stream: TcpStream,
    put_off: bool,
    tls: Option<&(Begins, TlsAcceptor)>,
    mails: &Arc<Mutex<Vec<Mail>>>,
) -> std::io::Result<()> {
    let talk = |tls: bool, starttls: bool| Talk { put_off, starttls, tls, mails: Arc::clone(mails) };
    match tls {
        None => talk(false, false).hold(&mut BufReader::new(stream), true).await.map(drop),
        Some((Begins::AtOnce, acceptor)) => {
            let mut stream = BufReader::new(acceptor.accept(stream).await?);
            talk(true, false).hold(&mut stream, true).await.map(drop)
        }
        Some((Begins::WhenAsked, acceptor)) => {
            let mut stream = BufReader::new(stream);
            if !talk(false, true).hold(&mut stream, true).await? {
                return Ok(());
            }
            let mut stream = BufReader::new(acceptor.accept(stream.into_inner()).await?);
            talk(true, false).hold(&mut stream, false).await.map(drop)
        }
    }
}

impl Talk {
    /// Holds it to its end, or until the client wants TLS: then it says yes.
    async fn hold<S>(&self, stream: &mut BufReader<S>, greet: bool) -> std::io::Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut mail = Mail { tls: self.tls, ..Mail::default() };
        if greet {
            answer(stream, "220 mail.test ESMTP").await?;
        }
        loop {
            let Some(line) = line(stream).await? else { return Ok(false) };
            let upper = line.to_ascii_uppercase();
            if upper.starts_with("EHLO") {
                let more = if self.starttls { "250-STARTTLS\r\n" } else { "250-AUTH PLAIN\r\n" };
                answer(stream, &format!("250-mail.test\r\n250-8BITMIME\r\n{more}250 SIZE 1000000")).await?;
            } else if upper.starts_with("STARTTLS") && self.starttls {
                answer(stream, "220 go on").await?;
                return Ok(true);
            } else if let Some(secret) = line.strip_prefix("AUTH PLAIN ") {
                mail.secret = Some(secret.trim().to_owned());
                answer(stream, "235 welcome").await?;
            } else if let Some(from) = upper.strip_prefix("MAIL FROM:") {
                mail.from = from.trim().to_owned();
                answer(stream, if self.put_off { "451 try again later" } else { "250 ok" }).await?;
            } else if let Some(to) = upper.strip_prefix("RCPT TO:") {
                mail.to.push(to.trim().to_owned());
                answer(stream, "250 ok").await?;
            } else if upper.starts_with("DATA") {
                answer(stream, "354 go on").await?;
                while let Some(text) = self::line(stream).await?
                    && text != ".\r\n"
                {
                    mail.data.push_str(text.strip_prefix('.').unwrap_or(&text));
                }
                self.mails.lock().unwrap().push(mail.clone());
                answer(stream, "250 queued").await?;
            } else if upper.starts_with("QUIT") {
                answer(stream, "221 bye").await?;
                return Ok(false);
            } else {
                answer(
                    stream,
                    if upper.starts_with("RSET") || upper.starts_with("NOOP") {
                        "250 ok"
                    } else {
                        "500 what"
                    },
                )
                .await?;
            }
        }
    }
}

async fn line(from: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    Ok((from.read_line(&mut line).await? > 0).then_some(line))
}

async fn answer(to: &mut (impl AsyncWrite + Unpin), text: &str) -> std::io::Result<()> {
    to.write_all(format!("{text}\r\n").as_bytes()).await?;
    to.flush().await
}

/// A mail server's certificate, and the authority that signed it.
struct Certificate {
    ca: String,
    chain: String,
    key: String,
    acceptor: TlsAcceptor,
}

impl Certificate {
    /// For a name, of an authority that nobody knows.
    fn new(name: &str) -> Self {
        let domain = TrustDomain::new("mail.test").unwrap();
        let NewAuthority { root_cert, intermediate_cert, intermediate_key, .. } =
            Authority::generate(&domain, now()).unwrap();
        let ca = chain_to_pem([&root_cert]);
        let issuer = Issuer::new(domain, root_cert, intermediate_cert, intermediate_key).unwrap();
        let issued = issuer.issue_server(&[name.to_owned()], now(), DAY).unwrap();
        let (chain, key) = (chain_to_pem(&issued.certificate.chain), issued.key.to_pem().to_string());
        let server = ServerCertificate::new(issued.certificate.chain, &issued.key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(api_server_config(server).unwrap()));
        Self { ca, chain, key, acceptor }
    }
}

fn route(name: &str, email: Value) -> Value {
    let mut target = json!({"to": ["ops@example.com"], "from": "farshore@example.com"});
    target.as_object_mut().unwrap().extend(email.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": {"type": "email", "groupWaitSeconds": 0, "email": target}})
}

async fn create(fleet: &Fleet, name: &str, email: Value) {
    fleet.admin.post("/api/alert-routes", route(name, email)).await.expect(201);
}

/// What the server says of a message that it could not deliver yet.
async fn trouble(fleet: &Fleet, name: &str) -> String {
    eventually(&format!("a failed attempt of {name}"), async || {
        let waiting = deliveries(fleet, "queued").await;
        let one =
            waiting.iter().find(|one| one["routeName"] == name && one["attempts"].as_i64() > Some(0))?;
        Some(one["lastError"].as_str().unwrap().to_owned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_reaches_its_server_after_it_was_put_off_once() {
    each_engine_with(any, async |fleet| {
        let server = Server::plain(1).await;
        only(fleet, "crash-loop").await;
        let to = ["Ops <ops@example.com>", "boss@example.com"];
        create(fleet, "mail", json!({"to": to, "host": "127.0.0.1", "port": server.port, "tls": "none"}))
            .await;
        let (_device, _channel, _) = sick(fleet, "kiosk").await;
        let mail = eventually("a mail", async || server.mails().first().cloned()).await;
        assert_eq!(mail.from.split(' ').next(), Some("<FARSHORE@EXAMPLE.COM>"));
        assert_eq!(mail.to, ["<OPS@EXAMPLE.COM>", "<BOSS@EXAMPLE.COM>"]);
        assert!(mail.data.contains("Subject: [firing] crash-loop"), "{}", mail.data);
        assert!(mail.data.contains("FIRING (critical)") && mail.data.contains("/alerts"), "{}", mail.data);
        let done = eventually("delivered", async || deliveries(fleet, "delivered").await.pop()).await;
        assert_eq!(done["attempts"], 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_goes_over_tls_to_a_server_whose_authority_the_route_names_and_to_no_other() {
    each_engine_with(any, async |fleet| {
        let (ours, theirs) = (Certificate::new("localhost"), Certificate::new("localhost"));
        let at_once = Server::tls(Begins::AtOnce, &ours).await;
        let asked = Server::tls(Begins::WhenAsked, &ours).await;
        let plain = Server::plain(0).await;
        only(fleet, "crash-loop").await;
        let email = |server: &Server, tls: &str, more: Value| {
            let mut email = json!({"host": "localhost", "port": server.port, "tls": tls, "username": "farshore", "password": "hunter2"});
            email.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            email
        };
        create(fleet, "good-tls", email(&at_once, "tls", json!({"ca": ours.ca}))).await;
        create(fleet, "good-starttls", email(&asked, "starttls", json!({"ca": ours.ca}))).await;
        // A bundle: any one of them will do.
        create(fleet, "good-bundle", email(&at_once, "tls", json!({"ca": format!("{}{}", theirs.ca, ours.ca)}))).await;
        let (_device, _channel, _) = sick(fleet, "kiosk").await;
        eventually("three mails", async || (deliveries(fleet, "delivered").await.len() == 3).then_some(())).await;
        for mail in at_once.mails().iter().chain(&asked.mails()) {
            assert!(mail.tls && mail.secret.is_some() && mail.data.contains("crash-loop"), "{mail:?}");
        }
        assert_eq!((at_once.mails().len(), asked.mails().len()), (2, 1));

        for (name, email, expected) in [
            ("wrong-ca-tls", email(&at_once, "tls", json!({"ca": theirs.ca})), "is of no authority in this route's ca"),
            ("wrong-ca-starttls", email(&asked, "starttls", json!({"ca": theirs.ca})), "is of no authority in this route's ca"),
            ("no-ca", email(&asked, "starttls", json!({})), "is of an authority that this machine does not know: give it as the route's ca"),
            ("wrong-name", email(&at_once, "tls", json!({"ca": ours.ca, "host": "127.0.0.1"})), "is not for 127.0.0.1"),
            ("not-asked", email(&asked, "tls", json!({"ca": ours.ca})), "does not speak TLS from the first byte on: is it starttls?"),
            ("not-offered", email(&plain, "starttls", json!({"ca": ours.ca})), "does not offer STARTTLS"),
        ] {
            create(fleet, name, email).await;
            let (_device, _channel, _) = sick(fleet, &format!("till-{name}")).await;
            let why = trouble(fleet, name).await;
            assert!(why.contains(expected), "{name}: {why}");
            fleet.admin.delete(&format!("/api/alert-routes/{name}")).await.expect(204);
        }
        assert_eq!(plain.mails().len(), 0, "no mail and no password in the clear");
        assert!(at_once.mails().iter().chain(&asked.mails()).all(|mail| mail.tls));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_authority_is_refused_and_another_one_wants_the_password_again() {
    each_engine_with(any, async |fleet| {
        let certificate = Certificate::new("localhost");
        let email = |more: Value| {
            let mut email = json!({"host": "localhost", "port": 465, "tls": "tls", "username": "u", "password": "hunter2"});
            email.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            email
        };
        for (more, says) in [
            (json!({"ca": "mail.example.com"}), "BEGIN CERTIFICATE"),
            (json!({"ca": ""}), "BEGIN CERTIFICATE"),
            (json!({"ca": certificate.key}), "private key"),
            (json!({"ca": format!("{}{}", certificate.ca, certificate.key)}), "private key"),
            (json!({"ca": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}), "can't be used"),
            (json!({"ca": certificate.ca.repeat(11)}), "at most 10"),
            (json!({"ca": " ".repeat(70_000)}), "65536"),
            (json!({"ca": certificate.ca, "tls": "none", "username": null, "password": null}), "tls or starttls"),
        ] {
            let problem = fleet.admin.post("/api/alert-routes", route("mail", email(more.clone()))).await.problem(400, "invalid");
            assert_eq!(problem.errors[0].field, "spec.email.ca", "{problem:?}");
            assert!(problem.errors[0].message.contains(says), "{problem:?}");
        }
        create(fleet, "mail", email(json!({"ca": certificate.ca}))).await;
        let shown: Value = fleet.admin.get("/api/alert-routes/mail").await.expect(200).json();
        assert_eq!(shown["spec"]["email"]["ca"], json!(certificate.ca), "it is no secret");
        // The same again keeps the password; who names another authority could be another server.
        let silent = |ca: &str| route("mail", email(json!({"ca": ca, "password": null})));
        fleet.admin.put("/api/alert-routes/mail", silent(&certificate.ca)).await.expect(200);
        let other = silent(&Certificate::new("localhost").ca);
        let problem = fleet.admin.put("/api/alert-routes/mail", other).await.problem(400, "invalid");
        assert_eq!(problem.errors[0].field, "spec.email.password");
    })
    .await;
}

/// aiosmtpd, and the lines that it prints: its port, then each mail as JSON.
struct Process {
    child: Child,
    port: u16,
    mails: Arc<Mutex<Vec<Value>>>,
}

const AIOSMTPD: &str = r#"
import asyncio, json, ssl, sys
from aiosmtpd.smtp import SMTP, AuthResult
at_once = sys.argv[3] == "tls"
class Handler:
    async def handle_DATA(self, server, session, envelope):
        mail = {"data": envelope.content.decode(), "tls": at_once or session.ssl is not None, "who": session.auth_data}
        print(json.dumps(mail), flush=True)
        return "250 ok"
def auth(server, session, envelope, mechanism, data):
    good = (data.login, data.password) == (b"farshore", b"hunter2")
    return AuthResult(success=good, auth_data=data.login.decode()) if good else AuthResult(success=False, handled=False)
async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    more = {"auth_require_tls": False} if at_once else {"tls_context": context, "require_starttls": True}
    smtp = lambda: SMTP(Handler(), hostname="localhost", authenticator=auth, auth_required=True, **more)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(smtp, "127.0.0.1", 0, ssl=context if at_once else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"#;

impl Process {
    fn start(python: &Path, folder: &Path, tls: &str) -> Self {
        let mut child = Command::new(python)
            .args(["-c", AIOSMTPD])
            .args([folder.join("chain.pem"), folder.join("key.pem")])
            .arg(tls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = StdReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next().unwrap().unwrap().parse().unwrap();
        let mails = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&mails);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                all.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, port, mails }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aiosmtpd_takes_mail_over_both_kinds_of_tls() {
    let Some(python) = std::env::var_os("FARSHORE_TEST_PYTHON") else {
        eprintln!("FARSHORE_TEST_PYTHON is not set: aiosmtpd is not tried");
        return;
    };
    let python = Path::new(&python);
    each_engine_with(any, async |fleet| {
        let folder = tempfile::tempdir().unwrap();
        let ours = Certificate::new("localhost");
        std::fs::write(folder.path().join("chain.pem"), &ours.chain).unwrap();
        std::fs::write(folder.path().join("key.pem"), &ours.key).unwrap();
        only(fleet, "crash-loop").await;
        let servers = ["tls", "starttls"].map(|tls| (tls, Process::start(python, folder.path(), tls)));
        for (tls, server) in &servers {
            let email = json!({"host": "localhost", "port": server.port, "tls": tls, "ca": ours.ca, "username": "farshore", "password": "hunter2"});
            create(fleet, tls, email).await;
            let strange = json!({"host": "localhost", "port": server.port, "tls": tls, "ca": Certificate::new("localhost").ca});
            create(fleet, &format!("wrong-{tls}"), strange).await;
        }
        let (_device, _channel, _) = sick(fleet, "kiosk").await;
        eventually("both mails", async || (deliveries(fleet, "delivered").await.len() == 2).then_some(())).await;
        for (tls, server) in &servers {
            let why = trouble(fleet, &format!("wrong-{tls}")).await;
            assert!(why.contains("is of no authority in this route's ca"), "{why}");
            let mail = eventually("the mail", async || server.mails.lock().unwrap().first().cloned()).await;
            assert_eq!((&mail["tls"], &mail["who"]), (&json!(true), &json!("farshore")));
            assert!(mail["data"].as_str().unwrap().contains("[firing] crash-loop"), "{mail}");
            assert_eq!(server.mails.lock().unwrap().len(), 1);
        }
    })
    .await;
}
