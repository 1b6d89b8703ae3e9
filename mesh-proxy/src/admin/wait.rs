//! `mesh-proxy wait`: holds the application until its sidecar is ready. In: an address. Out: the end, or why there is none.
//!
//! The postStart hook of a sidecar runs it: the kubelet starts no further container before it has ended.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::bail;

/// Where the sidecar of this pod tells whether it is ready.
pub const STATUS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15021);
/// Between two questions.
const PERIOD: Duration = Duration::from_millis(20);
/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits until the proxy at `status` is ready.
///
/// # Errors
/// When it isn't after `limit`: what it said last.
pub fn until_ready(status: SocketAddr, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let why = match ask(status) {
            Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => return Ok(()),
            Ok(answer) => answer.lines().last().unwrap_or("no answer").trim().to_owned(),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            bail!("the sidecar at {status} is not ready after {} s: {why}", limit.as_secs());
        }
        // The only thread of this process, which does nothing else.
        std::thread::park_timeout(PERIOD);
    }
}

fn ask(status: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&status, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /healthz/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn waits_for_the_200_and_says_what_was_missing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for answer in
                ["503 x\r\n\r\nnot ready: no certificate", "503 x\r\n\r\nnot ready", "200 OK\r\n\r\nready"]
            {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 1024];
                assert!(stream.read(&mut head).unwrap() > 0);
                writeln!(stream, "HTTP/1.1 {answer}").unwrap();
            }
        });
        let error = until_ready(at, Duration::ZERO).unwrap_err().to_string();
        assert!(error.ends_with("not ready after 0 s: not ready: no certificate"), "{error}");
        until_ready(at, Duration::from_secs(60)).unwrap();
        server.join().unwrap();
        assert!(until_ready(at, Duration::ZERO).unwrap_err().to_string().contains("refused"));
    }
}
